"""How a small model is trained from scratch, and in which order it sees the texts: all that a pair of retrainings shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Recipe", "check_classes", "check_jobs", "check_sets", "hidden_positions"]


@dataclass(frozen=True)
class Recipe:
    """How to train at a constant rate on the mean loss of each batch: SGD with momentum, as in the paper, or AdamW.

    Args:
        epochs, batch_size (int): as usual.
        learning_rate (float): of the optimiser.
        momentum (float): of ``torch.optim.SGD``.
        optimizer (str): "sgd", or "adamw" (without weight decay) for what SGD does not train in a few hundred steps, such as a
            transformer from scratch; :class:`ManyCNNs` takes "sgd" only.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.9
    optimizer: str = "sgd"

    def __post_init__(self) -> None:
        if not isinstance(self.epochs, int) or not isinstance(self.batch_size, int):
            raise ValueError(f"{self}: expected epochs and batch_size as whole numbers.")
        if self.epochs < 1 or self.batch_size < 1 or not self.learning_rate > 0 or not 0 <= self.momentum < 1:
            raise ValueError(
                f"{self}: expected epochs and batch_size of at least 1, a positive learning_rate and momentum from 0 to below 1."
            )

        if self.optimizer not in ("sgd", "adamw"):
            raise ValueError(f"Recipe: expected `optimizer` as 'sgd' or 'adamw', got {self.optimizer!r}.")

    def optimizer_of(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of all of the model's parameters."""
        if self.optimizer == "adamw":
            return torch.optim.AdamW(model.parameters(), self.learning_rate, weight_decay=0.0, fused=True)
        return torch.optim.SGD(model.parameters(), self.learning_rate, momentum=self.momentum)

    def batches(self, size: int, seed: int) -> Iterator[tuple[int, Tensor]]:
        """(epoch, indices) of each step. What is left out of a training set keeps its place here: the others do not move."""
        generator = torch.Generator().manual_seed(seed)
        for epoch in range(self.epochs):
            for indices in torch.split(torch.randperm(size, generator=generator), self.batch_size):
                yield epoch, indices


def check_sets(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> None:
    """Raise unless both are ids ``(M, T)`` and as many class numbers: TypeError for other than a pair of tensors."""
    for name, side in (("train", train), ("test", test)):
        if (
            not isinstance(side, (tuple, list))
            or len(side) != 2
            or not all(isinstance(field, Tensor) for field in side)
        ):
            raise TypeError(
                f"`{name}`: expected a pair of tensors (ids, labels), got {type(side).__name__}: of a model that takes a mask, "
                f"make one that makes the mask of the ids."
            )
        ids, labels = side
        if ids.dim() != 2 or labels.shape != ids.shape[:1] or not len(ids):
            raise ValueError(
                f"`{name}`: expected ids (examples, positions) and one label for each, got {tuple(ids.shape)} and "
                f"{tuple(labels.shape)}."
            )
        if labels.is_floating_point() or labels.dtype == torch.bool or int(labels.min()) < 0:
            raise ValueError(
                f"`{name}`: expected labels as class numbers from 0, got {labels.dtype} from {labels.min()}."
            )


def check_classes(logits: Tensor, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> None:
    """Raise ValueError where a label has no place among the model's classes."""
    classes = logits.shape[-1]
    highest = max(int(train[1].max()), int(test[1].max()))
    if highest >= classes:
        raise ValueError(
            f"the label {highest}, and the model has {classes} classes: expected labels from 0 to {classes - 1}."
        )


def check_jobs(keep: Any, seeds: Any, size: int) -> tuple[Tensor, list[int]]:
    """``keep`` as bool ``(J, M)`` and one seed per job.

    Raises:
        ValueError: `keep` of another type, shapes that do not fit, a job that keeps nothing, seeds that are no whole numbers.
    """
    keep = torch.as_tensor(keep).cpu()
    if keep.dtype != torch.bool:
        raise ValueError(
            f"expected `keep` as bool (jobs, training examples), True for what is trained on, got {keep.dtype}."
        )
    if not all(isinstance(seed, Integral) and not isinstance(seed, bool) for seed in seeds):
        raise ValueError(f"expected whole numbers as seeds, got {list(seeds)!r:.80}.")
    seeds = [int(seed) for seed in seeds]
    if not seeds:
        raise ValueError("expected at least one job, got none.")
    if keep.dim() != 2 or keep.shape != (len(seeds), size):
        raise ValueError(
            f"expected `keep` of shape (jobs, training examples) = ({len(seeds)}, {size}), got {tuple(keep.shape)}."
        )
    if not bool(keep.any(1).all()):
        raise ValueError("a job keeps no training example: expected at least one True in each row of `keep`.")
    return keep, seeds


def hidden_positions(
    hidden: Sequence[Sequence[tuple[int, int]]] | None, jobs: int, shape: tuple[int, int]
) -> list[Tensor | None]:
    """For each job the mask ``(M, T)`` of the positions it hides, or None.

    Raises:
        ValueError: not one list per job, or a position that no text has.
    """
    if hidden is None:
        return [None] * jobs
    if len(hidden) != jobs:
        raise ValueError(
            f"expected `hidden` as a list of (example, position) for each of {jobs} jobs, got {len(hidden)}."
        )
    masks: list[Tensor | None] = []
    for pairs in hidden:
        mask = torch.zeros(shape, dtype=torch.bool) if pairs else None
        for example, position in pairs:
            if not 0 <= example < shape[0] or not 0 <= position < shape[1]:
                raise ValueError(
                    f"`hidden` names position {position} of example {example}: expected one of {shape[0]} examples with "
                    f"{shape[1]} positions."
                )
            assert mask is not None
            mask[example, position] = True
        masks.append(mask)
    return masks
