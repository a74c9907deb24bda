"""`suspects`: the training texts whose labels are probably wrong, most suspicious first, with what speaks for and against."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
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
    check_texts,
    corrected,
    names_of,
)
from captum_tracinwe.labels.folds import out_of_fold as folds_of_recipe
from captum_tracinwe.labels.found import Double, MixedUp, Suspect, Suspects
from captum_tracinwe.labels.reasons import Reasons, reasons_of
from captum_tracinwe.labels.said import occurrences_of
from captum_tracinwe.labels.voices import Voices
from captum_tracinwe.labels.words_alone import WordsAlone
from captum_tracinwe.words.explained import Explained
from captum_tracinwe.words.near import doubles_of, occurrences_in, same_words
from captum_tracinwe.words.texts import TokenizedText

__all__ = ["suspects"]

# Of one text with others of the very same words and another label.
MOST_PAIRS = 100


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
    show_progress: bool | None = None,
) -> Suspects:
    """The training texts by how suspicious their labels are, without one label that is known to be right.

    Two judges are asked: the model, at all checkpoints, and the words of the other texts (a regression in folds, which never sees
    the label that it judges). How the two become a probability, and what that was compared with, is on the page "Wrong labels in
    depth" (docs/labels.md).

    Args:
        tracin (TracInWE): a classifier, its training set, its checkpoints; with an index, reasons come from there.
        texts (sequence of TokenizedText, optional): all M training texts, to show words rather than tokens; labels are then
            judged by the words of the whole text, and not only by what the model reads of it.
        class_names (sequence or mapping, optional): names of the K classes; by default those of the model's config, else numbers.
        limit (int): so many of the most suspicious get reasons.
        witnesses (int): training texts named for a label, and as many against it, those of the suggested label first.
        right (mapping, optional): training index → class number, of labels that are known: others are judged by these, and they
            are not suspected.
        out_of_fold (Tensor, optional): ``(M, K)`` log-probabilities of models trained without the text
            (:func:`captum_tracinwe.labels.folds.out_of_fold`): another voice.
        folds (int, optional): have this voice made: train so many models by the ``recipe``, each without a part of the texts.
        recipe (callable, optional): ``(train_dataset) -> transformers.Trainer`` with a fresh model; the training set is a part of
            that of ``tracin``.
        seed (int): of the folds.
        show_progress (bool, optional): bars; None: in a terminal or a notebook.

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
    if texts is not None:
        check_texts(tracin, texts)
    unseen = as_log_probabilities(out_of_fold, size, classes)
    words = occurrences_of(tracin) if texts is None else occurrences_in([text.text for text in texts])
    if recipe is not None and folds is not None:
        data = tracin.live_source.examples.by_index().dataset
        trained = folds_of_recipe(recipe, data, folds, seed, show_progress, labels=answers.labels)
        unseen = as_log_probabilities(trained, size, classes)
    by_words = WordsAlone(words, labels, classes, seed).log_probabilities
    several = len(tracin.live_source.live.weights) > 1  # a model at its end may know its texts by heart
    voices = Voices(answers.log_probabilities, by_words, labels, unseen, answers.first if several else None)
    if not voices.tells:
        way = "Give it a better voice, out_of_fold=..., of your model trained in folds."
        if unseen is not None:
            way = "Models trained in folds say no more: these texts do not tell their classes, or they are too few."
        warnings.warn(
            f"What judges labels without having seen them names {voices.accuracy:.0%} of them, little more than the largest "
            f"class would: suspicions are upper bounds, though their order holds. {way}",
            stacklevel=2,
        )
    known = set(right or ())
    order = [index for index in torch.argsort(-voices.scores, stable=True).tolist() if index not in known]
    suspicions, suggested = voices.suspicions.tolist(), voices.suggested.tolist()
    certainties = None if voices.certainties is None else voices.certainties.tolist()
    given, now = answers.labels.tolist(), labels.tolist()  # `right` may have changed some
    alike, groups = doubles_of(words), same_words(words)
    beside: dict[int, set[int]] = defaultdict(set)
    for group in groups:
        whole = set(group)
        beside.update({index: whole for index in group})
    for one, other in alike:
        beside[one] = beside[one] | {other}
        beside[other] = beside[other] | {one}
    asked = {index: suggested[index] for index in order[:limit]}
    reasons = reasons_of(tracin, asked, labels, witnesses, beside)
    first = tuple(
        Suspect(
            index,
            names[given[index]],
            names[suggested[index]],
            suspicions[index],
            _with_texts(reasons.get(index, Reasons()), texts),
            None if texts is None else texts[index],
            None if certainties is None else certainties[index],
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
            for (one, other), cosine in sorted([*alike.items(), *_of_groups(groups, now)])
            if now[one] != now[other]
        ),
        voices.weight,
        voices.accuracy,
        voices.tells,
        tuple(names),
        tuple(names[label] for label in now),
        () if texts is None else tuple(texts[index].text for index in order),
        () if certainties is None else tuple(certainties[index] for index in order),
    )


def _of_groups(groups: Sequence[Sequence[int]], labels: Sequence[int]) -> Iterator[tuple[tuple[int, int], float]]:
    """Pairs of the very same text with different labels: of each text those of the next ones, 100 at most."""
    for group in groups:
        for place, one in enumerate(group, 1):
            others = (other for other in group[place:] if labels[other] != labels[one])
            yield from (((one, other), 1.0) for other in islice(others, MOST_PAIRS))


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
