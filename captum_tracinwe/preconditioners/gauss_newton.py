"""`GaussNewton`: the whole damped Fisher of the word table, applied exactly; it leads from word to word."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from captum_tracinwe.batches.arguments import is_whole
from captum_tracinwe.preconditioners.learned import Learned, check_positive
from captum_tracinwe.rows.postings import PostingLists
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["GaussNewton", "KeptRows"]

# Training rows that are multiplied at a time.
CHUNK = 1 << 14


@dataclass(frozen=True, eq=False)
class KeptRows:
    """The training rows themselves, ``blocks`` of one form, of ``checkpoints`` checkpoints."""

    blocks: tuple[RowGradients, ...]
    checkpoints: int

    @property
    def examples(self) -> int:
        """N."""
        return sum(len(block) for block in self.blocks)

    @property
    def width(self) -> int:
        """D."""
        return self.blocks[0].width // self.checkpoints

    @property
    def largest(self) -> int:
        """The largest token id; −1 where there is none."""
        return max((int(block.ids.max()) for block in self.blocks if block.num_rows), default=-1)

    def merge(self, other: KeptRows) -> KeptRows:
        """Those of both."""
        return KeptRows(self.blocks + other.blocks, self.checkpoints)

    def at(self, checkpoint: int) -> KeptRows:
        """The columns of one checkpoint."""
        columns = checkpoint * self.width, (checkpoint + 1) * self.width
        return KeptRows(tuple(block.columns(*columns) for block in self.blocks), 1)


@dataclass(frozen=True, eq=False)
class GaussNewton(Learned[KeptRows]):
    """q' = (F + λ I)⁻¹ q, at each checkpoint, with F = Σ_j g_j g_jᵀ / N over the N training texts.

    g_j is the gradient of text j in the whole table, one long sparse vector, so that F is the empirical Fisher: the Gauss-Newton
    matrix where a text's gradient stands for its outer product. λ is damping times the mean of F's diagonal over the D columns
    of the words that occur. With G the matrix whose rows are the g_j, and α = (G Gᵀ + N λ I)⁻¹ G q, it is q' = (q − Gᵀ α) / λ
    (Woodbury): N unknowns instead of V · D.

    q' has a row for **every word of the training set**, for words are bound to each other by the texts that hold both. Shares by
    word still add up to the score, but a share may then be that of a word which the test text does not have. Views show each
    text by its own split: the training text by ``token_shares``, the test text by ``asked_shares``.

    Source: Koh and Liang, *Understanding Black-box Predictions via Influence Functions*, arXiv 1703.04730; by the Gram matrix:
    Ren and Goldfarb, *Efficient Subsampled Gauss-Newton and Natural Gradient Methods*, arXiv 1906.02353.

    Cost: with N up to ``gram_up_to``, the products of all pairs of training texts and N³ / 3 operations for each checkpoint,
    once; then a question reads the training rows twice. With more texts, conjugate gradients: each iteration reads the training
    rows twice, once by word and once by text, for each question. Memory: **all training rows are kept**, as they came and in
    float64 by token (12 bytes a number, if they came in float32), with the Gram matrix 8 · N² bytes a checkpoint more; of a
    question W · D numbers. It is meant for small sets, and for judging the others.

    Args:
        damping (float): above 0, in units of the mean of F's diagonal.
        gram_up_to (int): texts up to which the Gram matrix is made: 4,000 take 128 MB a checkpoint.
        tolerance (float): of conjugate gradients, the residual they end at, as a part of where they start.
        most_iterations (int): after which they give up.

    Example:
        >>> import torch
        >>> from captum_tracinwe import RowGradients
        >>> rows = RowGradients(torch.tensor([0, 2, 3]), torch.tensor([3, 7, 3]), torch.tensor([[1.0], [2.0], [3.0]]))
        >>> mapped = GaussNewton(damping=1).fit(rows).apply(rows)  # F = ((5, 1), (1, 2)), λ = 7 / 2
        >>> mapped.ids.tolist()  # the second text has a row for token 7 now
        [3, 7, 3, 7]
        >>> [round(value, 4) for value in mapped.values.flatten().tolist()]
        [0.0765, 0.3497, 0.3607, -0.0656]
    """

    damping: float = 10.0
    gram_up_to: int = 4000
    tolerance: float = 1e-10
    most_iterations: int = 1000

    def __post_init__(self) -> None:
        check_positive("damping", self.damping)
        check_positive("tolerance", self.tolerance)
        for name, least in (("gram_up_to", 0), ("most_iterations", 1)):
            value = getattr(self, name)
            if not is_whole(value) or value < least:
                raise ValueError(f"`{name}` should be a whole number of at least {least}, got {value!r}.")

    #: Whether an example may come out with other tokens than it had.
    by_word: ClassVar[bool] = True

    @property
    def words(self) -> Tensor:
        """The training words, int64 ``(W,)``, ascending."""
        words: Tensor = torch.unique(torch.cat([rows.ids for rows in self._known().blocks]))
        return words

    def apply(self, rows: RowGradients, tokens: Tensor | None = None) -> RowGradients:
        """The mapped rows, values ``(R, C * D)``; with ``tokens`` those of these words alone. Errors as of the others."""
        mapped = super().apply(rows)
        return mapped if tokens is None else mapped.of_tokens(tokens)

    def _learn(self, rows: RowGradients, checkpoints: int) -> KeptRows:
        return KeptRows((rows.to("cpu"),), checkpoints)

    def _map(self, learned: KeptRows, rows: RowGradients) -> RowGradients:
        lists = self._lists
        if self._damping <= 0 or not len(lists.ids):
            inverse, dual = 0.0, torch.zeros((len(rows), learned.examples), dtype=torch.float64)
        else:
            inverse, dual = 1 / self._damping, self._solved(lists.scores_of(rows))
        trained = torch.stack([self._by_word(one) for one in dual]) if len(dual) else rows.values.new_empty(0)
        # Folded into one row a word: those of the question's own words, and those of all training words.
        return RowGradients.from_positions(
            torch.cat([rows.examples, torch.arange(len(rows)).repeat_interleave(len(lists.ids))]),
            torch.cat([rows.ids, lists.ids.repeat(len(rows))]),
            torch.cat([rows.values, -trained.reshape(-1, rows.width)]) * inverse,
            len(rows),
        )

    # ---------------------------------------------------------------------------------- of one checkpoint, made once

    @cached_property
    def _lists(self) -> PostingLists:
        """Gᵀ: the training rows by word, in float64."""
        return RowGradients.cat(self._known().blocks).by_token().to(dtype=torch.float64)

    @cached_property
    def _word(self) -> Tensor:
        """The place among the words of each row of the lists."""
        return torch.arange(len(self._lists.ids)).repeat_interleave(self._lists.ptr.diff())

    @cached_property
    def _damping(self) -> float:
        """λ."""
        columns = len(self._lists.ids) * self._known().width
        return self.damping * float(self._lists.values.square().sum()) / max(1, self._known().examples * columns)

    @cached_property
    def _factor(self) -> Tensor:
        """The lower triangle L of G Gᵀ + N λ I = L Lᵀ."""
        gram = torch.cat([self._lists.scores_of(block.to(dtype=torch.float64)) for block in self._known().blocks])
        gram = (gram + gram.T) / 2
        gram.diagonal().add_(len(gram) * self._damping)
        factor: Tensor = torch.linalg.cholesky(gram)
        return factor

    # -------------------------------------------------------------------------------------------------------- solving

    def _by_word(self, dual: Tensor) -> Tensor:
        """Gᵀ α ``(W, D)`` of one α ``(N,)``."""
        lists = self._lists
        found = torch.zeros((len(lists.ids), lists.values.shape[1]), dtype=torch.float64)
        for start in range(0, len(lists.examples), CHUNK):
            part = slice(start, start + CHUNK)
            found.index_add_(0, self._word[part], lists.values[part] * dual[lists.examples[part], None])
        return found

    def _solved(self, products: Tensor) -> Tensor:
        """α ``(n, N)`` from G q ``(n, N)``."""
        if self._known().examples <= self.gram_up_to:
            return torch.cholesky_solve(products.T, self._factor).T
        return torch.stack([self._conjugate(one) for one in products]) if len(products) else products

    def _conjugate(self, product: Tensor) -> Tensor:
        """The same for one question, by conjugate gradients."""
        examples, ids = self._known().examples, self._lists.ids
        ptr = torch.tensor([0, len(ids)])
        found, rest = torch.zeros_like(product), product.clone()
        step, size = rest.clone(), float(rest @ rest)
        end = self.tolerance**2 * size
        for _ in range(self.most_iterations):
            if size <= end:
                return found
            moved = self._lists.scores_of(RowGradients(ptr, ids, self._by_word(step)))[0]
            moved += examples * self._damping * step
            length = size / float(step @ moved)
            found += length * step
            rest -= length * moved
            before, size = size, float(rest @ rest)
            step = rest + (size / before) * step
        raise ValueError(
            f"GaussNewton: conjugate gradients left {(size / end) ** 0.5 * self.tolerance:.1e} of a question's residual after "
            f"{self.most_iterations} iterations: expected {self.tolerance:.1e}. Take a larger damping, more iterations, or a "
            f"larger tolerance."
        )
