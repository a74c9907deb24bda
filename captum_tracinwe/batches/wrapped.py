"""The model within what torch puts around it."""

from __future__ import annotations

from torch.nn import Module

__all__ = ["unwrap"]


def unwrap(model: Module) -> Module:
    """The model inside DataParallel, DistributedDataParallel and torch.compile: replicas and graphs hide look-ups."""
    inside = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}
    while type(model).__name__ in inside:
        model = getattr(model, inside[type(model).__name__])
    return model
