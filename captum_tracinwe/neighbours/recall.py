"""What a search among candidates misses: recall at several numbers of them, as a table and as text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.evidence.evaluation.intervals import Interval, bootstrap_mean
from captum_tracinwe.tabular import frame

__all__ = ["RecallReport", "share_found"]


@dataclass(frozen=True, eq=False)
class RecallReport:
    """Which share of the exact top k a search among candidates finds, for several numbers of candidates.

    Of texts with the same exact score any will do.

    Args:
        k (int): of the top k.
        counts (tuple of int): numbers of candidates, ascending.
        recall (Tensor): float64 ``(N, len(counts))``, from 0 to 1.
        texts (int): M, training texts.
        scored (tuple of int): training texts that were scored, at each count; M in the exact search.
        seconds (tuple of float): of the scorer at each count; NaN where it did not run.
        seconds_exact (float): of the scorer on all texts; NaN where its scores were given.
        seconds_search (float): of the search for candidates.
        changed (float): how far a score on candidates is from the exact one at most, as a part of the largest exact score: 0 or
            rounding where the scorer looks at each pair alone; NaN where it did not run.
    """

    k: int
    counts: tuple[int, ...]
    recall: Tensor
    texts: int
    scored: tuple[int, ...]
    seconds: tuple[float, ...]
    seconds_exact: float
    seconds_search: float
    changed: float

    def interval(self, count: int, **options: Any) -> Interval:
        """Recall@k among ``count`` candidates, the mean over questions with its interval (options of
        :func:`~captum_tracinwe.evaluation.bootstrap`).

        Raises:
            ValueError: another count than those of the report, or fewer than two questions.
        """
        if count not in self.counts:
            raise ValueError(f"RecallReport.interval: expected one of the counts {self.counts}, got {count!r}.")
        if len(self.recall) < 2:
            raise ValueError(
                "RecallReport.interval: the report is of one question, of which there is no interval: expected two or more. "
                "report.recall has its figures."
            )
        return bootstrap_mean(self.recall[:, self.counts.index(count)], **options)

    def to_table(self, **options: Any) -> Any:
        """Tidy, a row for each count: candidates, recall, low, high, by_chance, scored, seconds, seconds_exact.

        Of one question there is no interval: low and high are NaN.
        """
        rows = []
        for place, count in enumerate(self.counts):
            found = self._interval(count, **options)
            rows.append(
                {
                    "candidates": count,
                    "recall": found.estimate,
                    "low": found.low,
                    "high": found.high,
                    "by_chance": count / self.texts,
                    "scored": self.scored[place],
                    "seconds": self.seconds_search + self.seconds[place],
                    "seconds_exact": self.seconds_exact,
                }
            )
        return frame(rows)

    def __str__(self) -> str:
        lines = [f"recall@{self.k} of {len(self.recall)} questions, {self.texts} training texts"]
        for place, count in enumerate(self.counts):
            spent = self.seconds_search + self.seconds[place]
            told = "" if spent != spent else f", {spent:.2f} s"
            told += f" against {self.seconds_exact:.2f} s" if told and self.seconds_exact == self.seconds_exact else ""
            found = self._interval(count)
            shown = str(found) if len(self.recall) > 1 else f"{found.estimate:+.3f} (one question, no interval)"
            lines.append(
                f"{count} candidates: {shown} (by chance {count / self.texts:.3f}), {self.scored[place]} texts scored{told}"
            )
        return "\n".join(lines)

    def _interval(self, count: int, **options: Any) -> Interval:
        """:meth:`interval`, with NaN for its ends where there is but one question."""
        if len(self.recall) > 1:
            return self.interval(count, **options)
        return Interval(float(self.recall[0, self.counts.index(count)]), math.nan, math.nan)


def share_found(exact: Tensor, found: Tensor, k: int, proponents: bool) -> Tensor:
    """Which share of each question's k best is among the texts ``found`` ``(N, F)``, float64 ``(N,)``.

    Args:
        exact (Tensor): scores ``(N, M)``. Of those equal to the k-th best, as many count as there is room for.
    """
    scores = exact if proponents else -exact
    last = scores.topk(k, dim=1).values[:, -1:]
    room = k - (scores > last).sum(1)
    own = scores.gather(1, found)
    better, equal = ((own > last).sum(1), (own == last).sum(1))
    return (better + torch.minimum(equal, room)).double() / k
