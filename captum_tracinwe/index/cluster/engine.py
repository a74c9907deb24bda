"""Ray: asked for by name where it is missing, and its errors as those of what failed."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captum_tracinwe.batches.arguments import is_rate
from captum_tracinwe.installing import install

__all__ = ["Handle", "as_itself", "check_place", "check_resources", "engine", "warn_without_room"]

# Argument → what Ray calls it.
KINDS = {"num_cpus": "CPU", "num_gpus": "GPU"}
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


def check_place(asked: str, path: str | Path) -> None:
    """Raise ValueError for a store that each process has for itself: what one writes there no other sees."""
    if isinstance(path, str) and path.lower().startswith("memory://"):
        raise ValueError(
            f"{asked}: {path!r} is in the memory of this process alone. Ray's processes need a directory that "
            f"all machines see, or a URL such as 's3://bucket/index'."
        )


def check_resources(asked: str, **given: Any) -> None:
    """Raise ValueError unless each can be reserved: a finite number of at least 0; of GPUs above 1 a whole one."""
    for name, value in given.items():
        whole = name == "num_gpus"
        if not is_rate(value) or (whole and value > 1 and value != int(value)):
            expected = "a number of at least 0, whole above 1" if whole else "a number of at least 0"
            raise ValueError(f"{asked}: `{name}` should be {expected}, got {value!r}.")


def warn_without_room(ray: Any, asked: str, **needs: float) -> None:
    """Say that no machine of the cluster has what is asked for; one may join, so that it is waited for all the same."""
    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
    if not machines or any(all(one.get(KINDS[name], 0) >= need for name, need in needs.items()) for one in machines):
        return
    most = ", ".join(f"{name} up to {max(one.get(KINDS[name], 0) for one in machines):g}" for name in needs)
    wanted = ", ".join(f"{name}={need:g}" for name, need in needs.items())
    warnings.warn(
        f"{asked} waits: no machine of Ray's cluster has {wanted} (there is {most}). It begins when one joins. Or end it, "
        f"and ask for less.",
        stacklevel=3,
    )


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
