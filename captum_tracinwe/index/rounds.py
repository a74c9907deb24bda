"""Searching in rounds: all examples are bounded by their sketches, the most promising verified, until no other can be better."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_tracinwe.batches.arguments import check_flags
from captum_tracinwe.index.snapshot import Snapshot, checked_question, divided
from captum_tracinwe.rows import ops
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["FIRST_CHUNK", "Bounded", "Question", "Ranking", "block_size", "question_of"]

# Bounds of a block of test examples: N x M float32 at a time.
BOUNDS_BYTES = 64 << 20
#: Verified at first, then half of those that are still in question at a time: few enough that little is verified in vain
#: behind the last one needed, many enough that the time is that of the products and not of Python.
FIRST_CHUNK = 64

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Question:
    """Test rows as searching needs them; the sketches bound scores times ``sign`` (−1 for opponents), or times −``sign``.

    ``left`` are the norms of what the index leaves out of the rows, ``(R, C)``; None where it tells nothing of that.
    """

    rows: RowGradients
    left: Tensor | None
    sketches: Tensor
    negated: Tensor | None
    sign: float
    floor: float


def question_of(index: Snapshot, rows: RowGradients, proponents: bool, both: bool = False) -> Question:
    """Test rows, checked, with their sketches: the same whatever part of the index is asked.

    Args:
        index (Snapshot): by whose projections.
        rows (RowGradients): N test examples.
        proponents (bool): False for the most negative scores.
        both (bool): with sketches that bound scores from below, too.

    Raises:
        TypeError, ValueError: as :func:`captum_tracinwe.index.snapshot.checked_question`.
    """
    check_flags(proponents=proponents)
    rows, left = checked_question(index, rows)
    sign = 1.0 if proponents else -1.0
    sketches = index.sketch.of(rows.ptr, rows.values, sign)
    negated = index.sketch.of(rows.ptr, rows.values, -sign) if both else None
    most = int((rows.ptr[1:] - rows.ptr[:-1]).max()) if len(rows) else 0
    return Question(rows, left, sketches, negated, sign, index.sketch.floor(most))


def block_size(examples: int) -> int:
    """Test examples that are bounded at once against so many training examples."""
    return max(1, BOUNDS_BYTES // (4 * max(1, examples)))


class Bounded:
    """Test examples ``start:stop`` of a question, each training example bounded for each of them.

    Args:
        index (Snapshot): or a part of one.
        question (Question), start, stop (int): which test examples.
        allowed (bool array): by place, which training examples take part.
        factors (Tensor or None): by place, of lengths: at least 0, so that they multiply a score and its bound alike. Rounding
            keeps the order of the two.
    """

    def __init__(
        self, index: Snapshot, question: Question, start: int, stop: int, allowed: Bools, factors: Tensor | None
    ) -> None:
        self._index, self._question, self._factors, self._allowed = index, question, factors, allowed
        self._start, self._stop = start, stop
        self._above = self._bounds(question.sketches)
        self._below = None if question.negated is None else -self._bounds(question.negated)
        if not allowed.all():
            self._above[:, ~allowed] = -np.inf
        ids = question.rows.ids
        # One for all test examples: whoever verifies marks its own tokens, and takes the marks away again.
        self._wanted = np.zeros(int(ids.max()) + 2 if question.rows.num_rows else 1, dtype=np.bool_)

    def _bounds(self, sketches: Tensor) -> Floats:
        rows, start, stop = self._question.rows, self._start, self._stop
        of_rows = slice(int(rows.ptr[start]), int(rows.ptr[stop]))
        ptr, tokens = rows.ptr[start : stop + 1] - rows.ptr[start], rows.ids[of_rows]
        parts = [segment.bounds(ptr, tokens, sketches[of_rows]) for segment in self._index.segments]
        empty = torch.empty((stop - start, 0), dtype=torch.float32)
        found = torch.cat([empty, *parts], dim=1) + self._question.floor
        bounds: Floats = (found if self._factors is None else found * self._factors).numpy()
        return bounds

    def rankings(self, k: int, limit: int | None = None, first: int | None = None) -> Iterator[Ranking]:
        """One of each test example; see :class:`Ranking`. By default k are verified at first, if they are not very few."""
        first = max(k, FIRST_CHUNK) if first is None else first
        rows, candidates = self._question.rows, int(self._allowed.sum())
        for i in range(self._start, self._stop):
            own = slice(int(rows.ptr[i]), int(rows.ptr[i + 1]))
            left = None if self._question.left is None else self._question.left[own]
            test = _Test(rows.ids[own], rows.values[own], left)
            verifier = _Verifier(self._index, self._question.sign, self._factors, test, self._wanted)
            below = None if self._below is None else self._below[i - self._start]
            yield Ranking(verifier, self._above[i - self._start], below, k, candidates, limit, first)


class _Test(NamedTuple):
    """The rows of one test example, and the norms of what is left out of them."""

    ids: Tensor
    values: Tensor
    left: Tensor | None


class _Verifier:
    """Exact scores of one test example (times the sign), a chunk of training examples at a time."""

    def __init__(self, index: Snapshot, sign: float, factors: Tensor | None, test: _Test, wanted: Bools) -> None:
        self._index, self._sign, self._wanted = index, np.float32(sign), wanted
        self._factors, self._ids, self._left = factors, test.ids.numpy(), test.left
        self._test = (torch.tensor([0, len(test.ids)]), test.ids, test.values)
        self._places: list[Places] = []
        self._scores: list[Floats] = []
        self.count = self.rows = self.bytes = 0

    @property
    def places(self) -> Places:
        """What was verified."""
        return np.concatenate([np.empty(0, np.int64), *self._places])

    @property
    def scores(self) -> Floats:
        """Their scores."""
        return np.concatenate([np.empty(0, np.float32), *self._scores])

    def left_out(self, places: Places) -> Tensor | None:
        """How far scores can be from those by whole rows, ``(k,)`` (:class:`Kept`); None where nothing is known of that."""
        if self._left is None:
            return None
        ptr, ids, _ = self._test
        test, starts = RowGradients(ptr, ids, self._left), self._index.starts
        found = torch.zeros(len(places), dtype=torch.float32)
        own = np.searchsorted(starts, places, side="right") - 1
        for s in np.unique(own):
            chosen = np.flatnonzero(own == s)
            left = self._index.segments[s].left(places[chosen] - starts[s])
            found[torch.from_numpy(chosen)] = test.dot(left)[0]
        return found if self._factors is None else found * self._factors[torch.from_numpy(places)]

    def read_for_bounds(self) -> tuple[int, int]:
        """Rows and bytes that its bounds were made of."""
        read = [segment.read_for_bounds(self._ids) for segment in self._index.segments]
        return sum(one[0] for one in read), sum(one[1] for one in read)

    def verify(self, places: Places) -> None:
        """Read these examples."""
        places = np.sort(places)
        starts = self._index.starts
        self._wanted[self._ids] = True
        try:
            found = [
                self._index.segments[s].matching(places[a:b] - starts[s], self._wanted)
                for s, a, b in _runs(np.searchsorted(starts, places, side="right") - 1)
            ]
        finally:
            self._wanted[self._ids] = False
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


def _runs(values: Places) -> Iterator[tuple[int, int, int]]:
    """Value, start and stop of each run of equal values."""
    edges = np.flatnonzero(np.diff(values)) + 1
    for a, b in zip([0, *edges.tolist()], [*edges.tolist(), len(values)], strict=True):
        yield int(values[a]), a, b


def _widened(intervals: Tensor, by: Tensor) -> Tensor:
    """Ends further out, and those of float32 beyond them."""
    ends = intervals.double() + torch.tensor([-1.0, 1.0]) * by.double()[:, None] * (1 + 1e-6)
    outwards = torch.tensor([-torch.inf, torch.inf]).expand(len(ends), 2)
    return torch.nextafter(ends.float(), outwards)


class Ranking:
    """The k best of one test example, as far as is known: all that can be better is verified, chunk by chunk.

    What remains when the largest bound left is below the k-th best score cannot be among the k best, whatever its score;
    where it is equal, the smaller index might be.

    Args:
        verifier: reads examples.
        above (float32 array): bounds of every score, by place; −∞ marks who does not take part. It is written to.
        below (float32 array or None): bounds from below, of an approximate search.
        k (int): how many.
        candidates (int): how many take part.
        limit (int or None): verified at most.
        first (int): verified at first.
    """

    def __init__(
        self,
        verifier: _Verifier,
        above: Floats,
        below: Floats | None,
        k: int,
        candidates: int,
        limit: int | None,
        first: int,
    ) -> None:
        self._verifier, self._above, self._below, self._k = verifier, above, below, k
        self._most = candidates if limit is None else min(limit, candidates)
        self._rest: Places = np.empty(0, np.int64)
        size = min(first, self._most) if k else 0
        if not size:
            return
        if size == candidates:
            verifier.verify(np.flatnonzero(above > -np.inf))
            return
        verifier.verify(np.argpartition(above, len(above) - size)[len(above) - size :])
        above[verifier.places] = -np.inf
        rest = np.flatnonzero((above >= self._cut()) & (above > -np.inf))
        self._rest = rest[np.argsort(-above[rest], kind="stable")]

    def _cut(self) -> float:
        """The k-th best score so far; −∞ where there are fewer."""
        scores, k = self._verifier.scores, self._k
        if len(scores) < k:
            return -np.inf
        return float(np.partition(scores, len(scores) - k)[len(scores) - k])

    @property
    def highest(self) -> float:
        """The largest bound of what is to be verified; −∞ where nothing is left."""
        return float(self._above[self._rest[0]]) if self.goes_on else -np.inf

    @property
    def goes_on(self) -> bool:
        """Whether something is to be verified still."""
        return len(self._rest) > 0 and self._verifier.count < self._most

    def verify_more(self, floor: float = -np.inf) -> None:
        """Verify one more chunk.

        Args:
            floor (float): a (signed) score that k others have at least, wherever they are: what is bounded below it is out.
        """
        self._leave_out(floor)
        if not self.goes_on:
            return
        rest = self._rest
        size = min(max(FIRST_CHUNK, len(rest) // 2), self._most - self._verifier.count)
        self._verifier.verify(rest[:size])
        self._rest = rest[size:]
        self._leave_out(max(self._cut(), floor))

    def _leave_out(self, cut: float) -> None:
        if cut > -np.inf:
            rest = self._rest
            self._rest = rest[: len(rest) - np.searchsorted(self._above[rest][::-1], np.float32(cut))]

    def best(self) -> tuple[Places, Floats]:
        """Places and (signed) scores of the k best, best first; of an approximate search with the middle of unread intervals."""
        places, scores = self._verifier.places, self._verifier.scores
        if self._below is not None:
            others = np.flatnonzero(self._above > -np.inf)
            others = others[~np.isin(others, places)]
            middle = (self._above[others].astype(np.float64) + self._below[others]) / 2
            places, scores = np.concatenate([places, others]), np.concatenate([scores, middle.astype(np.float32)])
        order = np.lexsort((places, -scores))[: self._k]
        return places[order], scores[order]

    def intervals(self, places: Places, scores: Floats) -> Tensor:
        """Lower and upper end of each (signed) score, float32 ``(k, 2)``: of an approximate search, or of rows in part."""
        low = high = scores
        if self._below is not None:
            exact = np.isin(places, self._verifier.places)
            low = np.where(exact, scores, self._below[places])
            high = np.where(exact, scores, self._above[places])
        ends = torch.from_numpy(np.stack([low, high], axis=1))
        left = self._verifier.left_out(places)
        return ends if left is None else _widened(ends, left)

    def counts(self) -> tuple[int, int, int]:
        """Examples verified, and rows and bytes read for bounds and scores."""
        rows, size = self._verifier.read_for_bounds()
        return self._verifier.count, self._verifier.rows + rows, self._verifier.bytes + size
