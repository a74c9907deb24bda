"""What form texts have, by the name that they are given by: a kind of file, a folder, or a data set with its split."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from captum_tracinwe.app.files.folders import is_of_classes
from captum_tracinwe.app.files.hub import SAVED
from captum_tracinwe.app.files.problems import InputError
from captum_tracinwe.app.files.reading import Reading

__all__ = ["TABLES", "Form", "form_of", "on_disk"]

#: Delimiters by what the name of a table ends in; None: to be found.
TABLES = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".psv": "|"}
ENDINGS = dict.fromkeys(TABLES, "table") | dict.fromkeys((".jsonl", ".ndjson", ".json"), "json")
ENDINGS |= {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".xlsx": "sheet",
    ".xlsm": "sheet",
}
PACKED = ("table", "json")  # what may be gzipped
# What a folder of data files has in it, or in its folder "data".
DATA_FILES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".arrow")
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")


@dataclass(frozen=True)
class Form:
    """What form texts have.

    Args:
        kind (str): ``table``, ``json``, ``parquet``, ``arrow``, ``sheet``, ``folder`` or ``dataset``.
        place (path): the file or the folder, or the name of a data set.
        part (str, optional): the split of a data set, or the sheet of a book.
        ending (str): what the name of a file ends in, without .gz.
    """

    kind: str
    place: Path
    part: str | None = None
    ending: str = ""


def form_of(path: str | Path, reading: Reading) -> Form:
    """Find what form texts have.

    Raises:
        InputError: there is nothing of this name, or of no form that is read.
    """
    given = str(path)
    if os.path.isfile(given):
        return _of_file(Path(path), reading)
    if os.path.isdir(given):
        return _of_folder(Path(path))
    if os.path.exists(given):
        raise InputError(f"{path}: not a file (a pipe or a device); save the texts in a file.")
    name, colon, part = given.rpartition(":")
    if colon and os.path.isdir(name):
        return Form("dataset", Path(name), part)
    if colon and os.path.isfile(name):
        form = _of_file(Path(name), reading)
        if form.kind != "sheet":
            raise InputError(f"{path}: {name} is a file, which has no splits; leave {colon + part!r} out.")
        return Form("sheet", Path(name), part, form.ending)
    if colon and part and HUB_NAME.fullmatch(name) and _ending(Path(name)) not in ENDINGS:
        return Form("dataset", Path(name), part)
    if _ending(Path(path)) in ENDINGS:
        raise InputError(f"{path}: no such file.")
    raise InputError(
        f"{path}: no such file or folder. A data set of the Hugging Face hub is named with its split: ag_news:train."
    )


def on_disk(path: str | Path) -> Path:
    """The file or folder that a name with or without a split or a sheet is of."""
    name, colon, _ = str(path).rpartition(":")
    return Path(name) if colon and not os.path.exists(path) and os.path.exists(name) else Path(path)


def _ending(path: Path) -> str:
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def _of_file(path: Path, reading: Reading) -> Form:
    ending, packed = _ending(path), path.suffix.lower() == ".gz"
    kind = ENDINGS.get(ending, "table" if reading.delimiter is not None else "")
    if kind and (not packed or kind in PACKED):
        return Form(kind, path, None, ending)
    if ending == ".xls":
        raise InputError(f"{path}: a book of the old Excel; save it as .xlsx or .csv.")
    raise InputError(
        f"{path}: expected a file name ending in .jsonl, .csv or .tsv (each also .gz), .json, .parquet, .arrow, .feather or "
        f".xlsx; for a table of another name, give its --delimiter."
    )


def _of_folder(path: Path) -> Form:
    if any((path / saved).is_file() for saved in SAVED):
        return Form("dataset", path)
    try:
        inner = [path, path / "data"] if (path / "data").is_dir() else [path]
        files = [entry for folder in inner for entry in folder.iterdir() if _ending(entry) in DATA_FILES]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if files:
        return Form("dataset", path)
    if is_of_classes(path):
        return Form("folder", path)
    raise InputError(
        f"{path}: a folder, not a file, and without texts; expected a folder for each class with .txt files in it, data files, "
        f"or what the datasets library's save_to_disk wrote."
    )
