"""The live source: training rows are computed anew at each question, block by block, and forgotten."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from captum_tracinwe.batches.batch import Batch, Loss, labels_of, positions_of, size_of
from captum_tracinwe.batches.loaders import reading
from captum_tracinwe.batches.training_set import TrainingSet
from captum_tracinwe.gradients.block_lengths import BlockLengths
from captum_tracinwe.gradients.live import Asked, LiveRows
from captum_tracinwe.gradients.source import Product, Question, dot, spread, times
from captum_tracinwe.rows.overflow import first_not_finite, overflow
from captum_tracinwe.rows.ranking import merge_top_k, top_k
from captum_tracinwe.rows.row_gradients import RowGradients
from captum_tracinwe.waiting import waits

__all__ = ["LiveSource", "of_question"]

# Of the rows of a block: by batch, by checkpoint, side by side.
COPIES = 3
# Bytes of rows that a GPU multiplies at once.
TOGETHER = 1 << 28


def _at_a_time(batches: Iterator[RowGradients]) -> Iterator[RowGradients]:
    """On a GPU the rows of several batches: those of one keep few of its processors busy, and each product is waited for."""
    held: list[RowGradients] = []
    for rows in batches:
        if not waits(rows.values.device):
            yield rows
            continue
        held.append(rows)
        if sum(one.nbytes for one in held) >= TOGETHER:
            yield RowGradients.cat(held)
            held = []
    if held:
        yield RowGradients.cat(held)


def of_question(question: Question) -> Asked:
    """The test examples, as their gradients are asked for."""
    return Asked(question.loss_fn, "test", examples=question.read_from)


@dataclass(frozen=True, eq=False)
class LiveSource:
    """Row gradients of a training set through a model.

    Args:
        live (LiveRows): the model.
        examples (TrainingSet): M training examples.
        loss_fn (callable or None): by which they were trained.
    """

    live: LiveRows
    examples: TrainingSet
    loss_fn: Loss | None

    @property
    def asked(self) -> Asked:
        """The training examples, for those who read them in the order of their places."""
        return Asked(self.loss_fn, "training", self.examples.index_of, self.examples)

    @property
    def indices(self) -> Tensor | None:
        """All are there."""
        return None

    @property
    def size(self) -> int | None:
        """Told by reading."""
        return None

    @property
    def labels(self) -> dict[int, int] | None:
        """Class number by training index, by reading the training set; None of a stream, or where labels are of another kind."""
        if self.examples.readable is None:
            return None
        found: list[int] = []
        with torch.random.fork_rng(devices=[]):  # a DataLoader draws a seed
            for batch in reading(self.examples.by_index(), "train_dataset"):
                labels = labels_of(batch, self.live.label_names)
                whole = isinstance(labels, Tensor) and labels.dim() == 1 and not labels.is_floating_point()
                if not whole or len(labels) != size_of(batch):
                    return None
                found += labels.tolist()
        return dict(enumerate(found))

    @property
    def passes(self) -> int:
        """Each training example is multiplied at each checkpoint."""
        return len(self.live.weights)

    @cached_property
    def width(self) -> int:
        """D, columns of a row at one checkpoint; of a bag-of-words layer by the model's answer to the first batch."""
        live = self.live
        if live.width is not None:
            return live.width
        checkpoint = live.weights.checkpoints[0]
        with live.weights.untouched():
            live.weights.at(checkpoint)
            return next(live.rows_at(checkpoint, self.examples.loader, self.asked)).width

    @property
    def widths(self) -> tuple[int, ...]:
        """D."""
        return (self.width,)

    def scores(self, question: Question, show_progress: bool | None = False) -> Tensor:
        """All scores, ``(N, M)``."""
        desc = f"Using {self.live.name} to compute influence for training batches"
        parts = self._by_place(question, None, desc, show_progress)
        found = torch.cat([self._divided(question, *part) for part in parts], dim=1)
        places = self.examples.places()
        return found if places is None else found[:, places]

    def top_k(
        self, question: Question, k: int, proponents: bool = True, show_progress: bool | None = False
    ) -> tuple[Tensor, Tensor]:
        """The k highest (lowest) of each test example, with never more than a block of scores in memory."""
        desc = (
            f"Using {self.live.name} to perform computation for getting {'proponents' if proponents else 'opponents'}. "
            "Processing training batches"
        )
        best: tuple[Tensor, Tensor] | None = None
        for part in self._by_place(question, None, desc, show_progress):
            scores = self._divided(question, *part)
            indices = self.examples.indices_of(part[0]).to(scores.device)
            order = torch.argsort(indices)  # equal scores are ranked by training index
            places, values = top_k(scores if self.examples.order is None else scores[:, order], k, proponents)
            found = (indices[order][places], values)
            best = found if best is None else merge_top_k(best, found, k, proponents)
        assert best is not None
        return best

    def score_blocks(
        self, question: Question, product: Product | None = None, desc: str = "", show_progress: bool | None = False
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Training indices, products and factors of one block after the other; the model is free whenever a block is out."""
        for places, products, factors in self._by_place(question, product, desc, show_progress):
            yield self.examples.indices_of(places).to(products.device), products, factors

    def _by_place(
        self, question: Question, product: Product | None, desc: str, show_progress: bool | None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        live, loader = self.live, self.examples.loader
        # A text's length is known when its gradients at all checkpoints are: those of the question are computed before.
        whole = self.of_question(question) if question.divided or question.known is not None else None
        tests: list[RowGradients] = []
        with live.bar(loader, desc, show_progress) as bar:
            for block in live.blocks(loader, "train_dataset", len(question) * live.itemsize):
                scores: Tensor | None = None
                lengths = BlockLengths(question.length, live.top_k_words is not None)
                with live.weights.untouched():
                    for c, checkpoint in enumerate(live.weights.checkpoints):
                        rate = live.weights.at(checkpoint)
                        if c == len(tests):  # the first block
                            tests.append(self._question_at(checkpoint, c, question, rate, whole))
                        meet = question.meeting(tests[c], live.memory_limit, c)
                        trained = live.rows_at(checkpoint, block.batches, self.asked, block.start, bar)
                        found = []
                        for rows in _at_a_time(trained):
                            test = meet(rows)
                            found.append(dot(test, rows) if product is None else product(test, rows))
                            lengths.see(rows, c, rate)
                        products = torch.cat(found, dim=-1)
                        scores = products if scores is None else scores.add_(products)
                        self._refuse_overflow(scores, block.start, question, checkpoint)
                assert scores is not None
                yield torch.arange(block.start, block.start + block.size), scores, lengths.factors()

    def _divided(self, question: Question, places: Tensor, scores: Tensor, factors: Tensor | None) -> Tensor:
        """Scores ``(N, m)`` of a block, the training examples' lengths in them."""
        if factors is not None:
            scores = times(scores, factors)
            self._refuse_overflow(scores, int(places[0]), question, None)
        return scores

    def _refuse_overflow(self, scores: Tensor, start: int, question: Question, checkpoint: object) -> None:
        place = first_not_finite(scores) if scores.dim() == 2 else None
        if place is not None:
            asked = "the test examples together" if question.aggregate else f"test example {place[0]}"
            taught = self.examples.index_of(start + place[1])
            at = "divided by lengths" if checkpoint is None else f"at checkpoint {self.live.weights.named(checkpoint)}"
            raise overflow(f"The score of training example {taught} for {asked}, {at},", scores.dtype)

    def _question_at(
        self, checkpoint: object, number: int, question: Question, rate: float, whole: RowGradients | None
    ) -> RowGradients:
        """The question's rows ``(R, D)`` times the rate, by the weights that are in the model now; or a part of ``whole``."""
        if whole is not None:
            width = whole.width // len(self.live.weights)
            return whole.columns(number * width, (number + 1) * width).scale(math.sqrt(rate))
        rows = RowGradients.cat(self.live.rows_at(checkpoint, question.batches, of_question(question)))
        rows = rows.sum() if question.aggregate else rows
        return question.mapped(rows, question.preconditioner.at(number)).scale(rate)

    def self_influence(self, show_progress: bool | None = False, by_checkpoints: bool = False) -> Tensor:
        """Σ_c η_c‖g_c(x)‖² of each training example, ``(M,)``; with equal shares of the first table alone."""
        live = self.live.of_one_unit
        compute = live.self_influence_by_checkpoints if by_checkpoints else live.self_influence
        found, places = compute(self.examples.loader, self.asked, show_progress), self.examples.places()
        return found if places is None else found[places]

    def rows(self, indices: Sequence[int] | None = None, show_progress: bool | None = False) -> RowGradients:
        """Row gradients of training examples, values ``(R, C * D)``; of chosen ones no others are computed.

        Raises:
            ValueError: the training set has no such example.
        """
        if indices is not None:
            batches, held = self.examples.chosen(indices)
            chosen = TrainingSet(batches) if isinstance(batches, DataLoader) else None
            rows = self.live.rows(batches, Asked(self.loss_fn, "training", held.__getitem__, chosen), show_progress)
            return rows if held == list(indices) else rows.select([held.index(index) for index in indices])
        rows, order = self.live.rows(self.examples.loader, self.asked, show_progress), self.examples.places()
        return rows if order is None else rows.select(order)

    def sample(self, count: int) -> RowGradients:
        """The rows of about ``count`` training examples, spread over all of them; of a stream, of the first batches."""
        size = self.examples.readable
        if size is not None:
            return self.rows(spread(size, count))
        batches: list[Batch] = []
        for batch in reading(self.examples.loader, "train_dataset"):
            batches.append(batch)
            if sum(map(size_of, batches)) >= count:
                break
        return self.live.rows(batches, self.asked)

    def row_blocks(self, values: bool = True) -> Iterator[RowGradients]:
        """Those of all training examples, each computed once; a block and its copies stay within the memory limit.

        The tokens alone take no gradients, unless these choose them.
        """
        live = self.live
        if not values and live.top_k_words is None:
            yield from live.token_blocks(self.examples.loader, self.asked)
            return
        numbers = len(live.weights) * int(live.table.weight.shape[1])

        def most(batch: Batch) -> int:
            return COPIES * live.itemsize * numbers * positions_of(batch)

        for _, rows in live.row_blocks(self.examples.loader, self.asked, bytes_per_example=most):
            yield rows if values else rows.columns(0, 0)

    @property
    def keeps(self) -> bool:
        """Nothing: that the training examples are those of another day, only reading them all would tell."""
        return False

    def recalled(self, of: Mapping[str, Any]) -> Tensor | None:
        """Nothing was kept."""
        return None

    def keep(self, of: Mapping[str, Any], numbers: Tensor) -> None:
        """Nothing is kept."""

    def of_question(self, question: Question, show_progress: bool | None = False) -> RowGradients:
        """The question's rows at all checkpoints, each scaled by √η_c."""
        known = question.known
        rows = self.live.rows(question.batches, of_question(question), show_progress) if known is None else known
        return question.asked(rows)
