"""Tensors and lists of different lengths as one tensor, filled up on the right, in any number of dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["padded"]


def padded(values: Sequence[Tensor | list[Any]], fill: float) -> tuple[Tensor, Tensor]:
    """One tensor of all values, one along the first dimension, and a mask of the same shape: 1 where a value stands, else 0.

    Args:
        values (sequence): tensors, or lists of lists of numbers.
        fill (number): what stands elsewhere; 0 among numbers with a fraction.

    Example:
        >>> padded([torch.tensor([5, 6]), torch.tensor([7])], -100)[0]
        tensor([[   5,    6],
                [   7, -100]])
    """
    parts = list(_rows(values, ()))
    depth = max(len(place) + row.dim() for place, row in parts)
    shape = [0] * depth
    for place, row in parts:
        for axis, size in enumerate((*(index + 1 for index in place), *row.shape)):
            shape[axis] = max(shape[axis], size)
    dtype = next((row.dtype for _, row in parts if row.numel()), parts[0][1].dtype)
    found = torch.full(shape, 0 if dtype.is_floating_point and fill == -100 else fill, dtype=dtype)
    mask = torch.zeros(shape, dtype=torch.int64)
    for place, row in parts:
        at = (*place, *(slice(0, size) for size in row.shape))
        found[at], mask[at] = row, 1
    return found, mask


def _rows(values: Sequence[Any], place: tuple[int, ...]) -> Any:
    """Each tensor, or innermost list, and where it stands."""
    for index, value in enumerate(values):
        if isinstance(value, Tensor):
            yield (*place, index), value
        elif value and isinstance(value[0], (list, tuple)):
            yield from _rows(value, (*place, index))
        else:
            yield (*place, index), torch.as_tensor(value)
