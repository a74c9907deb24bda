"""What may stand for a data set: data frames and columns are read by rows; splits, single batches, paths are refused by name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

__all__ = ["as_dataset", "of_columns", "one_split"]


SPLITS = ("train", "test", "validation", "valid", "val", "dev")


class _Rows(Dataset[dict[str, Any]]):
    """The rows of a `pandas.DataFrame` by position, as `datasets` has them: a mapping each, None where a value is missing."""

    def __init__(self, frame: Any) -> None:
        self.columns = {str(name): frame.iloc[:, place] for place, name in enumerate(frame.columns)}
        self.size = len(frame)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: _value(column.iloc[index]) for name, column in self.columns.items()}


def _value(value: Any) -> Any:
    missing = value is None or (not isinstance(value, (str, Tensor)) and np.ndim(value) == 0 and value != value)
    return None if missing or type(value).__name__ in ("NAType", "NaTType") else value


def one_split(given: Any, what: str) -> Any:
    """``given``, a `pandas.DataFrame` or Series by rows; other values as they are.

    Raises:
        ValueError: several data sets by name, such as a `DatasetDict`; a frame with two columns of one name.
        TypeError: what can be read only once, in whatever order; what has no dimension.
    """
    if hasattr(given, "iloc") and hasattr(given, "index"):
        if given.ndim == 1:
            return given.tolist()
        names = [str(name) for name in given.columns]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(
                f"`{what}` is a DataFrame with two columns {twice!r}: expected each name once. Rename one."
            )
        return _Rows(given)
    if isinstance(given, Mapping) and given and all(_is_dataset(one, name) for name, one in given.items()):
        first = next(iter(given))
        raise ValueError(
            f"`{what}` of type {type(given).__name__} holds data sets by name ({', '.join(map(repr, given))}): expected one. "
            f"Choose a split, for instance {what}=data[{first!r}]."
        )
    if isinstance(given, (Iterator, set, frozenset)) and not isinstance(given, IterableDataset):
        why = "can be read only once" if isinstance(given, Iterator) else "has no order"
        raise TypeError(
            f"`{what}` of type {type(given).__name__} {why}: expected a data set or a list. Pass list(...)."
        )
    if isinstance(given, (Tensor, np.ndarray)) and not given.ndim:
        raise TypeError(f"`{what}` is a single number ({given!r:.60}): expected examples.")
    return given


def _is_dataset(value: Any, name: Any = "") -> bool:
    """Whether a value of a mapping is a data set rather than a column, which may hold mappings too."""
    of_rows = name in SPLITS and isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)
    frame = hasattr(value, "iloc") and getattr(value, "ndim", 0) == 2
    return of_rows or frame or isinstance(value, (Dataset, DataLoader)) or hasattr(value, "column_names")


def as_dataset(given: Any, collates: bool = False) -> Any:
    """``train_dataset`` as a data set or DataLoader; None stays.

    Args:
        given: what the user has: besides these a `pandas.DataFrame`, or a mapping of columns.
        collates (bool): the user makes batches of its examples, which may then be anything.

    Raises:
        ValueError, TypeError: it is neither, several data sets, or one batch.
    """
    if isinstance(given, DataLoader):
        inner = given.dataset
        if one_split(inner, "train_dataset") is not inner or isinstance(inner, (Mapping, str)):
            raise TypeError(
                f"`train_dataset` is a DataLoader of a {type(inner).__name__}, which torch does not read by rows: expected one "
                f"of a data set. Pass the {type(inner).__name__} itself, with batch_size=..."
            )
        return given
    if given is None or isinstance(given, IterableDataset):
        return given
    given = one_split(given, "train_dataset")
    if isinstance(given, Mapping):
        return of_columns(given, "train_dataset")
    kind = type(given).__name__
    if isinstance(given, (str, bytes, os.PathLike)):
        raise TypeError(
            f"`train_dataset` is the name {os.fspath(given)!r:.80}: expected the examples themselves, a Dataset, a DataLoader or "
            f"a list. Read them first, for instance by datasets.load_dataset."
        )
    if isinstance(given, type) or not (hasattr(given, "__len__") and hasattr(given, "__getitem__")):
        raise TypeError(
            f"`train_dataset` {f'is the class {given.__name__}' if isinstance(given, type) else f'of type {kind}'} has no "
            f"examples by number: expected a Dataset with a length, an IterableDataset, a DataLoader, a list or a DataFrame."
        )
    if collates:
        return given
    bare = (Tensor, np.ndarray)
    if isinstance(given, bare) or (isinstance(given, (tuple, list)) and given and isinstance(given[0], bare)):
        raise TypeError(
            f"`train_dataset` of type {kind} holds bare tensors or arrays, which are no examples with labels: expected a data "
            f"set of (ids, label). Of a batch make one by TensorDataset(torch.as_tensor(ids), torch.as_tensor(labels)); for a "
            f"model without labels pass collate_fn=lambda ids: (torch.stack(ids), None)."
        )
    if isinstance(given, tuple) and all(_is_dataset(one) for one in given):
        raise ValueError(
            "`train_dataset` is a tuple of data sets: expected one. Choose the one that the model was trained on."
        )
    return given


def of_columns(columns: Mapping[str, Any], what: str) -> list[dict[str, Any]]:
    """The examples of a mapping of lists, one item for each example.

    Raises:
        TypeError: a column that is no list, as of a single example.
        ValueError: nothing in them, or not as many items in each.
    """
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
    sized = not isinstance(value, (Tensor, np.ndarray)) or value.ndim > 0
    return (
        sized
        and hasattr(value, "__len__")
        and hasattr(value, "__getitem__")
        and not isinstance(value, (str, bytes, Mapping))
    )
