"""Questions one after the other, in one thread beside that of the server; so many may wait, and who left need not be answered."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from captum_tracinwe.app.serving.refused import Refused

__all__ = ["Turns"]

Said = TypeVar("Said")
#: Seconds after which who was turned away is told to come again, at most.
LATEST = 60


class Turns(Generic[Said]):
    """A line of questions, and the one thread that answers them: a model is asked by one at a time.

    Args:
        waiting (int): how many may wait, beside the one that is being answered.
    """

    def __init__(self, waiting: int) -> None:
        self._most = waiting
        self._line: deque[tuple[Future[Said], Callable[[], Said]]] = deque()
        self._changed = threading.Condition()
        self._running = False
        self._open = True
        self._took = 0.0
        # A daemon: an answer that takes long does not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._line)

    @property
    def running(self) -> bool:
        """Whether one is being answered now."""
        return self._running

    def ask(self, answer: Callable[[], Said]) -> Future[Said]:
        """Stand in the line; the future has what ``answer`` gives, in its turn.

        Raises:
            Refused: the line is full, or the server is about to end.
        """
        with self._changed:
            if not self._open:
                raise Refused(503, "The server is about to end; ask again when it is back.", {"Retry-After": "10"})
            if len(self._line) >= self._most + (not self._running):  # where none runs, the first is taken at once
                after = min(LATEST, max(1, math.ceil(self._took * len(self._line))))
                raise Refused(
                    503,
                    f"{len(self._line)} questions wait already, which is the limit; ask again in {after} s, or start the server "
                    f"with a larger --waiting.",
                    {"Retry-After": str(after)},
                )
            future: Future[Said] = Future()
            self._line.append((future, answer))
            self._changed.notify()
        return future

    def leave(self, future: Future[Said]) -> bool:
        """Give up one's turn; False: it has begun, and goes on until it is done."""
        with self._changed:
            if not future.cancel():
                return False
            for entry in self._line:
                if entry[0] is future:
                    self._line.remove(entry)
                    break
        return True

    def close(self, seconds: float) -> bool:
        """Take no more questions, drop those that wait, and wait for the one that runs; whether that is done."""
        with self._changed:
            self._open = False
            for future, _ in self._line:
                future.cancel()
            self._line.clear()
            self._changed.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._open and not self._line:
                    self._changed.wait()
                if not self._line:
                    return
                future, answer = self._line.popleft()
                if not future.set_running_or_notify_cancel():
                    continue
                self._running = True
            self._answer(future, answer)
            del future, answer  # an answer is not held until the next question comes

    def _answer(self, future: Future[Said], answer: Callable[[], Said]) -> None:
        start = time.monotonic()
        try:
            said = answer()
        except BaseException as error:  # whoever asked is told; the next one has its turn
            self._ended(start)
            future.set_exception(error)
        else:
            self._ended(start)
            future.set_result(said)

    def _ended(self, start: float) -> None:
        with self._changed:
            self._running = False
            self._took = time.monotonic() - start
