"""What options of the command line take: whole numbers, seeds, rates, delimiters; all else is refused in the user's words."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

__all__ = [
    "count",
    "delimiter",
    "file_name",
    "fold_count",
    "folder_name",
    "index_place",
    "port",
    "rate",
    "seed",
    "size",
]


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


def port(text: str) -> int:
    """A whole number from 0 to 65535."""
    return _whole_number(text, 0, 65535, "from 0 to 65535")


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


def file_name(text: str) -> str:
    """A file to be written, which standard output is none of."""
    if text == "-":
        raise argparse.ArgumentTypeError(
            "expected the name of a file, got '-': on standard output --json - and --csv - print what was found; a file called - "
            "is ./-"
        )
    return text


def folder_name(text: str) -> str:
    """A folder to be made, which standard output is none of."""
    if text == "-":
        raise argparse.ArgumentTypeError("expected the name of a folder, got '-'; one called - is ./-")
    return text


def index_place(text: str) -> Path | str:
    """A directory, or the URL of a store."""
    from captum_tracinwe.index.files.urls import is_url  # with the index comes torch

    return text if is_url(text) else Path(text)


def size(text: str) -> int:
    """Bytes, written as 5GB, 500 MB or 1.5GiB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", text.strip().upper(), re.ASCII)
    value = (
        0 if found is None else int(float(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2] or " "))
    )
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a size such as 5GB or 500MB, got {text!r}")
    return value
