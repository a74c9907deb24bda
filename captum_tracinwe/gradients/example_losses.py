"""From a model's answer to one loss for each example, whatever the reduction; refused where an example has none of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_tracinwe.batches.batch import Batch, Loss, is_mapping, tensors_in
from captum_tracinwe.batches.copies import copied
from captum_tracinwe.gradients.coupled import check_uncoupled, part_of
from captum_tracinwe.gradients.forward import NotTogether
from captum_tracinwe.gradients.look_ups import LookUp
from captum_tracinwe.gradients.several_texts import Answers
from captum_tracinwe.gradients.whose import examples_of

__all__ = ["by_name", "check_first", "example_losses", "prediction_of"]

# Where the model's own loss is a mean over all targets of a batch.
PER_EXAMPLE = (
    ": captum_tracinwe.losses.TokenLoss() for a causal language model. For an encoder-decoder, or for labels of tokens, it is "
    "TokenLoss(shift=False), and span_loss for answers in texts. These are the cross-entropy alone, without what the model adds"
)


def by_name(model: Module, output: Any, loss_fn: Loss | None) -> Any:
    """A tuple that a model of transformers gives, as with ``return_dict=False``: its loss, if it has one, then logits.

    A loss of the user's own is handed the tuple, whose parts it may name by number.
    """
    of_transformers = hasattr(getattr(model, "config", None), "model_type")
    if not of_transformers or type(output) is not tuple or not output or not isinstance(output[0], Tensor):
        return output
    function = getattr(loss_fn, "func", loss_fn)  # within a partial
    home = getattr(function, "__module__", "") or ""
    if loss_fn is not None and not home.startswith(("torch.", "captum_tracinwe.")):
        return output
    has_loss = output[0].dim() == 0 and output[0].is_floating_point()
    parts = ("start_logits", "end_logits") if "QuestionAnswering" in type(model).__name__ else ("logits",)
    return dict(zip(("loss", *parts) if has_loss else parts, output, strict=False))


def prediction_of(output: Any) -> Any:
    """What a loss is called with: the logits of a `ModelOutput`, if it has such; of several texts a tuple of them."""
    if isinstance(output, Answers):
        return Answers(prediction_of(answer) for answer in output)
    return output["logits"] if isinstance(output, Mapping) and "logits" in output else output


def example_losses(
    output: Any, labels: Any, batch: Batch, loss_fn: Loss | None, size: int, own_loss: str = "mean"
) -> Tensor:
    """Losses whose sum has, for each example, the gradient of its loss taken alone."""
    # Of several answers, as of the texts of a triplet, a loss may be made without labels.
    several = isinstance(output, (tuple, list)) and len(output) > 1
    if loss_fn is None or (labels is None and not is_mapping(batch) and not several):  # labels None, as in Captum
        return _output_as_loss(output, labels, size, own_loss)
    if labels is None and not several:
        raise ValueError(
            f"The batch has no labels for the loss: expected a key `labels` (or `label`), got {', '.join(batch)}. Labels of "
            f"another name are named by label_names=[...]."
        )
    prediction = prediction_of(output)
    before = _versions(prediction)
    losses = _call(loss_fn, prediction, labels)
    name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
    reduction = getattr(loss_fn, "reduction", None)
    if losses.dim() == 0 and size > 1 and _versions(prediction) != before:
        raise ValueError(
            f"The loss {name!r} gives one number for the batch, and writes into the prediction (an operation in place, such as "
            f"logits /= 2). Expected one that leaves it as it is, for it is called again for each example. Write "
            f"logits = logits / 2, or give one loss per example."
        )
    if losses.dim() == 0:
        check_uncoupled(loss_fn, prediction, labels, size, name)
    if losses.dim() == 0 and size > 1:
        if reduction == "none":
            raise ValueError(
                f"The loss {name!r} has reduction='none' but gave one number for a batch of {size}: expected one loss per "
                f"example, shape ({size},)."
            )
        # A mean divides by the batch, a token mean by its tokens, a weighted mean by its weights; a sum over (N, 1)
        # minus (N,) has N² terms. Only the loss of an example alone has a meaning of its own. The model ran once;
        # calling the loss per example costs next to nothing.
        parts = [
            _call(loss_fn, part_of(prediction, i, size, name), part_of(labels, i, size, name)) for i in range(size)
        ]
        losses = torch.stack([part.sum() for part in parts])
    elif losses.dim() > 0 and losses.shape[0] != size:
        raise ValueError(
            f"The loss {name!r} gave shape {tuple(losses.shape)} for a batch of {size}: expected one loss per example, "
            f"shape ({size},), or a scalar. A loss per token must be summed over the tokens of each example, for instance "
            f"loss.view({size}, -1).sum(1)."
        )
    return losses


def _call(loss_fn: Loss, prediction: Any, labels: Any) -> Tensor:
    loss = loss_fn(prediction, copied(labels))  # it may write into them, and is called more than once
    if not isinstance(loss, Tensor) or not loss.dtype.is_floating_point:
        got = loss.dtype if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(
            f"The loss must be a floating-point tensor, one number per example or one for the batch; got {got}."
        )
    return loss


def _versions(prediction: Any) -> list[int]:
    """How often each tensor was written into, as torch counts it."""
    return [0 if one.is_inference() else one._version for one in tensors_in(prediction)]


def _output_as_loss(output: Any, labels: Any, size: int, own_loss: str) -> Tensor:
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
                if own_loss == "sum":
                    return loss
                # A mean over examples of equal weight, of which torch's cross-entropy leaves out those of −100.
                return loss * (size if labels.is_floating_point() else (labels != -100).sum())
            raise ValueError(
                f"loss_fn is None and the model's own loss is a mean over those targets of the batch that are not −100 (labels "
                f"{tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__}). An example's part of it "
                f"depends on its batch. Pass batch_size=1 (and `inputs` as a list of examples), by which the model's own loss "
                f"stays as it is. Or pass a loss_fn that gives one loss per example, shape ({size},)"
                f"{_per_example(output.get('logits'), labels)}."
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


def _per_example(logits: Any, labels: Any) -> str:
    """The losses of this package that may stand for a model's own; none where it has one number for each word."""
    of_words = isinstance(logits, Tensor) and isinstance(labels, Tensor) and logits.shape == labels.shape
    return "" if of_words else PER_EXAMPLE


