"""Updates of embedding rows by training example: added up along training, kept in memory or on disk, read again."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from captum_tracinwe.batches.arguments import is_whole
from captum_tracinwe.rows.row_gradients import RowGradients
from captum_tracinwe.whole_files import as_asked_for

__all__ = ["Ledger", "Updates", "fingerprint"]

FORMAT = 1
MANIFEST, TABLE = "manifest.json", "table.safetensors"
# Of a row beside its values: its token, its example, and both once more while they are sorted.
ROW_BYTES = 32


def fingerprint(table: Tensor) -> str:
    """By which a table is known again, to the last bit."""
    plain = table.detach().cpu().contiguous()
    return hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}".encode() + _bytes_of(plain)).hexdigest()


def _bytes_of(plain: Tensor) -> bytes:
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()


class _Manifest(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    name: str
    steps: int
    final: str
    ends: list[int]  # file i holds the examples from ends[i - 1] to ends[i] - 1
    rows: list[int]


@dataclass(frozen=True, eq=False)
class Updates:
    r"""How each training example moved the rows of the word embedding, over all steps of a training.

    Made by :class:`KeepUpdates`. ``moved - shared`` is what no example can be credited with (:attr:`rest`).

    Args:
        name (str): of the embedding in its model.
        steps (int): of the optimiser.
        moved (Tensor): ``(V, D)``, the table after training less the table before it.
        shared (Tensor): ``(V, D)``, the sum of all examples' updates.
        final (str): by which the table after training is known again.
        ends (tuple of int): the parts' examples: part i holds those from ``ends[i - 1]`` to ``ends[i] - 1``.
        parts (tuple): ``RowGradients``, or the files that hold them.

    Example:
        >>> import torch
        >>> from captum_tracinwe.neighbours import KeepUpdates
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> keeper, optimizer = KeepUpdates(model, examples=2), torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with keeper.batch([0, 1]):
        ...     out = model(torch.tensor([[1, 2, 3], [4, 5, 3]]))
        ...     torch.nn.functional.cross_entropy(out, torch.tensor([0, 1])).backward()
        >>> with keeper.step():
        ...     _ = optimizer.step()
        >>> updates = keeper.updates()
        >>> updates.of([1]).ids.tolist()  # the rows that example 1 moved
        [3, 4, 5]
        >>> bool(updates.rest.abs().max() < 1e-6)  # plain SGD moves no other row
        True
    """

    name: str
    steps: int
    moved: Tensor
    shared: Tensor
    final: str
    ends: tuple[int, ...]
    parts: tuple[RowGradients | Path, ...]

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __repr__(self) -> str:
        return (
            f"Updates({self.name!r}, {len(self):,} training examples, {self.steps:,} steps, "
            f"rest={self.rest_share():.0%} of all movement)"
        )

    @property
    def rest(self) -> Tensor:
        """What moved the table and belongs to no example, ``(V, D)``: momentum and weight decay of rows that no text of the
        batch held."""
        return self.moved - self.shared

    def rest_share(self) -> float:
        """Σ over rows of the length of :attr:`rest`, in parts of the same sum with that of ``shared``; 0 where nothing moved."""
        rest, shared = (float(part.double().norm(dim=1).sum()) for part in (self.rest, self.shared))
        return rest / (rest + shared) if rest + shared else 0.0

    def blocks(self) -> Iterator[tuple[int, RowGradients]]:
        """All examples, part by part: the first one's index, and the rows."""
        for start, part in zip((0, *self.ends), self.parts, strict=False):
            yield start, part if isinstance(part, RowGradients) else _read(part)

    def of(self, examples: Sequence[int]) -> RowGradients:
        """The rows of chosen examples, in the order given.

        Raises:
            IndexError: one that is no training example.
        """
        wrong = [one for one in examples if not is_whole(one) or not 0 <= one < len(self)]
        if wrong:
            raise IndexError(f"Updates: expected training examples from 0 to {len(self) - 1}, got {wrong[0]!r:.40}.")
        found: list[RowGradients] = []
        for one in examples:
            place = next(i for i, end in enumerate(self.ends) if one < end)
            start, part = (0, *self.ends)[place], self.parts[place]
            inside = int(one) - start
            found.append(part.part(inside, inside + 1) if isinstance(part, RowGradients) else _read(part, inside))
        empty = self.moved.new_zeros(0, self.moved.shape[1])
        nothing = torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
        return RowGradients.cat(found) if found else RowGradients.sound(*nothing, empty)

    def save(self, path: str | Path) -> None:
        """Write all into a new directory, which is there whole or not at all.

        Raises:
            FileExistsError: it is there already and not empty.
        """
        parts = (rows for _, rows in self.blocks())
        _write(Path(path), (self.name, self.steps, self.final), self.moved, self.shared, parts)

    @classmethod
    def open(cls, path: str | Path) -> Updates:
        """Read what :meth:`save`, or a :class:`KeepUpdates` with a directory, wrote; rows stay on disk until they are asked for.

        Raises:
            FileNotFoundError: there is nothing of the kind.
            ValueError: a file is damaged or missing; the message names it.
        """
        folder = Path(path)
        if not (folder / MANIFEST).is_file():
            raise FileNotFoundError(
                f"Updates.open: no {MANIFEST} in {str(folder)!r}: expected the directory of KeepUpdates(directory=...) or of "
                f"Updates.save(...), after training has ended."
            )
        try:
            manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=_Manifest)
        except msgspec.DecodeError as error:
            raise _damaged(folder / MANIFEST, str(error)) from error
        if manifest.format != FORMAT:
            raise _damaged(folder / MANIFEST, f"format {manifest.format} in place of {FORMAT}")
        ends, rows = manifest.ends, manifest.rows
        if len(ends) != len(rows) or any(a > b for a, b in zip([0, *ends], ends, strict=False)):
            raise _damaged(folder / MANIFEST, "parts that do not follow one another")
        table = _tensors(folder / TABLE, ("moved", "shared"))
        if table["moved"].dim() != 2 or table["moved"].shape != table["shared"].shape:
            raise _damaged(folder / TABLE, "two tables of different shapes")
        files = tuple(folder / _file_name(number) for number in range(len(ends)))
        for start, end, count, file in zip([0, *ends], ends, rows, files, strict=False):
            shapes = _shapes(file)
            if shapes != {"ptr": [end - start + 1], "ids": [count], "values": [count, table["moved"].shape[1]]}:
                raise _damaged(file, f"tensors of shapes {shapes}")
        return cls(manifest.name, manifest.steps, table["moved"], table["shared"], manifest.final, tuple(ends), files)


