"""How much a question may be, how long it may take, and how many may wait."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """What one question, and all of them together, may take.

    Args:
        body_bytes (int): of a request.
        characters (int): of a text.
        texts (int): of a question.
        k (int): proponents of a text, and as many opponents.
        waiting (int): questions that wait for their turn, beside the one that is being answered.
        seconds (int): for a question, from when it is there until its answer is made.
        body_seconds (int): until a request's body is there.
        idle_seconds (int): in which a connection without a question brings a whole head of a request, or takes its answer.
        connections (int): open at a time.
        unsent_bytes (int): of answers that are made and that their clients have not taken.
    """

    body_bytes: int = 1 << 18
    characters: int = 10_000
    texts: int = 8
    k: int = 20
    waiting: int = 64
    seconds: int = 60
    body_seconds: int = 10
    idle_seconds: int = 20
    connections: int = 256
    unsent_bytes: int = 1 << 26

    @property
    def told(self) -> dict[str, int]:
        """Those that somebody who asks needs to know, by name."""
        names = ("body_bytes", "characters", "texts", "k", "waiting", "seconds")
        return {name: value for name, value in dataclasses.asdict(self).items() if name in names}
