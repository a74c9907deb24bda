"""What scores are made from: a question, and a source of training rows, live or stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from captum_tracinwe.batches.batch import Batch, Loss, size_of
from captum_tracinwe.batches.training_set import TrainingSet
from captum_tracinwe.preconditioners import (
    Identity,
    Length,
    Preconditioner,
    applied,
    applied_back,
    leads_from_word_to_word,
    words_of,
)
from captum_tracinwe.rows import ops
from captum_tracinwe.rows.overflow import first_not_finite, overflow
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["Product", "Question", "RowSource", "dot", "spread", "times"]

#: (test rows, training rows) → what is laid side by side over the training examples, and added up over checkpoints.
Product: TypeAlias = Callable[[RowGradients, RowGradients], Tensor]


def spread(size: int, count: int) -> list[int]:
    """``count`` of the whole numbers below ``size``, evenly spread and ascending; all of them if they are no more."""
    return list(range(size)) if size <= count else [place * size // count for place in range(count)]


def dot(test: RowGradients, train: RowGradients) -> Tensor:
    """Scores ``(N, m)`` of a block, which a source looks at when it has them all."""
    return ops.row_dot(test.ptr, test.ids, test.values, train.ptr, train.ids, train.values)


def times(products: Tensor, factors: Tensor | None) -> Tensor:
    """``(..., m)``, those of each training example times its factor, ``(m,)``; None is 1."""
    return products if factors is None else products * factors.to(products)


@dataclass(frozen=True, eq=False)
class Question:
    """N test examples to be asked about, before their gradients are computed.

    Args:
        batches (list): of the examples.
        loss_fn (callable or None): by which they are asked.
        aggregate (bool): all of them as one: the sum of their rows.
        preconditioner (Preconditioner): what multiplies their rows.
        length (Length, optional): by what scores are divided, on either side. It is fitted.
        by_own_length (bool): of an aggregate, each test example is divided by its own length before their rows are added up, so
            that the score is the sum of their scores. Else the sum is one text with a length of its own.
        read_from (TrainingSet, optional): what the batches were read from, where an example can be had alone.
        known (RowGradients, optional): their rows at all checkpoints, each scaled by √η_c, where these were computed before: the
            model is not asked again, and there need be no batches.
        summed (int): how many examples' rows, divided by their own lengths, were added up in ``known`` already; 0: none were.
    """

    batches: list[Batch]
    loss_fn: Loss | None
    aggregate: bool = False
    preconditioner: Preconditioner = field(default_factory=Identity)
    length: Length | None = None
    by_own_length: bool = False
    read_from: TrainingSet | None = None
    known: RowGradients | None = None
    summed: int = 0

    def __post_init__(self) -> None:
        if not self.batches and self.known is None:
            raise ValueError("`inputs` is empty: expected at least one test example.")

    @property
    def examples(self) -> int:
        """Test examples before they are aggregated."""
        if self.known is not None:
            return self.summed or len(self.known)
        return sum(size_of(batch) for batch in self.batches)

    def __len__(self) -> int:
        return 1 if self.aggregate else self.examples

    @property
    def divided(self) -> bool:
        """Whether the test examples' own lengths have yet to count."""
        return not self.summed and self.length is not None and self.length.of_test

    def of_rows(self, rows: RowGradients) -> Question:
        """The same, asked about examples whose ``rows`` are there, as ``known``: the model is not asked again."""
        return replace(self, batches=[], known=rows, read_from=None)

    def asked(self, rows: RowGradients) -> RowGradients:
        """Rows of the test examples: divided by their length, added up, preconditioned (see :meth:`mapped`).

        Args:
            rows (RowGradients): at all checkpoints, those of checkpoint c scaled by √η_c.
        """
        if self.summed:
            return self.mapped(rows, self.preconditioner)
        if self.aggregate and not self.by_own_length:
            rows = rows.sum()
        if self.length is not None and self.length.of_test:
            # Before all else: products of small gradients would leave float32, of which their lengths bring them back.
            rows = rows.scale(self.length.factors(rows))
        if self.aggregate and self.by_own_length:
            rows = rows.sum()
        return self.mapped(rows, self.preconditioner)

    @classmethod
    def of_sum(
        cls, blocks: Iterable[RowGradients], loss_fn: Loss | None, preconditioner: Preconditioner, length: Length | None
    ) -> Question:
        """About examples whose rows are there, all of them as one: the sum of their rows, each divided by its own length.

        Args:
            blocks (iterable of RowGradients): at all checkpoints, those of checkpoint c scaled by √η_c; in no order.
            loss_fn, preconditioner, length: as above.
        """
        total: RowGradients | None = None
        count = 0
        for rows in blocks:
            count += len(rows)
            if length is not None and length.of_test:
                rows = rows.scale(length.factors(rows))
            total = rows.sum() if total is None else RowGradients.cat([total, rows.sum()]).sum()
        if total is None or not count:
            raise ValueError("There are no training examples to ask about: expected at least one.")
        if first_not_finite(total.values) is not None:
            raise overflow("The sum of the gradients of the training examples", total.values.dtype)
        return cls([], loss_fn, True, preconditioner, length, by_own_length=True, known=total, summed=count)

    def mapped(self, rows: RowGradients, preconditioner: Preconditioner) -> RowGradients:
        """Rows of the test examples, preconditioned; as they are where that leads from word to word, until they :meth:`meet`."""
        return rows if leads_from_word_to_word(preconditioner) else applied(preconditioner, rows)

    def meet(self, rows: RowGradients, train: RowGradients, checkpoint: int | None = None) -> RowGradients:
        """Rows of the test examples as they meet some training rows, at all checkpoints or at one: those of their words alone."""
        preconditioner = self.preconditioner if checkpoint is None else self.preconditioner.at(checkpoint)
        if not leads_from_word_to_word(preconditioner):
            return rows
        return applied(preconditioner, rows, torch.unique(train.ids))

    def met_by(self, taught: RowGradients, asked: RowGradients) -> RowGradients:
        """Rows of training examples as they meet those of test examples, where the map is applied to them instead."""
        return applied_back(self.preconditioner, taught, torch.unique(asked.ids))

    def meeting(
        self, rows: RowGradients, limit: int, checkpoint: int | None = None
    ) -> Callable[[RowGradients], RowGradients]:
        """How rows of the test examples :meth:`meet` one block of training rows after the other.

        What leads from word to word is applied once, to all training words, where that stays within ``limit`` bytes: block by
        block each word is mapped to as often as blocks hold it, five to nine times.
        """
        preconditioner = self.preconditioner if checkpoint is None else self.preconditioner.at(checkpoint)
        if not leads_from_word_to_word(preconditioner):
            return lambda train: rows
        if self.fitting(rows, limit) < len(rows):
            return lambda train: applied(preconditioner, rows, torch.unique(train.ids))
        whole = applied(preconditioner, rows)
        return lambda train: whole.of_tokens(torch.unique(train.ids))

    def fitting(self, rows: RowGradients, limit: int) -> int:
        """Of how many test examples the rows, after a map from word to word, stay within ``limit`` bytes; 0: it does not tell."""
        words = words_of(self.preconditioner)
        return 0 if words is None else limit // max(1, len(words) * rows.width * rows.values.element_size())

    def train_factors(self, rows: RowGradients) -> Tensor | None:
        """By what the scores of training examples are multiplied, float64 ``(m,)``, of their rows at all checkpoints."""
        return self.length.factors(rows) if self.length is not None and self.length.of_train else None

    def taught(self, rows: RowGradients) -> RowGradients:
        """Rows of training examples at all checkpoints, divided by their length."""
        factors = self.train_factors(rows)
        return rows if factors is None else rows.scale(factors)


