"""Forms of batches: what makes one go through a model otherwise than another."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from captum_tracinwe.batches.batch import Batch, is_mapping, size_of, tensors_in

__all__ = ["covers", "form_of", "padded_sides"]


def padded_sides(batch: Batch) -> tuple[bool, bool]:
    """Whether texts of a batch are padded on the left, and on the right, by its ``attention_mask``."""
    mask = batch.get("attention_mask") if is_mapping(batch) else None
    if not isinstance(mask, Tensor) or mask.dim() != 2 or not mask.numel():
        return False, False
    return bool((mask[:, 0] == 0).any()), bool((mask[:, -1] == 0).any())


def form_of(batch: Batch) -> tuple[Any, ...]:
    """What makes a batch go through a model otherwise than another: its entries and their dimensions, several texts, padding."""
    items = batch.items() if is_mapping(batch) else enumerate(batch)
    entries = tuple((key, tuple(part.dim() for part in tensors_in(value))) for key, value in items)
    return entries, size_of(batch) > 1, padded_sides(batch)


def covers(known: tuple[Any, ...], asked: tuple[Any, ...]) -> bool:
    """Whether what was found of one form holds for another: of the same entries, and padded where the other is."""
    if known[:2] != asked[:2]:
        return False
    entries, several, padded = known[2]
    return bool(
        entries == asked[2][0]
        and (several or not asked[2][1])
        and all(mine or not other for mine, other in zip(padded, asked[2][2], strict=True))
    )
