"""Inputs on which torch checks `posting_dot`: schema, shapes, devices and autograd (by `torch.library.opcheck`)."""

from __future__ import annotations

from torch import Tensor

from captum_tracinwe.rows.kernels.sides import posting_lists, two_sides

__all__ = ["cases"]


def cases(device: str) -> list[tuple[Tensor | int, ...]]:
    """Arguments of the op: each dtype, and no example at all."""
    return [(*sides[:3], *posting_lists((sides[3], sides[4], sides[5]))) for sides in two_sides(device)]
