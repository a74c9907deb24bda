"""Positions of a batch folded into rows on a GPU, where the host doesn't know yet how many rows there are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_tracinwe.rows.in_order import in_order
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["Roomy", "largest"]

# Below this part of the room that was taken, rows are copied, and the room given back.
WORTH_KEEPING = 0.75


@dataclass(frozen=True, eq=False)
class Roomy:
    """Rows with room for one of each position: the first R are there, R being ``ptr[-1]``; what lies behind means nothing.

    Args:
        ptr (Tensor): int64 ``(N + 1,)``.
        ids (Tensor): int64 ``(P,)``.
        examples (Tensor): int64 ``(P,)``, of each row.
        values (tuple of Tensor): kinds of values of the same rows, each ``(P, D)``.
    """

    ptr: Tensor
    ids: Tensor
    examples: Tensor
    values: tuple[Tensor, ...]

    @classmethod
    def of(cls, examples: Tensor, ids: Tensor, kinds: list[Tensor], kept: Tensor | None, num_examples: int) -> Roomy:
        """As :meth:`RowGradients.from_positions` of the positions that are ``kept``, for each kind of values ``(P, D)``.

        Nothing is read by the host. Repeats are added in the order of their positions, so that the bits are the same twice.
        """
        if kept is not None:  # the others go to an example behind the last
            examples = torch.where(kept, examples, num_examples)
        order, examples, ids, starts = in_order(examples, ids)
        rows = torch.cumsum(starts, 0) - 1
        counts = ids.new_zeros(num_examples + 1).index_add_(0, examples, starts.long())
        row_of = torch.empty_like(rows).scatter_(0, order, rows)
        # Not index_add_, whose additions on a GPU come in any order.
        folded = (torch.zeros_like(kind).index_put_((row_of,), kind, accumulate=True) for kind in kinds)
        return cls(
            torch.cat([counts.new_zeros(1), torch.cumsum(counts[:-1], 0)]),
            torch.zeros_like(ids).scatter_(0, rows, ids),
            torch.zeros_like(ids).scatter_(0, rows, examples).clamp_max_(max(0, num_examples - 1)),
            tuple(folded),
        )

    def numbers(self, values: Tensor) -> Tensor:
        """R, and whether the sum of ``values`` ``(P, D)`` over the rows is finite: ``(2,)``, still on the device."""
        there = torch.arange(len(self.ids), device=self.ids.device) < self.ptr[-1]
        total = torch.where(there, values.sum(1), 0).sum()
        return torch.stack([self.ptr[-1], torch.isfinite(total).long()])

    def rows(self, count: int, values: Tensor) -> RowGradients:
        """The rows, once the host knows R."""
        ids, values = self.ids[:count], values[:count]
        if count < WORTH_KEEPING * len(self.ids):
            ids, values = ids.clone(), values.clone()
        return RowGradients.sound(self.ptr, ids, values)


def largest(examples: Tensor, values: Tensor, k: int, num_examples: int) -> Tensor:
    """Which positions are among the k of largest norm of their example, below ``num_examples``; of equal norms the first."""
    norms = values.double().norm(dim=1)
    order = torch.sort(norms, descending=True, stable=True).indices
    order = order[torch.sort(examples[order], stable=True).indices]
    counts = examples.new_zeros(num_examples + 1).index_add_(0, examples, torch.ones_like(examples))
    first = torch.cumsum(counts, 0) - counts
    rank = torch.arange(len(order), device=order.device) - first[examples[order]]
    return torch.empty_like(examples, dtype=torch.bool).scatter_(0, order, rank < k)
