"""`suspects`: the training texts whose labels are probably wrong, most suspicious first, with what speaks for and against."""

from __future__ import annotations

import csv
import io
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.gradients.answers import answers_of
from captum_tracinwe.gradients.kept_answers import kept_answers
from captum_tracinwe.labels.asking import (
    as_log_probabilities,
    check_arguments,
    check_folds,
    check_labels,
    corrected,
    names_of,
)
from captum_tracinwe.labels.doubles import doubles_of
from captum_tracinwe.labels.folds import out_of_fold as folds_of_recipe
from captum_tracinwe.labels.reasons import Reasons, reasons_of
from captum_tracinwe.labels.said import occurrences_in, occurrences_of
from captum_tracinwe.labels.voices import Voices
from captum_tracinwe.labels.words_alone import WordsAlone
from captum_tracinwe.words.drawing import html_of, text_of
from captum_tracinwe.words.explained import Explained
from captum_tracinwe.words.influence import WordShare
from captum_tracinwe.words.texts import TokenizedText

__all__ = ["Double", "MixedUp", "Suspect", "Suspects", "suspects"]

# Of the table; witnesses and words are those of the first suspects.
COLUMNS = ("index", "label", "suggested", "suspicion", "text", "against", "for", "words_against", "words_for")


@dataclass(frozen=True)
class Suspect:
    """One training text whose label is looked at.

    Args:
        index (int): training index.
        label, suggested (str): the label given, and the best other one.
        suspicion (float): how probable it is that the label is wrong.
        reasons (Reasons): the training texts that speak for the label and against it.
        text (TokenizedText, optional): the text.
    """

    index: int
    label: str
    suggested: str
    suspicion: float
    reasons: Reasons = field(default_factory=Reasons)
    text: TokenizedText | None = None

    def words(self, against: bool = True, count: int = 5) -> list[WordShare]:
        """The words by which the texts that speak against the label (for it) do so, strongest first: their shares added up.

        Punctuation is left out, and tokens that no person wrote.
        """
        told: dict[str, float] = defaultdict(float)
        first: dict[str, WordShare] = {}
        for pair in self.reasons.speaks_against if against else self.reasons.speaks_for:
            for word in pair.words():
                if not word.special and any(map(str.isalnum, word.text)):
                    told[word.text.casefold()] += word.share
                    first.setdefault(word.text.casefold(), word)
        sign = -1 if against else 1
        best = sorted((name for name in told if sign * told[name] > 0), key=lambda name: (-sign * told[name], name))
        return [WordShare(name, told[name], first[name].token_ids) for name in best[:count]]


@dataclass(frozen=True)
class MixedUp:
    """A label that stands where another belongs.

    Args:
        label, suggested (str): the label given, and the one suggested.
        wrong (float): expected number of texts with this label that should have the other.
        texts (int): texts with this label.
    """

    label: str
    suggested: str
    wrong: float
    texts: int


@dataclass(frozen=True)
class Double:
    """Two texts of nearly the same words and different labels.

    Args:
        indices (tuple of int): training indices.
        labels (tuple of str): their labels.
        cosine (float): of their tf-idf vectors, at least 0.9.
    """

    indices: tuple[int, int]
    labels: tuple[str, str]
    cosine: float


