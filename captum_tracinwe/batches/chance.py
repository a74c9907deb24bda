"""What is drawn at random in a check leaves no trace: the generators of torch, Python and NumPy are after it as before."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch

__all__ = ["chance_as_before"]


# A process has one of each: who puts it back would take the numbers from another thread that has just seeded it. Taken within an
# ask of a model, never around one, or two threads would wait for each other.
_turn = threading.RLock()


@contextmanager
def chance_as_before() -> Iterator[None]:
    """The state of all three generators is after the block what it was before; threads take turns."""
    with _turn:
        yield from _put_back()


def _put_back() -> Iterator[None]:
    of_python, of_numpy = random.getstate(), numpy.random.get_state()  # noqa: NPY002  (the one that collators draw from)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(of_python)
        numpy.random.set_state(of_numpy)  # noqa: NPY002


def _only_this_thread() -> None:
    """After a fork there is nobody left to give way."""
    global _turn
    _turn = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_only_this_thread)
