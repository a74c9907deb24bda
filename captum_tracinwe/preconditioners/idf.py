"""`Idf`: words that stand in few training texts count more, by a power of their inverse document frequency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from captum_tracinwe.preconditioners.learned import Learned, check_power
from captum_tracinwe.preconditioners.moments import Moments
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["Idf"]


@dataclass(frozen=True, eq=False)
class Idf(Learned[Moments]):
    """A weight for each word: a_w = idf_w ^ power, with idf_w = log(N / n_w).

    N training texts, n_w of them with a row for w. A word of every training text counts nothing, and so does a word of none,
    which meets no training row anyway. The score is Σ_w a_w ⟨q_w, t_w⟩. The learning rates stay in it.

    Source: Spärck Jones, *A statistical interpretation of term specificity*, 1972; the power 2 is that of a cosine of tf-idf
    vectors, where the weight stands on both sides.

    Cost: the tokens of the training rows are counted; their values are not read, and a live source computes none unless
    ``top_k_words`` asks for it. One multiplication a number of the question. Memory: 8 · (2 + C) bytes a word.

    Args:
        power (float): above 0, at most 64.

    Example:
        >>> import torch
        >>> from captum_tracinwe import RowGradients
        >>> rows = RowGradients(torch.tensor([0, 2, 3]), torch.tensor([3, 7, 3]), torch.tensor([[1.0], [2.0], [3.0]]))
        >>> idf = Idf(power=1).fit(rows)  # token 3 stands in both texts, token 7 in one
        >>> idf.apply(rows).values.flatten().tolist() == [0, 2 * torch.tensor(2.0).log(), 0]
        True
    """

    power: float = 2.0

    by_column: ClassVar[bool] = False
    by_value: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_power("power", self.power)

    def _learn(self, rows: RowGradients, checkpoints: int) -> Moments:
        return Moments.of(rows, checkpoints)

    def _map(self, learned: Moments, rows: RowGradients) -> RowGradients:
        weights = learned.of_words(learned.idf**self.power, rows.ids)
        return RowGradients(rows.ptr, rows.ids, rows.values * weights[:, None])
