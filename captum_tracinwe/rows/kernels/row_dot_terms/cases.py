"""Inputs on which torch checks `row_dot_terms`: schema, shapes, devices and autograd (by `torch.library.opcheck`)."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_tracinwe.rows.kernels.sides import two_sides

__all__ = ["cases"]


def cases(device: str) -> list[tuple[Tensor, ...]]:
    """Arguments of the op: each dtype with a pair named twice, and no example at all."""
    pairs = torch.tensor([[0, 1], [2, 3], [0, 1]], device=device)
    return [(*sides, pairs if len(sides[0]) > 1 else pairs[:0]) for sides in two_sides(device)]
