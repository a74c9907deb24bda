"""Writes one segment, values straight to disk as they come, and enters finished files in the manifest."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor

from captum_tracinwe.index.files.disk import IndexDamaged, Room, fold_lists, locked, row_sums, sweep, sync_folder
from captum_tracinwe.index.files.kept import Kept
from captum_tracinwe.index.files.layout import HEADER, MOST_ID, Layout, header_of, layout_of
from captum_tracinwe.index.files.manifest import FileEntry, Manifest, SegmentEntry
from captum_tracinwe.index.files.names import name_of
from captum_tracinwe.index.files.packing import PackedRows, as_words
from captum_tracinwe.index.files.sketch import LARGEST_NORM, Sketch
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["SegmentWriter", "Written", "commit", "file_of", "finish", "refuse_ids", "rename", "seal", "write_segment"]

# Sketches put in the order of their tokens at a time.
CHUNK_ROWS = 8192


@dataclass(frozen=True)
class Written:
    """A finished segment under temporary names, and the names it will have."""

    entry: SegmentEntry
    files: tuple[tuple[Path, str], ...]


class SegmentWriter:
    """Takes the row gradients of a segment's examples in order, then makes one file of them.

    Beside a chunk it holds the sketch and the ids: 4 C (r + 1) + 12 bytes a row; the values go to disk at once.

    Args:
        folder (Path): of the index.
        manifest (Manifest), sketch (Sketch), kept (Kept): its form.
        first, stop (int): the training indices that the segment stands for.
        room (Room): keeps the unfinished files until they have their names.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, sketch: Sketch, kept: Kept, first: int, stop: int, room: Room
    ) -> None:
        self._folder, self._manifest, self._sketch, self._room = folder, manifest, sketch, room
        self._first, self._stop, self._kept = first, stop, kept
        self._file, self._path = room.file()
        self._file.write(bytes(HEADER))
        self._digest = hashlib.sha256()
        self._counts: list[Tensor] = []
        self._ids: list[np.ndarray[Any, Any]] = []
        self._sums: list[np.ndarray[Any, Any]] = []
        self._sketches: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._rows = 0
        self.examples = 0

    def add(self, rows: RowGradients) -> None:
        """The next examples: whole rows, ``(R, C * D)``.

        Raises:
            ValueError: a value is not finite, or too large for the index or its dtype; the message names the example.
        """
        first = self._first + self.examples
        refuse_ids(rows, first)
        _refuse_norms(rows, first)
        packed = self._kept.of_training(rows)
        _refuse_infinite(packed, self._kept.packing.unpack(packed.stored), first, self._manifest.dtype)
        self.copy(packed)

    def copy(self, rows: PackedRows) -> None:
        """The next examples, as another segment of the same form has them."""
        raw = as_words(rows.stored)
        ids = rows.ids.numpy().astype(np.int32)
        self._sums.append(row_sums(raw, ids, np.arange(self._rows, self._rows + len(ids))))
        self._write(raw)
        # What a search will see: bounds are those of the stored, rounded values.
        seen = self._kept.values(rows.stored)
        self._sketches.append(self._sketch.of(rows.ptr, seen))
        self._norms.append(RowGradients(rows.ptr, rows.ids, seen).squared_norms())
        self._counts.append(rows.ptr[1:] - rows.ptr[:-1])
        self._ids.append(ids)
        self._rows += len(ids)
        self.examples += len(rows.ptr) - 1

    def finish(
        self, numbers: Sequence[int] | None = None, columns: Mapping[str, Sequence[Any]] | None = None
    ) -> Written:
        """Everything but the values, the header, and the metadata; synced, under temporary names.

        Args:
            numbers (sequence of int, optional): the training indices minus the segment's first; by default 0, 1, ….
            columns (mapping, optional): metadata, one value for each example.
        """
        counts = torch.cat(self._counts).numpy() if self._counts else np.empty(0, np.int64)
        ids = np.concatenate([np.empty(0, np.int32), *self._ids])
        sketch = torch.cat([torch.empty(0, self._sketch.columns, dtype=torch.float32), *self._sketches]).numpy()
        self._sketches.clear()
        examples = np.repeat(np.arange(len(counts)), counts)
        order = np.argsort(ids, kind="stable")
        list_ids, list_counts = np.unique(ids, return_counts=True)
        list_ptr = np.concatenate([[0], np.cumsum(list_counts)])
        most = int(counts.max()) if len(counts) else 0
        entry = SegmentEntry(
            self._first, self._stop, len(counts), len(ids), len(list_ids), most, 0, FileEntry("", 0, ""), None
        )
        layout = layout_of(self._manifest, entry)
        place = np.zeros(1, dtype=np.uint32)
        self._pad(layout, "padding_of_values")
        self._write(examples[order])
        sums = []
        for start in range(0, len(order), CHUNK_ROWS):
            part = order[start : start + CHUNK_ROWS]
            block = np.ascontiguousarray(sketch[part])
            self._write(block)
            sums.append(row_sums(block, examples[part], ids[part]))
        self._pad(layout, "padding_of_sketch")
        entry_sums = np.concatenate([np.empty(0, np.uint32), *sums])
        head = io.BytesIO()
        for array, kind in (
            (np.concatenate([place, np.cumsum(counts)]), np.int64),
            (np.arange(len(counts)) if numbers is None else numbers, np.int64),
            (list_ids, np.int64),
            (list_ptr, np.int64),
            (torch.cat(self._norms).numpy() if self._norms else [], np.float32),
            (ids, np.int32),
            (np.concatenate([np.empty(0, np.uint32), *self._sums]), np.uint32),
            (fold_lists(entry_sums, list_counts), np.uint32),
        ):
            head.write(np.asarray(array, dtype=kind).tobytes())
        self._write(head.getbuffer())
        beside = None
        files = []
        if columns:
            content = json.dumps({name: list(values) for name, values in columns.items()}, sort_keys=True).encode()
            handle, path = self._room.file()
            handle.write(content)
            finish(handle)
            beside = file_of("columns", content)
            files.append((path, beside.name))
        entry = replace(entry, head=zlib.crc32(head.getbuffer()), columns=beside)
        entry = seal(self._file, self._digest, self._manifest, entry)
        return Written(entry, ((self._path, entry.file.name), *files))

    def _pad(self, layout: Layout, name: str) -> None:
        start, end = layout.places[name]
        self._write(bytes(end - start))

    def _write(self, content: Any) -> None:
        if memoryview(content).nbytes:
            self._file.write(content)
            self._digest.update(content)


