"""Texts as JSON: an object a line, a list of objects, or an object of columns; which it is, the file says itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

from captum_tracinwe.app.files.encodings import opened
from captum_tracinwe.app.files.problems import InputError, LineError, attempted
from captum_tracinwe.app.files.reading import Reading
from captum_tracinwe.app.files.rows import Record, Records, json_type

__all__ = ["form_of_json", "read", "spans_of_items"]

_BLANK = " \t\n\r"


def read(path: Path, reading: Reading) -> Records:
    """The texts of a file of JSON."""
    form = form_of_json(path, reading)
    with opened(path, reading.encoding) as file:
        if form == "lines":
            yield from _lines(file)
            return
        whole = file.read()
    if form == "list":
        for number, (start, end) in enumerate(spans_of_items(whole, path), 1):
            yield Record(number, f"item {number}", attempted(partial(_object, whole[start:end], "list")))
        return
    yield from _columns(json.loads(whole), path, reading)


def form_of_json(path: Path, reading: Reading) -> str:
    """``lines``, ``list`` or ``columns``."""
    with opened(path, reading.encoding) as file:
        first = next((line for line in file if line.strip()), "").strip()
        if first.startswith("["):
            return "list"
        if not first.startswith("{"):
            return "lines"
        one = _loaded(first)
        if one is not None:
            alone = not any(line.strip() for line in file)
            return "columns" if alone and _is_columns(one) else "lines"
        file.seek(0)
        return "columns" if _loaded(file.read()) is not None else "lines"


def spans_of_items(whole: str, path: object) -> Iterator[tuple[int, int]]:
    """Where each item of a list stands in the text of a file.

    Raises:
        InputError: it is no list, or has something behind it.
    """
    decoder = json.JSONDecoder()
    place = _behind_blank(whole, whole.index("[") + 1)
    while whole[place : place + 1] != "]":
        try:
            _, end = decoder.raw_decode(whole, place)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path}, line {_line(whole, place, error)}: not valid JSON ({_reason(error)})."
            ) from error
        yield place, end
        place = _behind_blank(whole, end)
        if whole[place : place + 1] == ",":
            place = _behind_blank(whole, place + 1)
            if whole[place : place + 1] != "]":
                continue
        elif whole[place : place + 1] == "]":
            break
        raise InputError(
            f"{path}, line {_line(whole, place)}: not valid JSON (Expecting ',' delimiter, or an item behind it); expected a "
            f"list of objects up to its ']'."
        )
    if _behind_blank(whole, place + 1) < len(whole):
        raise InputError(
            f"{path}, line {_line(whole, _behind_blank(whole, place + 1))}: something stands behind the end of the list; "
            f"expected one list of objects, or one object per line."
        )


def _lines(file: IO[str]) -> Records:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield Record(number, f"line {number}", attempted(partial(_object, line, "line")))


def _object(text: str, within: str) -> Mapping[str, Any]:
    """The object that a line or an item of a list is."""
    expected = "expected one object per line." if within == "line" else "expected a list of objects."
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LineError(f"not valid JSON ({_reason(error)}); {expected}") from error
    if not isinstance(record, dict):
        raise LineError(f"a JSON {json_type(record)}; {expected}")
    return record


def _columns(columns: Mapping[str, Any], path: Path, reading: Reading) -> Records:
    """The rows of ``{"text": [...], "label": [...]}``, or as pandas writes it, ``{"text": {"0": ..., "1": ...}, ...}``."""
    wanted = [name for name in (*reading.columns, reading.name_column) if name in columns]
    lacking = next((name for name in reading.columns if name not in columns), None)
    if lacking is not None:
        raise InputError(
            f"{path}: no column {lacking!r} in this JSON object; there are: {', '.join(map(str, columns))}. Name the right one "
            f"with {reading.option_of(lacking)}; expected a list for each column, a list of objects, or one object per line."
        )
    for name in wanted:
        if not isinstance(columns[name], (list, dict)):
            raise InputError(
                f"{path}: {name!r} is a {json_type(columns[name])}; expected a list for each column, a list of objects, or one "
                f"object per line."
            )
    first = columns[wanted[0]]
    keys: Iterable[Any] = first.keys() if isinstance(first, dict) else range(len(first))
    for name in wanted:
        other = columns[name]
        here = other.keys() if isinstance(other, dict) else range(len(other))
        if list(here) != list(keys):
            raise InputError(
                f"{path}: {wanted[0]!r} has {len(first):,} values and {name!r} has {len(other):,}, or they go by other keys; "
                f"expected columns of one length."
            )
    for number, key in enumerate(keys, 1):
        yield Record(number, f"row {number}", {name: columns[name][key] for name in wanted})


def _is_columns(record: Mapping[str, Any]) -> bool:
    """Whether an object alone is a table: each value is a column."""
    return bool(record) and all(isinstance(value, (list, dict)) for value in record.values())


def _loaded(text: str) -> dict[str, Any] | None:
    """The object that a text is, or None."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _behind_blank(text: str, place: int) -> int:
    while text[place : place + 1] in _BLANK and place < len(text):
        place += 1
    return place


def _line(whole: str, place: int, error: BaseException | None = None) -> int:
    return whole.count("\n", 0, error.pos if isinstance(error, json.JSONDecodeError) else place) + 1


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error).partition(";")[0]
