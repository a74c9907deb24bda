"""Labels that a person has checked: what the page exported, or texts of the training file with their right labels."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from captum_tracinwe.app.cleaning import COLUMNS, checked, number_of, read_decisions
from captum_tracinwe.app.data import InputError, Row
from captum_tracinwe.app.files import Reading, in_one, read_texts
from captum_tracinwe.app.files.reading import DEFAULT
from captum_tracinwe.app.files.rows import Text
from captum_tracinwe.app.given_model import Classes, labelled
from captum_tracinwe.words.legible import shortened

__all__ = ["trusted_labels"]


def trusted_labels(
    path: Path,
    train: Path,
    rows: Sequence[Row],
    numbers: Sequence[int],
    classes: Classes,
    reading: Reading = DEFAULT,
) -> dict[int, int]:
    """Class number by training index, of the labels that are known.

    Of decisions of the page those to keep and to relabel count; of one to drop no label is known. A text that stands in the
    training file several times has its label at all places.

    Args:
        path (path): decisions, or texts in one of the forms of the training file.
        train (path), rows (list of Row), numbers (list of int): the training file, its texts, their class numbers.

    Raises:
        InputError: the file cannot be used, has a text that the training file lacks, or a text with two labels; it has no label,
            or all, or but one class would be left.
    """
    if _holds_decisions(path):
        decided = checked(read_decisions(path, "--trusted"), path, train, rows, numbers, classes, "--trusted")
        found = {
            index: numbers[index] if one.kind == "keep" else number_of(one.new_label, classes)
            for index, one in decided.items()
            if one.kind != "drop"
        }
    else:
        found = _by_text(path, train, rows, classes, reading)
    if not found:
        raise InputError(f"--trusted {path}: no label in it that is known; expected decisions to keep or to relabel.")
    if len(found) == len(rows):
        raise InputError(
            f"--trusted {path}: all {len(rows)} texts of {train} are in it; expected some that are not, to be judged by these."
        )
    left = {found.get(index, number) for index, number in enumerate(numbers)}
    if len(left) < 2:
        raise InputError(
            f"--trusted {path}: with these labels all {len(rows)} texts of {train} are {shortened(classes.names[left.pop()])}; a "
            f"classifier needs at least two."
        )
    return found


def _holds_decisions(path: Path) -> bool:
    """Whether the first line is that of what the page exports."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return set(COLUMNS) <= set(next(csv.reader(file), []))
    except (OSError, UnicodeDecodeError, csv.Error):
        return False  # reading it says what is wrong


def _by_text(path: Path, train: Path, rows: Sequence[Row], classes: Classes, reading: Reading) -> dict[int, int]:
    known = read_texts(path, reading)
    places: dict[Text, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        places[row.text].append(index)
    found: dict[int, int] = {}
    lines: dict[Text, str] = {}
    for row, number in zip(known, labelled(known, classes, path).labels, strict=True):
        if row.text not in places:
            raise InputError(
                f"--trusted {path}, {row.place}: {shortened(in_one(row.text))} is no text of {train}; expected texts of that "
                f"file with labels that were checked. Put others into the training file, too."
            )
        before = lines.setdefault(row.text, row.place)
        for index in places[row.text]:
            if found.setdefault(index, number) != number:
                raise InputError(
                    f"--trusted {path}, {row.place}: {shortened(in_one(row.text))} has another label in {before}; expected one "
                    f"for each text."
                )
    return found
