"""A file as it stands, to be written again with some labels changed and some texts left out, and all else as it is."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from captum_tracinwe.app.files.delimited import Dialect, dialect_of
from captum_tracinwe.app.files.encodings import encoding_of, opened_bytes
from captum_tracinwe.app.files.fitting import fitted
from captum_tracinwe.app.files.forms import TABLES, form_of
from captum_tracinwe.app.files.json_forms import form_of_json, spans_of_items
from captum_tracinwe.app.files.problems import InputError
from captum_tracinwe.app.files.reading import Reading
from captum_tracinwe.app.files.standing_parquet import StandingParquet
from captum_tracinwe.app.files.tables import LOOKED_AT, columns_of
from captum_tracinwe.tabular import csv_line

__all__ = ["Change", "Standing", "ending_of_cleaned", "standing"]

#: What becomes of a text: the label to write and its name, or None: it is left out.
Change = tuple[Any, Any] | None

# The mark at the begin of a file is a letter of its text, so that it stays where it is.
EXACT = {"utf-8-sig": "utf-8"}
EXACT_BY_MARK = {codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be"}
EXACT_BY_MARK |= {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


class Standing(Protocol):
    """A file as it stands, and how it is read."""

    @property
    def reading(self) -> Reading:
        """Which of its columns hold what."""

    def label_at(self, line: int) -> tuple[Any, Any]:
        """The label of a text and its name, as the file has them."""

    def written(self, changes: Mapping[int, Change], out: Path) -> bytes:
        """The file with changes, by line; InputError if it would be read otherwise."""


def standing(path: Path, reading: Reading) -> Standing:
    """A file that can be written again.

    Raises:
        InputError: it is of a form that cannot, or not in letters that can.
    """
    form = form_of(path, reading)
    reading = fitted(form, reading, said=True)
    if form.kind == "parquet":
        return StandingParquet(path, reading)
    kinds = {
        "arrow": "an Arrow or Feather file",
        "sheet": "a spreadsheet",
        "folder": "a folder for each class",
        "dataset": "a data set of the datasets library",
    }
    if form.kind in kinds:
        raise InputError(
            f"{path}: {kinds[form.kind]}, which --clean does not write; expected CSV, JSON lines, a JSON list or Parquet. Save "
            f"the texts so, in their order, and give that as --train."
        )
    if form.kind == "json" and form_of_json(path, reading) == "columns":
        raise InputError(
            f"{path}: a JSON object of columns, which --clean does not write; expected CSV, JSON lines, a JSON list or Parquet. "
            f"Save the texts so, in their order, and give that as --train."
        )
    return _of_text(path, reading, "json" if form.kind == "json" else "table", TABLES.get(form.ending))


def ending_of_cleaned(path: Path, reading: Reading) -> str | None:
    """What the name of the cleaned file ends in; None: a file of this form cannot be cleaned."""
    form = form_of(path, reading)
    reading = fitted(form, reading, said=True)
    if form.kind not in ("table", "json", "parquet"):
        return None
    if form.kind == "json" and form_of_json(path, reading) == "columns":
        return None
    return form.ending + (".gz" if path.suffix.lower() == ".gz" else "")


@dataclass(frozen=True)
class _Part:
    """A piece of a file as it stands there: a text's line or lines, or what is between them (``line`` 0)."""

    raw: str
    line: int
    fields: Any = None  # of a table a list, of JSON a dict
    end: str = ""  # what parts it from the next text


@dataclass(frozen=True)
class _StandingText:
    """A file of text; ``dialect`` and ``places`` (of the label and its name, where they are) are those of a table."""

    path: Path
    reading: Reading
    encoding: str
    parts: Sequence[_Part]
    dialect: Dialect | None
    places: Sequence[int | None]

    @cached_property
    def texts(self) -> dict[int, _Part]:
        return {part.line: part for part in self.parts if part.line}

    def label_at(self, line: int) -> tuple[Any, Any]:
        fields = self.texts[line].fields
        if self.dialect is None:
            return fields.get(self.reading.label_column), fields.get(self.reading.name_column)
        label, name = (None if place is None or place >= len(fields) else fields[place] for place in self.places)
        return label, name

    def written(self, changes: Mapping[int, Change], out: Path) -> bytes:
        kept: list[_Part] = []
        for part in self.parts:
            change = changes.get(part.line, ())  # no text stands in line 0
            if change is not None:
                kept.append(self._relabelled(part, *change) if change else part)
        last = max((n for n, part in enumerate(kept) if part.line), default=None)
        if (
            last is not None and "," in kept[last].end and self.dialect is None
        ):  # of a list, whose last item has no comma
            kept[last] = replace(kept[last], end="")
        whole = "".join(part.raw + part.end for part in kept)
        self._check_read_back(whole, kept, out)
        try:
            content = whole.encode(self.encoding)
        except UnicodeEncodeError as error:
            raise InputError(
                f"--clean {out}: {self.path} is in {self.encoding}, which has no {error.object[error.start]!r}; nothing is "
                f"written. Save the training file as UTF-8 first."
            ) from error
        return gzip.compress(content, mtime=0) if out.suffix.lower() == ".gz" else content

    def _relabelled(self, part: _Part, label: Any, name: Any) -> _Part:
        """A text's piece of the file with another label, and its name where the file has a column of names."""
        if self.dialect is None:
            record = {**part.fields, self.reading.label_column: label}
            if isinstance(part.fields.get(self.reading.label_column), str):
                record[self.reading.label_column] = str(label)
            if self.reading.name_column in record:
                record[self.reading.name_column] = name
            mark = "\ufeff" if part.raw.startswith("\ufeff") else ""
            return replace(part, raw=mark + _json(record, part.raw), fields=record)
        fields = list(part.fields)
        for place, value in zip(self.places, (label, name), strict=True):
            if place is not None and place < len(fields):
                fields[place] = "" if value is None else str(value)
        return replace(part, raw=_table_line(fields, self.dialect), fields=fields)

    def _check_read_back(self, whole: str, parts: Sequence[_Part], out: Path) -> None:
        """See that what is to be written is read as what was meant, before it replaces anything."""
        meant = [(repr(part.fields), part.line) for part in parts if part.fields is not None]  # NaN is not itself
        try:
            again = _parts_of(whole, self.dialect, out)
            read = [repr(part.fields) for part in again if part.fields is not None]
        except (csv.Error, ValueError) as error:
            raise InputError(
                f"--clean {out}: what would be written is not read back ({error}); nothing is written."
            ) from error
        other = next((line for (fields, line), again in zip(meant, read, strict=False) if fields != again), None)
        if other is not None or len(meant) != len(read):
            where = "its number of rows" if other is None else f"the text of line {other} of the training file"
            raise InputError(
                f"--clean {out}: what would be written is read back otherwise ({where}); nothing is written. Expected the same "
                f"rows; please report this, and save the training file as .jsonl meanwhile."
            )


