"""One step of a row, shared out among the examples whose gradients made it."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["shares_of"]

# Where gradients of a row cancel to less than this part of their lengths, their sum has no direction to go by.
CANCELS = 0.01


def shares_of(rows: RowGradients, moves: Tensor, places: Tensor) -> Tensor:
    r"""What each example's row has of its word's move: ``(R, D)``; those of a word add up to its move.

    With :math:`g_j` the rows of one word's holders, :math:`G = \sum_j g_j` and :math:`\Delta` its move,

    .. math::
        s_j = \eta g_j + \frac{|g_j|}{\sum_k |g_k|} (\Delta - \eta G), \qquad
        \eta = \langle\Delta, G\rangle / \langle G, G\rangle.

    Plain SGD moves a row along G, so that :math:`s_j = -\text{rate} \cdot g_j`. A row without gradient has no share, and where
    no holder has one the move is nobody's.

    Args:
        rows (RowGradients): of the batch's examples.
        moves (Tensor): ``(U, D)``, of each distinct word.
        places (Tensor): int64 ``(R,)``, the word of each row among these.
    """
    gradients, words = rows.values, len(moves)
    largest = gradients.abs().amax(1)
    shares = moves[places] * (largest > 0)[:, None]
    held = torch.zeros(words, dtype=torch.int64, device=places.device).index_add_(0, places, (largest > 0).long())
    several = (held[places] > 1).nonzero().flatten()
    if not len(several):
        return shares
    places, gradients = places[several], gradients[several]
    # Of one size for each word, so that squares of small gradients do not vanish.
    scale = largest.new_zeros(words).scatter_reduce_(0, places, largest[several], "amax")
    gradients = gradients / scale[places, None]
    lengths = gradients.norm(dim=1)
    total = torch.zeros_like(moves).index_add_(0, places, gradients)
    whole = lengths.new_zeros(words).index_add_(0, places, lengths)
    rate = (moves * total).sum(1) / total.square().sum(1).maximum((CANCELS * whole).square()).clamp_min(1e-30)
    left = moves - rate[:, None] * total
    shares[several] = rate[places, None] * gradients + (lengths / whole[places])[:, None] * left[places]
    return shares
