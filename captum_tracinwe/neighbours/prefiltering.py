"""`prefilter`: the nearest training texts of each question first, then any scorer on these alone, and what that misses."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.batches.arguments import is_whole
from captum_tracinwe.evidence.evaluation.checks import checked_scores, checked_wholes
from captum_tracinwe.evidence.evaluation.intervals import Interval, bootstrap_mean
from captum_tracinwe.evidence.methods.examples import Examples, Explained, Method, checked
from captum_tracinwe.evidence.methods.last_layer import last_pass
from captum_tracinwe.rows.ranking import ranking_rows, top_k
from captum_tracinwe.tabular import frame

__all__ = ["Candidates", "Prefiltered", "RecallReport", "last_features", "prefilter"]

MEASURES, ENGINES = ("cosine", "l2", "dot"), ("auto", "torch", "faiss")
# Numbers of the matrix of similarities that is held at a time: 64 MB in float32.
AT_ONCE = 1 << 24
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
class RecallReport:
    """Which share of the exact top k a search among candidates finds, for several numbers of candidates.

    Args:
        k (int): of the top k.
        counts (tuple of int): numbers of candidates, ascending.
        recall (Tensor): float64 ``(N, len(counts))``, from 0 to 1.
        texts (int): M, training texts.
        scored (tuple of int): training texts that were scored, at each count; M in the exact search.
        seconds (tuple of float): of the scorer at each count; NaN where it did not run.
        seconds_exact (float): of the scorer on all texts; NaN where its scores were given.
        seconds_search (float): of the search for candidates.
        changed (float): how far a score on candidates is from the exact one at most, as a part of the largest exact score: 0 or
            rounding where the scorer looks at each pair alone; NaN where it did not run.
    """

    k: int
    counts: tuple[int, ...]
    recall: Tensor
    texts: int
    scored: tuple[int, ...]
    seconds: tuple[float, ...]
    seconds_exact: float
    seconds_search: float
    changed: float

    def interval(self, count: int, **options: Any) -> Interval:
        """Recall@k among ``count`` candidates, the mean over questions with its interval (options of
        :func:`~captum_tracinwe.evaluation.bootstrap`).

        Raises:
            ValueError: another count than those of the report, or fewer than two questions.
        """
        if count not in self.counts:
            raise ValueError(f"RecallReport.interval: expected one of the counts {self.counts}, got {count!r}.")
        return bootstrap_mean(self.recall[:, self.counts.index(count)], **options)

    def to_table(self, **options: Any) -> Any:
        """Tidy, a row for each count: candidates, recall, low, high, by_chance, scored, seconds, seconds_exact."""
        rows = []
        for place, count in enumerate(self.counts):
            found = self.interval(count, **options)
            rows.append(
                {
                    "candidates": count,
                    "recall": found.estimate,
                    "low": found.low,
                    "high": found.high,
                    "by_chance": count / self.texts,
                    "scored": self.scored[place],
                    "seconds": self.seconds_search + self.seconds[place],
                    "seconds_exact": self.seconds_exact,
                }
            )
        return frame(rows)

    def __str__(self) -> str:
        lines = [f"recall@{self.k} of {len(self.recall)} questions, {self.texts} training texts"]
        for place, count in enumerate(self.counts):
            spent = self.seconds_search + self.seconds[place]
            told = "" if spent != spent else f", {spent:.2f} s"
            told += f" against {self.seconds_exact:.2f} s" if told and self.seconds_exact == self.seconds_exact else ""
            lines.append(
                f"{count} candidates: {self.interval(count)} (by chance {count / self.texts:.3f}), {self.scored[place]} texts "
                f"scored{told}"
            )
        return "\n".join(lines)


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
        if not isinstance(self.indices, Tensor) or self.indices.dtype != torch.int64:
            got = self.indices.dtype if isinstance(self.indices, Tensor) else type(self.indices).__name__
            raise TypeError(f"Candidates: expected indices as an int64 tensor (N, C), got {got}.")
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
        self._check(scorer, test, train)
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
            TypeError, ValueError: as :meth:`score`; counts out of range.

        Warns:
            UserWarning: the scorer gives other scores on candidates than on all texts.
        """
        self._check(scorer, test, train)
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
        best = top_k(exact, k, proponents)[0]
        recalls, scored, seconds, changed = [], [], [], 0.0 if timed else float("nan")
        for count in counts:
            part = Candidates(self.indices[:, :count], self.texts)
            if timed:
                found, _, texts, spent, own = part._best(scorer, test, train, k, proponents)
                apart = (own - exact.gather(1, part.indices)).abs().max() / exact.abs().max().clamp_min(1e-300)
                changed = max(changed, float(apart))
            else:
                found, texts, spent = part.indices, len(torch.unique(part.indices)), float("nan")
            recalls.append((best[:, :, None] == found[:, None]).any(2).double().mean(1))
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
        best, values = top_k(among, k, proponents)
        return chosen[best], values, len(chosen), seconds, own

    def _check(self, scorer: Any, test: Any, train: Any) -> None:
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
            return tuple(sorted({max(k, most // part) for part in (8, 4, 2, 1)}))
        found = checked_wholes(counts, "Candidates.recall", "counts")
        if not found or list(found) != sorted(set(found)) or found[0] < k or found[-1] > most:
            raise ValueError(
                f"Candidates.recall: expected ascending counts from k = {k} to the {most} candidates, got {found}."
            )
        return found


def prefilter(
    features_train: Tensor,
    features_test: Tensor,
    candidates: int = 100,
    *,
    measure: str = "cosine",
    engine: str = "auto",
) -> Candidates:
    """The nearest training texts of each question, as candidates for a scorer that is too slow for all texts.

    Args:
        features_train, features_test (Tensor): ``(M, H)`` and ``(N, H)``, a vector for each text: :func:`last_features` of the
            model, or sentence embeddings.
        candidates (int): C, from 1 to M.
        measure (str): "cosine", "dot" (the largest), or "l2" (the nearest, FastIF's).
        engine (str): "torch", "faiss" (a flat index, exact as well), or "auto": faiss where it is installed.

    Returns:
        Candidates: ``.score(scorer, test, train, k)`` is the search, ``.recall(scorer, test, train, k)`` says what it misses.

    Raises:
        TypeError: no tensors.
        ValueError: other shapes, NaN or infinity, a number of candidates out of range, an unknown measure or engine.
        ImportError: ``engine="faiss"``, and it is not installed.

    Source: Guo, Rajani, Hase, Bansal and Xiong, *FastIF: Scalable Influence Functions for Efficient Model Interpretation and
    Debugging*, EMNLP 2021, arXiv 2012.15781.

    Example:
        >>> import torch
        >>> from captum_tracinwe.methods import Examples
        >>> train = Examples((torch.tensor([[1.0, 0.0], [0.9, 0.2], [0.0, 1.0], [-1.0, 0.0]]), torch.zeros(4)))
        >>> test = Examples((torch.tensor([[1.0, 0.1], [0.1, 1.0]]), torch.zeros(2)))
        >>> scorer = lambda test, train: test.batch[0] @ train.batch[0].T  # yours: methods.tracin_layers(explained, None)
        >>> found = prefilter(train.batch[0], test.batch[0], candidates=2)
        >>> found.indices.tolist()
        [[0, 1], [2, 1]]
        >>> found.score(scorer, test, train, k=1).indices.tolist()
        [[0], [2]]
        >>> found.recall(scorer, test, train, k=1).recall.mean().item()
        1.0
    """
    sides = {"features_train": features_train, "features_test": features_test}
    for name, features in sides.items():
        if not isinstance(features, Tensor):
            raise TypeError(f"prefilter: expected `{name}` as a tensor, got {type(features).__name__}.")
        if features.dim() != 2 or not features.numel():
            raise ValueError(f"prefilter: expected `{name}` of shape (texts, H), got {tuple(features.shape)}.")
        if not bool(features.isfinite().all()):
            raise ValueError(
                f"prefilter: `{name}` holds NaN or infinity, which is near to nothing: expected finite numbers."
            )
    texts, width = features_train.shape
    if features_test.shape[1] != width:
        raise ValueError(
            f"prefilter: expected features of one width, got {width} of the training texts and {features_test.shape[1]} of the "
            f"test texts."
        )
    if not is_whole(candidates) or not 1 <= candidates <= texts:
        raise ValueError(f"prefilter: expected candidates from 1 to the {texts} training texts, got {candidates!r}.")
    for name, value, known in (("measure", measure, MEASURES), ("engine", engine, ENGINES)):
        if value not in known:
            raise ValueError(f"prefilter: expected `{name}` as one of {', '.join(map(repr, known))}, got {value!r}.")
    if engine == "faiss" and find_spec("faiss") is None:
        raise ImportError(
            "prefilter: engine='faiss' needs faiss, which is not installed: pip install faiss-cpu, or engine='torch'."
        )
    dtype = torch.promote_types(torch.promote_types(features_train.dtype, features_test.dtype), torch.float32)
    train, test = (features.detach().to(features_train.device, dtype) for features in sides.values())
    if measure == "cosine":
        train, test = (torch.nn.functional.normalize(side, dim=1) for side in (train, test))
    started = time.perf_counter()
    with_faiss = engine == "faiss" or (engine == "auto" and find_spec("faiss") is not None)
    indices = (_by_faiss if with_faiss else _by_torch)(train, test, int(candidates), measure)
    return Candidates(indices.cpu(), texts, time.perf_counter() - started)


def last_features(explained: Explained, examples: Examples) -> Tensor:
    """What the model's last layer reads of each text at the last checkpoint, ``(N, H)``: the features that FastIF searches.

    Args:
        explained (Explained): the model; ``last`` names the layer.
        examples (Examples): the texts.
    """
    features: Tensor = last_pass(explained, explained.checkpoints[-1], examples)[1][0]
    return features


def _by_torch(train: Tensor, test: Tensor, count: int, measure: str) -> Tensor:
    """Indices of the nearest, equal ones in the order of their index."""
    found = []
    for part in torch.split(test, max(1, AT_ONCE // len(train))):
        near = torch.cdist(part, train) if measure == "l2" else part @ train.T
        found.append(top_k(near, count, highest=measure != "l2")[0])
    return torch.cat(found)


def _by_faiss(train: Tensor, test: Tensor, count: int, measure: str) -> Tensor:
    faiss = import_module("faiss")
    index = (faiss.IndexFlatL2 if measure == "l2" else faiss.IndexFlatIP)(train.shape[1])
    arrays = [side.cpu().float().contiguous().numpy() for side in (train, test)]
    index.add(arrays[0])
    return torch.from_numpy(index.search(arrays[1], count)[1]).long()


def _part(examples: Examples, indices: Tensor) -> Examples:
    """Some of the examples, words included."""
    words = None if examples.words is None else [examples.words[place] for place in indices.tolist()]
    return Examples(tuple(field[indices.to(field.device)] for field in examples.batch), words)
