"""What preconditioner, length and shares learn from the training rows: in one pass where one will do, and then kept."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from captum_tracinwe.gradients.live import LiveRows
from captum_tracinwe.gradients.source import RowSource
from captum_tracinwe.preconditioners import Adam, Cooccurrence, EqualShares, Idf, Length, Preconditioner, Unfitted
from captum_tracinwe.preconditioners.learned import Learned, Statistics
from captum_tracinwe.preconditioners.moments import Moments
from captum_tracinwe.preconditioners.settings import settings_of
from captum_tracinwe.preconditioners.shares import SAMPLE, fits, measured_by
from captum_tracinwe.preconditioners.text_gram import Occurrences

__all__ = ["Fitting"]

T = TypeVar("T")

UNFITTED = "Or pass it before fit(...), and it is fitted at the first question."


@dataclass(eq=False)
class Fitting:
    """Keeps what was learned; what was learned of other things, such as another index, is learned anew.

    A thread that asks has the model to itself meanwhile, so that of several that ask at once one learns.
    """

    _kept: dict[str, tuple[tuple[Any, ...], Any]] = field(default_factory=dict)

    def preconditioner(self, given: Preconditioner, source: RowSource, live: LiveRows, of: Any) -> Preconditioner:
        """One that can be applied, with the shares of the tables; ``of`` stands for the training rows of ``source``."""
        fitted = self._inner(given, source, live, of)
        if not live.tables.equal:
            return fitted

        def measured() -> EqualShares:
            checkpoints, tables = len(live.weights), len(live.tables.names)
            of_these = _known_by(given, fitted, source, live)
            factors = None if of_these is None else source.recalled(of_these)
            if factors is not None and fits(factors, checkpoints, tables):
                return EqualShares(fitted, factors, live.widths(source.widths[0]))
            sample = source.sample(SAMPLE)
            found = EqualShares.of(fitted, sample, checkpoints, live.widths(sample.width // checkpoints))
            if of_these is not None and fits(found.factors, checkpoints, tables):
                source.keep(of_these, found.factors)
            return found

        return self._once("shares", (given, of), measured)

    def length(
        self, given: Length | None, preconditioner: Preconditioner, source: RowSource, live: LiveRows, of: Any
    ) -> Length | None:
        """One that can be asked. Words are counted in the pass for the preconditioner, where it has counted them here."""
        if given is None or given.fitted:
            if given is not None and given.statistics is not None:
                _check_words(given, given.statistics, live)
            return given

        def counted() -> Length:
            seen_here, learned = self._kept.get("preconditioner", ((), None))
            statistics = getattr(learned, "statistics", None)
            if isinstance(statistics, Occurrences):
                statistics = statistics.moments()
            if seen_here and seen_here[0] is preconditioner and seen_here[1] is of and isinstance(statistics, Moments):
                return replace(given, statistics=statistics)
            found = given.fit(source.row_blocks(values=False))
            if found.statistics is not None:
                _warn_if_alike(found.statistics)
            return found

        return self._once("length", (given, of), counted)

    def _inner(self, given: Preconditioner, source: RowSource, live: LiveRows, of: Any) -> Preconditioner:
        if not isinstance(given, Unfitted) or given.fitted:
            self._once("checked", (given, of), lambda: check_fits(given, source, live))
            return given
        unfitted = given

        def seen() -> Preconditioner:
            blocks = source.row_blocks(getattr(unfitted, "by_value", True))
            fitted = unfitted.fit(blocks, len(live.weights))
            if isinstance(fitted, (Idf, Cooccurrence)) and fitted.statistics is not None:
                _warn_if_alike(fitted.statistics)
            if isinstance(fitted, Cooccurrence) and fitted.by_moved:
                return fitted.with_moved(live.moved(fitted.words))
            return fitted

        return self._once("preconditioner", (given, of), seen)

    def _once(self, name: str, of: tuple[Any, ...], learn: Callable[[], T]) -> T:
        kept = self._kept.get(name)
        if kept is None or any(one is not other for one, other in zip(kept[0], of, strict=True)):
            kept = of, learn()
            self._kept[name] = kept
        found: T = kept[1]
        return found


def _known_by(
    given: Preconditioner, fitted: Preconditioner, source: RowSource, live: LiveRows
) -> dict[str, Any] | None:
    """All that the factors of equal shares hang on beside the rows, by which they are known again; None: they are not kept."""
    settings = settings_of(given) if source.keeps else None
    if settings is None:
        return None
    moved = getattr(getattr(fitted, "statistics", None), "moved", None)
    return {
        "learned": "factors of equal shares",
        "measured": measured_by(),
        "preconditioner": settings,
        # Of the model's weights, which may be others by now than those that the index was compared with.
        "moved": None if moved is None else hashlib.sha256(moved.contiguous().numpy().tobytes()).hexdigest(),
        "tables": live.tables.names,
        "widths": live.widths(source.widths[0]),
        "checkpoints": len(live.weights),
    }


def check_fits(given: Preconditioner, source: RowSource, live: LiveRows) -> None:
    """That what was fitted elsewhere was fitted on rows of this model: by its vocabulary, checkpoints and widths.

    The number of training texts is not looked at: statistics may be merged, or of a sample.

    Raises:
        ValueError: it was not; the message says what was given, and the way out.
    """
    name, checkpoints = type(given).__name__, len(live.weights)
    if isinstance(given, Adam):
        found, size = len(given.second_moments), len(given.second_moments[0])
        if found != checkpoints or size != live.vocabulary:
            raise ValueError(
                f"`preconditioner` is an Adam with second moments of {found} checkpoint(s) and a table of {size} words: expected "
                f"those of this model, {checkpoints} checkpoint(s) and {live.vocabulary} words "
                f"(captum_tracinwe.checkpoints.moments.adam_of reads them)."
            )
    if not isinstance(given, Learned) or given.statistics is None:
        return
    known = given.statistics
    _check_words(given, known, live)
    if known.checkpoints != checkpoints:
        raise ValueError(
            f"`preconditioner` is a {name} that was fitted on rows of {known.checkpoints} checkpoint(s), and there are "
            f"{checkpoints} here: expected one fitted at these, {name}(...).fit(tracin.row_gradients(), "
            f"checkpoints={checkpoints}). {UNFITTED}"
        )
    # Tokens alone have no width, and are the same for the word table and for what stands beside it.
    if known.width in ((0, int(live.table.weight.shape[1])) if not given.by_value else ()):
        return
    if known.width not in source.widths:
        raise ValueError(
            f"`preconditioner` is a {name} that was fitted on rows of {known.width} columns at a checkpoint, and those here have "
            f"{source.widths[0]} (table: {live.tables}). Expected one fitted on tracin.row_gradients() of this model and table. "
            f"{UNFITTED}"
        )


def _check_words(given: Preconditioner | Length, known: Statistics, live: LiveRows) -> None:
    if known.largest >= live.vocabulary:
        option = "normalize" if isinstance(given, Length) else "preconditioner"
        raise ValueError(
            f"`{option}` is a {type(given).__name__} that was fitted on rows of token {known.largest}, and this model's "
            f"vocabulary has {live.vocabulary} words: expected one fitted on this model's training rows. {UNFITTED}"
        )


def _warn_if_alike(seen: Moments | Occurrences) -> None:
    """Where every word stands in every training text, each has an idf of 0, and so has every score."""
    moments = seen.moments() if isinstance(seen, Occurrences) else seen
    if bool((moments.counts >= moments.examples).all()):
        warnings.warn(
            f"No word tells the {moments.examples} training text(s) apart: each stands in all of them, so that by its rarity "
            f"none counts, and all scores are 0. Take preconditioner=None and normalize=None for such a set.",
            stacklevel=2,
        )
