"""Whether labels that are given for training texts are those that the training set itself has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from captum_tracinwe.gradients.source import RowSource

__all__ = ["check_own_labels"]


def check_own_labels(source: RowSource, labels: Sequence[str], names: Mapping[int, str], whose: str) -> None:
    """Raise ValueError where the labels of a training set that is asked about itself are not its own.

    Labels may be called otherwise than classes are numbered, and several classes may share one; but all examples of a class have
    the same, and one that is the name of a class is that of its own.

    Args:
        source (RowSource): of the training set, which tells class numbers, or does not.
        labels (sequence of str): M labels, as they are shown.
        names (mapping): of the model's classes by number, as far as they have any.
        whose (str): who was asked, for the message.
    """
    known = {**names} if set(labels) <= set(names.values()) else {}
    first: dict[int, int] = {}
    for index, number in sorted((source.labels or {}).items()):
        if index >= len(labels):
            return  # of another size, which is said elsewhere
        like = first.setdefault(number, index)
        if known.get(number, labels[like]) == labels[index]:
            continue
        called = (
            f"whose name is {known[number]!r:.60}"
            if number in known
            else f"as example {like} was, {labels[like]!r:.60}"
        )
        raise ValueError(
            f"{whose}: `train_labels` has {labels[index]!r:.60} for training example {index}, and it was taught class {number}, "
            f"{called}. Expected the labels by which the model was trained, in the order of the training set. (To see which "
            f"words go with labels of another kind, pass word_report the training set as `inputs`.)"
        )
