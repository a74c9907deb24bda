"""A model within what torch puts around it, and what its forward takes by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch.nn import Module

__all__ = ["parameters_of", "unwrap"]


def unwrap(model: Module) -> Module:
    """The model inside DataParallel, DistributedDataParallel and torch.compile: replicas and graphs hide look-ups."""
    inside = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}
    while type(model).__name__ in inside:
        model = getattr(model, inside[type(model).__name__])
    return model


def parameters_of(model: Module) -> list[inspect.Parameter]:
    """What a model's forward takes; of one that hands on all, ``forward(self, *args, **kwargs)``, what its base's takes."""
    own = list(inspect.signature(model.forward).parameters.values())
    bases: list[Callable[..., Any]] = [vars(kind)["forward"] for kind in type(model).__mro__ if "forward" in vars(kind)]
    for forward in bases:
        if any(one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in own) or forward is Module.forward:
            break
        own = list(inspect.signature(forward).parameters.values())[1:]
    return own
