"""All labelled texts of a file, a folder or a data set, or which of its lines cannot be used."""

from __future__ import annotations

import zlib
from pathlib import Path

from captum_tracinwe.app.files import columnar, delimited, folders, hub, json_forms, sheets
from captum_tracinwe.app.files.encodings import refuse_undecodable
from captum_tracinwe.app.files.fitting import fitted
from captum_tracinwe.app.files.forms import TABLES, Form, form_of
from captum_tracinwe.app.files.problems import InputError, Problems
from captum_tracinwe.app.files.reading import DEFAULT, Reading
from captum_tracinwe.app.files.rows import Records, Row, row_of, with_whole_numbers

__all__ = ["read_texts"]


def read_texts(path: str | Path, reading: Reading = DEFAULT) -> list[Row]:
    """Read every labelled text of a file.

    Args:
        path (str or Path): a table (.csv, .tsv), JSON (.jsonl, .json), each also with .gz, .parquet, .arrow, .feather, .xlsx
            (with ``:SHEET``), a folder with a folder of .txt files for each class, or a data set with its split: a folder or a
            name of the hub, then ``:SPLIT``.
        reading (Reading): the columns, and what the file does not say itself.

    Returns:
        list: the rows in the order of the file.

    Raises:
        InputError: the file, lines of it, a column or a value is not as described.
    """
    form = form_of(path, reading)
    problems, rows, read = Problems(path), list[Row](), 0
    try:
        reading = fitted(form, reading)
        for record in _records(form, reading):
            read += 1
            with problems.at(record.place):
                rows.append(row_of(record, reading))
    except UnicodeError as error:
        refuse_undecodable(form.place, reading.encoding, error)
    except (OSError, EOFError, zlib.error) as error:  # BadGzipFile is an OSError, a cut .gz ends in EOFError
        raise InputError(f"{path}: cannot be read ({error}).") from error
    problems.check(read)
    if not rows:
        raise InputError(f"{path}: no rows in it; expected one labelled text per line.")
    return with_whole_numbers(rows)


def _records(form: Form, reading: Reading) -> Records:
    if form.kind == "table":
        return delimited.read(form.place, reading, TABLES.get(form.ending))
    if form.kind == "json":
        return json_forms.read(form.place, reading)
    if form.kind == "parquet":
        return columnar.parquet(form.place, reading)
    if form.kind == "arrow":
        return columnar.arrow(form.place, reading)
    if form.kind == "sheet":
        return sheets.read(form.place, form.part, reading)
    if form.kind == "folder":
        return folders.read(form.place, reading)
    return hub.read(str(form.place), form.part, reading)
