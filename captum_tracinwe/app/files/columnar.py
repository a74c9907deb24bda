"""Tables of typed columns: Parquet, and Arrow or Feather files, through pyarrow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from captum_tracinwe.app.files.libraries import library, others_errors
from captum_tracinwe.app.files.problems import InputError, LineError, attempted, listed
from captum_tracinwe.app.files.reading import Reading
from captum_tracinwe.app.files.rows import Record, Records

__all__ = ["arrow", "chosen", "class_names", "parquet", "records_of"]


def parquet(path: Path, reading: Reading) -> Records:
    """The texts of a Parquet file."""
    module = library("pyarrow.parquet", path)
    with others_errors(path, "pyarrow", "Parquet"), module.ParquetFile(path) as file:
        names = chosen(path, file.schema_arrow.names, reading)
        table = file.read(columns=names)
        columns = {name: table.column(name).to_pylist() for name in names}
        of_classes = class_names(file.schema_arrow.metadata, reading.label_column)
    yield from records_of(columns, reading, of_classes)


def arrow(path: Path, reading: Reading) -> Records:
    """The texts of an Arrow file or stream, or a Feather file."""
    module, feather = library("pyarrow", path), library("pyarrow.feather", path)
    with others_errors(path, "pyarrow", "Arrow or Feather"), open(path, "rb") as file:
        begin = file.read(8)
        file.seek(0)
        if begin.startswith((b"ARROW1", b"FEA1")):
            table = feather.read_table(path, memory_map=False)
        else:  # as the datasets library keeps them
            table = module.ipc.open_stream(file).read_all()
        names = chosen(path, table.schema.names, reading)
        columns = {name: table.column(name).to_pylist() for name in names}
        of_classes = class_names(table.schema.metadata, reading.label_column)
    yield from records_of(columns, reading, of_classes)


def chosen(path: object, names: Sequence[str], reading: Reading) -> list[str]:
    """The columns that are read.

    Raises:
        InputError: one is not there, or twice.
    """
    for column in (*reading.columns, reading.name_column):
        if names.count(column) > 1:
            raise InputError(
                f"{path}: {names.count(column)} columns are called {column!r}; expected one. Rename or remove the others."
            )
    lacking = next((column for column in reading.columns if column not in names), None)
    if lacking is not None:
        raise InputError(
            f"{path}: no column {lacking!r}; there are: {listed(names, quoted=False) or 'none'}. Name the right one with "
            f"{reading.option_of(lacking)}."
        )
    return [*dict.fromkeys(reading.columns), *([reading.name_column] if reading.name_column in names else [])]


def class_names(metadata: Mapping[bytes, bytes] | None, column: str) -> Sequence[str] | None:
    """The names of a column's classes, where the datasets library wrote them beside the numbers."""
    try:
        feature = json.loads((metadata or {})[b"huggingface"])["info"]["features"][column]
        names = feature["names"] if feature["_type"] == "ClassLabel" else None
    except (KeyError, TypeError, ValueError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def records_of(columns: Mapping[str, Sequence[Any]], reading: Reading, of_classes: Sequence[str] | None) -> Records:
    """The rows of columns; numbers of classes with their names."""
    label, name = reading.label_column, reading.name_column
    for number, values in enumerate(zip(*columns.values(), strict=True), 1):
        fields: dict[str, Any] = dict(zip(columns, values, strict=True))
        found: Mapping[str, Any] | LineError = fields
        if of_classes is not None and name not in fields and isinstance(fields[label], int):
            found = attempted(partial(_named, fields, reading, of_classes))
        yield Record(number, f"row {number}", found)


def _named(fields: Mapping[str, Any], reading: Reading, of_classes: Sequence[str]) -> Mapping[str, Any]:
    label = fields[reading.label_column]
    if not 0 <= label < len(of_classes):  # so the datasets library marks texts whose labels are kept secret
        raise LineError(
            f"{reading.label_column!r} is {label}, and the classes are 0 to {len(of_classes) - 1}: no label; remove the row or "
            f"give it one."
        )
    return {**fields, reading.name_column: of_classes[label]}
