"""A segment as it lies on disk, mapped: bounds from its lists, scores from its rows, nothing read that is not asked for."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import mmap
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_tracinwe.index.files.consistency import gone_within
from captum_tracinwe.index.files.disk import IndexDamaged, checked_content, fold_lists, present, row_sums
from captum_tracinwe.index.files.kept import Kept
from captum_tracinwe.index.files.layout import HEADER, header_of, layout_of
from captum_tracinwe.index.files.manifest import Manifest, SegmentEntry
from captum_tracinwe.index.files.maps import Mapped, Recent
from captum_tracinwe.index.files.packing import PackedRows, as_words
from captum_tracinwe.rows import ops
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["Segment", "spread"]

Integers = npt.NDArray[np.int64]
NUMPY: dict[str, type[np.generic]] = {"F32": np.float32, "I64": np.int64, "I32": np.int32, "U32": np.uint32}
_advise = getattr(ctypes.CDLL(None), "madvise", None)
# Of all indexes that are open: each takes up to three of 65,530 maps, and so many of 4,096 examples are 50 million.
RECENT = Recent(12_288)


@dataclass(frozen=True)
class Found:
    """The rows of some examples whose tokens a question has, float32, and what was read for them."""

    ptr: Tensor
    ids: Tensor
    values: Tensor
    rows: int
    bytes: int


class _View:
    """A segment's file while it is mapped: its arrays, and what of them has been checked."""

    def __init__(self, segment: Segment) -> None:
        layout, entry = segment.layout, segment.entry
        self.file = Mapped(segment.path, entry.file.bytes)
        self.beside = Mapped(segment.columns_path, entry.columns.bytes) if entry.columns is not None else None
        raw = self.file.bytes
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        for name, (kind, shape) in layout.shapes.items():
            start, end = layout.places[name]
            if kind in NUMPY and name != "values":
                self.arrays[name] = raw[start:end].numpy().view(NUMPY[kind]).reshape(shape)
        start, end = layout.places["values"]
        self.values = raw[start:end].view(layout.packing.kind).view(entry.rows, layout.packing.form[1])
        # What is asked for is known to the byte: reading around it would cost more than it saves.
        self.tell(0, end, getattr(mmap, "MADV_RANDOM", None))
        self.checked_head = False
        self.checked_rows = np.zeros(entry.rows, dtype=bool)
        self.checked_lists = np.zeros(entry.lists, dtype=bool)

    def tell(self, start: int, end: int, advice: int | None) -> None:
        """Tell the system how bytes ``start:end`` will be read."""
        if _advise is not None and advice is not None and end > start:
            address = self.file.bytes.data_ptr() + start
            skew = address % mmap.PAGESIZE
            _advise(ctypes.c_void_p(address - skew), ctypes.c_size_t(end - start + skew), advice)


