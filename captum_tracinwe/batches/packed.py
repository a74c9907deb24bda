"""Batches whose rows are no examples: several texts packed into one row are taken apart, several rows of one text refused."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, IterDataPipe, default_collate

from captum_tracinwe.batches.batch import Batch, is_mapping, rows_of, size_of
from captum_tracinwe.batches.chance import chance_as_before
from captum_tracinwe.batches.copies import on_copies
from captum_tracinwe.batches.counting import several

__all__ = ["Unpacked", "a_row_for_each", "unpacked"]

# What says where texts begin, and so has no place in the batch of a single one.
OF_ALL = ("cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens", "max_length_q", "max_length_k", "max_seqlen", "seq_idx")


def unpacked(batch: Batch) -> list[Batch]:
    """The texts of a row ``(1, T)`` that holds several, each as a batch of its own; any other batch in a list.

    Where they begin, ``cu_seq_lens_q`` says, or ``position_ids`` (1, T), which are 0 there.
    """
    ids = batch.get("input_ids") if is_mapping(batch) else None
    if not is_mapping(batch) or not isinstance(ids, Tensor) or ids.dim() != 2 or len(ids) != 1:
        return [batch]
    starts = _starts(batch, ids.shape[1])
    if len(starts) < 2:
        return [batch]
    ends = [*starts[1:], ids.shape[1]]
    kept = {key: value for key, value in batch.items() if key not in OF_ALL}
    return [
        {key: _columns(value, ids, *span) for key, value in kept.items()} for span in zip(starts, ends, strict=True)
    ]


def _starts(batch: Mapping[str, Any], length: int) -> list[int]:
    bounds, positions = batch.get("cu_seq_lens_q"), batch.get("position_ids")
    if isinstance(bounds, Tensor):
        return [int(bound) for bound in bounds.flatten() if int(bound) < length]
    if isinstance(positions, Tensor) and positions.shape == (1, length):
        return [int(place) for place in (positions[0] == 0).nonzero().flatten()]
    return []


def _columns(value: Any, ids: Tensor, start: int, stop: int) -> Any:
    of_tokens = isinstance(value, Tensor) and value.dim() >= 2 and value.shape[:2] == ids.shape
    return value[:, start:stop].contiguous() if of_tokens else value


class Unpacked(IterableDataset[Batch]):
    """The batches of a loader that cannot be read example by example, packed rows taken apart."""

    def __init__(self, loader: DataLoader[Any], what: str) -> None:
        self.loader, self.what = loader, what
        self._counting = _counting(loader)  # once, for its workers may live on
        self._ahead: tuple[int, Iterator[Any]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.__dict__.items() if name != "_beside"}
        return {**kept, "_ahead": None}  # how far one has read is nobody else's

    def __iter__(self) -> Iterator[Batch]:
        start, most = 0, self.loader.batch_size
        pairs = ((most, batch) for batch in self.loader) if self._counting is None else self._counting
        for given, batch in pairs:
            rows = rows_of(batch)
            parts = unpacked(batch) if rows == 1 else [batch]
            found = len(parts) if rows == 1 else rows
            # Of a loader with its own ways it is only known how many may go into a batch.
            if given is not None and (found > given or (found < given and self._counting is not None)):
                raise ValueError(several(self.what, given, found, start))
            yield from parts
            start += found

    @cached_property
    def _beside(self) -> Any:
        """The stream, to be read while the loader reads it: a pipe of torch has one reader at a time, and is copied."""
        stream: Any = self.loader.dataset
        if not isinstance(stream, IterDataPipe):
            return stream
        try:
            return copy.deepcopy(stream)
        except Exception:
            return None

    @cached_property
    def can_be_read_anew(self) -> bool:
        """Whether the stream begins again when it is asked for."""
        stream = self._beside
        return self.loader.batch_size is not None and stream is not None and iter(stream) is not stream

    def examples(self, start: int, stop: int) -> list[Any]:
        """Examples of a stream that can be read anew, by their places: from its beginning, or on from those asked for before."""
        at, stream = self._ahead or (0, iter(()))
        if self._ahead is None or at > start:
            at, stream = 0, iter(self._beside)
        found = list(itertools.islice(stream, start - at, stop - at))
        self._ahead = stop, stream
        return found

    def made(self, examples: list[Any]) -> Batch:
        """A batch of some examples, by the stream's collator."""
        collate_fn: Any = on_copies(self.loader.collate_fn)
        return collate_fn(examples)  # type: ignore[no-any-return]


class _Counting:
    """A collator that tells how many examples it was given."""

    def __init__(self, collate_fn: Any) -> None:
        self.collate_fn = collate_fn

    def __call__(self, examples: Any) -> tuple[int, Batch]:
        return len(examples), self.collate_fn(examples)


def _counting(loader: DataLoader[Any]) -> DataLoader[Any] | None:
    """A twin of a loader that gives pairs, how many examples went into a batch and the batch; None of one with its own ways."""
    if loader.batch_size is None or type(loader) is not DataLoader:
        return None
    twin = copy.copy(loader)
    twin.__dict__.update(collate_fn=_Counting(loader.collate_fn), _iterator=None)
    return twin


def a_row_for_each(loader: DataLoader[Any], what: str) -> DataLoader[Any]:
    """A loader whose batches have a row for each example, of one whose collator may pack several into a row.

    Args:
        loader (DataLoader): of any kind.
        what (str): names the argument in errors.

    Raises:
        ValueError: the collator makes several rows of one example.
    """
    if loader.collate_fn is default_collate or (
        loader.batch_size == 1 and not isinstance(loader.dataset, IterableDataset)
    ):
        return loader
    if isinstance(loader.dataset, IterableDataset):
        if loader.batch_size is None:
            return loader
        return DataLoader(Unpacked(loader, what), batch_size=None, generator=torch.Generator())
    sizes = _sizes(loader)
    if sizes is None or sizes[1] == 2:
        return loader
    if sizes[0] != 1:
        raise ValueError(several(what, 1, sizes[0]))
    warnings.warn(
        f"The collator of `{what}` packs several examples into one row: each is taken alone, so that scores are told by example. "
        f"This takes longer than one row for each of them: a collator that fills up (DataCollatorWithPadding) does that.",
        stacklevel=4,
    )
    order = (
        loader.sampler
        if loader.batch_size is not None
        else list(itertools.chain.from_iterable(loader.batch_sampler or []))
    )
    return DataLoader(
        loader.dataset, 1, sampler=order, collate_fn=on_copies(loader.collate_fn), generator=torch.Generator()
    )


def _sizes(loader: DataLoader[Any]) -> tuple[int, int] | None:
    """Rows of a batch of one example, and of two; None where that can't be tried. What fails here is said where it is read."""
    dataset: Dataset[Any] = loader.dataset
    try:
        with chance_as_before():
            return _rows_of(loader, dataset)
    except Exception:
        return None


def _rows_of(loader: DataLoader[Any], dataset: Dataset[Any]) -> tuple[int, int] | None:
    if len(dataset) < 2:  # type: ignore[arg-type]
        return None
    collate_fn: Any = on_copies(loader.collate_fn)
    return size_of(collate_fn([dataset[0]])), size_of(collate_fn([dataset[0], dataset[1]]))
