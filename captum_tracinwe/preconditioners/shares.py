"""`EqualShares`: where rows of several tables stand side by side, each table's part of the score is made equally large."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from captum_tracinwe.preconditioners.cooccurrence import FEWEST_TEXTS, MOST_WORDS, Cooccurrence
from captum_tracinwe.preconditioners.learned import check_rows
from captum_tracinwe.preconditioners.preconditioner import (
    Preconditioner,
    applied,
    applied_back,
    leads_from_word_to_word,
    words_of,
)
from captum_tracinwe.rows.overflow import first_not_finite, overflow
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["EqualShares", "fits", "measured_by"]

# Training texts that are measured. A share that is off by a factor of 2 moves the ranking by less than what one retraining
# differs from the next, so that a sample will do: it costs a live source 128 texts' gradients, once.
SAMPLE = 128
# Counts up whenever the same rows give other factors: those that are kept beside an index are then measured anew.
FORMULA = 1


@dataclass(frozen=True, eq=False)
class EqualShares:
    """The columns of each table times a factor, at each checkpoint, behind another preconditioner.

    A score is a sum over tables, whose gradients are of sizes that have nothing to do with each other. With
    f_{c,p} = s_{c,0} / s_{c,p}, and s_{c,p} the mean score of a training text with itself by table p at checkpoint c, all tables
    count as much as the first.
    A table that has no gradient at a checkpoint keeps the factor 1.

    Cost: the rows of 128 texts; behind a :class:`Cooccurrence` each distinct word of theirs is solved for once, or of fewer texts
    where they hold more than 2,500.

    Args:
        inner (Preconditioner): what maps the rows first.
        factors (Tensor): float64 ``(C, P)``, for each checkpoint and table.
        widths (tuple of int): columns of each table at one checkpoint.
    """

    inner: Preconditioner
    factors: Tensor
    widths: tuple[int, ...]

    @classmethod
    def of(cls, inner: Preconditioner, sample: RowGradients, checkpoints: int, widths: Sequence[int]) -> EqualShares:
        """Measured on the rows of some training texts, values ``(R, C * D)``, D the sum of ``widths``.

        Raises:
            ValueError: no texts, values that are not finite, columns that are not those of the tables.
        """
        check_rows("EqualShares", sample)
        width = sum(widths)
        if not len(sample) or sample.width != checkpoints * width:
            raise ValueError(
                f"EqualShares: expected rows of one training text at least, of {checkpoints} checkpoint(s) × {width} columns "
                f"({' + '.join(map(str, widths))}), got {len(sample)} texts with {sample.width} columns."
            )
        by_column = _with_itself(inner, sample.to(dtype=torch.float64)).cpu().view(checkpoints, width)
        sizes = torch.stack([by_column[:, start:stop].sum(1) for start, stop in _parts(widths)], dim=1)
        known = (sizes > 0) & (sizes[:, :1] > 0)
        return cls(inner, torch.where(known, sizes[:, :1] / sizes.where(known, torch.ones(())), 1.0), tuple(widths))

    def at(self, checkpoint: int) -> EqualShares:
        """The part of one checkpoint, for rows ``(R, D)``."""
        return EqualShares(self.inner.at(checkpoint), self.factors[checkpoint : checkpoint + 1], self.widths)

    @property
    def by_word(self) -> bool:
        """Whether an example may come out with other tokens than it had: as of the inner one."""
        return leads_from_word_to_word(self.inner)

    @property
    def words(self) -> Tensor | None:
        """Those that an example may come out with: of the inner one."""
        return words_of(self.inner)

    def apply(self, rows: RowGradients, tokens: Tensor | None = None) -> RowGradients:
        """The mapped rows, values ``(R, C * D)``; of a map from word to word those of ``tokens`` alone."""
        return self._around(rows, lambda scaled: applied(self.inner, scaled, tokens))

    def back(self, rows: RowGradients, tokens: Tensor) -> RowGradients:
        """The same, by what the inner one knows of ``tokens``."""
        return self._around(rows, lambda scaled: applied_back(self.inner, scaled, tokens))

    def _around(self, rows: RowGradients, mapped_by: Callable[[RowGradients], RowGradients]) -> RowGradients:
        expected = len(self.factors) * sum(self.widths)
        if rows.width != expected:
            raise ValueError(
                f"EqualShares.apply: got rows of {rows.width} columns: expected {expected}, those it was measured on."
            )
        # On either side of the map, so that it stays symmetric where it mixes columns.
        by_column = self.factors.sqrt().repeat_interleave(torch.tensor(self.widths), dim=1).flatten()
        by_column = by_column.to(rows.values.device, rows.values.dtype)
        mapped = mapped_by(RowGradients(rows.ptr, rows.ids, rows.values * by_column))
        values = mapped.values * by_column
        if first_not_finite(values) is not None:
            raise overflow("What EqualShares makes of the gradient of a test example", values.dtype)
        return RowGradients(mapped.ptr, mapped.ids, values)


def measured_by() -> dict[str, int]:
    """The formula of the factors, and what is taken of the training texts for it."""
    return {"formula": FORMULA, "texts": SAMPLE, "words": MOST_WORDS, "fewest_texts": FEWEST_TEXTS}


def fits(factors: Tensor, checkpoints: int, tables: int) -> bool:
    """Whether these can be the factors of so many tables: one of each at each checkpoint, above 0, and 1 of the first."""
    if factors.shape != (checkpoints, tables):
        return False
    return bool((factors[:, 0] == 1).all() and factors.isfinite().all() and (factors > 0).all())


def _with_itself(inner: Preconditioner, sample: RowGradients) -> Tensor:
    """What each column adds to the score of a text with itself, ``(C * D,)``, the mean over the texts."""
    if isinstance(inner, Cooccurrence):
        return inner.with_itself(sample)
    if not leads_from_word_to_word(inner):
        return (applied(inner, sample).values * sample.values).sum(0) / len(sample)
    found = sample.values.new_zeros(sample.width)
    for text in (sample.select([j]) for j in range(len(sample))):
        mapped = applied(inner, text, text.ids)
        there = torch.isin(text.ids, mapped.ids)
        found += (mapped.values * text.values[there]).sum(0) / len(sample)
    return found


def _parts(widths: Sequence[int]) -> list[tuple[int, int]]:
    ends = list(accumulate(widths))
    return [(stop - width, stop) for width, stop in zip(widths, ends, strict=True)]