# -------------------------------------------------------------------------------------------------- along the training


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
        self.size, self.folder, self.runs = size, folder, list[Path]()
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
        self.seen = max(getattr(self, "seen", 0), size)

    def _in_order(self) -> RowGradients:
        used = slice(0, self.used)
        return RowGradients.from_positions(self.owners[used], self.ids[used], self.values[used], self.total)

    @property
    def total(self) -> int:
        """M."""
        return getattr(self, "seen", 0) if self.size is None else self.size

    def _spill(self) -> None:
        assert self.folder is not None
        file = self.folder / f"run-{len(self.runs):05d}.safetensors"
        _save_rows(self._in_order(), file)
        self.runs.append(file)
        self.used = 0
        self.counts.zero_()

    def parts(self) -> Iterator[RowGradients]:
        """All examples in order, in parts of at most about ``limit`` bytes; then nothing is left here."""
        if not self.runs:
            rows = self._in_order()
            self.values = self.values[:0]
            yield rows
            return
        if self.used:
            self._spill()
        self.values = self.values[:0]
        ptrs = [
            torch.nn.functional.pad(p, (0, self.total + 1 - len(p)), value=int(p[-1])) for p in map(_ptr, self.runs)
        ]
        ends = torch.stack(ptrs).sum(0)
        start = 0
        assert self.most is not None
        while start < self.total:
            stop = int(torch.searchsorted(ends, ends[start] + self.most, right=True)) - 1
            stop = min(max(stop, start + 1), self.total)
            found = [_read_range(file, ptr, start, stop) for file, ptr in zip(self.runs, ptrs, strict=True)]
            together = RowGradients.cat(found)
            owners = together.examples % (stop - start)
            yield RowGradients.from_positions(owners, together.ids, together.values, stop - start)
            start = stop


