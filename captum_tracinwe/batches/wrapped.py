"""A model within what torch puts around it, and what its forward takes by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

from torch.nn import Module

__all__ = ["parameters_of", "signature_of", "unwrap"]

# Of each function its parameters, as it is and without ``self``.
_signatures: WeakKeyDictionary[Callable[..., Any], dict[bool, tuple[inspect.Parameter, ...]]] = WeakKeyDictionary()


def unwrap(model: Module) -> Module:
    """The model inside DataParallel, DistributedDataParallel and torch.compile: replicas and graphs hide look-ups."""
    inside = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}
    while type(model).__name__ in inside:
        model = getattr(model, inside[type(model).__name__])
    return model


def parameters_of(model: Module) -> list[inspect.Parameter]:
    """What a model's forward takes; of one that hands on all, ``forward(self, *args, **kwargs)``, what its base's takes."""
    own = list(signature_of(model.forward))
    bases: list[Callable[..., Any]] = [vars(kind)["forward"] for kind in type(model).__mro__ if "forward" in vars(kind)]
    for forward in bases:
        if any(one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in own) or forward is Module.forward:
            break
        own = list(signature_of(forward))[1:]
    return own


def signature_of(forward: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    """The parameters of a forward, without ``self`` where it is bound; kept: reading it takes as long as a small layer."""
    function, bound = getattr(forward, "__func__", forward), isinstance(forward, MethodType)
    try:
        known = _signatures.setdefault(function, {})
    except TypeError:  # of which there are no weak references
        return tuple(inspect.signature(forward).parameters.values())
    if bound not in known:
        known[bound] = tuple(inspect.signature(forward).parameters.values())
    return known[bound]
