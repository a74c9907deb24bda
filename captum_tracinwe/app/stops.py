"""Ctrl-C in the command `captum-tracinwe`: from the first import on it ends in one line, and pressing it again changes nothing.

The package imports this first, because torch takes a second or two. A program that imports the package is left alone.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stops", "stops"]

PACKAGE = __name__.partition(".")[0]
STOPPED = 130
#: Where the first was lost (Python drops what is raised within a finaliser), another one counts after so many seconds.
PATIENCE = 5.0


def _is_command() -> bool:
    """Whether this process is the command: by its script, or by ``python -m captum_tracinwe``."""
    name = sys.argv[0] if getattr(sys, "argv", None) else ""
    if name == "-m":  # as long as Python looks for the module
        place = sys.orig_argv.index(PACKAGE) if PACKAGE in sys.orig_argv else 0
        return sys.orig_argv[place - 1].startswith("-") and sys.orig_argv[place - 1].endswith("m")
    return os.path.basename(name) in ("captum-tracinwe", "captum-tracinwe.exe")


def _leave(number: int, frame: FrameType | None) -> None:
    """While modules are imported there is nothing to put away, and some of them turn an interrupt into another error."""
    try:
        os.write(2, b"\ncaptum-tracinwe: stopped.\n")
    finally:
        os._exit(STOPPED)


class Stops:
    """The handler of SIGINT while a command runs."""

    def __init__(self) -> None:
        self.came: float | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt; not again while what was begun is being put away."""
        now = time.monotonic()
        if self.came is None or now - self.came > PATIENCE:
            self.came = now
            raise KeyboardInterrupt


@contextmanager
def stops() -> Iterator[Stops]:
    """For the time of a command; a caller's handler is put back, the process of the command itself is only to end."""
    found = Stops()
    before = signal.getsignal(signal.SIGINT)
    ours = threading.current_thread() is threading.main_thread() and before in (signal.default_int_handler, _leave)
    if ours:
        signal.signal(signal.SIGINT, found.handle)
    try:
        yield found
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.SIG_IGN if before is _leave else before)


if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)
