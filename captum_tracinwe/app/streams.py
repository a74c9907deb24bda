"""What the command line says, on any terminal: an encoding that lacks a character or a reader who leaves stops no work."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["Output", "legible_streams", "tell"]

# Our own signs in ASCII, so that tables and bars can still be read where the terminal's encoding has no others.
PLAIN = {"−": "-", "–": "-", "█": "#", "…": "...", "×": "x", "≤": "<=", "↔": "<->", "→": "->", "✗": "x", "␣": "_"}
PLAIN |= {"’": "'", "“": '"', "”": '"', "⏎": r"\n", "␍": r"\r", "⇥": r"\t", "␡": r"\x7f"}
PLAIN |= {chr(0x2400 + code): f"\\x{code:02x}" for code in range(32)}
ERRORS = "captum_tracinwe.plain"


def _plainer(error: UnicodeError) -> tuple[str, int]:
    """A codec's error handler: our own signs in ASCII, all else as backslashreplace has it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode("ascii") for c in lacking), error.end


codecs.register_error(ERRORS, _plainer)


@contextlib.contextmanager
def legible_streams() -> Iterator[None]:
    """Stdout and stderr take every character, and are as they were afterwards; other objects in their place stay as they are."""
    before = [(s, s.errors) for s in (sys.stdout, sys.stderr) if isinstance(s, io.TextIOWrapper)]
    try:
        _set_errors([(stream, ERRORS) for stream, _ in before])
        yield
    finally:
        _set_errors(before)


def _set_errors(streams: list[tuple[io.TextIOWrapper, str | None]]) -> None:
    for stream, errors in streams:
        with contextlib.suppress(OSError, ValueError):  # it flushes: the pipe may be broken, the file closed
            stream.reconfigure(errors=errors)


class Output:
    """Stdout: once it fails it says no more, and the work goes on, whose report or index is what was asked for."""

    failed: Exception | None = None

    def say(self, text: str) -> None:
        """Print lines at once."""
        self.failed = self.failed or _write(sys.stdout, f"{text}\n")

    def finish(self) -> None:
        """Flush what others (argparse) wrote."""
        self.failed = self.failed or _write(sys.stdout, "")


def tell(line: str) -> None:
    """Print a line on stderr, if there is anyone to read it."""
    _write(sys.stderr, f"{line}\n")


def _write(stream: Any, text: str) -> Exception | None:
    """Write and flush; returns what stood in the way."""
    if stream is None:  # closed before Python began
        return None
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError) as error:
        # What it still holds would fail again, and with a traceback, when Python ends: let that go nowhere.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        return error
    return None
