"""The options that say how files of texts are read: the same for all commands."""

from __future__ import annotations

import argparse
from typing import Any

from captum_tracinwe.app.files.reading import DEFAULT, Reading
from captum_tracinwe.app.option_types import delimiter

__all__ = ["FILE_OPTIONS", "FORMS", "add_file_options", "reading_of"]

#: What a command says of a file of texts that it takes.
FORMS = (
    ".csv, .tsv, .jsonl or .json, each also .gz; .parquet, .arrow, .xlsx; a folder of folders of .txt; data_set:split"
)
#: Names of the options, as argparse has them; None: not given.
FILE_OPTIONS = ("text_column", "text_columns", "label_column", "delimiter", "encoding")


def add_file_options(parser: Any, labels: str = "integers or strings") -> None:
    """Add them to a parser or a group of it.

    Args:
        parser: of argparse.
        labels (str): what the column of the labels holds.
    """
    add = parser.add_argument
    texts = parser.add_mutually_exclusive_group()
    texts.add_argument(
        "--text-column", metavar="NAME", help="the column with the text, or its number from 1 (default: text)"
    )
    texts.add_argument(
        "--text-columns",
        metavar="NAME",
        nargs="+",
        help="several, such as premise hypothesis: two are read as a pair, more are joined",
    )
    add("--label-column", metavar="NAME", help=f"the column with the label: {labels} (default: label)")
    add(
        "--delimiter",
        metavar="CHARACTER",
        type=delimiter,
        help=r"between fields of a table, \t is a tab (default: found; a file that lacks it is read with its own)",
    )
    add(
        "--encoding",
        metavar="NAME",
        help="of files that are not UTF-8 and have no mark, such as latin-1 (those in UTF-8 are told by their bytes)",
    )


def reading_of(options: argparse.Namespace) -> Reading:
    """How files are read, as these options say it."""
    columns = tuple(options.text_columns or ()) or (options.text_column or DEFAULT.text_columns[0],)
    return Reading(columns, options.label_column or DEFAULT.label_column, options.delimiter, options.encoding)
