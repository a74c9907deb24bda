"""`rank_agreement`: do models of several sizes rank the same training texts alike, question by question?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.batches.arguments import is_plain, is_whole, kind_of
from captum_tracinwe.evidence.evaluation.agreement import spearman, top_k_agreement
from captum_tracinwe.evidence.evaluation.checks import checked_scores
from captum_tracinwe.evidence.evaluation.intervals import Interval, bootstrap_mean
from captum_tracinwe.tabular import frame

__all__ = ["MEASURES", "ModelPair", "RankAgreement", "rank_agreement"]

#: What is measured of each pair of models: Spearman's correlation, and the share of the k highest and of the k lowest in common.
MEASURES = ("correlation", "proponents", "opponents")


@dataclass(frozen=True, eq=False)
class ModelPair:
    """How far two models agree, for each of N questions.

    Args:
        first, second (str): their names.
        correlation (Tensor): Spearman's, float64 ``(N,)``, from −1 to 1.
        proponents, opponents (Tensor): the share of the k highest, and of the k lowest, that both name, ``(N,)``, from 0 to 1.
    """

    first: str
    second: str
    correlation: Tensor
    proponents: Tensor
    opponents: Tensor

    def of(self, measure: str) -> Tensor:
        """One of :data:`MEASURES`, ``(N,)``.

        Raises:
            ValueError: another name.
        """
        if measure not in MEASURES:
            raise ValueError(f"ModelPair: expected a measure of {', '.join(MEASURES)}, got {measure!r}.")
        values: Tensor = getattr(self, measure)
        return values


@dataclass(frozen=True, eq=False)
class RankAgreement:
    """How far the models agree, pair by pair.

    Args:
        models (tuple of str): their names, in the order given.
        k (int): how many of the highest and lowest are compared.
        pairs (tuple of ModelPair): each pair once, the earlier model first.
        by_chance (Tensor): the overlap that two random rankings would have, k over the number of texts, ``(N,)``.
    """

    models: tuple[str, ...]
    k: int
    pairs: tuple[ModelPair, ...]
    by_chance: Tensor

    def pair(self, first: str, second: str) -> ModelPair:
        """The pair of these two models, in either order.

        Raises:
            KeyError: there is no such pair.
        """
        for one in self.pairs:
            if (first, second) in ((one.first, one.second), (one.second, one.first)):
                return one
        raise KeyError(f"no pair of {first!r} and {second!r}: expected two of {', '.join(self.models)}.")

    def interval(self, first: str, second: str, measure: str = "correlation", **options: Any) -> Interval:
        """The mean over questions with its interval (options of :func:`~captum_tracinwe.evaluation.bootstrap`)."""
        return bootstrap_mean(self.pair(first, second).of(measure), **options)

    def difference(
        self, one: tuple[str, str], other: tuple[str, str], measure: str = "correlation", **options: Any
    ) -> Interval:
        """By how much the first pair agrees more than the second: the mean over questions, paired, with its interval.

        Raises:
            TypeError: what is given is no pair of names.
            ValueError: a pair has more or fewer than two.
            KeyError: there is no such pair.
        """
        first, second = (self.pair(*_two(given, name)) for given, name in ((one, "one"), (other, "other")))
        return bootstrap_mean(first.of(measure) - second.of(measure), **options)

    def to_table(self, **options: Any) -> Any:
        """Tidy: a row for each pair and measure, with the ends of its interval and the overlap by chance (0 for correlations)."""
        rows = []
        for pair in self.pairs:
            for measure in MEASURES:
                found = bootstrap_mean(pair.of(measure), **options)
                chance = 0.0 if measure == "correlation" else float(self.by_chance.mean())
                rows.append(
                    {
                        "first": pair.first,
                        "second": pair.second,
                        "measure": measure,
                        "mean": found.estimate,
                        "low": found.low,
                        "high": found.high,
                        "by_chance": chance,
                    }
                )
        return frame(rows)

    def __str__(self) -> str:
        lines = [
            f"{len(self.by_chance)} questions, k = {self.k} (by chance {float(self.by_chance.mean()):.3f} in common)"
        ]
        for pair in self.pairs:
            cells = [f"{measure} {bootstrap_mean(pair.of(measure))}" for measure in MEASURES]
            lines.append(f"{pair.first} and {pair.second}: {', '.join(cells)}")
        return "\n".join(lines)


def _two(given: Any, name: str) -> tuple[str, str]:
    if not isinstance(given, (tuple, list)) or not all(isinstance(one, str) for one in given):
        raise TypeError(
            f"RankAgreement.difference: expected `{name}` as the names of two models, such as ('small', 'large'), got "
            f"{given!r:.60}."
        )
    if len(given) != 2:
        raise ValueError(
            f"RankAgreement.difference: `{name}` names {len(given)} models, {given!r:.60}: expected two, such as "
            f"('small', 'large')."
        )
    return given[0], given[1]


def rank_agreement(scores_by_model: Mapping[str, Tensor], k: int = 10, *, where: Tensor | None = None) -> RankAgreement:
    """Whether two or more models rank the same training texts alike, for each question.

    Each model brings its scores of the same questions and the same training texts. Only ranks are compared, so the scores may
    have other units, and other sizes of model, tokenizer and loss behind them. Texts of the question's label and the others are
    two questions in one, which labels alone half answer: ``where`` looks at some of the texts.

    Args:
        scores_by_model (mapping): name → scores ``(N, M)`` of N questions and M training texts, positive = proponent; two
            models or more, two questions or more.
        k (int): how many of the highest and of the lowest are compared, at least 1 and fewer than the texts.
        where (Tensor, optional): bool ``(N, M)``, the texts that count for each question, such as those with its label. None:
            all. Scores of the others may be −inf, as those of texts that were deleted from an index.

    Returns:
        RankAgreement: a pair for each two models.

    Raises:
        TypeError: no mapping, no tensor.
        ValueError: fewer than two models or questions, shapes that differ, NaN or infinity, a k out of range, or a model that
            gives all texts of a question one score, which ranks nothing.

    Source: the question is that of Khaddaj, Engstrom and Madry, *Small-to-Large Generalization: Training Data Influences
    Models Consistently Across Scale*, ICLR 2025, arXiv 2505.16260. They correlate the losses of small and large models over
    training sets; here it is the scores of training texts.

    Example:
        >>> import torch
        >>> small = torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
        >>> large = torch.tensor([[40.0, 30.0, 10.0, 20.0], [1.0, 3.0, 2.0, 9.0]])
        >>> found = rank_agreement({"small": small, "large": large}, k=1)
        >>> found.pair("small", "large").correlation.tolist()
        [0.8, 0.8]
        >>> found.interval("small", "large", "proponents").estimate  # both name the same text first, in both questions
        1.0
    """
    scores, counted = _checked(scores_by_model, where)
    questions, texts = counted.shape
    fewest = int(counted.sum(1).min())
    if not is_whole(k) or not 1 <= k < fewest:
        counts = f"{texts} training texts" if where is None else f"{fewest} texts that `where` leaves to one question"
        raise ValueError(f"rank_agreement: expected k from 1 to below the {counts}, got {k!r}.")
    for name, matrix in scores.items():
        for i in range(questions):
            own = matrix[i, counted[i]]
            if bool((own == own[0]).all()):
                raise ValueError(
                    f"rank_agreement: {name!r} gives all {len(own)} texts of question {i} the score {float(own[0]):g}, which is "
                    f"no ranking: expected different scores. Leave the question out of all models."
                )
    names = list(scores)
    pairs = [_pair(a, b, scores, counted, k) for place, a in enumerate(names) for b in names[place + 1 :]]
    return RankAgreement(tuple(names), int(k), tuple(pairs), k / counted.sum(1).double())


def _pair(first: str, second: str, scores: Mapping[str, Tensor], counted: Tensor, k: int) -> ModelPair:
    found: list[list[Tensor]] = [[], [], []]
    for a, b, kept in zip(scores[first], scores[second], counted, strict=True):
        one, other = a[kept], b[kept]
        found[0].append(spearman(one, other))
        for place, proponents in ((1, True), (2, False)):
            found[place].append(top_k_agreement(one[None], other[None], k, proponents)[0])
    return ModelPair(first, second, *(torch.stack(values) for values in found))


def _checked(given: Any, where: Any) -> tuple[dict[str, Tensor], Tensor]:
    """Scores of one shape, and which texts count ``(N, M)``."""
    if not isinstance(given, Mapping):
        raise TypeError(
            f"rank_agreement: expected a mapping, {{name of the model: scores (N, M)}}, got {type(given).__name__}."
        )
    if len(given) < 2:
        raise ValueError(f"rank_agreement: expected the scores of two models or more, got {len(given)}.")
    odd = next((name for name in given if not isinstance(name, str)), None)
    if odd is not None:
        raise TypeError(f"rank_agreement: expected names of models, got {odd!r}.")
    for name, matrix in given.items():
        if not is_plain(matrix):
            raise TypeError(
                f"rank_agreement, {name!r}: expected scores as a tensor, dense and of real numbers, got {kind_of(matrix)}."
            )
    shapes = {name: tuple(matrix.shape) for name, matrix in given.items()}
    if len(set(shapes.values())) > 1:
        told = ", ".join(f"{name!r} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"rank_agreement: expected scores of the same questions and training texts, got {told}. Ask every model about the "
            f"same texts in the same order."
        )
    counted = torch.ones(next(iter(shapes.values())), dtype=torch.bool)
    if where is not None:
        if not is_plain(where) or where.dtype != torch.bool or where.shape != counted.shape:
            got = f"{where.dtype} {tuple(where.shape)}" if isinstance(where, Tensor) else type(where).__name__
            raise ValueError(
                f"rank_agreement: expected `where` as a bool tensor of shape {tuple(counted.shape)}, got {got}."
            )
        counted = where.cpu()
    for name, matrix in given.items():
        own = matrix.detach().cpu()
        lost = (own == -torch.inf) & counted
        if bool(lost.any()) and bool((own < torch.inf)[counted].all()):
            raise ValueError(
                f"rank_agreement, {name!r}: {int(lost.sum())} scores are −inf, as of texts that were deleted from an index: "
                f"expected finite ones. Leave these texts out of all models: where=scores > -torch.inf."
            )
    # What does not count need not be a number.
    scores = {
        name: checked_scores(matrix.detach().cpu().masked_fill(~counted, 0), f"rank_agreement, {name!r}")
        for name, matrix in given.items()
    }
    if len(counted) < 2:
        raise ValueError(
            f"rank_agreement: expected two questions or more, got {len(counted)}: of one there is no interval."
        )
    return scores, counted
