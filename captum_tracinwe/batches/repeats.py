"""Whether a training set and its collator say the same each time: a few examples are read twice, and made into batches twice."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from captum_tracinwe.batches.batch import tensors_in
from captum_tracinwe.batches.chance import chance_as_before
from captum_tracinwe.batches.copies import on_copies

__all__ = ["EXAMPLES", "remakes", "say_what_changes", "some_of"]

#: So many examples are read twice. An augmentation that changes one text in ten is noticed in 19 cases of 20.
EXAMPLES = 16
Collator = Callable[[list[Any]], Any]


def say_what_changes(train_dataset: Dataset[Any] | DataLoader[Any], collate_fn: Collator | None) -> None:
    """Warn of a collator or a data set that changes from reading to reading, and of a stream that shuffles itself.

    Args:
        train_dataset (Dataset or DataLoader): whose examples are read; those of a stream that cannot be begun again are not.
        collate_fn (callable, optional): makes their batches; None: torch's.

    Raises:
        ValueError: a stream gives other examples, or the same in another order, when it is read again.
    """
    dataset: Any = train_dataset
    whole = False
    if isinstance(train_dataset, DataLoader):
        dataset = train_dataset.dataset
        whole = train_dataset.batch_sampler is None  # batches, one for each reading
    stream = isinstance(dataset, IterableDataset)
    if stream and _shuffles_itself(dataset):
        warnings.warn(
            "`train_dataset` is a stream that shuffles itself (IterableDataset.shuffle of datasets): an index counts examples in "
            "the order of its present epoch, and names others after set_epoch. Pass the stream from before .shuffle(...).",
            stacklevel=5,
        )
        return  # its buffer would be filled for a few examples
    with chance_as_before():
        changed = _changed(dataset, collate_fn, whole)
    if changed == "collator":
        warnings.warn(
            "The collator makes another batch of the same examples each time (does it mask or drop words at random?), so scores "
            "differ each time. Pass one that treats each text always alike.",
            stacklevel=5,
        )
    elif changed == "data" and stream:
        raise ValueError(
            "`train_dataset` is a stream that gives other examples, or another order, each time it is read. (Does it shuffle or "
            "augment at random, or can it be read only once?) Expected the same ones in a fixed order, because scores are told "
            "by the index of an example, and each question reads all of them. Pass it without shuffling, or a list of its "
            "examples: list(stream)."
        )
    elif changed == "data":
        warnings.warn(
            "`train_dataset` gives another example for the same index each time it is read, so scores differ each time. (Does it "
            "augment, or drop words at random, as set_transform of datasets and __getitem__ may?) Pass one that gives each "
            "text always alike, for instance a list made of it once: [dataset[i] for i in range(len(dataset))].",
            stacklevel=5,
        )


def _changed(dataset: Any, collate_fn: Collator | None, whole: bool) -> str | None:
    """ "collator", "data", or None; what fails here fails again where the batch is wanted."""
    if getattr(_innermost(collate_fn), "mlm", False):
        return "collator"
    try:
        readings = [list(some_of(dataset, 1 if whole else EXAMPLES).values()) for _ in range(2)]
        if not readings[0]:
            return None
        if len(readings[0]) != len(readings[1]):
            return "data"
        collate: Collator = list if whole else on_copies(collate_fn) or default_collate
        remade = remakes(collate, readings[0])
    except Exception:
        return None
    if remade:
        return "collator"
    try:
        one, other = (_tensors(collate, [[example] for example in reading]) for reading in readings)
    except Exception:  # a collator that takes no single example
        one, other = (_tensors(collate, [reading]) for reading in readings)
    return None if _alike(one, other) else "data"  # singly: together a collator may have sorted them


def remakes(collate: Collator, examples: list[Any]) -> bool:
    """Whether a collator makes something else of the same examples the second time."""
    first, again = (_tensors(collate, [examples]) for _ in range(2))
    return not _alike(first, again)


def _innermost(collate_fn: Any) -> Any:
    while hasattr(collate_fn, "collate_fn"):
        collate_fn = collate_fn.collate_fn
    return collate_fn


def some_of(dataset: Any, count: int) -> dict[int, Any]:
    """Index → example, of so many: of a stream the first ones, else spread over all.

    None are read of a stream that is its own iterator: it would lose them.
    """
    if isinstance(dataset, IterableDataset):
        return {} if iter(dataset) is iter(dataset) else dict(enumerate(islice(iter(dataset), count)))
    size = len(dataset)
    return {index: dataset[index] for index in (i * size // min(count, size) for i in range(min(count, size)))}


def _tensors(collate: Collator, batches: list[list[Any]]) -> list[Tensor]:
    """What examples are made into: batch by batch, or one by one where a collator stacks only those of one length."""
    try:
        made = [collate(examples) for examples in batches]
    except Exception:
        made = [collate([example]) for examples in batches for example in examples]
    return [tensor for batch in made for tensor in tensors_in(dict(batch) if isinstance(batch, Mapping) else batch)]


def _alike(some: list[Tensor], others: list[Tensor]) -> bool:
    def same(a: Tensor, b: Tensor) -> bool:
        return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())  # NaN is itself

    return len(some) == len(others) and all(same(a, b) for a, b in zip(some, others, strict=True))


def _shuffles_itself(stream: Any) -> bool:
    """Whether a stream of `datasets` has been through ``shuffle``; of others only reading can tell."""
    pending: list[Any] = [getattr(stream, "_ex_iterable", None)]
    while pending:
        source = pending.pop()
        if "Shuffled" in type(source).__name__:
            return True
        pending += [source.ex_iterable] if hasattr(source, "ex_iterable") else getattr(source, "ex_iterables", [])
    return getattr(stream, "_shuffling", None) is not None  # before datasets 4
