"""A model as the methods ask it: it answers with its logits, gives one loss per example, and its last layer is its last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from captum_tracinwe.batches.chance import chance_as_before
from captum_tracinwe.evidence.methods.examples import Explained
from captum_tracinwe.gradients.diagnosis import diagnosed
from captum_tracinwe.gradients.interrupts import unbroken
from captum_tracinwe.gradients.turns import alone
from captum_tracinwe.gradients.untouched import untouched

__all__ = ["LossPerExample", "SummedLoss", "asked", "existing_layers", "last_layer_gives_logits"]

# Where a module keeps its hooks, and what it notes of some of them.
HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks"),
)


@unbroken
def asked(
    explained: Explained, *, parameters: bool = True, random: bool = False, quiet: bool = False
) -> Iterator[None]:
    """The model left as it was found, hooks included; within, ``.logits`` of a transformers output alone, as Captum takes it.

    Threads take turns, whatever their models: Captum's methods use what a process has one of.

    Args:
        explained (Explained): of the model.
        parameters (bool): they ask for gradients: Captum differentiates them themselves, and ``untouched`` has frozen them.
        random (bool): random numbers are drawn; torch's generator is put back.
        quiet (bool): what is printed is lost.
    """
    model = explained.model
    with alone(model, torch.default_generator), ExitStack() as stack:
        if random:
            stack.enter_context(chance_as_before())
            stack.enter_context(torch.random.fork_rng())  # on every device
        if quiet:
            stack.enter_context(redirect_stdout(StringIO()))
        stack.enter_context(untouched(model))
        stack.callback(_remove_hooks, [(hooks, set(hooks)) for hooks in _hooks_of(model)])
        model.register_forward_hook(lambda module, args, output: getattr(output, "logits", output))
        for parameter in model.parameters():
            parameter.requires_grad_(parameters)
        yield


def _hooks_of(model: nn.Module) -> list[dict[int, Any]]:
    return [getattr(module, name) for module in model.modules() for name in HOOKS]


def _remove_hooks(before: list[tuple[dict[int, Any], set[int]]]) -> None:
    """What Captum's methods may leave behind when they are interrupted."""
    for hooks, known in before:
        for key in hooks.keys() - known:
            del hooks[key]


@unbroken
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

    with alone(explained.model), ExitStack() as stack:  # no other thread's passes are to be checked
        stack.callback(layer.register_forward_hook(lambda module, args, output: outputs.append(output.detach())).remove)
        stack.callback(explained.model.register_forward_hook(check).remove)
        yield


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
