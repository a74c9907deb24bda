"""Fixing mistakes: a misread test example, its opponents removed or one word in them hidden; does retraining read it right?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.evidence.evaluation.checks import checked_answers, checked_scores, checked_seeds
from captum_tracinwe.evidence.evaluation.intervals import Interval, bootstrap
from captum_tracinwe.evidence.evaluation.tables import tidy
from captum_tracinwe.evidence.evaluation.words import Position, RetrainHidden
from captum_tracinwe.rows.ranking import top_k

__all__ = ["Mistakes", "fixing_mistakes", "without_opponents"]


@dataclass(frozen=True, eq=False)
class Mistakes:
    """S seeds × N test examples.

    Args:
        wrong_before, right_after (Tensor): bool, ``(S, N)``.
    """

    wrong_before: Tensor
    right_after: Tensor

    def fixed(self, **options: Any) -> Interval:
        """The share of mistakes that are gone, with its interval over test examples (options of :func:`bootstrap`)."""
        wrong = self.wrong_before.double()
        gone = (self.wrong_before & self.right_after).double()
        if not bool(wrong.any()):
            raise ValueError("fixing mistakes: no test example was misread before; expected at least one.")
        return bootstrap(lambda indices: gone[:, indices].sum() / wrong[:, indices].sum(), wrong.shape[1], **options)

    def to_table(self) -> Any:
        """Tidy: seed (its place), test, wrong_before, right_after."""
        return tidy(
            [
                {"seed": s, "test": i, "wrong_before": before, "right_after": after}
                for s, rows in enumerate(zip(self.wrong_before.tolist(), self.right_after.tolist(), strict=True))
                for i, (before, after) in enumerate(zip(*rows, strict=True))
            ]
        )


def without_opponents(scores: Tensor, k: int) -> Tensor:
    """bool ``(N, M)``: for each test example the training set without its k strongest opponents."""
    scores = checked_scores(scores, "without_opponents")
    if not 0 <= k < scores.shape[1]:
        raise ValueError(f"without_opponents: expected k from 0 to below {scores.shape[1]} training examples, got {k}.")
    named = top_k(scores, k, False)[0]
    return torch.ones(scores.shape, dtype=torch.bool).scatter_(1, named, False)


def fixing_mistakes(
    correct: RetrainHidden,
    keep: Tensor,
    *,
    hidden: Sequence[Sequence[Position]] | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
) -> Mistakes:
    """Retrain once as before and once per test example, with what ``keep`` and ``hidden`` leave.

    Args:
        correct (callable): ``(keep, seeds, hidden) -> (J, N)``, not 0 where job j reads test example i correctly; the
            ``correct`` of :class:`~captum_tracinwe.evidence.retraining.OneByOne`, for one.
        keep (Tensor): bool, ``(N, M)``, of :func:`without_opponents`; all True to hide words only.
        hidden (sequence of lists, optional): for each test example the (training example, position) to hide.
        seeds (sequence of int): a retraining before and after share one.

    Raises:
        ValueError: not one list of positions per test example.
    """
    seeds = checked_seeds(seeds, "fixing_mistakes")
    if keep.dtype != torch.bool or keep.dim() != 2:
        raise ValueError(
            f"fixing_mistakes: expected `keep` as bool (N, M), what `without_opponents` gives, got {keep.dtype} "
            f"{tuple(keep.shape)}."
        )
    tests, trains = keep.shape
    if hidden is not None and len(hidden) != tests:
        raise ValueError(
            f"fixing_mistakes: expected `hidden` as one list per test example, {tests}, got {len(hidden)}."
        )
    lists = [[] for _ in range(tests)] if hidden is None else list(hidden)
    whole = torch.ones(1, trains, dtype=torch.bool)
    jobs = torch.cat([whole, keep.cpu()]).repeat(len(seeds), 1)
    owners = [seed for seed in seeds for _ in range(1 + tests)]
    answers = checked_answers(correct(jobs, owners, [[], *lists] * len(seeds)), len(jobs), tests, "fixing_mistakes")
    if not bool(((answers == 0) | (answers == 1)).all()):
        raise ValueError(
            "fixing_mistakes: expected `correct` to answer whether a test example is read correctly (bool), got other numbers: "
            "compare the largest logit with the label."
        )
    answers = answers.bool().view(len(seeds), 1 + tests, tests)
    return Mistakes(~answers[:, 0], answers[:, 1:].diagonal(dim1=1, dim2=2))
