"""Results of many entries, written down: as rows of a table, and as a summary with the first few."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import islice
from typing import Any

__all__ = ["rows_of", "told"]

# Entries that are printed.
SHOWN = 10


def rows_of(entries: Sequence[Any]) -> list[dict[str, Any]]:
    """Entries, each a dataclass of numbers and names, as dicts."""
    return [{field.name: getattr(one, field.name) for field in fields(one)} for one in entries]


def told(summary: str, header: str, lines: Iterable[str]) -> str:
    """A summary, names of columns, and the first lines."""
    return "\n".join([summary, header, *islice(lines, SHOWN)])
