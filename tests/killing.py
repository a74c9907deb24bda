"""An operation in a forked child that is killed with SIGKILL: at a system call of its own, or after a while.

A fork costs 10 to 20 ms where a new Python with torch costs seconds. No `finally` runs and no buffer is written, as in any
killed process: an exception in its place would do both.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

# What changes or locks files; a file made by `open` alone is empty, and is locked next.
CALLS = {os.mkdir, os.replace, os.rename, os.link, os.unlink, os.chmod, os.fsync, os.write, fcntl.flock}
METHODS = {"write", "flush"}
PATIENCE = 120  # seconds; a child that takes longer hangs


def killed_at(call: int, operation: Callable[[], object]) -> bool:
    """Whether the operation was killed, when about to make its system call of that number; otherwise it came to its end."""

    def counted() -> None:
        left = call

        def count(frame: object, event: str, made: Any) -> None:
            nonlocal left
            if event == "c_call" and (made in CALLS or made.__name__ in METHODS):
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1

        sys.setprofile(count)
        operation()

    child, done = _forked(counted)
    os.close(done)
    return _outcome(child)


def killed_after(seconds: float, operation: Callable[[], object]) -> bool:
    """Whether the operation was killed that long after its start; otherwise it came to its end."""
    child, done = _forked(operation)
    select.select([done], [], [], seconds)
    os.kill(child, signal.SIGKILL)  # of a child that has ended, and was not waited for, nothing
    os.close(done)
    return _outcome(child)


def duration(operation: Callable[[], object]) -> float:
    """Seconds that the operation takes in a forked child."""
    child, done = _forked(operation)
    start = time.perf_counter()
    killed = _outcome(child)
    os.close(done)
    assert not killed
    return time.perf_counter() - start


def _forked(operation: Callable[[], object]) -> tuple[int, int]:
    """A child that has begun, and a pipe that ends with it."""
    begun, started = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads: those of torch and BLAS are known to take it
        child = os.fork()
    if child:
        os.close(started)
        assert os.read(begun, 1) == b"."
        return child, begun
    code = 1
    try:
        signal.alarm(PATIENCE)
        os.close(begun)
        os.write(started, b".")
        operation()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.setprofile(None)
        os._exit(code)


def _outcome(child: int) -> bool:
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), f"the child failed: {status}"
    return status != 0
