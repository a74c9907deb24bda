"""`label` and `labels` in one example: collators choose differently between them, so both have to say the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["BY_NAME", "LABEL_KEYS", "check_labels", "check_labels_of_each"]

#: Columns of labels, the first of those that are there.
LABEL_KEYS = ("labels", "label")
#: A way out where no collator of somebody else's comes between.
BY_NAME = " Or say which by label_names=['labels']."


def check_labels(holder: Mapping[str, Any], names: Sequence[str] = (), hint: str = "") -> None:
    """Refuse an example or a batch with a ``label`` and other ``labels``.

    Args:
        holder (mapping): columns.
        names (sequence of str): ``label_names``, which may say which.
        hint (str): by what else one can say which.

    Raises:
        ValueError: the two differ.
    """
    if "labels" not in holder or "label" not in holder or not {*LABEL_KEYS}.isdisjoint(names):
        return
    labels, label = (holder[key] for key in LABEL_KEYS)
    if not _same(labels, label):
        raise ValueError(
            f"An example has {_shown(labels)} as 'labels' and {_shown(label)} as 'label', between which collators choose "
            f"differently: expected one of the two columns, or both alike. Leave one out, as by "
            f"dataset.remove_columns('label').{hint}"
        )


def check_labels_of_each(examples: Any) -> None:
    """:func:`check_labels` of what a collator of somebody else's is handed: a list of examples, or a batch."""
    held: Iterable[Any] = (
        [examples] if isinstance(examples, Mapping) else examples if isinstance(examples, list) else ()
    )
    for one in held:
        if isinstance(one, Mapping):
            check_labels(one)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return type(one) is type(other) and bool(one == other)
    try:
        a, b = (torch.as_tensor(value).cpu() for value in (one, other))
    except (TypeError, ValueError, RuntimeError):
        return one is other
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())  # NaN is itself


def _shown(value: Any) -> str:
    return repr(value.tolist() if isinstance(value, Tensor) else value)[:40]
