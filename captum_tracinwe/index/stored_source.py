"""The stored source: training rows come from an index; only the question goes through the model."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from captum_tracinwe.gradients.live import LiveRows
from captum_tracinwe.gradients.live_source import of_question
from captum_tracinwe.gradients.source import Product, Question, dot, spread, times
from captum_tracinwe.gradients.tables import Tables
from captum_tracinwe.index.files import learned
from captum_tracinwe.index.files.disk import IndexDamaged
from captum_tracinwe.index.files.manifest import Manifest
from captum_tracinwe.index.gradient_index import GradientIndex
from captum_tracinwe.index.search import SearchResult
from captum_tracinwe.index.snapshot import Snapshot
from captum_tracinwe.preconditioners import leads_from_word_to_word
from captum_tracinwe.rows.overflow import first_not_finite, overflow
from captum_tracinwe.rows.ranking import merge_top_k, top_k
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["StandIn", "StoredSource", "holds_more"]


class StandIn(Dataset[Any]):
    """In place of a training set that only its index speaks for."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        raise ValueError(
            f"Training example {index} is asked for, but train_dataset is None: expected the training set beside index=..., for "
            f"suspects needs its labels, synonym_scores and synonym_influence the strongest words of each text. An index alone "
            f"answers influence, self_influence, word_influence, row_gradients and word_report."
        )


def holds_more(index: Snapshot, tables: Tables) -> bool:
    """Whether the word table alone is asked, and an index has its rows, whole, beside those of a bag of words."""
    if str(tables) != "input" or index.projection is not None or " + " not in index.manifest.source.table:
        return False
    kept = Tables.parse(index.manifest.source.table)
    return kept.names == ("input", "bag") and kept.shares[0] == 1


