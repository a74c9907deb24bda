"""`GradientIndex`: the gradients of a training set on disk; opening it, searching it, reading from it, changing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from captum_tracinwe.batches.arguments import is_whole
from captum_tracinwe.gradients.switches import undisturbed
from captum_tracinwe.index import maintenance
from captum_tracinwe.index.converting import convert
from captum_tracinwe.index.creation import read_projections
from captum_tracinwe.index.files.disk import IndexDamaged, folder_of
from captum_tracinwe.index.files.kept import Kept
from captum_tracinwe.index.files.manifest import NAME, Manifest, SegmentEntry
from captum_tracinwe.index.files.segment import Segment
from captum_tracinwe.index.files.sketch import Sketch
from captum_tracinwe.index.files.urls import is_url
from captum_tracinwe.index.homes import FolderHome, Home, StoreHome, home_of
from captum_tracinwe.index.remote.pushing import Pushed, push
from captum_tracinwe.index.remote.store import Store
from captum_tracinwe.index.search import SearchResult, search
from captum_tracinwe.index.snapshot import Snapshot, checked_indices
from captum_tracinwe.preconditioners import Length
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["GradientIndex"]

# Number and parts.
Share = tuple[int, int]


class GradientIndex(Snapshot):
    """Row gradients of M training examples in a directory, mapped, not loaded; or under a URL, read through copies.

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

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        segments: Sequence[Segment],
        sketch: Sketch,
        kept: Kept,
        home: Home | None = None,
        share: Share | None = None,
    ) -> None:
        super().__init__(path, manifest, segments, sketch, kept)
        self._home: Home = FolderHome(path) if home is None else home
        self._share = share

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        part: Share | None = None,
        cache: str | Path | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> GradientIndex:
        """Open the index in a directory, or under a URL that fsspec reaches.

        Of a URL the files that are opened are copied to a cache folder, once, and checked by their SHA-256 as they come. All
        processes share the copies; `captum-tracinwe cache` lists and clears them. Such an index is read, and not changed.

        Args:
            path (str or Path): the directory, or a URL, ``scheme://...``.
            part (int, int, optional): number and parts: every ``parts``-th segment from ``number`` on, and no file of another.
            cache (str or Path, optional): of a URL, the cache folder. Default: as of :meth:`TracInWE.cached`.
            storage_options (mapping, optional): of a URL, what fsspec's file system is made with: keys, endpoint, and so on.

        Raises:
            FileNotFoundError: there is none.
            NotADirectoryError: the path is that of a file.
            IndexDamaged: a file is missing, truncated, altered, or of another version.
            ImportError: of a URL, fsspec or the library for its scheme is not installed.
            OSError: of a URL, the store does not answer or refuses; the message says what to do.
        """
        if part is not None:
            if not isinstance(part, (tuple, list)) or len(part) != 2:
                raise ValueError(f"GradientIndex.open: expected `part` as (number, parts), got {part!r:.80}.")
            _check_part("open", *part)
        home = home_of(path, cache, storage_options)
        if isinstance(home, FolderHome) and not (home.folder / NAME).exists():
            Manifest.read(Path(path))  # says what is missing, by the name that was given
        return cls._newest(home, part)

    @classmethod
    def _newest(cls, home: Home, share: Share | None) -> GradientIndex:
        def opened(manifest: Manifest) -> GradientIndex:
            entries = manifest.segments if share is None else manifest.segments[share[0] :: share[1]]
            return cls.of(home, manifest, entries, share=share)

        return maintenance.on_newest(home.folder, opened, home.manifest)

    @classmethod
    def of(
        cls,
        home: Home,
        manifest: Manifest,
        entries: Sequence[SegmentEntry],
        known: Mapping[SegmentEntry, Segment] | None = None,
        share: Share | None = None,
    ) -> GradientIndex:
        """Some segments of an index, by a manifest that is at hand.

        Args:
            home (Home): where it is.
            manifest (Manifest), entries (sequence of SegmentEntry): what is to be opened.
            known (mapping, optional): segments that are open already.
            share (int, int, optional): which ones :meth:`refresh` is to open.
        """
        known = known or {}
        home.hold(manifest, [entry for entry in entries if entry not in known])

        def opened() -> GradientIndex:
            segments = [known.get(entry) or Segment(home.folder, manifest, entry) for entry in entries]
            return cls(home.folder, manifest, segments, *read_projections(home.folder, manifest), home, share)

        try:
            return opened()
        except IndexDamaged:
            if not home.mend(manifest, entries):
                raise
        return opened()

    @classmethod
    @undisturbed
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
        """Open the index again: as it is there now, with what others have added or deleted."""
        return GradientIndex._newest(self._home, self._share)

    def part(self, number: int, parts: int) -> GradientIndex:
        """Every ``parts``-th segment from ``number`` on, as an index of its own, so that several processes can share a search.

        :func:`captum_tracinwe.index.merge_results` puts their results together. ``open(path, part=(number, parts))`` opens
        the same segments, without those of the others.

        Raises:
            ValueError: ``number`` is not from 0 to ``parts`` − 1.
        """
        _check_part("part", number, parts)
        own = self.segments[number::parts]
        return GradientIndex(self.path, self.manifest, own, self.sketch, self.kept, self._home)

    # -------------------------------------------------------------------------------------------------------- reading

    def __repr__(self) -> str:
        state = "" if self.complete else ", not complete"
        if not self.manifest.source.settings:  # of rows that were given, or by an older version
            state += ", cannot tell whether a training set is its own"
        return f"GradientIndex({self.address!r}: {len(self):,} examples in {len(self.segments)} segments{state})"

    @property
    def address(self) -> str:
        """Its directory or URL."""
        return str(self._home)

    @undisturbed
    def search(
        self,
        rows: RowGradients,
        k: int,
        proponents: bool = True,
        *,
        where: Mapping[str, Any] | None = None,
        indices: Sequence[int] | Tensor | None = None,
        approximate: int | None = None,
        length: Length | None = None,
    ) -> SearchResult:
        """The k training examples of highest (lowest) score for each test example: exactly those of scoring everything.

        Scores are :func:`captum_tracinwe.ops.row_dot` of the float32 test rows with the stored rows, bit for bit.

        Args:
            rows (RowGradients): N test examples, values ``(R, C * D)``, on the CPU: ``tracin.row_gradients(inputs)`` for the
                plain score, ``tracin.question_rows(inputs)`` for any.
            k (int): how many; fewer come back if there are fewer.
            proponents (bool): False for the most negative scores.
            where (mapping, optional): metadata column → the value, or a collection of values, that may take part.
            indices (sequence of int, optional): training examples that may take part.
            approximate (int, optional): verify at most so many examples per question; a score that was not verified is the
                middle of the interval that its bounds leave, and ``stats.intervals`` says which. Default: exact.
            length (Length, optional): the length by which scores are divided on the side of the training examples. It must be
                fitted: ``tracin.question(inputs).length``. Default: scores are not divided.

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
        return search(
            self, rows, int(k), proponents, where=where, indices=indices, approximate=approximate, length=length
        )

    # ------------------------------------------------------------------------------------------------------- changing

    @undisturbed
    def append(self, rows: RowGradients, metadata: Mapping[str, Sequence[Any]] | None = None) -> GradientIndex:
        """Add training examples behind the last one: all of them, or none if anything goes wrong.

        Args:
            rows (RowGradients): values ``(R, C * D)``. They must come from the same model, checkpoints and loss, which cannot be
                checked here; ``tracin.build_index(path, append=True)`` does check it.
            metadata (mapping, optional): name → one value for each example, under the names that the index has.

        Returns:
            GradientIndex: as it is then.

        Raises:
            ValueError: rows or metadata that do not fit this index; the message says what was expected.
        """
        maintenance.append_rows(self._directory("append"), rows, metadata or {})
        return self.refresh()

    def delete(self, indices: Sequence[int] | Tensor) -> GradientIndex:
        """Take training examples out, in one step. The others keep their indices.

        The bytes of those taken out are freed by the next :meth:`compact`.

        Args:
            indices (sequence of int or Tensor): training indices; of a mask pass ``mask.nonzero().flatten()``.

        Returns:
            GradientIndex: as it is then.
        """
        maintenance.delete(self._directory("delete"), checked_indices(indices, "delete").tolist())
        return self.refresh()

    def compact(self) -> GradientIndex:
        """Write those segments anew that hold deleted examples or are too small. Returns the index as it is then."""
        maintenance.compact(self._directory("compact"))
        return self.refresh()

    def merge(self, other: GradientIndex | str | Path) -> GradientIndex:
        """Add all examples of another index of the same source behind the last one, in one step. Returns the index as it is then.

        Training index j of ``other``, which is open, or named by its directory or URL, becomes ``self.total + j``.

        Raises:
            IndexMismatch: the other holds gradients of something else; the message names what.
        """
        directory = self._directory("merge")
        if isinstance(other, str) and is_url(other):
            other = GradientIndex.open(other)
        maintenance.merge(directory, folder_of(other) if isinstance(other, (str, Path)) else other.path)
        return self.refresh()

    def _directory(self, method: str) -> Path:
        """Where it may be changed.

        Raises:
            ValueError: it was opened from a URL.
        """
        if isinstance(self._home, StoreHome):
            raise ValueError(
                f"GradientIndex.{method}: {self.address!r} was opened from a URL, and is only read: expected an index in a "
                f"directory. Change the one that was pushed there, and push it again."
            )
        return self.path

    @undisturbed
    def convert(
        self,
        path: str | Path,
        *,
        dtype: str = "float32",
        rank: int = 31,
        project: int | None = None,
        segment_examples: int = 4096,
        bag: int | None = None,
    ) -> GradientIndex:
        """Write another form of it, such as a smaller one, into a new or empty directory. No gradient is computed.

        Args:
            path (str or Path): the directory.
            dtype, rank, project: as in :meth:`TracInWE.build_index`.
            segment_examples (int): of what is appended later; the segments are those of this index.
            bag (int, optional): of an index with a bag of words (the recommended score's), how many classes there are.

        Returns:
            GradientIndex: the new one, with the same training indices, metadata and deletions.

        Raises:
            ValueError: this index has no whole rows, is not complete, or ``bag`` is missing.
            FileExistsError: something is in the directory.
        """
        folder = folder_of(path)
        convert(self, folder, dtype, rank, project, segment_examples, bag)
        return GradientIndex.open(folder)

    def push(self, url: str, *, replace: bool = False, storage_options: Mapping[str, Any] | None = None) -> Pushed:
        """Copy the index to a URL that fsspec reaches, for :meth:`open`: its files first, the manifest last.

        Files are called by their content: what is there already is not sent again, so that a push that was cut goes on, and one
        after :meth:`append` sends what was added. Readers see the former index or this one. Files that only the former named go.

        Args:
            url (str): ``scheme://...`` of a folder: a new one, or where this index was pushed before.
            replace (bool): put it in the place of any other index there.
            storage_options (mapping, optional): what fsspec's file system is made with: keys, endpoint, and so on.

        Returns:
            Pushed: how much was sent, and how much was there.

        Raises:
            FileExistsError: another index is there, or somebody changed this one there since it was pushed from here.
            ValueError: the directory was changed since the index was opened.
            RuntimeError: somebody changes it there at this moment.
            IndexDamaged: a file is not what was written; the index there stays as it is.
            ValueError: not a URL.
            ImportError, OSError: as :meth:`open`.
        """
        if not is_url(url):
            raise ValueError(
                f"GradientIndex.push: expected a URL such as 's3://bucket/index', got {str(url)!r:.300}. For a directory write "
                f"'file:///...', or copy it by any means."
            )
        if not isinstance(self._home, StoreHome) and Manifest.read(self.path) != self.manifest and not replace:
            raise ValueError(
                f"GradientIndex.push: the index {self.address!r} was changed since this one was opened, and would be replaced by "
                f"what it was: nothing was sent. Take index.refresh().push(url); replace=True pushes what is open."
            )
        return push(self.manifest, self.path, Store(url, storage_options), replace)

    def verify(self) -> None:
        """Read every byte of the index as it is on disk, or under its URL.

        What was learned of its rows, in a file that may go at any time, is checked by whoever uses it.

        Raises:
            IndexDamaged: something is not what was written; the message names every damaged file.
        """
        home = self._home
        if isinstance(home, StoreHome):
            maintenance.on_newest(self.path, home.verify, home.manifest)
        else:
            maintenance.verify(self.path)


def _check_part(method: str, number: Any, parts: Any) -> None:
    """Raise ValueError unless there is a part of that number."""
    if not is_whole(number) or not is_whole(parts) or parts < 1 or not 0 <= number < parts:
        raise ValueError(
            f"GradientIndex.{method}: expected a part as two whole numbers, `number` from 0 and `parts` above it, got {number!r} "
            f"of {parts!r}."
        )
