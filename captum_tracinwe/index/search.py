"""The exact k best training examples: bound all of them by their sketches, verify in the order of the bound, stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from captum_tracinwe.index.rounds import Bounded, Ranking, block_size, question_of
from captum_tracinwe.index.snapshot import Snapshot
from captum_tracinwe.preconditioners import Length
from captum_tracinwe.rows.ranking import RANKING_COLUMNS, merge_top_k, ranking_rows
from captum_tracinwe.rows.row_gradients import RowGradients
from captum_tracinwe.tabular import frame

__all__ = ["SearchResult", "SearchStats", "merge_results", "search"]


@dataclass(frozen=True, eq=False)
class SearchStats:
    """What a search read. Counts are those of one test example: the mean, where there are several.

    Args:
        examples (int): training examples that were looked at by their bounds.
        verified (float): of these, how many gradients were read and multiplied.
        rows_read, bytes_read (float): sketch rows and gradient rows; bytes with ids and lists. A verified example counts with
            all its rows, whether or not the test example has their tokens.
        payload_bytes (int): row gradients of the index (ptr, ids, values): what scoring everything reads.
        verified_per_test, bytes_per_test (Tensor): int64 ``(N,)``.
        intervals (Tensor or None): ``(N, k, 2)``, lower and upper end of each score: of an approximate search, and of an index
            of int8, int4 or int2, or built with ``project``: its rows are not whole.
    """

    examples: int
    verified: float
    rows_read: float
    bytes_read: float
    payload_bytes: int
    verified_per_test: Tensor
    bytes_per_test: Tensor
    intervals: Tensor | None = None


class SearchResult(NamedTuple):
    """The k training examples found for each of N test examples.

    Args:
        indices (Tensor): int64 ``(N, min(k, M))``, the strongest first; ties by index.
        influence_scores (Tensor): float32, of the same shape.
        stats (SearchStats): what was read.
    """

    indices: Tensor
    influence_scores: Tensor
    stats: SearchStats

    def rows(self) -> list[dict[str, Any]]:
        """One dict for each training example that was found: ``test_index``, ``train_index``, ``rank`` from 1, and ``score``.

        With ``stats.intervals`` also ``low`` and ``high``, between which the score certainly lies.
        """
        ends = None if self.stats.intervals is None else self.stats.intervals.tolist()
        rows = ranking_rows(self.indices, self.influence_scores)
        if ends is None:
            return rows
        between = [end for own in ends for end in own]
        return [{**row, "low": low, "high": high} for row, (low, high) in zip(rows, between, strict=True)]

    def to_table(self) -> Any:
        """A ``pandas.DataFrame`` of :meth:`rows`; where pandas is not installed a list of dicts."""
        more = () if self.stats.intervals is None else ("low", "high")
        return frame(self.rows(), (*RANKING_COLUMNS, *more))


def search(
    index: Snapshot,
    rows: RowGradients,
    k: int,
    proponents: bool = True,
    *,
    where: Mapping[str, Any] | None = None,
    indices: Sequence[int] | Tensor | None = None,
    approximate: int | None = None,
    length: Length | None = None,
) -> SearchResult:
    """See :meth:`GradientIndex.search`."""
    index.warn_unfinished(stacklevel=5)  # whoever called GradientIndex.search, which is decorated
    question = question_of(index, rows, proponents, approximate is not None)
    allowed = index.allowed(where, indices)
    k = min(k, int(allowed.sum()))
    factors, step, size = index.factors(length), block_size(len(allowed)), len(question.rows)
    found = [
        _found(index, ranking, question.sign)
        for start in range(0, size, step)
        for ranking in Bounded(index, question, start, min(start + step, size), allowed, factors).rankings(
            k, approximate
        )
    ]
    numbers = [one[0] for one in found]
    empty = torch.empty((0, k), dtype=torch.float32)
    counts = torch.tensor([one[3] for one in found], dtype=torch.int64).view(-1, 3)
    mean = [float(value) if len(found) != 1 else int(value) for value in counts.double().mean(0).nan_to_num().tolist()]
    intervals = None
    if approximate is not None or question.left is not None:
        intervals = torch.stack([one[2] for one in found]) if found else torch.empty((0, k, 2), dtype=torch.float32)
    return SearchResult(
        torch.stack(numbers) if found else empty.long(),
        torch.stack([one[1] for one in found]) if found else empty,
        SearchStats(len(index), mean[0], mean[1], mean[2], index.payload_bytes, counts[:, 0], counts[:, 2], intervals),
    )


def merge_results(parts: Sequence[SearchResult], k: int, proponents: bool = True) -> SearchResult:
    """The result over several parts of an index (:meth:`GradientIndex.part`), searched wherever."""
    if any(part.stats.intervals is not None for part in parts):
        raise ValueError(
            "merge_results: expected exact results, got some with intervals: of an approximate search, or of an index with fewer "
            "bits or columns."
        )
    first, *others = parts
    best, stats = (first.indices, first.influence_scores), first.stats
    for part in others:
        size = best[0].shape[1] + part.indices.shape[1]
        best = merge_top_k(best, (part.indices, part.influence_scores), min(k, size), proponents)
        more = part.stats
        stats = SearchStats(
            stats.examples + more.examples,
            stats.verified + more.verified,
            stats.rows_read + more.rows_read,
            stats.bytes_read + more.bytes_read,
            stats.payload_bytes + more.payload_bytes,
            stats.verified_per_test + more.verified_per_test,
            stats.bytes_per_test + more.bytes_per_test,
        )
    return SearchResult(*best, stats)


def _found(index: Snapshot, ranking: Ranking, sign: float) -> tuple[Tensor, Tensor, Tensor, tuple[int, int, int]]:
    """Indices, scores, intervals and counts of one test example, when all that can be among the best is verified."""
    while ranking.goes_on:
        ranking.verify_more()
    best, scores = ranking.best()
    ends = ranking.intervals(best, scores)
    # + 0.0: the opponents' 0 is not −0.
    return (
        index.numbers_at(best),
        torch.from_numpy(scores * np.float32(sign) + np.float32(0)),
        ends if sign > 0 else -ends.flip(1),
        ranking.counts(),
    )
