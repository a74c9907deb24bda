"""What a model or a loss most likely stumbled over, in the user's terms: texts or labels of another kind than it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

__all__ = ["diagnosed", "positions_of"]


@contextmanager
def diagnosed(model: Module, batch: Any, labels: Any, prediction: Any = None) -> Iterator[None]:
    """Turn an error of the model, or of the loss of its ``prediction``, into one that names its cause, where one is found.

    Only looked for once there is an error, whose own words have to fit: a model that goes on where positions or classes run
    out is taken at its word.

    Raises:
        ValueError: more tokens than positions; labels outside the classes, of another type or shape than the loss takes; ids
            that are no whole numbers or of a single text; inputs that are a mapping within a tuple.
    """
    try:
        yield
    except (LookupError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        said = str(error)
        cause = None
        if isinstance(error, (IndexError, RuntimeError)):
            cause = _too_long(model, batch) or _no_such_class(model, labels, prediction)
        if prediction is None:
            cause = cause or _mapping_in_tuple(batch, said) or _no_ids(batch, said)
        cause = cause or _odd_labels(model, batch, labels, prediction, said) or _one_text(batch, said)
        if cause is None:
            raise
        raise ValueError(cause) from error


def _ids(batch: Any) -> Any:
    return batch.get("input_ids") if isinstance(batch, Mapping) else batch[0]


def _mapping_in_tuple(batch: Any, said: str) -> str | None:
    taken_for_tensor = "dict" in said or "slice" in said  # {...}.size(), {...}[:, 0]
    if isinstance(batch, Mapping) or not isinstance(batch[0], Mapping) or not taken_for_tensor:
        return None
    return (
        f"The first element of the batch is a mapping ({', '.join(map(str, batch[0]))}), and the model does not take one: "
        f"expected a mapping that holds the labels too, {{**inputs, 'labels': labels}}, or a tuple of tensors "
        f"(inputs..., labels)."
    )


def _no_ids(batch: Any, said: str) -> str | None:
    ids = _ids(batch)
    if not isinstance(ids, Tensor) or "indices" not in said or ids.dtype in (torch.int64, torch.int32):
        return None
    return (
        f"The token ids are of type {ids.dtype}: expected whole numbers, torch.int64. Make them by "
        f"torch.tensor(..., dtype=torch.int64), or ids.long() where they are whole."
    )


def _one_text(batch: Any, said: str) -> str | None:
    """Of an nn.EmbeddingBag all words stand in a row, with the offsets of the texts."""
    ids = _ids(batch)
    if not isinstance(ids, Tensor) or ids.dim() != 1:
        return None
    in_a_row = "offsets" in batch if isinstance(batch, Mapping) else len(batch) > 2
    if in_a_row or not any(word in said for word in ("unpack", "imension", "size", "shape")):
        return None
    return (
        f"The token ids have shape {tuple(ids.shape)}: expected (N, T), N texts of T tokens. Of a single text pass ids[None], "
        f"and all else that belongs to it likewise, its label as a tensor of one number."
    )


# What torch says of targets that a loss over classes does not take, in its several versions; and other losses.
OF_CLASSES = ("Long", "not implemented for", "multi-target", "target batch_size", "for target with class")
OF_NUMBERS = ("must be the same as input size", "must match the size")
OF_TOKENS = "xpected target size"


def _odd_labels(model: Module, batch: Any, labels: Any, prediction: Any, said: str) -> str | None:
    """Labels of a type or shape that the loss does not take."""
    if not isinstance(labels, Tensor):
        if prediction is None or "must be Tensor" not in said:
            return None
        return (
            f"The labels are of type {type(labels).__name__} ({labels!r:.60}): expected a tensor of one number for each example, "
            f"for instance torch.tensor(labels)."
        )
    given, own = tuple(labels.shape), not isinstance(prediction, Tensor)
    if own:  # the loss within a classifier, which transformers chooses by the type of the labels
        ids, classes = _ids(batch), getattr(getattr(model, "config", None), "num_labels", None)
        if "SequenceClassification" not in type(model).__name__ or not isinstance(ids, Tensor) or classes == 1:
            return None
        shape: tuple[int, ...] = (len(ids), int(classes or 2))
    else:
        shape = tuple(prediction.shape)
    if len(shape) == 3 and given == shape[:2] and OF_TOKENS in said:
        return (
            f"The prediction has shape {shape} and the labels {given}: the loss takes classes along the second dimension, and "
            f"expected is one loss per example. Pass loss_fn=captum_tracinwe.losses.TokenLoss() for a causal language model, "
            f"TokenLoss(shift=False) for an encoder-decoder or for labels of tokens."
        )
    of_numbers, of_classes = (any(words in said for words in known) for known in (OF_NUMBERS, OF_CLASSES))
    if of_numbers and not own:
        return (
            f"The labels have shape {given} where the prediction has {shape}: expected labels of the prediction's shape, a "
            f"number for each of its numbers, which is what this loss takes."
        )
    if len(shape) != 2 or not (of_numbers or of_classes):
        return None
    size, classes = shape
    wanted = f"expected one class number for each example, shape ({size},), torch.int64"
    if not given or given[0] != size:
        return f"The labels have shape {given} for a batch of {size}: {wanted}."
    if given == (size, 1) and classes > 1:
        return f"The labels have shape {given}: {wanted}. Take labels.squeeze(1)."
    if given == shape and not labels.is_floating_point():
        return (
            f"The labels are one number for each class, shape {given}, of type {labels.dtype}: {wanted}. Take labels.argmax(1) "
            f"where they are one-hot; of several classes at once, or probabilities, labels.float() and a loss that takes them."
        )
    if given != (size,):
        return f"The labels have shape {given} where the prediction has {shape}: {wanted}."
    if labels.dtype == torch.int64:
        return None
    part = labels[labels != labels.round()] if labels.is_floating_point() else labels[:0]
    way = f"{float(part[0]):.6g} is no class number" if len(part) else "Take labels.long()"
    return f"The labels are of type {labels.dtype}, and the loss takes class numbers: {wanted}. {way}."


def _too_long(model: Module, batch: Any) -> str | None:
    limit, ids = positions_of(getattr(model, "config", None)), _ids(batch)
    if limit is None or not isinstance(ids, Tensor) or ids.dim() < 2 or ids.shape[1] <= limit:
        return None
    return (
        f"A text of {ids.shape[1]} tokens, and the model has {limit} positions: expected texts of at most that length. Cut them "
        f"as in training: tokenizer(..., truncation=True, max_length={limit}), or TokenizeTexts(tokenizer, max_length={limit})."
    )


def positions_of(config: Any) -> int | None:
    """For how many tokens a model of transformers has positions, by its config; None where that is not known."""
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if not isinstance(limit, int) or limit < 1:
        return None
    padding = getattr(config, "pad_token_id", None)
    of_roberta = "roberta" in str(getattr(config, "model_type", "")) and isinstance(padding, int)
    return limit - padding - 1 if of_roberta else limit  # type: ignore[operator]  # it counts from padding + 1


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
