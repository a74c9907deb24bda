"""An index as it is at a moment: which examples are there, their rows, and what a question needs of them."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_tracinwe.batches.arguments import is_whole
from captum_tracinwe.index.files.disk import IndexMismatch
from captum_tracinwe.index.files.kept import Kept
from captum_tracinwe.index.files.layout import MOST_ID
from captum_tracinwe.index.files.learned import size_of
from captum_tracinwe.index.files.manifest import Manifest
from captum_tracinwe.index.files.names import RESERVED
from captum_tracinwe.index.files.segment import Segment
from captum_tracinwe.index.files.sketch import LARGEST_NORM, Sketch
from captum_tracinwe.preconditioners import Length
from captum_tracinwe.rows.overflow import first_not_finite, overflow
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["Snapshot", "checked_indices", "checked_question", "divided"]


# Training indices are int64.
MOST = 1 << 63


class Snapshot:
    """The reading side of a :class:`captum_tracinwe.GradientIndex`: an example's *place* counts those in all its segments.

    Args:
        path (Path): the directory.
        manifest (Manifest): that was in force.
        segments (sequence of Segment): in the order of their examples.
        sketch (Sketch): of its rows.
        kept (Kept): what it keeps of them.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        segments: Sequence[Segment],
        sketch: Sketch,
        kept: Kept,
    ) -> None:
        self.path, self.manifest, self.segments = path, manifest, list(segments)
        self.sketch, self.kept = sketch, kept
        self.starts: npt.NDArray[np.int64] = np.cumsum([0, *(len(segment) for segment in self.segments)])[:-1]
        self._size = sum(len(segment) for segment in self.segments)
        # Of the kind of length that was asked for last.
        self._factors: tuple[Length, Tensor] | None = None

    def __len__(self) -> int:
        """Training examples that are there: built, and not deleted."""
        return int(self._live.sum())

    @property
    def projection(self) -> Tensor | None:
        """What its columns are made by, of an index that was built with ``project``: ``(C, p, D)``; None: they are the rows'."""
        return self.kept.directions

    @property
    def total(self) -> int:
        """Training indices given out, those of deleted examples included: M of the training set."""
        return self.manifest.total

    @property
    def complete(self) -> bool:
        """Whether all that builds and appends set out to index is there."""
        return self.manifest.complete

    @property
    def payload_bytes(self) -> int:
        """Bytes of the row gradients: ptr, ids, values."""
        return sum(segment.layout.payload for segment in self.segments)

    @property
    def sketch_bytes(self) -> int:
        """Bytes of the sketches."""
        return sum(4 * segment.layout.rows * segment.layout.columns for segment in self.segments)

    @property
    def file_bytes(self) -> int:
        """Bytes of all files, what was learned of the rows and kept beside them included."""
        known = sum(file.bytes for file in self.manifest.files) + len(self.manifest.encoded())
        return known + (size_of(self.path) or 0)

    @property
    def numbers(self) -> Tensor:
        """Training indices of the examples that are there, int64 ascending."""
        return torch.from_numpy(self._numbers[self._live])

    @property
    def _numbers(self) -> npt.NDArray[np.int64]:
        return np.concatenate([np.empty(0, np.int64), *(segment.numbers for segment in self.segments)])

    @property
    def _live(self) -> npt.NDArray[np.bool_]:
        if not self.manifest.deleted:
            return np.ones(self._size, dtype=np.bool_)
        numbers, live = self._numbers, np.ones(self._size, dtype=np.bool_)
        for first, stop in self.manifest.deleted:
            live[np.searchsorted(numbers, first) : np.searchsorted(numbers, stop)] = False
        return live

    @property
    def address(self) -> str:
        """Where the index is, as messages name it."""
        return str(self.path)

    def warn_unfinished(self, stacklevel: int = 3) -> None:
        """Warn that an answer is about a part of the training set, where it is."""
        if not self.complete:
            there, size = sum(one.stop - one.first for one in self.manifest.segments), self.total
            of = f"{there} of {size}" if all(part.examples is not None for part in self.manifest.parts) else f"{there}"
            warnings.warn(
                f"The index {self.address!r} is not complete: {of} training examples are in it. The others have the score −∞ "
                f"or take no part. Finish it with tracin.build_index(path, resume=True).",
                stacklevel=stacklevel,
            )

    def numbers_at(self, places: npt.NDArray[np.int64]) -> Tensor:
        """Training indices of examples by their place among all segments."""
        if not self.segments or not len(places):
            return torch.empty(len(places), dtype=torch.int64)
        own = np.searchsorted(self.starts, places, side="right") - 1
        result = np.empty(len(places), dtype=np.int64)
        for s in np.unique(own):
            chosen = own == s
            result[chosen] = self.segments[s].numbers[places[chosen] - self.starts[s]]
        return torch.from_numpy(result)

    def _no_column(self, name: Any) -> ValueError:
        known = [{n for n in segment.columns if not n.startswith(RESERVED)} for segment in self.segments]
        message = f"The index has no metadata column {name!r} for all examples (it has: "
        message += f"{', '.join(sorted(set.intersection(*known))) or 'none'})."
        if any(name in names for names in known):
            message += " Some were added without it: index.compact() gives None to those."
        return ValueError(message)

    def allowed(
        self, where: Mapping[str, Any] | None = None, indices: Sequence[int] | Tensor | None = None
    ) -> npt.NDArray[np.bool_]:
        """Which examples, by place, are there and pass the filters of :meth:`GradientIndex.search`."""
        result = self._live
        if where is not None and not isinstance(where, Mapping):
            raise ValueError(
                f"GradientIndex.search: expected `where` as a mapping of columns to values, got {where!r:.80}."
            )
        for name, value in (where or {}).items():
            accepted = _accepted(name, value)
            passes: list[bool] = []
            for segment in self.segments:
                if name not in segment.columns:
                    raise self._no_column(name)
                passes += [entry in accepted for entry in segment.columns[name]]
            result = result & np.array(passes, dtype=np.bool_)
        if indices is not None:
            chosen = checked_indices(indices, "search").numpy()
            if chosen.size and not 0 <= chosen.min() <= chosen.max() < self.total:
                raise ValueError(
                    f"GradientIndex.search: expected `indices` from 0 to {self.total - 1}, got {chosen.min()} to {chosen.max()}."
                )
            result = result & np.isin(self._numbers, chosen)
        return result

    def factors(self, length: Length | None) -> Tensor | None:
        """By what each example's scores are multiplied, by place, float32 ``(n,)``; None: nothing. Reads next to no values.

        Kept for the next question by the same length.
        """
        if length is not None and not isinstance(length, Length):
            raise TypeError(f"`length` should be a captum_tracinwe.preconditioners.Length or None, got {length!r:.80}.")
        if length is None or not length.of_train:
            return None
        known = self._factors
        if known is None or known[0] is not length:
            squares = [_squares(segment, length) for segment in self.segments]
            found = length.from_squares(torch.cat([torch.empty(0, dtype=torch.float64), *squares])).float()
            known = self._factors = length, found
        return known[1]

    def scores(self, rows: RowGradients, length: Length | None = None) -> Tensor:
        """All scores, ``(N, total)``, reading everything; −∞ for training examples that are not there: topk leaves them out.

        With ``length`` they are divided by the training examples' lengths; the rows come divided by theirs.

        For the most negative scores of an index with deletions take :meth:`GradientIndex.search` with ``proponents=False``.
        An index that is not complete answers of what is there, with a warning.
        """
        self.warn_unfinished()
        rows, _ = checked_question(self, rows)
        result = self.nothing_yet(
            "scores", (len(rows), self.total), "with fewer test examples at a time, or for the best by search(rows, k)"
        )
        live, factors = torch.from_numpy(self._live), self.factors(length)
        for segment, start in zip(self.segments, self.starts.tolist(), strict=True):
            kept = live[start : start + len(segment)]
            found = rows.dot(segment.rows())[:, kept]
            if factors is not None:
                found = divided(found, factors[start : start + len(segment)][kept])
            result[:, torch.from_numpy(segment.numbers)[kept]] = found
        return result

    def blocks(self, values: bool = True, copy: bool = True) -> Iterator[tuple[Tensor, RowGradients]]:
        """Training indices ``(m,)`` and rows of the examples that are there, or their tokens alone, segment by segment.

        Without ``copy`` the values may be those of the mapped file: to be used before the next block, and not written to.
        """
        live = self._live
        for segment, start in zip(self.segments, self.starts.tolist(), strict=True):
            kept = np.flatnonzero(live[start : start + len(segment)])
            yield torch.from_numpy(segment.numbers[kept]), segment.rows(kept, values, copy)

    def self_influence(self) -> Tensor:
        """Σ over rows of ‖row‖² of each training example, ``(total,)``; −∞ for those not there. Reads no values."""
        self.warn_unfinished()
        result = self.nothing_yet("self_influence", (self.total,), "by rows(indices), and take their squared_norms()")
        norms = [torch.from_numpy(segment.head["squared_norms"]) for segment in self.segments]
        result[self.numbers] = torch.cat([torch.empty(0, dtype=torch.float32), *norms])[torch.from_numpy(self._live)]
        return result

    def nothing_yet(self, name: str, shape: tuple[int, ...], otherwise: str) -> Tensor:
        """-inf everywhere, which may take half the memory: a manifest can say 2³¹ training examples and hold 52."""
        size, there = 4 * math.prod(shape), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if size > there // 2:
            raise ValueError(
                f"GradientIndex.{name}: {' x '.join(map(str, shape))} scores take {size:,} bytes, this machine has {there:,}, "
                f"half of which they may take: ask {otherwise}."
            )
        return torch.full(shape, -torch.inf, dtype=torch.float32)

    def rows(self, indices: Sequence[int] | Tensor | None = None) -> RowGradients:
        """Row gradients of training examples, in the order given (default: all that are there), float32.

        Raises:
            ValueError: an index that is not there.
        """
        numbers = self._numbers
        wanted = self.numbers.numpy() if indices is None else checked_indices(indices, "rows").numpy()
        places = np.minimum(np.searchsorted(numbers, wanted), max(0, len(numbers) - 1))
        there = (numbers[places] == wanted) & self._live[places] if len(numbers) else np.zeros(len(wanted), bool)
        if not there.all():
            raise ValueError(
                f"The index has no training example {int(wanted[~there][0])}: expected indices of the {len(self)} examples in it "
                f"(0 to {self.total - 1}, without those deleted)."
            )
        order = np.argsort(places, kind="stable")
        own = np.searchsorted(self.starts, places[order], side="right") - 1
        parts = [
            self.segments[s].rows(places[order][own == s] - self.starts[s]) for s in np.unique(own)
        ]  # ascending, so that each segment is read once
        if not parts:
            return RowGradients(torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), self._no_values())
        return RowGradients.cat(parts).select(torch.from_numpy(np.argsort(order)))

    def _no_values(self) -> Tensor:
        return torch.zeros((0, self.sketch.checkpoints * self.manifest.stored_width), dtype=torch.float32)

    def project(self, rows: RowGradients) -> RowGradients:
        """Rows of the width that the index keeps: themselves, or some columns of them where it was built with ``project``.

        Raises:
            IndexMismatch: rows of another width.
        """
        return self.projected(rows)[0]

    def projected(self, rows: RowGradients) -> tuple[RowGradients, Tensor | None]:
        """The same of a question, and the norms of what is left out of it, ``(R, C)``; None where nothing is known of that."""
        checkpoints, width = self.sketch.checkpoints, self.manifest.source.width
        if self.projection is not None and rows.width == checkpoints * self.manifest.stored_width:
            return rows, None  # as TracInWE.question_rows gives them; what was left out of them nobody knows any more
        if rows.width != checkpoints * width:
            raise IndexMismatch(
                f"The index holds {checkpoints} checkpoint(s) of width {width}: expected rows of {checkpoints * width} columns, "
                f"got {rows.width}."
            )
        return self.kept.of_question(rows)


