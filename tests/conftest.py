"""What all tests share: one seed, no network, and one thread: for tiny tensors a second one only waits for the first."""

import importlib
import os
import sys
from importlib.util import find_spec

# Before torch and transformers, and for the processes that tests start: one thread; and no hub, for which PEFT asks and waits
# for minutes where there is no network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from browser import Browser
from cases import CASES

# Captum 0.8 does not ship the helpers of its tests.
collect_ignore = [] if find_spec("captum.testing") else ["test_captum_suite.py"]


@pytest.fixture(autouse=True, scope="session")
def _cache_of_its_own(tmp_path_factory):
    """No test writes into the user's cache folder; nor do the processes that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPTUM_TRACINWE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _same_numbers_each_time():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(1)


@pytest.fixture(params=CASES)
def case(request):
    """A model with texts to explain, one after the other."""
    return CASES[request.param]()


@pytest.fixture
def script(monkeypatch, request):
    """Imports a script by its name from the test module's ``FOLDER``; it is forgotten again, for others have the same names."""
    folder = str(request.module.FOLDER)
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if folder in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """A browser with one tab, for the tests of a file."""
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def ray():
    """Ray, started once for all tests of a process."""
    pytest.importorskip("ray", reason="Ray is not installed (extra: ray)")
    from ray_cases import ENVIRONMENT, ray_started

    with pytest.MonkeyPatch.context() as patch:
        for name in ("PYTHONPATH", *ENVIRONMENT):
            patch.setenv(
                name, os.environ.get(name, ENVIRONMENT.get(name, ""))
            )  # what is set for Ray's processes goes with them
        with ray_started() as started:
            yield started


@pytest.fixture
def inline(monkeypatch):
    """In place of Ray: calls are made within this process."""
    from ray_cases import Inline

    from captum_tracinwe.index.cluster import building, searching

    fake = Inline()
    for module in (building, searching):
        monkeypatch.setattr(module, "engine", lambda asked: fake)
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake
