"""A model given back as it was found: weights, buffers, flags, mode, what asks for gradients, come what may."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch.nn import Module
from torch.nn.utils import parametrize

from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.gradients.interrupts import unbroken
from captum_tracinwe.gradients.model_state import ModelState, fit_for_autograd, forget_cached
from captum_tracinwe.gradients.turns import alone

__all__ = ["forget_computed", "untouched"]


@unbroken
def untouched(model: Module, copy_weights: bool = True) -> Iterator[ModelState]:
    """Weights, buffers, mode and ``requires_grad`` of ``model`` are after the block what they were before, come what may.

    So is what its modules keep beside them (:class:`ModelState`), the ``problem_type`` of its config and torch's grad mode.
    Ctrl-C cannot come between, and threads that ask the same model take turns.

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
        state = ModelState(model, copy_weights)
        stack.callback(forget_computed, model)
        stack.callback(state.give_back)
        fit_for_autograd(model)
        model.eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        yield state


def forget_computed(model: Module) -> None:
    """What is kept of weights that have just been changed by a caller's ``parametrize.cached()``, by cached methods."""
    getattr(parametrize, "_cache", {}).clear()
    forget_cached(unwrap(model))


def _set_problem_type(config: Any, problem: Any) -> None:
    """Guessed by transformers' own loss from the type of the first labels it meets, and kept for all that follow."""
    if config is not None and getattr(config, "problem_type", None) != problem:
        config.problem_type = problem
