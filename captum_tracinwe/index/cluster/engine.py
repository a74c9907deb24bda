"""Ray: asked for by name where it is missing, and its errors as those of what failed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from captum_tracinwe.installing import install

__all__ = ["Handle", "as_itself", "engine"]

_COLOURS = re.compile("\x1b\\[[0-9;]*m")


@dataclass(frozen=True)
class Handle:
    """Something in Ray's store, by a key under which a worker keeps it; within a list, so that Ray does not resolve it."""

    key: str
    references: list[Any]


def engine(asked: str) -> Any:
    """The module ``ray``.

    Args:
        asked (str): who needs it, for the message.

    Raises:
        ImportError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(f"{asked} needs Ray, which is not installed. {install('ray', 'ray')}") from error
    return ray


def as_itself(error: Any, what: str) -> BaseException:
    """What was raised in a worker, as it was there; beside it, by ``__cause__`` and a note, what was being done, and where.

    Args:
        error (ray.exceptions.RayTaskError): as Ray gives it.
        what (str): what was being done.
    """
    cause = error.cause if isinstance(error.cause, Exception) else error
    # Ray's text has the worker's number, machine and traceback, in colours.
    cause.__cause__ = RuntimeError(f"{what}, by Ray: {_COLOURS.sub('', str(error))}")
    if hasattr(cause, "add_note"):  # since Python 3.11
        cause.add_note(f"{what}, by Ray")
    found: BaseException = cause
    return found
