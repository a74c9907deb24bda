"""What is wrong with a file: of one line, or of all lines together, the first of them named and all of them counted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from captum_tracinwe.words.legible import as_line, shortened

__all__ = ["InputError", "LineError", "Problems", "attempted", "listed"]

_T = TypeVar("_T")

#: Bad lines that are named; all are counted.
NAMED = 10


class InputError(ValueError):
    """What the user gave cannot be used; the message is the one line that they read, whatever their file has for a name."""

    def __init__(self, message: str) -> None:
        super().__init__(as_line(message))


class LineError(InputError):
    """One line of a file cannot be used; which one is said by who reads the file."""


class Problems:
    """The lines of a file that cannot be used, by what is wrong with them."""

    def __init__(self, path: str | Path) -> None:
        self.path, self.count = path, 0
        self.said: dict[str, list[str]] = {}  # what is wrong → where; the first lines alone

    @contextlib.contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Note what is wrong with this line, and go on behind it."""
        try:
            yield
        except LineError as error:
            self.count += 1
            if self.count <= NAMED:
                self.said.setdefault(str(error).rstrip("."), []).append(place)

    def check(self, of: int | None = None) -> None:
        """Refuse the file if a line cannot be used.

        Args:
            of (int, optional): how many lines were read.

        Raises:
            InputError: the first ten of them, and how many there are.
        """
        if not self.count:
            return
        if self.count == 1:
            [(what, [place])] = self.said.items()
            alone = InputError(f"{self.path}, {place}: {what}.")
            raise alone
        many = f"{self.count:,}" + ("" if of is None else f" of {of:,}")
        first = f"the first {NAMED}: " if self.count > NAMED else ""
        told = "; ".join(f"{_together(places)}: {what}" for what, places in self.said.items())
        raise InputError(f"{self.path}: {many} cannot be used: {first}{told}.")


def attempted(call: Callable[[], _T]) -> _T | LineError:
    """What a call returns, or what is wrong with the line that it is about: for readers, which go on with the next line."""
    try:
        return call()
    except LineError as error:
        return error


def listed(labels: Iterable[str], most: int = 8, quoted: bool = True) -> str:
    """The first labels, each shortened."""
    shown = [shortened(label, quoted=quoted) for label in labels]
    return ", ".join(shown[:most]) + (", …" if len(shown) > most else "")


def _together(places: list[str]) -> str:
    """``lines 3, 7 and 9`` for "line 3", "line 7", "line 9"; of other places, such as names of files, all in full."""
    if len(places) == 1:
        return places[0]
    units, numbers = zip(*(place.rpartition(" ")[::2] for place in places), strict=True)
    if len(set(units)) == 1 and units[0] and all(number.isdecimal() for number in numbers):
        return f"{units[0]}s {', '.join(numbers[:-1])} and {numbers[-1]}"
    return ", ".join(places[:-1]) + f" and {places[-1]}"
