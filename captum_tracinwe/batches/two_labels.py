"""`label` and `labels` in one example: which of the two counts is refused, or said, where somebody would have to guess."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.batches.batch import LABEL_KEYS

__all__ = ["check_labels", "say_which", "unnamed"]


def check_labels(example: Mapping[str, Any], hint: str = "") -> None:
    """Refuse an example with a ``label`` and other ``labels``, of which this package would have to choose one.

    Args:
        example (mapping): columns.
        hint (str): by what else one can say which.

    Raises:
        ValueError: the two differ.
    """
    if _differ(example):
        labels, label = (example[key] for key in LABEL_KEYS)
        raise ValueError(
            f"An example has {_shown(labels)} as 'labels' and {_shown(label)} as 'label', between which collators choose "
            f"differently: expected one of the two columns, or both alike. Leave one out, as by "
            f"dataset.remove_columns('label').{hint}"
        )


def say_which(examples: Any, batch: Any) -> bool:
    """Warn where somebody else's collator took the ``label`` of examples that have other ``labels``; whether it was said.

    transformers' collators do that. A training through the same collator did so, too. But who puts ``labels`` into a question
    would ask about another label.
    """
    if not isinstance(examples, list) or not examples or not isinstance(examples[0], Mapping):
        return False
    if not isinstance(batch, Mapping) or "label" in batch or "labels" not in batch:
        return False
    for place, example in enumerate(examples):
        if not _differ(example):
            continue
        labels, label = (example[key] for key in LABEL_KEYS)
        taken = batch["labels"]
        if not isinstance(taken, Tensor) or len(taken) != len(examples) or not _same(taken[place], label):
            return False
        warnings.warn(
            f"An example has {_shown(labels)} as 'labels' and {_shown(label)} as 'label', and its collator takes 'label': scores "
            f"are asked by that. To ask by the other, leave out the column 'label'.",
            stacklevel=3,
        )
        return True
    return False


def unnamed(names: Sequence[str]) -> frozenset[str]:
    """Which of the two columns is not among the ``label_names``, where the other is."""
    return frozenset(LABEL_KEYS).difference(names) if not set(LABEL_KEYS).isdisjoint(names) else frozenset()


def _differ(example: Any) -> bool:
    if not isinstance(example, Mapping):  # one of them may be None, which a collator leaves out
        return False
    if "labels" not in example or "label" not in example or example["label"] is None or example["labels"] is None:
        return False
    return not _same(example["labels"], example["label"])


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return type(one) is type(other) and bool(one == other)
    try:
        a, b = (torch.as_tensor(value).cpu().flatten() for value in (one, other))
    except (TypeError, ValueError, RuntimeError):
        return one is other
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())  # NaN is itself


def _shown(value: Any) -> str:
    return repr(value.tolist() if isinstance(value, Tensor) else value)[:40]
