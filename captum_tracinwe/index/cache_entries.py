"""The cache folder, and the folders in it: each is one index, locked as long as somebody uses it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from captum_tracinwe.gradients.seen import somebody_looks
from captum_tracinwe.index.files.disk import IndexDamaged, folder_of, make_folder, open_lock

__all__ = ["ABOUT", "BUILDING", "FOLDER", "INDEX", "LOCK", "cache_folder", "locked_entry", "said_of_cache"]

#: Environment variable: the cache folder.
FOLDER = "CAPTUM_TRACINWE_CACHE"
#: In the folder of one index: the index once it is whole.
INDEX = "index"
#: How the name of what is being built begins.
BUILDING = "building-"
#: Locked by whoever uses it.
LOCK = "lock"
#: What a person knows it by.
ABOUT = "about.json"


def cache_folder(given: str | Path | None = None) -> Path:
    """The folder that is meant: the one given, that of ``CAPTUM_TRACINWE_CACHE``, or where the platform keeps caches."""
    if given is not None:
        return _named(given)
    named = os.environ.get(FOLDER)
    if named:
        return _named(named)
    base = os.environ.get("XDG_CACHE_HOME")
    if not base or not os.path.isabs(base):  # the specification: a relative path is to be ignored
        base = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    return _named(Path(base) / "captum-tracinwe")


def _named(path: str | Path) -> Path:
    """The folder of that name.

    Raises:
        NotADirectoryError: it is a file, or lies in one.
    """
    try:
        folder = folder_of(path)
        folder.exists()
    except NotADirectoryError:
        folder = Path(path).expanduser().absolute()
    file = next((one for one in (folder, *folder.parents) if one.exists()), folder)
    if file.exists() and not file.is_dir():
        raise NotADirectoryError(
            f"The cache folder {str(folder)!r} cannot be used: {str(file)!r} is a file. Name another one, a folder: in the "
            f"environment as {FOLDER}, or as `folder`."
        )
    return folder


def locked_entry(entry: Path, how: int) -> IO[bytes]:
    """The open lock of a folder that is there.

    Raises:
        BlockingIOError: with ``LOCK_NB``, another process holds it.
    """
    while True:
        make_folder(entry)
        file = open_lock(entry / LOCK)
        try:
            try:
                fcntl.flock(file, how | fcntl.LOCK_NB)
            except BlockingIOError:
                if how & fcntl.LOCK_NB:
                    raise
                if somebody_looks():
                    print("Another process computes these gradients: waiting for it.", file=sys.stderr)
                fcntl.flock(file, how)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(entry / LOCK)):
                    return file
        except BaseException:
            file.close()
            raise
        file.close()  # of a folder that was removed meanwhile


@contextlib.contextmanager
def said_of_cache(folder: Path) -> Iterator[None]:
    """Where the cache cannot be written: the fact, and the way out."""
    try:
        yield
    except IndexDamaged:
        raise
    except OSError as error:
        if error.errno is None:  # in words already, of a store
            raise
        raise OSError(
            error.errno,
            f"The cache folder {str(folder)!r} cannot be used: {os.strerror(error.errno or 0)}. Name another one, where there is "
            f"space and this user may write: in the environment as {FOLDER}, or as `folder`.",
        ) from error
