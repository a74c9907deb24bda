"""The words' side of a Hessian: (XᵀX / λ + 1)⁻¹ of the training texts' tf-idf vectors, a column for each word asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from captum_tracinwe.preconditioners.moments import Moments

__all__ = ["InverseGram", "Occurrences"]

# Words whose columns are solved for at a time. Of 10,000 words, 256 took half as long again each: they are beyond the caches.
WORDS_AT_ONCE = 64
# Bytes of solved columns that are kept for the next question: a live source that cannot hold what it asks about as a whole asks
# at each batch of each checkpoint. Of 11,000 words all are kept.
KEPT_BYTES = 1 << 30
# Words whose columns are laid side by side for the texts that hold them: of 12,000 words 50 MB.
SIDE_BY_SIDE = 1024
# The residual at which a round in float32 ends: it has not many more digits.
SINGLE = 1e-5


@dataclass(frozen=True, eq=False)
class Occurrences:
    """Which words stand in which training texts: 4 bytes a word and text.

    Args:
        counts (Tensor): int32 ``(N,)``, distinct words of each text.
        ids (Tensor): int32 ``(R,)``, the texts' words one after the other.
        checkpoints, width (int): C and D of the rows that they were read from.
        moved (Tensor, optional): float64 ``(V,)``, how far training moved each word's vector.
    """

    counts: Tensor
    ids: Tensor
    checkpoints: int
    width: int
    moved: Tensor | None = None

    @property
    def examples(self) -> int:
        """N."""
        return len(self.counts)

    @property
    def largest(self) -> int:
        """The largest token id; −1 where there is none."""
        return int(self.ids.max()) if len(self.ids) else -1

    @cached_property
    def words(self) -> Tensor:
        """The training words, int64 ``(W,)``, ascending."""
        words: Tensor = torch.unique(self.ids).long()
        return words

    def merge(self, other: Occurrences) -> Occurrences:
        """Those of both training sets."""
        return replace(self, counts=torch.cat([self.counts, other.counts]), ids=torch.cat([self.ids, other.ids]))

    def at(self, checkpoint: int) -> Occurrences:
        """The words of a text are the same at each checkpoint."""
        return replace(self, checkpoints=1)

    def moments(self) -> Moments:
        """How many texts hold each word."""
        ids, counts = torch.unique(self.ids, return_counts=True)
        return Moments(
            len(self.counts), 0, ids.long(), counts.double(), torch.zeros((len(ids), 1), dtype=torch.float64)
        )


def part_moved(moved: Tensor, counts: Tensor) -> Tensor:
    """How far training moved each word, of what it moved words of about as many texts: float64 ``(W,)``, 1 at most.

    Args:
        moved (Tensor): ``(W,)``.
        counts (Tensor): int64 ``(W,)``, texts that hold each word, at least 1. Words of 2ᵏ to 2ᵏ⁺¹ - 1 texts are compared: a
            word of many texts moves further, which says nothing of whether it was learned. Where at least half of them did not
            move, as of a frozen table, nothing is known, and all have 1. So has a word that no other is compared with.
    """
    found = torch.ones_like(moved)
    octave = torch.frexp(counts.double()).exponent
    for each in torch.unique(octave).tolist():
        alike = octave == each
        median = moved[alike].median()
        if float(median) > 0:
            found[alike] = (moved[alike] / median).clamp_(max=1)
    return found


@dataclass(frozen=True, eq=False)
class _Sparse:
    """A sparse matrix by rows: where each starts, columns, values."""

    starts: Tensor
    columns: Tensor
    values: Tensor

    def to(self, dtype: torch.dtype) -> _Sparse:
        """The same with values of another type."""
        return replace(self, values=self.values.to(dtype))

    def times(self, dense: Tensor) -> Tensor:
        """The product with a dense one; torch's own sparse matrices warn that they are in beta."""
        return embedding_bag(self.columns, dense, self.starts, mode="sum", per_sample_weights=self.values)