class RowSource(Protocol):
    """Row gradients of the M training examples, wherever they come from; columns of scores are training indices."""

    @property
    def indices(self) -> Tensor | None:
        """The training indices that are there, ascending, where some were deleted; None: all of them."""

    @property
    def size(self) -> int | None:
        """M, deleted examples included; None where only reading tells."""

    @property
    def labels(self) -> dict[int, int] | None:
        """Class number by training index; None where examples have no such label, or cannot be read for it."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Columns of a row at one checkpoint: as they are computed, and, where that differs, as they are kept."""

    @property
    def passes(self) -> int:
        """How often :meth:`score_blocks` multiplies each training example: once for each checkpoint, or once for all."""

    def scores(self, question: Question, show_progress: bool | None = False) -> Tensor:
        """All scores, ``(N, M)``."""

    def top_k(
        self, question: Question, k: int, proponents: bool = True, show_progress: bool | None = False
    ) -> tuple[Tensor, Tensor]:
        """Training indices and scores ``(N, min(k, M))`` of the k highest (lowest) for each test example, best first."""

    def score_blocks(
        self, question: Question, product: Product | None = None, desc: str = "", show_progress: bool | None = False
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Block by block the training indices ``(m,)`` and products ``(..., m)`` of training examples; by default their scores.

        The third is by what each of these has yet to be multiplied, for its length, ``(m,)`` (:func:`times`); None: nothing.
        Of products ``(N, m)`` none is NaN or infinite.
        """

    def self_influence(self, show_progress: bool | None = False, by_checkpoints: bool = False) -> Tensor:
        """Of each training example, ``(M,)``."""

    def rows(self, indices: Sequence[int] | None = None, show_progress: bool | None = False) -> RowGradients:
        """Row gradients of training examples (ascending; default: all), values ``(R, C * D)``."""

    def sample(self, count: int) -> RowGradients:
        """The rows of about ``count`` training examples, spread over all of them where they can be read singly."""

    def row_blocks(self, values: bool = True) -> Iterator[RowGradients]:
        """Those of all training examples in blocks, in no order: one pass, with never more than a block of rows in memory.

        Without ``values`` it is the tokens of the rows that are wanted, and there are no columns.
        """

    @property
    def keeps(self) -> bool:
        """Whether what is learned of its rows can be kept for other processes."""

    def recalled(self, of: Mapping[str, Any]) -> Tensor | None:
        """Numbers ``(n, m)`` that were learned of just these rows, with these settings; None: they are not there."""

    def keep(self, of: Mapping[str, Any], numbers: Tensor) -> None:
        """Keep numbers ``(n, m)`` that were learned, if that can be done."""

    def of_question(self, question: Question, show_progress: bool | None = False) -> RowGradients:
        """The question's rows at all checkpoints, divided and preconditioned, as they meet those of :meth:`rows`."""
