"""Cutting a batch's predictions into those of its examples, and whether a loss can be cut so."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from captum_tracinwe.batches.batch import Loss, tensors_in
from captum_tracinwe.batches.copies import copied

__all__ = ["Coupled", "check_uncoupled", "part_of"]

# Of a batch so many examples are looked at: each costs a call of the loss.
LOOKED_AT = 4
# Two of the example's label and two of another make pairs and triplets of all kinds.
OTHERS = 3
# Losses that were looked at, in a batch of several examples and in one of a single example.
_seen: WeakSet[Any] = WeakSet()
_seen_alone: WeakSet[Any] = WeakSet()


class Coupled(ValueError):
    """Raised of a loss by which the examples of a batch hang on each other."""


def part_of(value: Any, index: int, size: int, name: str) -> Any:
    """Example ``index`` of a batched value, still with a batch dimension (of 1)."""
    if value is None:
        return None
    if isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == size:
        return value[index : index + 1]
    if isinstance(value, Mapping):
        part = copy.copy(value)
        for key, item in value.items():
            part[key] = part_of(item, index, size, name)  # type: ignore[index]
        return part
    if isinstance(value, (tuple, list)):
        return type(value)(part_of(item, index, size, name) for item in value)
    got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    raise ValueError(
        f"The loss {name!r} gives one number for the batch, and what it takes cannot be cut into {size} examples (got {got}): "
        f"give a loss with one number per example (reduction='none')."
    )


def check_uncoupled(loss_fn: Loss, prediction: Any, labels: Any, size: int, name: str) -> None:
    """Raise Coupled where an example's part of a loss that is one number for the batch is not its loss alone, up to a factor.

    That factor is 1 / N in a mean, 1 in a sum, a share of the tokens or weights in others. In-batch negatives make the loss of
    each pair alone log 1 = 0, and all scores would be 0 without a word. Each loss is looked at once in a batch of several, and
    once, if it is of several answers, where others stand in beside a single example: its own predictions, moved.
    """
    if isinstance(prediction, Tensor) and isinstance(labels, Tensor) and labels.is_floating_point():
        return  # numbers that broadcast against numbers: what is meant is told by the example alone
    found = None
    if size > 1 and loss_fn not in _seen:
        found, told = _coupled(loss_fn, prediction, labels, size, LOOKED_AT, name)
        if told and found is None:
            _seen.add(loss_fn)
    if not isinstance(prediction, Tensor) and loss_fn not in _seen_alone:
        with suppress(Exception):  # what a loss makes of predictions that nobody gave it is no matter
            own, label = (_with_others(part_of(value, 0, size, name)) for value in (prediction, labels))
            alone, _ = _coupled(loss_fn, own, label, OTHERS + 1, 1, name)
            found = alone if found is None else found
    if found is None and not isinstance(prediction, Tensor):
        _seen_alone.add(loss_fn)
    if found is not None:
        raise Coupled(
            f"The loss {name!r} couples the examples of a batch: alone, one has another gradient than beside others (are these "
            f"its negatives?), so that none has a loss of its own. Expected a loss of single examples: of pairs with a label "
            f"(cosine, contrastive), or of (anchor, positive, negative), for instance "
            f"loss_fn=lambda texts, labels: triplet_margin_loss(*texts, reduction='none')."
        )


def _coupled(
    loss_fn: Loss, prediction: Any, labels: Any, size: int, looked_at: int, name: str
) -> tuple[int | None, bool]:
    """The first example whose gradient is another alone than in its batch; and whether there was any gradient."""
    given = _map(lambda tensor: tensor.detach().requires_grad_(tensor.is_floating_point()), prediction)
    leaves = [tensor for tensor in tensors_in(given) if tensor.requires_grad]
    together = _gradients(loss_fn(given, copied(labels)), leaves)
    told = False
    for index in range(min(size, looked_at)):
        alone = loss_fn(part_of(given, index, size, name), copied(part_of(labels, index, size, name)))
        own, within = (
            torch.cat([gradient[index].flatten().double() for gradient in found])
            for found in (_gradients(alone, leaves), together)
        )
        if not bool(own.isfinite().all() & within.isfinite().all()):  # no target: a mean over nothing
            continue
        factor = (own @ within) / (own @ own).clamp_min(1e-300)
        apart, most = float((within - factor * own).norm()), max(float(within.norm()), float(factor * own.norm()))
        told = told or most > 0
        if apart > 1e-3 * most or (float(own.norm()) > 0 and factor <= 0):
            return index, told
    return None, told


def _gradients(loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    found: Any = (None,) * len(leaves)
    if loss.requires_grad:
        found = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if one is None else one for one, leaf in zip(found, leaves, strict=True)]


def _with_others(value: Any) -> Any:
    """One example's predictions or labels, and beside them three that could be others': two of another label."""

    def others(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            other = (tensor == 0).to(tensor.dtype)
            return torch.cat([tensor, tensor, other, other])
        wave = (
            torch.arange(OTHERS * tensor.numel(), device=tensor.device, dtype=tensor.dtype)
            .cos()
            .view(OTHERS, *tensor.shape[1:])
        )
        moved = tensor + 0.5 * wave * (tensor.abs().amax() + 0.1)
        return torch.cat([tensor, moved])

    return _map(others, value)


def _map(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A nested value with each of its tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        part = copy.copy(value)
        for key, item in value.items():
            part[key] = _map(change, item)  # type: ignore[index]
        return part
    if isinstance(value, (tuple, list)):
        return type(value)(_map(change, item) for item in value)
    return value
