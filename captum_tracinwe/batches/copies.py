"""Examples handed to a collator as copies: what it takes out of them, or writes into them, is not the user's data."""

from __future__ import annotations

import copy
from collections.abc import Callable, MutableMapping
from typing import Any

import numpy as np
from torch import Tensor

from captum_tracinwe.batches.two_labels import say_which

__all__ = ["OnCopies", "copied", "on_copies"]

# Nothing can be written into these, and a text is a list of hundreds of them.
FIXED = {int, float, bool, str, bytes, type(None)}


def copied(value: Any) -> Any:
    """A copy of an example, of its lists, mappings, arrays and tensors; of any other object its attributes are copied.

    `copy.deepcopy` takes ten times as long for lists of numbers, and copies the tokenizer that an example points to.
    """
    if type(value) in FIXED:
        return value
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) is dict:
        return {key: copied(item) for key, item in value.items()}
    if type(value) is list:
        return value[:] if FIXED.issuperset(map(type, value)) else [copied(item) for item in value]
    if isinstance(value, tuple):
        items = [copied(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return _of_object(value)


def _of_object(value: Any) -> Any:
    """Of an object of any class; one that cannot be copied is handed over itself."""
    try:
        found = copy.copy(value)
        if isinstance(value, MutableMapping):
            for key in list(found):
                found[key] = copied(value[key])
        elif isinstance(value, list):
            found[:] = [copied(item) for item in value]
        for name, item in getattr(value, "__dict__", {}).items():
            if isinstance(item, (list, dict, Tensor, np.ndarray)):
                found.__dict__[name] = copied(item)
    except Exception:  # a class of the user's may raise anything here
        return value
    return found


class OnCopies:
    """A collator that is handed copies of the examples: pops, appends and additions in place stay within the batch."""

    def __init__(self, collate_fn: Callable[[Any], Any]) -> None:
        self.collate_fn = collate_fn
        self._told = False

    def __call__(self, examples: Any) -> Any:
        """A batch of a list of examples; of a data set of batches it is one of these."""
        batch = self.collate_fn(copied(examples))
        self._told = self._told or say_which(examples, batch)
        return batch


def on_copies(collate_fn: Callable[[list[Any]], Any] | None) -> Callable[[list[Any]], Any] | None:
    """``collate_fn`` on copies, unless it says of itself that it ``leaves_examples`` as they are; None (torch's) does."""
    if collate_fn is None or isinstance(collate_fn, OnCopies) or getattr(collate_fn, "leaves_examples", False):
        return collate_fn
    return OnCopies(collate_fn)
