"""DataLoaders in a fixed order: refused where they shuffle, cut to chosen examples where they can be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from captum_tracinwe.batches.chance import chance_as_before
from captum_tracinwe.batches.copies import on_copies
from captum_tracinwe.batches.counting import Chosen, counted, reads_in_order

__all__ = ["examples_loader", "has_random_access", "in_order", "reading", "refuse_shuffling"]


def in_order(
    dataset: Dataset[Any], batch_size: int | None, collate_fn: Callable[[list[Any]], Any] | None = None
) -> DataLoader[Any]:
    """A DataLoader of a data set in its order, whose collator is handed copies of the examples.

    With a generator of its own: each pass of a plain one draws a number from torch's, which another thread may have seeded.
    """
    return DataLoader(dataset, batch_size, collate_fn=on_copies(collate_fn), generator=torch.Generator())


def reading(batches: Iterable[Any], what: str) -> Iterator[Any]:
    """The batches, one pass, those of a loader counted; where torch's own collating fails, its error is told with what it got.

    Raises:
        ValueError: examples that torch cannot put into one batch; raw texts, where the collator only fills up; a batch with other
            rows than examples. What a data set itself raises stays as it is.
    """
    yield from counted(_made(batches, what), batches, what)


def _made(batches: Iterable[Any], what: str) -> Iterator[Any]:
    try:
        yield from batches
    except (RuntimeError, TypeError, KeyError, ValueError) as error:
        said = str(error)
        if "You should supply an encoding" in said:  # a tokenizer's `pad`, by which transformers' collators fill up
            raise ValueError(
                f"The examples of `{what}` have no token ids, and the collator fills these up ({said.splitlines()[-1]}): "
                f"expected 'input_ids'. Tokenize them before, or pass raw texts with "
                f"collate_fn=captum_tracinwe.collate.TokenizeTexts(tokenizer, ...)."
            ) from error
        stacked = ("default_collate", "stack expects", "list of batch", "expected sequence of length")
        if not any(words in said for words in stacked) and not _collates(error):
            raise
        raise ValueError(
            f"torch cannot make one batch of the examples of `{what}`: {(said or type(error).__name__).splitlines()[-1]}. "
            f"Expected examples alike, of tensors or numbers, with texts of one length. Pass a data set of mappings (lists of "
            f"different lengths are filled up), batch_size=1, or collate_fn=...; leave out None."
        ) from error


def _collates(error: Exception) -> bool:
    """Whether it comes from torch's `default_collate` itself."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__") == "torch.utils.data._utils.collate"


def refuse_shuffling(loader: DataLoader[Any], what: str) -> None:
    """Raise ValueError if ``loader`` yields examples in random order: a score's column would name no example."""
    if loader.num_workers > 0 and not getattr(loader, "in_order", True):
        raise ValueError(
            f"`{what}` is a DataLoader with in_order=False, which gives batches as its workers finish them: expected a fixed "
            f"order, because scores are told by the index of an example. Build it with in_order=True."
        )
    pending: list[Any] = [loader.sampler, loader.batch_sampler]
    while pending and not isinstance(loader.dataset, IterableDataset):
        sampler = pending.pop()
        if sampler is None:
            continue
        pending.append(getattr(sampler, "sampler", None))  # that of a BatchSampler
        random = isinstance(sampler, (RandomSampler, SubsetRandomSampler, WeightedRandomSampler))
        known = type(sampler) in (SequentialSampler, BatchSampler)
        if (
            random
            or getattr(sampler, "shuffle", False) is True
            or not (known or _repeats_itself(sampler, loader.dataset))
        ):
            raise ValueError(
                f"`{what}` is a DataLoader that shuffles ({type(sampler).__name__}): expected a fixed order, because "
                f"scores are told by the index of an example. Build it with shuffle=False."
            )


def _repeats_itself(sampler: Sampler[Any], dataset: Any) -> bool:
    """Whether a sampler of an unknown kind gives the same indices when asked twice; more than there are examples are enough."""
    most = len(dataset) + 1 if hasattr(dataset, "__len__") else None
    with chance_as_before():
        return list(islice(sampler, most)) == list(islice(sampler, most))


def has_random_access(loader: DataLoader[Any]) -> bool:
    """Whether any of the examples of a loader can be read without the others, by its place among them."""
    if isinstance(loader.dataset, IterableDataset) or loader.batch_size is None or loader.drop_last:
        return False
    return reads_in_order(loader)


def examples_loader(
    loader: DataLoader[Any], indices: Sequence[int], batch_size: int | None = None
) -> DataLoader[Any] | None:
    """A loader of just these examples (ascending) with the same collating; None if the loader has no random access.

    ``batch_size``: examples to a batch; by default as many as in the loader's.
    """
    if not has_random_access(loader):
        return None
    size = batch_size or loader.batch_size
    return in_order(Chosen(loader.dataset, list(indices)), size, loader.collate_fn)