def _accepted(name: str, value: Any) -> set[Any]:
    """The values of a column that may take part."""
    plain = value.tolist() if isinstance(value, (Tensor, np.ndarray, np.generic)) else value
    try:
        return {plain} if isinstance(plain, str) or not hasattr(plain, "__iter__") else set(plain)
    except TypeError:
        raise ValueError(
            f"GradientIndex.search: expected `where[{name!r}]` as a value, or a list of values, got {value!r:.80}."
        ) from None


# Stored in float32: below it digits are lost, and below 1e-45 all of them.
SMALLEST_SQUARE = 1e-30


def _squares(segment: Segment, length: Length) -> Tensor:
    """L² of each example of a segment, float64."""
    if length.by != "gradient":
        return length.squares(segment.rows(values=False))
    squares = torch.from_numpy(segment.head["squared_norms"]).double()
    small = np.flatnonzero((squares.numpy() < SMALLEST_SQUARE) & (np.diff(segment.head["ptr"]) > 0))
    if len(small):
        squares[torch.from_numpy(small)] = length.squares(segment.rows(small))
    return squares


def divided(scores: Tensor, factors: Tensor) -> Tensor:
    """Scores times the factors of lengths.

    Raises:
        ValueError: one is beyond float32.
    """
    found = scores * factors
    if first_not_finite(found) is not None:
        raise overflow("A score divided by the length of its training example", found.dtype)
    return found


