"""`RowFisher`: a word counts the less, the more gradient it gathers over the training set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from captum_tracinwe.preconditioners.learned import Learned, check_positive
from captum_tracinwe.preconditioners.moments import Moments
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["RowFisher"]


@dataclass(frozen=True, eq=False)
class RowFisher(Learned[Moments]):
    """A weight for each word and checkpoint: a_w = 1 / (f_w + damping · f̄), with f_w = Σ_j ‖g_j,w‖².

    f̄ is the mean of f_w over the words that occur in the training texts. It is the empirical Fisher information of the table
    with one number for each row: the trace of the row's block, for all its columns alike. A word of no training text has f_w = 0.

    Source: the empirical Fisher of natural-gradient methods (Amari 1998), with its diagonal added up by row.

    Cost: all training rows are read once, 2 operations a number; one division a number of the question. Memory:
    8 · (2 + C) bytes a word.

    Args:
        damping (float): above 0, in units of f̄.

    Example:
        >>> import torch
        >>> from captum_tracinwe import RowGradients
        >>> rows = RowGradients(torch.tensor([0, 2, 3]), torch.tensor([3, 7, 3]), torch.tensor([[1.0], [2.0], [3.0]]))
        >>> mapped = RowFisher(damping=1).fit(rows).apply(rows)  # f is 10 and 4, its mean 7
        >>> (1 / mapped.values.flatten()).tolist()
        [17.0, 5.5, 5.666666507720947]
    """

    damping: float = 0.1

    by_column: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_positive("damping", self.damping)

    def _learn(self, rows: RowGradients, checkpoints: int) -> Moments:
        return Moments.of(rows, checkpoints, squares=True)

    def _map(self, learned: Moments, rows: RowGradients) -> RowGradients:
        squares = learned.squares[:, 0]
        damping = self.damping * float(squares.sum()) / max(1, len(squares))
        # Divided, not multiplied by 1 / x: rows of a tiny loss have squares whose inverse no float holds.
        values = rows.values / (learned.of_words(squares, rows.ids) + damping)[:, None]
        return RowGradients(rows.ptr, rows.ids, values if damping > 0 else rows.values * 0)
