"""Inputs on which torch checks `row_dot`: schema, shapes, devices and autograd (by `torch.library.opcheck`)."""

from __future__ import annotations

from torch import Tensor

from captum_tracinwe.rows.kernels.sides import two_sides

__all__ = ["cases"]


def cases(device: str) -> list[tuple[Tensor, ...]]:
    """Arguments of the op: each dtype, and no example at all."""
    return two_sides(device)
