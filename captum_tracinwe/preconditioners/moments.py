"""Sums over the training rows, of which most preconditioners are made: texts and squares by word, products of columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["Moments"]

# Rows that are turned into float64 at a time: 12 MB of BERT-base.
CHUNK = 2048


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over the rows of N training texts, in float64; W words have a row.

    Memory: 8 · (2 + C) bytes for each of the W words, and 8 · C · D² for the products of columns, if they are kept. It does not
    grow with the number of texts.

    Args:
        examples (int): N.
        width (int): D.
        ids (Tensor): int64 ``(W,)``, ascending.
        counts (Tensor): ``(W,)``, n_w, the training texts that have a row for w.
        squares (Tensor): ``(W, C)``, f_w = Σ_j ‖g_j,w‖²; zeros where they were not asked for.
        products (Tensor, optional): ``(C, D, D)``, Σ over all rows of g gᵀ.
    """

    examples: int
    width: int
    ids: Tensor
    counts: Tensor
    squares: Tensor
    products: Tensor | None = None

    @classmethod
    def of(cls, rows: RowGradients, checkpoints: int, squares: bool = False, products: bool = False) -> Moments:
        """Those of one block of rows, values ``(R, C * D)``; what is not asked for is not computed."""
        width = rows.width // checkpoints
        ids, word, counts = torch.unique(rows.ids.cpu(), return_inverse=True, return_counts=True)
        by_word = torch.zeros((len(ids), checkpoints), dtype=torch.float64)
        by_column = torch.zeros((checkpoints, width, width), dtype=torch.float64) if products else None
        for start, values in _chunks(rows.values.detach(), checkpoints) if squares or products else ():
            if squares:
                by_word.index_add_(0, word[start : start + len(values)], values.square().sum(2).cpu())
            if by_column is not None:
                by_column += torch.einsum("rcd,rce->cde", values, values).cpu()
        return cls(len(rows), width, ids, counts.double(), by_word, by_column)

    @property
    def checkpoints(self) -> int:
        """C."""
        return int(self.squares.shape[1])

    @property
    def largest(self) -> int:
        """The largest token id; −1 where there is none."""
        return int(self.ids[-1]) if len(self.ids) else -1

    @property
    def rows(self) -> float:
        """R, rows of all texts."""
        return float(self.counts.sum())

    @property
    def idf(self) -> Tensor:
        """log(N / n_w) of each word, ``(W,)``."""
        return (self.examples / self.counts).log()

    def merge(self, other: Moments) -> Moments:
        """Those of both training sets together."""
        ids, place = torch.unique(torch.cat([self.ids, other.ids]), return_inverse=True)
        counts = torch.zeros(len(ids), dtype=torch.float64).index_add_(0, place, torch.cat([self.counts, other.counts]))
        squares = torch.zeros((len(ids), self.checkpoints), dtype=torch.float64)
        squares.index_add_(0, place, torch.cat([self.squares, other.squares]))
        both = self.products is not None and other.products is not None
        products = self.products + other.products if both else None  # type: ignore[operator]
        return Moments(self.examples + other.examples, self.width, ids, counts, squares, products)

    def at(self, checkpoint: int) -> Moments:
        """Those of one checkpoint."""
        one = slice(checkpoint, checkpoint + 1)
        products = None if self.products is None else self.products[one]
        return Moments(self.examples, self.width, self.ids, self.counts, self.squares[:, one], products)

    def of_words(self, sums: Tensor, ids: Tensor) -> Tensor:
        """``sums`` (W,), one for each word seen, by the token ids of other rows, ``(R,)``: 0 for a word of no training text."""
        if not len(self.ids):
            return sums.new_zeros(len(ids))
        place = torch.searchsorted(self.ids, ids).clamp_(max=len(self.ids) - 1)
        return torch.where(self.ids[place] == ids, sums[place], 0.0)


def _chunks(values: Tensor, checkpoints: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(values), CHUNK):
        part = values[start : start + CHUNK].double()
        yield start, part.view(len(part), checkpoints, -1)
