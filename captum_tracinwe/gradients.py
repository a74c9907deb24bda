"""One batch → one forward, one backward → `RowGradients`; and the model left as it was found."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Module

from captum_tracinwe.batches import Batch, Loss, is_mapping, labels_of, move_to, run_model, size_of, without_targets
from captum_tracinwe.diagnosis import diagnosed
from captum_tracinwe.embedding import EmbeddingTable, LookUp, recorded, unwrap
from captum_tracinwe.interrupts import unbroken
from captum_tracinwe.rows import RowGradients
from captum_tracinwe.turns import alone

__all__ = ["batch_row_gradients", "untouched"]


@unbroken
def untouched(model: Module, copy_weights: bool = True) -> Iterator[None]:
    """Weights, buffers, mode and ``requires_grad`` of ``model`` are after the block what they were before, come what may.

    So are the ``problem_type`` of its config and torch's grad mode. Ctrl-C cannot come between, and threads that ask the same
    model take turns.

    Within it the model is in eval mode, so that dropout cannot make two passes differ nor BatchNorm couple examples,
    and no parameter asks for a gradient, so that none is computed and no activation is kept for it.

    Args:
        model (Module): the user's model.
        copy_weights (bool): False where the block is known to put other storage under the weights rather than write
            into theirs (:func:`captum_tracinwe.checkpoints.assign_checkpoint`): then no second copy of the model is made.
    """
    with alone(model), ExitStack() as stack:
        stack.callback(torch.set_grad_enabled, torch.is_grad_enabled())
        config = getattr(unwrap(model), "config", None)
        stack.callback(_set_problem_type, config, getattr(config, "problem_type", None))
        stack.callback(_set_modes, [(module, module.training) for module in model.modules()])
        stack.callback(_set_tensors, *_tensors_of(model, copy_weights), copy_weights)
        model.eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        yield


# Where a tensor of a model stands, and whether it asks for a gradient.
_Slot = tuple[dict[str, Any], str, Tensor, bool]


def _tensors_of(model: Module, copy_weights: bool) -> tuple[list[_Slot], dict[int, Tensor]]:
    slots: list[_Slot] = []
    saved: dict[int, Tensor] = {}
    for module in model.modules():
        stores: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for store in stores:
            for name, tensor in store.items():
                if tensor is not None:
                    slots.append((store, name, tensor, tensor.requires_grad))
                    if id(tensor) not in saved:
                        saved[id(tensor)] = tensor.detach().clone() if copy_weights else tensor.data
    return slots, saved


@torch.no_grad()
def _set_tensors(slots: list[_Slot], saved: dict[int, Tensor], copied: bool) -> None:
    for store, name, tensor, wanted in slots:
        store[name] = tensor
        before = saved[id(tensor)]
        same_storage = tensor.shape == before.shape and tensor.dtype == before.dtype and tensor.device == before.device
        if copied and same_storage:
            tensor.copy_(before)
        else:
            tensor.data = before
        tensor.requires_grad_(wanted)


def _set_modes(modes: list[tuple[Module, bool]]) -> None:
    for module, training in modes:
        module.training = training


def _set_problem_type(config: Any, problem: Any) -> None:
    """Guessed by transformers' own loss from the type of the first labels it meets, and kept for all that follow."""
    if config is not None and getattr(config, "problem_type", None) != problem:
        config.problem_type = problem


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
        model (Module): as left by :func:`untouched`; wrappers of DataParallel and torch.compile are looked through.
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
        with diagnosed(model, batch, labels, _prediction(output)):
            losses = _losses(output, labels, batch, loss_fn, size)
        if check and size > 1:
            _check_first(losses, output, labels, loss_fn, record.calls, size, table.name)
        gradients = _gradients(losses, record.calls, table.name)
    idle = without_targets(batch, loss_fn, label_names)
    return _fold(record.calls, gradients, size, table.name, exclude, top_k, idle)


# -------------------------------------------------------------------------------------------------------------- loss

# Where the model's own loss is a mean over all targets of a batch.
PER_EXAMPLE = (
    "captum_tracinwe.losses.TokenLoss() for a causal language model, TokenLoss(shift=False) for an encoder-decoder or for "
    "labels of tokens, span_loss for answers in texts"
)


def _prediction(output: Any) -> Any:
    """What a loss is called with: the logits of a `ModelOutput`, if it has such."""
    return output["logits"] if isinstance(output, Mapping) and "logits" in output else output


def _losses(output: Any, labels: Any, batch: Batch, loss_fn: Loss | None, size: int) -> Tensor:
    """Losses whose sum has, for each example, the gradient of its loss taken alone."""
    if loss_fn is None or (labels is None and not is_mapping(batch)):  # a tuple with labels None, as in Captum
        return _output_as_loss(output, labels, size)
    if labels is None:
        raise ValueError(
            f"The batch has no labels for the loss: expected a key `labels` (or `label`), got {', '.join(batch)}. Labels of "
            f"another name are named by label_names=[...]."
        )
    prediction = _prediction(output)
    losses = _call(loss_fn, prediction, labels)
    name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
    reduction = getattr(loss_fn, "reduction", None)
    if losses.dim() == 0 and size > 1:
        if reduction == "none":
            raise ValueError(
                f"The loss {name!r} has reduction='none' but gave one number for a batch of {size}: expected one loss per "
                f"example, shape ({size},)."
            )
        # A mean divides by the batch, a token mean by its tokens, a weighted mean by its weights; a sum over (N, 1)
        # minus (N,) has N² terms. Only the loss of an example alone has a meaning of its own. The model ran once;
        # calling the loss per example costs next to nothing.
        parts = [_call(loss_fn, _slice(prediction, i, size, name), _slice(labels, i, size, name)) for i in range(size)]
        losses = torch.stack([part.sum() for part in parts])
    elif losses.dim() > 0 and losses.shape[0] != size:
        raise ValueError(
            f"The loss {name!r} gave shape {tuple(losses.shape)} for a batch of {size}: expected one loss per example, "
            f"shape ({size},), or a scalar. A loss per token must be summed over the tokens of each example, for instance "
            f"loss.view({size}, -1).sum(1)."
        )
    return losses


