"""Files that are whole or not there: writing under a temporary name, locks that die with their owner, checksums."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from captum_tracinwe.index.files.names import (
    LOCK,
    is_claim,
    is_data,
    is_temporary,
    lock_of,
    name_of,
    new_temporary,
    numbered,
)
from captum_tracinwe.index.files.urls import is_url, shown

if TYPE_CHECKING:
    from captum_tracinwe.index.files.schema import FileEntry

__all__ = [
    "IndexDamaged",
    "IndexMismatch",
    "Room",
    "checked_content",
    "claim",
    "fold_lists",
    "folder_of",
    "full_disk",
    "locked",
    "make_folder",
    "odd_weights",
    "open_file",
    "open_lock",
    "present",
    "read_file",
    "refuse_linked",
    "row_sums",
    "sweep",
    "sync_folder",
    "temporary",
    "write_whole",
]

Words = npt.NDArray[np.uint32]


class IndexDamaged(ValueError):
    """A file of an index is not what was written: truncated, altered, missing, or of another version."""


class IndexMismatch(ValueError):
    """An index was built with another model, loss, option or training set than it is asked with; the message names which."""


# ------------------------------------------------------------------------------------------------------------ writing


@contextmanager
def temporary(folder: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """A new file under a name that no reader looks at; gone afterwards unless it was renamed.

    Its lock tells :func:`sweep` that the owner lives: the system takes it away from a killed process, whatever killed it.
    """
    while True:
        path = folder / new_temporary()
        handle = _opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except BaseException:
            os.close(handle)
            path.unlink(missing_ok=True)
            raise
        if os.path.lexists(path):  # not swept between its making and its locking
            break
        os.close(handle)
    with os.fdopen(handle, "w+b") as file:
        try:
            yield file, path
        finally:
            path.unlink(missing_ok=True)


class Room:
    """A writer's unfinished files, under names that no reader looks at; gone afterwards unless they were renamed.

    One lock, held as long as the writer lives, keeps :func:`sweep` from all of them. So a finished one can be closed, and a
    limit of 1,024 open files is none of segments.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = temporary(folder)
        self._paths: list[Path] = []
        self._open: list[IO[bytes]] = []

    def __enter__(self) -> Room:
        self._name = self._lock.__enter__()[1].name
        return self

    def file(self) -> tuple[IO[bytes], Path]:
        """A new one."""
        path = self._folder / numbered(self._name, len(self._paths))
        handle = _opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        file = os.fdopen(handle, "w+b")
        self._paths.append(path)
        self._open = [*(one for one in self._open if not one.closed), file]
        return file, path

    def __exit__(self, *raised: Any) -> None:
        try:
            for file in self._open:
                with contextlib.suppress(OSError):  # a full disk has been said by whoever wrote
                    file.close()
            for path in self._paths:
                path.unlink(missing_ok=True)
        finally:
            self._lock.__exit__(*raised)


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


#: What the system says where something cannot be written → the fact and the way out.
SAID = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT),
        "the disk is full. Finished segments are kept: free some space, then go on with resume=True",
    ),
    errno.EFBIG: "a file is larger than this user or this file system may have (`ulimit -f`, FAT: 4 GB). Finished segments are "
    "kept. Raise the limit and go on with resume=True, or build with fewer `segment_examples`",
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "it cannot be written to. Expected a directory that this user may change; reading needs no such right",
    ),
    **dict.fromkeys(
        (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS),
        "its file system has no file locks, by which writers keep out of each other's way. Build on a local disk, or mount it "
        "with locks (NFS: without `nolock`, Lustre: with `flock`); a finished index can be copied there, and read without",
    ),
}


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Say what to do where the disk is full, may not be written, or has no locks."""
    try:
        yield
    except OSError as error:
        said = SAID.get(error.errno or 0)
        if said is None or str(error.strerror).startswith("The index "):  # said already
            raise
        raise _in_words(folder, said, error) from error


def _in_words(folder: Path, said: str, error: OSError) -> OSError:
    return OSError(error.errno, f"The index {str(folder)!r:.300}: {said} ({error.strerror}).")


def make_folder(folder: Path) -> None:
    """Make the directory of an index, unless it is there.

    Raises:
        OSError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        said = SAID.get(error.errno or 0, "the directory cannot be made. Expected a path where this user may make one")
        raise _in_words(folder, said, error) from error


# ------------------------------------------------------------------------------------------------------------ opening


# What the system says of something that cannot be opened as a file: a directory, a socket, a device without a driver.
NO_FILE = (errno.EISDIR, errno.ENXIO, errno.ENODEV)


def _opened(path: Path, flags: int) -> int:
    """A descriptor of a plain file, made with the user's umask where it is made. A pipe is not waited for."""
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK) and path.is_symlink():
            raise IndexDamaged(
                f"{str(path)!r} is a symbolic link: expected the file itself, for an index neither reads nor writes outside "
                f"its directory. Put the file there, or remove the link."
            ) from None
        if error.errno in NO_FILE:
            raise _no_file(path) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _no_file(path)
    return handle


