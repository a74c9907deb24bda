"""A folder for each class with a file for each text: ``folder/CLASS/*.txt``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from captum_tracinwe.app.files.encodings import encoding_of
from captum_tracinwe.app.files.problems import InputError, LineError, attempted
from captum_tracinwe.app.files.reading import Reading
from captum_tracinwe.app.files.rows import Record, Records
from captum_tracinwe.words.legible import shortened

__all__ = ["is_of_classes", "read"]

ENDINGS = (".txt", ".text", "")
NAMED, SHOWN = 10, 120  # what is left out: so many of them, and so many letters of each


def is_of_classes(folder: Path) -> bool:
    """Whether a folder has folders with texts in them."""
    return any(_texts(inner) for inner in _classes(folder))


def read(folder: Path, reading: Reading) -> Records:
    """The texts, class by class, both in the order of their names; what is not of the form is left out, and that is said."""
    number, left_out = 0, [entry.name for entry in _entries(folder) if not entry.is_dir()]
    for inner in _classes(folder):
        texts = _texts(inner)
        left_out += [f"{inner.name}/{entry.name}" for entry in _entries(inner) if entry not in texts]
        for path in texts:
            number += 1
            yield Record(number, f"{inner.name}/{path.name}", attempted(partial(_fields, path, inner.name, reading)))
    if left_out:
        _warn(folder, left_out)


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, without hidden files.

    Raises:
        InputError: it cannot be looked into.
    """
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror or error}).") from error


def _classes(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if os.path.isdir(entry)]


def _texts(folder: Path) -> list[Path]:
    """Its files of text; links that lead nowhere are among them, so that they are told."""
    return [entry for entry in _entries(folder) if entry.suffix.lower() in ENDINGS and not os.path.isdir(entry)]


def _fields(path: Path, label: str, reading: Reading) -> Mapping[str, Any]:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise LineError("not a file; remove it.")
        text = path.read_bytes().decode(encoding_of(path, reading.encoding))
    except OSError as error:
        raise LineError(f"cannot be read ({error.strerror or error}); remove it, or let it be read.") from error
    except UnicodeError as error:
        name = reading.encoding or "UTF-8"
        raise LineError(
            f"not {name} text; give the encoding, such as --encoding cp1252 or latin-1 for Western Europe."
        ) from error
    if len(reading.text_columns) > 1:
        raise InputError(f"{path.parent.parent}: a folder of texts has no columns; leave --text-columns out.")
    return {reading.text_columns[0]: text.rstrip("\r\n"), reading.label_column: label}


def _warn(folder: Path, names: list[str]) -> None:
    shown = ", ".join(shortened(name, SHOWN) for name in names[:NAMED])
    first = f"the first {NAMED}: " if len(names) > NAMED else ""
    warnings.warn(
        f"{folder}: {len(names):,} files or folders that are no folder of a class or no .txt file in one are left out "
        f"({first}{shown}).",
        stacklevel=2,
    )
