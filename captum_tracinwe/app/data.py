"""Labelled texts for a classifier: the rows of a file, its classes, labels by number, samples."""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from captum_tracinwe.app.files import InputError, Problems, Reading, Row, listed, read_texts
from captum_tracinwe.app.files.problems import LineError
from captum_tracinwe.app.files.rows import Text
from captum_tracinwe.words.legible import as_line, shortened

__all__ = [
    "InputError",
    "LabelledTexts",
    "Row",
    "classes_of",
    "listed",
    "numbered",
    "one_line",
    "read_rows",
    "sample",
    "with_classes",
]


@dataclass(frozen=True)
class LabelledTexts:
    """Texts with labels that are indices into ``names``; ``lines[i]`` is where text i stands in its file, counted from 1, and
    ``places[i]`` says it in words.
    """

    texts: tuple[Text, ...]
    labels: tuple[int, ...]
    names: tuple[str, ...]
    lines: tuple[int, ...]
    places: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.places:
            object.__setattr__(self, "places", tuple(f"line {line}" for line in self.lines))

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def pairs(self) -> bool:
        """Whether each text is a pair."""
        return any(not isinstance(text, str) for text in self.texts)

    def take(self, indices: Sequence[int]) -> LabelledTexts:
        """The texts of these indices, in this order."""
        return LabelledTexts(
            tuple(self.texts[i] for i in indices),
            tuple(self.labels[i] for i in indices),
            self.names,
            tuple(self.lines[i] for i in indices),
            tuple(self.places[i] for i in indices),
        )


def read_rows(path: str | Path, text_column: str = "text", label_column: str = "label") -> list[Row]:
    """Read every labelled text of a file that says all else itself; see :func:`~captum_tracinwe.app.files.read_texts`.

    Args:
        path (str or Path): the file.
        text_column, label_column (str): its columns.

    Raises:
        InputError: the file, lines of it, a column or a value is not as described.
    """
    return read_texts(path, Reading((text_column,), label_column))


def classes_of(rows: Sequence[Row], path: str | Path, mixed_is_said: bool = True) -> dict[str, str]:
    """The classes of a training file: label as written → name for display, integers in order before strings.

    Args:
        rows (list of Row): of the file.
        path (path): the file, for what is said of it.
        mixed_is_said (bool): warn where some labels are numbers and some names; not where a model knows both.

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
    if mixed_is_said:
        _warn_of_mixed(list(names), path)
    if len(set(names.values())) < len(names):  # two labels of one name could not be told apart in the report
        names = {label: label for label in names}
    return {label: names[label] for label in sorted(names, key=_label_order)}


def with_classes(rows: Sequence[Row], classes: dict[str, str], path: str | Path) -> LabelledTexts:
    """Number the labels by ``classes``, which come from the training file.

    Raises:
        InputError: labels are not among them.
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
        InputError: labels are not among them.
    """
    problems = Problems(path)
    for row in rows:
        if row.label not in numbers:
            with problems.at(row.place):
                raise LineError(f"the label {shortened(row.label)} is not {known}.")
    problems.check(len(rows))
    return LabelledTexts(
        tuple(row.text for row in rows),
        tuple(numbers[row.label] for row in rows),
        names,
        tuple(row.line for row in rows),
        tuple(row.place for row in rows),
    )


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


def _warn_of_mixed(labels: Sequence[str], path: str | Path) -> None:
    """Say it where some labels are numbers and some are names: often each class is there twice."""
    numbers = [label for label in labels if re.fullmatch(r"-?\d+(\.\d+)?", label)]
    names = [label for label in labels if label not in numbers]
    if numbers and names:
        warnings.warn(
            f"{path}: some labels are numbers ({listed(sorted(numbers, key=_label_order))}) and some are names "
            f"({listed(sorted(names))}): they count as {len(labels)} different classes. If the numbers stand for names, "
            f"write one of both in all lines.",
            stacklevel=2,
        )


def _label_order(label: str) -> tuple[bool, int, str]:
    digits = label.removeprefix("-").isdecimal()
    return not digits, int(label) if digits else 0, label
