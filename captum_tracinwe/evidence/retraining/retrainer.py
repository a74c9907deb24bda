"""What every trainer is asked: it trains without some examples or words and answers about the test set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

__all__ = ["Retrainer", "true_class_probability"]


def true_class_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """The probability of each example's label: logits ``(..., N, classes)`` and labels ``(N,)`` → ``(..., N)``."""
    index = labels.expand(logits.shape[:-1]).unsqueeze(-1)
    return logits.softmax(-1).gather(-1, index).squeeze(-1)


class Retrainer(ABC):
    """A trainer of J jobs, each with a seed and a part of the training set; what a deletion curve calls.

    All three answers take:
        keep (Tensor): bool, ``(J, M)``: which training examples job j trains on.
        seeds (sequence of int): of each job. Two jobs of one seed share first weights and the order of the texts.
        hidden (list of lists, optional): for each job (example, position) of the tokens that are hidden.
        show_progress (bool): a progress bar.
    """

    test: tuple[Tensor, Tensor]

    @abstractmethod
    def logits(
        self,
        keep: Tensor,
        seeds: Sequence[int],
        hidden: Sequence[Sequence[tuple[int, int]]] | None = None,
        *,
        show_progress: bool = False,
    ) -> Tensor:
        """The logits of the test set, ``(J, N, classes)``."""

    def __call__(
        self,
        keep: Tensor,
        seeds: Sequence[int],
        hidden: Sequence[Sequence[tuple[int, int]]] | None = None,
        *,
        show_progress: bool = False,
    ) -> Tensor:
        """The probability of the true class, ``(J, N)``."""
        return true_class_probability(self.logits(keep, seeds, hidden, show_progress=show_progress), self.test[1])

    def correct(
        self,
        keep: Tensor,
        seeds: Sequence[int],
        hidden: Sequence[Sequence[tuple[int, int]]] | None = None,
        *,
        show_progress: bool = False,
    ) -> Tensor:
        """Whether the true class is answered, bool ``(J, N)``: what ``fixing_mistakes`` asks."""
        return self.logits(keep, seeds, hidden, show_progress=show_progress).argmax(-1) == self.test[1]