# ------------------------------------------------------------------------------------------------------------- files


def written(path: Path, about: tuple[str, int, str], moved: Tensor, parts: Iterator[RowGradients]) -> Updates:
    """Write updates part by part, and open them; ``shared`` is added up on the way."""
    shared = torch.zeros(moved.shape, dtype=torch.float64)

    def passed() -> Iterator[RowGradients]:
        for rows in parts:
            shared.index_add_(0, rows.ids, rows.values.double())
            yield rows

    _write(path, about, moved, shared, passed())
    return Updates.open(path)


def check_free(path: Path) -> None:
    """Raise FileExistsError where something stands at ``path`` that would be lost."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(
            f"{str(path)!r} is there already: expected a new or an empty directory for updates. Name another one, or remove it."
        )


def _write(
    path: Path, about: tuple[str, int, str], moved: Tensor, shared: Tensor, parts: Iterator[RowGradients]
) -> None:
    """All files under another name first; the table is written last, when ``parts`` have been added up."""
    check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        ends: list[int] = []
        counts: list[int] = []
        for number, rows in enumerate(parts):
            _save_rows(rows, folder / _file_name(number))
            ends.append((ends[-1] if ends else 0) + len(rows))
            counts.append(rows.num_rows)
        save_file({"moved": moved.contiguous(), "shared": shared.to(moved.dtype).contiguous()}, folder / TABLE)
        name, steps, final = about
        manifest = _Manifest(FORMAT, name, steps, final, ends, counts)
        (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest) + b"\n")
        as_asked_for(folder)
        folder.replace(path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _file_name(number: int) -> str:
    return f"rows-{number:05d}.safetensors"


def _save_rows(rows: RowGradients, file: Path) -> None:
    save_file({name: getattr(rows, name).contiguous() for name in ("ptr", "ids", "values")}, file)


def _damaged(file: Path, why: str) -> ValueError:
    return ValueError(
        f"Updates: {str(file)!r} is damaged ({why:.120}): expected what KeepUpdates wrote. Restore it, or train again."
    )


def _opened(file: Path) -> Any:
    if not file.is_file():
        raise _damaged(file, "it is not there")
    try:
        return safe_open(file, "pt")
    except (SafetensorError, OSError) as error:
        raise _damaged(file, str(error)) from error


def _tensors(file: Path, names: Sequence[str]) -> dict[str, Tensor]:
    with _opened(file) as tensors:
        if set(tensors.keys()) != set(names):
            raise _damaged(file, f"it holds {', '.join(sorted(tensors.keys()))}")
        return {name: tensors.get_tensor(name) for name in names}


def _shapes(file: Path) -> dict[str, list[int]]:
    with _opened(file) as tensors:
        return {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def _read(file: Path, example: int | None = None) -> RowGradients:
    """The rows of a file, or those of one of its examples."""
    if example is not None:
        return _checked(file, lambda: _read_range(file, _ptr(file), example, example + 1))
    found = _tensors(file, ("ptr", "ids", "values"))
    return _checked(file, lambda: RowGradients(found["ptr"], found["ids"], found["values"]))


def _checked(file: Path, read: Any) -> RowGradients:
    try:
        rows: RowGradients = read()
    except (ValueError, RuntimeError) as error:
        raise _damaged(file, str(error)) from error
    return rows


def _ptr(file: Path) -> Tensor:
    with _opened(file) as tensors:
        found: Tensor = tensors.get_tensor("ptr")
        return found


def _read_range(file: Path, ptr: Tensor, start: int, stop: int) -> RowGradients:
    first, last = int(ptr[start]), int(ptr[stop])
    with _opened(file) as tensors:
        ids, values = (tensors.get_slice(name)[first:last] for name in ("ids", "values"))
    return RowGradients(ptr[start : stop + 1] - ptr[start], ids, values)
