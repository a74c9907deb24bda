"""Rows of results, written down: as a DataFrame, as CSV that no spreadsheet obeys, as JSON that no terminal obeys."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["as_meant", "csv_line", "csv_text", "frame", "harmless", "json_document", "json_text", "rows_of_csv"]

# What a spreadsheet takes for a formula: a cell that begins with one of these signs, in either width, behind blanks too; or with
# a tab or a carriage return. Before it may stand apostrophes, those of a text of its own included, so that nothing is lost. The
# script of the page of suspected labels (visualization/suspects_script.py) has the same.
_FORMULA = r"(?:[\t\r\n]|[\0-\x20\x7f-\xa0\u2000-\u200f\u2028-\u202f\u205f-\u2064\u3000\ufeff]*[=+\-@\uff1d\uff0b\uff0d\uff20])"
_OBEYED = re.compile(f"'*{_FORMULA}")
_MADE_HARMLESS = re.compile(f"'+{_FORMULA}")
# What JSON may hold and a terminal obeys: controls beyond ASCII, marks of direction, ends of lines; and half a character, which
# no file in UTF-8 can hold. JSON itself escapes the controls below 32.
_NEVER_RAW = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None, plain: Any = None) -> Any:
    """A ``pandas.DataFrame``; where pandas is not installed ``plain``, by default the rows as a list of dict."""
    try:
        import pandas
    except ImportError:
        return [dict(row) for row in rows] if plain is None else plain
    return pandas.DataFrame(list(rows), columns=None if columns is None else list(columns))


# --------------------------------------------------------------------------------------------------------------- CSV


def csv_line(fields: Sequence[Any], delimiter: str = ",", end: str = "\n") -> str:
    """One row of a file, read back as just these fields whatever its end: line breaks of both kinds are quoted.

    For a user's own rows, which stay as they are. What people open is written by :func:`csv_text`.
    """
    written = io.StringIO(newline="")
    # Before Python 3.13 only the characters of the row's end are quoted.
    csv.writer(written, delimiter=delimiter, lineterminator="\r\n").writerow(fields)
    return written.getvalue().removesuffix("\r\n") + end


def csv_text(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """A table for people, as the text of a file that is to be written as it is (``newline=""``).

    A text that a spreadsheet would take for a formula gets an apostrophe before it (:func:`harmless`); numbers stay numbers, and
    are read back as they were; a list is written as JSON, one of nothing as an empty cell.
    """
    lines = [[harmless(name) for name in columns], *([_cell(row.get(name)) for name in columns] for row in rows)]
    return "".join(csv_line(line) for line in lines)


def _cell(value: Any) -> Any:
    if isinstance(value, (list, tuple, dict)):
        value = json_text(value) if value else ""  # a person reads "[]" as a sign of something
    return harmless(value) if isinstance(value, str) else value


def harmless(text: str) -> str:
    """The content of a cell that is no formula: an apostrophe stands before what would be one.

    A text that begins with apostrophes and such a sign gets one more, so that :func:`as_meant` gives back every text.

    Example:
        >>> harmless("=1+1"), harmless("'=1+1"), harmless("a = b")
        ("'=1+1", "''=1+1", 'a = b')
        >>> as_meant(harmless("'=1+1"))
        "'=1+1"
    """
    return f"'{text}" if _OBEYED.match(text) else text


def as_meant(cell: str) -> str:
    """The text that :func:`harmless` made this cell of."""
    return cell[1:] if _MADE_HARMLESS.match(cell) else cell


def rows_of_csv(text: str) -> list[dict[str, str]]:
    """What :func:`csv_text` wrote, every cell as text.

    Raises:
        ValueError: it is no such table; the message says in which line.
    """
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    limit = csv.field_size_limit(len(text) + 1)
    try:
        lines = [[as_meant(cell) for cell in line] for line in reader if line]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} is not valid CSV ({error})") from error
    finally:
        csv.field_size_limit(limit)
    if not lines:
        raise ValueError("there is no line in it, not even the names of columns")
    wrong = next((line for line in lines if len(line) != len(lines[0])), None)
    if wrong is not None:
        raise ValueError(f"a row has {len(wrong)} fields, and the first line names {len(lines[0])} columns")
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


# -------------------------------------------------------------------------------------------------------------- JSON


def json_document(content: Mapping[str, Any], ascii_only: bool = False) -> str:
    """One JSON object, each of its tables with a row a line; see :func:`json_text`."""
    entries = []
    for name, value in content.items():
        text = json_text(value, ascii_only)
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            text = "[\n  " + ",\n  ".join(json_text(row, ascii_only) for row in value) + "\n ]"
        entries.append(f" {json_text(name, ascii_only)}: {text}")
    return "{\n" + ",\n".join(entries) + "\n}\n"


def json_text(content: Any, ascii_only: bool = False) -> str:
    """JSON of plain data on one line; read back it is equal, and printed it is obeyed by no terminal.

    Raises:
        ValueError: a number is NaN or infinite, which JSON does not have.
    """
    text = json.dumps(content, ensure_ascii=ascii_only, allow_nan=False)
    return _NEVER_RAW.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
