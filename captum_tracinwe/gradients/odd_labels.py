"""What a loss stumbled over in the labels: classes that are not there, another type or shape than it takes."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_tracinwe.gradients.odd_texts import ids_of

__all__ = ["no_such_class", "odd_labels"]

# What torch says of targets that a loss over classes does not take, in its several versions; and other losses.
OF_CLASSES = ("Long", "not implemented for", "multi-target", "target batch_size", "for target with class")
OF_NUMBERS = ("must be the same as input size", "must match the size")
OF_TOKENS = "xpected target size"
# And of a class that is not there: cross-entropy, gather and one_hot, and any of them on a GPU.
BEYOND = "out of bounds|out of range|device-side assert|smaller than num_classes|must be non-negative"


def no_such_class(model: Module, labels: Any, prediction: Any, said: str) -> str | None:
    """Labels beyond the classes, where both the labels and torch's words say so."""
    if (
        not isinstance(labels, Tensor)
        or labels.is_floating_point()
        or labels.is_complex()
        or not re.search(BEYOND, said)
    ):
        return None
    classes = _classes(model, labels, prediction)
    if classes is None:
        return None
    wrong = labels[(labels != -100) & ((labels < 0) | (labels >= classes))]
    if not len(wrong):
        return None
    named = re.search(r"Target (-?\d+) is out of bounds", said)  # a loss may ignore another number than −100
    or_none = ", or −100 for none" if labels.dim() > 1 else ""  # of words: `suspects` refuses a text without a label
    return (
        f"The label {named[1] if named else int(wrong[0])} of an example, and the model has {classes} classes: expected labels "
        f"from 0 to {classes - 1}{or_none}. Number the labels as in training; a head of another size is set by num_labels=..."
    )


def _classes(model: Module, labels: Tensor, prediction: Any) -> int | None:
    """How many classes a prediction is over, or the model's own loss; of a language model the words that it can say."""
    if isinstance(prediction, Tensor):
        if prediction.dim() != labels.dim() + 1:
            return None
        return prediction.shape[-1 if prediction.shape[:-1] == labels.shape else 1]
    if re.search("(Sequence|Token)Classification", type(model).__name__):
        found = getattr(getattr(model, "config", None), "num_labels", None)
        return found if isinstance(found, int) else None
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    weight = getattr(head, "weight", None)
    return len(weight) if isinstance(weight, Tensor) else None


def odd_labels(model: Module, batch: Any, labels: Any, prediction: Any, said: str) -> str | None:
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
        ids, classes = ids_of(batch), getattr(getattr(model, "config", None), "num_labels", None)
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
        if not (own and of_numbers):
            return None
        problem = getattr(model.config, "problem_type", None)
        return (
            f"The labels are class numbers, shape {given}, and the model's own loss (problem_type={problem!r}) takes a number "
            f"for each class: expected shape {shape}, torch.float32. Where each text has one class, pass loss_fn=torch.nn."
            f"CrossEntropyLoss(reduction='none'), or set model.config.problem_type = 'single_label_classification'."
        )
    part = labels[labels != labels.round()] if labels.is_floating_point() else labels[:0]
    way = f"{float(part[0]):.6g} is no class number" if len(part) else "Take labels.long()"
    return f"The labels are of type {labels.dtype}, and the loss takes class numbers: {wanted}. {way}."