def _no_file(path: Path) -> IndexDamaged:
    return IndexDamaged(
        f"{str(path)!r} is not a file but a directory, a pipe, a socket or a device: expected a file that was written by this "
        f"package. Move it away."
    )


def open_file(path: Path) -> IO[bytes]:
    """A file of an index, for reading.

    Raises:
        FileNotFoundError: it is not there.
        IndexDamaged: it is a symbolic link, a directory, a pipe, a socket or a device.
    """
    return os.fdopen(_opened(path, os.O_RDONLY), "rb")


def open_lock(path: Path) -> IO[bytes]:
    """A file for locks, and for a word, made where it is not there.

    Raises:
        IndexDamaged: as :func:`open_file`.
    """
    return os.fdopen(_opened(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "r+b")


def refuse_linked(file: IO[bytes], path: Path) -> None:
    """Raise IndexDamaged where an open file has another name too: writing into it would write over that one."""
    if os.fstat(file.fileno()).st_nlink > 1:
        raise IndexDamaged(
            f"{str(path)!r} is a hard link: the same file has another name too, and would be written over. Remove the link; the "
            f"file is made anew."
        )


def read_file(path: Path) -> bytes:
    """All of it; see :func:`open_file`."""
    with open_file(path) as file:
        return file.read()


def present(path: Path, size: int) -> IO[bytes]:
    """A file that a manifest names, open.

    Raises:
        IndexDamaged: it is missing, or has another size.
    """
    try:
        file = open_file(path)
    except FileNotFoundError:
        raise IndexDamaged(f"The index is not whole: {str(path)!r} is missing.") from None
    found = os.fstat(file.fileno()).st_size
    if found != size:
        file.close()
        raise IndexDamaged(f"{str(path)!r} is damaged: it has {found} bytes, {size} were written.")
    return file


def checked_content(folder: Path, entry: FileEntry) -> bytes:
    """A small file, if it is what was written.

    Raises:
        IndexDamaged: it is not.
    """
    path = folder / entry.name
    with present(path, entry.bytes) as file:
        content = file.read(entry.bytes)
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise IndexDamaged(f"{str(path)!r} is damaged: its SHA-256 is not the one in the manifest.")
    return content


# -------------------------------------------------------------------------------------------------------------- locks


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The one writer of the manifest at a time; waits for its turn."""
    with open_lock(folder / LOCK) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def claim(folder: Path, name: str) -> Iterator[bool]:
    """Whether this process holds the lock of that name: nobody else alive does. It is gone afterwards."""
    path = folder / name
    with open_lock(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)


def sweep(folder: Path, keep: set[str]) -> None:
    """Remove what killed writers left: unlocked temporary files and claims, and files of an index that are in no manifest.

    Call it within :func:`locked`: files get their names and enter the manifest under that lock. A file of any other name
    than the exact ones in ``names.py`` is somebody else's and stays.
    """
    for entry in folder.iterdir():
        lockable = is_temporary(entry.name) or is_claim(entry.name)
        ours = lockable or (is_data(entry.name) and entry.name not in keep)
        if not ours or entry.is_symlink() or not entry.is_file():
            continue
        try:
            if lockable:
                with _of_dead_owner(folder / (lock_of(entry.name) if is_temporary(entry.name) else entry.name)):
                    entry.unlink(missing_ok=True)
            else:
                entry.unlink(missing_ok=True)
        except BlockingIOError:
            continue


@contextmanager
def _of_dead_owner(path: Path) -> Iterator[None]:
    """Holds the lock that a living owner would hold, unless it is gone with its file; else raises BlockingIOError."""
    try:
        file = open_file(path)
    except FileNotFoundError:
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


# ---------------------------------------------------------------------------------------------------------- checksums


def folder_of(path: str | Path) -> Path:
    """The directory that is meant, whatever the working directory will be.

    Raises:
        NotADirectoryError: it is a file.
        TypeError: it is no path.
        ValueError: it is a URL.
        OSError, ValueError: no directory can have that name, or it may not be looked into.
    """
    if is_url(path):
        raise ValueError(
            f"{shown(str(path))!r} is a URL: expected the path of a directory. An index is built and changed in a "
            f"directory, pushed to a URL (GradientIndex.push), and opened from there (GradientIndex.open)."
        )
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"An index is named by its directory: expected a path, got {path!r:.80}.")
    try:
        folder = Path(path).expanduser().absolute()
        os.stat(folder / name_of("projections", "0" * 64))  # the longest name that is looked for
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        if folder.exists():
            raise NotADirectoryError(
                f"{str(folder)!r} is a file: an index is a directory. Name another path, or move the file away."
            ) from None
    except OSError as error:
        why = "cannot be looked into. Expected the path of a directory, not too long, that this user may read"
        raise _in_words(Path(path), why, error) from error
    except (ValueError, RuntimeError) as error:  # a zero byte, "~nobody"
        raise ValueError(f"The index {str(path)!r:.300}: expected the path of a directory ({error}).") from None
    return folder


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
