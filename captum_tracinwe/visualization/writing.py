"""Files that are there whole or not at all: a reader sees the old ones or the new ones, never a part."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["write_all", "write_html"]


def write_html(path: str | os.PathLike[str], html: str) -> Path:
    """Write a page so that a reader sees the old file or the whole new one, never a part.

    Args:
        path (str or path): where to; its folder must exist.
        html (str): a page.

    Returns:
        Path: ``path``.

    Raises:
        OSError: the folder does not exist or cannot be written to; the old file is then untouched.

    Example:
        >>> import tempfile
        >>> write_html(f"{tempfile.mkdtemp()}/report.html", "<p>a page</p>").name
        'report.html'
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"write_html: the folder of {str(target)!r} does not exist. Make it first.")
    write_all({target: html.encode()})
    return target


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