@dataclass(frozen=True, eq=False)
class StoredSource:
    """Row gradients of a training set as an index holds them.

    An index of the word table and a bag of words answers for the word table alone too (:func:`holds_more`): of its rows the
    leading columns of each checkpoint are taken, and a question that it searches has zeros in the others.

    Args:
        index (GradientIndex): M training examples.
        live (LiveRows): the model, for the question.
    """

    index: GradientIndex
    live: LiveRows

    @property
    def indices(self) -> Tensor | None:
        """Those that were not deleted."""
        return self.index.numbers if self.index.manifest.deleted else None

    @property
    def size(self) -> int | None:
        """As many training indices as were given out."""
        return self.index.total

    @property
    def labels(self) -> dict[int, int] | None:
        """Class number by training index, of those that were not deleted; None where the index keeps no whole numbers."""
        found: dict[int, int] = {}
        for segment in self.index.segments:
            kept = segment.columns.get("label", [None])
            if any(type(label) is not int for label in kept):
                return None
            found.update(zip(segment.numbers.tolist(), kept, strict=True))
        return found

    @property
    def widths(self) -> tuple[int, ...]:
        """D, and where random projections are kept, how many."""
        manifest = self.index.manifest
        if self._columns is not None:
            return (self._columns,)
        return tuple(dict.fromkeys((manifest.source.width, manifest.stored_width)))

    @property
    def _columns(self) -> int | None:
        """How many leading columns of a checkpoint are asked for, where the index has more."""
        return int(self.live.table.weight.shape[1]) if holds_more(self.index, self.live.tables) else None

    def _taken(self, rows: RowGradients, columns: int | None) -> RowGradients:
        """Rows of the index, of which the leading ``columns`` of each checkpoint are wanted; None: all."""
        if columns is None or not rows.width:
            return rows
        values = rows.values.view(rows.num_rows, len(self.live.weights), -1)[:, :, :columns]
        return RowGradients(rows.ptr, rows.ids, values.flatten(1))

    def _padded(self, rows: RowGradients) -> RowGradients:
        """A question's rows, with zeros in the columns that are not asked for, so that scores and bounds stay true."""
        columns = self._columns
        if columns is None:
            return rows
        values = rows.values.new_zeros((rows.num_rows, len(self.live.weights), self.index.manifest.source.width))
        values[:, :, :columns] = rows.values.view(rows.num_rows, len(self.live.weights), columns)
        return RowGradients(rows.ptr, rows.ids, values.flatten(1))

    def _scans(self, question: Question) -> bool:
        """Whether no bound sorts texts out: a question with rows of all training words, or norms that the index does not have."""
        length = question.length
        by_norm = self._columns is not None and length is not None and length.by == "gradient" and length.of_train
        return leads_from_word_to_word(question.preconditioner) or by_norm

    @property
    def passes(self) -> int:
        """Each training example is multiplied once: its checkpoints lie side by side."""
        return 1

    def scores(self, question: Question, show_progress: bool | None = False) -> Tensor:
        """All scores, ``(N, M)``; −∞ for training examples that were deleted."""
        if not self._scans(question):
            return self.index.scores(self._padded(self._asked(question, show_progress)), question.length)
        self.index.warn_unfinished()
        shape = len(question), self.index.total
        scores = self.index.nothing_yet("scores", shape, "with fewer test examples at a time, or for the best with k")
        first = 0
        for part in self._parts(question, show_progress):
            for numbers, found, factors in self.score_blocks(part, show_progress=show_progress):
                scores[first : first + len(part), numbers] = _finite(times(found, factors), numbers)
            first += len(part)
        return scores

    def top_k(
        self, question: Question, k: int, proponents: bool = True, show_progress: bool | None = False
    ) -> tuple[Tensor, Tensor]:
        """The k highest (lowest) of each test example, by reading a part of the index; by scoring all where a question's rows are
        of all training words, which no bound sorts out.
        """
        if self._scans(question):
            self.index.warn_unfinished()
            parts = [self._top_k(part, k, proponents, show_progress) for part in self._parts(question, show_progress)]
            indices, scores = zip(*parts, strict=True)
            return torch.cat(indices), torch.cat(scores)
        found = self.search(question, k, proponents, show_progress)
        return found.indices, found.influence_scores

    def _top_k(self, question: Question, k: int, proponents: bool, show_progress: bool | None) -> tuple[Tensor, Tensor]:
        best = torch.empty((len(question), 0), dtype=torch.int64), torch.empty((len(question), 0))
        for numbers, scores, factors in self.score_blocks(question, show_progress=show_progress):
            places, values = top_k(_finite(times(scores, factors), numbers), k, proponents)
            size = min(k, best[0].shape[1] + places.shape[1])
            best = merge_top_k(best, (numbers[places], values), size, proponents)
        return best

    def _parts(self, question: Question, show_progress: bool | None) -> list[Question]:
        """The question, or runs of its test examples that can be mapped to all training words at once: for each run the index is
        read once more, which takes less than to map to the words of each block.
        """
        if question.aggregate or not leads_from_word_to_word(question.preconditioner):
            return [question]
        rows = self._known(question, show_progress)
        known = question.of_rows(rows)
        fits = question.fitting(self._as_kept(rows), self.live.memory_limit)
        if not 0 < fits < len(rows):
            return [known]
        starts = range(0, len(rows), fits)
        return [replace(known, known=rows.part(start, min(start + fits, len(rows)))) for start in starts]

    def search(
        self, question: Question, k: int, proponents: bool = True, show_progress: bool | None = False
    ) -> SearchResult:
        """The same by the bounds, and what was read for it; not for a question that leads from word to word."""
        rows = self._padded(self._asked(question, show_progress))
        return self.index.search(rows, k, proponents, length=question.length)

    def score_blocks(
        self, question: Question, product: Product | None = None, desc: str = "", show_progress: bool | None = False
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Training indices, products and factors of one segment, or part of it, after the other."""
        test = self._as_kept(self._asked(question, show_progress))
        meet = question.meeting(test, self.live.memory_limit)
        for numbers, rows in self._blocks(test, question):
            met = meet(rows)
            products = dot(met, rows) if product is None else product(met, rows)
            yield numbers, products, question.train_factors(rows)

    def _blocks(self, test: RowGradients, question: Question) -> Iterator[tuple[Tensor, RowGradients]]:
        """Those of the index, cut where a test example may have a row for each word of a block, to stay within the limit."""
        columns, limit = self._columns, self.live.memory_limit
        if not leads_from_word_to_word(question.preconditioner) or question.fitting(test, limit) >= len(test):
            for numbers, rows in self.index.blocks(copy=False):
                yield numbers, self._taken(rows, columns)
            return
        most = limit // max(1, 4 * len(test) * test.width)
        for numbers, rows in self.index.blocks(copy=False):
            start = 0
            while start < len(rows):
                fits = int(torch.searchsorted(rows.ptr, int(rows.ptr[start]) + most, right=True)) - 1
                stop = max(start + 1, min(fits, len(rows)))
                yield numbers[start:stop], self._taken(rows.part(start, stop), columns)
                start = stop

    def pushes(self, question: Question, taught: RowGradients) -> Iterator[tuple[Tensor, Tensor]]:
        """What some training examples do to all: block by block training indices ``(m,)``, asked about as test examples with the
        labels that they have in training, and their scores ``(m, n)``. No gradient is computed: both sides are the index's.

        Args:
            question (Question): by whose preconditioner and length it is asked; its own examples do not count.
            taught (RowGradients): of n training examples, divided by their length (:meth:`Question.taught`).

        Raises:
            ValueError: the index keeps random projections, which no preconditioner can be applied to.
        """
        if self.index.projection is not None:
            raise ValueError(
                "This index was built with project=..., and keeps no whole gradients of training texts to ask about: expected "
                "one built without it."
            )
        self.index.warn_unfinished()
        # ⟨P q, t⟩ = ⟨q, P t⟩: what leads from word to word is applied to the few and not to the many.
        meet = question.meeting(taught, self.live.memory_limit)
        for numbers, rows in self._blocks(taught, question):
            asked = question.asked(rows)
            yield numbers, dot(asked, meet(asked))

    def self_influence(self, show_progress: bool | None = False, by_checkpoints: bool = False) -> Tensor:
        """Of each training example, ``(M,)``; −∞ for those that were deleted. Reads no gradients, unless of a part of them."""
        equal = self.live.tables.equal
        if equal:
            self._refuse_projections()
        if not equal and self._columns is None:
            return self.index.self_influence()
        self.index.warn_unfinished()
        otherwise = "by row_gradients(), and take their squared_norms()"
        found = self.index.nothing_yet("self_influence", (self.index.total,), otherwise)
        first = self.live.widths(self.index.manifest.source.width)[0] if equal else self._columns
        for numbers, rows in self.index.blocks(copy=False):
            found[numbers] = self._taken(rows, first).squared_norms()
        return found

    def rows(self, indices: Sequence[int] | None = None, show_progress: bool | None = False) -> RowGradients:
        """Row gradients of training examples, values ``(R, C * D)``."""
        return self._taken(self.index.rows(indices), self._columns)

    def sample(self, count: int) -> RowGradients:
        """Of about ``count`` training examples that are there, spread over all of them.

        Raises:
            ValueError: the index keeps random projections, in which the columns of several tables are mixed.
        """
        self._refuse_projections()
        numbers = self.index.numbers
        return self._taken(self.index.rows(numbers[spread(len(numbers), count)]), self._columns)

    def _refuse_projections(self) -> None:
        if self.index.projection is not None:
            raise ValueError(
                "shares='equal' measures the columns of each table, and this index was built with project=..., which mixes them: "
                "expected an index with whole rows. Build one without project, or with shares as numbers."
            )

    def row_blocks(self, values: bool = True) -> Iterator[RowGradients]:
        """Those of all training examples that are there, by reading the index once; tokens alone are a small part of it."""
        for _, rows in self.index.blocks(values):
            yield self._taken(rows, self._columns)

    @property
    def keeps(self) -> bool:
        """The index's directory does, if it can be written to."""
        return True

    def recalled(self, of: Mapping[str, Any]) -> Tensor | None:
        """What was kept beside the index, float64 ``(n, m)``, if it was learned of just these segments."""
        found = learned.recall(self.index.path, *self._kept_as(of))
        return None if found is None else torch.tensor(found, dtype=torch.float64)

    def keep(self, of: Mapping[str, Any], numbers: Tensor) -> None:
        """Keep it there, unless that cannot be written to, or a writer has changed the index since it was opened."""
        content, spelled = self._kept_as(of)
        with contextlib.suppress(OSError, IndexDamaged):
            if Manifest.read(self.index.path) == self.index.manifest:
                learned.keep(self.index.path, content, spelled, tuple(map(tuple, numbers.double().tolist())))

    def _kept_as(self, of: Mapping[str, Any]) -> tuple[str, str]:
        """The SHA-256 of the manifest, and settings with the segments that are looked at: :meth:`GradientIndex.part` has some."""
        segments = hashlib.sha256(" ".join(one.entry.file.name for one in self.index.segments).encode()).hexdigest()
        content = hashlib.sha256(self.index.manifest.encoded()).hexdigest()
        return content, json.dumps({**of, "segments": segments}, sort_keys=True)

    def of_question(self, question: Question, show_progress: bool | None = False) -> RowGradients:
        """The question's rows at all checkpoints, as the index keeps rows."""
        return self._as_kept(self._asked(question, show_progress))

    def _as_kept(self, rows: RowGradients) -> RowGradients:
        rows = rows.to("cpu", torch.float32)
        kept = len(self.live.weights) * self.index.manifest.stored_width
        as_they_are = self._columns is not None or (self.index.projection is not None and rows.width == kept)
        return rows if as_they_are else self.index.project(rows)

    def _asked(self, question: Question, show_progress: bool | None) -> RowGradients:
        with torch.no_grad():
            return question.asked(self._known(question, show_progress))

    @torch.no_grad()
    def _known(self, question: Question, show_progress: bool | None) -> RowGradients:
        """The test examples' rows before anything is made of them."""
        known = question.known
        return self.live.rows(question.batches, of_question(question), show_progress) if known is None else known


def _finite(scores: Tensor, numbers: Tensor) -> Tensor:
    """These scores ``(N, m)``, none of which is NaN or infinite."""
    place = first_not_finite(scores)
    if place is not None:
        raise overflow(
            f"The score of training example {int(numbers[place[1]])} for test example {place[0]}", scores.dtype
        )
    return scores
