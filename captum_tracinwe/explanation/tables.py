"""The tables of an explanation: their columns, and how they are written as JSON and as a folder of CSV."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from captum_tracinwe.tabular import csv_text, json_document
from captum_tracinwe.whole_files import write_all
from captum_tracinwe.words.report import WORD_COLUMNS
from captum_tracinwe.words.tables import PAIR_COLUMNS, RANKED_SHARES

__all__ = ["COLUMNS", "VERSION", "as_json", "write_folder"]

#: Of the form of all JSON that the package writes. It rises when a name goes or means something else, not when one comes.
VERSION = 1
#: The columns of each table.
COLUMNS: dict[str, tuple[str, ...]] = {
    "performance": ("tests", "right", "accuracy", "majority", "majority_right", "p_value", "learned"),
    "classes": ("name", "train", "test", "right", "named"),
    "answers": ("index", "place", "text", "label", "prediction", "probability", "wrong"),
    "pairs": (*PAIR_COLUMNS[:2], "test_place", "train_place", *PAIR_COLUMNS[2:], "alike"),
    "shares": RANKED_SHARES,
    "words": ("of", *WORD_COLUMNS),
    "near": ("group", "index", "place", "label", "at_odds"),
}

Tables = Mapping[str, Sequence[Mapping[str, Any]]]


def as_json(tables: Tables, **more: Any) -> str:
    """The tables as one JSON object, with ``schema_version`` and what else is given before them."""
    return json_document({"schema_version": VERSION, **more, **tables})


def write_folder(tables: Tables, folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``<table>.csv`` for each table into a folder, which is made where there is none: all of them or none.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    place = Path(folder)
    if place.exists() and not place.is_dir():
        raise NotADirectoryError(
            f"to_csv: {str(place)!r} is a file; expected a folder, new or old, for a file of each table."
        )
    place.mkdir(parents=True, exist_ok=True)
    contents = {place / f"{name}.csv": csv_text(COLUMNS[name], rows).encode("utf-8") for name, rows in tables.items()}
    write_all(contents)
    return list(contents)
