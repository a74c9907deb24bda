"""Several processes, one index: the first begins it, the others wait, and notice when the first refused or is gone."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from captum_tracinwe.index.environment import WAIT, patience
from captum_tracinwe.index.files.disk import full_disk, make_folder, open_file, open_lock, refuse_linked, temporary
from captum_tracinwe.index.files.names import FIRST, MANIFEST

__all__ = ["exists_already", "leading", "wait_for_first"]

# What a first process that has ended said is of this start for so long.
RECENT = 60.0


def exists_already(folder: Path) -> FileExistsError:
    """Of an index that was not asked for."""
    return FileExistsError(
        f"There is an index at {str(folder)!r} already: go on with it by resume=True, add to it by append=True, or name another "
        f"directory."
    )


@contextmanager
def leading(folder: Path) -> Iterator[Callable[[], None]]:
    """The first process: holds a lock while it lives, and leaves what became of the beginning.

    Yields:
        callable: to be called when the index has been begun; an error before that is told to the others.
    """
    make_folder(folder)
    with full_disk(folder):
        file = open_lock(folder / FIRST)
    with file:
        refuse_linked(file, folder / FIRST)
        with full_disk(folder):
            leads = _leads(file)
        if not leads:  # a process of another start does, and this one helps
            yield lambda: None
            return
        begun = False

        def say(state: str, why: str = "") -> None:
            nonlocal begun
            begun = state == "begun"
            file.truncate(0)
            file.write(json.dumps({"state": state, "why": why}).encode())
            file.flush()

        with full_disk(folder):
            say("beginning")
        try:
            yield lambda: say("begun")
        except BaseException as error:
            if not begun:
                with contextlib.suppress(OSError):
                    say("failed", f"{type(error).__name__}: {error}")
            raise


def _leads(file: IO[bytes]) -> bool:
    """Whether the lock could be had; those who look hold it for a moment."""
    for _ in range(20):
        if _locks(file, fcntl.LOCK_EX):
            return True
        time.sleep(0.1)
    return False


def _locks(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_first(folder: Path, resume: bool) -> None:
    """Wait until the first process has begun the index.

    Raises:
        FileExistsError: there was one before, and ``resume`` is not asked for.
        RuntimeError: the first process refused, or there is none.
        OSError: the directory cannot be made or written to, by which the first process could not say so.
    """
    arrived, most = time.time(), patience()
    make_folder(folder)
    with full_disk(folder), temporary(folder):
        pass
    existed = (folder / MANIFEST).exists()
    missed, before = time.monotonic(), ""
    while True:
        state, why, said, alive = _look(folder)
        if (folder / MANIFEST).exists() and (
            resume or not existed or (state == "begun" and (alive or said > arrived - RECENT))
        ):
            return
        if alive or state != before:  # its file is there a moment before its lock is
            missed, before = time.monotonic(), state
        elif existed:
            raise exists_already(folder)
        elif state == "failed" and said >= arrived - 1:
            raise RuntimeError(f"The first process (RANK=0) did not begin the index {str(folder)!r}: {why}")
        elif time.monotonic() - missed > (most if state == "" else most / 10):
            last = f"the last one ended: {why}" if why else "it was never started" if not state else "it was killed"
            raise RuntimeError(
                f"No first process (RANK=0) began the index {str(folder)!r}: {last}. Start all processes again; where the first "
                f"one needs longer than {most:g} seconds to come here, set {WAIT}."
            )
        time.sleep(0.1)


def _look(folder: Path) -> tuple[str, str, float, bool]:
    """What the first process said last, why, when, and whether it lives."""
    try:
        with full_disk(folder), open_file(folder / FIRST) as file:
            refuse_linked(file, folder / FIRST)
            alive = not _locks(file, fcntl.LOCK_SH)
            try:
                content = json.loads(file.read())
                state, why = str(content["state"]), str(content["why"])
            except (ValueError, KeyError, TypeError):  # being written
                state, why = "beginning", ""
            return state, why, os.fstat(file.fileno()).st_mtime, alive
    except (FileNotFoundError, NotADirectoryError):
        return "", "", 0.0, False
