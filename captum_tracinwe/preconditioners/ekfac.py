"""`Ekfac`: a diagonal Fisher of each word in the eigenbasis of the columns, kept by its margins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from captum_tracinwe.preconditioners.learned import Learned, check_positive
from captum_tracinwe.preconditioners.moments import Moments
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["Ekfac"]


@dataclass(frozen=True, eq=False)
class Ekfac(Learned[Moments]):
    """q'_w = U [Uᵀ q_w / (s_w + λ)], at each checkpoint, with U the eigenvectors of Σ g gᵀ over the training rows.

    s_w,d is the second moment of word w along eigenvector d, Σ_j ⟨g_j,w, u_d⟩² / N. All of them are a table of ``(W, D)``, and to
    take them needs a second pass, for U is known only after the first. So they are kept by their margins, which are exact:
    s_w,d = f_w · e_d / (N · Σ_d e_d), with f_w = Σ_j ‖g_j,w‖² and e_d the eigenvalues. (Adafactor keeps Adam's moments so.) λ is
    damping times the mean of s over the D columns of the words that occur. A word of no training text has f_w = 0.

    Source: George et al., *Fast Approximate Natural Gradient Descent in a Kronecker-factored Eigenbasis*, arXiv 1806.03884; the
    margins: Shazeer and Stern, arXiv 1804.04235.

    Cost: all training rows are read once, 2 · D operations a number; the eigenvectors of ``(D, D)`` for each checkpoint, once;
    4 · D operations a number of the question. Memory: 8 · (2 + C) bytes a word and 16 · C · D² (9 MB a checkpoint for
    BERT-base), where the whole table of moments takes 8 · C · W · D (190 MB a checkpoint).

    Args:
        damping (float): above 0, in units of the mean of s.

    Example:
        >>> import torch
        >>> from captum_tracinwe import RowGradients
        >>> rows = RowGradients(torch.tensor([0, 2, 3]), torch.tensor([3, 7, 3]), torch.tensor([[1.0], [2.0], [3.0]]))
        >>> mapped = Ekfac(damping=1).fit(rows).apply(rows)  # s is 5 and 2, its mean 7 / 2
        >>> [round(value, 4) for value in mapped.values.flatten().tolist()]
        [0.1176, 0.3636, 0.3529]
    """

    damping: float = 0.1

    def __post_init__(self) -> None:
        check_positive("damping", self.damping)

    def _learn(self, rows: RowGradients, checkpoints: int) -> Moments:
        return Moments.of(rows, checkpoints, squares=True, products=True)

    @cached_property
    def _basis(self) -> tuple[Tensor, Tensor]:
        """Of one checkpoint, the share ``(D,)`` of each eigenvector in all squares, and the eigenvectors as columns."""
        products = self._known().products
        assert products is not None
        values, vectors = torch.linalg.eigh(products[0])
        values = values.clamp(min=0)  # of no square, but for rounding
        return values / values.sum().clamp(min=torch.finfo(values.dtype).tiny), vectors

    def _map(self, learned: Moments, rows: RowGradients) -> RowGradients:
        shares, vectors = self._basis
        squares = learned.squares[:, 0] / learned.examples
        damping = self.damping * float(squares.sum()) / max(1, len(squares) * learned.width)
        if damping <= 0:
            return rows.scale(0.0)
        moments = learned.of_words(squares, rows.ids)[:, None] * shares
        return RowGradients(rows.ptr, rows.ids, (rows.values @ vectors / (moments + damping)) @ vectors.T)
