"""One batch → one forward, one backward → `RowGradients`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn import Module

from captum_tracinwe.batches.batch import Batch, Loss, is_mapping, labels_of, move_to, size_of, without_targets
from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.gradients.diagnosis import diagnosed
from captum_tracinwe.gradients.embedding import EmbeddingTable
from captum_tracinwe.gradients.example_losses import check_first, example_losses, prediction_of
from captum_tracinwe.gradients.forward import run_model
from captum_tracinwe.gradients.interrupts import unbroken
from captum_tracinwe.gradients.look_ups import LookUp, recorded
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["batch_row_gradients"]


@unbroken
def _differentiable(model: Module) -> Iterator[None]:
    """Autograd on, whatever the caller has switched off; cuDNN off for recurrent layers, whose backward needs train mode."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.cuda.is_available() and any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


def batch_row_gradients(
    model: Module,
    table: EmbeddingTable,
    batch: Batch,
    loss_fn: Loss | None,
    check: bool = False,
    exclude: Sequence[int] = (),
    top_k: int | None = None,
    within: Module | None = None,
    label_names: Sequence[str] = (),
) -> RowGradients:
    """Row gradients of each example of a batch: g(x)_w = Σ over positions p of x that hold w of ∂ℓ(x)/∂e_p.

    Args:
        model (Module): as left by ``untouched``; wrappers of DataParallel and torch.compile are looked through.
        table (EmbeddingTable): the word embedding.
        batch: a tuple (inputs..., labels) or a mapping.
        loss_fn (callable or None): one loss per example, or a scalar of any reduction; None takes the model's output
            (of a `ModelOutput` its ``loss``). Losses of more dimensions are summed over all but the first, as in Captum.
        check (bool): also see, at the price of one more backward, that the first example's loss is its own: equal to
            that of the example alone, and independent of the others' words.
        exclude (sequence of int): tokens that do not count.
        top_k (int, optional): of what is left, keep the k positions of each example with the largest gradient; of equal
            ones the first (TracIn-WE-Topk: positions, not rows).
        within (Module, optional): count only the look-ups made while this part of the model runs.
        label_names (sequence of str): keys of a mapping that are its labels, if not ``labels`` or ``label``; of several the
            loss gets a dict.

    Returns:
        RowGradients: N examples, values ``(R, D)`` in float32, or float64 for a float64 table.

    Raises:
        ValueError: the loss has the wrong shape or does not depend on the embedding; the message says what to change.
    """
    model = unwrap(model)
    size = size_of(batch)
    with _differentiable(model):
        batch = move_to(dict(batch) if is_mapping(batch) else batch, table.weight.device)
        labels = labels_of(batch, label_names)
        with recorded(table.weight, within) as record, diagnosed(model, batch, labels):
            output = run_model(model, batch, label_names, own_loss=loss_fn is None)
        if not record.calls:
            of_part = "" if within is None else f" of the {type(within).__name__} that `side` names"
            raise ValueError(
                f"The embedding {table.name!r} is not used in the forward pass{of_part}: expected the model to look words up in "
                f"it. Name the layer that is used in `layers=[...]`, and pass token ids rather than `inputs_embeds`."
            )
        with diagnosed(model, batch, labels, prediction_of(output)):
            losses = example_losses(output, labels, batch, loss_fn, size)
        if check and size > 1:
            check_first(losses, output, labels, loss_fn, record.calls, size, table.name)
        gradients = _gradients(losses, record.calls, table.name)
    idle = without_targets(batch, loss_fn, label_names)
    return _fold(record.calls, gradients, size, table.name, exclude, top_k, idle)


def _gradients(losses: Tensor, calls: list[LookUp], name: str) -> list[Tensor]:
    outputs = [call.output for call in calls]
    found: tuple[Tensor | None, ...] = (None,) * len(outputs)
    if losses.requires_grad:
        found = torch.autograd.grad(losses.sum(), outputs, allow_unused=True)
    if all(gradient is None for gradient in found):
        raise ValueError(
            f"The loss does not depend on the embedding {name!r}: expected a differentiable path from the words to the loss. "
            f"Look for .detach(), torch.no_grad(), an argmax, or a loss that ignores the model's output."
        )
    return [torch.zeros_like(o) if g is None else g for g, o in zip(found, outputs, strict=True)]


def _fold(
    calls: list[LookUp],
    gradients: list[Tensor],
    size: int,
    name: str,
    exclude: Sequence[int],
    top_k: int | None,
    idle: Sequence[int],
) -> RowGradients:
    """Positions of all calls → rows, without those of ``padding_idx``, which autograd gives no gradient.

    And of ``idle`` examples, whose loss is over no target: a mean is 0 / 0 there.
    """
    examples, ids, values = [], [], []
    for call, gradient in zip(calls, gradients, strict=True):
        call_ids, call_examples = call.ids.reshape(-1).to(torch.int64), _examples_of(call, size, name)
        call_values = gradient.detach().reshape(call_ids.numel(), gradient.shape[-1])
        # Sums over positions in half precision would lose what the products need.
        call_values = call_values.to(torch.float64 if call_values.dtype == torch.float64 else torch.float32)
        if call.padding_idx is not None:
            kept = call_ids != call.padding_idx
            call_examples, call_ids, call_values = call_examples[kept], call_ids[kept], call_values[kept]
        examples.append(call_examples)
        ids.append(call_ids)
        values.append(call_values)
    rows = torch.cat(examples), torch.cat(ids), torch.cat(values)
    if idle:
        kept = ~torch.isin(rows[0], torch.tensor(idle, device=rows[0].device))
        rows = rows[0][kept], rows[1][kept], rows[2][kept]
    if exclude:
        kept = ~torch.isin(rows[1], torch.tensor(exclude, device=rows[1].device))
        rows = rows[0][kept], rows[1][kept], rows[2][kept]
    if top_k is not None:
        norms = rows[2].norm(dim=1)
        if not bool(torch.isfinite(norms.sum())):  # squares beyond float32 would make all large ones equal
            wide = rows[2].double()
            norms = (wide / wide.abs().max()).norm(dim=1)
        kept = _largest(rows[0], norms, top_k)
        rows = rows[0][kept], rows[1][kept], rows[2][kept]
    return RowGradients.from_positions(*rows, size)


def _examples_of(call: LookUp, size: int, name: str) -> Tensor:
    """The example that each position of a call belongs to."""
    if call.bags is not None:
        if call.count != size:
            raise ValueError(
                f"The nn.EmbeddingBag {name!r} is called with offsets of {call.count} bags for a batch of {size}: expected one "
                f"bag for each example, to tell whose gradient is whose."
            )
        return call.bags
    if call.ids.dim() == 0 or call.ids.shape[0] != size:
        raise ValueError(
            f"The embedding {name!r} is called with ids of shape {tuple(call.ids.shape)} for a batch of {size}: expected "
            f"the examples along the first dimension, ({size}, ...), to tell whose gradient is whose."
        )
    return torch.arange(size, device=call.ids.device).repeat_interleave(call.ids.numel() // size)


def _largest(examples: Tensor, norms: Tensor, k: int) -> Tensor:
    """Which positions are among the k of largest norm of their example; of equal norms the first."""
    order = torch.sort(norms, descending=True, stable=True).indices
    order = order[torch.sort(examples[order], stable=True).indices]
    counts = torch.bincount(examples)
    first = torch.cumsum(counts, 0) - counts
    rank = torch.arange(len(order), device=order.device) - first[examples[order]]
    kept = torch.zeros_like(examples, dtype=torch.bool)
    kept[order[rank < k]] = True
    return kept
