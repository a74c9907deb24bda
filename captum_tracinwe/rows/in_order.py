"""Positions in the order of the rows that they are folded into: by example, and within it by token."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["in_order"]


def in_order(examples: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The positions in order, ``(P,)``, and in that order their examples, their tokens, and where a row starts.

    Repeats of a token keep their order. On a GPU nothing is waited for.
    """
    order = torch.sort(ids, stable=True).indices
    order = order[torch.sort(examples[order], stable=True).indices]
    examples, ids = examples[order], ids[order]
    starts = torch.ones_like(ids, dtype=torch.bool)
    starts[1:] = (ids[1:] != ids[:-1]) | (examples[1:] != examples[:-1])
    return order, examples, ids, starts
