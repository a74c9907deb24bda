"""What all tests share: one seed, and one thread: for tiny tensors a second one only waits for the first."""

import os
from importlib.util import find_spec

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: also of the processes that tests start

import pytest
import torch
from cases import CASES

# Captum 0.8 does not ship the helpers of its tests.
collect_ignore = [] if find_spec("captum.testing") else ["test_captum_suite.py"]


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
