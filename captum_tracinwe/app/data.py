"""Reading labelled texts from the user's own files: JSON lines, CSV or TSV, optionally gzipped."""

from __future__ import annotations

import csv
import gzip
import json
import random
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captum_tracinwe.words.legible import as_line, shortened

__all__ = [
    "InputError",
    "LabelledTexts",
    "classes_of",
    "listed",
    "numbered",
    "one_line",
    "read_rows",
    "sample",
    "with_classes",
]

JSON_LINES = (".jsonl", ".ndjson", ".json")
# What torch, numpy and pandas write in place of a label.
NO_LABELS = ("-100", "nan", "NaN", "<NA>")
TABLES = {".csv": ",", ".tsv": "\t"}


class InputError(ValueError):
    """What the user gave cannot be used; the message is the one line that they read, whatever their file has for a name."""

    def __init__(self, message: str) -> None:
        super().__init__(as_line(message))


@dataclass(frozen=True)
class Row:
    """One line of a file: the label as it is written there, and the name that the file gives it, if it does."""

    line: int
    text: str
    label: str
    name: str | None = None


@dataclass(frozen=True)
class LabelledTexts:
    """Texts with labels that are indices into ``names``; ``lines[i]`` is where text i stands in its file."""

    texts: tuple[str, ...]
    labels: tuple[int, ...]
    names: tuple[str, ...]
    lines: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int]) -> LabelledTexts:
        """The texts of these indices, in this order."""
        return LabelledTexts(
            tuple(self.texts[i] for i in indices),
            tuple(self.labels[i] for i in indices),
            self.names,
            tuple(self.lines[i] for i in indices),
        )


