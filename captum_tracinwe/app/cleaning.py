"""A training file with the decisions of a person: relabelled or dropped as decided, all else as it stands there."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captum_tracinwe.app.data import JSON_LINES, TABLES, InputError, Row, classes_of, listed, read_rows
from captum_tracinwe.app.given_model import Classes, head_of, labelled, numbered_by, of_file
from captum_tracinwe.app.outputs import check_outputs
from captum_tracinwe.tabular import as_meant, csv_line
from captum_tracinwe.whole_files import write_all
from captum_tracinwe.words.legible import shortened, visible

__all__ = ["Decision", "clean", "read_decisions"]

COLUMNS = ("index", "label", "decision", "new_label")
KINDS = ("keep", "relabel", "drop")


@dataclass(frozen=True)
class Decision:
    """One line of what the page exports: a training index, the label there, and what becomes of it."""

    line: int
    index: int
    label: str
    kind: str
    new_label: str


@dataclass(frozen=True)
class _Part:
    """A piece of a training file as it stands there: a text's line or lines, or what is between them (``line`` 0)."""

    raw: str
    line: int
    fields: Any = None  # of a table a list, of JSON lines a dict


def clean(
    train: Path,
    decisions: Path,
    out: Path,
    *,
    text_column: str = "text",
    label_column: str = "label",
    model: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Write ``train`` with decisions to ``out``: the same format and columns; lines that nothing was decided about as they are.

    Args:
        model (path, optional): the model whose names of classes the decisions have.

    Raises:
        InputError: a file cannot be used, the decisions are those of other texts, or nothing would be left.
    """
    check_outputs({"--clean": out}, [train, decisions, *([] if model is None else [model])])
    if _kind(out) != _kind(train):
        raise InputError(
            f"{out}: expected the format of {train.name}, a file name ending in {_kind(train) or train.suffix}."
        )
    rows = read_rows(train, text_column, label_column)
    classes = of_file(classes_of(rows, train)) if model is None else numbered_by(head_of(model), rows, train)
    numbers = labelled(rows, classes, train).labels
    decided = _checked(read_decisions(decisions), decisions, train, rows, numbers, classes)
    with (gzip.open if train.suffix == ".gz" else open)(train, "rt", encoding="utf-8", newline="") as file:
        parts = list(_parts(file, _kind(train)))
    texts = {part.line: part for part in parts if part.line}
    header = next((part.fields for part in parts if part.fields is not None and not part.line), None)
    writing = _Writing(train, header, label_column, [texts[row.line] for row in rows], numbers, classes)
    of_line = {rows[index].line: decision for index, decision in decided.items()}
    kept, counts = list[_Part](), Counter[str]()
    for part in parts:
        decision = of_line.get(part.line)  # no text stands in line 0
        kind = "keep" if decision is None else decision.kind
        if part.line:
            counts[kind] += 1
        if decision is not None and kind == "relabel":
            kept.append(writing.relabelled(part, _number(decision.new_label, classes)))
        elif kind != "drop":
            kept.append(part)
    if counts["drop"] == len(rows):
        raise InputError(f"{decisions}: all {len(rows)} texts are to be dropped; expected some to be left.")
    content = "".join(part.raw for part in kept).encode()
    _check_read_back(content, kept, out)
    try:
        write_all({out: gzip.compress(content, mtime=0) if out.suffix == ".gz" else content})
    except OSError as error:
        raise InputError(f"--clean {out}: cannot be written ({error.strerror or error}).") from error
    say(
        f"Cleaned training file: {visible(str(out))}: {counts['relabel']:,} texts relabelled, {counts['drop']:,} dropped, "
        f"{counts['keep']:,} as they were ({len(rows) - len(decided):,} of them not decided)."
    )


def read_decisions(path: Path) -> list[Decision]:
    """Read what the page exported.

    Raises:
        InputError: the file or a line of it is not as the page writes it.
    """
    if not path.is_file():
        raise InputError(f"--decisions {path}: {'not a file' if path.exists() else 'no such file'}.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        header = list(reader.fieldnames or ())
        if [name for name in header if name in COLUMNS] != list(COLUMNS):
            raise InputError(
                f"--decisions {path}: the first line is {shortened(','.join(header))}; expected {','.join(COLUMNS)}, as the page "
                f"exports it."
            )
        found = [_decision(record, reader.line_num, path) for record in reader]
    except UnicodeDecodeError as error:
        raise InputError(f"--decisions {path}: not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    except (OSError, csv.Error) as error:
        raise InputError(f"--decisions {path}: cannot be read ({error}).") from error
    if not found:
        raise InputError(f"--decisions {path}: no decisions in it; decide on the page first, then export.")
    return found


def _decision(record: Mapping[str, str | None], line: int, path: Path) -> Decision:
    where = f"--decisions {path}, line {line}"
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


def _checked(
    decisions: Sequence[Decision],
    path: Path,
    train: Path,
    rows: Sequence[Row],
    numbers: Sequence[int],
    classes: Classes,
) -> dict[int, Decision]:
    """Decisions by training index; refused if they are about other texts."""
    found: dict[int, Decision] = {}
    for one in decisions:
        where = f"--decisions {path}, line {one.line}"
        if one.index >= len(rows):
            raise InputError(
                f"{where}: the index is {one.index}, and {train} has {len(rows)} texts, 0 to {len(rows) - 1}; expected the "
                f"decisions of a page that was made from this file."
            )
        row = rows[one.index]
        here = classes.names[numbers[one.index]]
        if one.label not in (here, row.label, row.name):
            raise InputError(
                f"{where}: text {one.index} has the label {shortened(one.label)} there, and {shortened(here)} in {train}, line "
                f"{row.line}; expected the decisions of a page that was made from this file (and with its --model, if it had "
                f"one)."
            )
        if one.kind == "relabel":
            try:
                _number(one.new_label, classes)
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


def _number(label: str, classes: Classes) -> int:
    """The class of a label, by the name shown on the page or as the file writes it."""
    return classes.names.index(label) if label in classes.names else classes.numbers[label]


# -------------------------------------------------------------------------------------------- the file as it stands


def _kind(path: Path) -> str:
    """``.csv``, ``.tsv`` or ``.jsonl``, whatever else the name ends in."""
    suffix = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
    return ".jsonl" if suffix in JSON_LINES else suffix if suffix in TABLES else ""


def _parts(lines: Iterable[str], kind: str) -> Iterator[_Part]:
    """All of a file in pieces, which put together are the file."""
    if kind == ".jsonl":
        for number, raw in enumerate(lines, 1):
            content = raw.removeprefix("\ufeff").strip()
            yield _Part(raw, number if content else 0, json.loads(content) if content else None)
        return
    taken: list[str] = []

    def told() -> Iterator[str]:
        for raw in lines:
            first = not taken and reader.line_num == 0
            taken.append(raw)
            yield raw.removeprefix("\ufeff") if first else raw

    reader = csv.reader(told(), delimiter=TABLES[kind], strict=True)
    header = True
    for fields in reader:
        yield _Part("".join(taken), 0 if header or not fields else reader.line_num, fields or None)
        header = header and not fields
        taken.clear()


def _check_read_back(content: bytes, parts: Sequence[_Part], out: Path) -> None:
    """See that what is to be written is read as what was meant, before it replaces anything."""
    meant = [(repr(part.fields), part.line) for part in parts if part.fields is not None]  # NaN is not itself
    file = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", newline="")
    try:
        read = [repr(part.fields) for part in _parts(file, _kind(out)) if part.fields is not None]
    except (csv.Error, ValueError) as error:
        raise InputError(
            f"--clean {out}: what would be written is not read back ({error}); nothing is written."
        ) from error
    other = next((line for (fields, line), again in zip(meant, read, strict=False) if fields != again), None)
    if other is not None or len(meant) != len(read):
        where = "its number of rows" if other is None else f"the text of line {other} of the training file"
        raise InputError(
            f"--clean {out}: what would be written is read back otherwise ({where}); nothing is written. Expected the same "
            f"rows; please report this, and save the training file as .jsonl meanwhile."
        )


class _Writing:
    """How a label is written in a file: as at the first text that has it."""

    def __init__(
        self,
        path: Path,
        header: list[str] | None,
        label_column: str,
        texts: Sequence[_Part],
        numbers: Sequence[int],
        classes: Classes,
    ) -> None:
        self.header, self.columns, self.classes = header, (label_column, f"{label_column}_name"), classes
        self.delimiter = TABLES.get(_kind(path), ",")
        self.of_class: dict[int, tuple[Any, Any]] = {}
        for part, number in zip(texts, numbers, strict=True):
            self.of_class.setdefault(number, (self._field(part, 0), self._field(part, 1)))
        written = {str(values[0]) for values in self.of_class.values()}
        self.by_number = all(label.removeprefix("-").isdigit() for label in written)

    def _field(self, part: _Part, which: int) -> Any:
        if self.header is None:
            return part.fields.get(self.columns[which])
        place = self._place(which)
        return None if place is None or place >= len(part.fields) else part.fields[place]

    def _place(self, which: int) -> int | None:
        assert self.header is not None
        return self.header.index(self.columns[which]) if self.columns[which] in self.header else None

    def relabelled(self, part: _Part, number: int) -> _Part:
        """A text's piece of the file with another label, and its name where the file has a column of names."""
        name = self.classes.names[number]
        # A class that no text of the file has: by number where all are numbers, else by name.
        label, named = self.of_class.get(number, (number if self.by_number else name, name))
        end = part.raw[len(part.raw.rstrip("\r\n")) :]
        if self.header is None:
            record = {**part.fields, self.columns[0]: label}
            if isinstance(part.fields.get(self.columns[0]), str):
                record[self.columns[0]] = str(label)
            if self.columns[1] in record:
                record[self.columns[1]] = named
            mark = "\ufeff" if part.raw.startswith("\ufeff") else ""
            return _Part(f"{mark}{_json(record, part.raw)}{end}", part.line, record)
        fields = list(part.fields)
        for which, value in enumerate((label, named)):
            place = self._place(which)
            if place is not None and place < len(fields):
                fields[place] = "" if value is None else str(value)
        return _Part(csv_line(fields, self.delimiter, end), part.line, fields)


def _json(record: Mapping[str, Any], raw: str) -> str:
    """One line: letters as they are where the line had such, and half a character only by its number."""
    line = json.dumps(record, ensure_ascii=raw.isascii())
    halves = any("\ud800" <= character <= "\udfff" for character in line)
    return json.dumps(record) if halves else line
