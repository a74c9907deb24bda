"""Scores beyond what their type holds: products of finite gradients that came out infinite, and have no order."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["first_not_finite", "overflow"]


def first_not_finite(scores: Tensor) -> list[int] | None:
    """The place of the first score that is NaN or infinite, if one is.

    A sum tells: it is finite unless a score is not, or it overflows itself; only then is each looked at.
    """
    if math.isfinite(float(scores.sum())):
        return None
    wrong = torch.isfinite(scores).logical_not_().nonzero()
    place: list[int] | None = wrong[0].tolist() if len(wrong) else None
    return place


def overflow(what: str, dtype: torch.dtype) -> ValueError:
    """The error to raise of ``what``, a score or what it is made of."""
    wider = "" if dtype == torch.float64 else "take the model in float64, model.double(), or "
    return ValueError(
        f"{what} is beyond {str(dtype).removeprefix('torch.')}, which ends at {torch.finfo(dtype).max:.1e}: expected gradients "
        f"whose products are finite. Look at the loss and the weights there. To ask about gradients that large, {wider}multiply "
        f"the loss by a small number (a thousandth makes every score a millionth)."
    )
