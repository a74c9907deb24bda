"""Files that are whole or not there: writing under a temporary name, locks that die with their owner, checksums."""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "IndexDamaged",
    "IndexMismatch",
    "check_file",
    "claim",
    "fold_lists",
    "folder_of",
    "full_disk",
    "locked",
    "odd_weights",
    "row_sums",
    "sha256_of",
    "sweep",
    "sync_folder",
    "temporary",
    "write_whole",
]

TEMPORARY = ".tmp-"
Words = npt.NDArray[np.uint32]


class IndexDamaged(ValueError):
    """A file of an index is not what was written: truncated, altered, missing, or of another version."""


class IndexMismatch(ValueError):
    """An index was built from something else than what it is asked about; the message names what differs."""


# ------------------------------------------------------------------------------------------------------------ writing


@contextmanager
def temporary(folder: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """A new file under a name that no reader looks at; gone afterwards unless it was renamed.

    Its lock tells :func:`sweep` that the owner lives: the system takes it away from a killed process, whatever killed it.
    """
    while True:
        handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=folder)
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.exists(name):  # not swept between its making and its locking
            break
        os.close(handle)
    with os.fdopen(handle, "w+b") as file:
        os.chmod(name, 0o644)
        try:
            yield file, Path(name)
        finally:
            Path(name).unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``: readers see the old file or the new one, whenever the machine stops."""
    with temporary(path.parent) as (file, name):
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        os.replace(name, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Say what to do where the disk is full or may not be written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            said = "the disk is full. Finished segments are kept: free some space, then go on with resume=True"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            said = (
                "it cannot be written to. Expected a directory that this user may change; reading needs no such right"
            )
        else:
            raise
        raise OSError(error.errno, f"The index {str(folder)!r}: {said} ({error.strerror}).") from error


# -------------------------------------------------------------------------------------------------------------- locks


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The one writer of the manifest at a time; waits for its turn."""
    with open(folder / "lock", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def claim(folder: Path, name: str) -> Iterator[bool]:
    """Whether this process may do the work called ``name``: nobody else alive is doing it."""
    path = folder / f".claim-{name}"
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)


def sweep(folder: Path, keep: set[str], ours: Callable[[str], bool]) -> None:
    """Remove what killed writers left: unlocked temporary files, and files of ours that are in no manifest.

    Call it within :func:`locked`: files get their names and enter the manifest under that lock.
    """
    for entry in folder.iterdir():
        if entry.name.startswith(TEMPORARY):
            try:
                with open(entry, "rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    entry.unlink(missing_ok=True)
            except (BlockingIOError, FileNotFoundError):
                continue
        elif ours(entry.name) and entry.name not in keep:
            entry.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------------- checksums


def folder_of(path: str | Path) -> Path:
    """The directory that is meant, whatever the working directory will be.

    Raises:
        NotADirectoryError: it is a file.
    """
    folder = Path(path).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(
            f"{str(folder)!r} is a file: an index is a directory. Name another path, or move the file away."
        )
    return folder


def sha256_of(path: Path, start: int = 0) -> str:
    """Of the file from byte ``start`` on."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(start)
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_file(folder: Path, entry: Any) -> None:
    """Raise IndexDamaged unless a small file is what was written (``entry``: its name, bytes, sha256)."""
    path = folder / entry.name
    if not path.is_file():
        raise IndexDamaged(f"The index is not whole: {str(path)!r} is missing.")
    if path.stat().st_size != entry.bytes or sha256_of(path) != entry.sha256:
        raise IndexDamaged(f"{str(path)!r} is damaged: its SHA-256 is not the one in the manifest.")


@functools.lru_cache(maxsize=64)
def odd_weights(count: int) -> Words:
    """``count`` fixed odd numbers, well mixed."""
    numbers = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    numbers ^= numbers >> np.uint64(29)
    numbers *= np.uint64(0xBF58476D1CE4E5B9)
    weights: Words = (numbers >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
    return weights


def row_sums(rows: npt.NDArray[Any], first: npt.NDArray[Any], second: npt.NDArray[Any]) -> Words:
    """A checksum of each row and of two numbers that belong to it, mod 2³², ``(R,)``.

    Every word counts times an odd number, so that any single flipped bit changes the sum: an odd multiple of 2^k is not 0
    mod 2³². A lost run of bits stays unseen once in 2³². At 9 GB/s on one core it costs next to nothing beside
    reading, where CRC-32, row by row from Python, makes 0.8 (SHA-256 of whole files is for :meth:`GradientIndex.verify`).

    Args:
        rows: ``(R, bytes)`` as uint8, or ``(R, W)`` of any type.
        first, second: whole numbers ``(R,)``.
    """
    if not rows.size:
        return np.zeros(len(rows), dtype=np.uint32)
    raw = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    words = raw.view(np.uint32) if raw.shape[1] % 4 == 0 else raw.astype(np.uint32)
    weights = odd_weights(words.shape[1] + 2)
    sums: Words = np.einsum("ij,j->i", words, weights[2:])
    for numbers, weight in ((first, weights[0]), (second, weights[1])):
        wide = numbers.astype(np.int64)
        sums += (wide ^ (wide >> 32)).astype(np.uint32) * weight  # no bit of the upper half goes unseen
    return sums


def fold_lists(sums: Words, counts: npt.NDArray[np.int64]) -> Words:
    """One checksum for each run of ``counts[i]`` row sums: they count times odd numbers that depend on their place in it."""
    ends = np.cumsum(counts)
    place = np.arange(len(sums)) - np.repeat(ends - counts, counts)
    weights = odd_weights(int(counts.max()) if len(counts) else 0)
    totals = np.concatenate([np.zeros(1, np.uint32), np.cumsum(sums * weights[place], dtype=np.uint32)])
    folded: Words = totals[ends] - totals[ends - counts]
    return folded
