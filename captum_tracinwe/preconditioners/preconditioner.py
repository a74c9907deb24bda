"""The seam between a question's rows and the training rows: a score is ⟨P q, t⟩, and P = 1 is Captum's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["Identity", "Preconditioner", "Unfitted"]


class Preconditioner(Protocol):
    """A linear map of row gradients, for each checkpoint by itself: influence is a sum over checkpoints.

    It acts on the question alone, so that training rows are collected, stored and searched as they are. Shares by word stay
    exact: they are the parts of the dot product of the mapped rows.
    """

    def apply(self, rows: RowGradients) -> RowGradients:
        """The mapped rows: the same examples, values ``(R, C * D)`` of the dtype and on the device of those given.

        Tokens are those given, unless the map leads from word to word: then an example may have rows of more tokens, at each
        checkpoint the same ones (:class:`GaussNewton`).
        """

    def at(self, checkpoint: int) -> Preconditioner:
        """The part that maps the rows ``(R, D)`` of one checkpoint, by its number."""


@runtime_checkable
class Unfitted(Protocol):
    """A preconditioner that may still have to see the training rows; :attr:`fitted` says whether it has."""

    @property
    def fitted(self) -> bool:
        """Whether it can be applied."""

    def fit(self, blocks: Iterable[RowGradients], checkpoints: int = 1) -> Preconditioner:
        """One that has seen the training rows, values ``(R, C * D)``, in one pass over blocks of examples."""


class Identity:
    """Rows as they are: plain TracIn-WE, equal to Captum's ``TracInCP`` on the embedding."""

    def apply(self, rows: RowGradients) -> RowGradients:
        """The rows given."""
        return rows

    def at(self, checkpoint: int) -> Identity:
        """Itself: it maps every checkpoint's rows alike."""
        return self
