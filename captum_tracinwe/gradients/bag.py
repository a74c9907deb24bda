"""Rows of the bag-of-words layer: how often a word is looked up, times the error at the logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.batches.batch import Batch, Loss, is_mapping
from captum_tracinwe.gradients.example_losses import prediction_of
from captum_tracinwe.gradients.look_ups import LookUp

__all__ = ["logits_of", "occurrences"]


def logits_of(output: Any, loss_fn: Loss | None, size: int) -> Tensor:
    """The logits ``(N, K)``, or ``(N,)``, of which a loss is made.

    Raises:
        ValueError: the model answers with something else.
    """
    logits = prediction_of(output)
    if isinstance(logits, Tensor) and logits is output and loss_fn is None:
        raise ValueError(
            "table='bag' needs the error at the logits, and with loss_fn None the model's answer is its loss. Expected a "
            "loss_fn of logits (N, K), or a model whose output has `logits` beside its `loss`."
        )
    if not isinstance(logits, Tensor) or logits.dim() not in (1, 2) or logits.shape[0] != size:
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"type {type(logits).__name__}"
        raise ValueError(
            f"table='bag' needs a classifier, whose prediction is one tensor of logits (N, K); this model's is of {got} for a "
            f"batch of {size}. Take table='input', or of a language model table='both', whose rows are of the words read and of "
            f"those predicted."
        )
    return logits


def occurrences(calls: Sequence[LookUp], batch: Batch, size: int) -> list[Tensor]:
    """Of each look-up, as its gradient would be: ``(N, ..., 1)``, 1 for a word that counts.

    What ``attention_mask`` leaves out does not: how much padding a text has depends on its batch.

    Raises:
        ValueError: texts of one example are looked up as if they were examples, as those of a multiple choice are.
    """
    folded = next(
        (call.ids for call in calls if call.bags is None and not call.across and call.ids.shape[0] != size), None
    )
    if folded is not None:
        raise ValueError(
            f"table='bag' needs one text to an example, whose words may speak for any class. The model looks up ids of shape "
            f"{tuple(folded.shape)} for a batch of {size}, several texts to an example. Take table='input'."
        )
    mask = batch.get("attention_mask") if is_mapping(batch) else None

    def counted(call: LookUp) -> Tensor:
        own = mask.T if call.across and isinstance(mask, Tensor) else mask
        fits = isinstance(own, Tensor) and own.shape == call.ids.shape
        return own != 0 if isinstance(own, Tensor) and fits else torch.ones_like(call.ids)

    return [counted(call).to(call.output.dtype).unsqueeze(-1) for call in calls]
