"""The exact k best training examples: bound all of them by their sketches, verify in the order of the bound, stop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_tracinwe.index.snapshot import Snapshot, checked_question, divided
from captum_tracinwe.preconditioners import Length
from captum_tracinwe.rows import ops
from captum_tracinwe.rows.ranking import RANKING_COLUMNS, merge_top_k, ranking_rows
from captum_tracinwe.rows.row_gradients import RowGradients
from captum_tracinwe.tabular import frame

__all__ = ["SearchResult", "SearchStats", "merge_results", "search"]

# Bounds of a block of test examples: N x M float32 at a time.
BOUNDS_BYTES = 64 << 20
# Verified at first, then half of those that are still in question at a time: few enough that little is verified in vain
# behind the last one needed, many enough that the time is that of the products and not of Python.
FIRST_CHUNK = 64


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


@dataclass(frozen=True, eq=False)
class _Question:
    """Test rows as searching needs them; the sketches bound scores times ``sign`` (−1 for opponents), or times −``sign``.

    ``factors`` are by place, and of lengths: at least 0, so that they multiply a score and its bound alike. Rounding keeps the
    order of the two. ``left`` are the norms of what the index leaves out of the rows, ``(R, C)``.
    """

    rows: RowGradients
    left: Tensor | None
    sketches: Tensor
    negated: Tensor | None
    sign: float
    floor: float
    factors: Tensor | None


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
    rows, left = checked_question(index, rows)
    allowed = index.allowed(where, indices)
    k = min(k, int(allowed.sum()))
    sign = 1.0 if proponents else -1.0
    sketches = index.sketch.of(rows.ptr, rows.values, sign)
    negated = None if approximate is None else index.sketch.of(rows.ptr, rows.values, -sign)
    most = int((rows.ptr[1:] - rows.ptr[:-1]).max()) if len(rows) else 0
    question = _Question(rows, left, sketches, negated, sign, index.sketch.floor(most), index.factors(length))
    found = [
        one
        for start in range(0, len(rows), _block(len(allowed)))
        for one in _block_of_tests(index, question, start, k, allowed, approximate)
    ]
    numbers = [one[0] for one in found]
    empty = torch.empty((0, k), dtype=torch.float32)
    counts = torch.tensor([one[3] for one in found], dtype=torch.int64).view(-1, 3)
    mean = [float(value) if len(found) != 1 else int(value) for value in counts.double().mean(0).nan_to_num().tolist()]
    intervals = None
    if approximate is not None or left is not None:
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


def _block(examples: int) -> int:
    return max(1, BOUNDS_BYTES // (4 * max(1, examples)))


def _block_of_tests(
    index: Snapshot,
    question: _Question,
    start: int,
    k: int,
    allowed: npt.NDArray[np.bool_],
    approximate: int | None,
) -> Iterator[tuple[Tensor, Tensor, Tensor, tuple[int, int, int]]]:
    """Indices, scores, intervals and counts of one test example after the other."""
    rows = question.rows
    stop = min(start + _block(len(allowed)), len(rows))
    of_rows = slice(int(rows.ptr[start]), int(rows.ptr[stop]))
    ptr, tokens = rows.ptr[start : stop + 1] - rows.ptr[start], rows.ids[of_rows]

    def bounds(sketches: Tensor) -> npt.NDArray[np.float32]:
        parts = [segment.bounds(ptr, tokens, sketches[of_rows]) for segment in index.segments]
        found = torch.cat([torch.empty((stop - start, 0), dtype=torch.float32), *parts], dim=1) + question.floor
        return (found if question.factors is None else found * question.factors).numpy()

    above = bounds(question.sketches)
    below = None if question.negated is None else -bounds(question.negated)
    if not allowed.all():
        above[:, ~allowed] = -np.inf
    wanted = np.zeros(int(rows.ids.max()) + 2 if rows.num_rows else 1, dtype=np.bool_)
    for i in range(start, stop):
        own = slice(int(rows.ptr[i]), int(rows.ptr[i + 1]))
        ids = rows.ids[own].numpy()
        read = [segment.read_for_bounds(ids) for segment in index.segments]
        wanted[ids] = True
        verifier = _Verifier(index, question, rows.ids[own], rows.values[own], wanted)
        best, scores = _best(verifier, above[i - start], k, int(allowed.sum()), approximate, below, i - start)
        wanted[ids] = False
        intervals = torch.empty((len(best), 2), dtype=torch.float32)
        if below is not None:
            exact = np.isin(best, verifier.places)
            low = np.where(exact, scores, below[i - start][best])
            high = np.where(exact, scores, above[i - start][best])
            ends = (low, high) if question.sign > 0 else (-high, -low)
            intervals = torch.from_numpy(np.stack(ends, axis=1))
        if question.left is not None:
            signed = torch.from_numpy(scores * np.float32(question.sign))
            ends_of = intervals if below is not None else torch.stack([signed, signed], dim=1)
            intervals = _widened(ends_of, _left_out(index, question, own, best))
        counts = (
            verifier.count,
            verifier.rows + sum(one[0] for one in read),
            verifier.bytes + sum(one[1] for one in read),
        )
        # + 0.0: the opponents' 0 is not −0.
        yield (
            index.numbers_at(best),
            torch.from_numpy(scores * np.float32(question.sign) + np.float32(0)),
            intervals,
            counts,
        )


def _left_out(index: Snapshot, question: _Question, own: slice, places: npt.NDArray[np.int64]) -> Tensor:
    """How far the scores of these examples can be from those by whole rows, ``(k,)`` (:class:`Kept`)."""
    assert question.left is not None
    ids, left = question.rows.ids[own], question.left[own]
    test = RowGradients(torch.tensor([0, len(ids)]), ids, left)
    found = torch.zeros(len(places), dtype=torch.float32)
    segments = np.searchsorted(index.starts, places, side="right") - 1
    for s in np.unique(segments):
        chosen = torch.from_numpy(np.flatnonzero(segments == s))
        found[chosen] = test.dot(index.segments[s].left(places[segments == s] - index.starts[s]))[0]
    return found if question.factors is None else found * question.factors[torch.from_numpy(places)]


def _widened(intervals: Tensor, by: Tensor) -> Tensor:
    """Ends further out, and those of float32 beyond them."""
    ends = intervals.double() + torch.tensor([-1.0, 1.0]) * by.double()[:, None] * (1 + 1e-6)
    outwards = torch.tensor([-torch.inf, torch.inf]).expand(len(ends), 2)
    return torch.nextafter(ends.float(), outwards)


class _Verifier:
    """Exact scores of one test example (times the sign), a chunk of training examples at a time."""

    def __init__(
        self, index: Snapshot, question: _Question, ids: Tensor, values: Tensor, wanted: npt.NDArray[np.bool_]
    ) -> None:
        self._index, self._sign, self._wanted = index, np.float32(question.sign), wanted
        self._factors = question.factors
        self._test = (torch.tensor([0, len(ids)]), ids, values)
        self._places: list[npt.NDArray[np.int64]] = []
        self._scores: list[npt.NDArray[np.float32]] = []
        self.count = self.rows = self.bytes = 0

    @property
    def places(self) -> npt.NDArray[np.int64]:
        """What was verified."""
        return np.concatenate([np.empty(0, np.int64), *self._places])

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """Their scores."""
        return np.concatenate([np.empty(0, np.float32), *self._scores])

    def verify(self, places: npt.NDArray[np.int64]) -> None:
        """Read these examples."""
        places = np.sort(places)
        starts = self._index.starts
        found = [
            self._index.segments[s].matching(places[a:b] - starts[s], self._wanted)
            for s, a, b in _runs(np.searchsorted(starts, places, side="right") - 1)
        ]
        if len(found) == 1:
            ptr, ids, values = found[0].ptr, found[0].ids, found[0].values
        else:
            counts = torch.cat([one.ptr[1:] - one.ptr[:-1] for one in found])
            ptr = torch.cat([counts.new_zeros(1), torch.cumsum(counts, 0)])
            ids, values = torch.cat([one.ids for one in found]), torch.cat([one.values for one in found])
        self._places.append(places)
        scores = ops.row_dot(*self._test, ptr, ids, values)[0]
        if self._factors is not None:
            scores = divided(scores, self._factors[torch.from_numpy(places)])
        self._scores.append(scores.numpy() * self._sign)
        self.count += len(places)
        self.rows += sum(one.rows for one in found)
        self.bytes += sum(one.bytes for one in found)


def _runs(values: npt.NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Value, start and stop of each run of equal values."""
    edges = np.flatnonzero(np.diff(values)) + 1
    for a, b in zip([0, *edges.tolist()], [*edges.tolist(), len(values)], strict=True):
        yield int(values[a]), a, b


