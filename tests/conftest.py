"""What all tests share: one seed, and one thread: for tiny tensors a second one only waits for the first."""

import pytest
import torch
from cases import CASES


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