def checked_indices(indices: Any, method: str) -> Tensor:
    """Training indices as int64 ``(K,)``.

    Raises:
        ValueError: a mask, or numbers that are not whole.
    """
    expected = f"GradientIndex.{method}: expected `indices` as whole numbers, got"
    beyond = f"GradientIndex.{method}: expected `indices` of training examples, which no index has so many of, got"
    try:
        found = torch.as_tensor(indices)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        given = indices if isinstance(indices, Iterable) else [indices]
        large = next((one for one in given if is_whole(one) and not -MOST <= one < MOST), None)
        if large is not None:
            raise ValueError(f"{beyond} {large}.") from None
        raise ValueError(f"{expected} {type(indices).__name__} ({error}).") from None
    if not isinstance(indices, (Tensor, np.ndarray, range)):
        mixed = any(isinstance(one, (bool, np.bool_)) for one in indices) if hasattr(indices, "__iter__") else False
        found = found.bool() if mixed else found
    if found.dtype == torch.bool:
        raise ValueError(f"{expected} a mask of bool: pass mask.nonzero().flatten() of the mask as a torch.Tensor.")
    if found.numel() and (found.is_floating_point() or found.is_complex()):
        raise ValueError(f"{expected} {found.dtype}: convert them to int64 first.")
    whole = found.to("cpu", torch.int64).flatten()
    if not found.dtype.is_signed and len(whole) and int(whole.min()) < 0:
        raise ValueError(f"{beyond} {int(whole.min()) + 2 * MOST}.")
    return whole


def checked_question(index: Snapshot, rows: RowGradients) -> tuple[RowGradients, Tensor | None]:
    """Test rows as float32 of the index's width, and what is left out of them (:meth:`Snapshot.projected`).

    Raises:
        TypeError, ValueError: they are not rows, of another width, not finite, or too large.
    """
    if not isinstance(rows, RowGradients):
        raise TypeError(
            f"GradientIndex: expected the test examples as RowGradients, got {type(rows).__name__}. "
            f"TracInWE.row_gradients(inputs) makes them."
        )
    rows, left = index.projected(rows.to("cpu", torch.float32))
    if rows.num_rows and not 0 <= int(rows.ids.min()) <= int(rows.ids.max()) <= MOST_ID:
        raise ValueError(
            f"GradientIndex: the test examples have token ids from {int(rows.ids.min())} to {int(rows.ids.max())}: expected ids "
            f"from 0 to {MOST_ID}."
        )
    if rows.num_rows and not float(rows.norms().max()) <= LARGEST_NORM:
        raise ValueError(
            f"GradientIndex: a test gradient has norm {float(rows.norms().max()):.3g}: expected finite numbers, and at most "
            f"{LARGEST_NORM:.0e}."
        )
    return rows, left
