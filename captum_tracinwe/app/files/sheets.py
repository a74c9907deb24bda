"""Spreadsheets of Excel (.xlsx), through openpyxl."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from captum_tracinwe.app.files.libraries import library, others_errors
from captum_tracinwe.app.files.problems import InputError, LineError, attempted, listed
from captum_tracinwe.app.files.reading import Reading
from captum_tracinwe.app.files.rows import Records
from captum_tracinwe.app.files.tables import Line, records

__all__ = ["read"]


def read(path: Path, sheet: str | None, reading: Reading) -> Records:
    """The texts of a sheet: the one that is named, or the only one with something in it."""
    module = library("openpyxl", path)
    with others_errors(path, "openpyxl", "Excel"):
        book = module.load_workbook(path, read_only=True, data_only=True)
        try:
            lines = list(_lines(_chosen(path, book, sheet)))
        finally:
            book.close()
    yield from records(path, lines, reading, "row")


def _chosen(path: Path, book: Any, name: str | None) -> Any:
    if name is not None:
        if name not in book.sheetnames:
            raise InputError(f"{path}: no sheet {name!r}; there are: {listed(book.sheetnames, quoted=False)}.")
        return book[name]
    full = [sheet for sheet in book.worksheets if next(_lines(sheet), None) is not None]
    if len(full) > 1:
        titles = [sheet.title for sheet in full]
        raise InputError(
            f"{path}: {len(full)} sheets ({listed(titles, quoted=False)}); expected one. Name it: {path}:{titles[0]}."
        )
    if not full:
        raise InputError(f"{path}: no rows in it; expected one labelled text per row.")
    return full[0]


def _lines(sheet: Any) -> Iterator[Line]:
    """The rows with something in them; a number in a cell of text is taken as it is written."""
    for number, cells in enumerate(sheet.iter_rows(), 1):
        values = [cell.value for cell in cells]
        while values and values[-1] is None:
            values.pop()
        if values:
            yield number, attempted(partial(_checked, cells, values))


def _checked(cells: Sequence[Any], values: list[Any]) -> list[Any]:
    wrong = next((cell for cell in cells if getattr(cell, "data_type", None) == "e"), None)
    if wrong is not None:
        raise LineError(f"the cell {wrong.coordinate} is the error {wrong.value}; mend it or remove the row.")
    return values
