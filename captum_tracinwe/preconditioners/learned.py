"""What preconditioners share that learn from training rows: fitted in one pass, merged, frozen, applied by checkpoint."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import torch

from captum_tracinwe.batches.arguments import as_float, is_whole
from captum_tracinwe.rows.overflow import first_not_finite, overflow
from captum_tracinwe.rows.row_gradients import RowGradients

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Learned", "Statistics", "check_positive", "check_power", "check_rows"]


class Statistics(Protocol):
    """What a pass over training rows leaves; those of two parts of a training set make those of both."""

    @property
    def examples(self) -> int:
        """N, training texts seen."""

    @property
    def checkpoints(self) -> int:
        """C."""

    @property
    def width(self) -> int:
        """D, columns of a row at one checkpoint."""

    @property
    def largest(self) -> int:
        """The largest token id among the rows; −1 where there are none."""

    def merge(self, other: Self) -> Self:
        """Those of both parts."""

    def at(self, checkpoint: int) -> Self:
        """Those of one checkpoint."""


S = TypeVar("S", bound=Statistics)


@dataclass(frozen=True, eq=False)
class Learned(ABC, Generic[S]):
    """A preconditioner whose numbers come from training rows.

    It never changes: :meth:`fit` and :meth:`merge` return another one. All is computed in float64, and returned in the type of
    the rows given. Rows of a source are scaled by √η; where a map divides by squares of them, the rates cancel: each checkpoint
    then counts alike, as in an influence function, which has no rate. A checkpoint at which all training rows are zero adds
    nothing.

    Args:
        statistics: what was learned; None before :meth:`fit`.
    """

    statistics: S | None = field(default=None, kw_only=True, repr=False)

    #: Whether it mixes or scales columns, and so needs rows of the width that it was fitted on.
    by_column: ClassVar[bool] = True
    #: Whether it learns from the values of training rows, and not from their tokens alone, which are cheaper to have.
    by_value: ClassVar[bool] = True

    # ----------------------------------------------------------------------------------------------- to be filled in

    @abstractmethod
    def _learn(self, rows: RowGradients, checkpoints: int) -> S:
        """The statistics of one block of training rows."""

    @abstractmethod
    def _map(self, learned: S, rows: RowGradients) -> RowGradients:
        """The map of one checkpoint: float64 rows ``(R, D)`` on the CPU to others."""

    # ------------------------------------------------------------------------------------------------------- learning

    @property
    def fitted(self) -> bool:
        """Whether it has seen training rows."""
        return self.statistics is not None

    def fit(self, blocks: Iterable[RowGradients], checkpoints: int = 1) -> Self:
        """This preconditioner for some training rows, read once; what it knew before is left out.

        Args:
            blocks (iterable of RowGradients): all training texts, in blocks, values ``(R, C * D)``.
            checkpoints (int): C.

        Raises:
            TypeError: something else than rows.
            ValueError: no training texts, NaN or infinite values, blocks of several widths.
        """
        name = type(self).__name__
        if isinstance(blocks, RowGradients):
            blocks = [blocks]
        found: S | None = None
        for rows in blocks:
            check_rows(f"{name}.fit", rows)
            if not is_whole(checkpoints) or checkpoints < 1 or rows.width % checkpoints:
                raise ValueError(
                    f"{name}.fit: got rows of {rows.width} columns for {checkpoints!r} checkpoint(s): expected columns that "
                    f"divide by the number of checkpoints."
                )
            part = self._learn(rows, checkpoints)
            found = part if found is None else self._merged(found, part)
        if found is None or not found.examples:
            raise ValueError(f"{name}.fit: there are no training texts: expected rows of at least one.")
        return replace(self, statistics=found)

    def merge(self, other: Self) -> Self:
        """The preconditioner of both training sets together: as if it had been fitted on all their rows.

        Raises:
            TypeError, ValueError: ``other`` is of another kind, with other settings or widths, or one of the two is not fitted.
        """
        name = type(self).__name__
        if type(other) is not type(self):
            raise TypeError(f"{name}.merge: expected another {name}, got {type(other).__name__}.")
        mine, others = (
            {own.name: getattr(one, own.name) for own in fields(one) if own.name != "statistics"}
            for one in (self, other)
        )
        if mine != others:
            raise ValueError(f"{name}.merge: expected the same settings on both sides, got {mine} and {others}.")
        return replace(self, statistics=self._merged(self._known(), other._known()))

    def _merged(self, one: S, other: S) -> S:
        forms = [(part.checkpoints, part.width) for part in (one, other)]
        if forms[0] != forms[1]:
            raise ValueError(
                f"{type(self).__name__}: expected training rows of one form, got {forms[0][0]} checkpoint(s) of width "
                f"{forms[0][1]} and {forms[1][0]} of width {forms[1][1]}."
            )
        return one.merge(other)

    def _known(self) -> S:
        if self.statistics is None:
            name = type(self).__name__
            raise ValueError(
                f"This {name} has not seen the training rows yet: expected a fitted one. Call fit(blocks, checkpoints) and go on "
                f"with what it returns, or pass it to TracInWE(..., preconditioner=...), which fits it at the first question."
            )
        return self.statistics

    # ------------------------------------------------------------------------------------------------------- applying

    def at(self, checkpoint: int) -> Self:
        """The part of one checkpoint, for rows ``(R, D)``.

        Raises:
            IndexError: there is no such checkpoint.
        """
        known = self._known().checkpoints
        if not 0 <= checkpoint < known:
            raise IndexError(
                f"{type(self).__name__} was fitted at {known} checkpoint(s): expected a number from 0 to {known - 1}, got "
                f"{checkpoint}."
            )
        return self if known == 1 else self._parts[checkpoint]

    @cached_property
    def _parts(self) -> tuple[Self, ...]:
        known = self._known()
        return tuple(replace(self, statistics=known.at(c)) for c in range(known.checkpoints))

    def apply(self, rows: RowGradients) -> RowGradients:
        """The mapped rows, values ``(R, C * D)``.

        Raises:
            TypeError: something else than rows.
            ValueError: not fitted yet; rows of another width; NaN or infinite values, before or after.
        """
        known = self._checked(rows)
        if known.checkpoints > 1:
            width = rows.width // known.checkpoints
            columns = [rows.columns(c * width, (c + 1) * width) for c in range(known.checkpoints)]
            return RowGradients.beside([self.at(c).apply(part) for c, part in enumerate(columns)])
        mapped = self._map(known, rows.to("cpu", torch.float64)).to(rows.values.device, rows.values.dtype)
        return self._finite(mapped)

    def _checked(self, rows: RowGradients) -> S:
        """What was learned, of rows that it can map."""
        name, known = type(self).__name__, self._known()
        check_rows(f"{name}.apply", rows)
        expected = known.checkpoints * known.width
        if rows.width != expected if self.by_column else rows.width % known.checkpoints:
            raise ValueError(
                f"{name}.apply: got rows of {rows.width} columns: it was fitted on rows of {expected} ({known.checkpoints} "
                f"checkpoint(s) of width {known.width}). Fit it on rows of the same model and checkpoints; an index built with "
                f"project=... has no rows of full width, there take preconditioner='idf'."
            )
        return known

    def _finite(self, mapped: RowGradients) -> RowGradients:
        if first_not_finite(mapped.values) is not None:
            name = type(self).__name__
            raise overflow(f"What {name} makes of the gradient of a test example", mapped.values.dtype)
        return mapped


def check_positive(name: str, value: Any, whose: str = "") -> None:
    """ValueError unless ``value`` is a finite number above 0; ``whose`` begins the message, as in "s_test: "."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < as_float(value) < math.inf:
        raise ValueError(f"{whose}`{name}` should be a finite number above 0, got {value!r:.60}.")


# log(10⁹) to this power is 10⁸⁴, whose square float64 still holds.
MOST_POWER = 64


def check_power(name: str, value: Any) -> None:
    """ValueError unless ``value`` is a number above 0 by which an idf can be raised."""
    check_positive(name, value)
    if value > MOST_POWER:
        raise ValueError(f"`{name}` should be a number above 0 and at most {MOST_POWER}, got {value!r}.")


def check_rows(where: str, rows: Any) -> None:
    """TypeError or ValueError unless ``rows`` are finite RowGradients."""
    if not isinstance(rows, RowGradients):
        raise TypeError(f"{where}: expected RowGradients, got {type(rows).__name__}.")
    place = first_not_finite(rows.values)
    if place is not None:
        raise ValueError(
            f"{where}: the row of token {int(rows.ids[place[0]])} is NaN or infinite: expected finite gradients. Look at the "
            f"loss and the weights there."
        )
