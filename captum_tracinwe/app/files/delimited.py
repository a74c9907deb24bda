"""Tables as text (CSV and its like): the delimiter and the quotes as the file has them, and its lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from captum_tracinwe.app.files.encodings import opened
from captum_tracinwe.app.files.problems import LineError, attempted
from captum_tracinwe.app.files.reading import Reading
from captum_tracinwe.app.files.rows import Records
from captum_tracinwe.app.files.tables import Line, records

__all__ = ["DELIMITERS", "Dialect", "dialect_of", "fitting", "lines_of", "read"]

#: What is looked for where none is given.
DELIMITERS = (",", ";", "\t", "|")
SAMPLE = 1 << 16  # characters that are looked at
SAMPLE_LINES = 50


@dataclass(frozen=True)
class Dialect:
    """How a table is written: its delimiter, and the quotes around fields that need them; None: quotes are letters."""

    delimiter: str
    quote: str | None = '"'

    def reader(self, lines: Iterable[str], strict: bool = True) -> Any:
        """The csv library's reader of it."""
        if self.quote is None:
            return csv.reader(lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE, strict=strict)
        return csv.reader(lines, delimiter=self.delimiter, quotechar=self.quote, strict=strict)


def read(path: Path, reading: Reading, own: str | None) -> Records:
    """The texts of a table; ``own`` is the delimiter that the name of the file tells, if it does."""
    dialect = dialect_of(path, reading, own)
    with opened(path, reading.encoding) as file:
        yield from records(path, lines_of(file, dialect), reading, "line")


def dialect_of(path: Path, reading: Reading, own: str | None) -> Dialect:
    """How a table is written, found by its first lines; of one with tabs by all of them."""
    sample = _sample(path, reading)
    delimiter = reading.delimiter or _delimiter(sample, reading, own or ",")
    rows = Dialect(delimiter, None).reader(io.StringIO(sample, newline=""), False)
    head: list[str] = next((cells for cells in rows if cells), [])
    if len(head) > 1 and all(len(cell) > 1 and cell[0] == cell[-1] == "'" for cell in head):
        return Dialect(delimiter, "'")
    if delimiter == "\t" and _unquoted(path, reading):
        return Dialect(delimiter, None)
    return Dialect(delimiter)


def fitting(path: Path, reading: Reading, own: str | None) -> str | None:
    """The delimiter that a table shows to have in place of the one that is given; None: the given one may be right."""
    assert reading.delimiter is not None
    sample = _sample(path, reading)
    (rows, _), found = _first(sample, reading.delimiter), _delimiter(sample, reading, own or ",")
    if found == reading.delimiter or not rows or _has_columns(rows, reading):
        return None
    (others, whole), cut = _first(sample, found), any(len(cells) > 1 for cells in rows)
    return found if _has_columns(others, reading) or (not cut and whole and _even(others)) else None


def _sample(path: Path, reading: Reading) -> str:
    """The first lines of a table, whole ones."""
    with opened(path, reading.encoding) as file:
        sample = file.read(SAMPLE)
    if len(sample) == SAMPLE and "\n" in sample:
        sample = sample[: sample.rindex("\n") + 1]  # the last line is cut
    return sample


def lines_of(file: Iterable[str], dialect: Dialect) -> Iterator[Line]:
    """The rows of a table with the number of their last line; empty lines are left out."""
    reader = dialect.reader(file)
    while True:
        first = reader.line_num + 1
        cells = attempted(partial(_next, reader))
        if cells is None:
            return
        if isinstance(cells, LineError):
            yield first, cells
        elif cells:
            yield reader.line_num, cells


def _delimiter(sample: str, reading: Reading, own: str) -> str:
    """The one by which the first line has the columns asked for; else the one that cuts all lines alike; else the usual one."""
    parsed = {}
    for delimiter in (own, *(other for other in DELIMITERS if other != own)):
        parsed[delimiter] = _first(sample, delimiter)
    for delimiter, (rows, _) in parsed.items():
        if _has_columns(rows, reading):
            return delimiter
    return next((delimiter for delimiter, (rows, whole) in parsed.items() if whole and _even(rows)), own)


def _has_columns(rows: Sequence[Sequence[str]], reading: Reading) -> bool:
    """Whether the first row is a header that has the columns asked for."""
    return bool(rows) and {*reading.columns} <= {cell.strip("'") for cell in rows[0]}


def _first(sample: str, delimiter: str) -> tuple[list[list[str]], bool]:
    """The first rows of a sample, and whether its quotes stand where they should; the end of the sample may be within some."""
    rows: list[list[str]] = []
    try:
        for cells in Dialect(delimiter).reader(io.StringIO(sample, newline="")):
            rows += [cells] if cells else []
            if len(rows) == SAMPLE_LINES:
                break
    except csv.Error as error:
        return rows, "unexpected end" in str(error)
    return rows, True


def _even(rows: Sequence[Sequence[str]]) -> bool:
    return bool(rows) and len(rows[0]) > 1 and len({len(cells) for cells in rows}) == 1


def _unquoted(path: Path, reading: Reading) -> bool:
    """Whether quotes are letters in a table with tabs: a field begins with one and does not end as it should, and yet each line
    by itself has all fields. Read as quotes, they would swallow the lines up to the next one."""
    width, stray = 0, False
    with opened(path, reading.encoding) as file:
        for line in file:
            cells = line.rstrip("\r\n").split("\t")
            if cells == [""]:
                continue
            width = width or len(cells)
            if len(cells) != width:
                return False
            stray = stray or any(cell.startswith('"') and not _well_quoted(cell) for cell in cells)
    return stray


def _well_quoted(cell: str) -> bool:
    return len(cell) > 1 and cell.endswith('"') and '"' not in cell[1:-1].replace('""', "")


def _next(reader: Iterator[list[str]]) -> list[str] | None:
    """The next row; None at the end."""
    try:
        return next(reader, None)
    except csv.Error as error:
        if "field larger" in str(error):
            raise LineError(
                f"not valid CSV (a field of more than {csv.field_size_limit():,} characters); close its quotes if they have no "
                f"end, cut the text, or save the file as JSON lines."
            ) from error
        if "unexpected end" in str(error):
            raise LineError(
                "not valid CSV (the quotes that begin here do not close before the end of the file); close them, or double a "
                "quote within a text."
            ) from error
        raise LineError(
            f"not valid CSV ({error}); mend the quotes, or give the --delimiter if it is another."
        ) from error