def check_first(
    losses: Tensor,
    output: Any,
    labels: Any,
    loss_fn: Loss | None,
    calls: list[LookUp],
    batch: Batch,
    size: int,
    name: str,
) -> None:
    """Raise ValueError unless the first example's loss is that of the example alone and knows no other example's words.

    Shapes cannot tell texts laid along the wrong dimension where there are as many texts as tokens, nor labels that
    broadcast against predictions.
    """
    own_loss = isinstance(output, Mapping) and loss_fn is None  # one number: its parts cannot be told apart
    if own_loss or losses.dim() == 0 or not losses.requires_grad:
        return
    if loss_fn is not None and labels is not None:
        prediction = prediction_of(output)
        try:
            first = copied(part_of(prediction, 0, size, name)), part_of(labels, 0, size, name)
        except ValueError:
            first = None  # what cannot be cut cannot be looked at alone
        if first is not None:
            before = _versions(first[0])
            alone, within = _call(loss_fn, *first).sum().detach(), losses[0].sum().detach()
            untouched = _versions(first[0]) == before  # else the first call has changed what the second one got
            if untouched and not torch.allclose(alone, within, rtol=1e-3, atol=1e-5, equal_nan=True):
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
        if gradient is None or call.bags is not None or call.ids.dim() == 0:
            continue  # bags say whose words they hold
        whose = examples_of(call, size, name, batch)
        most = torch.zeros(size, dtype=gradient.dtype, device=gradient.device).scatter_reduce_(
            0, whose.to(gradient.device), gradient.reshape(call.ids.numel(), -1).abs().amax(1), "amax"
        )
        touched = (most > 1e-5 * most.max()).nonzero().flatten().tolist()
        if touched == [0] or not touched:
            continue
        if len(touched) == 1:
            raise NotTogether(
                f"The {name!r} is called with the texts of a batch in another order than that of its losses (the first loss "
                f"depends on the words of text {touched[0]} alone). Expected one order, to tell whose gradient is whose. "
                f"batch_size=1 takes each text alone."
            )
        raise ValueError(
            f"The loss of the first example depends on the words of others in its batch. Expected the examples along the "
            f"first dimension of the ids that {name!r} is called with (got {tuple(call.ids.shape)}), and a model in which "
            f"they do not meet. batch_size=1 takes each text alone, which is another model than one in which they meet."
        )