def _of_text(path: Path, reading: Reading, kind: str, own: str | None) -> _StandingText:
    with opened_bytes(path) as file:
        content = file.read()
    name = encoding_of(path, reading.encoding)
    by_mark = next((exact for mark, exact in EXACT_BY_MARK.items() if content.startswith(mark)), None)
    encoding = (by_mark if name in ("utf-16", "utf-32") else None) or EXACT.get(name, name)
    whole = content.decode(encoding)
    if whole.encode(encoding) != content:
        raise InputError(f"{path}: text in {name} is not written back byte for byte; save it as UTF-8 first.")
    dialect = dialect_of(path, reading, own) if kind == "table" else None
    parts = list(_parts_of(whole, dialect, path))
    if dialect is None:
        return _StandingText(path, reading, encoding, parts, None, ())
    lines = [(number, part.fields) for number, part in enumerate(parts, 1) if part.fields is not None]
    with warnings.catch_warnings():  # what it is taken for was said when it was read
        warnings.simplefilter("ignore")
        columns = columns_of(path, lines[:LOOKED_AT], reading, "line")
    assert columns is not None
    if columns.header is None:  # what was taken for one is a text
        first = next(number for number, part in enumerate(parts) if part.fields is not None)
        parts[first] = replace(
            parts[first], line=_lines_in("".join(part.raw + part.end for part in parts[: first + 1]))
        )
    places = [columns.places.get(column) for column in (reading.label_column, reading.name_column)]
    return _StandingText(path, reading, encoding, parts, dialect, places)


def _parts_of(whole: str, dialect: Dialect | None, path: Path) -> Iterator[_Part]:
    """All of a file in pieces, which put together are the file; the first line of a table counts as its header."""
    if dialect is not None:
        return _table_parts(whole, dialect)
    return _list_parts(whole, path) if whole.lstrip("\ufeff \t\r\n").startswith("[") else _json_lines(whole)


def _json_lines(whole: str) -> Iterator[_Part]:
    for number, raw in enumerate(io.StringIO(whole, newline=""), 1):
        content = raw.removeprefix("\ufeff").strip()
        body = raw.rstrip("\r\n")
        yield _Part(body, number if content else 0, json.loads(content) if content else None, raw[len(body) :])


def _list_parts(whole: str, path: Path) -> Iterator[_Part]:
    spans = list(spans_of_items(whole, path))
    yield _Part(whole[: spans[0][0]] if spans else whole, 0)
    for number, (start, end) in enumerate(spans, 1):
        behind = whole[end : spans[number][0]] if number < len(spans) else ""
        yield _Part(whole[start:end], number, json.loads(whole[start:end]), behind)
    if spans:
        yield _Part(whole[spans[-1][1] :], 0)


def _table_parts(whole: str, dialect: Dialect) -> Iterator[_Part]:
    taken: list[str] = []

    def told() -> Iterator[str]:
        for raw in io.StringIO(whole, newline=""):
            first = not taken and reader.line_num == 0
            taken.append(raw)
            yield raw.removeprefix("\ufeff") if first else raw

    reader = dialect.reader(told())
    header = True
    for fields in reader:
        raw = "".join(taken)
        body = raw.rstrip("\r\n")
        yield _Part(body, 0 if header or not fields else reader.line_num, fields or None, raw[len(body) :])
        header = header and not fields
        taken.clear()


def _lines_in(raw: str) -> int:
    return len(io.StringIO(raw, newline="").readlines())


def _table_line(fields: Sequence[str], dialect: Dialect) -> str:
    if dialect.quote == '"':
        return csv_line(fields, dialect.delimiter, "")
    if dialect.quote is None:
        return dialect.delimiter.join(fields)
    quote = dialect.quote
    return dialect.delimiter.join(quote + field.replace(quote, quote + quote) + quote for field in fields)


def _json(record: Mapping[str, Any], raw: str) -> str:
    """An object: letters as they are where it had such, and half a character only by its number."""
    line = json.dumps(record, ensure_ascii=raw.isascii())
    halves = any("\ud800" <= character <= "\udfff" for character in line)
    return json.dumps(record) if halves else line
