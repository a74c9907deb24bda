"""A segment as it lies on disk, mapped: bounds from its lists, scores from its rows, nothing read that is not asked for."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import mmap
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_tracinwe import ops
from captum_tracinwe.index.disk import IndexDamaged, fold_lists, row_sums, sha256_of
from captum_tracinwe.index.layout import HEADER, Layout
from captum_tracinwe.index.manifest import Manifest, SegmentEntry
from captum_tracinwe.rows import RowGradients

__all__ = ["Segment", "spread"]

Integers = npt.NDArray[np.int64]
TORCH = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NUMPY: dict[str, type[np.generic]] = {"F32": np.float32, "I64": np.int64, "I32": np.int32, "U32": np.uint32}
_advise = getattr(ctypes.CDLL(None), "madvise", None)


@dataclass(frozen=True)
class Found:
    """The rows of some examples whose tokens a question has, float32, and what was read for them."""

    ptr: Tensor
    ids: Tensor
    values: Tensor
    rows: int
    bytes: int


class Segment:
    """One mapped file; opening it reads 4 KB. The head is read and checked when it is first needed.

    Args:
        folder (Path): of the index.
        manifest (Manifest): names its form.
        entry (SegmentEntry): names the file.

    Raises:
        IndexDamaged: the file is missing, has another size, or another header than was written.
    """

    def __init__(self, folder: Path, manifest: Manifest, entry: SegmentEntry) -> None:
        checkpoints = len(manifest.source.checkpoints)
        width, columns = checkpoints * manifest.stored_width, checkpoints * (manifest.rank + 1)
        self.entry, self.path = entry, folder / entry.file.name
        self.layout = Layout(entry.examples, entry.rows, entry.lists, width, columns, manifest.dtype)
        self.scale, self.dtype = manifest.scale, TORCH[manifest.dtype]
        self._bytes = _mapped(self.path, entry.file.bytes)
        if entry.columns is not None:
            self._columns_path = folder / entry.columns.name
            self._columns = _mapped(self._columns_path, entry.columns.bytes)
        if entry.file.bytes != self.layout.size:
            raise IndexDamaged(f"{str(self.path)!r} is damaged: {self.layout.size} bytes would hold its arrays.")
        if bytes(self._bytes[:HEADER].numpy()) != self.layout.header():
            raise IndexDamaged(f"{str(self.path)!r} is damaged: its header is not the one that was written.")
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        for name, (kind, shape) in self.layout.shapes.items():
            start, end = self.layout.places[name]
            raw = self._bytes[start:end]
            if kind in NUMPY and name != "values":
                self._arrays[name] = raw.numpy().view(NUMPY[kind]).reshape(shape)
        start, end = self.layout.places["values"]
        self._values = self._bytes[start:end].view(self.dtype).view(entry.rows, width)
        # What is asked for is known to the byte: reading around it would cost more than it saves.
        self._tell(start, end, getattr(mmap, "MADV_RANDOM", None))
        self._checked_rows = np.zeros(entry.rows, dtype=bool)
        self._checked_lists = np.zeros(entry.lists, dtype=bool)

    def __len__(self) -> int:
        return self.entry.examples

    @functools.cached_property
    def head(self) -> dict[str, npt.NDArray[Any]]:
        """The small arrays, checked."""
        start, end = self.layout.head
        raw: Any = self._bytes[start:end].numpy()
        if zlib.crc32(raw) != self.entry.head:
            raise self._damaged("the arrays at its end")
        return self._arrays

    def _damaged(self, what: str) -> IndexDamaged:
        return IndexDamaged(
            f"{str(self.path)!r} is damaged: {what} are not what was written (checksum). No score was made of them. "
            f"GradientIndex.verify() names all that is damaged; restore the file, or build the index anew."
        )

    def _tell(self, start: int, end: int, advice: int | None) -> None:
        if _advise is not None and advice is not None and end > start:
            address = self._bytes.data_ptr() + start
            skew = address % mmap.PAGESIZE
            _advise(ctypes.c_void_p(address - skew), ctypes.c_size_t(end - start + skew), advice)

    @property
    def numbers(self) -> Integers:
        """Training indices, ascending, ``(n,)``."""
        return self.head["numbers"] + self.entry.first

    @functools.cached_property
    def columns(self) -> dict[str, list[Any]]:
        """Metadata of its examples: name → one value each."""
        return self.read_columns()

    def read_columns(self) -> dict[str, list[Any]]:
        """As :attr:`columns`, read anew and not kept."""
        if self.entry.columns is None:
            return {}
        raw: Any = self._columns.numpy()
        if hashlib.sha256(raw).hexdigest() != self.entry.columns.sha256:
            raise IndexDamaged(f"{str(self._columns_path)!r} is damaged: its SHA-256 is not the one in the manifest.")
        return json.loads(raw.tobytes())  # type: ignore[no-any-return]

    # --------------------------------------------------------------------------------------------------------- bounds

    def lists_of(self, tokens: Integers) -> Integers:
        """The numbers of the lists of these tokens (ascending), of those that have one."""
        ids = self.head["list_ids"]
        if not len(ids):
            return np.empty(0, dtype=np.int64)
        at = np.searchsorted(ids, tokens)
        at[at == len(ids)] = 0
        return at[ids[at] == tokens]  # type: ignore[no-any-return]

    def bounds(self, ptr: Tensor, tokens: Tensor, sketches: Tensor) -> Tensor:
        """Products ``(N, n)`` of test sketches with those of the examples; only the lists of the test tokens are read."""
        head = self.head
        self._check_lists(self.lists_of(np.unique(tokens.numpy())))
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

    def _check_lists(self, lists: Integers) -> None:
        """The checksum of each list when it is first read."""
        lists = lists[~self._checked_lists[lists]]
        if not len(lists):
            return
        head = self.head
        ptr = head["list_ptr"]
        place = self.layout.places["sketch"][0]
        size = 4 * self.layout.columns
        for token in lists:
            self._tell(place + size * int(ptr[token]), place + size * int(ptr[token + 1]), _WILL_NEED)
        rows, own = spread(ptr[lists], ptr[lists + 1])
        sums = row_sums(head["sketch"][rows], head["list_examples"][rows], head["list_ids"][lists][own])
        if not np.array_equal(fold_lists(sums, ptr[lists + 1] - ptr[lists]), head["list_sums"][lists]):
            raise self._damaged("posting lists")
        self._checked_lists[lists] = True

    def read_for_bounds(self, tokens: Integers) -> tuple[int, int]:
        """Rows and bytes that :meth:`bounds` of one question reads."""
        lists = self.lists_of(tokens)
        ptr = self.head["list_ptr"]
        rows = int((ptr[lists + 1] - ptr[lists]).sum())
        return rows, rows * (8 + 4 * self.layout.columns) + self.layout.head[1] - self.layout.head[0]

    # --------------------------------------------------------------------------------------------------------- scores

    def matching(self, examples: Integers, wanted: npt.NDArray[np.bool_]) -> Found:
        """The rows of chosen examples (local numbers) whose token is ``wanted[token]``."""
        head = self.head
        ptr = head["ptr"]
        start, end = ptr[examples], ptr[examples + 1]
        rows, own = spread(start, end)
        ids = head["ids"][rows]
        kept = wanted[np.minimum(ids, len(wanted) - 1)]
        counts = np.bincount(own[kept], minlength=len(examples))
        size = self._values.element_size() * self.layout.width
        values = self._read(rows[kept], start, end)
        return Found(
            torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])),
            torch.from_numpy(ids[kept].astype(np.int64)),
            values,
            len(rows),
            len(rows) * size,
        )

    def rows(self, examples: Integers | None = None) -> RowGradients:
        """All rows of chosen examples (local numbers; default: all), float32, checked."""
        ptr = self.head["ptr"]
        examples = np.arange(len(self)) if examples is None else examples
        rows, own = spread(ptr[examples], ptr[examples + 1])
        values = self._read(rows, ptr[examples], ptr[examples + 1])
        counts = np.bincount(own, minlength=len(examples))
        ids = torch.from_numpy(self.head["ids"][rows].astype(np.int64))
        return RowGradients(torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])), ids, values)

    def _read(self, rows: Integers, start: Integers, end: Integers) -> Tensor:
        """Rows of examples ``start[i]:end[i]``, float32 and unscaled; the checksum of each when it is first read."""
        known = bool(self._checked_rows[rows].all())
        if not known:
            # From the disk an example comes whole, in one go, and all of them at once.
            place, size = self.layout.places["values"][0], self._values.element_size() * self.layout.width
            for first, last in zip(start.tolist(), end.tolist(), strict=True):
                self._tell(place + size * first, place + size * last, _WILL_NEED)
        values = self._values.index_select(0, torch.from_numpy(rows))
        if not known:
            raw = values.view(torch.int16 if values.element_size() == 2 else torch.int32).numpy()
            if not np.array_equal(row_sums(raw, self.head["ids"][rows], rows), self.head["row_sums"][rows]):
                raise self._damaged("gradients")
            self._checked_rows[rows] = True
        return values.float() if self.scale == 1 else values.float() / self.scale

    def verify(self) -> list[str]:
        """What is wrong with its files, in words; each byte is read."""
        wrong = []
        if sha256_of(self.path, HEADER) != self.entry.file.sha256:
            wrong.append(f"{self.path.name}: its SHA-256 is not the one in the manifest")
        if self.entry.columns is not None and sha256_of(self._columns_path) != self.entry.columns.sha256:
            wrong.append(f"{self._columns_path.name}: its SHA-256 is not the one in the manifest")
        return wrong


_WILL_NEED = getattr(mmap, "MADV_WILLNEED", None)


def spread(start: Integers, end: Integers) -> tuple[Integers, Integers]:
    """All numbers of the ranges ``start[i]:end[i]``, one range after the other; beside each its i."""
    counts = end - start
    own = np.repeat(np.arange(len(start)), counts)
    return np.arange(len(own)) - np.repeat(np.cumsum(counts) - counts, counts) + start[own], own


def _mapped(path: Path, size: int) -> Tensor:
    """A file's bytes, uint8, mapped: whoever removes its name does not take it away."""
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        raise IndexDamaged(f"The index is not whole: {str(path)!r} is missing.") from None
    if found != size:
        raise IndexDamaged(f"{str(path)!r} is damaged: it has {found} bytes, {size} were written.")
    return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
