"""What the documentation promises: its examples run, its pages' code runs, every public name is in the reference."""

import ast
import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import captum_tracinwe

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
needs_pages = pytest.mark.skipif(not (DOCS / "conf.py").is_file(), reason="the checkout's docs/ are not here")
MODULES = [
    module.name
    for module in pkgutil.walk_packages(captum_tracinwe.__path__, "captum_tracinwe.")
    if not module.name.endswith(("__main__", "._native"))
]
# Functions whose result cannot be told in a line or two: they are shown in full on a page of the guide.
PUBLIC = ("captum_tracinwe", "captum_tracinwe.losses", "captum_tracinwe.ops", "captum_tracinwe.visualization")


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert not failed


def test_no_example_is_skipped():
    skipping = [
        name for name in MODULES if "doctest: +" + "SKIP" in Path(importlib.import_module(name).__file__).read_text()
    ]
    assert not skipping


@needs_pages
@pytest.mark.parametrize("page", sorted(DOCS.glob("**/*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_the_code_on_a_page_runs(page, tmp_path, monkeypatch):
    """All ```python blocks of a page, from top to bottom in one namespace; what is not to run is a {code-block}."""
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    if not blocks:
        pytest.skip("no code")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for block in blocks:
        exec(compile(ast.parse(block), str(page), "exec"), names)


@needs_pages
def test_every_module_with_public_names_has_its_place_in_the_reference():
    sys.path.insert(0, str(DOCS))
    try:
        from reference import other_modules
    finally:
        sys.path.remove(str(DOCS))
    text = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    named = set(re.findall(r"automodule:: (\S+)", text)) | {name for name, _ in other_modules(DOCS / "api")}
    named |= {name for entry in re.findall(r"autoclass:: (\S+)|autofunction:: (\S+)", text) for name in entry if name}
    for name in captum_tracinwe.__all__:
        home = getattr(getattr(captum_tracinwe, name), "__module__", "captum_tracinwe")
        assert f"captum_tracinwe.{name}" in named | {"captum_tracinwe.__version__"} or name == "ops", (name, home)
    for name in MODULES:
        if getattr(importlib.import_module(name), "__all__", None):
            assert name in named, f"add `automodule:: {name}` to a page of docs/api"


IMPORT = """
import time, warnings
import torch, captum.influence, captum.attr
warnings.simplefilter("error")
start = time.perf_counter()
import captum_tracinwe
print(time.perf_counter() - start)
"""


def test_importing_is_quick_and_quiet():
    """Under 0.2 s beyond torch and captum, nothing said, nothing heavy brought along."""
    seconds = []
    for _ in range(3):
        run = subprocess.run(
            [sys.executable, "-c", IMPORT],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        assert re.fullmatch(r"[0-9.e-]+\n", run.stdout), run.stdout
        assert run.stderr == ""
        seconds.append(float(run.stdout))
        if seconds[-1] < 0.2:
            return
    pytest.fail(
        f"importing captum_tracinwe took {seconds} s beyond torch and captum: expected less than 0.2 s once in three"
    )
