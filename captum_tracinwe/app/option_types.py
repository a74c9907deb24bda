"""What options of the command line take: whole numbers, seeds, rates, delimiters; all else is refused in the user's words."""

from __future__ import annotations

import argparse

__all__ = ["count", "delimiter", "fold_count", "rate", "seed"]


def _whole_number(text: str, lowest: int, highest: int, expected: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = lowest - 1
    if not lowest <= value <= highest:
        raise argparse.ArgumentTypeError(f"expected a whole number {expected}, got {text!r}")
    return value


def count(text: str) -> int:
    """A whole number of at least 1."""
    return _whole_number(text, 1, 2**63 - 1, "of at least 1")


def fold_count(text: str) -> int:
    """A whole number of at least 2."""
    return _whole_number(text, 2, 2**63 - 1, "of at least 2")


def seed(text: str) -> int:
    """A whole number from 0 to 2^63 - 1."""
    return _whole_number(text, 0, 2**63 - 1, "from 0 to 2^63 - 1")


def rate(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def delimiter(text: str) -> str:
    """One character that stands between fields; ``\\t`` is a tab."""
    value = "\t" if text in ("\\t", "tab") else text
    if len(value) != 1 or value in '"\r\n\0':
        raise argparse.ArgumentTypeError(f"expected one character between fields (\\t for a tab), got {text!r}")
    return value
