"""What every neighbour demands of its arguments: told in the names that the user typed, with the way out."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

from captum_tracinwe.batches.arguments import is_list, is_plain, is_whole
from captum_tracinwe.tracin_we import TracInWE

__all__ = [
    "as_list",
    "check_inputs",
    "check_level",
    "check_progress",
    "check_seed",
    "check_tracin",
    "check_wholes",
    "is_missing",
]

# Seeds that torch's generators take, with room for those that follow one.
MOST_SEED = (1 << 63) - 1


def check_tracin(tracin: Any, whose: str) -> None:
    """Refuse what is no TracInWE."""
    if not isinstance(tracin, TracInWE):
        raise TypeError(f"{whose}: expected a TracInWE first, got {type(tracin).__name__}.")


def check_inputs(inputs: Any, whose: str, name: str = "inputs", what: str = "test examples") -> None:
    """Refuse None in place of questions, which elsewhere stands for the training set, and what has nothing in it."""
    if inputs is None:
        raise TypeError(f"{whose}: `{name}` is None: expected {what}, a batch or a DataLoader.")
    if _is_empty(inputs):
        raise ValueError(f"{whose}: `{name}` is empty: expected at least one test example.")


def _is_empty(inputs: Any) -> bool:
    columns = list(inputs.values()) if isinstance(inputs, Mapping) else []
    try:
        return len(inputs) == 0 or (bool(columns) and all(len(column) == 0 for column in columns))
    except TypeError:  # a stream, a number
        return False


def check_wholes(whose: str, **numbers: Any) -> None:
    """Refuse what is no whole number of at least 1."""
    for name, value in numbers.items():
        if not is_whole(value) or value < 1:
            raise ValueError(f"{whose}: expected `{name}` as a whole number of at least 1, got {value!r:.60}.")


def check_seed(seed: Any, whose: str) -> None:
    """Refuse what torch's generators do not take."""
    if not is_whole(seed) or not 0 <= seed <= MOST_SEED:
        raise ValueError(f"{whose}: expected `seed` as a whole number of at least 0 and below 2**63, got {seed!r:.60}.")


def check_level(level: Any, whose: str) -> None:
    """Refuse what is no probability that a p-value may have at most."""
    given: Any = level
    if isinstance(given, bool) or not isinstance(given, Real) or not 0 < float(given) < 1:
        raise ValueError(f"{whose}: expected `level` between 0 and 1, got {level!r:.60}.")


def check_progress(show_progress: Any, whose: str) -> None:
    """Refuse what says neither yes nor no, nor leaves it open."""
    if show_progress is not None and not isinstance(show_progress, bool):
        raise TypeError(f"{whose}: expected `show_progress` as True, False or None, got {show_progress!r:.60}.")


def as_list(given: Any) -> list[Any] | None:
    """The elements of a list, an array, a column or a tensor; None of a text, a mapping, or a sparse or complex tensor."""
    odd = isinstance(given, (str, bytes, Mapping)) or (isinstance(given, Tensor) and not is_plain(given))
    if odd or not is_list(given):
        return None
    return list(given.tolist() if hasattr(given, "tolist") else given)


def is_missing(value: Any) -> bool:
    """Whether it is None, or what pandas has in its place: NaN, NaT, and NA, whose comparisons have no truth value."""
    if value is None or type(value).__name__ == "NAType":
        return True
    unequal = value != value
    return isinstance(unequal, (bool, np.bool_)) and bool(unequal)  # an array's is an array
