"""A look at the user's data or sampler that may draw random numbers: afterwards the generators are where they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["generators_kept"]


@contextmanager
def generators_kept() -> Iterator[None]:
    """Python's, NumPy's and torch's go on after the block as if nothing had been drawn within it."""
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - what augmentation draws from
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)  # noqa: NPY002
