"""Files that are there whole or not at all: a reader sees the old ones or the new ones, never a part."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["write_all"]


def write_all(contents: Mapping[Path, bytes]) -> None:
    """Write several files: all are on the disk, under other names, before the first one is replaced.

    Raises:
        OSError: one cannot be written; all old files are then untouched.
    """
    mask = os.umask(0)
    os.umask(mask)
    begun: list[tuple[str, Path]] = []
    try:
        for target, content in contents.items():
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
            begun.append((name, target))
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(name, 0o666 & ~mask)  # a temporary file is private, what was asked for is not
        while begun:
            os.replace(*begun[0])
            begun.pop(0)
    except BaseException:
        for name, _ in begun:
            Path(name).unlink(missing_ok=True)
        raise
