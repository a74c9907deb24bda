"""How the texts of a file are read, as far as the file does not say it itself."""

from __future__ import annotations

from dataclasses import dataclass

from captum_tracinwe.app.files.problems import InputError

__all__ = ["DEFAULT", "Reading"]


@dataclass(frozen=True)
class Reading:
    """How the texts of a file are read.

    Args:
        text_columns (tuple of str): the columns with the text. Two are a pair, as a tokenizer takes them; of three and more the
            texts are joined by line breaks. A number counts columns from 1, where no column is called like it.
        label_column (str): the column with the label. If there is one called like it with ``_name`` appended, that is the label's
            name for display.
        delimiter (str, optional): between the fields of a table; None: found.
        encoding (str, optional): of files of text; None: found by its mark, else UTF-8.

    Raises:
        InputError: a column is named twice.
    """

    text_columns: tuple[str, ...] = ("text",)
    label_column: str = "label"
    delimiter: str | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        twice = next((name for name in self.text_columns if self.text_columns.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"--text-columns: {twice!r} is named twice; expected each column once.")

    @property
    def columns(self) -> tuple[str, ...]:
        """All that must be there: those of the text, then the label's."""
        return (*self.text_columns, self.label_column)

    @property
    def name_column(self) -> str:
        """Where the label's name stands, if it does."""
        return f"{self.label_column}_name"

    @property
    def said(self) -> str:
        """A sentence on how several columns become one text; empty where there is one."""
        if len(self.text_columns) == 1:
            return ""
        if len(self.text_columns) == 2:
            return f" Each text is a pair: {' │ '.join(self.text_columns)}."
        names = f"{', '.join(self.text_columns[:-1])} and {self.text_columns[-1]}"
        return f" Each text is {names}, a line each."

    @property
    def options(self) -> list[str]:
        """The options of the command line that say this, those left at their default not."""
        given: list[str] = []
        if self.text_columns != DEFAULT.text_columns:
            several = "s" * (len(self.text_columns) > 1)
            given += [f"--text-column{several}", *self.text_columns]
        for name in ("label_column", "delimiter", "encoding"):
            value = getattr(self, name)
            if value != getattr(DEFAULT, name):
                given += ["--" + name.replace("_", "-"), value]
        return given

    def option_of(self, column: str) -> str:
        """The option that names this column."""
        if column not in self.text_columns:
            return "--label-column"
        return "--text-columns" if len(self.text_columns) > 1 else "--text-column"


#: Columns ``text`` and ``label``, all else found.
DEFAULT = Reading()
