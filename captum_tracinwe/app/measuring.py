"""A stopwatch that also watches memory: what a block of code took, for tutorials and examples."""

from __future__ import annotations

import ctypes
import threading
import time
from types import TracebackType
from typing import Any

__all__ = ["measured"]


class measured:
    """Seconds of a block, and the most memory that the process held in it beyond what it held before; needs psutil.

    Attributes (after the block):
        seconds (float): by the clock on the wall.
        megabytes (float): resident memory, looked at a thousand times a second; a block shorter than that may seem to need none.

    Example:
        >>> with measured() as cost:
        ...     _ = bytearray(10)
        >>> cost.seconds >= 0
        True
    """

    seconds: float
    megabytes: float

    def __enter__(self) -> measured:
        import psutil

        trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim:  # what earlier code freed goes back: a block that lives on it would seem to need nothing
            trim(0)
        self._process, self._over = psutil.Process(), threading.Event()
        self._before = self._peak = self._process.memory_info().rss
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        self._start = time.perf_counter()
        return self

    def _look(self) -> None:
        while not self._over.wait(0.001):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._start
        self._over.set()
        self._watch.join()
        self.megabytes = (self._peak - self._before) / 1e6
