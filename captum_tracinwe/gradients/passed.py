"""One forward pass of a batch: what was looked up, and losses whose gradients are still to be taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Module

from captum_tracinwe.batches.batch import (
    Batch,
    Loss,
    as_parts,
    labels_of,
    move_to,
    tensors_in,
)
from captum_tracinwe.gradients.bounds import Bounds
from captum_tracinwe.gradients.diagnosis import diagnosed
from captum_tracinwe.gradients.embedding import EmbeddingTable
from captum_tracinwe.gradients.example_losses import by_name, check_first, example_losses, prediction_of
from captum_tracinwe.gradients.forward import run_model
from captum_tracinwe.gradients.head import find_head, heard
from captum_tracinwe.gradients.interrupts import unbroken
from captum_tracinwe.gradients.look_ups import LookUp, recorded
from captum_tracinwe.gradients.switches import as_the_caller
from captum_tracinwe.gradients.tables import Tables
from captum_tracinwe.gradients.text_words import TextWords
from captum_tracinwe.gradients.token_losses import with_virtual_tokens

__all__ = ["Passed", "Read", "differentiable", "passed_by", "unused"]

PLAIN = Tables()


class Read(NamedTuple):
    """What was read of a batch.

    Args:
        calls (list): the look-ups that count.
        batch: tensors that tell whose they are.
        size (int): its examples.
    """

    calls: list[LookUp]
    batch: Any
    size: int


class Passed(NamedTuple):
    """A forward pass whose gradients are still to be taken."""

    read: Read
    batch: Batch
    labels: Any
    output: Any
    losses: Tensor
    called: list[Any]


@unbroken
def differentiable(model: Module) -> Iterator[None]:
    """Autograd on, whatever the caller has switched off; cuDNN off for recurrent layers, whose backward needs train mode."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(as_the_caller())
        if torch.cuda.is_available() and any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


def passed_by(
    model: Module,
    table: EmbeddingTable,
    batch: Batch,
    loss_fn: Loss | None,
    size: int,
    check: bool,
    within: Module | None,
    label_names: Sequence[str],
    tables: Tables = PLAIN,
    own_loss: str = "mean",
    bounds: list[Bounds] | None = None,
) -> Passed:
    """The forward pass of a batch; arguments and errors as of :func:`captum_tracinwe.gradients.batch_rows.begun`."""
    batch = move_to(as_parts(batch), table.weight.device)
    lent = move_to(batch, table.weight.device)  # the model may write into it; whose words are whose, both tell
    labels, known = with_virtual_tokens(model, labels_of(lent, label_names), loss_fn), (batch, lent)
    head = find_head(model) if "output" in tables else None
    words = TextWords(model, lent, label_names, len(table.weight))
    with (
        recorded(table, within, words=words, bounds=bounds) as record,
        heard(head) as called,
        diagnosed(model, batch, labels),
    ):
        output = by_name(model, run_model(model, lent, label_names, own_loss=loss_fn is None), loss_fn)
    if not record.calls:
        raise unused(table.name, within)
    calls = [call.of_batch(tensors_in(known), size) for call in record.calls]
    with diagnosed(model, batch, labels, prediction_of(output)):
        losses = example_losses(output, labels, batch, loss_fn, size, own_loss)
    if check and size > 1:
        check_first(losses, output, labels, loss_fn, calls, known, size, table.name)
    return Passed(Read(calls, known, size), batch, labels, output, losses, called)


def unused(name: str, within: Module | None) -> ValueError:
    """The error to raise of a pass without a look-up that counts."""
    of_part = "" if within is None else f" of the {type(within).__name__} that `side` names"
    return ValueError(
        f"The embedding {name!r} is not used in the forward pass{of_part}: expected the model to look words up in "
        f"it. Name the layer that is used in `layers=[...]`, and pass token ids rather than `inputs_embeds`."
    )
