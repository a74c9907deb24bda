"""Voices about each label, the model's and that of the words alone, in one: each counts as far as it can be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from captum_tracinwe.labels.chances import Chances, rising
from captum_tracinwe.labels.highest import highest

__all__ = ["Voices", "by_class", "margins", "tells"]

# Texts of a label with fewer than so many are adjusted half by their own mean, half by that of all.
FEW = 10
# Parts of the model's voice out of folds in the mixture with the words'.
PARTS = (0.0, 0.25, 0.5, 0.75, 1.0)
# A judge tells classes apart if it is at least this part of the way from naming the largest class to being right always. From a
# third of the way on the share of wrong labels was read off within a quarter; at a sixth, where labels were relations of two
# sentences, it was four times too large.
TELLS = 0.25
# Nobody is surer of another label of many: of those that would have been, 2 to 5 in a hundred were wrong.
SUREST = 0.99
# Of texts that are looked up in a curve that others make.
NEXT_TO_NOTHING = 1e-9


def by_class(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Each class's log-probability less its mean over the texts that are labelled so, ``(N, K)``.

    A model is surer of some classes than of others: in a rare one every label would look wrong. Cleanlab subtracts mean
    probabilities for the same reason (Northcutt, Jiang and Chuang, *Confident Learning*, arXiv 1911.00068).
    """
    classes = log_probabilities.shape[1]
    own = log_probabilities[torch.arange(len(labels)), labels]
    counts = torch.bincount(labels, minlength=classes).double()
    sums = torch.zeros(classes, dtype=torch.float64).index_add_(0, labels, own)
    return log_probabilities - (sums + FEW * own.mean()) / (counts + FEW)


def margins(told: Tensor, labels: Tensor) -> Tensor:
    """By how much the best other class is ahead of the label, ``(N,)``: above 0 the label is not the best."""
    own = told[torch.arange(len(labels)), labels]
    return without(told, labels).amax(1) - own


def without(told: Tensor, labels: Tensor) -> Tensor:
    """What is said about the classes other than the label; of that −∞."""
    others = told.clone()
    others[torch.arange(len(labels)), labels] = -torch.inf
    return others


def skill(accuracy: float, labels: Tensor) -> float:
    """Of who names so many of these labels, which part of the way that is from naming the largest class to being right always."""
    most = float(torch.bincount(labels).max()) / len(labels)
    return (accuracy - most) / max(1e-12, 1 - most)


def tells(accuracy: float, labels: Tensor) -> bool:
    """Whether who names so many of these labels tells their classes apart: `TELLS` of the way from the largest class to all."""
    return skill(accuracy, labels) >= TELLS


