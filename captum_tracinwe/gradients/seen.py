"""Whether there is anyone to see what is printed: Python's streams may be closed, or None, where a shell closed them."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["is_open", "is_terminal", "shows_bars", "somebody_looks", "when_shown"]

# Seconds before a bar appears that nobody asked for: of a job that is done by then there is nothing to be told.
PATIENCE = 2.0


def is_open(stream: Any) -> bool:
    """Whether a stream takes anything at all."""
    return stream is not None and not getattr(stream, "closed", False)


def is_terminal(stream: Any) -> bool:
    """Whether somebody sits before it."""
    return is_open(stream) and hasattr(stream, "isatty") and bool(stream.isatty())


def somebody_looks() -> bool:
    """Whether a person follows what is printed on stderr: in a terminal, or a notebook."""
    if is_terminal(sys.stderr):
        return True
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return is_open(sys.stderr) and getattr(shell, "kernel", None) is not None


def shows_bars(asked: bool | None) -> bool:
    """Whether to show progress: bars go to stderr. None: where a person looks."""
    return somebody_looks() if asked is None else asked and is_open(sys.stderr)


def when_shown(asked: bool | None) -> dict[str, Any]:
    """Options of a bar that is shown: one that nobody asked for waits, and goes when it is done."""
    return {"delay": PATIENCE, "leave": False} if asked is None else {}
