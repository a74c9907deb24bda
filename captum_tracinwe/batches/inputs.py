"""What is asked about → batches: a batch, a DataLoader, a data set, a list of examples, or columns as `datasets` slices them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from captum_tracinwe.batches.batch import Batch, check_batch, tensors_in
from captum_tracinwe.batches.loaders import in_order, refuse_shuffling
from captum_tracinwe.batches.packed import a_row_for_each, unpacked

__all__ = ["as_batches"]


class _Batches(Dataset[Batch]):
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
        inputs: one batch or a DataLoader; with ``collate`` also a data set, a list of examples (mappings, texts, tuples that
            begin with a text), or a mapping of columns (``dataset[:3]``).
        what (str): names the argument in errors.
        collate (callable, optional): makes a batch of a list of examples.
        batch_size (int): examples to a batch.

    Raises:
        ValueError: there is nothing in it; a DataLoader that shuffles.
        TypeError: it is a single example, or nothing of the kind.
    """
    if isinstance(inputs, DataLoader):
        refuse_shuffling(inputs, what)
        return a_row_for_each(inputs, what)
    if isinstance(inputs, (Sized, Tensor)) and not isinstance(inputs, (str, bytes)) and not len(inputs):
        raise ValueError(f"`{what}` is empty: expected at least one example.")
    examples = None if collate is None else _examples(inputs, what)
    if examples is not None:
        return a_row_for_each(in_order(examples, batch_size, collate), what)  # type: ignore[arg-type]
    check_batch(inputs)
    return in_order(_Batches(unpacked(inputs)), None)


def _examples(inputs: Any, what: str) -> Sequence[Any] | None:
    """Single examples, where ``inputs`` hold such; None: a batch."""
    if isinstance(inputs, (list, tuple)):
        texts = isinstance(inputs, list) and all(_is_text(item) for item in inputs)
        return list(inputs) if texts or all(isinstance(item, Mapping) for item in inputs) else None
    if isinstance(inputs, Mapping):
        return None if any(True for _ in tensors_in(dict(inputs))) else _of_columns(inputs, what)
    is_batch = isinstance(inputs, (str, bytes, Tensor))
    return inputs if not is_batch and hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__") else None


def _is_text(item: Any) -> bool:
    """A text, or a tuple that begins with a text or a pair of texts."""
    return isinstance(item, str) or (isinstance(item, tuple) and bool(item) and _is_text(item[0]))


def _of_columns(columns: Mapping[str, Any], what: str) -> list[dict[str, Any]]:
    """The examples of a mapping of lists, one item for each example."""
    lengths = {name: len(column) for name, column in columns.items() if _is_list(column)}
    ids = columns.get("input_ids")
    if len(lengths) < len(columns) or (lengths.get("input_ids") and not _is_list(ids[0])):  # type: ignore[index]
        raise TypeError(
            f"`{what}` is a mapping without tensors, whose columns ({', '.join(map(repr, columns))}) are not lists with one item "
            f"for each example: expected a batch for model(**batch), or several examples. For a single example pass [example]."
        )
    if not any(lengths.values()):
        raise ValueError(f"`{what}` is empty: expected at least one example, got columns without any.")
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"`{what}` is a mapping of columns of different lengths: expected as many items in each as there are examples, got "
            f"{', '.join(f'{length} in {name!r}' for name, length in lengths.items())}."
        )
    return [dict(zip(columns, items, strict=True)) for items in zip(*columns.values(), strict=True)]


def _is_list(value: Any) -> bool:
    return hasattr(value, "__len__") and hasattr(value, "__getitem__") and not isinstance(value, (str, bytes, Mapping))
