"""The output side of a language model: its head, and the rows of the words that a text has to predict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_tracinwe.batches.batch import Loss
from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.gradients.interrupts import unbroken

__all__ = ["HeadCall", "find_head", "head_size", "heard", "only_call", "predicted_positions", "words_to_predict"]


@dataclass(frozen=True, eq=False)
class HeadCall:
    """What the head got, ``(N, T, D)``, and what it gave, ``(N, T, V)``."""

    hidden: Tensor
    logits: Tensor


def find_head(model: Module) -> Module:
    """The output embedding: ``get_output_embeddings()``.

    Raises:
        ValueError: the model has none.
    """
    try:
        found: Any = unwrap(model).get_output_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError, TypeError):
        found = None
    if not isinstance(found, Module):
        raise ValueError(
            f"table='output' needs a language model, whose get_output_embeddings() is the layer that gives each word's logit; a "
            f"{type(unwrap(model)).__name__} has none. Of a classifier take table='input' or ('input', 'bag'); give a language "
            f"model of your own that method."
        )
    return found


def head_size(head: Module) -> tuple[int, int]:
    """How many words a head knows and the width of what it gets: V and D."""
    layer: Any = head
    if hasattr(layer, "out_features"):  # weights of few bits lie packed
        return int(layer.out_features), int(layer.in_features)
    size, width = layer.weight.shape
    return int(size), int(width)


@unbroken
def heard(head: Module | None) -> Iterator[list[HeadCall]]:
    """The calls of a head within the block; of None there are none."""
    calls: list[HeadCall] = []
    if head is None:
        yield calls
        return

    def hook(_: Module, given: tuple[Any, ...], logits: Any) -> None:
        calls.append(HeadCall(given[0], logits))

    handle = head.register_forward_hook(hook)
    try:
        yield calls
    finally:
        handle.remove()


def only_call(calls: list[HeadCall], size: int) -> HeadCall:
    """The one call of the head in a pass.

    Raises:
        ValueError: none, several, or one of another form.
    """
    if len(calls) != 1:
        raise ValueError(
            f"The model calls its get_output_embeddings() {len(calls)} times in a pass: expected once, to tell which word each "
            f"position has to predict."
        )
    call = calls[0]
    if call.hidden.dim() != 3 or call.logits.dim() != 3 or call.logits.shape[0] != size:
        raise ValueError(
            f"The model's get_output_embeddings() gets {tuple(call.hidden.shape)} and gives {tuple(call.logits.shape)} for a "
            f"batch of {size}: expected (N, T, D) and (N, T, V), to tell whose gradient is whose."
        )
    return call


def predicted_positions(
    call: HeadCall, errors: Tensor, labels: Any, loss_fn: Loss | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The examples ``(P,)``, words ``(P,)`` and values ``(P, D)`` of all positions that have to predict a word.

    Args:
        call (HeadCall): of the pass.
        errors (Tensor): ∂ℓ/∂logits, ``(N, T, V)``.
        labels (Tensor): of the batch.
        loss_fn (callable): whose ``target_words(labels)`` says which word each position has to predict.

    Raises:
        ValueError: the loss does not say it, or not for these positions.
    """
    words = words_to_predict(labels, loss_fn)
    if words.shape != call.logits.shape[:2]:
        raise ValueError(
            f"The loss names target words of shape {tuple(words.shape)}, and the model's get_output_embeddings() gives logits "
            f"{tuple(call.logits.shape)}: expected a word, or −100, for each position (N, T)."
        )
    examples, places = (words != -100).nonzero(as_tuple=True)
    chosen = words[examples, places]
    kind = torch.float64 if call.hidden.dtype == torch.float64 else torch.float32
    hidden = call.hidden.detach()[examples, places].to(kind)
    return examples, chosen, errors[examples, places, chosen].to(kind)[:, None] * hidden


def words_to_predict(labels: Any, loss_fn: Loss | None) -> Tensor:
    """Which word each position has to predict, ``(N, T)``, −100 for none.

    Raises:
        ValueError: the loss does not say it.
    """
    target_words = getattr(loss_fn, "target_words", None)
    if not callable(target_words) or not isinstance(labels, Tensor):
        name = "None" if loss_fn is None else getattr(loss_fn, "__name__", type(loss_fn).__name__)
        raise ValueError(
            f"table='output' needs a loss that tells which word each position has to predict, by target_words(labels) of shape "
            f"(N, T), −100 for none; loss_fn is {name}. Expected captum_tracinwe.losses.TokenLoss() for a causal language model, "
            f"TokenLoss(shift=False) for an encoder-decoder or a masked language model, or a loss with such a method."
        )
    words: Tensor = target_words(labels)
    return words
