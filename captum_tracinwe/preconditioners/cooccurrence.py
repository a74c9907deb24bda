"""`Cooccurrence`: words that stand together in the training texts explain one another away; it leads from word to word."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from captum_tracinwe.batches.arguments import is_whole
from captum_tracinwe.preconditioners.learned import Learned, check_positive, check_power
from captum_tracinwe.preconditioners.text_gram import InverseGram, Occurrences
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["Cooccurrence"]

# Of texts whose size is measured: distinct words that are solved for, each 1 to 4 ms of one core with 1,500 to 16,000 texts of
# 100 words, and how many texts there have to be whatever it takes. Half of 128 toxic comments moved factors by 1 to 6 %, and 0.3
# of the 100 best texts of a question.
MOST_WORDS, FEWEST_TEXTS = 2500, 16


@dataclass(frozen=True, eq=False)
class Cooccurrence(Learned[Occurrences]):
    """q' = A^½ (XᵀX / λ + 1)⁻¹ A^½ q, a map of words: all columns and checkpoints alike.

    X ``(N, W)`` holds for each training text the tf-idf vector of its words, x_jw = a_w^½ / L_j, with a_w = idf_w^power · m_w,
    idf_w = log(N / n_w) and L_j = √Σ_w a_w, so that each text has length 1; λ = damping · N, that is, damping times the sum of
    the eigenvalues of XᵀX. A is the diagonal of a. m_w is 1; with ``by_moved``, how far training moved the word's vector from
    the first checkpoint to the last, divided by the median of the words that stand in about as many texts, and at most 1. Weight
    decay shrinks all vectors, used or not, and is left out: moved is the last vector less the first as decay alone would have
    left it. By how much it shrinks them, words that no training text holds tell, by the median; where the texts hold all words
    of the vocabulary, no decay is taken off. Texts may hold a word that this model did not learn, because it was not shown them,
    or forgot them: its vector stays where it was. Without the inverse, and with m_w = 1, it is :class:`Idf`.

    The plain score, and :class:`Idf`, take each word for itself: a training text that shares three words of one phrase counts
    three times, and a word counts in full although others of the text say the same. A model is trained on whole texts: two
    words that always stand together share one effect and are not counted twice. The Hessian of a layer that leads from word
    counts to the logits has XᵀX as its factor on the words' side; here it is taken for the word table's too, where a text's error
    reaches all of its words.
    It is what the influence function of a regression on words has and TracIn lacks.

    q' has a row for **every word of the training set**: also a word that the test text does not have may speak for or against
    it, through the words that it stands with. Shares by word still add up to the score; they are those of the training text's
    words.

    Sources: Koh and Liang, *Understanding Black-box Predictions via Influence Functions*, arXiv 1703.04730; the two factors:
    Martens and Grosse, *Optimizing Neural Networks with Kronecker-factored Approximate Curvature*, arXiv 1503.05671, whose
    factor of an embedding's input is by position and so diagonal (:class:`Kfac`); this one is by text.

    Cost: the tokens of the training rows are read, not their values. For each word of a question that was not asked for before
    some 25 products of X and Xᵀ with a vector (conjugate gradients, mostly float32), R operations each. A question then has W
    rows for the L that it had, and all training texts are scored. Memory: 4 bytes a row of the training set, as long as it is
    used 40 more, and of a question W · C · D numbers.

    Args:
        power (float): above 0 and at most 64, of idf.
        by_moved (bool): whether words count less whose vectors training moved less than those of equally frequent words. A
            TracInWE measures that, from its first checkpoint to its last: what a word taught before the first is not seen. Who
            fits by hand says it, :meth:`with_moved`. Of a frozen table, or of one checkpoint, nothing is known, and m_w is 1.
        damping (float): above 0.
        tolerance (float): of conjugate gradients, the residual they end at, as a part of where they start.
        most_iterations (int): of conjugate gradients, in float32 and in float64.

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
    by_moved: bool = False

    by_column: ClassVar[bool] = False
    by_value: ClassVar[bool] = False
    #: Whether an example may come out with other tokens than it had.
    by_word: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_power("power", self.power)
        for name in ("damping", "tolerance"):
            check_positive(name, getattr(self, name))
        if not isinstance(self.by_moved, bool):
            raise TypeError(f"`by_moved` should be True or False, got {self.by_moved!r:.80}.")
        if not is_whole(self.most_iterations) or self.most_iterations < 1:
            raise ValueError(f"`most_iterations` should be a whole number of at least 1, got {self.most_iterations!r}.")

    def _learn(self, rows: RowGradients, checkpoints: int) -> Occurrences:
        return Occurrences(rows.ptr.diff().cpu().int(), rows.ids.cpu().int(), checkpoints, rows.width // checkpoints)

    @property
    def words(self) -> Tensor:
        """The training words, int64 ``(W,)``, ascending: an example may come out with each of them."""
        return self._known().words

    def with_moved(self, moved: Tensor) -> Cooccurrence:
        """The same, fitted, with how far training moved each word's vector, ``(V,)``.

        Raises:
            TypeError: no tensor.
            ValueError: not fitted yet; a number below 0 or not finite; fewer than the training words ask for.
        """
        known, given = self._known(), moved
        if not isinstance(given, Tensor):
            raise TypeError(
                f"Cooccurrence.with_moved: expected a torch.Tensor (V,), how far each of the vocabulary's vectors moved, got "
                f"{type(given).__name__}."
            )
        moved = moved.detach().cpu().double()
        most = int(known.ids.max()) if len(known.ids) else -1
        if moved.dim() != 1 or len(moved) <= most:
            raise ValueError(
                f"Cooccurrence.with_moved: expected how far each of the vocabulary's vectors moved, (V,) with V at least "
                f"{most + 1}, got {tuple(moved.shape)}."
            )
        wrong = (~((moved >= 0) & moved.isfinite())).nonzero()
        if len(wrong):
            raise ValueError(
                f"Cooccurrence.with_moved: expected how far each of the vocabulary's vectors moved, finite numbers of at least "
                f"0, got {float(moved[wrong[0]])} for token {int(wrong[0])}."
            )
        return replace(self, statistics=replace(known, moved=moved))

    @cached_property
    def _inverse(self) -> InverseGram:
        if self.by_moved and self._known().moved is None:
            raise ValueError(
                "This Cooccurrence(by_moved=True) was not told how far training moved each word: expected with_moved(...) after "
                "fit(...), or pass it to TracInWE(..., preconditioner=...), which measures it."
            )
        return InverseGram(self._known(), self.power, self.damping, self.tolerance, self.most_iterations)

    @cached_property
    def _parts(self) -> tuple[Cooccurrence, ...]:
        parts = super()._parts
        for part in parts:
            part.__dict__["_inverse"] = self._inverse  # it is the same: each column is solved for once
        return parts

    def apply(self, rows: RowGradients, tokens: Tensor | None = None) -> RowGradients:
        """The mapped rows, values ``(R, C * D)``; of each example one for every training word.

        Args:
            rows (RowGradients): the question's.
            tokens (Tensor, optional): int64, ascending and distinct: only rows of these words are asked for.

        Raises:
            TypeError, ValueError: as of the other preconditioners; conjugate gradients that do not come to an end.
        """
        self._checked(rows)
        return self._finite(self._mapped(rows, tokens))

    def back(self, rows: RowGradients, tokens: Tensor) -> RowGradients:
        """The same as :meth:`apply`, by what is solved for ``tokens``: the map is symmetric.

        For training texts that meet a question whose words were solved for: theirs need not be.
        """
        self._checked(rows)
        return self._finite(self._mapped(rows, tokens, back=True))

    def with_itself(self, texts: RowGradients) -> Tensor:
        """Σ_w q_w · q'_w of a text, float64 ``(C * D,)``, the mean over some texts; each distinct word is solved for once.

        Of texts with more than 2,500 distinct words fewer are taken, spread over those given: at 100 words a text 64 of 128.
        """
        self._checked(texts)
        inverse, count = self._inverse, len(texts)
        # The last digits of a column hang on those it is solved for with. So that a question's do not tell whether sizes were
        # measured before it or are known from a file, nothing that was solved for is left to the other.
        inverse.forget()
        while count > FEWEST_TEXTS and len(torch.unique(texts.ids)) > MOST_WORDS:
            count //= 2
            texts = texts.select(range(0, 2 * count, 2))
        known, there = inverse.places(texts.ids.cpu())
        weights = there.double() * (inverse.weights.sqrt()[known] if len(inverse.words) else 0)
        values = texts.values.cpu().double() * weights[:, None]
        wanted = torch.unique(known[weights > 0])
        ends, found = texts.ptr.tolist(), torch.zeros(texts.width, dtype=torch.float64)
        for part in wanted.split(inverse.at_once):
            columns = inverse.columns(part.tolist(), wanted).double()
            for start, stop in pairwise(ends):
                own = (weights[start:stop] > 0).nonzero().flatten() + start
                solved = own[torch.isin(known[own], part)]
                if len(solved):
                    place = torch.searchsorted(wanted, known[own])
                    mapped = columns[torch.searchsorted(part, known[solved])][:, place] @ values[own]
                    found += (mapped * values[solved]).sum(0)
        inverse.forget()
        return found / max(1, len(texts))

    def _map(self, learned: Occurrences, rows: RowGradients) -> RowGradients:
        return self._mapped(rows, None)

    def _mapped(self, rows: RowGradients, tokens: Tensor | None, back: bool = False) -> RowGradients:
        inverse = self._inverse
        words = inverse.words
        wanted = torch.arange(len(words))
        if tokens is not None:
            place, among = inverse.places(tokens.cpu())
            wanted = place[among]
        known, where = inverse.places(rows.ids.cpu())
        weights = inverse.weights.sqrt()
        if len(words):
            where &= weights[known] > 0
        values, known = rows.values.cpu()[where], known[where]
        values = values * weights[known, None].to(values.dtype)
        ends = torch.cat([where.new_zeros(1).long(), where.long().cumsum(0)])[rows.ptr.cpu()].tolist()
        found = values.new_zeros((len(rows), len(wanted), rows.width))
        scale = weights[wanted].to(values.dtype)
        for start, stop in inverse.groups(ends):
            own, texts = values[ends[start] : ends[stop]], [end - ends[start] for end in ends[start : stop + 1]]
            distinct, place = torch.unique(known[ends[start] : ends[stop]], return_inverse=True)
            if (
                not back and len(distinct) > (stop - start) * rows.width
            ):  # a sum of many texts has fewer columns than words
                spread = torch.zeros((stop - start, len(words), rows.width), dtype=torch.float64)
                for example, (first, last) in enumerate(pairwise(texts)):
                    spread[example, distinct[place[first:last]]] = own[first:last].double()
                solved = inverse.times(spread.transpose(0, 1).flatten(1))[wanted].view(-1, stop - start, rows.width)
                found[start:stop] = solved.transpose(0, 1).to(values.dtype) * scale[:, None]
                continue
            if back:
                columns = inverse.columns(wanted.tolist(), distinct, values.dtype).T * scale
            else:
                columns = inverse.columns(distinct.tolist(), wanted, values.dtype) * scale
            for example, (first, last) in enumerate(pairwise(texts), start):
                torch.mm(columns[place[first:last]].T, own[first:last], out=found[example])
        ptr = torch.arange(len(rows) + 1) * len(wanted)
        return RowGradients(ptr, words[wanted].repeat(len(rows)), found.flatten(0, 1)).to(rows.values.device)
