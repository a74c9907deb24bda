"""`Kfac`: the embedding's Fisher as a Kronecker product, of the words' frequencies and the columns' covariance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from captum_tracinwe.preconditioners.learned import Learned, check_positive
from captum_tracinwe.preconditioners.moments import Moments
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["Kfac"]


@dataclass(frozen=True, eq=False)
class Kfac(Learned[Moments]):
    """q'_w = q_w (G + λ I)⁻¹ / (p_w + μ), at each checkpoint.

    The input of an embedding is one-hot, so that K-FAC's input factor is diagonal: p_w = n_w / N, the share of the N training
    texts that have a row for w. The output factor is G = Σ g gᵀ / R over all R training rows, ``(D, D)``. λ = damping · tr(G) / D
    and μ = damping · the mean of p_w over the words that occur. A word of no training text has p_w = 0.

    Source: Martens and Grosse, *Optimizing Neural Networks with Kronecker-factored Approximate Curvature*, arXiv 1503.05671; for
    influence Grosse et al., arXiv 2308.03296. Theirs counts positions, here rows are counted, of which a text has one a word.

    Cost: all training rows are read once, 2 · D operations a number; a factorisation of ``(D, D)`` for each checkpoint, once; D
    operations a number of the question. Memory: 8 · (2 + C) bytes a word and 16 · C · D² (9 MB a checkpoint for BERT-base).

    Args:
        damping (float): above 0, in units of the mean of either factor.

    Example:
        >>> import torch
        >>> from captum_tracinwe import RowGradients
        >>> rows = RowGradients(torch.tensor([0, 2, 3]), torch.tensor([3, 7, 3]), torch.tensor([[1.0], [2.0], [3.0]]))
        >>> mapped = Kfac(damping=1).fit(rows).apply(rows)  # G = 14 / 3; p is 1 and 1 / 2, its mean 3 / 4
        >>> [round(value, 4) for value in mapped.values.flatten().tolist()]
        [0.0612, 0.1714, 0.1837]
    """

    damping: float = 0.1

    def __post_init__(self) -> None:
        check_positive("damping", self.damping)

    def _learn(self, rows: RowGradients, checkpoints: int) -> Moments:
        return Moments.of(rows, checkpoints, products=True)

    @cached_property
    def _factor(self) -> Tensor | None:
        """Of one checkpoint, the lower triangle L of G + λ I = L Lᵀ; None where all training rows are zero."""
        learned = self._known()
        assert learned.products is not None
        covariance = learned.products[0] / max(1.0, learned.rows)
        damping = self.damping * float(covariance.trace()) / max(1, learned.width)
        if damping <= 0:
            return None
        covariance.diagonal().add_(damping)
        factor: Tensor = torch.linalg.cholesky(covariance)
        return factor

    def _map(self, learned: Moments, rows: RowGradients) -> RowGradients:
        if self._factor is None:
            return rows.scale(0.0)
        shares = learned.counts / learned.examples
        divisor = learned.of_words(shares, rows.ids) + self.damping * float(shares.mean())
        values = torch.cholesky_solve(rows.values.T / divisor, self._factor).T
        return RowGradients(rows.ptr, rows.ids, values.contiguous())
