"""What the environment says of several processes that build one index; each variable is checked, and refused by its name."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

__all__ = ["WAIT", "Place", "patience"]

#: Environment variable: seconds to wait for a first process that is not there. One that is at work is waited for without end.
WAIT = "CAPTUM_TRACINWE_WAIT"
PATIENCE = 600.0
RANK, WORLD, RESTARTS = "RANK", "WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"


@dataclass(frozen=True)
class Place:
    """Which of how many workers this process is, and whether it, or another in its place, has died before."""

    rank: int = 0
    world: int = 1
    again: bool = False

    @classmethod
    def of_environment(cls) -> Place:
        """As ``torchrun`` tells it; outside, the only worker.

        Raises:
            ValueError: a variable that is no such number, or a rank that the number of processes does not have.
        """
        patience()
        rank, world, restarts = _number(RANK, 0), _number(WORLD, 1), _number(RESTARTS, 0)
        if not rank < world or (world > 1 and RANK not in os.environ):
            raise ValueError(
                f"The environment has {_given(RANK)} and {_given(WORLD)}: expected 0 ≤ {RANK} < {WORLD}. {_OUT}"
            )
        return cls(rank, world, restarts > 0)


def patience() -> float:
    """Seconds to wait for a first process that is not there.

    Raises:
        ValueError: the variable is no such number.
    """
    try:
        seconds = float(os.environ.get(WAIT, PATIENCE))
    except ValueError:
        seconds = -1
    if not seconds >= 0:
        raise ValueError(
            f"The environment has {_given(WAIT)}: expected a number of seconds of at least 0. Correct it, or unset it for "
            f"{PATIENCE:g} seconds."
        )
    return seconds


_OUT = f"Start all processes by torchrun, or unset {RANK}, {WORLD} and {RESTARTS} to build in this one alone."


def _number(name: str, default: int) -> int:
    given = os.environ.get(name)
    if given is None:
        return default
    if not re.fullmatch("[0-9]{1,9}", given):
        raise ValueError(f"The environment has {_given(name)}: expected a whole number of at least 0. {_OUT}")
    return int(given)


def _given(name: str) -> str:
    return f"{name}={os.environ[name]!r:.80}" if name in os.environ else f"no {name}"
