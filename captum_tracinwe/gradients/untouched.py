"""A model given back as it was found: weights, buffers, mode, what asks for gradients, come what may."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.gradients.interrupts import unbroken
from captum_tracinwe.gradients.turns import alone

__all__ = ["untouched"]


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