def _call(loss_fn: Loss, prediction: Any, labels: Any) -> Tensor:
    loss = loss_fn(prediction, labels)
    if not isinstance(loss, Tensor) or not loss.dtype.is_floating_point:
        got = loss.dtype if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(
            f"The loss must be a floating-point tensor, one number per example or one for the batch; got {got}."
        )
    return loss


def _slice(value: Any, index: int, size: int, name: str) -> Any:
    """Example ``index`` of a batched value, still with a batch dimension (of 1)."""
    if value is None:
        return None
    if isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == size:
        return value[index : index + 1]
    if isinstance(value, Mapping):
        part = copy.copy(value)
        for key, item in value.items():
            part[key] = _slice(item, index, size, name)  # type: ignore[index]
        return part
    if isinstance(value, (tuple, list)):
        return type(value)(_slice(item, index, size, name) for item in value)
    got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    raise ValueError(
        f"The loss {name!r} gives one number for the batch, and what it takes cannot be cut into {size} examples (got {got}): "
        f"give a loss with one number per example (reduction='none')."
    )


def _output_as_loss(output: Any, labels: Any, size: int) -> Tensor:
    """Without a loss_fn: a `ModelOutput`'s own loss; else, as in Captum, the output itself."""
    if isinstance(output, Mapping):
        loss: Tensor | None = output.get("loss")
        if loss is None:
            raise ValueError(
                f"loss_fn is None and the model's output has no `loss` (it has {', '.join(output)}): expected labels in the "
                f"batch under `labels`, or a loss_fn such as torch.nn.CrossEntropyLoss(reduction='none')."
            )
        if loss.dim() == 0 and size > 1:
            if isinstance(labels, Tensor) and (labels.dim() <= 1 or labels.is_floating_point()):
                # A mean over examples of equal weight, of which torch's cross-entropy leaves out those of −100.
                return loss * (size if labels.is_floating_point() else (labels != -100).sum())
            raise ValueError(
                f"loss_fn is None and the model's own loss is a mean over those targets of the batch that are not −100 (labels "
                f"{tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__}): an example's part of it "
                f"depends on its batch. Pass a loss_fn that gives one loss per example, shape ({size},): {PER_EXAMPLE}."
            )
        output = loss
    if not isinstance(output, Tensor):
        raise TypeError(
            f"loss_fn is None and the model gives a {type(output).__name__}: expected a tensor, or a loss_fn."
        )
    if output.dim() == 0 and size > 1:
        raise ValueError(
            f"loss_fn is None and the model gives one number for a batch of {size}: expected one per example, shape "
            f"({size}, ...), or a loss_fn."
        )
    if output.dim() > 0 and output.shape[0] != size:
        raise ValueError(
            f"loss_fn is None and the model's output has shape {tuple(output.shape)} for a batch of {size}: expected the "
            f"batch first, shape ({size}, ...)."
        )
    return output


def _check_first(
    losses: Tensor, output: Any, labels: Any, loss_fn: Loss | None, calls: list[LookUp], size: int, name: str
) -> None:
    """Raise ValueError unless the first example's loss is that of the example alone and knows no other example's words.

    Shapes cannot tell texts laid along the wrong dimension where there are as many texts as tokens, nor labels that
    broadcast against predictions.
    """
    own_loss = isinstance(output, Mapping) and loss_fn is None  # one number: its parts cannot be told apart
    if own_loss or losses.dim() == 0 or not losses.requires_grad:
        return
    if loss_fn is not None and labels is not None:
        prediction = _prediction(output)
        try:
            first = _slice(prediction, 0, size, name), _slice(labels, 0, size, name)
        except ValueError:
            first = None  # what cannot be cut cannot be looked at alone
        if first is not None:
            alone, within = _call(loss_fn, *first).sum().detach(), losses[0].sum().detach()
            if not torch.allclose(alone, within, rtol=1e-3, atol=1e-5, equal_nan=True):
                shapes = [tuple(value.shape) if isinstance(value, Tensor) else "?" for value in (prediction, labels)]
                raise ValueError(
                    f"The loss of the first example is {float(within):.6g} in its batch and {float(alone):.6g} alone: expected "
                    f"one loss per example that does not depend on the batch. The prediction has shape {shapes[0]} and the "
                    f"labels {shapes[1]}: do they broadcast against each other?"
                )
    outputs = [call.output for call in calls]
    for call, gradient in zip(
        calls, torch.autograd.grad(losses[0].sum(), outputs, retain_graph=True, allow_unused=True), strict=True
    ):
        if gradient is None or call.bags is not None or call.ids.dim() == 0 or call.ids.shape[0] != size:
            continue  # bags say whose words they hold; the rest is refused where rows are folded
        if float(gradient[1:].abs().max()) > 1e-5 * float(gradient.abs().max()):
            raise ValueError(
                f"The loss of the first example depends on the words of others in its batch: expected the examples along the "
                f"first dimension of the ids that {name!r} is called with (got {tuple(call.ids.shape)}), and a model in which "
                f"they do not meet."
            )


# --------------------------------------------------------------------------------------------------------- gradients


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
