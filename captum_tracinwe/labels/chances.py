"""How probable a wrong label is, and how many there are, without one label that is known to be right."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Chances", "rising"]

# The share of wrong labels is read off at the most suspicious texts, no fewer than these, because the fewest are the least exact.
FEWEST, LEAST_PART = 20, 0.01
# Nobody is surer than this of a label that no person looked at: right labels that look wrong are in every set. Over 12 sets the
# first 50 were promised to be 48 and were 42.
SUREST = 0.9


def rising(scores: Tensor, values: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean of ``values`` given the score, as a function that never falls: ``(N,)``, float64 (isotonic regression).

    Source: Barlow et al., *Statistical Inference under Order Restrictions*, 1972 (pool adjacent violators).
    """
    distinct, place = torch.unique(scores, return_inverse=True)
    weights = torch.ones_like(values, dtype=torch.float64) if weights is None else weights.double()
    mass = torch.zeros(len(distinct), dtype=torch.float64).index_add_(0, place, weights)
    sums = torch.zeros(len(distinct), dtype=torch.float64).index_add_(0, place, weights * values.double())
    pools: list[list[float]] = []  # sum, mass, how many scores
    for total, weight in zip(sums.tolist(), mass.tolist(), strict=True):
        pool = [total, weight, 1]
        while pools and pools[-1][0] * pool[1] >= pool[0] * pools[-1][1]:
            before = pools.pop()
            pool = [before[0] + pool[0], before[1] + pool[1], before[2] + pool[2]]
        pools.append(pool)
    means = torch.tensor([total / weight for total, weight, _ in pools], dtype=torch.float64)
    return means.repeat_interleave(torch.tensor([int(count) for *_, count in pools]))[place]


@dataclass(frozen=True, eq=False)
class Chances:
    """The labels as a mixture of right and wrong ones, judged by a voice that has not seen them.

    To a voice that was told a text without its label, every other class of the text is a wrong label that it has not seen
    either. So the scores F₁ of wrong labels are known, and those of all labels are F = share · F₁ + (1 − share) · F₀, with F₀
    of the right ones. Where a score is so high that no right label has it, share = P(F ≥ s) / P(F₁ ≥ s); elsewhere that ratio is
    too large, so that the smallest is taken. The chance of a wrong label at a score is share · f₁ / f, made to rise with the
    score.

    It holds where wrong labels fall on classes as by chance, or on a class of its own for each class; of errors that fall on the
    second best class, as those of a tired reader do, the first places are promised more than they hold and the rest less. Where
    the voice hardly tells the classes apart, no score is so high, and ``share`` is an upper bound.
    Source of the mixture: Scott, *A Rate of Convergence for Mixture Proportion Estimation*, 2015.

    Args:
        share (float): of wrong labels.
        wrong (Tensor): float64 ``(N,)``, the chance of each.
    """

    share: float
    wrong: Tensor

    @classmethod
    def of(cls, told: Tensor, labels: Tensor) -> Chances:
        """Of what a voice says about each class, ``(N, K)``, higher for the better, without having seen the labels."""
        size, classes = told.shape
        best = told.topk(2, dim=1)
        # The margin of each class as if it were the label: the best of all others, less its own.
        ahead = best.values[:, :1].repeat(1, classes)
        ahead.scatter_(1, best.indices[:, :1], best.values[:, 1:])
        ahead -= told
        own = torch.zeros_like(told, dtype=torch.bool)
        own[torch.arange(size), labels] = True
        scores, wrong = ahead[own], ahead[~own]
        descending = scores.sort(descending=True).values
        tail = torch.searchsorted(wrong.sort().values, descending)  # wrong ones below each
        first = min(size, max(FEWEST, math.ceil(LEAST_PART * size)))
        counts = torch.arange(1, size + 1, dtype=torch.float64)
        # By one standard deviation too many, for the smallest of many is too small by chance.
        seen = (counts + counts.sqrt()) / size
        ratios = seen / (1 - tail.double() / len(wrong)).clamp_min(1e-12)
        share = min(1.0, float(ratios[first - 1 :].min()))
        if share <= 0 or not len(wrong):
            return cls(0.0, torch.zeros(size, dtype=torch.float64))
        # A label of the mixture, or a wrong one of which there are `share`: how often it is the latter, as it rises.
        both = torch.cat([scores, wrong])
        is_wrong = torch.cat([torch.zeros(size), torch.ones(len(wrong))])
        weights = torch.cat([torch.full((size,), 1 / size), torch.full((len(wrong),), share / len(wrong))])
        part = rising(both, is_wrong, weights)[:size]
        return cls(share, (part / (1 - part).clamp_min(1e-12)).clamp(0, SUREST))
