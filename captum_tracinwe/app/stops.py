"""Ctrl-C in the command `captum-tracinwe`: from the first import on it ends in one line, and pressing it again changes nothing.

SIGTERM and SIGHUP, too, let a command put away what it has begun.

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
# By which a process is asked to end: by `kill`, a scheduler, a terminal that closes.
ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


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
    """The handler of Ctrl-C, and of what ends a process, while a command runs."""

    def __init__(self) -> None:
        self.came: float | None = None
        #: What ends the process came, its number.
        self.ended_by: int | None = None
        #: Ctrl-C was ignored before, as of a command that a script put in the background.
        self.deaf = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt; not again while what was begun is being put away."""
        if self.deaf and self.ended_by is None:
            return
        now = time.monotonic()
        if self.came is None or now - self.came > PATIENCE:
            self.came = now
            raise KeyboardInterrupt

    def end(self, number: int, frame: FrameType | None) -> None:
        """As Ctrl-C, which is held back where half done is worse than late (captum_tracinwe.gradients.interrupts)."""
        self.ended_by = number
        signal.raise_signal(signal.SIGINT)


@contextmanager
def stops() -> Iterator[Stops]:
    """For the time of a command; a caller's handler is put back, the process of the command itself is only to end.

    Where SIGTERM or SIGHUP came, the process ends by it, once all is put away: nothing that was temporary stays behind.
    """
    found = Stops()
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    found.deaf = before is signal.SIG_IGN
    ours = main and (before in (signal.default_int_handler, _leave) or found.deaf)
    ends = [one for one in ENDS if ours and signal.getsignal(one) is signal.SIG_DFL]
    if ours:
        signal.signal(signal.SIGINT, found.handle)
    for one in ends:
        signal.signal(one, found.end)
    try:
        yield found
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.SIG_IGN if before is _leave else before)
        for one in ends:
            signal.signal(one, signal.SIG_DFL)
        if found.ended_by is not None:
            signal.raise_signal(found.ended_by)


if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)