def read_rows(path: str | Path, text_column: str = "text", label_column: str = "label") -> list[Row]:
    """Read every labelled text of a file.

    Args:
        path (str or Path): ``.jsonl`` (also ``.ndjson``, ``.json``), ``.csv`` or ``.tsv``, each also with ``.gz``.
        text_column (str): the field with the text.
        label_column (str): the field with the label, an integer or a string. If there is a field called like it
            with ``_name`` appended, that is the label's name for display.

    Returns:
        list: the rows in the order of the file.

    Raises:
        InputError: the file, a line of it, a column or a value is not as described.
    """
    path = Path(path)
    suffix = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
    if suffix not in JSON_LINES and suffix not in TABLES:
        raise InputError(f"{path}: expected a file name ending in .jsonl, .csv or .tsv (optionally .gz).")
    if not path.exists():
        raise InputError(f"{path}: no such file.")
    if not path.is_file():
        raise InputError(f"{path}: not a file.")
    read = (text_column, label_column, f"{label_column}_name")
    try:
        records = _json_lines(path) if suffix in JSON_LINES else _table(path, TABLES[suffix], read)
        rows = [_row(path, line, record, text_column, label_column) for line, record in records]
    except (OSError, EOFError, zlib.error) as error:  # BadGzipFile is an OSError, a cut .gz ends in EOFError
        raise InputError(f"{path}: cannot be read ({error}).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    if not rows:
        raise InputError(f"{path}: no rows in it; expected one labelled text per line.")
    return rows


def classes_of(rows: Sequence[Row], path: str | Path) -> dict[str, str]:
    """The classes of a training file: label as written → name for display, integers in order before strings.

    Raises:
        InputError: there is only one.
    """
    names: dict[str, str] = {}
    for row in rows:
        names.setdefault(row.label, row.name or row.label)
    if len(names) < 2:
        raise InputError(
            f"{path}: all {len(rows)} texts have the label {shortened(rows[0].label)}; a classifier needs at least two."
        )
    if len(set(names.values())) < len(names):  # two labels of one name could not be told apart in the report
        names = {label: label for label in names}
    return {label: names[label] for label in sorted(names, key=_label_order)}


def with_classes(rows: Sequence[Row], classes: dict[str, str], path: str | Path) -> LabelledTexts:
    """Number the labels by ``classes``, which come from the training file.

    Raises:
        InputError: a label is not among them.
    """
    numbers = {label: i for i, label in enumerate(classes)}
    return numbered(rows, numbers, tuple(classes.values()), path, f"in the training file ({listed(classes)})")


def numbered(
    rows: Sequence[Row], numbers: Mapping[str, int], names: tuple[str, ...], path: str | Path, known: str
) -> LabelledTexts:
    """Number the labels of texts.

    Args:
        rows (list of Row): the texts.
        numbers (mapping): number by label as written.
        names (tuple of str): by number, for display.
        path (path): the file of the rows.
        known (str): where ``numbers`` come from, and which they are: another label is "not {known}".

    Raises:
        InputError: a label is not among them.
    """
    for row in rows:
        if row.label not in numbers:
            raise InputError(f"{path}, line {row.line}: the label {shortened(row.label)} is not {known}.")
    return LabelledTexts(
        tuple(row.text for row in rows),
        tuple(numbers[row.label] for row in rows),
        names,
        tuple(row.line for row in rows),
    )


def listed(labels: Iterable[str], most: int = 8, quoted: bool = True) -> str:
    """The first labels, each shortened."""
    shown = [shortened(label, quoted=quoted) for label in labels]
    return ", ".join(shown[:most]) + (", …" if len(shown) > most else "")


def sample(texts: LabelledTexts, size: int, seed: int = 0) -> LabelledTexts:
    """A random sample that keeps the shares of the classes, in the order of the file.

    Args:
        texts (LabelledTexts): what to draw from; returned as it is if ``size`` is not smaller.
        size (int): how many; each class that has texts keeps at least one.
        seed (int): of the choice.

    Raises:
        InputError: ``size`` is smaller than the number of classes that have texts.
    """
    if size >= len(texts):
        return texts
    present = len(set(texts.labels))  # a model may have classes that the file lacks
    if size < present:
        raise InputError(f"--limit {size}: expected at least one training text for each of {present} classes.")
    rng = random.Random(seed)
    members: list[list[int]] = [[] for _ in texts.names]
    for i, label in enumerate(texts.labels):
        members[label].append(i)
    quotas = [max(1, size * len(indices) // len(texts)) if indices else 0 for indices in members]
    # What rounding left over goes where the share is cut most; what the minimum of one took, comes from the largest.
    while sum(quotas) != size:
        step = 1 if sum(quotas) < size else -1
        gaps = [len(indices) * size / len(texts) - quota for indices, quota in zip(members, quotas, strict=True)]
        best = max((c for c in range(len(quotas)) if step == 1 or quotas[c] > 1), key=lambda c: step * gaps[c])
        quotas[best] += step
    chosen = [i for indices, quota in zip(members, quotas, strict=True) for i in rng.sample(indices, quota)]
    return texts.take(sorted(chosen))


def one_line(error: Exception) -> str:
    """What an error says, on one line: of the system's the file and the reason, without the number."""
    if isinstance(error, OSError) and error.strerror:
        return as_line(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    return as_line(str(error)) or type(error).__name__


def _open(path: Path) -> Any:
    opener = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", newline="")


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                reason = getattr(error, "msg", "nested too deeply")
                raise InputError(
                    f"{path}, line {number}: not valid JSON ({reason}); expected one object per line."
                ) from error
            if not isinstance(record, dict):
                raise InputError(f"{path}, line {number}: a JSON {_json_type(record)}; expected one object per line.")
            yield number, record


def _table(path: Path, delimiter: str, read: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    with _open(path) as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            header = list(reader.fieldnames or ())
        except csv.Error as error:
            raise InputError(f"{path}, line 1: not valid CSV ({error}).") from error
        twice = next((name for name in read if header.count(name) > 1), None)
        if twice is not None:
            raise InputError(
                f"{path}: {header.count(twice)} columns are called {twice!r}; expected one. Rename or remove the others."
            )
        while True:
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise InputError(f"{path}, line {reader.line_num}: not valid CSV ({error}).") from error
            if None in record:
                raise InputError(
                    f"{path}, line {reader.line_num}: more fields than the header has columns; "
                    "put texts that contain the delimiter in quotes."
                )
            yield reader.line_num, record


def _row(path: Path, line: int, record: dict[str, Any], text_column: str, label_column: str) -> Row:
    where = f"{path}, line {line}"
    for column, option in ((text_column, "--text-column"), (label_column, "--label-column")):
        if record.get(column) is None:
            if column in record:
                raise InputError(f"{where}: {column!r} has no value here; remove the line or give it one.")
            there = listed((name for name, value in record.items() if value is not None), quoted=False) or "none"
            raise InputError(f"{where}: no column {column!r}; there are: {there}. Name the right one with {option}.")
    text, label, name = record[text_column], record[label_column], record.get(f"{label_column}_name")
    if not isinstance(text, str):
        raise InputError(f"{where}: {text_column!r} is a {_json_type(text)}; expected a string.")
    if not text.strip():
        raise InputError(f"{where}: {text_column!r} is empty; remove the line or give it a text.")
    for column, value in ((text_column, text), (label_column, label), (f"{label_column}_name", name)):
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise InputError(
                f"{where}: {column!r} holds half a character (a lone surrogate); write it whole or remove it."
            )
    if isinstance(label, float) and not label.is_integer():  # nor are NaN and infinity
        raise InputError(
            f"{where}: {label_column!r} is {label}; expected an integer or a string: which class the text is of. Of a text "
            f"without a label remove the line; of one with probabilities give the most probable. Of a number there is no class."
        )
    if isinstance(label, (list, dict)):
        raise InputError(
            f"{where}: {label_column!r} is a {_json_type(label)}; expected an integer or a string: one class of each text. Of "
            f"several labels, or probabilities, give one class, in a column that you name with --label-column."
        )
    if isinstance(label, bool) or not isinstance(label, (str, float)):
        label = json.dumps(label)
    elif isinstance(label, float):
        label = str(int(label))
    if not label.strip():
        raise InputError(f"{where}: {label_column!r} is empty; expected an integer or a string.")
    if label.strip() in NO_LABELS:
        raise InputError(
            f"{where}: {label_column!r} is {label.strip()}, by which programs say that there is no label; expected an "
            f"integer or a string. Remove the line; if it is a class, give it another name."
        )
    return Row(line, text, label.strip(), name.strip() or None if isinstance(name, str) else None)


def _json_type(value: object) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _label_order(label: str) -> tuple[bool, int, str]:
    digits = label.removeprefix("-").isdecimal()
    return not digits, int(label) if digits else 0, label
