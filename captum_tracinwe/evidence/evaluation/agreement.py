"""How far two methods name the same examples: overlap of their top k, and rank correlation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.evidence.evaluation.checks import checked_scores
from captum_tracinwe.evidence.evaluation.tables import tidy
from captum_tracinwe.rows.ranking import top_k

__all__ = ["agreement_table", "ranks", "spearman", "top_k_agreement"]


def ranks(values: Tensor) -> Tensor:
    """Ranks along the last dimension, from 0 for the lowest, float64; equal values share the mean of their ranks."""
    values = values.detach().cpu().double().contiguous()
    if bool(values.isnan().any()):
        raise ValueError("ranks: expected numbers, got NaN, which has no rank.")
    ordered = values.sort(-1).values
    first = torch.searchsorted(ordered, values, right=False)
    last = torch.searchsorted(ordered, values, right=True) - 1
    return (first + last).double() / 2


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's correlation along the last dimension: ``(..., M)`` and ``(..., M)`` → ``(...)``; NaN where a side is constant.

    Raises:
        ValueError: shapes that differ.

    Example:
        >>> import torch
        >>> spearman(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([0.0, 5.0, 6.0]))
        tensor(1., dtype=torch.float64)
    """
    if a.shape != b.shape:
        raise ValueError(f"spearman: expected two tensors of one shape, got {tuple(a.shape)} and {tuple(b.shape)}.")
    x, y = (r - r.mean(-1, keepdim=True) for r in (ranks(a), ranks(b)))
    return (x * y).sum(-1) / (x.square().sum(-1) * y.square().sum(-1)).sqrt()


def top_k_agreement(a: Tensor, b: Tensor, k: int, proponents: bool = True) -> Tensor:
    """The share of the k strongest that both scores ``(N, M)`` name, for each test example: ``(N,)``.

    Raises:
        ValueError: shapes that differ, or a ``k`` outside 1..M.
    """
    if a.shape != b.shape or a.dim() != 2 or not 1 <= k <= a.shape[1]:
        raise ValueError(
            f"top_k_agreement: expected scores (N, M) of one shape and k from 1 to M, got {tuple(a.shape)}, "
            f"{tuple(b.shape)}, {k}."
        )
    mine, theirs = (top_k(checked_scores(scores, "top_k_agreement"), k, proponents)[0] for scores in (a, b))
    return (mine[:, :, None] == theirs[:, None]).any(2).double().mean(1)


def agreement_table(scores: Mapping[str, Tensor], k: int = 100) -> Any:
    """Tidy: for each pair of methods the mean over test examples of Spearman's correlation and of the top-k overlap."""
    names = list(scores)
    return tidy(
        [
            {
                "first": a,
                "second": b,
                "spearman": spearman(scores[a], scores[b]).nanmean().item(),
                "proponents": top_k_agreement(scores[a], scores[b], k).mean().item(),
                "opponents": top_k_agreement(scores[a], scores[b], k, False).mean().item(),
            }
            for place, a in enumerate(names)
            for b in names[place + 1 :]
        ]
    )
