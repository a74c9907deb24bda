"""Ctrl-C held back where half done is worse than late: context managers whose way in and way out are run to their end."""

from __future__ import annotations

import functools
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType, TracebackType
from typing import Any, Generic, ParamSpec, TypeVar

__all__ = ["deliver", "unbroken", "whole"]

P = ParamSpec("P")
T = TypeVar("T")


def unbroken(function: Callable[P, Iterator[T]]) -> Callable[P, AbstractContextManager[T]]:
    """As :func:`contextlib.contextmanager`, but Ctrl-C cuts short neither what is before the ``yield`` nor what is after it.

    An interrupt that comes there is delivered right after it; one that comes within the block at once, as ever.

    ``try`` and ``with`` alone do not do that: Python runs the handler of a signal between any two steps, also before the
    first step of ``__exit__`` or in the middle of a ``finally``. Only the main thread is ever interrupted.
    """
    inner = contextmanager(function)

    @functools.wraps(function)
    def made(*args: P.args, **kwargs: P.kwargs) -> AbstractContextManager[T]:
        return _Unbroken(inner(*args, **kwargs))

    return made


def whole(action: Callable[[], T]) -> T:
    """What ``action`` gives; an interrupt that comes meanwhile is delivered afterwards."""
    with _done(action) as found:
        return found


def deliver() -> None:
    """Let an interrupt that is being held back through now: for whoever waits on the way into an `unbroken` block."""
    if _held.noted and threading.current_thread() is threading.main_thread():
        _held.let_through()


class _Unbroken(AbstractContextManager[T], Generic[T]):
    def __init__(self, inner: AbstractContextManager[T]) -> None:
        self._inner = inner
        self._holds = False

    def __enter__(self) -> T:
        self._holds = _held.begin()
        try:
            value = self._inner.__enter__()
        except BaseException:
            self._end()
            self._deliver()
            raise
        try:
            self._deliver()
        except BaseException:  # as if it had come as the first thing within the block
            self.__exit__(*sys.exc_info())
            raise
        return value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if isinstance(error, KeyboardInterrupt):
            # Interrupted on their own way out, torch's and others' blocks hang in frames that only the traceback holds, and
            # would put things back whenever it goes: torch its function mode, on top of whatever is there by then.
            traceback.clear_frames(trace)
        try:
            return self._inner.__exit__(kind, error, trace)
        finally:
            self._end()
            self._deliver()

    def _end(self) -> None:
        if self._holds:
            _held.end()

    def _deliver(self) -> None:
        """Unless this block is itself on the way into another, or out of it: that one delivers."""
        if self._holds and _held.noted and not _on_the_way(sys._getframe(2)):
            _held.let_through()


@unbroken
def _done(action: Callable[[], T]) -> Iterator[T]:
    yield action()


class _Held:
    """The handler of SIGINT while `unbroken` blocks are open: one for all of them, however deep. The main thread's alone."""

    def __init__(self) -> None:
        self.noted = False
        self._open = 0
        self._before: Callable[[int, FrameType | None], Any] = signal.default_int_handler

    def begin(self) -> bool:
        """Whether interrupts are held from now on; they need not be in other threads, and where none is raised by Python."""
        if threading.current_thread() is not threading.main_thread():
            return False
        if not self._open:
            before = signal.getsignal(signal.SIGINT)
            if not callable(before) or isinstance(before, signal.Handlers):  # ignored, the system's, or not Python's
                return False
            if before != self.handle:
                self._before = before
            self.noted = False
            signal.signal(signal.SIGINT, self.handle)
        self._open += 1
        return True

    def end(self) -> None:
        """Put the handler back, unless somebody else has put in another."""
        self._open -= 1
        if not self._open and signal.getsignal(signal.SIGINT) == self.handle:
            signal.signal(signal.SIGINT, self._before)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note it on the way in or out; else do as the handler before."""
        if _on_the_way(frame):
            self.noted = True
        else:
            self._before(number, frame)

    def let_through(self) -> None:
        """What the handler before would have done."""
        self.noted = False
        self._before(signal.SIGINT, sys._getframe())


# Told by the stack and not by a flag: the handler may run before the first step of these two.
_WAYS = {_Unbroken.__enter__.__code__, _Unbroken.__exit__.__code__}
_held = _Held()


def _on_the_way(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code in _WAYS:
            return True
        frame = frame.f_back
    return False
