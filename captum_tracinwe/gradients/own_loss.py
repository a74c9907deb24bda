"""How a model's own loss of a batch is made of those of its examples: their mean or their sum; anything else is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from captum_tracinwe.batches.batch import Batch, labels_of

__all__ = ["OwnLoss", "mean_or_sum"]

#: The largest difference that rounding explains in float32, as a part of the largest loss.
CLOSE = 1e-4


class OwnLoss(NamedTuple):
    """A model's own loss of a batch.

    Args:
        value (float): the loss.
        step (float): between 1 and the next number of the coarsest type that it was computed in.
    """

    value: float
    step: float = 0.0


def mean_or_sum(whole: OwnLoss, parts: Sequence[tuple[OwnLoss, Batch]], what: str) -> str:
    """ "mean" or "sum", what the loss of a batch is of those of its examples alone.

    Raises:
        ValueError: it is neither.
    """
    losses = [one.value for one, _ in parts]
    total, mean = sum(losses), sum(losses) / len(losses)
    # Of four losses of one type each is off by half a step, their mean and that of the batch too.
    close = max(CLOSE, 2 * whole.step) * max(map(abs, [*losses, whole.value]))
    if not math.isfinite(whole.value) or abs(whole.value - mean) <= close:
        return "mean"  # what is not finite is refused by the pass, which knows the example
    if abs(whole.value - total) <= close:
        return "sum"
    left_out = next((labels_of(batch) for one, batch in parts if math.isnan(one.value)), None)
    if isinstance(left_out, Tensor) and left_out.numel() == 1 and not left_out.is_floating_point():
        raise ValueError(
            f"The model's own loss of {len(losses)} {what} examples is {whole.value:.6g}, and that of the example with the label "
            f"{int(left_out)} alone is NaN: it leaves this label out, by ignore_index={int(left_out)}. Expected −100 for an "
            f"example without a label, which is left out here as well, or a loss that is told: pass "
            f"loss_fn=torch.nn.CrossEntropyLoss(ignore_index={int(left_out)}, reduction='none')."
        )
    raise ValueError(
        f"The model's own loss of {len(losses)} {what} examples is {whole.value:.6g}, and their losses alone have the mean "
        f"{mean:.6g} and the sum {total:.6g}. Expected one of these, to tell whose gradient is whose. It has class weights, "
        f"or a term that belongs to the batch (contrastive, balance of experts). Pass loss_fn=..., a function of "
        f"(prediction, labels) with one loss per example, such as torch.nn.CrossEntropyLoss(weight=..., reduction='none')."
    )
