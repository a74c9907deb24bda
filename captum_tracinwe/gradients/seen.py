"""Whether there is anyone to see what is printed: Python's streams may be closed, or None, where a shell closed them."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["is_open", "is_terminal", "shows_bars"]


def is_open(stream: Any) -> bool:
    """Whether a stream takes anything at all."""
    return stream is not None and not getattr(stream, "closed", False)


def is_terminal(stream: Any) -> bool:
    """Whether somebody sits before it."""
    return is_open(stream) and hasattr(stream, "isatty") and bool(stream.isatty())


def shows_bars(asked: bool) -> bool:
    """Whether to show progress that was asked for: bars go to stderr."""
    return asked and is_open(sys.stderr)