@dataclass(frozen=True, eq=False)
class InverseGram:
    """(XᵀX / λ + 1)⁻¹ of the training texts, solved for word by word.

    Args:
        texts (Occurrences): N training texts.
        power, damping, tolerance, most_iterations: as in :class:`Cooccurrence`.
    """

    texts: Occurrences
    power: float
    damping: float
    tolerance: float
    most_iterations: int

    @cached_property
    def words(self) -> Tensor:
        """The training words, int64 ``(W,)``, ascending."""
        return self.texts.words

    def places(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The place of each word among them, and whether it is one; of ``ids`` (ascending) that are none the place is 0."""
        words = self.words
        if not len(words):
            return torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        place = torch.searchsorted(words, ids).clamp_(max=len(words) - 1)
        there = words[place] == ids
        return place.masked_fill(~there, 0), there

    @cached_property
    def weights(self) -> Tensor:
        """a, float64 ``(W,)``."""
        known = self.texts
        counts = torch.bincount(self.places(known.ids.long())[0], minlength=len(self.words))
        weights: Tensor = (known.examples / counts.double()).log() ** self.power
        if known.moved is not None:
            weights = weights * part_moved(known.moved[self.words], counts)
        return weights

    @cached_property
    def _by_text(self) -> _Sparse:
        """X."""
        known = self.texts
        places, counts = self.places(known.ids.long())[0], known.counts.long()
        example = torch.arange(known.examples).repeat_interleave(counts)
        weights = self.weights[places]
        squares = torch.zeros(known.examples, dtype=torch.float64).index_add_(0, example, weights)
        values = weights.sqrt() / squares.clamp_min(torch.finfo(torch.float64).tiny).sqrt()[example]
        return _Sparse(counts.cumsum(0) - counts, places, values)

    @cached_property
    def _by_word(self) -> _Sparse:
        """Xᵀ."""
        known, by_text = self.texts, self._by_text
        order = torch.argsort(by_text.columns, stable=True)
        counts = torch.bincount(by_text.columns, minlength=len(self.words))
        example = torch.arange(known.examples).repeat_interleave(known.counts.long())
        return _Sparse(counts.cumsum(0) - counts, example[order], by_text.values[order])

    @cached_property
    def _solved(self) -> dict[tuple[int, torch.dtype], Tensor]:
        """Columns of the inverse that were asked for, ``(W,)``, by the place of their word, in the type asked for."""
        return {}

    def forget(self) -> None:
        """Solve for all words anew."""
        self._solved.clear()

    @property
    def most(self) -> int:
        """Words whose columns are kept."""
        return max(1, KEPT_BYTES // (8 * max(1, len(self.words))))

    @property
    def at_once(self) -> int:
        """Words whose columns may be asked for at a time, none of which is solved for twice."""
        return max(WORDS_AT_ONCE, min(self.most, 4 * WORDS_AT_ONCE))

    def groups(self, ends: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Runs of examples of at most so many words that their columns are laid side by side; one with more is alone."""
        start, most = 0, min(self.most, SIDE_BY_SIDE)
        for stop in range(1, len(ends)):
            if stop == len(ends) - 1 or ends[stop + 1] - ends[start] > most:
                yield start, stop
                start = stop

    def columns(self, words: Sequence[int], wanted: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """(XᵀX / λ + 1)⁻¹ of some distinct words, by their places, at the ``wanted`` ones: ``(n, m)``."""
        solved = self._solved
        # What is at hand is looked up once: another thread may clear it.
        found = {word: column for word in words if (column := solved.get((word, dtype))) is not None}
        missing = [word for word in words if word not in found]
        if len(solved) + len(missing) > self.most:
            solved.clear()
        for start in range(0, len(missing), WORDS_AT_ONCE):
            part = missing[start : start + WORDS_AT_ONCE]
            new = dict(zip(part, self._solve(part).T.to(dtype).contiguous().unbind(), strict=True))
            found |= new
            solved.update({(word, dtype): column for word, column in new.items()})
        if not words:
            return torch.zeros((0, len(wanted)), dtype=dtype)
        return torch.stack([found[word][wanted] for word in words])

    @cached_property
    def _single(self) -> tuple[_Sparse, _Sparse]:
        """X and Xᵀ in float32."""
        return self._by_text.to(torch.float32), self._by_word.to(torch.float32)

    def _solve(self, words: Sequence[int]) -> Tensor:
        """Columns of some words, ``(W, n)``."""
        asked = torch.zeros((len(self.words), len(words)), dtype=torch.float64)
        asked[torch.tensor(words), torch.arange(len(words))] = 1
        return self._solved_for(asked)

    def times(self, rows: Tensor) -> Tensor:
        """(XᵀX / λ + 1)⁻¹ times some columns, float64 ``(W, n)``, each solved for to the tolerance of its own length."""
        found = torch.empty_like(rows)
        for start in range(0, rows.shape[1], WORDS_AT_ONCE):
            part = rows[:, start : start + WORDS_AT_ONCE]
            length = part.norm(dim=0).clamp_min(torch.finfo(torch.float64).tiny)
            found[:, start : start + WORDS_AT_ONCE] = self._solved_for(part / length) * length
        return found

    def _solved_for(self, asked: Tensor) -> Tensor:
        """Solutions for columns of length 1 at most, all at once: by rounds in float32, each of which goes on from what float64
        says is left.

        A product in float32 takes a quarter to a tenth of the time, and the condition number is at most 1 + 1 / damping. Where a
        round leaves more than a tenth, as with a very small damping, float64 goes on alone.
        """
        double = self._by_text, self._by_word
        found, rest, size = torch.zeros_like(asked), asked, 1.0
        while size > max(self.tolerance, SINGLE**2):
            step = self._conjugate(self._single, rest.float() / size, max(SINGLE, 0.1 * self.tolerance / size))
            better = found + step.double() * size
            left = asked - self._times(double, better)
            largest = float(left.norm(dim=0).max())
            if not largest <= 0.1 * size:
                break
            found, rest, size = better, left, largest
        if size > self.tolerance:
            found += self._conjugate(double, rest, self.tolerance)
            size = float((asked - self._times(double, found)).norm(dim=0).max())
        if not size <= 2 * self.tolerance:  # its own count of what is left differs from the true one in the last digits
            raise ValueError(
                f"Cooccurrence: conjugate gradients left {size:.1e} of a word's residual, with {self.most_iterations} iterations "
                f"at most: expected {self.tolerance:.1e}. Take a larger damping, more iterations, or a larger tolerance."
            )
        return found

    def _times(self, matrices: tuple[_Sparse, _Sparse], dense: Tensor) -> Tensor:
        """(XᵀX / λ + 1) times a dense matrix."""
        by_text, by_word = matrices
        return by_word.times(by_text.times(dense)).div_(self.damping * self.texts.examples).add_(dense)

    def _conjugate(self, matrices: tuple[_Sparse, _Sparse], asked: Tensor, tolerance: float) -> Tensor:
        """Conjugate gradients, until no column's residual is above ``tolerance`` or iterations are out."""
        tiny = torch.finfo(asked.dtype).tiny
        found, rest, step = torch.zeros_like(asked), asked.clone(), asked.clone()
        size = rest.square().sum(0)
        for _ in range(self.most_iterations):
            if not float(size.max()) > tolerance**2:
                break
            moved = self._times(matrices, step)
            length = size / (step * moved).sum(0).clamp_min(tiny)
            found.addcmul_(step, length)
            rest.addcmul_(moved, length, value=-1)
            before, size = size, rest.square().sum(0)
            step.mul_(size / before.clamp_min(tiny)).add_(rest)
        return found
