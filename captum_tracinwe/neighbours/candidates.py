"""Training texts that a scorer is to look at, question by question: the best of them, and what is missed by that."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.batches.arguments import check_flags, is_plain, is_whole, kind_of
from captum_tracinwe.evidence.evaluation.checks import checked_scores, checked_wholes
from captum_tracinwe.evidence.methods.examples import Examples, Method, checked
from captum_tracinwe.neighbours.recall import RecallReport, share_found
from captum_tracinwe.rows.ranking import ranking_rows, top_k
from captum_tracinwe.tabular import frame

__all__ = ["Candidates", "Prefiltered"]

# A score on candidates may differ from the exact one by rounding: by this part of the largest exact score.
ROUNDING = 1e-3


@dataclass(frozen=True, eq=False)
class Prefiltered:
    """The best of each question's candidates.

    Args:
        indices (Tensor): training indices, int64 ``(N, k)``, best first.
        scores (Tensor): the scorer's, ``(N, k)``.
        scored (int): training texts that the scorer was given: those that are candidates of any question.
        seconds (float): of the scorer.
    """

    indices: Tensor
    scores: Tensor
    scored: int
    seconds: float

    def to_table(self) -> Any:
        """Tidy: test_index, train_index, rank (from 1), score."""
        return frame(ranking_rows(self.indices, self.scores))


@dataclass(frozen=True, eq=False)
class Candidates:
    """For each question the training texts that a scorer is to look at.

    :func:`prefilter` makes them of features. Those of any cheap score, such as BM25, are
    ``Candidates(scores.topk(100).indices, scores.shape[1])``.

    Args:
        indices (Tensor): training indices, int64 ``(N, C)``, nearest first, each once in a row.
        texts (int): M, training texts that they are chosen from.
        seconds (float): of the search for them.

    Raises:
        TypeError, ValueError: no whole numbers, an index out of range or twice in a row.
    """

    indices: Tensor
    texts: int
    seconds: float = 0.0

    def __post_init__(self) -> None:
        given: Any = self.indices
        if not is_plain(given) or given.dtype != torch.int64:
            raise TypeError(f"Candidates: expected indices as an int64 tensor (N, C), got {kind_of(given)}.")
        if self.indices.dim() != 2 or not self.indices.numel():
            raise ValueError(f"Candidates: expected indices (N, C), got {tuple(self.indices.shape)}.")
        low, high = int(self.indices.min()), int(self.indices.max())
        if not is_whole(self.texts) or low < 0 or high >= self.texts:
            raise ValueError(
                f"Candidates: expected indices from 0 to below the {self.texts!r} training texts, got {low} to {high}."
            )
        ordered = self.indices.sort(1).values
        twice = (ordered[:, 1:] == ordered[:, :-1]).any(1)
        if bool(twice.any()):
            raise ValueError(
                f"Candidates: expected each text once for a question, got one twice for question {int(twice.nonzero()[0])}."
            )

    def score(
        self, scorer: Method, test: Examples, train: Examples, k: int = 10, *, proponents: bool = True
    ) -> Prefiltered:
        """The k best candidates of each question, by the scorer.

        The scorer is called once, with the training texts that are candidates of any question; each question then chooses among
        its own. It has to look at each pair of texts alone: one that learns from the training texts it is given (idf, a Hessian,
        ``preconditioner="auto"``) gives other scores on a part of them. :meth:`recall` finds that out.

        Args:
            scorer (callable): ``(test, train) -> scores (N, M)``, positive = proponent; see
                :data:`captum_tracinwe.methods.Method`.
            test, train (Examples): the N questions and all M training texts.
            k (int): from 1 to the number of candidates.
            proponents (bool): False: the k lowest scores.

        Raises:
            TypeError, ValueError: texts that are not those the candidates were chosen for, a k out of range, scores of another
                shape, NaN or infinite.
        """
        self._check(scorer, test, train, proponents=proponents)
        if not is_whole(k) or not 1 <= k <= self.indices.shape[1]:
            raise ValueError(
                f"Candidates.score: expected k from 1 to the {self.indices.shape[1]} candidates of each question, got {k!r}: ask "
                f"for more candidates."
            )
        indices, scores, scored, seconds, _ = self._best(scorer, test, train, k, proponents)
        return Prefiltered(indices, scores, scored, seconds)

    def recall(
        self,
        scorer: Method,
        test: Examples,
        train: Examples,
        k: int = 10,
        *,
        counts: Sequence[int] | None = None,
        proponents: bool = True,
        exact: Tensor | None = None,
        timed: bool = True,
    ) -> RecallReport:
        """What is missed: the exact top k of each question, and how many of them a search among the candidates names.

        The scorer runs on all training texts once: take as many questions as you can afford, and keep their report for the
        questions to come.

        Args:
            scorer, test, train, k, proponents: as in :meth:`score`.
            counts (sequence of int, optional): numbers of candidates, ascending, from k to C; None: an eighth, a quarter, half
                and all of them.
            exact (Tensor, optional): the scorer's scores of all texts, ``(N, M)``, where they are there already.
            timed (bool): False: the scorer is not run on the candidates; recall is read off the exact scores, without seconds.

        Raises:
            TypeError, ValueError: as :meth:`score`; counts out of range; a question whose scores are all the same.

        Warns:
            UserWarning: the scorer gives other scores on candidates than on all texts.
        """
        self._check(scorer, test, train, proponents=proponents, timed=timed)
        counts = self._counts(k, counts)
        started = time.perf_counter()
        if exact is None:
            exact = checked(scorer(test, train), test, train, "The scorer")
            seconds_exact = time.perf_counter() - started
        else:
            exact, seconds_exact = checked_scores(exact, "Candidates.recall"), float("nan")
            if exact.shape != (len(test), len(train)):
                raise ValueError(
                    f"Candidates.recall: expected `exact` of shape {(len(test), len(train))}, got {tuple(exact.shape)}."
                )
        flat = (exact == exact[:, :1]).all(1).nonzero()
        if self.texts > 1 and len(flat):
            question, value = int(flat[0]), float(exact[flat[0], 0]) + 0.0  # which makes 0 of -0
            raise ValueError(
                f"Candidates.recall: all {self.texts} exact scores of question {question} are {value:g}, which ranks nothing: "
                f"expected different scores. Leave the question out, or look at the scorer."
            )
        recalls, scored, seconds, changed = [], [], [], 0.0 if timed else float("nan")
        for count in counts:
            part = Candidates(self.indices[:, :count], self.texts)
            if timed:
                found, _, texts, spent, own = part._best(scorer, test, train, k, proponents)
                apart = (own.double() - exact.gather(1, part.indices).double()).abs().max()
                changed = max(changed, float(apart / exact.double().abs().max()))
            else:
                found, texts, spent = part.indices, len(torch.unique(part.indices)), float("nan")
            recalls.append(share_found(exact, found, int(k), proponents))
            scored.append(texts)
            seconds.append(spent)
        if changed > ROUNDING:
            warnings.warn(
                f"The scorer gives other scores on the candidates than on all texts, by up to {changed:.0%} of the largest: it "
                f"learns from the training texts it is given. Expected one that looks at each pair alone; recall is counted as "
                f"it came out.",
                stacklevel=2,
            )
        return RecallReport(
            int(k), counts, torch.stack(recalls, 1), self.texts, tuple(scored), tuple(seconds), seconds_exact,
            self.seconds, changed,
        )  # fmt: skip

    def _best(
        self, scorer: Method, test: Examples, train: Examples, k: int, proponents: bool
    ) -> tuple[Tensor, Tensor, int, float, Tensor]:
        """Indices and scores of the best, texts scored, seconds, and all candidates' scores ``(N, C)``."""
        chosen, places = torch.unique(self.indices, return_inverse=True)
        part = _part(train, chosen)
        started = time.perf_counter()
        scores = checked(scorer(test, part), test, part, "The scorer")
        seconds = time.perf_counter() - started
        own = scores.gather(1, places)
        outside = -torch.inf if proponents else torch.inf
        among = torch.full_like(scores, outside).scatter_(1, places, own)
        best, values = top_k(among, int(k), bool(proponents))
        return chosen[best], values, len(chosen), seconds, own

    def _check(self, scorer: Any, test: Any, train: Any, **flags: Any) -> None:
        check_flags(**flags)
        if not callable(scorer):
            raise TypeError(f"Candidates: expected a scorer (test, train) -> scores, got {type(scorer).__name__}.")
        for name, side, count in (("test", test, len(self.indices)), ("train", train, self.texts)):
            if not isinstance(side, Examples):
                raise TypeError(f"Candidates: expected `{name}` as methods.Examples, got {type(side).__name__}.")
            if len(side) != count:
                raise ValueError(
                    f"Candidates: expected the {count} {name} texts that the candidates were chosen for, got {len(side)}."
                )

    def _counts(self, k: Any, counts: Any) -> tuple[int, ...]:
        most = self.indices.shape[1]
        if not is_whole(k) or not 1 <= k <= most:
            raise ValueError(f"Candidates.recall: expected k from 1 to the {most} candidates, got {k!r}.")
        if counts is None:
            return tuple(sorted({max(int(k), most // part) for part in (8, 4, 2, 1)}))
        counts = counts.tolist() if isinstance(counts, Tensor) and is_plain(counts) else counts
        found = checked_wholes(counts, "Candidates.recall", "counts")
        if not found or list(found) != sorted(set(found)) or found[0] < k or found[-1] > most:
            raise ValueError(
                f"Candidates.recall: expected ascending counts from k = {k} to the {most} candidates, got {found}."
            )
        return found


def _part(examples: Examples, indices: Tensor) -> Examples:
    """Some of the examples, words included."""
    words = None if examples.words is None else [examples.words[place] for place in indices.tolist()]
    return Examples(tuple(field[indices.to(field.device)] for field in examples.batch), words)
