"""The lengths of a block's training texts, as their rows go by: checkpoint by checkpoint, batch by batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from captum_tracinwe.preconditioners import Length
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["BlockLengths"]


@dataclass(eq=False)
class BlockLengths:
    """What scores of a block's training examples are divided by; known once their rows at all checkpoints were seen.

    Args:
        length (Length, optional): the kind; None, or of the test side: nothing is kept.
        tokens_vary (bool): each checkpoint has rows of its own tokens.
    """

    length: Length | None
    tokens_vary: bool
    _squares: dict[int, list[Tensor]] = field(default_factory=dict, init=False)
    _tokens: dict[int, list[RowGradients]] = field(default_factory=dict, init=False)

    def see(self, rows: RowGradients, checkpoint: int, rate: float) -> None:
        """Rows ``(R, D)`` of the next batch at a checkpoint, by its number, not scaled."""
        length = self.length
        if length is None or not length.of_train:
            return
        if length.by == "gradient":
            self._squares.setdefault(checkpoint, []).append(rate * length.squares(rows))
        elif self.tokens_vary or checkpoint == 0:
            # Without the values: a view of no columns would hold all of them.
            nothing = rows.values.new_empty((rows.num_rows, 0))
            self._tokens.setdefault(checkpoint, []).append(RowGradients.sound(rows.ptr, rows.ids, nothing))

    def factors(self) -> Tensor | None:
        """By what their scores are multiplied, float64 ``(m,)``; None: nothing."""
        if self.length is None or not self.length.of_train:
            return None
        if self.length.by == "gradient":
            return self.length.from_squares(torch.stack([torch.cat(parts) for parts in self._squares.values()]).sum(0))
        tokens = [RowGradients.cat(parts) for parts in self._tokens.values()]
        return self.length.factors(RowGradients.beside(tokens, union=self.tokens_vary))
