"""Examples cut out of a batch, and put together again: some of them, or several behind each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.batches.batch import LABEL_KEYS, Batch, as_parts, is_mapping

__all__ = ["cut_right", "joined", "shape_of", "taken", "without_left_padding"]


class _Uncut(Exception):
    """Something in a batch that has no part for each example."""


def taken(batch: Batch, places: Sequence[int], size: int) -> Batch | None:
    """The examples at some places of a batch of ``size``, with the padding that they have there; None: it cannot be cut."""
    try:
        return _part(as_parts(batch), list(places), size)  # type: ignore[no-any-return]
    except _Uncut:
        return None


def without_left_padding(batch: Batch) -> Batch:
    """A batch without the columns on the left that its ``attention_mask`` (N, T) leaves out of every text.

    What fills up on the right stays: a row as it is given is the example, as in Captum, and was trained on so. On the left
    padding moves a text's positions and stands before its first word, which is nothing that anybody wants.
    """
    mask = batch.get("attention_mask") if is_mapping(batch) else None
    if not is_mapping(batch) or not isinstance(mask, Tensor) or mask.dim() != 2:
        return batch
    used = (mask != 0).any(0).nonzero()
    first = int(used.min()) if used.numel() else 0
    if not first:
        return batch

    def kept(key: str, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() < 2 or value.shape[:2] != mask.shape:
            return value
        # One number per class, or the target of an encoder-decoder, which is filled up on its own.
        is_label = key in LABEL_KEYS or value.is_floating_point()
        if key.startswith("decoder_") or (is_label and bool((value[:, :first] != -100).any())):
            return value
        return value[:, first:].contiguous()

    return {key: kept(key, value) for key, value in batch.items()}


def cut_right(batch: Batch, length: int, kept: int) -> Batch:
    """An example of ``length`` positions without those behind the first ``kept``, in each tensor that has them."""

    def part(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[:, :kept] if value.dim() > 1 and value.shape[1] == length else value
        if isinstance(value, Mapping):
            return {key: part(item) for key, item in value.items()}
        if isinstance(value, (tuple, list)):
            items = [part(item) for item in value]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        return value

    return part(as_parts(batch))  # type: ignore[no-any-return]


def joined(batches: Sequence[Batch]) -> Batch:
    """Batches of one shape as one, their examples behind each other."""
    if len(batches) == 1:
        return batches[0]
    return _joined([as_parts(batch) for batch in batches])  # type: ignore[no-any-return]


def shape_of(value: Any) -> Any:
    """What batches must have in common to be joined: keys, types and all dimensions."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, Mapping):
        return tuple((key, shape_of(item)) for key, item in value.items())
    if isinstance(value, (tuple, list)):
        return tuple(map(shape_of, value))
    return id(value)


def _part(value: Any, places: list[int], size: int) -> Any:
    if isinstance(value, Tensor):
        if value.dim() == 0:
            return value
        if value.shape[0] != size:
            raise _Uncut
        return value[places]
    if isinstance(value, Mapping):
        return {key: _part(item, places, size) for key, item in value.items()}
    if (
        isinstance(value, list)
        and len(value) == size
        and not any(isinstance(item, (Tensor, Mapping)) for item in value)
    ):
        return [value[place] for place in places]
    if isinstance(value, (tuple, list)):
        parts = [_part(item, places, size) for item in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def _joined(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return first if first.dim() == 0 else torch.cat(list(values))
    if isinstance(first, Mapping):
        return {key: _joined([value[key] for value in values]) for key in first}
    if isinstance(first, (tuple, list)):
        items = [_joined(part) for part in zip(*values, strict=True)]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    return first
