"""A row for each example: a collator that drops some, or makes several of one, would give every later score to another text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler, Subset

from captum_tracinwe.batches.batch import Batch, rows_of
from captum_tracinwe.batches.chance import chance_as_before
from captum_tracinwe.batches.copies import on_copies

__all__ = ["Chosen", "check_rows", "counted", "reads_in_order", "several"]


class Chosen(Subset[Any]):
    """Some examples of a data set, in an order of ours: an error names them by their index in it."""


def reads_in_order(loader: DataLoader[Any]) -> bool:
    """Whether both samplers are torch's own, one after the other: the example at a place is the data set's at that index."""
    batches = loader.batch_sampler
    sampler = loader.sampler if batches is None else getattr(batches, "sampler", None)
    return type(sampler) is SequentialSampler and (batches is None or type(batches) is BatchSampler)


def counted(batches: Iterable[Batch], loader: Any, what: str) -> Iterator[Batch]:
    """The batches of a loader, each of which is seen to have a row for each example, where it is known how many went in.

    It is not for a stream, for a data set that gives whole batches by number, or for batches that are there.

    Raises:
        ValueError: a batch has other rows than examples.
    """
    asked = _asked(loader)
    if asked is None:
        yield from batches
        return
    for batch, indices in zip(batches, asked, strict=False):
        if rows_of(batch) != len(indices):
            check_rows(*_least(loader, batch, indices), what)
        yield batch


def _least(loader: DataLoader[Any], batch: Batch, indices: Sequence[Any]) -> tuple[Batch, Sequence[Any]]:
    """Of a batch with other rows than examples the one example that has not one row alone, if there is one; else all."""
    held = loader.dataset.dataset if isinstance(loader.dataset, Chosen) else loader.dataset
    collate_fn: Any = on_copies(loader.collate_fn)
    with suppress(Exception):  # the whole batch is told
        for index in indices:
            alone = collate_fn([held[index]])
            if rows_of(alone) != 1:
                return alone, [index]
    return batch, indices


def check_rows(batch: Batch, indices: Sequence[Any], what: str) -> None:
    """Raise ValueError unless a batch of the examples at some indices has as many rows."""
    rows = rows_of(batch)
    if rows != len(indices):
        raise ValueError(several(what, len(indices), rows, indices[0]))


def several(what: str, examples: int, rows: int, first: Any = None) -> str:
    """The message about a batch that has not a row for each example."""
    given = f"{examples} example{'s' * (examples != 1)}"
    where = "" if first is None else f" It was given example {first}{' and others' * (examples > 1)}."
    fact = (
        f"The collator of `{what}` makes {rows} row{'s' * (rows != 1)} of {given}: expected one row for each, to tell "
    )
    if rows < examples:
        return (
            f"{fact}which example a score is of.{where} Leave out before what the collator drops (None, doubles, long texts), "
            f"by a Subset or list of the others; what it packs or cuts into one length, give as examples."
        )
    return (
        f"{fact}whose gradient is whose.{where} Give each row as an example of its own, as the pieces of a long text. Or let all "
        f"that belongs to an example stand in one row, such as input_ids (N, 2, T) for pairs. Batches that are there go in a "
        f"DataLoader(batches, batch_size=None)."
    )


def _asked(loader: Any) -> Iterable[Sequence[Any]] | None:
    """Of each batch the indices of its examples; None where they are not known."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    sampler: Any = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    if reads_in_order(loader):
        if loader.batch_sampler is None:
            return None
        asked: Iterable[Any] = sampler
    else:
        with chance_as_before():  # a sampler may have its own state: it is not asked in between
            asked = list(sampler)
        if not all(isinstance(one, (list, tuple, Tensor)) for one in asked):
            return None
    held = loader.dataset.indices if isinstance(loader.dataset, Chosen) else None
    return (_named(one, held) for one in asked)


def _named(indices: Any, held: Sequence[int] | None) -> list[Any]:
    places = indices.tolist() if isinstance(indices, Tensor) else list(indices)
    return places if held is None else [held[place] for place in places]
