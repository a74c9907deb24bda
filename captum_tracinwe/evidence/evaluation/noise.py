"""Mislabelled training examples: how early a ranking meets them, and one ranking out of many scores.

Everywhere a low score is suspect: the most harmful examples come first. Of scores that say the opposite (loss, self-influence)
pass the negative. Measures and aggregations as in Vitel and Chhabra, arXiv 2511.04715.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.evidence.evaluation.agreement import ranks
from captum_tracinwe.evidence.evaluation.checks import checked_mask, checked_scores
from captum_tracinwe.evidence.evaluation.intervals import Interval, bootstrap
from captum_tracinwe.evidence.evaluation.tables import tidy

__all__ = [
    "NoiseCurve",
    "RocCurve",
    "aggregate",
    "auc_ndr",
    "ndr",
    "noise_detection_curve",
    "noise_intervals",
    "roc_auc",
    "roc_curve",
]


@dataclass(frozen=True, eq=False)
class NoiseCurve:
    """Recall of the mislabelled examples over the share of the training set that is looked at.

    Args:
        inspected, found (Tensor): float64, ``(M + 1,)``, both from 0 to 1.
        wrong (float): the share of mislabelled examples.
    """

    inspected: Tensor
    found: Tensor
    wrong: float

    def to_table(self) -> Any:
        """Tidy: inspected, found."""
        return tidy(
            [{"inspected": x, "found": y} for x, y in zip(self.inspected.tolist(), self.found.tolist(), strict=True)]
        )


def noise_detection_curve(scores: Tensor, wrong: Tensor) -> NoiseCurve:
    """Look at training examples from the lowest score up.

    Equal scores are met in no particular order: their mislabelled examples are spread evenly over them.

    Args:
        scores (Tensor): ``(M,)``; low = suspect.
        wrong (Tensor): bool, ``(M,)``: which labels are wrong.

    Raises:
        ValueError: shapes that do not fit, or labels that are all right or all wrong.

    Example:
        >>> import torch
        >>> curve = noise_detection_curve(torch.tensor([0.1, 0.2, 0.9, 1.0]), torch.tensor([True, False, False, False]))
        >>> ndr(curve, 25)
        1.0
    """
    scores, wrong = _checked(scores, wrong)
    _, group, sizes = torch.unique(scores, return_inverse=True, return_counts=True)
    hits = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, group, wrong.double())
    found = torch.repeat_interleave(hits / sizes, sizes).cumsum(0) / wrong.sum()
    inspected = torch.arange(len(scores) + 1, dtype=torch.float64) / len(scores)
    return NoiseCurve(inspected, torch.cat([found.new_zeros(1), found]), float(wrong.double().mean()))


def ndr(curve: NoiseCurve, percent: float = 30) -> float:
    """NDR@p: the share of the mislabelled examples found among the lowest p % of scores."""
    if not 0 <= percent <= 100:
        raise ValueError(f"ndr: expected a percentage from 0 to 100, got {percent!r}.")
    place = percent / 100 * (len(curve.found) - 1)
    below = min(int(place), len(curve.found) - 2)
    part = place - below
    return float(curve.found[below] * (1 - part) + curve.found[below + 1] * part)


def auc_ndr(curve: NoiseCurve) -> float:
    """The area under the recall curve, divided by that of a ranking with all mislabelled examples first."""
    return float(torch.trapezoid(curve.found, curve.inspected)) / (1 - curve.wrong / 2)


def roc_auc(scores: Tensor, wrong: Tensor) -> float:
    """The probability that a mislabelled example scores lower than another one; equal scores count half."""
    scores, wrong = _checked(scores, wrong)
    bad, good = int(wrong.sum()), int((~wrong).sum())
    above = float(ranks(scores)[~wrong].sum()) - good * (good - 1) / 2
    return above / (bad * good)


@dataclass(frozen=True, eq=False)
class RocCurve:
    """Share of the wrong labels found over the share of the right ones suspected with them.

    Args:
        right, wrong (Tensor): float64, from 0 to 1, a point for each distinct score and the origin.
    """

    right: Tensor
    wrong: Tensor

    def to_table(self) -> Any:
        """Tidy: right, wrong."""
        return tidy([{"right": x, "wrong": y} for x, y in zip(self.right.tolist(), self.wrong.tolist(), strict=True)])


def roc_curve(scores: Tensor, wrong: Tensor) -> RocCurve:
    """The receiver operating characteristic whose area is :func:`roc_auc`; arguments as there.

    Example:
        >>> import torch
        >>> curve = roc_curve(torch.tensor([0.1, 0.2, 0.2, 0.9]), torch.tensor([True, True, False, False]))
        >>> curve.right.tolist(), curve.wrong.tolist()
        ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0])
    """
    scores, wrong = _checked(scores, wrong)
    _, group = torch.unique(scores, return_inverse=True)
    counts = torch.zeros(2, int(group.max()) + 1, dtype=torch.float64)
    counts.index_put_((wrong.long(), group), torch.ones(len(scores), dtype=torch.float64), accumulate=True)
    shares = (counts.cumsum(1) / counts.sum(1, keepdim=True)).clamp_max(1)
    return RocCurve(*torch.cat([shares.new_zeros(2, 1), shares], 1))


def noise_intervals(scores: Tensor, wrong: Tensor, percent: float = 30, **options: Any) -> dict[str, Interval]:
    """ROC AUC, NDR@p and AUC_NDR with their intervals over training examples (options of :func:`bootstrap`)."""
    scores, wrong = _checked(scores, wrong)

    def of(measure: Any) -> Interval:
        def statistic(indices: Tensor) -> float:
            return float("nan") if wrong[indices].all() or not wrong[indices].any() else measure(indices)

        return bootstrap(statistic, len(scores), **({"draws": 1000} | options))

    return {
        "ROC AUC": of(lambda i: roc_auc(scores[i], wrong[i])),
        f"NDR@{percent:g}": of(lambda i: ndr(noise_detection_curve(scores[i], wrong[i]), percent)),
        "AUC_NDR": of(lambda i: auc_ndr(noise_detection_curve(scores[i], wrong[i]))),
    }


def aggregate(scores: Tensor, how: str = "mean", *, correct: Tensor | None = None, vote_share: float = 0.2) -> Tensor:
    """One number per training example out of scores on a test set; low = suspect.

    Args:
        scores (Tensor): ``(N, M)``, positive = proponent.
        how (str): "mean" of the scores; "rank": the mean rank of x over test examples, 0 = most harmful; "vote":
            −Σ max(k − rank, 0), k = ``vote_share`` · M.
        correct (Tensor, optional): bool, ``(N,)``: use only these test examples, those predicted correctly (the ``-c``
            variants).
        vote_share (float): share of the training set that each test example votes against.

    Returns:
        Tensor: ``(M,)``, float64.

    Raises:
        ValueError: another ``how``, no test example left, a share outside ]0, 1].

    Example:
        >>> import torch
        >>> aggregate(torch.tensor([[3.0, -1.0, 0.0], [5.0, -9.0, 1.0]]), "rank")
        tensor([2., 0., 1.], dtype=torch.float64)
    """
    chosen = checked_scores(scores, "aggregate")
    chosen = chosen if correct is None else chosen[checked_mask(correct, len(chosen), "aggregate", "correct")]
    if not len(chosen):
        raise ValueError("aggregate: no test example is left; expected at least one that `correct` keeps.")
    if how == "mean":
        return chosen.mean(0)
    if how == "rank":
        return ranks(chosen).mean(0)
    if how != "vote":
        raise ValueError(f"aggregate: expected `how` as 'mean', 'rank' or 'vote', got {how!r}.")
    if not 0 < vote_share <= 1:
        raise ValueError(f"aggregate: expected `vote_share` above 0 and at most 1, got {vote_share!r}.")
    return -(vote_share * chosen.shape[1] - ranks(chosen)).clamp_min(0).sum(0)


def _checked(scores: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
    if scores.dim() == 2:
        raise ValueError(
            f"noise detection: expected scores (M,), got {tuple(scores.shape)}. Scores on a test set become one number per "
            f"training example by `aggregate`."
        )
    scores = checked_scores(scores, "noise detection", 1)
    wrong = checked_mask(wrong, len(scores), "noise detection", "wrong")
    if bool(wrong.all()) or not bool(wrong.any()):
        raise ValueError("noise detection: expected some labels right and some wrong.")
    return scores, wrong
