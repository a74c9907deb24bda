"""`Adam`: a question seen through the optimiser's own scale, the root of its second moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_tracinwe.preconditioners.learned import check_positive, check_rows
from captum_tracinwe.rows.overflow import first_not_finite, overflow
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["Adam"]


@dataclass(frozen=True, eq=False)
class Adam:
    """q'_w = q_w / (√v_w + ε), at each checkpoint, with v the second moment that Adam had of the table there.

    A step of Adam divides the gradient by √v + ε, so that it is this product which tells how much a step on a training text
    lowers a question's loss, as far as its momentum is left aside. A number whose v is 0 was never trained so far: Adam has no
    scale for it, and it counts nothing.

    Source: Kingma and Ba, *Adam*, arXiv 1412.6980; the preconditioned TracIn of Pruthi et al., arXiv 2002.08484.

    Cost: none before the question; one division a number of it. Memory: the tensors given, C · V · D numbers (94 MB a checkpoint
    for BERT-base).

    Args:
        second_moments (sequence of Tensor): for each checkpoint v, ``(V, D)``, divided by 1 − β₂^step as Adam does
            (:func:`captum_tracinwe.checkpoints.moments.adam_of` reads them from a Trainer's ``optimizer.pt``).
        eps (float): ε, above 0.

    Raises:
        TypeError, ValueError: no tensors, shapes that differ, NaN, or numbers below 0.

    Example:
        >>> import torch
        >>> from captum_tracinwe import RowGradients
        >>> rows = RowGradients(torch.tensor([0, 2, 3]), torch.tensor([3, 7, 3]), torch.tensor([[1.0], [2.0], [3.0]]))
        >>> Adam([torch.full((8, 1), 4.0)]).apply(rows).values.flatten().tolist()
        [0.5, 1.0, 1.5]
    """

    second_moments: Sequence[Tensor]
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_positive("eps", self.eps)
        given: object = self.second_moments
        if not isinstance(given, (list, tuple)) or not all(isinstance(one, Tensor) for one in given):
            raise TypeError("Adam: expected `second_moments` as a list of tensors (V, D), one for each checkpoint.")
        shapes = {tuple(one.shape) for one in self.second_moments}
        if len(shapes) != 1 or len(next(iter(shapes))) != 2:
            raise ValueError(
                f"Adam: expected `second_moments` of one shape (V, D) for each checkpoint, got {sorted(shapes) or 'none'}."
            )
        for number, one in enumerate(self.second_moments):
            if first_not_finite(one) is not None or (one.numel() and float(one.min()) < 0):
                raise ValueError(
                    f"Adam: the second moment at checkpoint {number} is NaN, infinite or below 0: expected means of squares."
                )

    def at(self, checkpoint: int) -> Adam:
        """The part of one checkpoint.

        Raises:
            IndexError: there is no such checkpoint.
        """
        if not 0 <= checkpoint < len(self.second_moments):
            raise IndexError(
                f"Adam has the second moments of {len(self.second_moments)} checkpoint(s): expected a number from 0 to "
                f"{len(self.second_moments) - 1}, got {checkpoint}."
            )
        return Adam(self.second_moments[checkpoint : checkpoint + 1], self.eps)

    def apply(self, rows: RowGradients) -> RowGradients:
        """The mapped rows.

        Raises:
            ValueError: rows of another width, of tokens beyond the table, or not finite.
        """
        check_rows("Adam.apply", rows)
        size, width = self.second_moments[0].shape
        if rows.width != len(self.second_moments) * width:
            raise ValueError(
                f"Adam.apply: got rows of {rows.width} columns: the second moments are of {len(self.second_moments)} "
                f"checkpoint(s) of width {width}. Pass one (V, D) tensor for each checkpoint of the rows."
            )
        if rows.num_rows and int(rows.ids.max()) >= size:
            raise ValueError(
                f"Adam.apply: got a row of token {int(rows.ids.max())}: the second moments are of a table of {size} words. Pass "
                f"those of the model that the rows are of."
            )
        moments = torch.cat([one[rows.ids.to(one.device)].cpu().double() for one in self.second_moments], dim=1)
        scales = torch.where(moments > 0, moments.sqrt() + self.eps, torch.inf)
        values = (rows.values.cpu().double() / scales).to(rows.values)
        if first_not_finite(values) is not None:
            raise overflow("What Adam makes of the gradient of a test example", values.dtype)
        return RowGradients(rows.ptr, rows.ids, values)
