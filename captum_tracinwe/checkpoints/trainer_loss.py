"""The loss that stands in place of a model's own: chosen by the kind of model, held against it, and told where it differs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Module
from torch.utils.data import DataLoader

from captum_tracinwe.batches.batch import Batch, Loss, labels_of, move_to
from captum_tracinwe.batches.chance import chance_as_before
from captum_tracinwe.batches.collate import Collate
from captum_tracinwe.batches.copies import copied
from captum_tracinwe.batches.loaders import in_order
from captum_tracinwe.batches.repeats import some_of
from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.checkpoints.adapters import active_adapter
from captum_tracinwe.gradients.example_losses import prediction_of
from captum_tracinwe.gradients.forward import run_model
from captum_tracinwe.gradients.token_losses import TokenLoss, span_loss
from captum_tracinwe.gradients.untouched import untouched

if TYPE_CHECKING:
    from transformers import Trainer

__all__ = ["base_of", "loss_by_kind", "loss_in_place", "say_other_loss"]

# So many examples are looked at alone. One would do, but for class weights where all its targets are of one class.
EXAMPLES = 4
# A router's loss may be a thousandth of the rest; two ways to the same float32 loss differ by a millionth.
ROUNDING = {torch.float64: 1e-5, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def base_of(model: Module) -> Module:
    """The model without what torch and PEFT put around it."""
    model = unwrap(model)
    return model.get_base_model() if active_adapter(model) and hasattr(model, "get_base_model") else model  # type: ignore[operator]


def loss_by_kind(model: Module) -> Loss | None:
    """One loss per example for models whose own loss is a mean over the tokens of the batch; None: the model's own."""
    model = base_of(model)
    name = type(model).__name__
    if name.endswith("ForQuestionAnswering"):
        return span_loss
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False) and "Classification" not in name:
        return TokenLoss(shift=False)
    if name.endswith(("ForTokenClassification", "ForMaskedLM")):
        return TokenLoss(shift=False)
    return TokenLoss(shift=True) if name.endswith(("ForCausalLM", "LMHeadModel")) else None


def loss_in_place(model: Module, loader: Any, label_names: Sequence[str], caller: str) -> Loss | None:
    """The loss for a model whose own is a mean over the targets of a batch; None: the model's own.

    It is held against the model's own on a few examples of ``loader`` (or of a data set), each alone. Where the model wants its
    labels at the other place (the next token's, or the same one's) it gets them there. Where its own loss is another one, for it
    has a router's part or weights of classes, a warning says so.
    """
    loss_fn = loss_by_kind(model)
    if loss_fn is None:
        return None
    answers = _answers(model, loader, label_names)
    apart = _apart(loss_fn, answers)
    if apart is None:
        return loss_fn
    named = "span_loss"
    if isinstance(loss_fn, TokenLoss):
        named, other = f"TokenLoss(shift={loss_fn.shift})", TokenLoss(shift=not loss_fn.shift)
        if _apart(other, answers) is None:
            return other
    number, own, ours, parts = apart
    which = f" ({', '.join(f'{name} = {value:.4g}' for name, value in parts.items())} in it)" if parts else ""
    warnings.warn(
        f"{caller}: the model's own loss of training example {number} is {own:.6g}{which}, and {named}, which is used in its "
        f"place, gives {ours:.6g} for each target. Gradients are not those of training. Pass loss_fn=None, batch_size=1 for the "
        f"model's own loss of each example alone, or loss_fn=..., a function of (prediction, labels) with one loss per example.",
        stacklevel=4,
    )
    return loss_fn


# The number of an example, the model's output for it, and its labels.
_Answer = tuple[int, Mapping[str, Any], Any]


def _answers(model: Module, loader: Any, label_names: Sequence[str]) -> list[_Answer]:
    """What the model says to a few examples, each alone; none where one cannot be asked about, which fails again later."""
    found: list[_Answer] = []
    parameter = next(model.parameters(), None)
    if not isinstance(loader, DataLoader):
        loader = in_order(loader, 1, Collate(model, label_names=label_names))
    if loader.batch_sampler is None or parameter is None:
        return found
    # Only the forward pass is wanted: no copy of the weights is made.
    with suppress(Exception), untouched(model, copy_weights=False), chance_as_before(), torch.no_grad():
        for number, example in some_of(loader.dataset, EXAMPLES).items():
            batch: Batch = move_to(loader.collate_fn([copied(example)]), parameter.device)
            output = run_model(model, batch, label_names, own_loss=True)
            if isinstance(output, Mapping) and output.get("loss") is not None:
                found.append((number, output, labels_of(batch, label_names)))
    return found


def _apart(loss_fn: Loss, answers: Sequence[_Answer]) -> tuple[int, float, float, dict[str, float]] | None:
    """The example on which a loss is furthest from the model's own, both numbers, and what the model adds; None: they agree."""
    furthest, most = None, 0.0
    for number, output, labels in answers:
        own = output["loss"]
        prediction = prediction_of(output)
        if isinstance(prediction, torch.Tensor):
            prediction = prediction.float() if prediction.dtype in (torch.bfloat16, torch.float16) else prediction
        try:
            losses = loss_fn(prediction, labels)
        except Exception:
            return None  # it fails again where it is used, and says why there
        targets = loss_fn.targets(labels) if isinstance(loss_fn, TokenLoss) else torch.ones(1)
        if own.numel() != 1 or not bool(torch.isfinite(own)) or not int(targets.sum()):
            continue  # a mean over no target
        mine = float(losses.sum()) / int(targets.sum())
        distance = abs(float(own) - mine) / max(abs(float(own)), abs(mine), 0.1)
        if distance > max(most, ROUNDING.get(own.dtype, 1e-5)):
            parts = {key: value for key, value in output.items() if key.endswith(("aux_loss", "z_loss"))}
            furthest = (
                number,
                float(own),
                mine,
                {key: float(value) for key, value in parts.items() if value is not None},
            )
            most = distance
    return furthest


def say_other_loss(trainer: Trainer) -> None:
    """Warn where the Trainer was trained on a loss that is not the model's own."""
    from transformers import Trainer as Original

    factor = trainer.args.label_smoothing_factor
    own = [f"label_smoothing_factor={factor}"] if factor else []
    own += ["label_smoother"] if not factor and getattr(trainer, "label_smoother", None) is not None else []
    own += ["compute_loss_func"] if getattr(trainer, "compute_loss_func", None) is not None else []
    # It may be of a class, put onto the Trainer itself, or put onto transformers' class.
    how = getattr(trainer.compute_loss, "__func__", trainer.compute_loss)
    theirs = f"{getattr(how, '__module__', None)}.".startswith("transformers.") and how is Original.compute_loss
    own += [] if theirs else ["compute_loss"]
    if own:
        warnings.warn(
            f"from_trainer: the Trainer has a loss of its own ({', '.join(own)}), and the model's is used: gradients are not "
            f"those of training. Pass loss_fn=..., a function of (prediction, labels) with one loss per example.",
            stacklevel=4,
        )
