"""How far training moved each word's vector, less what weight decay alone does to all of them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["moved"]


def moved(first: Tensor, last: Tensor, words: Tensor) -> Tensor:
    """The distance of each word's last vector from its first one as weight decay alone would have left it, float64 ``(V,)``.

    Weight decay shrinks all vectors, used or not: in 3,000 steps of AdamW at a decay of 0.01, words that no text held moved two
    thirds as far as those that were trained. By how much it shrinks them, those words tell: the median of what is left of them,
    or 1 where the texts hold all words.

    Args:
        first, last (Tensor): the table at two checkpoints, ``(V, D)``.
        words (Tensor): int64 ``(W,)``, those of the training texts; others come out as 0.
    """
    first, last = first.double(), last.double()
    used = torch.zeros(len(first), dtype=torch.bool)
    used[words] = True
    squares = first.square().sum(1)
    left = ((first * last).sum(1) / squares)[~used & (squares > 0)]
    left = left[left.isfinite()]
    kept = float(left.median().clamp(0, 1)) if len(left) else 1.0
    return torch.where(used, (last - kept * first).norm(dim=1), 0.0)
