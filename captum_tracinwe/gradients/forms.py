"""Forms of batches: what makes one go through a model otherwise than another."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.batches.batch import Batch, is_mapping, labels_of, tensors_in

__all__ = ["covers", "form_of", "maybe_padded", "odd_labels_in", "padded_sides"]

# Whole numbers of a mapping that are no words, whose padding says nothing.
NO_WORDS = ("labels", "label", "token_type_ids", "segment_ids", "position_ids")


def padded_sides(batch: Batch) -> tuple[bool, bool]:
    """Whether texts of a batch are padded on the left, and on the right, by its ``attention_mask``."""
    mask = batch.get("attention_mask") if is_mapping(batch) else None
    if not isinstance(mask, Tensor) or mask.dim() != 2 or not mask.numel():
        return False, False
    return bool((mask[:, 0] == 0).any()), bool((mask[:, -1] == 0).any())


def maybe_padded(batch: Batch, fills: Collection[int], size: int) -> tuple[int | None, int | None]:
    """Without an ``attention_mask``: which of ``size`` texts is padded most by its ids, left and right; None: none is.

    A text that was filled up ends in one of the ids ``fills``, or in the same id twice; others may do so by nature.
    """
    if is_mapping(batch) and "attention_mask" in batch:
        return None, None
    known = [one for one in _ids_of(batch) if one.dim() > 1 and one.shape[0] == size > 1 and one.shape[-1] > 1]
    right = next((place for ids in known if (place := _filled(ids, fills)) is not None), None)
    turned = (ids.flip(-1) for ids in known if _ends_so(ids[..., :2], fills, end=0))
    return next((place for ids in turned if (place := _filled(ids, fills)) is not None), None), right


def _ids_of(batch: Batch) -> Iterator[Tensor]:
    named = batch.items() if is_mapping(batch) else (("", part) for part in batch[:-1])
    for name, part in named:
        if name not in NO_WORDS and not name.endswith("mask"):
            dense = (one for one in tensors_in(part) if one.layout == torch.strided and not one.is_nested)
            yield from (one for one in dense if not one.is_floating_point() and not one.is_complex())


def _ends_so(pairs: Tensor, fills: Collection[int], end: int) -> bool:
    # As numbers of Python: of a batch of 32 a fifth of the time that a dozen small tensors take.
    return any(pair[0] == pair[1] or pair[end] in fills for pair in pairs.reshape(-1, 2).tolist())


def _filled(ids: Tensor, fills: Collection[int]) -> int | None:
    if not _ends_so(ids[..., -2:], fills, end=1):
        return None
    last = ids[..., -1:]
    ends = last == ids[..., -2:-1]
    for fill in fills:
        ends = ends | (last == fill)
    run = ((ids == last).flip(-1).cumprod(-1).sum(-1, keepdim=True) * ends).flatten(1).amax(1)
    return int(run.argmax())


def odd_labels_in(batch: Batch) -> bool:
    """Whether some class is below zero and not −100: what a loss with another ``ignore_index`` leaves out."""
    labels = labels_of(batch)
    if not isinstance(labels, Tensor) or labels.dim() > 1 or labels.is_floating_point() or labels.is_complex():
        return False
    return any(label < 0 and label != -100 for label in labels.reshape(-1).tolist())


def form_of(batch: Batch, padded: tuple[bool, bool], size: int) -> tuple[Any, ...]:
    """What makes a batch go through a model otherwise than another: its entries and their dimensions, several texts, padding."""
    items = batch.items() if is_mapping(batch) else enumerate(batch)
    entries = tuple((key, tuple(part.dim() for part in tensors_in(value))) for key, value in items)
    return entries, size > 1, (*padded, odd_labels_in(batch))


def covers(known: tuple[Any, ...], asked: tuple[Any, ...]) -> bool:
    """Whether what was found of one form holds for another: of the same entries, and padded where the other is."""
    if known[:-1] != asked[:-1]:
        return False
    entries, several, padded = known[-1]
    return bool(
        entries == asked[-1][0]
        and (several or not asked[-1][1])
        and all(mine or not other for mine, other in zip(padded, asked[-1][2], strict=True))
    )
