"""`Cooccurrence`: words that stand together in the training texts explain one another away; it leads from word to word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from captum_tracinwe.batches.arguments import is_whole
from captum_tracinwe.preconditioners.learned import Learned, check_positive, check_rows
from captum_tracinwe.preconditioners.moments import Moments
from captum_tracinwe.rows.overflow import first_not_finite, overflow
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["Cooccurrence", "Occurrences"]

# Words whose columns are solved for at a time, and bytes of solved columns that are kept for the next question.
WORDS_AT_ONCE = 256
KEPT_BYTES = 128 << 20


@dataclass(frozen=True, eq=False)
class Occurrences:
    """Which words stand in which training texts: 4 bytes a word and text.

    Args:
        counts (Tensor): int32 ``(N,)``, distinct words of each text.
        ids (Tensor): int32 ``(R,)``, the texts' words one after the other.
    """

    counts: Tensor
    ids: Tensor

    checkpoints: ClassVar[int] = 1
    width: ClassVar[int] = 0

    @property
    def examples(self) -> int:
        """N."""
        return len(self.counts)

    def merge(self, other: Occurrences) -> Occurrences:
        """Those of both training sets."""
        return Occurrences(torch.cat([self.counts, other.counts]), torch.cat([self.ids, other.ids]))

    def at(self, checkpoint: int) -> Occurrences:
        """The words of a text are the same at each checkpoint."""
        return self

    def moments(self) -> Moments:
        """How many texts hold each word."""
        ids, counts = torch.unique(self.ids, return_counts=True)
        return Moments(
            len(self.counts), 0, ids.long(), counts.double(), torch.zeros((len(ids), 1), dtype=torch.float64)
        )


@dataclass(frozen=True, eq=False)
class _Kept:
    """Solved columns by the place of their word."""

    columns: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Cooccurrence(Learned[Occurrences]):
    """q' = A^½ (XᵀX / λ + 1)⁻¹ A^½ q, a map of words: all columns and checkpoints alike.

    X ``(N, W)`` holds for each training text the tf-idf vector of its words, x_jw = a_w^½ / L_j, with a_w = idf_w^power,
    idf_w = log(N / n_w) and L_j = √Σ_w a_w, so that each text has length 1; λ = damping · N, that is, damping times the sum of
    the eigenvalues of XᵀX. A is the diagonal of a. Without the inverse it is :class:`Idf`.

    The plain score, and :class:`Idf`, take each word for itself: a training text that shares three words of one phrase counts
    three times, and a word counts in full although others of the text say the same. A model is trained on whole texts: what
    one word explains is not left for the next. The Hessian of a layer that leads from word counts to the logits has XᵀX as
    its factor on the words' side; here it is taken for the word table's too, where a text's error reaches all of its words.
    It is what the influence function of a regression on words has and TracIn lacks.

    q' has a row for **every word of the training set**: also a word that the test text does not have may speak for or against
    it, through the words that it stands with. Shares by word still add up to the score; they are those of the training text's
    words.

    Sources: Koh and Liang, *Understanding Black-box Predictions via Influence Functions*, arXiv 1703.04730; the two factors:
    Martens and Grosse, *Optimizing Neural Networks with Kronecker-factored Approximate Curvature*, arXiv 1503.05671, whose
    factor of an embedding's input is by position and so diagonal (:class:`Kfac`); this one is by text.

    Cost: the tokens of the training rows are read, not their values. For each word of a question that was not asked for before
    some 20 products of X and Xᵀ with a vector (conjugate gradients), R operations each. A question then has W rows for the L
    that it had, and all training texts are scored. Memory: 4 bytes a row of the training set, as long as it is used 24 more,
    and of a question W · C · D numbers.

    Args:
        power (float): above 0, of idf.
        damping (float): above 0.
        tolerance (float): of conjugate gradients, the residual they end at, as a part of where they start.
        most_iterations (int): after which they give up.

    Example:
        >>> import torch
        >>> from captum_tracinwe import RowGradients
        >>> ids = torch.tensor([3, 7, 3, 7, 5, 2])  # of four texts two hold 3 and 7
        >>> train = RowGradients(torch.tensor([0, 2, 4, 5, 6]), ids, torch.ones(6, 1))
        >>> asked = RowGradients(torch.tensor([0, 1]), torch.tensor([3]), torch.ones(1, 1))
        >>> mapped = Cooccurrence(damping=0.1).fit(train).apply(asked)  # a text with 7 as well tells less of 3
        >>> mapped.ids.tolist(), [round(value, 2) for value in mapped.values.flatten().tolist()]
        ([2, 3, 5, 7], [0.0, 0.28, 0.0, -0.2])
    """

    power: float = 2.0
    damping: float = 0.005
    tolerance: float = 1e-8
    most_iterations: int = 1000

    by_column: ClassVar[bool] = False
    by_value: ClassVar[bool] = False
    #: Whether an example may come out with other tokens than it had.
    by_word: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("power", "damping", "tolerance"):
            check_positive(name, getattr(self, name))
        if not is_whole(self.most_iterations) or self.most_iterations < 1:
            raise ValueError(f"`most_iterations` should be a whole number of at least 1, got {self.most_iterations!r}.")

    def _learn(self, rows: RowGradients, checkpoints: int) -> Occurrences:
        return Occurrences(rows.ptr.diff().cpu().int(), rows.ids.cpu().int())

    def at(self, checkpoint: int) -> Cooccurrence:
        """Itself: it maps every checkpoint's rows alike."""
        return self

    def apply(self, rows: RowGradients, tokens: Tensor | None = None) -> RowGradients:
        """The mapped rows, values ``(R, C * D)``; of each example one for every training word.

        Args:
            rows (RowGradients): the question's.
            tokens (Tensor, optional): int64, ascending and distinct: only rows of these words are asked for.

        Raises:
            TypeError, ValueError: as of the other preconditioners; conjugate gradients that do not come to an end.
        """
        name, words = type(self).__name__, self._words
        self._known()
        check_rows(f"{name}.apply", rows)
        wanted = torch.arange(len(words)) if tokens is None else self._places(tokens.cpu())[0]
        known, there = self._places(rows.ids.cpu())
        weights, where = self._weights.sqrt(), there & (self._weights[known] > 0)
        ptr, kept = rows.ptr.cpu(), torch.cat([where.new_zeros(1).long(), where.long().cumsum(0)])
        values = rows.values.cpu()
        values = (values * weights[known, None].to(values.dtype))[where]
        known = known[where]
        found = values.new_zeros((len(rows), len(wanted), rows.width))
        scale = weights[wanted, None].to(values.dtype)
        for example in range(len(rows)):
            own = slice(int(kept[ptr[example]]), int(kept[ptr[example + 1]]))
            columns = self._columns(known[own].tolist())[wanted].to(values.dtype)
            torch.mul(columns @ values[own], scale, out=found[example])
        if first_not_finite(found.flatten(0, 1)) is not None:
            raise overflow(f"What {name} makes of the gradient of a test example", rows.values.dtype)
        count = len(wanted)
        mapped = RowGradients(torch.arange(len(rows) + 1) * count, words[wanted].repeat(len(rows)), found.flatten(0, 1))
        return mapped.to(rows.values.device)

    def _map(self, learned: Occurrences, rows: RowGradients) -> RowGradients:
        return self.apply(rows)

    # -------------------------------------------------------------------------------------------- of the training texts

    @cached_property
    def _words(self) -> Tensor:
        """The training words, int64 ``(W,)``, ascending."""
        words: Tensor = torch.unique(self._known().ids).long()
        return words

    def _places(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The place of each word among them, and whether it is one; of ``ids`` (ascending) that are none the place is 0."""
        words = self._words
        if not len(words):
            return torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        place = torch.searchsorted(words, ids).clamp_(max=len(words) - 1)
        there = words[place] == ids
        return place.masked_fill(~there, 0), there

    @cached_property
    def _weights(self) -> Tensor:
        """a, float64 ``(W,)``."""
        known = self._known()
        counts = torch.bincount(self._places(known.ids.long())[0], minlength=len(self._words))
        weights: Tensor = (known.examples / counts.double()).log() ** self.power
        return weights

    @cached_property
    def _texts(self) -> tuple[Tensor, Tensor]:
        """X and Xᵀ, float64."""
        known = self._known()
        places = self._places(known.ids.long())[0]
        example = torch.arange(known.examples).repeat_interleave(known.counts.long())
        weights = self._weights[places]
        squares = torch.zeros(known.examples, dtype=torch.float64).index_add_(0, example, weights)
        values = weights.sqrt() / squares.clamp_min(torch.finfo(torch.float64).tiny).sqrt()[example]
        size = known.examples, len(self._words)
        by_text = torch.sparse_coo_tensor(torch.stack([example, places]), values, size).coalesce()
        return by_text.to_sparse_csr(), by_text.t().coalesce().to_sparse_csr()

    @cached_property
    def _solved(self) -> _Kept:
        return _Kept()

    def _columns(self, words: Sequence[int]) -> Tensor:
        """(XᵀX / λ + 1)⁻¹ of some words, by their places: ``(W, n)``."""
        kept = self._solved.columns
        missing = [word for word in dict.fromkeys(words) if word not in kept]
        if (len(kept) + len(missing)) * len(self._words) * 8 > KEPT_BYTES:
            kept.clear()
            missing = list(dict.fromkeys(words))
        for start in range(0, len(missing), WORDS_AT_ONCE):
            part = missing[start : start + WORDS_AT_ONCE]
            kept.update(zip(part, self._solve(part).unbind(1), strict=True))
        if not words:
            return torch.zeros((len(self._words), 0), dtype=torch.float64)
        return torch.stack([kept[word] for word in words], dim=1)

    def _solve(self, words: Sequence[int]) -> Tensor:
        """The same by conjugate gradients, all words at once."""
        by_text, by_word = self._texts
        scale = 1 / (self.damping * self._known().examples)
        found = torch.zeros((len(self._words), len(words)), dtype=torch.float64)
        rest = torch.zeros_like(found)
        rest[torch.tensor(words), torch.arange(len(words))] = 1
        step, size = rest.clone(), torch.ones(len(words), dtype=torch.float64)
        for _ in range(self.most_iterations):
            if float(size.max()) <= self.tolerance**2:
                return found
            moved = (by_word @ (by_text @ step)).mul_(scale).add_(step)
            length = size / (step * moved).sum(0).clamp_min(torch.finfo(torch.float64).tiny)
            found.addcmul_(step, length)
            rest.addcmul_(moved, length, value=-1)
            before, size = size, rest.square().sum(0)
            step.mul_(size / before.clamp_min(torch.finfo(torch.float64).tiny)).add_(rest)
        raise ValueError(
            f"Cooccurrence: conjugate gradients left {float(size.max()) ** 0.5:.1e} of a word's residual after "
            f"{self.most_iterations} iterations: expected {self.tolerance:.1e}. Take a larger damping, more iterations, or a "
            f"larger tolerance."
        )
