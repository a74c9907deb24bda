"""What the words of a score need to know of the method that makes it: its sources of rows, and how it is asked."""

from __future__ import annotations

from typing import Any, Protocol

from torch.utils.data import DataLoader

from captum_tracinwe.batches.batch import Batch
from captum_tracinwe.gradients.live_source import LiveSource
from captum_tracinwe.gradients.source import Question, RowSource
from captum_tracinwe.preconditioners import Preconditioner

__all__ = ["Explained"]


class Explained(Protocol):
    """A :class:`captum_tracinwe.TracInWE`, or what can stand for one.

    Args:
        preconditioner (Preconditioner): what multiplies a question's rows.
    """

    preconditioner: Preconditioner

    @property
    def source(self) -> RowSource:
        """Where training rows come from."""

    @property
    def live_source(self) -> LiveSource:
        """The training set through the model."""

    def question(self, inputs: Batch | DataLoader[Any] | None, aggregate: bool = False) -> Question:
        """Test examples as a source is asked about them; None: the training set, added up."""