@dataclass(frozen=True)
class Suspects:
    """All training texts by how suspicious their labels are.

    Args:
        first (tuple of Suspect): the most suspicious ones, with reasons.
        order (tuple of int): training indices, most suspicious first; those known to be right are not among them.
        suspicions (tuple of float): how probable it is that each label is wrong, in this order.
        labels, suggested (tuple of str): the label given and the best other one, in this order.
        mixed_up (tuple of MixedUp): pairs of labels, those with most wrong texts first.
        doubles (tuple of Double): pairs of nearly the same text with different labels.
        weight (float): of the model's own margins in the score, 0 to 1; the rest is that of the voices that have not seen the
            label (:class:`captum_tracinwe.labels.voices.Voices`).
        accuracy (float): of how many texts these name the label given.
        tells (bool): whether they tell the classes apart; if not, suspicions are upper bounds.
    """

    first: tuple[Suspect, ...]
    order: tuple[int, ...]
    suspicions: tuple[float, ...]
    labels: tuple[str, ...]
    suggested: tuple[str, ...]
    mixed_up: tuple[MixedUp, ...] = ()
    doubles: tuple[Double, ...] = ()
    weight: float = 0.0
    accuracy: float = 0.0
    tells: bool = True

    def __len__(self) -> int:
        return len(self.order)

    def expected(self, count: int | None = None) -> float:
        """The expected number of wrong labels among the first ``count``; None: among all."""
        return float(sum(self.suspicions[:count]))

    def to_table(self) -> Any:
        """A ``pandas.DataFrame``, a row per training text; where pandas is not installed a list of dicts."""
        texts = {one.index: one for one in self.first}
        rows: list[dict[str, Any]] = []
        for index, suspicion, label, suggested in zip(
            self.order, self.suspicions, self.labels, self.suggested, strict=True
        ):
            one = texts.get(index)
            shown = one is not None and one.text is not None
            rows.append(
                {
                    "index": index,
                    "label": label,
                    "suggested": suggested,
                    "suspicion": suspicion,
                    "text": one.text.text if shown and one is not None and one.text is not None else "",
                    "against": _named(one, True),
                    "for": _named(one, False),
                    "words_against": " ".join(word.text for word in one.words(True)) if one else "",
                    "words_for": " ".join(word.text for word in one.words(False)) if one else "",
                }
            )
        try:
            import pandas
        except ImportError:
            return rows
        return pandas.DataFrame(rows, columns=list(COLUMNS))

    def to_csv(self) -> str:
        """The table as the text of a file."""
        table = self.to_table()
        rows = table.to_dict("records") if hasattr(table, "to_dict") else table
        written = io.StringIO(newline="")
        writer = csv.DictWriter(written, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return written.getvalue()

    def __repr__(self) -> str:
        return (
            f"Suspects(<{len(self.first)} of {len(self):,} texts>, expected={self.expected():.1f}, weight={self.weight:.2f}, "
            f"tells={self.tells})"
        )

    def __str__(self) -> str:
        return text_of(self)

    def _repr_html_(self) -> str | None:
        return html_of(self)


def suspects(
    tracin: Explained,
    *,
    texts: Sequence[TokenizedText] | None = None,
    class_names: Sequence[str] | Mapping[int, str] | None = None,
    limit: int = 50,
    witnesses: int = 3,
    right: Mapping[int, int] | None = None,
    out_of_fold: Tensor | None = None,
    folds: int | None = None,
    recipe: Callable[[Any], Any] | None = None,
    seed: int = 0,
    show_progress: bool = False,
) -> Suspects:
    """The training texts by how suspicious their labels are, without one label that is known to be right.

    Two voices are heard: what the model answers to its training texts, at all checkpoints, and what the other texts' words say
    about a label (a regression out of folds, which never sees it). How they are put together, and how probabilities are had,
    stands in docs/labels.md, with what it was compared with.

    Args:
        tracin (TracInWE): a classifier, its training set, its checkpoints; with an index, reasons come from there.
        texts (sequence of TokenizedText, optional): all M training texts, to show words rather than tokens; labels are then
            judged by the words of the whole text, and not only by what the model reads of it.
        class_names (sequence or mapping, optional): names of the K classes; by default those of the model's config, else numbers.
        limit (int): so many of the most suspicious get reasons.
        witnesses (int): training texts named for a label, and as many against it.
        right (mapping, optional): training index → class number, of labels that are known: others are judged by these, and they
            are not suspected.
        out_of_fold (Tensor, optional): ``(M, K)`` log-probabilities of models trained without the text
            (:func:`captum_tracinwe.labels.folds.out_of_fold`): another voice.
        folds (int, optional): have this voice made: train so many models by the ``recipe``, each without a part of the texts.
        recipe (callable, optional): ``(train_dataset) -> transformers.Trainer`` with a fresh model; the training set is a part of
            that of ``tracin``.
        seed (int): of the folds.
        show_progress (bool): bars.

    Returns:
        Suspects: most suspicious first.

    Raises:
        ValueError: no classifier, one class, soft or several labels, a label out of range, fewer texts than classes; texts,
            names or probabilities that do not fit. The message says what was expected.
        TypeError: an argument is of another kind.

    Example:
        >>> import torch
        >>> from captum_tracinwe import TracInWE
        >>> from captum_tracinwe.testing import TinyCNN
        >>> labels = torch.arange(60) % 3
        >>> ids = 1 + 9 * labels[:, None] + torch.randint(9, (60, 8))  # each class has words of its own
        >>> labels[7] = 0  # which was 1
        >>> train, loss = torch.utils.data.TensorDataset(ids, labels), torch.nn.CrossEntropyLoss()
        >>> tracin = TracInWE(TinyCNN(), train, ["now"], lambda model, checkpoint: 0.1, loss_fn=loss, batch_size=20)
        >>> found = suspects(tracin, limit=2)
        >>> found.first[0].index, found.first[0].label, found.first[0].suggested
        (7, '0', '1')
    """
    check_arguments(tracin, limit, witnesses, seed, texts)
    check_folds(folds, recipe, out_of_fold, seed, tracin)
    answers = kept_answers(tracin.source, tracin.live_source) or answers_of(tracin.live_source, show_progress)
    size, classes = answers.log_probabilities.shape
    labels = corrected(answers.labels, right, classes)
    check_labels(labels, classes)
    names = names_of(class_names, classes, tracin)
    if texts is not None and len(texts) != size:
        raise ValueError(
            f"suspects: expected one of `texts` for each of the {size} training examples, got {len(texts)}."
        )
    unseen = as_log_probabilities(out_of_fold, size, classes)
    words = occurrences_of(tracin) if texts is None else occurrences_in([text.text for text in texts])
    if recipe is not None and folds is not None:
        data = tracin.live_source.examples.by_index().dataset
        trained = folds_of_recipe(recipe, data, folds, seed, show_progress, labels=answers.labels)
        unseen = as_log_probabilities(trained, size, classes)
    by_words = WordsAlone(words, labels, classes, seed).log_probabilities
    voices = Voices(answers.log_probabilities, by_words, labels, unseen)
    if not voices.tells:
        warnings.warn(
            f"What judges labels without having seen them names {voices.accuracy:.0%} of them, little more than the largest "
            f"class would: suspicions are upper bounds, though their order holds. Give it a better voice, out_of_fold=..., of "
            f"your model trained in folds.",
            stacklevel=2,
        )
    known = set(right or ())
    order = [index for index in torch.argsort(-voices.scores, stable=True).tolist() if index not in known]
    suspicions, suggested = voices.suspicions.tolist(), voices.suggested.tolist()
    given, now = answers.labels.tolist(), labels.tolist()  # `right` may have changed some
    alike = doubles_of(words)
    beside: dict[int, set[int]] = defaultdict(set)
    for one, other in alike:
        beside[one].add(other)
        beside[other].add(one)
    reasons = reasons_of(tracin, order[:limit], witnesses, beside)
    first = tuple(
        Suspect(
            index,
            names[given[index]],
            names[suggested[index]],
            suspicions[index],
            _with_texts(reasons.get(index, Reasons()), texts),
            None if texts is None else texts[index],
        )
        for index in order[:limit]
    )
    return Suspects(
        first,
        tuple(order),
        tuple(suspicions[index] for index in order),
        tuple(names[given[index]] for index in order),
        tuple(names[suggested[index]] for index in order),
        _mixed_up(order, suspicions, given, suggested, names),
        tuple(
            Double((one, other), (names[now[one]], names[now[other]]), cosine)
            for (one, other), cosine in alike.items()
            if now[one] != now[other]
        ),
        voices.weight,
        voices.accuracy,
        voices.tells,
    )


def _with_texts(reasons: Reasons, texts: Sequence[TokenizedText] | None) -> Reasons:
    if texts is None:
        return reasons
    for_it, against = (
        tuple(pair.with_texts(texts[pair.test_index], texts[pair.train_index]) for pair in side)
        for side in (reasons.speaks_for, reasons.speaks_against)
    )
    return Reasons(for_it, against)


def _mixed_up(
    order: Sequence[int],
    suspicions: Sequence[float],
    given: Sequence[int],
    suggested: Sequence[int],
    names: Sequence[str],
) -> tuple[MixedUp, ...]:
    texts: dict[int, int] = defaultdict(int)
    wrong: dict[tuple[int, int], float] = defaultdict(float)
    for index in order:
        texts[given[index]] += 1
        wrong[given[index], suggested[index]] += suspicions[index]
    found = [MixedUp(names[a], names[b], count, texts[a]) for (a, b), count in wrong.items() if count >= 1]
    return tuple(sorted(found, key=lambda pair: (-pair.wrong, pair.label, pair.suggested)))


def _named(one: Suspect | None, against: bool) -> str:
    if one is None:
        return ""
    pairs = one.reasons.speaks_against if against else one.reasons.speaks_for
    return " ".join(str(pair.train_index) for pair in pairs)
