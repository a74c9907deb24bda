"""What is asked about → batches: a batch, a DataLoader, a data set, a list of examples, or columns as `datasets` slices them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from captum_tracinwe.batches.batch import Batch, check_batch, tensors_in
from captum_tracinwe.batches.data_sets import of_columns, one_split
from captum_tracinwe.batches.loaders import in_order, refuse_shuffling
from captum_tracinwe.batches.orders import say_order
from captum_tracinwe.batches.packed import a_row_for_each, unpacked

__all__ = ["GivenBatches", "as_batches"]


class GivenBatches(Dataset[Batch]):
    """Batches that are there."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        return self.batches[index]


def as_batches(
    inputs: Any, what: str, collate: Callable[[list[Any]], Any] | None = None, batch_size: int = 1
) -> DataLoader[Any]:
    """A DataLoader of batches.

    Args:
        inputs: one batch or a DataLoader; with ``collate`` also a data set, a `pandas.DataFrame`, a list of examples (mappings,
            texts, tuples that begin with a text or with the ids of one), or a mapping of columns (``dataset[:3]``).
        what (str): names the argument in errors.
        collate (callable, optional): makes a batch of a list of examples.
        batch_size (int): examples to a batch.

    Raises:
        ValueError: there is nothing in it; a DataLoader that shuffles; several data sets.
        TypeError: it is a single example, or nothing of the kind.
    """
    if isinstance(inputs, DataLoader):
        refuse_shuffling(inputs, what)
        say_order(inputs, what)
        return a_row_for_each(inputs, what)
    if isinstance(inputs, IterableDataset) and collate is not None:
        return a_row_for_each(in_order(inputs, batch_size, collate), what)
    inputs = one_split(inputs, what)
    is_sized = isinstance(inputs, (Sized, Tensor)) and not isinstance(inputs, (str, bytes, type))
    if is_sized and not len(inputs):
        raise ValueError(f"`{what}` is empty: expected at least one example.")
    examples = None if collate is None else _examples(inputs, what)
    if examples is not None:
        return a_row_for_each(in_order(examples, batch_size, collate), what)  # type: ignore[arg-type]
    check_batch(inputs)
    return in_order(GivenBatches(unpacked(inputs)), None)


def _examples(inputs: Any, what: str) -> Sequence[Any] | None:
    """Single examples, where ``inputs`` hold such; None: a batch."""
    if isinstance(inputs, (list, tuple)):
        kinds: tuple[Callable[[Any], bool], ...] = (
            (_is_text, _is_labelled, _is_object) if isinstance(inputs, list) else ()
        )
        told = any(all(map(kind, inputs)) for kind in kinds)
        return list(inputs) if told or all(isinstance(item, Mapping) for item in inputs) else None
    if isinstance(inputs, Mapping):
        return None if any(True for _ in tensors_in(dict(inputs))) else of_columns(inputs, what)
    is_batch = isinstance(inputs, (str, bytes, Tensor, np.ndarray, type))
    return inputs if not is_batch and hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__") else None


def _is_text(item: Any) -> bool:
    """A text, or a tuple that begins with a text or a pair of texts."""
    return isinstance(item, str) or (isinstance(item, tuple) and bool(item) and _is_text(item[0]))


def _is_labelled(item: Any) -> bool:
    """A tuple (ids, ..., label) whose ids are those of one text; or (label, ids), where the first is a single number."""
    if not isinstance(item, tuple) or len(item) < 2:
        return False
    return _is_row(item[0]) or (_is_number(item[0]) and any(map(_is_row, item[1:])))


def _is_row(ids: Any) -> bool:
    """Whole numbers of one text."""
    if isinstance(ids, (Tensor, np.ndarray)):
        return ids.ndim == 1
    return (
        isinstance(ids, Iterable) and not isinstance(ids, (str, Mapping)) and all(isinstance(one, int) for one in ids)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, (Tensor, np.ndarray, np.generic)) and value.ndim == 0)


def _is_object(item: Any) -> bool:
    """An example of a class of one's own, which no batch is made of."""
    plain = (Tensor, np.ndarray, np.generic, Mapping, str, bytes, int, float, list, tuple, type)
    return item is not None and not isinstance(item, plain)
