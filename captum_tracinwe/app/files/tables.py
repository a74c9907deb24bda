"""Rows of cells, as CSV and spreadsheets have them: which columns they have, by a header or without one."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from captum_tracinwe.app.files.problems import InputError, LineError, attempted, listed
from captum_tracinwe.app.files.reading import DEFAULT, Reading
from captum_tracinwe.app.files.rows import Record, Records

__all__ = ["Columns", "Line", "columns_of", "records"]

#: Line number, and the cells there or what is wrong with them.
Line: TypeAlias = tuple[int, Sequence[Any] | LineError]

# What a header calls a column of labels; where columns are given by number, a first line that says this is no text.
LABELS = ("category", "class", "gold", "intent", "label", "labels", "sentiment", "target", "topic", "y")
LOOKED_AT = 1000  # lines by which a table without a header is told


@dataclass(frozen=True)
class Columns:
    """Where the columns of a table are.

    Args:
        places (mapping): from 0, by the name of a column as it is asked for.
        header (tuple of str, optional): the names in the first line; None: it is a text like the others.
        width (int): how many columns there are.
    """

    places: Mapping[str, int]
    header: tuple[str, ...] | None
    width: int


def records(path: object, lines: Iterable[Line], reading: Reading, unit: str) -> Records:
    """The texts of a table.

    Raises:
        InputError: it has not the columns that are asked for, or one twice.
    """
    lines = iter(lines)
    first = list(itertools.islice(lines, LOOKED_AT))
    columns = columns_of(path, first, reading, unit)
    if columns is None:
        yield from (
            Record(number, f"{unit} {number}", cells) for number, cells in first if isinstance(cells, LineError)
        )
        return
    header = columns.header is not None
    for number, cells in itertools.chain(first, lines):
        if header and not isinstance(cells, LineError):
            header = False
            continue
        yield Record(
            number,
            f"{unit} {number}",
            cells if isinstance(cells, LineError) else attempted(partial(_fields, cells, columns)),
        )


def columns_of(path: object, first: Sequence[Line], reading: Reading, unit: str) -> Columns | None:
    """Where the columns are that are asked for; None: there is no line that could tell.

    Raises:
        InputError: see :func:`records`.
    """
    known = [(number, [_cell(cell) for cell in cells]) for number, cells in first if not isinstance(cells, LineError)]
    if not known or isinstance(first[0][1], LineError):  # what is behind a header that cannot be read is none
        return None
    (at, head), others = known[0], [cells for _, cells in known[1:]]
    numbers = {column: int(column) - 1 for column in reading.columns if column.isascii() and column.isdecimal()}
    if len(numbers) == len({*reading.columns}) and not {*numbers} <= {*head}:
        named = []  # that a text or a label is a number, too, means nothing
    else:
        named = [column for column in (*reading.columns, reading.name_column) if column in head]
    twice = next((column for column in named if head.count(column) > 1), None)
    if twice is not None:
        raise InputError(
            f"{path}: {head.count(twice)} columns are called {twice!r}; expected one. Rename or remove the others."
        )
    lacking = [column for column in reading.columns if column not in named]
    numbers = {column: place for column, place in numbers.items() if column in lacking}
    beyond = next((column for column, place in numbers.items() if not 0 <= place < len(head)), None)
    if beyond is not None:
        raise InputError(
            f"{path}: no column {beyond}; expected the name of a column, or a number from 1 to {len(head)}, its place in {unit} "
            f"{at}."
        )
    if len(numbers) == len(lacking):
        places = {column: head.index(column) for column in named} | numbers
        _refuse_twice(path, places, reading)
        is_header = bool(set(named) & set(reading.columns)) or _is_header(head, others, places[reading.label_column])
        if is_header and not set(named) & set(reading.columns):
            _warn_of_header(path, unit, at, head)
        return Columns(places if is_header else numbers, tuple(head) if is_header else None, len(head))
    found = _without_header(head, others) if reading.columns == DEFAULT.columns else None
    if found is not None:
        classes = listed(dict.fromkeys(cells[found[1]] for cells in [head, *others] if len(cells) > found[1]), 4)
        _warn_of_none(path, found, classes)
        return Columns(dict(zip(DEFAULT.columns, found, strict=True)), None, len(head))
    there = listed((cell for cell in head if cell), quoted=False) or "none"
    one = (
        " If its fields are parted by another character, give it with --delimiter."
        if len(head) == 1 and unit == "line"
        else ""
    )
    raise InputError(
        f"{path}, {unit} {at}: no column {lacking[0]!r}; there are: {there}. Name the right one with "
        f"{reading.option_of(lacking[0])}. If {unit} {at} is a text and no header, count: --text-column 1 --label-column 2.{one}"
    )


def _refuse_twice(path: object, places: Mapping[str, int], reading: Reading) -> None:
    """Raise InputError where a column is named by its name and by its number."""
    seen: dict[int, str] = {}
    for column in reading.text_columns:
        before = seen.setdefault(places[column], column)
        if before != column:
            raise InputError(f"{path}: {before!r} and {column!r} are the same column; expected each column once.")


def _cell(cell: Any) -> str:
    return "" if cell is None else str(cell)


def _is_header(head: Sequence[str], others: Sequence[Sequence[str]], label: int) -> bool:
    """Whether the first line, where columns are given by number, is a header nevertheless: it says so, and no other does."""
    below = {cells[label] for cells in others if len(cells) > label}
    return head[label].strip().lower() in LABELS and head[label] not in below


def _without_header(head: Sequence[str], others: Sequence[Sequence[str]]) -> tuple[int, int] | None:
    """The places of text and label where it is safe to say that there is no header: two columns, of which the labels repeat.

    Safe is: what the first line has for a label stands in another line again, no label is a text of many words, there are at
    most half as many labels as lines, and the first line's text is met nowhere else.
    """
    if len(head) != 2 or any(len(cells) != 2 for cells in others):
        return None
    found = []
    for text, label in ((0, 1), (1, 0)):
        labels, texts = [cells[label] for cells in others], [cells[text] for cells in others]
        few = len({*labels, head[label]}) * 2 <= len(labels) + 1
        if head[label].strip() and head[label] in labels and few and head[text] not in texts:
            found.append((text, label))
    return found[0] if len(found) == 1 else None


def _warn_of_header(path: object, unit: str, at: int, head: Sequence[str]) -> None:
    warnings.warn(f"{path}: {unit} {at} ({listed(head)}) is taken for a header, not for a text.", stacklevel=2)


def _warn_of_none(path: object, found: tuple[int, int], classes: str) -> None:
    text, label = (place + 1 for place in found)
    warnings.warn(
        f"{path}: no header line; column {text} is read as the text, column {label} as the label ({classes}). If that is wrong, "
        f"say --text-column {label} --label-column {text}, or put a header above.",
        stacklevel=2,
    )


def _fields(cells: Sequence[Any], columns: Columns) -> Mapping[str, Any]:
    if len(cells) > columns.width and any(_cell(cell) for cell in cells[columns.width :]):
        what = "the header has columns" if columns.header is not None else "the first line"
        raise LineError(f"more fields than {what}; put texts that contain the delimiter in quotes.")
    return {column: cells[place] if place < len(cells) else None for column, place in columns.places.items()}
