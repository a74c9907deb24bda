"""A Parquet file as it stands, to be written again with other labels and fewer rows; see :mod:`~.standing`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from captum_tracinwe.app.files.columnar import chosen
from captum_tracinwe.app.files.libraries import library, others_errors
from captum_tracinwe.app.files.problems import InputError
from captum_tracinwe.app.files.reading import Reading

__all__ = ["StandingParquet"]


class StandingParquet:
    """All columns of a Parquet file, with its schema, compression and size of row groups."""

    def __init__(self, path: Path, reading: Reading) -> None:
        self.path, self.reading = path, reading
        module = library("pyarrow.parquet", path)
        with others_errors(path, "pyarrow", "Parquet"), module.ParquetFile(path) as file:
            chosen(path, file.schema_arrow.names, reading)
            self.table = file.read()
            groups = [file.metadata.row_group(n) for n in range(file.metadata.num_row_groups)]
            self.largest = max((group.num_rows for group in groups), default=1)
            codec = groups[0].column(0).compression.lower() if groups and groups[0].num_columns else "snappy"
            self.codec = "none" if codec == "uncompressed" else codec
        there = (name for name in (reading.label_column, reading.name_column) if name in self.table.schema.names)
        self.values = {name: self.table.column(name).to_pylist() for name in there}

    def label_at(self, line: int) -> tuple[Any, Any]:
        """The label of a row and its name, as the file has them."""
        names = self.values.get(self.reading.name_column)
        return self.values[self.reading.label_column][line - 1], None if names is None else names[line - 1]

    def written(self, changes: Mapping[int, tuple[Any, Any] | None], out: Path) -> bytes:
        """The file with changes, by row from 1; None leaves a row out.

        Raises:
            InputError: a label does not go into its column, or what would be written is read back otherwise.
        """
        arrow, module = library("pyarrow", self.path), library("pyarrow.parquet", self.path)
        table = self.table
        for which, name in enumerate(self.values):
            new = list(self.values[name])
            for line, change in changes.items():
                if change is not None:
                    new[line - 1] = change[which]
            if new == self.values[name]:
                continue
            place, field = table.schema.names.index(name), table.schema.field(name)
            try:
                table = table.set_column(place, field, arrow.array(new, type=field.type))
            except (arrow.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise InputError(
                    f"--clean {out}: a new label does not go into the column {name!r} of {self.path}, which is of the type "
                    f"{field.type} ({error}); nothing is written."
                ) from error
        table = table.take([n for n in range(table.num_rows) if changes.get(n + 1, ()) is not None])
        for nested in (
            True,
            False,
        ):  # how the inner field of a list is called: "element", or "item" as older versions do
            sink = io.BytesIO()
            options = {"compression": self.codec, "row_group_size": self.largest, "use_compliant_nested_type": nested}
            module.write_table(table, sink, **options)
            if _same(module.read_table(io.BytesIO(sink.getvalue())), table):
                return sink.getvalue()
        raise InputError(
            f"--clean {out}: what would be written is read back otherwise; nothing is written. Expected the same rows; "
            f"please report this, and save the training file as .jsonl meanwhile."
        )


def _same(again: Any, table: Any) -> bool:
    """Whether two tables are equal; NaN is not itself, so that columns that differ are looked at once more."""
    return bool(again.schema.equals(table.schema, check_metadata=True)) and all(
        a.equals(b) or repr(a.to_pylist()) == repr(b.to_pylist())
        for a, b in zip(again.columns, table.columns, strict=True)
    )
