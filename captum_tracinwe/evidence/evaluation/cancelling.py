"""Cancellation of a layer: how much of what single examples want to change is undone by the others.

C(W) = Σ_i‖g_i(W)‖₁ / ‖Σ_i g_i(W)‖₁ over training examples i, as the code of arXiv 2511.04715 computes it; and the older
Σ_i η‖g_i(W)‖ / ‖ΔW‖. TracIn-WE's authors explain by it why the first layer tells more than the last one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_tracinwe.batches.batch import Loss, labels_of, size_of
from captum_tracinwe.gradients.forward import run_model
from captum_tracinwe.gradients.untouched import untouched

__all__ = ["cancellation", "example_gradients", "step_cancellation"]


def cancellation(gradients: Iterable[Mapping[str, Tensor]]) -> dict[str, float]:
    """C(W) of each parameter: 1 where all examples agree in every sign, large where they undo each other.

    Args:
        gradients (iterable of mappings): for each example, parameter name → gradient (:func:`example_gradients`).

    Returns:
        dict: infinite where the sum is 0 and the gradients are not; 1 where all of them are 0.

    Example:
        >>> import torch
        >>> cancellation([{"w": torch.tensor([1.0, 1.0])}, {"w": torch.tensor([1.0, -0.5])}])
        {'w': 1.4}
    """
    sizes: dict[str, float] = {}
    sums: dict[str, Tensor] = {}
    for example in gradients:
        for name, gradient in example.items():
            dense = gradient.to_dense() if gradient.is_sparse else gradient
            if name in sums and dense.shape != sums[name].shape:
                raise ValueError(
                    f"cancellation: the gradients of {name!r} have shapes {tuple(sums[name].shape)} and {tuple(dense.shape)}: "
                    f"expected one shape for all examples."
                )
            sizes[name] = sizes.get(name, 0.0) + float(dense.double().abs().sum())
            sums[name] = sums[name] + dense.double() if name in sums else dense.double()
    if not sums:
        raise ValueError("cancellation: no example was given; expected the gradients of at least one.")
    return {name: _ratio(sizes[name], float(total.abs().sum())) for name, total in sums.items()}


def step_cancellation(
    gradients: Iterable[Mapping[str, Tensor]], learning_rate: float, moved: Mapping[str, Tensor]
) -> dict[str, float]:
    """Σ_i η‖g_i(W)‖₂ / ‖ΔW‖₂, with ``moved`` = ΔW of each parameter over the steps that the gradients stand for."""
    sizes = dict.fromkeys(moved, 0.0)
    for example in gradients:
        for name in sizes:
            sizes[name] += float(example[name].double().norm())
    return {name: _ratio(learning_rate * sizes[name], float(change.double().norm())) for name, change in moved.items()}


def example_gradients(
    model: nn.Module, batches: Iterable[Any], loss_fn: Loss, parameters: Sequence[str] | None = None
) -> Iterator[dict[str, Tensor]]:
    """For each example of the batches the gradient of its loss, parameter by parameter, one backward each, in eval mode.

    Args:
        model (Module): left as it was found.
        batches (iterable): of batches of one example each: tuples (inputs..., labels) or mappings.
        loss_fn (callable): ``(prediction, labels) -> loss``; its sum is taken.
        parameters (sequence of str, optional): names; default: all.
    """
    names = [name for name, _ in model.named_parameters()] if parameters is None else list(parameters)
    for batch in batches:
        if size_of(batch) != 1:
            raise ValueError(
                f"example_gradients: expected batches of one example, got one of {size_of(batch)}, whose gradients would be "
                f"added up before they are compared: DataLoader(..., batch_size=1)."
            )
        # Anew for each example: whoever takes the gradients may stop at any, and finds the model as it was at each.
        with untouched(model, copy_weights=False), torch.enable_grad():
            weights = [model.get_parameter(name).requires_grad_(True) for name in names]
            output = run_model(model, batch)
            loss = loss_fn(getattr(output, "logits", output), labels_of(batch)).sum()
            found = torch.autograd.grad(loss, weights, allow_unused=True)
        yield {
            name: torch.zeros_like(weight) if gradient is None else gradient
            for name, weight, gradient in zip(names, weights, found, strict=True)
        }


def _ratio(above: float, below: float) -> float:
    if below == 0:
        return 1.0 if above == 0 else math.inf
    return above / below
