"""Copies of a store's files in a cache folder: each is checked when it comes, and gets its name when it is right."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from captum_tracinwe.index.files.digests import Expected, blocks_of
from captum_tracinwe.index.files.disk import IndexDamaged, make_folder, open_lock, present, temporary
from captum_tracinwe.index.remote.store import Store

__all__ = ["fetch_all", "remove_wrong"]

# Files on their way at once: a store answers each request late, and many of them together.
AT_ONCE = 8
# A transfer that was cut is tried once more; what is wrong twice is wrong there.
TRIES = 2
# Beside the copies: a lock for each file on its way, so that of several processes one fetches it.
ON_THE_WAY = "on-the-way"


def fetch_all(store: Store, folder: Path, files: Iterable[Expected]) -> int:
    """See that a folder has these files; how many had to be fetched.

    Raises:
        IndexDamaged: one is not in the store, or what came is not what the manifest says, twice.
        OSError: the store does not answer, or refuses.
    """
    missing = [one for one in files if not _is_there(folder, one)]
    if not missing:
        return 0
    make_folder(folder.parent / ON_THE_WAY)
    with ThreadPoolExecutor(min(AT_ONCE, len(missing))) as pool:
        turns = [pool.submit(_fetch, store, folder, one) for one in missing]
        try:
            return sum(turn.result() for turn in turns)
        finally:
            for turn in turns:
                turn.cancel()


def remove_wrong(folder: Path, files: Iterable[Expected]) -> bool:
    """Remove the copies that are not, or no longer, what the manifest says; whether there were such."""
    found = False
    for expected in files:
        path = folder / expected.file.name
        with contextlib.suppress(FileNotFoundError):
            if expected.wrong(blocks_of(path)) is not None:
                path.unlink(missing_ok=True)
                found = True
    return found


def _is_there(folder: Path, expected: Expected) -> bool:
    """Whether there is a copy of the right size; of another size it was cut by somebody since."""
    path = folder / expected.file.name
    try:
        present(path, expected.file.bytes).close()
    except IndexDamaged:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return False
    return True


def _fetch(store: Store, folder: Path, expected: Expected) -> bool:
    name = expected.file.name
    with _turn(folder.parent / ON_THE_WAY / name):
        if _is_there(folder, expected):  # another process has fetched it
            return False
        wrong: str | None = None
        for _ in range(TRIES):
            with temporary(folder) as (file, path):
                if not store.fetch(name, path):
                    raise IndexDamaged(
                        f"The index {store.shown!r} is not whole: it has no {name!r}. Push it again; or open it again, "
                        f"if it was pushed meanwhile."
                    )
                wrong = expected.wrong(blocks_of(path))
                if wrong is None:
                    os.fsync(file.fileno())
                    os.replace(path, folder / name)
                    return True
    raise IndexDamaged(
        f"{f'{store.shown}/{name}'!r} is damaged, or was on its way, {TRIES} times: {wrong}. Nothing of it was kept. Remove it "
        f"there, and push the index again."
    )


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """One at a time; who waited finds the file there."""
    with open_lock(path) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
