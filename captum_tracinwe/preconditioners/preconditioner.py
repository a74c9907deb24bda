"""The seam between a question's rows and the training rows: a score is ⟨P q, t⟩, and P = 1 is Captum's."""

from __future__ import annotations

from typing import Protocol

from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["Identity", "Preconditioner"]


class Preconditioner(Protocol):
    """A linear map of row gradients, for each checkpoint by itself: influence is a sum over checkpoints.

    It acts on the question alone, so that training rows are collected, stored and searched as they are. Shares by word stay
    exact: they are the parts of the dot product of the mapped rows.
    """

    def apply(self, rows: RowGradients) -> RowGradients:
        """The mapped rows: the same examples and tokens, values ``(R, C * D)`` like those given."""

    def at(self, checkpoint: int) -> Preconditioner:
        """The part that maps the rows ``(R, D)`` of one checkpoint, by its number."""


class Identity:
    """Rows as they are: plain TracIn-WE, equal to Captum's ``TracInCP`` on the embedding."""

    def apply(self, rows: RowGradients) -> RowGradients:
        """The rows given."""
        return rows

    def at(self, checkpoint: int) -> Identity:
        """Itself: it maps every checkpoint's rows alike."""
        return self
