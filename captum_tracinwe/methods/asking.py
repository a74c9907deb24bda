"""A model as the methods ask it: it answers with its logits, gives one loss per example, and its last layer is its last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from captum_tracinwe.diagnosis import diagnosed
from captum_tracinwe.gradients import untouched
from captum_tracinwe.methods.examples import Explained

__all__ = ["LossPerExample", "SummedLoss", "asked", "existing_layers", "last_layer_gives_logits"]


@contextmanager
def asked(explained: Explained, *, parameters: bool = True) -> Iterator[None]:
    """The model left as it was found; within, ``.logits`` of a transformers output alone, as Captum takes it.

    With ``parameters`` they ask for gradients: Captum differentiates them themselves, and :func:`untouched` has frozen them.
    """
    hook = explained.model.register_forward_hook(lambda module, args, output: getattr(output, "logits", output))
    try:
        with untouched(explained.model):
            for parameter in explained.model.parameters():
                parameter.requires_grad_(parameters)
            yield
    finally:
        hook.remove()


@contextmanager
def last_layer_gives_logits(explained: Explained, method: str) -> Iterator[None]:
    """Within, each pass is checked for what a closed form on the last layer rests on: its output is the model's answer.

    Raises:
        ValueError: a layer that is called more than once, or whose output is not the logits ``(N, classes)``.
    """
    existing_layers(explained, [explained.last], "`last`")
    outputs: list[Tensor] = []
    layer = explained.model.get_submodule(explained.last)

    def check(module: nn.Module, args: Any, output: Any) -> None:
        given, logits = list(outputs), getattr(output, "logits", output)
        outputs.clear()
        as_it_should = (
            len(given) == 1
            and logits.dim() == 2
            and given[0].shape == logits.shape
            and torch.allclose(given[0].to(logits.dtype), logits, equal_nan=True)
        )
        if not as_it_should:
            shapes = ", ".join(str(tuple(one.shape)) for one in given) or "nothing"
            raise ValueError(
                f"{method} is computed from the layer whose output is the model's answer: expected `last` to name the layer that "
                f"gives the logits (N, classes), once in a pass. {explained.last!r} gave {shapes}, the model answered "
                f"{tuple(logits.shape)}, which is something else. Name that layer, Explained(..., last=...); where there is "
                f"none, tracin_layers takes any layers."
            )

    hooks = [
        layer.register_forward_hook(lambda module, args, output: outputs.append(output.detach())),
        explained.model.register_forward_hook(check),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def existing_layers(explained: Explained, names: Sequence[str], what: str) -> None:
    """Raise unless the model has layers of these names.

    Raises:
        TypeError: a string where a list of names belongs.
        ValueError: no name, or one that the model does not have.
    """
    if isinstance(names, str):
        raise TypeError(f"{what}: expected a list of layer names, got {names!r}: [{names!r}].")
    known = [
        name
        for name, module in explained.model.named_modules()
        if name and next(module.parameters(False), None) is not None
    ]
    missing = [name for name in names if name not in dict(explained.model.named_modules())]
    if missing or not len(names):
        got = f"got {missing[0]!r}, which it does not have" if missing else "got none"
        raise ValueError(f"{what}: expected names of the model's layers, {got}. With weights it has {_some(known)}.")


def _some(names: Sequence[str]) -> str:
    """The names, those in the middle of a long list left out: the last layer stands at the end."""
    return ", ".join(names if len(names) <= 12 else [*names[:6], "...", *names[-6:]])


class LossPerExample:
    """``loss_fn`` with a check: one loss for each example, or a mean over the batch would pass for one."""

    reduction = "none"

    def __init__(self, explained: Explained) -> None:
        self.model, self.loss_fn = explained.model, explained.loss_fn

    def __call__(self, prediction: Tensor, labels: Tensor) -> Tensor:
        """Losses ``(N,)``.

        Raises:
            ValueError: another shape; labels that the loss does not take.
        """
        with diagnosed(self.model, (None,), labels, prediction):
            losses = self.loss_fn(prediction, labels)
        if losses.shape != prediction.shape[:1]:
            raise ValueError(
                f"Explained: expected a loss_fn with one loss per example, shape {tuple(prediction.shape[:1])}, got "
                f"{tuple(losses.shape)} of a prediction {tuple(prediction.shape)}: take reduction='none', and of several losses "
                f"of an example their sum."
            )
        return losses


class SummedLoss(LossPerExample):
    """The same added up over the batch, as Captum's last-layer methods take it."""

    reduction = "sum"

    def __call__(self, prediction: Tensor, labels: Tensor) -> Tensor:
        """The sum, a scalar."""
        return super().__call__(prediction, labels).sum()
