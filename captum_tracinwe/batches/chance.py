"""What is drawn at random in a check leaves no trace: the generators of torch, Python and NumPy are after it as before."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch

__all__ = ["chance_as_before"]


@contextmanager
def chance_as_before() -> Iterator[None]:
    """The state of all three generators is after the block what it was before."""
    of_python, of_numpy = random.getstate(), numpy.random.get_state()  # noqa: NPY002  (the one that collators draw from)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(of_python)
        numpy.random.set_state(of_numpy)  # noqa: NPY002
