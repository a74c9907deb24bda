"""Files that are there whole or not at all, a reader sees old ones or new ones; with the mode that the user's umask gives."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["as_asked_for", "as_path", "write_all"]


def as_path(given: Any, whose: str, name: str) -> Path:
    """A path of what the user gave.

    Raises:
        TypeError: it is none.
        ValueError: it is empty, or has a character that no path can have.
    """
    if not isinstance(given, (str, os.PathLike)):
        raise TypeError(f"{whose}: expected `{name}` as a path, got {given!r:.60}.")
    if given == "" or "\0" in str(given):
        what = "is empty" if given == "" else f"holds a NUL character, {str(given)!r:.60}"
        raise ValueError(f"{whose}: `{name}` {what}: expected a path, such as 'results/scores'.")
    return Path(given)


def write_all(contents: Mapping[Path, bytes]) -> None:
    """Write several files: all are on the disk, under other names, before the first one is replaced.

    Raises:
        OSError: one cannot be written; all old files are then untouched.
    """
    begun: list[tuple[str, Path]] = []
    try:
        for target, content in contents.items():
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
            begun.append((name, target))
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            as_asked_for(name)
        while begun:
            os.replace(*begun[0])
            begun.pop(0)
    except BaseException:
        for name, _ in begun:
            Path(name).unlink(missing_ok=True)
        raise


def as_asked_for(path: str | Path) -> None:
    """Give a file, or a folder and all in it, the mode that the umask gives what is made new.

    A temporary file is private, and some libraries write by way of one; what the user asked for is not.
    """
    mask = os.umask(0)
    os.umask(mask)
    for place, _, files in os.walk(path):
        os.chmod(place, 0o777 & ~mask)
        for name in files:
            os.chmod(os.path.join(place, name), 0o666 & ~mask)
    if not os.path.isdir(path):
        os.chmod(path, 0o666 & ~mask)
