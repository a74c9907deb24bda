"""`GradientIndex`: the gradients of a training set on disk; opening it, searching it, reading from it, changing it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_tracinwe.arguments import is_whole
from captum_tracinwe.index import maintenance
from captum_tracinwe.index.creation import read_projections
from captum_tracinwe.index.disk import IndexMismatch, folder_of
from captum_tracinwe.index.manifest import NAME, Manifest
from captum_tracinwe.index.search import SearchResult, checked_indices, checked_question, search
from captum_tracinwe.index.segment import Segment
from captum_tracinwe.index.sketch import Sketch
from captum_tracinwe.rows import RowGradients

__all__ = ["GradientIndex"]


class GradientIndex:
    """Row gradients of M training examples in a directory, mapped, not loaded.

    Made by :meth:`TracInWE.build_index` or :meth:`from_rows`. An open index is a snapshot: what a writer adds, deletes or
    compacts meanwhile does not change it; :meth:`refresh` opens the directory again. ``index.manifest`` says what it is of.

    Example:
        >>> import tempfile, torch
        >>> from captum_tracinwe import GradientIndex, RowGradients
        >>> rows = RowGradients(torch.tensor([0, 1, 3]), torch.tensor([2, 2, 5]), torch.tensor([[1.0], [3.0], [4.0]]))
        >>> index = GradientIndex.from_rows(tempfile.mkdtemp() + "/index", rows)
        >>> found = index.search(rows.select([0]), k=1)
        >>> found.indices.tolist(), found.influence_scores.tolist(), found.stats.examples
        ([[1]], [[3.0]], 2)
    """

    def __init__(self, path: Path, manifest: Manifest, segments: Sequence[Segment], projections: list[Tensor]) -> None:
        self.path, self.manifest, self.segments = path, manifest, list(segments)
        self.sketch, self.projection = Sketch(projections[0]), projections[1] if len(projections) > 1 else None
        self.starts: npt.NDArray[np.int64] = np.cumsum([0, *(len(segment) for segment in self.segments)])[:-1]
        self._size = sum(len(segment) for segment in self.segments)

    @classmethod
    def open(cls, path: str | Path) -> GradientIndex:
        """Open the index in a directory.

        Raises:
            FileNotFoundError: there is none.
            NotADirectoryError: the path is that of a file.
            IndexDamaged: a file is missing, truncated, altered, or of another version.
        """
        folder = folder_of(path)
        if not (folder / NAME).exists():
            Manifest.read(Path(path))  # says what is missing, by the name that was given

        def opened(manifest: Manifest) -> GradientIndex:
            segments = [Segment(folder, manifest, entry) for entry in manifest.segments]
            return cls(folder, manifest, segments, read_projections(folder, manifest))

        return maintenance.on_newest(folder, opened)

    @classmethod
    def from_rows(
        cls,
        path: str | Path,
        rows: RowGradients,
        *,
        checkpoints: int = 1,
        dtype: str = "float32",
        rank: int = 31,
        segment_examples: int = 4096,
        metadata: Mapping[str, Sequence[Any]] | None = None,
        project: int | None = None,
    ) -> GradientIndex:
        """An index of row gradients that are at hand, in a new or empty directory.

        Args:
            path (str or Path): the directory.
            rows (RowGradients): values ``(R, C * D)``, as :meth:`TracInWE.row_gradients` gives them.
            checkpoints (int): C.
            dtype, rank, segment_examples, metadata, project: as in :meth:`TracInWE.build_index`.
        """
        maintenance.create_from_rows(
            folder_of(path), rows, checkpoints, dtype, rank, segment_examples, metadata or {}, project
        )
        return cls.open(path)

    def refresh(self) -> GradientIndex:
        """The index as it is on disk now."""
        return GradientIndex.open(self.path)

    def part(self, number: int, parts: int) -> GradientIndex:
        """Every ``parts``-th segment from ``number`` on, as an index of its own: for searching in several processes."""
        if not 0 <= number < parts:
            raise ValueError(f"GradientIndex.part: expected a number from 0 to {parts - 1}, got {number}.")
        found = GradientIndex(self.path, self.manifest, self.segments[number::parts], [self.sketch.projection])
        found.projection = self.projection
        return found

    # -------------------------------------------------------------------------------------------------------- reading

    def __len__(self) -> int:
        """Training examples that are there: built, and not deleted."""
        return int(self._live.sum())

    def __repr__(self) -> str:
        state = "" if self.complete else ", not complete"
        return f"GradientIndex({str(self.path)!r}: {len(self):,} examples in {len(self.segments)} segments{state})"

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
        """Bytes of all files."""
        return sum(file.bytes for file in self.manifest.files) + len(self.manifest.encoded())

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

    def allowed(
        self, where: Mapping[str, Any] | None = None, indices: Sequence[int] | Tensor | None = None
    ) -> npt.NDArray[np.bool_]:
        """Which examples, by place, are there and pass the filters of :meth:`search`."""
        result = self._live
        for name, value in (where or {}).items():
            accepted = {value} if isinstance(value, str) or not hasattr(value, "__iter__") else set(value)
            passes: list[bool] = []
            for segment in self.segments:
                if name not in segment.columns:
                    known = ", ".join(sorted(segment.columns)) or "none"
                    raise ValueError(f"The index has no metadata column {name!r} for all examples (it has: {known}).")
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

    def search(
        self,
        rows: RowGradients,
        k: int,
        proponents: bool = True,
        *,
        where: Mapping[str, Any] | None = None,
        indices: Sequence[int] | Tensor | None = None,
        approximate: int | None = None,
    ) -> SearchResult:
        """The k training examples of highest (lowest) score for each test example: exactly those of scoring everything.

        Scores are :func:`captum_tracinwe.ops.row_dot` of the float32 test rows with the stored rows, bit for bit.

        Args:
            rows (RowGradients): N test examples, values ``(R, C * D)``, on the CPU (``tracin.row_gradients(inputs)``).
            k (int): how many; fewer come back where fewer are there.
            proponents (bool): False for the most negative scores.
            where (mapping, optional): metadata column → the value, or a collection of values, that may take part.
            indices (sequence of int, optional): training examples that may take part.
            approximate (int, optional): verify at most so many examples per question; a score that was not verified is the
                middle of the interval that its bounds leave, and ``stats.intervals`` says which. Default: exact.

        Returns:
            SearchResult: ``indices``, ``influence_scores``, each ``(N, min(k, M))``, and ``stats`` (:class:`SearchStats`).

        Raises:
            ValueError: rows of another width; k < 1; a filter that the index cannot answer.
            IndexDamaged: what was read is not what was written.
        """
        if not is_whole(k) or k < 1:
            raise ValueError(f"`k` should be a whole number of at least 1, got {k!r}.")
        if approximate is not None and (not is_whole(approximate) or approximate < 0):
            raise ValueError(f"`approximate` should be a whole number of examples to verify, got {approximate!r}.")
        return search(self, rows, int(k), proponents, where=where, indices=indices, approximate=approximate)

    def scores(self, rows: RowGradients) -> Tensor:
        """All scores, ``(N, total)``, reading everything; −∞ for training examples that are not there: topk leaves them out.

        For the most negative scores of an index with deletions take :meth:`search` with ``proponents=False``.
        """
        rows = checked_question(self, rows)
        size, there = 4 * len(rows) * self.total, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if size > there:
            raise ValueError(
                f"GradientIndex.scores: {len(rows)} x {self.total} scores take {size:,} bytes, this machine has {there:,}: ask "
                f"with fewer test examples at a time, or for the best by search(rows, k)."
            )
        result = torch.full((len(rows), self.total), -torch.inf)
        live = torch.from_numpy(self._live)
        for segment, start in zip(self.segments, self.starts.tolist(), strict=True):
            kept = live[start : start + len(segment)]
            result[:, torch.from_numpy(segment.numbers)[kept]] = rows.dot(segment.rows())[:, kept]
        return result

    def self_influence(self) -> Tensor:
        """Σ over rows of ‖row‖² of each training example, ``(total,)``; −∞ for those not there. Reads no values."""
        result = torch.full((self.total,), -torch.inf)
        norms = [torch.from_numpy(segment.head["squared_norms"]) for segment in self.segments]
        result[self.numbers] = torch.cat([torch.empty(0), *norms])[torch.from_numpy(self._live)]
        return result

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
        return torch.zeros((0, self.sketch.checkpoints * self.manifest.stored_width))

    def project(self, rows: RowGradients) -> RowGradients:
        """Rows as the index keeps them: themselves, or their random projection where it was built with ``project``.

        Raises:
            IndexMismatch: rows of another width.
        """
        checkpoints, width = self.sketch.checkpoints, self.manifest.source.width
        if rows.width != checkpoints * width:
            raise IndexMismatch(
                f"The index holds {checkpoints} checkpoint(s) of width {width}: expected rows of {checkpoints * width} columns, "
                f"got {rows.width}."
            )
        if self.projection is None:
            return rows
        values = rows.values.view(rows.num_rows, checkpoints, width) @ self.projection.T
        return RowGradients(rows.ptr, rows.ids, values.flatten(1))

    # ------------------------------------------------------------------------------------------------------- changing

    def append(self, rows: RowGradients, metadata: Mapping[str, Sequence[Any]] | None = None) -> GradientIndex:
        """Add training examples behind the last one, all or, whatever happens, none; the index as it is then.

        Their rows must come from the same source (:attr:`manifest`): ``tracin.build_index(path, append=True)`` sees to that.
        """
        maintenance.append_rows(self.path, rows, metadata or {})
        return self.refresh()

    def delete(self, indices: Sequence[int] | Tensor) -> GradientIndex:
        """Take training examples out, in one step; the indices of the others stay. The index as it is then.

        Their bytes go with the next :meth:`compact`.
        """
        maintenance.delete(self.path, checked_indices(indices, "delete").tolist())
        return self.refresh()

    def compact(self) -> GradientIndex:
        """Write segments anew that hold deleted examples or are too small; the index as it is then."""
        maintenance.compact(self.path)
        return self.refresh()

    def merge(self, other: GradientIndex | str | Path) -> GradientIndex:
        """Add all examples of another index of the same source behind the last one, in one step; the index as it is then.

        Training index j of ``other`` becomes ``self.total + j``.

        Raises:
            IndexMismatch: the other holds gradients of something else; the message names what.
        """
        maintenance.merge(self.path, other.path if isinstance(other, GradientIndex) else folder_of(other))
        return self.refresh()

    def verify(self) -> None:
        """Read every byte of the index as it is on disk.

        Raises:
            IndexDamaged: something is not what was written; the message names every damaged file.
        """
        maintenance.verify(self.path)
