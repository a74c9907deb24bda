"""Files of updates: written under another name first, there whole or not at all, and what is damaged is named."""

from __future__ import annotations

import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from captum_tracinwe.rows.row_gradients import RowGradients
from captum_tracinwe.whole_files import as_asked_for

__all__ = [
    "check_free",
    "read_parts",
    "read_range",
    "read_rows",
    "save_rows",
    "starts_in",
    "write_parts",
]

FORMAT = 2
MANIFEST, TABLE = "manifest.json", "table.safetensors"


class _Manifest(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    name: str
    steps: int
    final: str
    ends: list[int]  # file i holds the examples from ends[i - 1] to ends[i] - 1
    rows: list[int]
    checksums: dict[str, int] = {}


def check_free(path: Path) -> None:
    """Raise FileExistsError where something stands at ``path`` that would be lost."""
    if path.is_symlink() and not path.exists():
        raise FileExistsError(
            f"{str(path)!r} is a link to nothing: expected a new or an empty directory for updates. Name another one."
        )
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(
            f"{str(path)!r} is there already: expected a new or an empty directory for updates. Name another one, or remove it."
        )


# ------------------------------------------------------------------------------------------------------------ writing


def write_parts(
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
            save_rows(rows, folder / _file_name(number))
            ends.append((ends[-1] if ends else 0) + len(rows))
            counts.append(rows.num_rows)
        save_file({"moved": moved.contiguous(), "shared": shared.to(moved.dtype).contiguous()}, folder / TABLE)
        name, steps, final = about
        checksums = {file.name: _checksum(file) for file in sorted(folder.iterdir())}
        manifest = _Manifest(FORMAT, name, steps, final, ends, counts, checksums)
        (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest) + b"\n")
        as_asked_for(folder)
        check_free(path)  # somebody may have written there meanwhile
        folder.replace(path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def save_rows(rows: RowGradients, file: Path) -> None:
    """One part."""
    save_file({name: getattr(rows, name).contiguous() for name in ("ptr", "ids", "values")}, file)


def _file_name(number: int) -> str:
    return f"rows-{number:05d}.safetensors"


# ------------------------------------------------------------------------------------------------------------ reading


def read_parts(folder: Path) -> tuple[tuple[str, int, str], Tensor, Tensor, tuple[int, ...], tuple[Path, ...]]:
    """What :func:`write_parts` wrote: about, moved, shared, the parts' last examples + 1, their files.

    All files are read once, by their checksums (some 0.5 s a GB); the rows are then read where they are asked for.

    Raises:
        FileNotFoundError: there is nothing of the kind.
        ValueError: a file is damaged or missing.
    """
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
    files = tuple(folder / _file_name(number) for number in range(len(ends)))
    for file in (folder / TABLE, *files):
        if not file.is_file():
            raise _damaged(file, "it is not there")
        if manifest.checksums.get(file.name) != _checksum(file):
            raise _damaged(file, "its bytes are not those that were written")
    table = _tensors(folder / TABLE, ("moved", "shared"))
    if table["moved"].dim() != 2 or table["moved"].shape != table["shared"].shape:
        raise _damaged(folder / TABLE, "two tables of different shapes")
    for start, end, count, file in zip([0, *ends], ends, rows, files, strict=False):
        shapes = _shapes(file)
        if shapes != {"ptr": [end - start + 1], "ids": [count], "values": [count, table["moved"].shape[1]]}:
            raise _damaged(file, f"tensors of shapes {shapes}")
    about = manifest.name, manifest.steps, manifest.final
    return about, table["moved"], table["shared"], tuple(ends), files


def read_rows(file: Path, example: int | None = None) -> RowGradients:
    """The rows of a file, or those of one of its examples."""
    if example is not None:
        return _checked(file, lambda: read_range(file, starts_in(file), example, example + 1))
    found = _tensors(file, ("ptr", "ids", "values"))
    return _checked(file, lambda: RowGradients(found["ptr"], found["ids"], found["values"]))


def starts_in(file: Path) -> Tensor:
    """Where each example's rows begin in a file, and where the last one's end."""
    with _opened(file) as tensors:
        found: Tensor = tensors.get_tensor("ptr")
        return found


def read_range(file: Path, ptr: Tensor, start: int, stop: int) -> RowGradients:
    """The rows of some examples that follow one another."""
    first, last = int(ptr[start]), int(ptr[stop])
    with _opened(file) as tensors:
        ids, values = (tensors.get_slice(name)[first:last] for name in ("ids", "values"))
    return RowGradients(ptr[start : stop + 1] - ptr[start], ids, values)


def _checksum(file: Path) -> int:
    found = 0
    with file.open("rb") as stream:
        while part := stream.read(1 << 24):
            found = zlib.crc32(part, found)
    return found


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


def _checked(file: Path, read: Callable[[], RowGradients]) -> RowGradients:
    try:
        rows = read()
    except (ValueError, RuntimeError) as error:
        raise _damaged(file, str(error)) from error
    return rows
