"""Whose gradients are asked for, and by which loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from captum_tracinwe.batches.batch import Loss
from captum_tracinwe.batches.training_set import TrainingSet

__all__ = ["Asked"]


def _as_counted(place: int) -> int:
    return place


@dataclass(frozen=True, eq=False)
class Asked:
    """Whose gradients are asked for, and by which loss; the names that errors and bars use.

    Args:
        loss_fn (callable or None): as in :func:`batch_row_gradients`.
        what (str): the kind of example, such as "training".
        index_of (callable): the index that the user has for the example at a place of what is read.
        examples (TrainingSet, optional): what is read, from where an example can be had alone.
    """

    loss_fn: Loss | None
    what: str = "given"
    index_of: Callable[[int], int] = _as_counted
    examples: TrainingSet | None = None

    @property
    def argument(self) -> str:
        """The name that the user gave them by."""
        return "inputs" if self.what in ("given", "test") else "train_dataset"