def _best(
    verifier: _Verifier,
    above: npt.NDArray[np.float32],
    k: int,
    candidates: int,
    limit: int | None,
    below: npt.NDArray[np.float32] | None,
    i: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Places and (signed) scores of the k best, best first.

    ``above`` bounds every score; −∞ marks who does not take part. What remains when the largest bound left is below the
    k-th best score cannot be among the k best, whatever its score; where it is equal, the smaller index might be.
    """
    if not k:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    left = candidates if limit is None else min(limit, candidates)
    size = min(max(k, FIRST_CHUNK), left)
    if size == candidates:
        verifier.verify(np.flatnonzero(above > -np.inf))
    elif size:
        verifier.verify(np.argpartition(above, len(above) - size)[len(above) - size :])
        places, scores = verifier.places, verifier.scores
        cut = np.partition(scores, len(scores) - k)[len(scores) - k] if len(scores) >= k else np.float32(-np.inf)
        above = above.copy()
        above[places] = -np.inf
        rest = np.flatnonzero((above >= cut) & (above > -np.inf))
        rest = rest[np.argsort(-above[rest], kind="stable")]
        while len(rest) and verifier.count < left:
            size = min(max(FIRST_CHUNK, len(rest) // 2), left - verifier.count)
            verifier.verify(rest[:size])
            rest, scores = rest[size:], verifier.scores
            if len(scores) >= k:
                cut = np.partition(scores, len(scores) - k)[len(scores) - k]
                rest = rest[: len(rest) - np.searchsorted(above[rest][::-1], cut)]
    places, scores = verifier.places, verifier.scores
    if below is not None:
        others = np.flatnonzero(above > -np.inf)
        others = others[~np.isin(others, places)]
        middle = (above[others].astype(np.float64) + below[i][others]) / 2
        places, scores = np.concatenate([places, others]), np.concatenate([scores, middle.astype(np.float32)])
    order = np.lexsort((places, -scores))[:k]
    return places[order], scores[order]
