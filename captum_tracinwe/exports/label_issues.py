"""Suspected labels under the names that cleanlab, its Datalab and Spotlight give them."""

from __future__ import annotations

from typing import Any

from captum_tracinwe.labels import Suspects
from captum_tracinwe.tabular import frame

__all__ = ["ISSUE_COLUMNS", "to_cleanlab"]

#: Columns: those of cleanlab's ``CleanLearning`` and of its ``Datalab``, which call the same number by two names.
ISSUE_COLUMNS = ("is_label_issue", "label_quality", "label_score", "given_label", "predicted_label")


def to_cleanlab(suspects: Suspects, *, numbers: bool = False, texts: bool = False) -> Any:
    """A row for each training text, by training index, as cleanlab has label issues.

    ``is_label_issue`` says that the label is more probably wrong than right; ``label_quality``, which Datalab and Spotlight call
    ``label_score``, how probable it is that it is right. ``predicted_label`` is the better label of an issue, else the given one.

    Args:
        suspects (Suspects): of a whole training set.
        numbers (bool): labels as class numbers, which ``CleanLearning().fit(X, labels, label_issues=...)`` compares with its
            labels; else as names, as ``Datalab.get_issues("label")`` has them.
        texts (bool): a column "text", too, for Spotlight (``spotlight.show(table)``).

    Returns:
        DataFrame or list: M rows of :data:`ISSUE_COLUMNS`; a ``pandas.DataFrame``, where pandas is not installed a list of dict.

    Raises:
        ValueError: names of classes are needed and not known, or texts.

    Example:
        >>> from captum_tracinwe.labels import Suspects
        >>> found = Suspects((), (1, 0), (0.9, 0.2), ("cat", "dog"), ("dog", "cat"), names=("cat", "dog"))
        >>> table = to_cleanlab(found)
        >>> list(table["given_label"]), list(table["predicted_label"])
        (['dog', 'cat'], ['dog', 'dog'])
    """
    if not isinstance(suspects, Suspects):
        raise TypeError(
            f"to_cleanlab: expected what suspects(...) returns, got {type(suspects).__name__}: issues are of training labels."
        )
    if texts and len(suspects.texts) != len(suspects.order):
        raise ValueError("to_cleanlab: the texts are not known; expected suspects(..., texts=...), or texts=False.")
    number = {name: at for at, name in enumerate(suspects.names)}
    rows: dict[int, dict[str, Any]] = {}
    known = dict(enumerate(suspects.all_labels))  # those known to be right are not in the order of suspicion
    for index, label in known.items():
        rows[index] = _row(0.0, label, label)
    judged = zip(suspects.order, suspects.suspicions, suspects.labels, suspects.suggested, strict=True)
    for place, (index, suspicion, label, suggested) in enumerate(judged):
        rows[index] = _row(float(suspicion), label, suggested) | ({"text": suspects.texts[place]} if texts else {})
    found = [({"text": ""} if texts else {}) | rows[index] for index in sorted(rows)]
    if numbers:
        for row in found:
            for column in ("given_label", "predicted_label"):
                if row[column] not in number:
                    raise ValueError(
                        f"to_cleanlab: the label {row[column]!r:.40} has no number; expected suspects(..., class_names=...), "
                        f"or numbers=False."
                    )
                row[column] = number[row[column]]
    return frame(found, (*(("text",) if texts else ()), *ISSUE_COLUMNS))


def _row(suspicion: float, label: str, suggested: str) -> dict[str, Any]:
    issue = suspicion > 0.5
    return {
        "is_label_issue": issue,
        "label_quality": 1.0 - suspicion,
        "label_score": 1.0 - suspicion,
        "given_label": label,
        "predicted_label": suggested if issue else label,
    }
