"""A page as a file that is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from captum_tracinwe.whole_files import write_all

__all__ = ["write_html"]


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
