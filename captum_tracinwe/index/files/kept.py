"""What an index keeps of rows: all of them, or fewer columns, or numbers of a few bits; and how far scores by that can be off."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_tracinwe.index.files.packing import PackedRows, Packing
from captum_tracinwe.index.files.sketch import Sketch, rounding
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["Kept"]

# η² below. What rounding to 8 bits does to a row is a hundredth of what 64 of 384 columns leave of it: a 16th of the one is as
# much as 16 times the other.
ETA_SQUARED = 2.0**-8


@dataclass(frozen=True, eq=False)
class Kept:
    r"""Turns rows ``(R, C * D)`` into ``(R, C * p)`` as they are stored, and says how far a score by those can be off.

    At each checkpoint P's rows are the p directions that hold most of the sample's rows; or P = 1. With t̃ the stored Pt,
    rounded as it may be, δ = Pt − t̃, and ρ what P leaves of a row, with room for all rounding of float32 (:class:`Sketch`):
    ⟨q, t⟩ − ⟨Pq, t̃⟩ = ⟨Pq, δ⟩ + what is left of both. So by Cauchy and Schwarz it is at most
    √(ρ_q² + η²‖Pq‖²) · √(ρ_t² + ‖δ‖²/η²) either way, for any η.

    Indexes before version 3 have random projections, one for all checkpoints, of which no bound is known.

    Args:
        packing (Packing): of the stored rows.
        scale (float): what they are multiplied by before they are packed.
        directions (Tensor, optional): float32 ``(C, p, D)``, orthonormal for each checkpoint; or ``(p, D)``, random.
    """

    packing: Packing
    scale: float
    directions: Tensor | None = None

    def of_question(self, rows: RowGradients) -> tuple[RowGradients, Tensor | None]:
        """Pq, and √(ρ_q² + η²‖Pq‖²) of each row and checkpoint, float32 ``(R, C)``; None where no bound is kept."""
        kept, rest = self._of(rows)
        if not self.packing.bounded:
            return kept, None
        squares = self._by_checkpoint(kept.values).double().square().sum(2)
        return kept, _above((rest + ETA_SQUARED * squares).sqrt())

    def of_training(self, rows: RowGradients) -> PackedRows:
        """The rows as they are stored, with √(ρ_t² + ‖δ‖²/η²) where a bound is kept."""
        kept, rest = self._of(rows)
        values, left = kept.values if self.scale == 1 else kept.values * self.scale, None
        if self.packing.bounded:
            seen = self.packing.unpack(self.packing.pack(values, torch.zeros_like(rest).float())).double() / self.scale
            lost = self._by_checkpoint(kept.values.double() - seen).square().sum(2)
            left = _above((rest + lost / ETA_SQUARED).sqrt())
        return PackedRows(rows.ptr, rows.ids, self.packing.pack(values, left))

    def values(self, stored: Tensor) -> Tensor:
        """What stored rows are as numbers, float32 ``(R, C * p)``."""
        found = self.packing.unpack(stored)
        return found if self.scale == 1 else found / self.scale

    def _of(self, rows: RowGradients) -> tuple[RowGradients, Tensor]:
        """Pv, and ρ² of each row and checkpoint, float64 ``(R, C)``."""
        rows = rows.to("cpu", torch.float32)
        if self.directions is None:
            room = rounding(rows.ptr, self.packing.columns)[:, None]
            return rows, room * self._by_checkpoint(rows.values).double().square().sum(2)
        if self.directions.dim() == 2:
            values = self._by_checkpoint(rows.values) @ self.directions.T
            return RowGradients(rows.ptr, rows.ids, values.flatten(1)), torch.zeros(0)
        both = self._by_checkpoint(Sketch(self.directions).of(rows.ptr, rows.values))
        return RowGradients(rows.ptr, rows.ids, both[:, :, :-1].flatten(1)), both[:, :, -1].double().square()

    def _by_checkpoint(self, values: Tensor) -> Tensor:
        return values.view(len(values), self.packing.checkpoints, values.shape[1] // self.packing.checkpoints)


def _above(norms: Tensor) -> Tensor:
    """The next float32 above, of numbers that are not 0."""
    found = norms.float()
    return torch.where(norms > 0, torch.nextafter(found, torch.full_like(found, torch.inf)), found)
