"""Weights of examples under which words and labels are independent, as near to 1 as that allows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_tracinwe.batches.arguments import as_float
from captum_tracinwe.neighbours.asked import as_list, check_wholes
from captum_tracinwe.neighbours.biased_words import lexical_bias
from captum_tracinwe.neighbours.held_words import Held

__all__ = ["IndependenceWeights", "independence_weights"]

# Steps of L-BFGS between two looks at the residual.
_STEPS = 20


@dataclass(frozen=True)
class IndependenceWeights:
    """A weight for each example.

    Args:
        weights (Tensor): float64 ``(M,)``, mean 1, from 0 to ``max_weight``.
        words (tuple of str): those made independent of the labels.
        left_out (tuple of str): words that some label never has: only weights of 0 would make them independent.
        residual (float): the largest distance of a word's weighted label share from that label's share of the data; 0 is
            independence.
        before (float): the same without weights.
        steps (int): of the optimiser.
        tolerance, max_weight (float): as asked.
    """

    weights: Tensor
    words: tuple[str, ...]
    left_out: tuple[str, ...]
    residual: float
    before: float
    steps: int
    tolerance: float
    max_weight: float

    @property
    def converged(self) -> bool:
        """Whether ``residual`` is at most ``tolerance``."""
        return self.residual <= self.tolerance

    @property
    def effective(self) -> float:
        """As how many examples of equal weight they count: (Σw)² / Σw²."""
        return float(self.weights.sum() ** 2 / self.weights.square().sum())

    def __repr__(self) -> str:
        """In one line, and without the weights."""
        return (
            f"IndependenceWeights(<{len(self.weights):,} weights from {self.weights.min():.3g} to {self.weights.max():.3g}>, "
            f"words={len(self.words)}, residual={self.residual:.2g}, converged={self.converged}, effective={self.effective:,.0f})"
        )

    def __str__(self) -> str:
        state = "independent within the tolerance" if self.converged else "not within the tolerance"
        return (
            f"{len(self.words)} words and their labels: {state} of {self.tolerance:g}, largest distance {self.residual:.2g} "
            f"({self.before:.2g} without weights). Left out, for a label never has them: {len(self.left_out)}.\n"
            f"Weights from {self.weights.min():.3g} to {self.weights.max():.3g}, as good as "
            f"{self.effective:,.0f} of {len(self.weights):,} examples."
        )


def independence_weights(
    texts: Sequence[str | Sequence[str]],
    labels: Sequence[object] | Tensor,
    *,
    words: Sequence[str] | None = None,
    max_weight: float = 10.0,
    tolerance: float = 0.01,
    max_steps: int = 2000,
    least_texts: int = 20,
) -> IndependenceWeights:
    r"""Weights of training examples under which each listed word has each label as often as all texts have it.

    For each listed word x and label y, with q_y the label's share of the data: Σ_{i holds x, yᵢ = y} wᵢ = q_y · Σ_{i holds x} wᵢ,
    and likewise for all texts together, so that labels stay as frequent as they are. Of the weights from 0 to ``max_weight`` with
    mean 1 that do this, those are taken whose relative entropy Σ wᵢ log wᵢ is least: as near to 1 as can be. They have the form
    wᵢ = min(max_weight, exp(ν + Σ_{x in i} λ_{x,yᵢ} − Σ_y q_y λ_{x,y})). λ and ν minimise a smooth convex function of
    (words + 1) × labels numbers, by L-BFGS from 0, which makes the result one and the same each time.

    Train with them as weights of the loss: ``(weights * losses).mean()``.

    Args:
        texts, labels: M of each, as in :func:`lexical_bias`.
        words (sequence of str, optional): in lower case. Default: those that :func:`lexical_bias` finds biased.
        max_weight (float): above 1: the largest weight. A small one keeps more examples in play, and may be in the way.
        tolerance (float): the largest residual that counts as independent.
        max_steps (int): of the optimiser.
        least_texts (int): of the default's words, as in :func:`lexical_bias`.

    Returns:
        IndependenceWeights: with the residual that was reached. Where it is above the tolerance, a warning says so: many words
        of few texts may contradict each other. A word that some label never has is left out and named: only weights of 0 would
        make it independent.

    Raises:
        ValueError, TypeError: as of :func:`lexical_bias`; a word that no text has, an option out of range, no biased words, or
            none that all labels have.

    Source: Serrano, Dodge, Smith, *Stubborn Lexical Bias in Data and Models*, arXiv 2306.02190, for the constraints. Entropy as
    the distance, and its dual, are ours (exponential tilting).

    Example:
        >>> from captum_tracinwe.neighbours import independence_weights
        >>> texts = ["nobody sleeps"] * 30 + ["a man sleeps"] * 10 + ["nobody sleeps"] * 10 + ["a man sleeps"] * 30
        >>> found = independence_weights(texts, [0] * 40 + [1] * 40, words=["nobody"])
        >>> found.converged, [round(float(found.weights[i]), 2) for i in (0, 30, 40, 50)]
        (True, [0.67, 2.0, 2.0, 0.67])
    """
    for name, value, least in (("max_weight", max_weight, 1.0), ("tolerance", tolerance, 0.0)):
        given: Any = value
        if isinstance(given, bool) or not isinstance(given, Real) or not least < as_float(given) < math.inf:
            raise ValueError(f"independence_weights: expected `{name}` as a number above {least:g}, got {value!r:.60}.")
    max_weight, tolerance = float(max_weight), float(tolerance)
    check_wholes("independence_weights", max_steps=max_steps, least_texts=least_texts)
    if words is None:
        words = sorted({one.word for one in lexical_bias(texts, labels, least_texts=least_texts).biased})
        what = "no word is biased (`lexical_bias`)"
    else:
        words, what = _words(words), "`words` is empty"
    held = Held.of(texts, labels, "independence_weights", only=words)
    if not words:
        raise ValueError(f"independence_weights: {what}, so that nothing is to be done: expected at least one word.")
    left_out = tuple(word for word, counts in zip(held.words, held.table(), strict=True) if not counts.all())
    held = Held.of(texts, labels, "independence_weights", only=[word for word in held.words if word not in left_out])
    if not held.words:
        raise ValueError(
            f"independence_weights: each word lacks a label, such as {left_out[0]!r}: expected a word that texts of all labels "
            f"have. Only weights of 0 would make these independent; leave their texts out instead."
        )
    problem = _Problem(held, max_weight)
    before = problem.residual(torch.ones(held.size, dtype=torch.float64))
    weights, steps = problem.solve(tolerance, max_steps)
    residual = problem.residual(weights)
    if residual > tolerance:
        warnings.warn(
            f"independence_weights: after {steps} steps a word's label share is {residual:.3g} from that of all texts, more "
            f"than the tolerance of {tolerance:g}. Expected fewer or more frequent `words`, a larger `max_weight` or more "
            f"`max_steps`.",
            stacklevel=2,
        )
    return IndependenceWeights(
        weights, held.words, left_out, residual, before, steps, float(tolerance), float(max_weight)
    )


def _words(given: Any) -> list[str]:
    """The words asked for, in lower case."""
    kind = "text" if isinstance(given, str) else type(given).__name__
    words = as_list(given)
    if words is None:
        raise TypeError(f"independence_weights: expected `words` as a list of words, got the {kind} {given!r:.40}.")
    odd = [word for word in words if not isinstance(word, str)]
    if odd:
        raise TypeError(f"independence_weights: expected each of `words` as a str, got {odd[0]!r:.40} among them.")
    return [word.casefold() for word in words]


class _Problem:
    """The dual problem. A word that all texts hold stands at the end of the listed ones: it keeps the labels' shares.

    With a(η) = exp(η) up to log max_weight and the tangent from there on, the convex conjugate of the entropy within its bounds,
    the function is Σ_i a(η_i) − M ν, and its derivative in η_i is the weight of i.
    """

    def __init__(self, held: Held, max_weight: float) -> None:
        self.size, self.classes = held.size, len(held.names)
        self.codes = torch.from_numpy(held.codes)
        self.text = torch.from_numpy(np.concatenate([held.text_of, np.arange(held.size)]))
        self.word = torch.from_numpy(np.concatenate([held.word_of, np.full(held.size, len(held.words))]))
        self.holders = torch.bincount(self.word, minlength=len(held.words) + 1).double()
        self.shares = torch.bincount(self.codes, minlength=self.classes).double() / self.size
        self.max_weight = max_weight
        self.cap = math.log(max_weight)
        self.scale = self.holders.rsqrt()[
            :, None
        ]  # frequent words have steeper sides: all alike, L-BFGS takes fewer steps

    def table(self, weights: Tensor) -> Tensor:
        """Weight of each word's texts with each label, ``(words + 1, labels)``."""
        found = torch.zeros(len(self.holders) * self.classes, dtype=torch.float64)
        return found.index_add_(0, self.word * self.classes + self.codes[self.text], weights[self.text]).view(
            -1, self.classes
        )

    def residual(self, weights: Tensor) -> float:
        """Largest distance of a share; of a word whose texts all weigh 0 the constraint holds, but nothing is left of it."""
        table = self.table(weights)
        whole = table.sum(1, keepdim=True)
        return float(torch.where(whole > 0, table / whole.clamp_min(1e-300) - self.shares, 0.0).abs().max())

    def solve(self, tolerance: float, max_steps: int) -> tuple[Tensor, int]:
        tilt = torch.zeros(len(self.holders), self.classes, dtype=torch.float64, requires_grad=True)
        level = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [tilt, level],
            max_iter=_STEPS,
            history_size=20,
            line_search_fn="strong_wolfe",
            tolerance_grad=0,
            tolerance_change=0,
        )
        state: dict[str, Tensor] = {}  # where the last look was

        def value() -> Tensor:
            with torch.no_grad():
                scaled = tilt * self.scale
                free = scaled - (scaled @ self.shares)[:, None]
                terms = free[self.word, self.codes[self.text]]
                eta = level + torch.zeros(self.size, dtype=torch.float64).index_add_(0, self.text, terms)
                weights = eta.clamp_max(self.cap).exp()
                state["eta"] = eta
                table = self.table(weights)
                tilt.grad = (table - table.sum(1, keepdim=True) * self.shares) * self.scale
                level.grad = weights.sum() - self.size
                return (weights + self.max_weight * (eta - self.cap).clamp_min(0)).sum() - self.size * level

        steps, last = 0, math.inf
        while steps < max_steps:
            optimizer.step(value)  # type: ignore[no-untyped-call]
            steps += _STEPS
            value()
            now = self.residual(self.levelled(state["eta"]))
            # At half of what is asked for; or where nothing moves any more, because there are no such weights.
            if now <= tolerance / 2 or abs(last - now) < 1e-6 * tolerance:
                break
            last = now
        return self.levelled(state["eta"]), steps

    def levelled(self, eta: Tensor) -> Tensor:
        """The weights with ν such that their mean is 1 and none is above the largest, wherever the optimiser stands."""
        eta = (eta - eta.max()).clamp_min(
            -700
        )  # where there are no such weights, they drift apart beyond what floats tell
        low, high = -eta.max(), self.cap - eta.min()  # all are at most 1; all are the largest
        for _ in range(100):
            between = (low + high) / 2
            below = (eta + between).clamp_max(self.cap).exp().mean() < 1
            low, high = torch.where(below, between, low), torch.where(below, high, between)
        return (eta + high).clamp_max(self.cap).exp()
