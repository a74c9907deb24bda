"""What a model or a loss most likely stumbled over, in the user's terms: texts too long for it, labels it has no class for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn import Module

__all__ = ["diagnosed"]


@contextmanager
def diagnosed(model: Module, batch: Any, labels: Any, prediction: Any = None) -> Iterator[None]:
    """Turn an error of the model, or of the loss of its ``prediction``, into one that names its cause, where one is found.

    Only looked for once there is an error: a model that goes on where positions or classes run out is taken at its word.

    Raises:
        ValueError: more tokens than positions; labels outside the classes.
    """
    try:
        yield
    except (IndexError, RuntimeError) as error:
        cause = _too_long(model, batch) or _no_such_class(model, labels, prediction)
        if cause is None:
            raise
        raise ValueError(cause) from error


def _too_long(model: Module, batch: Any) -> str | None:
    config = getattr(model, "config", None)
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else batch[0]
    if not isinstance(limit, int) or not isinstance(ids, Tensor) or ids.dim() < 2:
        return None
    padding = getattr(config, "pad_token_id", None)
    if "roberta" in str(getattr(config, "model_type", "")) and isinstance(padding, int):
        limit -= padding + 1  # positions are counted from there
    if ids.shape[1] <= limit:
        return None
    return (
        f"A text of {ids.shape[1]} tokens, and the model has {limit} positions: expected texts of at most that length. Cut them "
        f"as in training: tokenizer(..., truncation=True, max_length={limit}), or TokenizeTexts(tokenizer, max_length={limit})."
    )


def _no_such_class(model: Module, labels: Any, prediction: Any) -> str | None:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        return None
    classes = getattr(getattr(model, "config", None), "num_labels", None)
    if isinstance(prediction, Tensor) and prediction.dim() == labels.dim() + 1:
        classes = prediction.shape[1 if labels.dim() == 1 else -1]
    if not isinstance(classes, int):
        return None
    wrong = labels[(labels != -100) & ((labels < 0) | (labels >= classes))]
    if not len(wrong):
        return None
    return (
        f"The label {int(wrong[0])} of an example, and the model has {classes} classes: expected labels from 0 to {classes - 1}, "
        f"or −100 for none. Number the labels as in training; a head of another size is set by num_labels=..."
    )
