"""The examples that the probe tries: which, and each of them alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from captum_tracinwe.batches.batch import Batch, is_mapping, labels_of, positions_of, size_of
from captum_tracinwe.batches.cutting import taken, without_left_padding
from captum_tracinwe.batches.training_set import TrainingSet

__all__ = ["TRIED", "all_singles", "chosen_of", "each_of", "lengths_in", "singles_of"]

#: Examples that are taken alone, and how many are read to choose them from.
TRIED, READ = 4, 16


def singles_of(batch: Batch, places: Sequence[int], examples: TrainingSet | None) -> Callable[[int], Batch | None]:
    """Number in the batch → that example alone: made anew by the collator where it can be, else cut out of the batch.

    None where neither can be done.
    """

    of_stream = examples is not None and examples.is_stream and not places[0]

    def single(number: int) -> Batch | None:
        found = None if examples is None else examples.alone(places[number])
        if of_stream and examples is not None:
            found = next(iter(examples.first(number + 1)[number:]), None)
        if found is None:
            found = taken(batch, [number], size_of(batch))
            return None if found is None else without_left_padding(found)
        if size_of(found) != 1:
            raise ValueError(
                f"The collator makes {size_of(found)} rows of one example: expected one for each, to tell whose gradient is "
                f"whose. Let it make a mapping or tuple in which all that belongs to an example stands in one row, such as "
                f"input_ids (N, 2, T) for pairs, or give each row as an example of its own."
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
    """Places of the shortest, the longest and others of a sample, with more than one label if it has them."""
    total = examples.readable or 0
    read = sorted({place * total // min(total, READ) for place in range(min(total, READ))})
    alone = {place: one for place in read if (one := examples.alone(place)) is not None}
    count = min(count, len(alone))
    by_length = sorted(alone, key=lambda place: positions_of(alone[place]))
    chosen = [by_length[0], by_length[-1]][:count]
    seen = {_label(alone[place]) for place in chosen}
    rest = sorted(by_length[1:-1], key=lambda place: _label(alone[place]) in seen)
    return sorted({*chosen, *rest[: count - len(chosen)]})


def _label(batch: Batch) -> Any:
    labels = labels_of(batch)
    return labels.item() if isinstance(labels, Tensor) and labels.numel() == 1 else None


def lengths_in(batch: Batch, size: int) -> list[int]:
    """By what the texts of a batch are ordered: their words, where an ``attention_mask`` tells; else their places."""
    mask = batch.get("attention_mask") if is_mapping(batch) else None
    if isinstance(mask, Tensor) and mask.dim() == 2 and len(mask) == size:
        return [int(length) for length in (mask != 0).sum(1)]
    return list(range(size))