@dataclass(frozen=True, eq=False)
class Voices:
    """What the model and the words say about N labels.

    The words' voice is told out of folds: it has not seen the label that it judges. So it is known how it would judge a wrong
    one (:class:`Chances`), and how many are wrong. The model has seen all labels, and has learned the wrong ones as far as it
    remembers single texts. How far, the other voice shows: by the part r² of the variance of the words' judgement that the
    model's margins foretell. ``weight`` is r⁴ / (r⁴ + (1 − r²)²): of two voices one of which tells little, the other is heard
    alone. Over 15 sets of texts r² was .1 to .6 for CNNs trained from scratch, which remember their texts, and .75 for a
    fine-tuned MiniLM. r² says too little of a model that sees what words do not: labels that it contested from the beginning
    count for it too (``foresight``). A judge that hardly tells classes apart can be foretold by nobody: below `TELLS` the
    model is heard the more, and from half of it on alone. (Of relations of sentences a MiniLM's r² was .13, where words found
    little more than chance.)

    Args:
        model, words (Tensor): log-probabilities, float64 ``(N, K)``.
        labels (Tensor): int64 ``(N,)``, the labels given.
        out_of_fold (Tensor, optional): log-probabilities ``(N, K)`` of the model trained without the text: then it judges
            beside the words, in that mixture of both under which the labels given are most probable.
        first (Tensor, optional): the model's best classes at the first of several checkpoints, int64 ``(N,)``.
    """

    model: Tensor
    words: Tensor
    labels: Tensor
    out_of_fold: Tensor | None = None
    first: Tensor | None = None

    @cached_property
    def judge(self) -> Tensor:
        """Log-probabilities ``(N, K)`` of those that have not seen the label."""
        if self.out_of_fold is None:
            return self.words
        unseen, own = self.out_of_fold, torch.arange(len(self.labels))

        def mixed(part: float, scale: float) -> Tensor:
            return (scale * (part * unseen + (1 - part) * self.words)).log_softmax(1)

        def likelihood(part: float, scale: float) -> float:
            return float(mixed(part, scale)[own, self.labels].mean())

        scales = {part: highest(partial(likelihood, part), 0.05, 20.0) for part in PARTS}
        part = max(PARTS, key=lambda part: likelihood(part, scales[part]))
        return mixed(part, scales[part])

    @cached_property
    def chances(self) -> Chances:
        """What the judge alone says."""
        return Chances.of(by_class(self.judge, self.labels), self.labels)

    @cached_property
    def accuracy(self) -> float:
        """Of how many texts the judge's best class is the label."""
        return float((self.judge.argmax(1) == self.labels).double().mean())

    @cached_property
    def tells(self) -> bool:
        """Whether the judge tells classes apart: else no text is so clear that the share of wrong labels can be read off."""
        return tells(self.accuracy, self.labels)

    @cached_property
    def weight(self) -> float:
        """Of the model's voice, 0 to 1."""
        judged = self.chances.wrong
        foretold = rising(margins(by_class(self.model, self.labels), self.labels), judged)
        whole = float(judged.var(correction=0))
        part = min(1.0, float(foretold.var(correction=0)) / whole) if whole > 0 else 1.0
        heard = min(1.0, max(0.0, 2 * skill(self.accuracy, self.labels) / TELLS - 1))
        remembered = part**2 / (part**2 + (1 - part) ** 2)
        return 1 - heard * (1 - remembered) * (1 - self.foresight)

    @cached_property
    def foresight(self) -> float:
        """How far the model sees wrong labels that the judge does not, 0 to 1, by its first answers, the least learned by heart.

        It is the chance that these name more labels than the judge does, and that they are nearer to the judge's answers than
        the labels are (two sign tests, the lesser chance). It is less if the judge itself finds many of as many wrong labels as
        the model contests: times 1 − part². A CNN from scratch names too few at first. A fine-tuned MiniLM passed both tests; the
        judge was blind where people, or a weaker model's doubts, had made the errors: of a hundred labels it found 2 wrong, where
        the MiniLM contested 10. It is 0 if ``first`` is not known: CNNs judged by their end alone passed the tests, too, and lost
        up to .08 of average precision.
        """
        if self.first is None:
            return 0.0
        first, judge, labels = self.first, self.judge.argmax(1), self.labels
        contested = int((first != labels).sum())
        if contested == 0:
            return 0.0
        names_more = _more(first == labels, judge == labels)
        is_nearer = _more(first == judge, labels == judge)
        part = min(1.0, self.chances.share * len(labels) / contested)
        return min(names_more, is_nearer) * (1 - part**2)

    @cached_property
    def told(self) -> Tensor:
        """All in one, by class, ``(N, K)``."""
        return by_class(self.weight * self.model + (1 - self.weight) * self.judge, self.labels)

    @cached_property
    def scores(self) -> Tensor:
        """Most suspicious highest, ``(N,)``."""
        return margins(self.told, self.labels)

    @cached_property
    def suspicions(self) -> Tensor:
        """How probable it is that a label is wrong, ``(N,)``; it rises with the score."""
        return rising(self.scores, self.chances.wrong)

    @cached_property
    def suggested(self) -> Tensor:
        """The best class other than the label, int64 ``(N,)``."""
        return without(self.told, self.labels).argmax(1)

    @cached_property
    def certainties(self) -> Tensor | None:
        """How probable the suggested class is the right one if the label is wrong, ``(N,)``; None: nobody can tell.

        Of two classes it is. Of more the judge says it: he has not seen the label, so that any other class of a text can be put
        in the label's place, and it is seen how often his best class without that one is the label, by how far it is ahead of
        the next. Among the texts are those with a wrong label, which he never names then: by their share it is too little. If
        the judge would have another class than the suggested one, that has no more than what he leaves to it.
        """
        size, classes = self.told.shape
        if classes == 2:
            return torch.ones(size, dtype=torch.float64)
        if not self.tells:
            return None
        judged = by_class(self.judge, self.labels)
        kept = without(judged, self.labels).topk(2, dim=1)
        aheads, right, parts = _in_the_labels_place(judged, self.labels)
        own = kept.values[:, 0] - kept.values[:, 1]
        found = rising(
            torch.cat([own, aheads]),
            torch.cat([torch.zeros(size, dtype=torch.float64), right]),
            torch.cat([torch.full((size,), NEXT_TO_NOTHING, dtype=torch.float64), parts]),
        )[:size]
        found = (found / max(1e-12, 1 - self.chances.share)).clamp(max=SUREST)
        return torch.where(kept.indices[:, 0] == self.suggested, found, torch.minimum(found, 1 - found))


def _more(one: Tensor, other: Tensor) -> float:
    """The chance that the one is true of more texts than the other, by those of which only one is (a sign test)."""
    first, second = int((one & ~other).sum()), int((other & ~one).sum())
    return 0.5 * (1 + math.erf((first - second) / math.sqrt(2 * (first + second + 1))))


def _in_the_labels_place(judged: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each text with each other class in the label's place: how far the best of the rest is ahead of the next, whether it is the
    label, and which part of the text that is; ``(3 N,)``, for all but the two best classes are alike."""
    first, second, third = judged.topk(3, dim=1).values.T
    best, next_best = judged.topk(2, dim=1).indices.T
    each = 1.0 / (judged.shape[1] - 1)
    is_best, is_next = best == labels, next_best == labels
    instead_of_best, instead_of_next = each * ~is_best, each * ~is_next
    aheads = torch.cat([second - third, first - third, first - second])
    right = torch.cat([is_next, is_best, is_best]).double()
    parts = torch.cat([instead_of_best, instead_of_next, 1 - instead_of_best - instead_of_next])
    return aheads, right, parts
