"""Changing an index: rows appended, examples deleted, segments compacted, indexes merged, all files verified.

Each change writes new files beside the old ones and enters them by one replacement of the manifest: it is done or not done.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from msgspec.structs import replace

from captum_tracinwe.batches.arguments import is_whole
from captum_tracinwe.index.creation import create, read_projections, refuse_others
from captum_tracinwe.index.files.differences import differences
from captum_tracinwe.index.files.disk import (
    IndexDamaged,
    IndexMismatch,
    Room,
    checked_content,
    full_disk,
    locked,
    present,
    sweep,
)
from captum_tracinwe.index.files.kept import Kept
from captum_tracinwe.index.files.layout import HEADER
from captum_tracinwe.index.files.manifest import CheckpointEntry, Manifest, Part, SegmentEntry, Source
from captum_tracinwe.index.files.names import RESERVED
from captum_tracinwe.index.files.packing import PackedRows
from captum_tracinwe.index.files.segment import Segment
from captum_tracinwe.index.files.sketch import Sketch
from captum_tracinwe.index.files.writer import Written, commit, finish, refuse_ids, seal, write_segment
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = [
    "append_rows",
    "check_columns",
    "compact",
    "create_from_rows",
    "delete",
    "merge",
    "on_newest",
    "verify",
]

# Rows copied from one segment to another at a time: 8 MB at 2 x 384.
COPIED_EXAMPLES = 64
# A reader that meets a new manifest each time, so often, gives up.
ATTEMPTS = 20

T = TypeVar("T")


def on_newest(folder: Path, use: Callable[[Manifest], T], read: Callable[[], Manifest] | None = None) -> T:
    """``use(manifest)``, once more with the newest one where a writer took files away that the manifest still names.

    Args:
        folder (Path): of the index.
        use (callable): whatever is done with its manifest.
        read (callable, optional): gives the manifest in force; by default it is read from the folder.

    Raises:
        IndexDamaged: what the manifest in force names is damaged.
        RuntimeError: there was a newer manifest every time.
    """
    newest = read or (lambda: Manifest.read(folder))
    for attempt in range(ATTEMPTS):
        manifest = newest()
        try:
            return use(manifest)
        except IndexDamaged:
            if newest() == manifest:
                raise
        time.sleep(0.01 * attempt)
    raise RuntimeError(
        f"The index {str(folder)!r} was changed by another process while it was read, {ATTEMPTS} times in a row: nothing was "
        f"done. Wait for that process, then try again."
    )


def create_from_rows(
    folder: Path,
    rows: RowGradients,
    checkpoints: int,
    dtype: str,
    rank: int,
    segment_examples: int,
    metadata: Mapping[str, Sequence[Any]],
    project: int | None,
) -> None:
    """See :meth:`GradientIndex.from_rows`."""
    if not isinstance(rows, RowGradients):
        raise TypeError(f"GradientIndex.from_rows: expected RowGradients, got {type(rows).__name__}.")
    if not rows.width:
        raise ValueError("GradientIndex.from_rows: expected rows with columns, got rows of width 0.")
    if not is_whole(checkpoints) or checkpoints < 1 or rows.width % checkpoints:
        raise ValueError(f"`checkpoints` should divide the {rows.width} columns of the rows, got {checkpoints!r}.")
    refuse_ids(rows, 0)
    refuse_others(folder)
    vocabulary = int(rows.ids.max()) + 1 if rows.num_rows else 0
    given = tuple(CheckpointEntry(f"columns {c}", 1.0, "") for c in range(checkpoints))
    source = Source("given rows", "", vocabulary, rows.width // checkpoints, given)
    sample = rows.values if rows.num_rows <= 20_000 else rows.values[:: rows.num_rows // 10_000]
    form = {"dtype": dtype, "rank": rank, "segment_examples": segment_examples, "project": project}
    check_columns(metadata, len(rows))

    def fill(manifest: Manifest, form: tuple[Sketch, Kept], room: Room) -> list[Written]:
        return _segments(folder, manifest, form, 0, rows, metadata, room)

    create(folder, source, [sample], **form, part=Part(0, len(rows)), fill=fill)  # type: ignore[arg-type]


def append_rows(folder: Path, rows: RowGradients, metadata: Mapping[str, Sequence[Any]]) -> None:
    """See :meth:`GradientIndex.append`."""
    manifest = Manifest.read(folder)
    check_columns(metadata, len(rows))
    _refuse_unfinished(folder, manifest, "added to")
    form = read_projections(folder, manifest)
    with full_disk(folder), Room(folder) as room:
        written = _segments(folder, manifest, form, manifest.total, rows, metadata, room)

        def change(found: Manifest) -> Manifest:
            if found != manifest:
                raise RuntimeError(
                    f"The index {str(folder)!r} was changed by another process while these rows were written: nothing was added. "
                    f"Append them again."
                )
            part = Part(manifest.total, len(rows))
            return replace(found, parts=(*found.parts, part)).with_segments(one.entry for one in written)

        commit(folder, written, change)


def _segments(
    folder: Path,
    manifest: Manifest,
    form: tuple[Sketch, Kept],
    first: int,
    rows: RowGradients,
    metadata: Mapping[str, Sequence[Any]],
    room: Room,
) -> list[Written]:
    """Rows as finished segments for the training indices from ``first`` on, under temporary names."""
    rows = rows.to("cpu", torch.float32)
    refuse_ids(rows, first)
    given = len(manifest.source.checkpoints) * manifest.source.width
    if rows.width != given:
        raise IndexMismatch(f"The index holds rows of {given} columns, got rows of {rows.width}.")
    step, written = manifest.segment_examples, []
    for start in range(0, len(rows), step):
        stop = min(start + step, len(rows))
        columns = {name: values[start:stop] for name, values in metadata.items()}
        pieces = (
            rows.select(torch.arange(a, min(a + COPIED_EXAMPLES, stop))) for a in range(start, stop, COPIED_EXAMPLES)
        )
        span = (first + start, first + stop)
        written.append(write_segment(folder, manifest, form, span, pieces, room, columns=columns))
    return written


def check_columns(metadata: Mapping[str, Sequence[Any]], examples: int) -> None:
    """Raise ValueError unless each column has one plain value for each example."""
    if not isinstance(metadata, Mapping):
        raise TypeError(
            f"`metadata` should be a mapping of names and lists, one value for each example, got a {type(metadata).__name__}. Of "
            f"a DataFrame take .to_dict('list')."
        )
    for name, values in metadata.items():
        if not isinstance(name, str) or not hasattr(values, "__len__") or isinstance(values, (str, Mapping)):
            raise TypeError(
                f"`metadata` should name lists, one value for each example, got {name!r:.60}: {values!r:.60}."
            )
        if name.startswith(RESERVED):
            raise ValueError(
                f"`metadata` has a column {name!r}: names that begin with {RESERVED!r} are the index's own. Give it another."
            )
        if len(values) != examples:
            raise ValueError(
                f"`metadata` {name!r} has {len(values)} values: expected {examples}, one for each example."
            )
        wrong = next((value for value in values if not isinstance(value, (str, int, float, bool, type(None)))), None)
        if wrong is not None:
            raise ValueError(
                f"`metadata` {name!r} holds a {type(wrong).__name__}: expected str, int, float, bool or None."
            )


def delete(folder: Path, indices: Sequence[int]) -> None:
    """See :meth:`GradientIndex.delete`."""
    with full_disk(folder), locked(folder):
        manifest = Manifest.read(folder)
        wrong = next((index for index in indices if not 0 <= index < manifest.total), None)
        if wrong is not None:
            raise ValueError(f"The index has no training example {wrong}: expected 0 to {manifest.total - 1}.")
        marked = np.zeros(manifest.total + 2, dtype=np.int8)  # with a 0 before and behind
        for first, stop in manifest.deleted:
            marked[first + 1 : stop + 1] = 1
        marked[np.asarray(indices, dtype=np.int64) + 1] = 1
        edges = np.flatnonzero(np.diff(marked))
        pairs = tuple((int(a), int(b)) for a, b in edges.reshape(-1, 2))
        replace(manifest, deleted=pairs).write(folder)


def compact(folder: Path) -> None:
    """See :meth:`GradientIndex.compact`."""
    on_newest(folder, lambda manifest: _compact(folder, manifest))


def _compact(folder: Path, manifest: Manifest) -> None:
    _refuse_unfinished(folder, manifest, "compacted")
    form = read_projections(folder, manifest)
    with full_disk(folder), Room(folder) as room:
        written, gone = [], []
        for group in _groups(folder, manifest):
            numbers = np.concatenate([segment.numbers[kept] for segment, kept in group])
            names = sorted({name for segment, _ in group for name in segment.columns})
            columns = {
                name: [
                    value
                    for segment, kept in group
                    for value, stays in zip(segment.columns.get(name, [None] * len(segment)), kept, strict=True)
                    if stays
                ]
                for name in names
            }
            span = (group[0][0].entry.first, group[-1][0].entry.stop)
            pieces = (piece for segment, kept in group for piece in _pieces(segment, np.flatnonzero(kept)))
            relative = (numbers - span[0]).tolist()
            written.append(write_segment(folder, manifest, form, span, pieces, room, relative, columns))
            gone += [segment.entry for segment, _ in group]
        if not written:
            return

        def change(found: Manifest) -> Manifest:
            # Deletions meanwhile stay marked, and additions stay; only who wrote these segments anew as well is in the way.
            if not set(gone) <= set(found.segments):
                raise RuntimeError(
                    f"The index {str(folder)!r} was compacted by another process meanwhile; nothing changed."
                )
            return found.with_segments((one.entry for one in written), gone)

        commit(folder, written, change)


def _groups(folder: Path, manifest: Manifest) -> Iterator[list[tuple[Segment, np.ndarray[Any, Any]]]]:
    """Neighbouring segments to be written as one, each with a mask of the examples that stay."""
    group: list[tuple[Segment, np.ndarray[Any, Any]]] = []
    size, changed = 0, False
    for entry in manifest.segments:
        segment = Segment(folder, manifest, entry)
        kept = np.ones(len(segment), dtype=np.bool_)
        for first, stop in manifest.deleted:
            kept &= ~((segment.numbers >= first) & (segment.numbers < stop))
        if group and size + int(kept.sum()) > manifest.segment_examples:
            if changed or len(group) > 1:
                yield group
            group, size, changed = [], 0, False
        group.append((segment, kept))
        size += int(kept.sum())
        changed = changed or not kept.all()
    if group and (changed or len(group) > 1):
        yield group


def _pieces(segment: Segment, examples: np.ndarray[Any, Any]) -> Iterator[PackedRows]:
    for start in range(0, len(examples), COPIED_EXAMPLES):
        yield segment.packed(examples[start : start + COPIED_EXAMPLES])


def merge(folder: Path, other: Path) -> None:
    """See :meth:`GradientIndex.merge`."""
    on_newest(other, lambda added: on_newest(folder, lambda manifest: _merge(folder, manifest, other, added)))


def _merge(folder: Path, manifest: Manifest, other: Path, added: Manifest) -> None:
    wrong = differences(manifest.source, added.source)
    for name in ("dtype", "scale", "stored_width", "rank", "project", "projected"):
        if getattr(manifest, name) != getattr(added, name):
            wrong.append(f"{name}: {getattr(manifest, name)} here, {getattr(added, name)} there")
    if wrong:
        raise IndexMismatch(f"{str(other)!r} cannot be merged into {str(folder)!r}: {'; '.join(wrong)}.")
    for place, content in ((folder, manifest), (other, added)):
        _refuse_unfinished(place, content, "merged")
    form, (_, theirs) = read_projections(folder, manifest), read_projections(other, added)
    same, ours = manifest.projections == added.projections, form[1]
    if ours.directions is not None and theirs.directions is not None and not ours.directions.equal(theirs.directions):
        raise IndexMismatch(
            f"{str(other)!r} cannot be merged into {str(folder)!r}: of each row they keep other columns (project=...), which a "
            f"sample of their own texts has chosen. Add those texts by tracin.build_index(path, append=True)."
        )
    shift = manifest.total
    with full_disk(folder), Room(folder) as room:
        written = []
        for entry in added.segments:
            moved = replace(entry, first=entry.first + shift, stop=entry.stop + shift)
            if same:
                written.append(_copied(folder, manifest, Segment(other, added, entry), moved, room))
                continue
            # Another projection: bounds of one question need one sketch.
            segment = Segment(other, added, entry)
            pieces = _pieces(segment, np.arange(len(segment)))
            relative = (segment.numbers - entry.first).tolist()
            span = (moved.first, moved.stop)
            written.append(write_segment(folder, manifest, form, span, pieces, room, relative, segment.columns))

        def change(found: Manifest) -> Manifest:
            if found.total != shift:
                raise RuntimeError(
                    f"The index {str(folder)!r} was added to by another process meanwhile: nothing was merged. Merge again."
                )
            deleted = tuple((first + shift, stop + shift) for first, stop in added.deleted)
            parts = (*found.parts, Part(shift, added.total))
            return replace(found, parts=parts, deleted=_joined(found.deleted + deleted)).with_segments(
                one.entry for one in written
            )

        commit(folder, written, change)


def _joined(spans: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    joined: list[tuple[int, int]] = []
    for first, stop in spans:
        if joined and joined[-1][1] == first:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((first, stop))
    return tuple(joined)


def _copied(folder: Path, manifest: Manifest, segment: Segment, moved: SegmentEntry, room: Room) -> Written:
    """The files of a segment of another index, checked on their way; its header says where it is now."""
    entry, digest = segment.entry, hashlib.sha256()
    _ = segment.head  # checks it
    target, path = room.file()
    with present(segment.path, entry.file.bytes) as source:
        header = source.read(HEADER)
        target.write(header)
        while block := source.read(1 << 20):
            digest.update(block)
            target.write(block)
    whole = digest.copy()
    if segment.bound:
        whole.update(header)
    if whole.hexdigest() != entry.file.sha256:
        raise IndexDamaged(
            f"{str(segment.path)!r} cannot be merged, it is damaged: its SHA-256 is not the one in the manifest."
        )
    sealed = seal(target, digest, manifest, moved)
    files = [(path, sealed.file.name)]
    if entry.columns is not None:
        content = checked_content(segment.folder, entry.columns)
        _ = segment.columns  # likewise
        target, path = room.file()
        target.write(content)
        finish(target)
        files.append((path, entry.columns.name))
    return Written(sealed, tuple(files))


def verify(folder: Path) -> None:
    """See :meth:`GradientIndex.verify`."""
    right: set[Any] = set()

    def check(manifest: Manifest) -> None:
        wrong = []
        if manifest.projections not in right:
            try:
                read_projections(folder, manifest)
                right.add(manifest.projections)
            except IndexDamaged as error:
                wrong.append(str(error))
        for entry in manifest.segments:
            if entry in right:
                continue
            found = _wrong_with(folder, manifest, entry)
            wrong += found
            if not found:
                right.add(entry)
        if wrong:
            raise IndexDamaged(f"The index {str(folder)!r} is damaged in {len(wrong)} place(s): {'; '.join(wrong)}")

    on_newest(folder, check)


def _wrong_with(folder: Path, manifest: Manifest, entry: SegmentEntry) -> list[str]:
    try:
        return Segment(folder, manifest, entry).verify()
    except IndexDamaged as error:
        return [str(error)]


def _refuse_unfinished(folder: Path, manifest: Manifest, what: str) -> None:
    if not manifest.complete:
        raise ValueError(
            f"The index {str(folder)!r} is not complete, and cannot be {what} before it is: finish it with "
            f"tracin.build_index(path, resume=True)."
        )


def clean(folder: Path) -> None:
    """Remove what killed writers left."""
    with full_disk(folder), locked(folder):
        sweep(folder, {file.name for file in Manifest.read(folder).files})
