"""A training file with the decisions of a person: relabelled or dropped as decided, all else as it stands there."""

from __future__ import annotations

import contextlib
import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captum_tracinwe.app.data import InputError, Row, classes_of, listed
from captum_tracinwe.app.files import Reading, read_texts
from captum_tracinwe.app.files.reading import DEFAULT
from captum_tracinwe.app.files.standing import Change, Standing, ending_of_cleaned, standing
from captum_tracinwe.app.given_model import Classes, head_of, labelled, numbered_by, of_file
from captum_tracinwe.app.outputs import check_outputs
from captum_tracinwe.tabular import as_meant
from captum_tracinwe.whole_files import write_all
from captum_tracinwe.words.legible import shortened, visible

__all__ = ["COLUMNS", "Decision", "checked", "clean", "number_of", "read_decisions"]

#: Of what the page exports.
COLUMNS = ("index", "label", "decision", "new_label")
JSON = (".jsonl", ".ndjson", ".json")
KINDS = ("keep", "relabel", "drop")


@dataclass(frozen=True)
class Decision:
    """One line of what the page exports: a training index, the label there, and what becomes of it."""

    line: int
    index: int
    label: str
    kind: str
    new_label: str


def clean(
    train: Path,
    decisions: Path,
    out: Path,
    *,
    reading: Reading = DEFAULT,
    model: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Write ``train`` with decisions to ``out``: the same format and columns; lines that nothing was decided about as they are.

    Args:
        reading (Reading): how ``train`` is read.
        model (path, optional): the model whose names of classes the decisions have.

    Raises:
        InputError: ``train`` is of a form that cannot be written back exactly,
            a file cannot be used, the decisions are those of other texts, or nothing would be left.
    """
    check_outputs({"--clean": out}, [train, decisions, *([] if model is None else [model])])
    file = standing(train, reading)
    _check_ending(train, out, reading)
    rows = read_texts(train, reading)
    classes = _classes(model, rows, train)
    numbers = labelled(rows, classes, train).labels
    decided = checked(read_decisions(decisions), decisions, train, rows, numbers, classes)
    of_class = _Labels(file, rows, numbers, classes)
    counts = Counter(one.kind for one in decided.values())
    counts["keep"] += len(rows) - len(decided)
    if counts["drop"] == len(rows):
        raise InputError(f"{decisions}: all {len(rows)} texts are to be dropped; expected some to be left.")
    changes: dict[int, Change] = {}
    for index, one in decided.items():
        if one.kind != "keep":
            new = number_of(one.new_label, classes) if one.kind == "relabel" else None
            changes[rows[index].line] = None if new is None else of_class.written(new)
    content = file.written(changes, out)
    try:
        write_all({out: content})
    except OSError as error:
        raise InputError(f"--clean {out}: cannot be written ({error.strerror or error}).") from error
    say(
        f"Cleaned training file: {visible(str(out))}: {counts['relabel']:,} texts relabelled, {counts['drop']:,} dropped, "
        f"{counts['keep']:,} as they were ({len(rows) - len(decided):,} of them not decided)."
    )
    if counts["relabel"]:
        say(
            f"The column {file.reading.label_column!r} was changed. A further one with the labels still has the old ones."
        )


def _classes(model: Path | None, rows: Sequence[Row], train: Path) -> Classes:
    """Those of the page: of a model that was asked its own; of one that was fine-tuned for other labels those of the file."""
    if model is not None:
        with contextlib.suppress(InputError):
            classes = numbered_by(head_of(model), rows, train)
            labelled(rows, classes, train)
            return classes
        head_of(model)  # what is no model is refused
    return of_file(classes_of(rows, train))


def read_decisions(path: Path, option: str = "--decisions") -> list[Decision]:
    """Read what the page exported; ``option`` names the file.

    Raises:
        InputError: the file or a line of it is not as the page writes it.
    """
    if not path.is_file():
        raise InputError(f"{option} {path}: {'not a file' if path.exists() else 'no such file'}.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        header = list(reader.fieldnames or ())
        if [name for name in header if name in COLUMNS] != list(COLUMNS):
            raise InputError(
                f"{option} {path}: the first line is {shortened(','.join(header))}; expected {','.join(COLUMNS)}, as the page "
                f"exports it."
            )
        found = [_decision(record, f"{option} {path}, line {reader.line_num}", reader.line_num) for record in reader]
    except UnicodeDecodeError as error:
        raise InputError(f"{option} {path}: not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    except (OSError, csv.Error) as error:
        raise InputError(f"{option} {path}: cannot be read ({error}).") from error
    if not found:
        raise InputError(f"{option} {path}: no decisions in it; decide on the page first, then export.")
    return found


def _decision(record: Mapping[str, str | None], where: str, line: int) -> Decision:
    index, label, kind, new = (record[name] for name in COLUMNS)
    if None in record or index is None or label is None or kind is None:
        raise InputError(f"{where}: expected {len(COLUMNS)} fields: {','.join(COLUMNS)}.")
    label, new = as_meant(label), None if new is None else as_meant(new)
    if not (index.isascii() and index.isdigit()) or len(index) > 18:
        raise InputError(f"{where}: the index is {shortened(index)}; expected a whole number of at least 0.")
    if kind not in KINDS:
        raise InputError(f"{where}: the decision is {shortened(kind)}; expected {', '.join(KINDS)}.")
    if kind == "relabel" and not new:
        raise InputError(f"{where}: relabel without a new_label; expected the label to write.")
    return Decision(line, int(index), label, kind, new or "")


def checked(
    decisions: Sequence[Decision],
    path: Path,
    train: Path,
    rows: Sequence[Row],
    numbers: Sequence[int],
    classes: Classes,
    option: str = "--decisions",
) -> dict[int, Decision]:
    """Decisions by training index; refused if they are about other texts."""
    found: dict[int, Decision] = {}
    for one in decisions:
        where = f"{option} {path}, line {one.line}"
        if one.index >= len(rows):
            raise InputError(
                f"{where}: the index is {one.index}, and {train} has {len(rows)} texts, 0 to {len(rows) - 1}; expected the "
                f"decisions of a page that was made from this file."
            )
        row = rows[one.index]
        here = classes.names[numbers[one.index]]
        if one.label not in (here, row.label, row.name):
            raise InputError(
                f"{where}: text {one.index} has the label {shortened(one.label)} there, and {shortened(here)} in {train}, "
                f"{row.place}. Expected the decisions of a page that was made from this file (and with its --model, if it had "
                f"one)."
            )
        if one.kind == "relabel":
            try:
                number_of(one.new_label, classes)
            except KeyError:
                raise InputError(
                    f"{where}: the new label {shortened(one.new_label)} is none of {listed(classes.names)}; expected one that "
                    f"is known."
                ) from None
        before = found.setdefault(one.index, one)
        if (before.kind, before.new_label) != (one.kind, one.new_label):
            raise InputError(
                f"{where}: text {one.index} is decided otherwise in line {before.line}; expected one decision for each text."
            )
    return found


def number_of(label: str, classes: Classes) -> int:
    """The class of a label, by the name shown on the page or as the file writes it."""
    return classes.names.index(label) if label in classes.names else classes.numbers[label]


def _check_ending(train: Path, out: Path, reading: Reading) -> None:
    """See that the cleaned file will be read as the training file is."""
    here, there = (_ending(path) for path in (train, out))
    if here != there:
        raise InputError(
            f"{out}: expected the format of {train.name}, a file name ending in {ending_of_cleaned(train, reading)}."
        )


def _ending(path: Path) -> str:
    ending = (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()
    return ".jsonl" if ending in JSON else ending


class _Labels:
    """How a label is written in a file: as at the first text that has it."""

    def __init__(self, file: Standing, rows: Sequence[Row], numbers: Sequence[int], classes: Classes) -> None:
        self.names = classes.names
        self.of_class: dict[int, tuple[Any, Any]] = {}
        for row, number in zip(rows, numbers, strict=True):
            if number not in self.of_class:
                self.of_class[number] = file.label_at(row.line)
        written = {str(label) for label, _ in self.of_class.values()}
        self.by_number = all(label.removeprefix("-").isdigit() for label in written)

    def written(self, number: int) -> tuple[Any, Any]:
        """The label of a class and its name; of a class that no text of the file has, by number where all are, else by name."""
        name = self.names[number]
        return self.of_class.get(number, (number if self.by_number else name, name))
