"""Rows of training examples to which the steps of a training add, in memory and beyond a limit on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from captum_tracinwe.neighbours.rollback_files import read_range, save_rows, starts_in
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["Ledger"]

# Of a row beside its values: its token, its example, and both once more while they are sorted.
ROW_BYTES = 32


class Ledger:
    """Rows of M examples to which each step adds; beyond ``limit`` bytes they go to a file in ``folder``, in examples' order.

    A text mostly holds the same tokens each time it is seen, so its rows have a place, and a step adds to it; with other tokens
    it gets a further place, and all its places are added up in the end.

    Args:
        size (int, optional): M; None where it is not known yet.
        like (Tensor): the table, for width and dtype.
        folder (Path, optional): for what is beyond ``limit``; None keeps all in memory.
        limit (int): bytes.
    """

    def __init__(self, size: int | None, like: Tensor, folder: Path | None, limit: int) -> None:
        self.size, self.folder, self.runs, self.seen = size, folder, list[Path](), 0
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        row = like.shape[1] * dtype.itemsize
        # While rows are put into order there are two copies of them.
        self.most = None if folder is None else max(1, limit // (2 * row + ROW_BYTES))
        self.values, self.used = torch.empty((0, like.shape[1]), dtype=dtype), 0
        self.ids, self.owners = (torch.empty(0, dtype=torch.int64) for _ in range(2))
        self.starts, self.counts = (torch.zeros(size or 0, dtype=torch.int64) for _ in range(2))

    def add(self, examples: Tensor, rows: RowGradients) -> None:
        """Add the rows of ``examples``, int64 ``(B,)``, each named once."""
        if not len(examples):
            return
        self._make_known(int(examples.max()) + 1)
        counts = rows.ptr[1:] - rows.ptr[:-1]
        whose = rows.examples
        # Where the row would stand if its example had the same tokens before.
        place = (self.starts[examples] - rows.ptr[:-1])[whose] + torch.arange(rows.num_rows)
        fits = self.counts[examples] == counts
        fits_row = fits[whose]
        other = torch.zeros_like(fits_row)
        other[fits_row] = self.ids[place[fits_row]] != rows.ids[fits_row]
        fits[whose[other]] = False
        fits_row = fits[whose]
        if bool(fits.all()):
            self.values.index_add_(0, place, rows.values)
            return
        self.values.index_add_(0, place[fits_row], rows.values[fits_row])
        self._append(examples[~fits], rows.select((~fits).nonzero().flatten()))

    def _append(self, examples: Tensor, rows: RowGradients) -> None:
        new = rows.num_rows
        if self.most is not None and self.used and self.used + new > self.most:
            self._spill()
        if self.used + new > len(self.ids):
            room = max(self.used + new, 2 * len(self.ids), 1024)
            room = room if self.most is None else max(self.used + new, min(room, self.most))
            for name in ("values", "ids", "owners"):
                old = getattr(self, name)
                wide = old.new_empty((room, *old.shape[1:]))
                wide[: self.used] = old[: self.used]
                setattr(self, name, wide)
        counts = rows.ptr[1:] - rows.ptr[:-1]
        own = slice(self.used, self.used + new)
        self.values[own], self.ids[own] = rows.values, rows.ids
        self.owners[own] = examples[rows.examples]
        self.starts[examples], self.counts[examples] = self.used + rows.ptr[:-1], counts
        self.used += new

    def _make_known(self, size: int) -> None:
        if size > len(self.starts):
            more = torch.zeros(max(size, 2 * len(self.starts)) - len(self.starts), dtype=torch.int64)
            self.starts, self.counts = (torch.cat([one, more]) for one in (self.starts, self.counts))
        self.seen = max(self.seen, size)

    def _in_order(self) -> RowGradients:
        used = slice(0, self.used)
        return RowGradients.from_positions(self.owners[used], self.ids[used], self.values[used], self.total)

    @property
    def total(self) -> int:
        """M."""
        return self.seen if self.size is None else self.size

    def _spill(self) -> None:
        assert self.folder is not None
        file = self.folder / f"run-{len(self.runs):05d}.safetensors"
        save_rows(self._in_order(), file)
        self.runs.append(file)
        self.used = 0
        self.counts.zero_()

    def clear(self) -> None:
        """Nothing is left here: what it held is elsewhere."""
        self.used, self.values = 0, self.values.new_empty((0, self.values.shape[1]))
        self.ids, self.owners = (torch.empty(0, dtype=torch.int64) for _ in range(2))
        self.counts.zero_()
        while self.runs:
            self.runs.pop().unlink(missing_ok=True)

    def parts(self) -> Iterator[RowGradients]:
        """All examples in order, in parts of at most about ``limit`` bytes. They can be asked for again, until :meth:`clear`."""
        if not self.runs:
            yield self._in_order()
            return
        if self.used:
            self._spill()
        ptrs = [
            torch.nn.functional.pad(p, (0, self.total + 1 - len(p)), value=int(p[-1]))
            for p in map(starts_in, self.runs)
        ]
        ends = torch.stack(ptrs).sum(0)
        start = 0
        assert self.most is not None
        while start < self.total:
            stop = int(torch.searchsorted(ends, ends[start] + self.most, right=True)) - 1
            stop = min(max(stop, start + 1), self.total)
            found = [read_range(file, ptr, start, stop) for file, ptr in zip(self.runs, ptrs, strict=True)]
            together = RowGradients.cat(found)
            owners = together.examples % (stop - start)
            yield RowGradients.from_positions(owners, together.ids, together.values, stop - start)
            start = stop