def write_segment(
    folder: Path,
    manifest: Manifest,
    form: tuple[Sketch, Kept],
    span: tuple[int, int],
    blocks: Iterable[RowGradients | PackedRows],
    room: Room,
    numbers: Sequence[int] | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> Written:
    """A segment of the examples in ``blocks``, for the training indices of ``span``; see :class:`SegmentWriter`."""
    writer = SegmentWriter(folder, manifest, *form, *span, room)
    for rows in blocks:
        if isinstance(rows, RowGradients):
            writer.add(rows)
        else:
            writer.copy(rows)
    return writer.finish(numbers, columns)


def commit(folder: Path, written: Sequence[Written], change: Callable[[Manifest], Manifest]) -> Manifest:
    """Give finished files their names and enter them, in one step for all who read.

    Args:
        folder (Path): of the index.
        written (sequence of Written): segments whose files are synced.
        change (callable): from the manifest as it is by then, to the one with these segments.
    """
    with locked(folder):
        manifest = change(Manifest.read(folder))
        rename(folder, written)
        manifest.write(folder)
        sweep(folder, {file.name for file in manifest.files})
    return manifest


def rename(folder: Path, written: Sequence[Written]) -> None:
    """Give finished files the names by which a manifest may call them; within :func:`locked`."""
    for temporary_name, name in (pair for segment in written for pair in segment.files):
        if (folder / name).is_dir():
            raise IndexDamaged(f"{str(folder / name)!r} is a directory: expected a file, or none. Move it away.")
        os.replace(temporary_name, folder / name)
    sync_folder(folder)


def seal(file: IO[bytes], digest: hashlib._Hash, manifest: Manifest, entry: SegmentEntry) -> SegmentEntry:
    """Write the header of a segment whose arrays are in ``file`` and in ``digest``; close it; its entry, with its name."""
    header = header_of(manifest, entry)
    file.seek(0)
    file.write(header)
    finish(file)
    digest.update(header)
    sha256 = digest.hexdigest()
    return replace(entry, file=FileEntry(name_of("segment", sha256), layout_of(manifest, entry).size, sha256))


def file_of(kind: str, content: bytes) -> FileEntry:
    """The entry of a file called by its content, so that no file is ever written over."""
    digest = hashlib.sha256(content).hexdigest()
    return FileEntry(name_of(kind, digest), len(content), digest)


def finish(file: IO[bytes]) -> None:
    """Close it; what was written survives a power cut."""
    file.flush()
    os.fsync(file.fileno())
    file.close()


def refuse_ids(rows: RowGradients, first: int) -> None:
    """Raise ValueError where a token is not one that an index can hold: 0 to 2³¹ − 1."""
    wrong = (rows.ids < 0) | (rows.ids > MOST_ID)
    if bool(wrong.any()):
        example = first + int(rows.examples[wrong][0])
        raise ValueError(
            f"Training example {example} has the token id {int(rows.ids[wrong][0])}: an index holds ids from 0 to {MOST_ID}. "
            f"Number the tokens anew, or leave out their rows (RowGradients.exclude)."
        )


def _refuse_norms(rows: RowGradients, first: int) -> None:
    """Raise ValueError where a value is not finite, or a row's norm could overflow a score."""
    norms = rows.norms()
    wrong = ~(norms <= LARGEST_NORM)
    if bool(wrong.any()):
        example = first + int(rows.examples[wrong][0])
        raise ValueError(
            f"Training example {example} has a gradient of norm {float(norms[wrong][0]):.3g}: expected finite numbers, and at "
            f"most {LARGEST_NORM:.0e}. Look at its loss and at the learning rates."
        )


def _refuse_infinite(rows: PackedRows, seen: Tensor, first: int, dtype: str) -> None:
    """Raise ValueError where a value is not finite as it is stored."""
    if bool(torch.isfinite(seen.sum())):
        return
    wrong = ~torch.isfinite(seen).all(1)
    if bool(wrong.any()):
        example = first + int(torch.searchsorted(rows.ptr, int(wrong.nonzero()[0]), right=True)) - 1
        raise ValueError(
            f"Training example {example} has a gradient beyond what {dtype} holds at the scale that a sample of the examples "
            f"asked for: build the index with dtype='bfloat16' or 'float32'."
        )
