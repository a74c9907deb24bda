"""Whether a training set is the one that an index was built from: examples are collated again, and compared by fingerprint."""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.batches.batch import Batch, labels_of, size_of
from captum_tracinwe.batches.loaders import examples_loader
from captum_tracinwe.gradients.live_source import LiveSource
from captum_tracinwe.index.files.disk import IndexDamaged, IndexMismatch
from captum_tracinwe.index.files.segment import Segment
from captum_tracinwe.index.identity.fingerprints import COLUMN, Fingerprint, fingerprints, read

__all__ = ["FEW", "MANY", "Amount", "Remembered", "check_batch", "check_examples"]


@dataclass(frozen=True)
class Amount:
    """How much is compared: all, if there are no more ``examples`` than these, else whole batches of so many ``segments``."""

    examples: int
    segments: int


#: At each question: milliseconds beside hashing the checkpoints.
FEW = Amount(64, 6)
#: Before a build goes on: a second or two beside the hours of its passes.
MANY = Amount(10_000, 64)
# Batches that are compared at least, if there are as many: the first, the last, and two in between.
BATCHES = 4


class Remembered:
    """The fingerprints of one segment; read as they are asked for, because a segment may hold a million."""

    def __init__(self, segment: Segment) -> None:
        self.segment, entry = segment, segment.entry
        whole = len(segment) == entry.stop - entry.first
        self.numbers: Sequence[int] = range(entry.first, entry.stop) if whole else segment.numbers.tolist()
        # Not the cached columns: of a large segment they would stay in memory for nothing.
        self._column = segment.read_columns().get(COLUMN, [None] * len(segment))
        if len(self._column) != len(segment):
            raise IndexDamaged(
                f"{str(segment.path)!r}: {len(segment)} examples, and {len(self._column)} fingerprints beside them."
            )

    def between(self, start: int, stop: int) -> dict[int, Fingerprint]:
        """Training index → fingerprint, of those that have one."""
        a, b = (bisect.bisect_left(self.numbers, number) for number in (start, stop))
        found = ((self.numbers[i], read(self._column[i])) for i in range(a, b))
        return {number: one for number, one in found if one is not None}

    def batches(self, first: int, stop: int, places: Iterable[int]) -> Iterator[tuple[int, int]]:
        """Start and size of the batches that the examples at some places came in, of those within ``first:stop``."""
        seen = set()
        for place in places:
            one = read(self._column[place])
            if one is not None:
                start = self.numbers[place] - one.place
                if start not in seen and first <= start and start + one.size <= stop:
                    seen.add(start)
                    yield start, one.size


def check_examples(training: LiveSource, segments: Sequence[Segment], amount: Amount, first: int = 0) -> None:
    """Raise IndexMismatch where the training set has another example than an index remembers.

    Nothing is compared of segments without fingerprints: those of an older index, or of rows that were given.

    Args:
        training (LiveSource): its training set is read, without a pass of the model.
        segments (sequence of Segment): of the index, ascending.
        amount (Amount): how much.
        first (int): the index's number of the training set's first example.
    """
    loader = training.examples.by_index()
    segments = [segment for segment in segments if segment.entry.stop > first and len(segment)]
    if not segments:
        return
    with torch.random.fork_rng(devices=[]):  # a DataLoader draws a seed
        if examples_loader(loader, [0]) is None:
            _check_in_order(training, segments, amount, first)
            return
        stop = first + len(loader.dataset)  # type: ignore[arg-type]
        everything = sum(len(segment) for segment in segments) <= amount.examples
        chosen = segments if everything else _drawn(segments, amount.segments)
        for segment in chosen:
            known = Remembered(segment)
            places = (
                range(len(segment)) if everything else _places(len(segment), amount.examples, segment is chosen[-1])
            )
            used = count = 0
            for start, size in known.batches(first, stop, places):
                if not everything and used >= amount.examples // len(chosen) and count >= -(-BATCHES // len(chosen)):
                    break
                again = examples_loader(loader, range(start - first, start - first + size), size)
                assert again is not None
                for batch in again:
                    check_batch(training, batch, start, known)
                used, count = used + size, count + 1


def check_batch(training: LiveSource, batch: Batch, start: int, known: Remembered) -> None:
    """Raise IndexMismatch unless the examples of a batch, from training index ``start`` on, are those that are known."""
    found = fingerprints(batch, training.live.label_names)
    for number, expected in known.between(start, start + len(found)).items():
        if expected.hash != found[number - start].hash:
            raise IndexMismatch(_other(training, batch, number, found[number - start], expected, known))


def _check_in_order(training: LiveSource, segments: Sequence[Segment], amount: Amount, first: int) -> None:
    """Data that can only be read from their start on: their first batches."""
    held: list[Remembered] = []
    at, pending = first, list(segments)
    for batch in training.examples.by_index():
        size = size_of(batch)
        while pending and pending[0].entry.first < at + size:
            held.append(Remembered(pending.pop(0)))
        held = [known for known in held if known.segment.entry.stop > at]
        for known in held:
            check_batch(training, batch, at, known)
        at += size
        if at - first >= amount.examples:
            return


def _drawn(segments: Sequence[Segment], many: int) -> list[Segment]:
    """All of them, or the first, the last, and some in between; always the same ones."""
    if len(segments) <= many:
        return list(segments)
    between = random.Random(0).sample(range(1, len(segments) - 1), many - 2)
    return [segments[i] for i in (0, *sorted(between), len(segments) - 1)]


def _places(size: int, examples: int, last: bool) -> list[int]:
    """Places of a segment to look at: both its ends, of the last segment the last one first, and then some in between."""
    ends = [size - 1, 0] if last and size > 1 else [0, size - 1]
    return [*ends, *random.Random(0).sample(range(size), min(size, 4 * examples))]


def _other(
    training: LiveSource, batch: Batch, number: int, found: Fingerprint, expected: Fingerprint, known: Remembered
) -> str:
    """In words: an example that is not the one an index was built from."""
    labels: Any = labels_of(batch, training.live.label_names)
    what = "not the one that the index was built from"
    kept, itself = known.segment.read_columns().get("label"), False
    if isinstance(labels, Tensor) and labels.dim() == 1 and len(labels) == found.size and kept:
        here = kept[bisect.bisect_left(known.numbers, number)]
        there = labels[found.place].item()
        if here is not None and here != there:
            itself = True
            what += f": its label is {here} in the index and {there} in `train_dataset`"
        elif here is not None:
            what += f": its label is {here} in both, its text or what was made of it is another"
    cut = ""
    if (found.place, found.size) != (expected.place, expected.size):
        cut = (
            f" It came in a batch of {expected.size} then and comes in one of {found.size} now; where texts are padded without "
            f"an attention_mask this makes a difference: pass batch_size={expected.size}."
        )
    elif found.size > 1 and not itself:
        what += f" (or another of its batch is, {number - found.place} to {number - found.place + found.size - 1})"
    return (
        f"Training example {number} is {what}. Expected the same texts and labels in the same order, with the same tokenizer "
        f"and collator.{cut} Data that change each time they are read (augmentation, words masked at random) are never the "
        f"same. The index is {str(known.segment.path.parent)!r}: pass the training set that it was built from, or build another; "
        f"with train_dataset=None it is asked as it is."
    )
