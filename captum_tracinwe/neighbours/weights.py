"""Weights for training examples, by what each does to a small set of texts that are trusted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from captum_tracinwe.batches.arguments import is_plain, is_rate, kind_of
from captum_tracinwe.batches.batch import Batch
from captum_tracinwe.gradients.switches import undisturbed
from captum_tracinwe.neighbours.asked import check_inputs, check_progress, check_tracin
from captum_tracinwe.tracin_we import TracInWE

__all__ = ["example_weights"]


@undisturbed
def example_weights(
    tracin: TracInWE,
    trusted: Batch | DataLoader[Any],
    *,
    step: float = 1.0,
    start: Tensor | None = None,
    show_progress: bool | None = False,
) -> Tensor:
    r"""Weights of the training examples, for a weighted loss or a sampler: a step along their influence on trusted texts.

    .. math:: w = \Pi\left(w^0 + \text{step} \cdot \frac{s}{\sqrt{\sum_j s_j^2 / M}}\right),
        \qquad s_j = \sum_{v \in \text{trusted}} \text{score}(v, j)

    with Π the nearest point (Euclidean) among weights that are ≥ 0 and have the mean 1. The influence s is, to first order, by
    how much the loss on the trusted texts falls per unit of the weight of j: the step is one of projected gradient descent on the
    trusted loss. For further rounds train with the weights, make a TracInWE of that model, and pass them as ``start``.

    After Ren, Yeh, Schwing, *Not All Unlabeled Data are Equal*, NeurIPS 2020, arXiv 2007.01293, which weights unlabelled
    examples so, turn by turn with training. Here the examples have labels, some of which may be wrong.

    Args:
        tracin (TracInWE): the model, its training set of M examples, its checkpoints; with an index, its rows are read. The score
            is the one it is set to: ``preconditioner="auto"`` is recommended.
        trusted (batch or DataLoader): test examples with labels that are right; a hundred or more.
        step (float): how far to go, in units of the root mean square of the influence. 0 leaves the weights as they are.
        start (Tensor, optional): ``(M,)``, the weights that the model was trained with. Default: 1 each.
        show_progress (bool, optional): a bar over the training batches; None: where a person looks.

    Returns:
        Tensor: float64 ``(M,)``, ≥ 0, of mean 1. Those of texts deleted from an index are 0, and no part of the mean.

    Raises:
        TypeError: an argument of another kind.
        ValueError: a step below 0; `start` of another shape, below 0 or of a mean other than 1; no training text with any
            influence on the trusted ones.

    Example:
        >>> from captum_tracinwe.neighbours import example_weights
        >>> from captum_tracinwe.testing import toy_tracin
        >>> tracin, trusted = toy_tracin()
        >>> weights = example_weights(tracin, trusted)
        >>> bool((weights >= 0).all()), round(float(weights.mean()), 6)
        (True, 1.0)
        >>> best = tracin.influence(trusted).sum(0).argmax()
        >>> bool(weights[best] == weights.max())
        True
    """
    check_tracin(tracin, "example_weights")
    check_inputs(trusted, "example_weights", "trusted", "test examples whose labels are right")
    check_progress(show_progress, "example_weights")
    if not is_rate(step):
        raise ValueError(f"example_weights: expected `step` as a finite number of at least 0, got {step!r:.60}.")
    question = replace(tracin.question(trusted, aggregate=True), by_own_length=True)
    influence = tracin.source.scores(question, show_progress)[0].double().cpu()
    there = influence > -torch.inf  # of those deleted from an index
    before = _checked(start, len(influence), there)
    largest = influence[there].abs().amax()
    if not float(largest) > 0:
        raise ValueError(
            f"example_weights: none of the {int(there.sum())} training examples has any influence on the trusted ones: expected "
            f"trusted texts that share words with them, and checkpoints whose learning rate is not 0."
        )
    direction = influence[there] / largest  # of one size, so that no square is too large or too small for a float
    moved = before[there] + float(step) * (direction / direction.square().mean().sqrt())
    if not bool(moved.isfinite().all()):
        raise ValueError(f"example_weights: `step` is {step!r:.60}, which no weight can go: expected at most 1e300.")
    found = torch.zeros_like(influence)
    found[there] = _nearest(moved)
    return found


def _nearest(wanted: Tensor) -> Tensor:
    """The nearest weights ≥ 0 of mean 1: max(wanted − t, 0), with the t that makes it so (Held, Wolfe, Crowder 1974)."""
    size = len(wanted)
    wanted = wanted - wanted.amax()  # the same up to t, and small beside the sum of the weights where it matters
    falling = wanted.sort(descending=True).values
    cuts = (falling.cumsum(0) - size) / torch.arange(1, size + 1, dtype=wanted.dtype)
    last = int((falling > cuts).nonzero()[-1])
    found = (wanted - cuts[last]).clamp_min(0)
    return found / found.mean()  # 1 but for rounding


def _checked(start: Any, size: int, there: Tensor) -> Tensor:
    if start is None:
        return torch.ones(size, dtype=torch.float64)
    if not isinstance(start, Tensor):
        raise TypeError(f"example_weights: expected `start` as a torch.Tensor, got {type(start).__name__}.")
    if start.shape != (size,):
        raise ValueError(
            f"example_weights: `start` is of shape {tuple(start.shape)}: expected one weight for each of {size} training "
            f"examples, ({size},), such as those that example_weights gave before."
        )
    if not is_plain(start):
        raise TypeError(f"example_weights: expected `start` as a dense tensor of real numbers, got {kind_of(start)}.")
    found = start.detach().cpu().double()
    mean = float(found[there].mean())
    if not bool((found >= 0).all()) or not abs(mean - 1) < 1e-3:
        raise ValueError(
            f"example_weights: `start` has the mean {mean:.4g} and the least {float(found.min()):.4g}: expected weights of at "
            f"least 0 with the mean 1. Divide them by their mean."
        )
    return found
