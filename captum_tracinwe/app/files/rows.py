"""From what a file has for one text to a text with its label, or to what is wrong with it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from captum_tracinwe.app.files.problems import LineError, listed
from captum_tracinwe.app.files.reading import Reading
from captum_tracinwe.words.texts import SEPARATOR

__all__ = ["Record", "Records", "Row", "Text", "in_one", "json_type", "row_of", "with_whole_numbers"]

#: A text, or a pair of texts.
Text: TypeAlias = str | tuple[str, str]

_KINDS = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null", int: "number"}
_KINDS |= {float: "number", bytes: "sequence of bytes"}

# What torch, numpy and pandas write in place of a label.
NO_LABELS = ("-100", "nan", "NaN", "<NA>")


@dataclass(frozen=True)
class Row:
    """One text of a file: the label as it is written there, and the name that the file gives it, if it does.

    ``line`` counts lines, rows or files from 1; ``place`` says it in words.
    """

    line: int
    text: Text
    label: str
    name: str | None = None
    place: str = ""

    def __post_init__(self) -> None:
        if not self.place:
            object.__setattr__(self, "place", f"line {self.line}")


@dataclass(frozen=True)
class Record:
    """What a file has for one text: value by column, or what is wrong with it; where it stands, counted and in words."""

    line: int
    place: str
    fields: Mapping[str, Any] | LineError


#: The texts of a file, in their order.
Records: TypeAlias = Iterator[Record]


def in_one(text: Text) -> str:
    """A text as it is shown: the two of a pair joined."""
    return text if isinstance(text, str) else SEPARATOR.join(text)


def json_type(value: object) -> str:
    """What JSON calls a value's type; of what JSON has not, Python's name."""
    return _KINDS.get(type(value), type(value).__name__)


def row_of(record: Record, reading: Reading) -> Row:
    """The text of a record, with its label.

    Raises:
        LineError: a column is missing, or a value is not as expected.
    """
    if isinstance(record.fields, LineError):
        raise record.fields
    fields = record.fields
    for column in reading.columns:
        if fields.get(column) is None:
            _missing(column, fields, reading)
    texts = tuple(_text(fields[column], column) for column in reading.text_columns)
    label = _label(fields[reading.label_column], reading.label_column)
    name = fields.get(reading.name_column)
    if isinstance(name, str):
        _check_whole(name, reading.name_column)
    text: Text = "\n".join(texts) if len(texts) > 2 else texts[0]
    if len(texts) == 2:
        text = (texts[0], texts[1])
    return Row(record.line, text, label, name.strip() or None if isinstance(name, str) else None, record.place)


def with_whole_numbers(rows: Sequence[Row]) -> list[Row]:
    """Labels "1.0" and "2.0" are 1 and 2, if all are whole numbers: so pandas writes a column that had a gap once."""
    written = {row.label for row in rows}
    if all(re.fullmatch(r"-?\d+(\.0+)?", label) for label in written) and any("." in label for label in written):
        return [dataclasses.replace(row, label=row.label.partition(".")[0]) for row in rows]
    return list(rows)


def _missing(column: str, fields: Mapping[str, Any], reading: Reading) -> None:
    if column in fields:
        raise LineError(f"{column!r} has no value here; remove the line or give it one.")
    there = listed((name for name, value in fields.items() if value is not None), quoted=False) or "none"
    raise LineError(f"no column {column!r}; there are: {there}. Name the right one with {reading.option_of(column)}.")


def _text(value: Any, column: str) -> str:
    if _is_nan(value):
        raise LineError(f"{column!r} has no value here; remove the line or give it one.")
    if not isinstance(value, str):
        raise LineError(f"{column!r} is a {json_type(value)}; expected a string.")
    if not value.strip():
        raise LineError(f"{column!r} is empty; remove the line or give it a text.")
    _check_whole(value, column)
    return value


def _label(value: Any, column: str) -> str:
    if _is_nan(value):
        raise LineError(f"{column!r} has no value here (NaN); expected an integer or a string.")
    if isinstance(value, float) and not value.is_integer():  # nor is infinity
        raise LineError(
            f"{column!r} is {value}; expected an integer or a string: which class the text is of. Of a text without a label "
            f"remove the line; of one with probabilities give the most probable. Of a number there is no class."
        )
    if not isinstance(value, (str, bool, int, float)):
        raise LineError(
            f"{column!r} is a {json_type(value)}; expected an integer or a string: one class of each text. Of several labels, or "
            f"probabilities, give one class, in a column that you name with --label-column."
        )
    if isinstance(value, str):
        _check_whole(value, column)
        if not value.strip():
            raise LineError(f"{column!r} is empty; expected an integer or a string.")
        found = value.strip()
        if re.fullmatch(r"\[\s*-?[\d.][\d.eE+\-,\s]*\]", found):
            raise LineError(
                f"{column!r} is {found[:80]}, a list of numbers; expected an integer or a string: one class of each text. Of "
                f"several labels, or probabilities, give one class, in a column that you name with --label-column."
            )
    else:
        found = json.dumps(value) if isinstance(value, bool) else str(int(value))
    if found in NO_LABELS:
        raise LineError(
            f"{column!r} is {found}, by which programs say that there is no label; expected an integer or a string. Remove the "
            f"line; if it is a class, give it another name."
        )
    return found


def _is_nan(value: Any) -> bool:
    """Whether it is what a table of numbers has for a gap."""
    return isinstance(value, float) and value != value


def _check_whole(value: str, column: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise LineError(f"{column!r} holds half a character (a lone surrogate); write it whole or remove it.")
