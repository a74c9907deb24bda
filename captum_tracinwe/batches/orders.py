"""The order that a DataLoader's own sampler gives: which example of the data set is read at which place."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from captum_tracinwe.batches.arguments import is_whole
from captum_tracinwe.batches.counting import reads_in_order
from captum_tracinwe.batches.loaders import in_order, refuse_shuffling

__all__ = ["by_index", "flat", "order_of", "say_order"]

# So many examples of different batches are made into one, to see whether that can be done.
TOGETHER = 4


def order_of(loader: DataLoader[Any], what: str) -> Tensor | None:
    """The data set's index of the example at each place, int64 ``(M,)``; None where a place is an index, or none is told.

    Raises:
        ValueError: the sampler draws at random; it leaves examples out that stand before others, or reads one twice; it gives
            whole batches in an order of its own.
    """
    refuse_shuffling(loader, what)
    if isinstance(loader.dataset, IterableDataset):
        if loader.num_workers > 1:
            warnings.warn(
                f"`{what}` is a DataLoader with {loader.num_workers} workers over an IterableDataset: each worker reads all of "
                f"it unless it shares itself out, and their batches take turns. An index counts examples as this loader gives "
                f"them, not as the data set does. With num_workers=0 both are the same.",
                stacklevel=5,
            )
        return None
    if reads_in_order(loader):
        _say_left_out(loader, what)
        return None
    size = len(loader.dataset) if hasattr(loader.dataset, "__len__") else None
    of_batches = loader.batch_sampler is None  # the data set is asked for batches, by number or by a list of indices
    sampler: Any = loader.sampler if of_batches else loader.batch_sampler
    # One more than there are is one too many, and enough of a sampler without end.
    names = list(islice(flat(sampler), None if size is None else size + 1))
    if not all(is_whole(name) for name in names):
        warnings.warn(
            f"The sampler of `{what}` ({type(sampler).__name__}) names examples by {names[0]!r:.60}, not by their index: an "
            f"index counts examples as this loader gives them.",
            stacklevel=5,
        )
        return None
    order = torch.tensor([int(name) for name in names], dtype=torch.int64)
    if size is not None:
        order = torch.where(order < 0, order + size, order)
    if torch.equal(order, torch.arange(len(order))):
        _say_left_out(loader, what, len(order))
        return None if of_batches else order
    kind = type(getattr(sampler, "sampler", sampler)).__name__
    if of_batches:
        raise ValueError(
            f"`{what}` is a DataLoader of whole batches (batch_size=None), which its sampler ({kind}) gives in an order of its "
            f"own. Expected the order of the data set, because an index is that of an example in it. Pass a DataLoader of "
            f"torch.utils.data.Subset(dataset, order), which is in order."
        )
    _refuse_parts(order, int(order.max()) + 1 if size is None else size, kind, what)
    return order


def say_order(loader: DataLoader[Any], what: str) -> None:
    """Warn where row i of a result, that of the i-th example read, is not of the data set's example i, or not all have one."""
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return
    if reads_in_order(loader):
        _say_left_out(loader, what)
        return
    size = len(loader.dataset) if hasattr(loader.dataset, "__len__") else None
    names = list(islice(flat(loader.batch_sampler), None if size is None else size + 1))
    if names == list(range(len(names))):
        _say_left_out(loader, what, len(names))
        return
    warnings.warn(
        f"`{what}` is a DataLoader with an order of its own. Row i of a result is of the i-th example that it gives, not of the "
        f"data set's example i (the first is {names[0]!r:.60}). For the order of the data set pass the data set, or a "
        f"DataLoader without a sampler.",
        stacklevel=6,
    )


def _say_left_out(loader: DataLoader[Any], what: str, read: int | None = None) -> None:
    """Warn of examples at the end that are not read, by ``drop_last`` or by a sampler that gives only so many."""
    batches: Any = loader.batch_sampler
    if batches is None or not hasattr(loader.dataset, "__len__"):
        return
    size = len(loader.dataset)
    if read is None:
        named = len(batches.sampler)
        read = named - named % batches.batch_size * batches.drop_last
    if read < size:
        warnings.warn(
            f"`{what}` is a DataLoader that leaves out the last {size - read} of {size} examples (drop_last=True, or its "
            f"sampler): they have no score. With drop_last=False, or without a sampler, they have one.",
            stacklevel=6,
        )


def flat(sampler: Iterable[Any]) -> Iterator[Any]:
    """What a sampler of examples or of batches names, one example after the other."""
    for item in sampler:
        if isinstance(item, (list, Tensor)):
            yield from item.tolist() if isinstance(item, Tensor) else item
        else:
            yield item


def _refuse_parts(order: Tensor, size: int, kind: str, what: str) -> None:
    """Raise ValueError unless an order holds each example once: example j would have no column j, or two."""
    times = torch.bincount(order, minlength=size)
    wrong = [f"reads example {int(i)} more than once" for i in (times > 1).nonzero()[:1]]
    if not wrong:  # of a sampler that repeats, not all was looked at
        wrong = [
            f"leaves out {int((times == 0).sum())} of {size} examples, {int(i)} for one"
            for i in (times == 0).nonzero()[:1]
        ]
    if wrong:
        raise ValueError(
            f"`{what}` is a DataLoader whose sampler ({kind}) {wrong[0]}, in an order of its own. Expected each example once, "
            f"because an index is that of an example in the loader's data set. Pass the examples that are meant as a data set: "
            f"DataLoader(torch.utils.data.Subset(dataset, indices), ...) with the sampler's indices; an index then counts in "
            f"these."
        )


def by_index(loader: DataLoader[Any], order: Tensor) -> DataLoader[Any]:
    """Batches of a loader's examples in the order of their indices, as large as the loader's where that can be.

    A sampler may have put texts of one length together, for a collator that only stacks them: then batches hold one.
    """
    dataset: Any = loader.dataset
    if hasattr(dataset, "__len__") and len(dataset) > len(order):
        dataset = Subset(dataset, range(len(order)))
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or 1
    try:
        chosen = order[:: max(1, len(order) // TOGETHER)][:TOGETHER].tolist()
        next(iter(in_order(Subset(dataset, chosen), TOGETHER, loader.collate_fn)))
    except Exception:
        size = 1
    return in_order(dataset, size, loader.collate_fn)
