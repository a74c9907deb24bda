"""The sketch of a row: r orthonormal projections and the norm of what they leave, enough to bound every score."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LARGEST_NORM", "Sketch", "fit_projection", "rounding"]

# Rows in float64 at a time: their copies are 20 MB at D = 384.
CHUNK_ROWS = 2048
UNIT = 2.0**-24  # half the distance from 1 to the next float32
SMALLEST = 2.0**-126  # below it float32 loses digits, or all of them
#: The largest norm of a row. Rows beyond it could overflow a score, and an infinite score has no order.
LARGEST_NORM = 1e17


@dataclass(frozen=True, eq=False)
class Sketch:
    r"""Turns rows ``(R, C * D)`` into sketches ``(R, C * (r + 1))``, of which one product bounds a score from above.

    At each checkpoint a row v becomes (Pv, ρ): then ⟨q, t⟩ ≤ ⟨Pq, Pt⟩ + ρ_q ρ_t, with equality where what P leaves of the
    two points the same way. That holds for real numbers. Scores and sketches are float32, so ρ² = ‖v − PᵀPv‖² + κ‖v‖²:
    by Cauchy and Schwarz √(x² + κX²) √(y² + κY²) ≥ xy + κXY, so that the bound exceeds the exact one by
    κ Σ ‖q_w‖‖t_w‖, and all that rounding can do to a score of C · D products in each of S shared rows, and to its bound, is
    at most n Σ ‖q_w‖‖t_w‖ 2⁻²⁴ each with n = C (D + r + 1) + S + 16, whatever the order of summation. κ is twice the sum,
    plus 6 ‖PPᵀ − 1‖, for P is rounded too: 2e-4 at 2 x 384, next to the 0.3 to 0.5 that are left of ‖v‖² at r = 31.

    Args:
        projection (Tensor): float32 ``(C, r, D)``, orthonormal rows for each checkpoint.
    """

    projection: Tensor

    @property
    def checkpoints(self) -> int:
        """C."""
        return int(self.projection.shape[0])

    @property
    def rank(self) -> int:
        """r."""
        return int(self.projection.shape[1])

    @property
    def width(self) -> int:
        """D."""
        return int(self.projection.shape[2])

    @property
    def columns(self) -> int:
        """C * (r + 1)."""
        return self.checkpoints * (self.rank + 1)

    @functools.cached_property
    def _precise(self) -> tuple[Tensor, float]:
        """P in float64, and how far it is from orthonormal."""
        precise = self.projection.double()
        unit = torch.eye(self.rank, dtype=torch.float64)
        return precise, max(float(torch.linalg.matrix_norm(p @ p.T - unit)) for p in precise)

    def of(self, ptr: Tensor, values: Tensor, sign: float = 1.0) -> Tensor:
        """Sketches, float32 ``(R, C * (r + 1))``.

        Args:
            ptr (Tensor): int64 ``(N + 1,)``: an example's number of rows is the S above.
            values (Tensor): float32 ``(R, C * D)``.
            sign (float): −1 for the sketches of −values.
        """
        precise, skew = self._precise
        kappa = rounding(ptr, self.checkpoints * (self.width + self.rank + 1)) + 6 * skew
        result = torch.empty((len(values), self.checkpoints, self.rank + 1), dtype=torch.float32)
        for start in range(0, len(values), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            for c, p in enumerate(precise):
                rows = values[part, c * self.width : (c + 1) * self.width].double()
                inside = rows @ p.T
                left = (rows - inside @ p).square().sum(1) + kappa[part] * rows.square().sum(1)
                result[part, c, :-1] = inside * sign
                rest = left.sqrt().float()
                # Up to the next float32; and what projections below the smallest normal number lose against a row of 1 / √κ.
                above = torch.nextafter(rest, torch.full_like(rest, torch.inf)) + 2.0**-112
                result[part, c, -1] = torch.where(left > 0, above, rest)
        return result.flatten(1)

    def floor(self, most_rows: int) -> float:
        """What products too small for float32 can take from a bound or add to a score, of examples that share that many rows."""
        return 2 * most_rows * (self.checkpoints * self.width + self.columns) * SMALLEST


def rounding(ptr: Tensor, columns: int) -> Tensor:
    """Of each row 4 n 2⁻²⁴, n as above with ``columns`` for C (D + r + 1): κ but for the projection's own rounding."""
    counts = ptr[1:] - ptr[:-1]
    depth = columns + torch.repeat_interleave(counts, counts) + 16
    return (4 * UNIT) * depth.double()


def fit_projection(samples: Iterable[Tensor], checkpoints: int, rank: int) -> Tensor:
    """The leading right singular vectors of sample rows, for each checkpoint: float32 ``(C, min(r, D), D)``.

    Args:
        samples (iterable of Tensor): rows ``(R, C * D)``, taken one after the other; all are added up in D x D.
        checkpoints (int): C.
        rank (int): r.
    """
    total: Tensor | None = None
    for rows in samples:
        rows = rows[torch.isfinite(rows).all(1)]  # whoever writes the others says which they are
        parts = rows.double().view(len(rows), checkpoints, rows.shape[1] // checkpoints).transpose(0, 1)
        squares = parts.transpose(1, 2) @ parts
        total = squares if total is None else total.add_(squares)
    if total is None:
        raise ValueError("fit_projection: expected at least one block of rows, got none.")
    vectors = torch.linalg.eigh(total.cpu()).eigenvectors  # ascending
    leading: Tensor = vectors[:, :, -min(rank, total.shape[1]) :].flip(2).transpose(1, 2)
    return leading.float().contiguous()