class Segment:
    """One file, mapped; opening it reads 4 KB. The head is read and checked when it is first needed.

    Where very many are open (``RECENT``), one that was not used for long is mapped again when it is.

    Args:
        folder (Path): of the index.
        manifest (Manifest): names its form.
        entry (SegmentEntry): names the file.

    Raises:
        IndexDamaged: the file is missing, has another size, or another header than was written.
    """

    def __init__(self, folder: Path, manifest: Manifest, entry: SegmentEntry) -> None:
        self.entry, self.folder, self.path = entry, folder, folder / entry.file.name
        self.columns_path = folder / entry.columns.name if entry.columns else self.path
        self.layout = layout_of(manifest, entry)
        self.scale, self.kept = manifest.scale, Kept(self.layout.packing, manifest.scale)
        self.used = 0
        self._header = header_of(manifest, entry)
        span = entry.stop - entry.first
        self._gone = () if entry.examples == span else tuple(gone_within(manifest.deleted, entry.first, entry.stop))
        with present(self.path, entry.file.bytes) as file:
            header = file.read(HEADER)
        #: Whether the file says itself what examples it is of: since version 2.
        self.bound = header == self._header
        if not self.bound and header != self.layout.header():
            raise IndexDamaged(
                f"{str(self.path)!r} is damaged, or the manifest is: the file's header is not the one of segment {entry.first} "
                f"to {entry.stop} in the manifest."
            )
        if entry.columns is not None:
            present(self.columns_path, entry.columns.bytes).close()
        self._lock = threading.Lock()
        self._view: _View | None = None
        self.opened = False
        if RECENT.has_room():
            self._open()
        self.opened = True

    def __len__(self) -> int:
        return self.entry.examples

    def _open(self) -> _View:
        """Its arrays, mapped, of a file that is as long as it was."""
        view = self._view
        if view is None:
            with self._lock:
                view = self._view
                if view is None:
                    view = self._view = self._mapped()
                    RECENT.add(self)
        RECENT.use(self)
        view.file.check()
        return view

    def _mapped(self) -> _View:
        if self.opened and not self.path.exists():
            raise IndexDamaged(
                f"{str(self.path)!r} is missing. A writer compacted it away, or somebody removed it, since the index was opened, "
                f"and of so many segments only {RECENT.most} are held: open the index again (GradientIndex.refresh)."
            )
        view = _View(self)
        if bytes(view.file.bytes[:HEADER].numpy()) != (self._header if self.bound else self.layout.header()):
            raise IndexDamaged(f"{str(self.path)!r} is damaged: its header is not the one that was written.")
        return view

    def unmap(self) -> None:
        """Let the map go; it is made again when it is needed."""
        self._view = None

    @property
    def head(self) -> dict[str, npt.NDArray[Any]]:
        """The small arrays, checked."""
        return self._head(self._open())

    def _head(self, view: _View) -> dict[str, npt.NDArray[Any]]:
        if not view.checked_head:
            start, end = self.layout.head
            raw: Any = view.file.bytes[start:end].numpy()
            if zlib.crc32(raw) != self.entry.head:
                raise self._damaged("the arrays at its end")
            wrong = self._wrong(view)
            if wrong:
                raise IndexDamaged(
                    f"{str(self.path)!r} does not go with its entry {self.entry.first} to {self.entry.stop} in the manifest: "
                    f"{wrong}. One of the two was altered; restore it, or build the index anew."
                )
            view.checked_head = True
        return view.arrays

    def _wrong(self, view: _View) -> str | None:
        """What in the small arrays is not as the manifest says."""
        entry, arrays = self.entry, view.arrays
        for name, counted, most in (("ptr", entry.rows, entry.most_rows), ("list_ptr", entry.rows, None)):
            counts = np.diff(arrays[name])
            if arrays[name][0] != 0 or arrays[name][-1] != counted or (len(counts) and counts.min() < 0):
                return f"{name} does not count {counted} rows"
            if most is not None and (int(counts.max()) if len(counts) else 0) != most:
                return f"no example has most_rows = {most} rows"
        numbers, ids = arrays["numbers"], arrays["list_ids"]
        if len(numbers):
            span = entry.stop - entry.first
            if numbers[0] < 0 or numbers[-1] >= span or not (np.diff(numbers) > 0).all():
                return f"its examples are not {len(numbers)} of {span}"
        if len(ids) and not (ids[0] >= 0 and (np.diff(ids) > 0).all()):
            return "list_ids are not in order"
        there = numbers + entry.first
        missing = sum(b - a - int(np.searchsorted(there, b) - np.searchsorted(there, a)) for a, b in self._gone)
        if missing != entry.stop - entry.first - entry.examples:
            return "it lacks examples that are not deleted"
        if not self.bound and self.scale != 1 and not self._scale_fits(view):
            return f"its squared norms are not those of its values by scale = {self.scale}"
        return None

    def _scale_fits(self, view: _View) -> bool:
        """Whether the largest of the squared norms, made when the scale was known, is that of its rows."""
        norms, ptr = view.arrays["squared_norms"], view.arrays["ptr"]
        largest = int(np.argmax(norms)) if len(norms) else 0
        if not len(norms) or not norms[largest] > 1e-30:
            return True
        rows = view.values[int(ptr[largest]) : int(ptr[largest + 1])].double() / self.scale
        return abs(float(rows.square().sum()) / float(norms[largest]) - 1) < 0.1

    def _damaged(self, what: str) -> IndexDamaged:
        return IndexDamaged(
            f"{str(self.path)!r} is damaged: {what} are not what was written (checksum). No score was made of them. "
            f"GradientIndex.verify() names all that is damaged; restore the file, or build the index anew."
        )

    @property
    def numbers(self) -> Integers:
        """Training indices, ascending, ``(n,)``."""
        return self.head["numbers"] + self.entry.first

    @functools.cached_property
    def columns(self) -> dict[str, list[Any]]:
        """Metadata of its examples: name → one value each."""
        return self.read_columns()

    def read_columns(self) -> dict[str, list[Any]]:
        """As ``columns``, read anew and not kept."""
        beside = self._open().beside
        if beside is None or self.entry.columns is None:
            return {}
        beside.check()
        raw: Any = beside.bytes.numpy()
        if hashlib.sha256(raw).hexdigest() != self.entry.columns.sha256:
            raise IndexDamaged(f"{str(self.columns_path)!r} is damaged: its SHA-256 is not the one in the manifest.")
        try:
            content = json.loads(raw.tobytes())
        except (ValueError, RecursionError) as error:
            raise IndexDamaged(
                f"{str(self.columns_path)!r} is damaged: not the JSON that was written ({error})."
            ) from None
        whole = isinstance(content, dict) and all(
            isinstance(values, list)
            and len(values) == len(self)
            and all(isinstance(value, (str, int, float, bool, type(None))) for value in values)
            for values in content.values()
        )
        if not whole:
            raise IndexDamaged(
                f"{str(self.columns_path)!r} is damaged: expected one plain value for each of {len(self)} examples in a column."
            )
        return content  # type: ignore[no-any-return]

    # --------------------------------------------------------------------------------------------------------- bounds

    def _lists_of(self, head: dict[str, npt.NDArray[Any]], tokens: Integers) -> Integers:
        """The numbers of the lists of these tokens (ascending), of those that have one."""
        ids = head["list_ids"]
        if not len(ids):
            return np.empty(0, dtype=np.int64)
        at = np.searchsorted(ids, tokens)
        at[at == len(ids)] = 0
        return at[ids[at] == tokens]  # type: ignore[no-any-return]

    def bounds(self, ptr: Tensor, tokens: Tensor, sketches: Tensor) -> Tensor:
        """Products ``(N, n)`` of test sketches with those of the examples; only the lists of the test tokens are read."""
        view = self._open()
        head = self._head(view)
        self._check_lists(view, self._lists_of(head, np.unique(tokens.numpy())))
        return ops.posting_dot(
            ptr,
            tokens,
            sketches,
            torch.from_numpy(head["list_ptr"]),
            torch.from_numpy(head["list_ids"]),
            torch.from_numpy(head["list_examples"]),
            torch.from_numpy(head["sketch"]),
            len(self),
        )

    def _check_lists(self, view: _View, lists: Integers) -> None:
        """The checksum of each list when it is first read."""
        lists = lists[~view.checked_lists[lists]]
        if not len(lists):
            return
        head = view.arrays
        ptr = head["list_ptr"]
        place = self.layout.places["sketch"][0]
        size = 4 * self.layout.columns
        for token in lists:
            view.tell(place + size * int(ptr[token]), place + size * int(ptr[token + 1]), _WILL_NEED)
        rows, own = spread(ptr[lists], ptr[lists + 1])
        sums = row_sums(head["sketch"][rows], head["list_examples"][rows], head["list_ids"][lists][own])
        if not np.array_equal(fold_lists(sums, ptr[lists + 1] - ptr[lists]), head["list_sums"][lists]):
            raise self._damaged("posting lists")
        view.checked_lists[lists] = True

    def read_for_bounds(self, tokens: Integers) -> tuple[int, int]:
        """Rows and bytes that :meth:`bounds` of one question reads."""
        head = self.head
        lists, ptr = self._lists_of(head, tokens), head["list_ptr"]
        rows = int((ptr[lists + 1] - ptr[lists]).sum())
        return rows, rows * (8 + 4 * self.layout.columns) + self.layout.head[1] - self.layout.head[0]

    # --------------------------------------------------------------------------------------------------------- scores

    def matching(self, examples: Integers, wanted: npt.NDArray[np.bool_]) -> Found:
        """The rows of chosen examples (local numbers) whose token is ``wanted[token]``."""
        view = self._open()
        head = self._head(view)
        ptr = head["ptr"]
        start, end = ptr[examples], ptr[examples + 1]
        rows, own = spread(start, end)
        ids = head["ids"][rows]
        kept = wanted[np.minimum(ids, len(wanted) - 1)]
        counts = np.bincount(own[kept], minlength=len(examples))
        size = self.layout.packing.bytes
        values = self._read(view, rows[kept], start, end)
        return Found(
            torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])),
            torch.from_numpy(ids[kept].astype(np.int64)),
            values,
            len(rows),
            len(rows) * size,
        )

    def rows(self, examples: Integers | None = None, values: bool = True, copy: bool = True) -> RowGradients:
        """All rows of chosen examples (local numbers; default: all), float32, checked; or their tokens alone, ``(R, 0)``.

        Without ``copy`` the values may be those of the mapped file: to be used at once, and not written to. Copying 125 MB took
        six times as long as multiplying them.
        """
        view = self._open()
        head = self._head(view)
        ptr = head["ptr"]
        examples = np.arange(len(self)) if examples is None else examples
        rows, own = spread(ptr[examples], ptr[examples + 1])
        start, end = ptr[examples], ptr[examples + 1]
        found = self._read(view, rows, start, end, copy) if values else torch.empty(len(rows), 0, dtype=torch.float32)
        counts = np.bincount(own, minlength=len(examples))
        ids = torch.from_numpy(head["ids"][rows].astype(np.int64))
        return RowGradients(torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])), ids, found)

    def left(self, examples: Integers) -> RowGradients:
        """The norms of what is left out of all rows of chosen examples (local numbers), values ``(R, C)``, checked."""
        ptr, ids, stored = self.packed(examples)
        return RowGradients(ptr, ids, self.layout.packing.left(stored))

    def packed(self, examples: Integers) -> PackedRows:
        """All rows of chosen examples (local numbers) as they lie in the file, checked."""
        view = self._open()
        head = self._head(view)
        start, end = head["ptr"][examples], head["ptr"][examples + 1]
        rows, _ = spread(start, end)
        ptr = torch.from_numpy(np.concatenate([[0], np.cumsum(end - start)]))
        ids = torch.from_numpy(head["ids"][rows].astype(np.int64))
        return PackedRows(ptr, ids, self._stored(view, rows, start, end))

    def _read(self, view: _View, rows: Integers, start: Integers, end: Integers, copy: bool = True) -> Tensor:
        """Rows of examples ``start[i]:end[i]``, float32 and unscaled."""
        return self.kept.values(self._stored(view, rows, start, end, copy))

    def _stored(self, view: _View, rows: Integers, start: Integers, end: Integers, copy: bool = True) -> Tensor:
        """Those rows as they lie in the file; the checksum of each when it is first read."""
        known = bool(view.checked_rows[rows].all())
        if not known:
            # From the disk an example comes whole, in one go, and all of them at once.
            place, size = self.layout.places["values"][0], self.layout.packing.bytes
            for first, last in zip(start.tolist(), end.tolist(), strict=True):
                view.tell(place + size * first, place + size * last, _WILL_NEED)
        in_one_go = not copy and len(rows) > 0 and bool((np.diff(rows) == 1).all())
        chosen = torch.from_numpy(rows)  # by index_select: indexing with it took two to seven times as long
        values = view.values[rows[0] : rows[-1] + 1] if in_one_go else view.values.index_select(0, chosen)
        if not known:
            raw = as_words(values)
            if not np.array_equal(row_sums(raw, view.arrays["ids"][rows], rows), view.arrays["row_sums"][rows]):
                raise self._damaged("gradients")
            view.checked_rows[rows] = True
        return values

    def verify(self) -> list[str]:
        """What is wrong with its files, in words; each byte is read."""
        wrong = []
        with present(self.path, self.entry.file.bytes) as file:
            header, digest = file.read(HEADER), hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
        if self.bound:
            digest.update(header)
        if digest.hexdigest() != self.entry.file.sha256:
            wrong.append(f"{self.path.name}: its SHA-256 is not the one in the manifest")
        else:
            try:
                self._head(self._mapped())
            except IndexDamaged as error:
                wrong.append(str(error))
        if self.entry.columns is not None:
            try:
                checked_content(self.folder, self.entry.columns)
            except IndexDamaged as error:
                wrong.append(str(error))
        return wrong


_WILL_NEED = getattr(mmap, "MADV_WILLNEED", None)


def spread(start: Integers, end: Integers) -> tuple[Integers, Integers]:
    """All numbers of the ranges ``start[i]:end[i]``, one range after the other; beside each its i."""
    counts = end - start
    own = np.repeat(np.arange(len(start)), counts)
    return np.arange(len(own)) - np.repeat(np.cumsum(counts) - counts, counts) + start[own], own
