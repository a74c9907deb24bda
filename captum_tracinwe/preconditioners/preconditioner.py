"""The seam between a question's rows and the training rows: a score is ⟨P q, t⟩, and P = 1 is Captum's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor

from captum_tracinwe.rows.row_gradients import RowGradients

if TYPE_CHECKING:
    from typing import TypeGuard

__all__ = [
    "Identity",
    "Preconditioner",
    "Unfitted",
    "WordToWord",
    "applied",
    "applied_back",
    "leads_from_word_to_word",
    "words_of",
]


class Preconditioner(Protocol):
    """A linear map of row gradients, for each checkpoint by itself: influence is a sum over checkpoints.

    It acts on the question alone, so that training rows are collected, stored and searched as they are. Shares by word stay
    exact: they are the parts of the dot product of the mapped rows.
    """

    def apply(self, rows: RowGradients) -> RowGradients:
        """The mapped rows: the same examples, values ``(R, C * D)`` of the dtype and on the device of those given.

        Tokens are those given, unless the map leads from word to word (:class:`WordToWord`).
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


@runtime_checkable
class WordToWord(Protocol):
    """A preconditioner that leads from word to word: an example may come out with rows of all training words.

    They take W rows for each question. Where these do not fit, and where it does not tell its ``words`` (int64 ``(W,)``), they
    are made where they meet training rows, of whose words alone.
    """

    #: Whether it does.
    by_word: bool

    def apply(self, rows: RowGradients, tokens: Tensor | None = None) -> RowGradients:
        """The mapped rows, at each checkpoint of the same tokens; with ``tokens`` (ascending, distinct) only those of them."""


def leads_from_word_to_word(preconditioner: Preconditioner | WordToWord) -> TypeGuard[WordToWord]:
    """Whether a test example may have rows of words that it does not hold."""
    return bool(getattr(preconditioner, "by_word", False))


def words_of(preconditioner: Preconditioner | WordToWord) -> Tensor | None:
    """The words that an example may come out with, int64 ``(W,)``, ascending, where a map from word to word tells them."""
    words: Tensor | None = getattr(preconditioner, "words", None)
    return words


def applied(
    preconditioner: Preconditioner | WordToWord, rows: RowGradients, tokens: Tensor | None = None
) -> RowGradients:
    """The rows of N examples, mapped; of a map from word to word those of ``tokens`` alone.

    Raises:
        TypeError, ValueError: what the preconditioner gives are no rows of N examples and as many columns.
    """
    name = type(preconditioner).__name__
    if not callable(getattr(preconditioner, "apply", None)):
        raise TypeError(
            f"The preconditioner's at(checkpoint) returned {name}: expected the part for one checkpoint, an object with "
            f"apply(rows)."
        )
    by_word = leads_from_word_to_word(preconditioner)
    found: object = preconditioner.apply(rows, tokens) if by_word else preconditioner.apply(rows)  # type: ignore[call-arg]
    if not isinstance(found, RowGradients):
        raise TypeError(
            f"{name}.apply(rows) returned {type(found).__name__}: expected captum_tracinwe.RowGradients of the same examples, "
            f"such as RowGradients(rows.ptr, rows.ids, rows.values * weights)."
        )
    if (len(found), found.width) != (len(rows), rows.width):
        raise ValueError(
            f"{name}.apply(rows) returned {len(found)} examples of {found.width} columns: expected those given, {len(rows)} of "
            f"{rows.width}."
        )
    return found


def applied_back(preconditioner: Preconditioner | WordToWord, rows: RowGradients, tokens: Tensor) -> RowGradients:
    """The rows of training texts, mapped to the ``tokens`` of a question; by what is known of these, if it can say it so."""
    back = getattr(preconditioner, "back", None)
    if not callable(back):
        return applied(preconditioner, rows, tokens)
    found: RowGradients = back(rows, tokens)
    return found


class Identity:
    """Rows as they are: plain TracIn-WE, equal to Captum's ``TracInCP`` on the embedding."""

    def apply(self, rows: RowGradients) -> RowGradients:
        """The rows given."""
        return rows

    def at(self, checkpoint: int) -> Identity:
        """Itself: it maps every checkpoint's rows alike."""
        return self
