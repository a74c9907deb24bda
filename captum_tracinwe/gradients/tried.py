"""The examples that the probe tries: which, and each of them alone."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from captum_tracinwe.batches.batch import (
    LABEL_KEYS,
    Batch,
    as_parts,
    is_mapping,
    labels_of,
    positions_of,
    size_of,
    tensors_in,
)
from captum_tracinwe.batches.columns import WORDS
from captum_tracinwe.batches.cutting import cut_right, shape_of, taken, without_left_padding
from captum_tracinwe.batches.training_set import TrainingSet

__all__ = ["TRIED", "alike", "all_singles", "chosen_of", "cut_alike", "each_of", "lengths_in", "singles_of"]

#: Examples that are taken alone, and how many are read to choose them from.
TRIED, READ = 4, 16
# What was chosen of each set, by how many: reading may be slow, and each checkpoint is tried.
_chosen: WeakKeyDictionary[TrainingSet, dict[int, list[int]]] = WeakKeyDictionary()


def singles_of(
    batch: Batch, places: Sequence[int], examples: TrainingSet | None, ahead: bool = False
) -> Callable[[int], Batch | None]:
    """Number in the batch → that example alone: made anew by the collator where it can be, else cut out of the batch.

    None where neither can be done. With ``ahead`` all are made at the first ask, each for the first ask of it.
    """

    streamed: list[Batch] = []
    made: dict[int, Batch] = {}

    def single(number: int) -> Batch | None:
        nonlocal ahead
        if ahead and examples is not None:
            made.update(enumerate(examples.each_alone(places)))
        ahead = False
        found = made.pop(number, None)
        if found is None and examples is not None:
            found = examples.alone(places[number])
        if examples is not None and examples.is_stream:
            if not streamed:
                streamed.extend(examples.streamed(places))
            found = streamed[number] if number < len(streamed) else None
        if found is None:
            found = taken(batch, [number], size_of(batch))
            return None if found is None else without_left_padding(found)
        if size_of(found) != 1:
            raise ValueError(
                f"The collator makes {size_of(found)} rows of one example: expected one for each, to tell whose gradient is "
                f"whose. Let it make a mapping or tuple in which all that belongs to an example stands in one row, such as "
                f"input_ids (N, 2, T) for pairs. Or give each row as an example of its own."
            )
        return without_left_padding(found)

    return single


def all_singles(batch: Batch, places: Sequence[int], examples: TrainingSet | None) -> list[Batch]:
    """Each example of a batch alone.

    Raises:
        ValueError: they can't be had.
    """
    return each_of(singles_of(batch, places, examples), size_of(batch))


def each_of(single: Callable[[int], Batch | None], size: int) -> list[Batch]:
    """All examples of a batch of ``size``, each alone; errors as of :func:`all_singles`."""
    found = [one for place in range(size) if (one := single(place)) is not None]
    if len(found) < size:
        raise ValueError(
            f"The batch cannot be cut into its {size} examples: expected tensors whose first dimension counts examples. Pass "
            f"batches of one example."
        )
    return found


def chosen_of(examples: TrainingSet, count: int) -> list[int]:
    """Places of the shortest, the longest and others of a sample, with more than one label if it has them.

    Not from short to long nor the other way round: a model that sorts its batch has to show it.
    """
    known = _chosen.setdefault(examples, {})
    if count not in known:
        known[count] = _choose(examples, count)
    return known[count]


def _choose(examples: TrainingSet, count: int) -> list[int]:
    told = _sample(examples, READ)
    count = min(count, len(told))
    by_length = sorted(told, key=lambda place: told[place][0])
    chosen = [*by_length[:1], *by_length[-1:]][:count]
    seen = {told[place][1] for place in chosen}
    rest = sorted(by_length[1:-1], key=lambda place: told[place][1] in seen)[: count - len(chosen)]
    return [*rest[:1], *chosen[::-1], *rest[1:]]


def _sample(examples: TrainingSet, count: int) -> dict[int, tuple[int, Any]]:
    """Place → how long the example is, and its label, of so many from all over the set."""
    total = examples.readable or 0
    read = sorted({place * total // min(total, count) for place in range(min(total, count))})
    told = [_length_and_label(example) for example in examples.given(read)]
    found = [one for one in told if one is not None]
    if len(found) < len(read):  # as the collator makes them, which takes five times as long
        found = [(positions_of(one), _label(one)) for one in examples.each_alone(read)]
    return dict(zip(read, found, strict=False))


def _length_and_label(example: Any) -> tuple[int, Any] | None:
    """Of a text as the data set gives it; None where it does not show."""
    text = label = None
    if isinstance(example, Mapping):
        text, label = example.get(WORDS), next((example[key] for key in LABEL_KEYS if key in example), None)
    elif isinstance(example, tuple) and len(example) == 2:
        text, label = example
    if not isinstance(text, (list, str, np.ndarray, Tensor)) or getattr(text, "ndim", 1) != 1:
        return None
    if isinstance(label, (Tensor, np.ndarray)):
        label = label.item() if len(label.reshape(-1)) == 1 else None
    return len(text), label if isinstance(label, Hashable) else None


def alike(singles: Iterable[Batch], count: int = TRIED) -> list[Batch]:
    """Up to ``count`` examples of one shape, no two the same, of those given alone; the most that there are, at least two."""
    groups: dict[object, list[Batch]] = {}
    for one in singles:
        if not all(len(part) == 1 for part in tensors_in(as_parts(one)) if part.dim()):
            continue  # words in a row, which offsets divide
        group = groups.setdefault(shape_of(as_parts(one)), [])
        if not any(_same(one, other) for other in group):
            group.append(one)
        if len(group) == count:
            return group
    most = max(groups.values(), key=len, default=[])
    return most if len(most) > 1 else []


def cut_alike(singles: Sequence[Batch]) -> list[Batch]:
    """Examples alone, the longer ones cut on the right to the shortest, so that all are of one length."""
    lengths = [_length(one) for one in singles]
    shortest = min((length for length in lengths if length is not None), default=0)
    return [
        cut_right(one, length, shortest) for one, length in zip(singles, lengths, strict=True) if length is not None
    ]


def _length(single: Batch) -> int | None:
    parts = single if is_mapping(single) else dict(enumerate(single[:-1]))
    ids = [one for one in tensors_in(parts) if one.dim() > 1 and not one.is_floating_point()]
    return int(ids[0].shape[1]) if ids else None


def _same(one: Batch, other: Batch) -> bool:
    return all(map(torch.equal, tensors_in(as_parts(one)), tensors_in(as_parts(other))))


def _label(batch: Batch) -> Any:
    labels = labels_of(batch)
    return labels.item() if isinstance(labels, Tensor) and labels.numel() == 1 else None


def lengths_in(batch: Batch, size: int) -> list[int]:
    """By what the texts of a batch are ordered: their words, where an ``attention_mask`` tells; else their places."""
    mask = batch.get("attention_mask") if is_mapping(batch) else None
    if isinstance(mask, Tensor) and mask.dim() == 2 and len(mask) == size:
        return [int(length) for length in (mask != 0).sum(1)]
    return list(range(size))
