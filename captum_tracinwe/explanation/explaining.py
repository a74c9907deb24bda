"""`explain`: why a model answers a test set as it does. Gradients are computed once, and answer every question of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from captum_tracinwe.batches.batch import Batch
from captum_tracinwe.explanation.asking import (
    Answers,
    Explainable,
    answers_by,
    asked_about,
    check_arguments,
    classes_of,
)
from captum_tracinwe.explanation.found import Answer, Explanation, Near, TrainingText
from captum_tracinwe.explanation.performance import performance_of
from captum_tracinwe.gradients.source import Question
from captum_tracinwe.words.explained import Explained
from captum_tracinwe.words.influence import WordInfluence
from captum_tracinwe.words.near import near_groups, occurrences_in
from captum_tracinwe.words.own_labels import check_own_labels
from captum_tracinwe.words.report import WordReport, report_of
from captum_tracinwe.words.splitting import split
from captum_tracinwe.words.texts import TokenizedText

__all__ = ["explain"]

# Of a report's words so many have their training texts in the result, beside all that go with one label.
MOST_WORDS = 100


def explain(
    tracin: Explainable,
    inputs: Batch | DataLoader[Any],
    *,
    test_texts: Sequence[TokenizedText],
    train_texts: Sequence[TokenizedText],
    train_labels: Sequence[object] | Tensor | None = None,
    names: Sequence[str] | Mapping[int, str] | None = None,
    k: int = 3,
    explained: int = 20,
    test_places: Sequence[str] | None = None,
    train_places: Sequence[str] | None = None,
    cache: str | Path | bool | None = None,
    title: str | None = None,
    seed: int = 0,
    announce: Callable[[Any], None] | None = None,
    show_progress: bool | None = None,
) -> Explanation:
    """Why a classifier answers a test set as it does: who taught it its mistakes, and which words go with one class.

    The gradients of the training set are computed once: those that the index of ``tracin`` or the cache has, not at all. The same
    ones tell who taught an answer, which words are behind the mistakes, and what the training set says of itself.

    Args:
        tracin (TracInWE): a classifier, its training set (or an index of it), its checkpoints. Answers are those of the model as
            it is.
        inputs (batch, DataLoader or data set): N test examples with their right labels.
        test_texts, train_texts (sequence of TokenizedText): N and M texts.
        train_labels (sequence or Tensor, optional): M class numbers or names; default: the labels of ``train_texts``.
        names (sequence or mapping, optional): of the classes; default: those of the model's config, else numbers.
        k (int): training texts that pushed an answer, and as many that pushed it away. Of near-duplicates the strongest is
            named, and :meth:`Explanation.alike` has the others.
        explained (int): answers that are explained: mistakes, those first of which the model was surest; then right answers,
            those first of which it was least sure.
        test_places, train_places (sequence of str, optional): where a person finds each text; default: "test text 3".
        cache (str, Path or False, optional): folder of the gradients where ``tracin`` has no index; default: that of
            :meth:`TracInWE.cached`; False: they are kept until the answer is there.
        title (str, optional): of a page.
        seed (int): of the p-values.
        announce (callable, optional): told what the gradients will take before they are computed, in place of stderr.
        show_progress (bool, optional): bars; None: in a terminal or a notebook.

    Raises:
        ValueError: no classifier; labels, names, places or texts that do not fit; the message says what was expected.
        TypeError: an argument is of another kind.

    Example:
        >>> import torch
        >>> from captum_tracinwe import TracInWE, explain
        >>> from captum_tracinwe.testing import TinyCNN
        >>> from captum_tracinwe.texts import from_ids
        >>> labels = torch.arange(40) % 2
        >>> ids = 1 + 9 * labels[:, None] + torch.randint(9, (40, 8), generator=torch.Generator().manual_seed(0))
        >>> train, loss = torch.utils.data.TensorDataset(ids, labels), torch.nn.CrossEntropyLoss()
        >>> tracin = TracInWE(TinyCNN(), train, ["now"], lambda model, checkpoint: 0.1, loss_fn=loss, batch_size=20)
        >>> texts = [from_ids(row) for row in ids]
        >>> found = explain(
        ...     tracin, (ids[:6], labels[:6]), test_texts=texts[:6], train_texts=texts, train_labels=labels, k=1, cache=False
        ... )
        >>> found.performance.tests, len(found.answers), found.habits.trains
        (6, 6, 40)
    """
    check_arguments(tracin, {"k": k, "explained": explained}, {"test_texts": test_texts, "train_texts": train_texts})
    answers = answers_by(tracin, inputs, names)
    taught = classes_of(train_labels, train_texts, answers.names)
    check_own_labels(
        tracin.source, [answers.names[label] for label in taught], dict(enumerate(answers.names)), "explain"
    )
    at_test = _places("test", test_places, len(answers.labels), len(test_texts))
    at_train = _places("train", train_places, _size(tracin, len(train_texts)), len(train_texts))
    performance = performance_of(taught, answers.labels, answers.predicted, answers.names)
    chosen = answers.chosen(explained)
    labels = [answers.names[label] for label in taught]
    near = near_groups(occurrences_in(text.text for text in train_texts))
    with _kept(tracin, cache, announce, show_progress) as stored:
        question = asked_about(stored, answers, chosen, show_progress)
        named = [replace(text, label=label) for text, label in zip(train_texts, labels, strict=True)]
        shown = [_shown(test_texts[index], answers, index) for index in chosen]
        pairs = _pairs(stored, question, chosen, k, near, shown, named)
        given: dict[str, Any] = {"train_texts": list(train_texts), "groups": near, "seed": seed}
        wrong = [place for place, index in enumerate(chosen) if answers.labels[index] != answers.predicted[index]]
        causes = None
        if wrong and question.known is not None:
            mistakes = replace(question, known=question.known.select(wrong), aggregate=True, by_own_length=True)
            causes = report_of(stored, mistakes, labels, show_progress=show_progress, **given)
        of_itself = stored.question(None)
        habits = report_of(stored, of_itself, labels, show_progress=show_progress, **given)
    wanted = {pair.train_index for own in pairs for pair in own} | {index for group in near for index in group}
    wanted |= _behind(habits) | (set() if causes is None else _behind(causes))
    return Explanation(
        performance,
        tuple(
            Answer(
                index,
                at_test[index],
                text,
                answers.names[answers.labels[index]],
                answers.names[answers.predicted[index]],
                answers.probabilities[index],
                own,
            )
            for index, text, own in zip(chosen, shown, pairs, strict=True)
        ),
        habits,
        causes,
        tuple(Near(group, tuple(labels[index] for index in group)) for group in near),
        {index: TrainingText(index, at_train[index], labels[index], named[index]) for index in sorted(wanted)},
        len(train_texts),
        **({} if title is None else {"title": title}),
    )


@contextmanager
def _kept(
    tracin: Explainable, cache: str | Path | bool | None, announce: Callable[[Any], None] | None, show: bool | None
) -> Iterator[Explainable]:
    """With the gradients of the training set at hand."""
    if cache is not False:
        folder = None if cache is True else cache
        yield tracin.cached(folder, show_progress=show, announce=announce)
        return
    with tempfile.TemporaryDirectory(prefix="captum-tracinwe-") as folder:
        yield tracin.cached(folder, show_progress=show, announce=announce)


def _pairs(
    tracin: Explained,
    question: Question,
    chosen: Sequence[int],
    k: int,
    near: Sequence[Sequence[int]],
    shown: Sequence[TokenizedText],
    taught: Sequence[TokenizedText],
) -> list[tuple[WordInfluence, ...]]:
    """Of each answer its strongest training texts on either side, with the words by which they act."""
    source = tracin.source
    leader = {index: group[0] for group in near for index in group}
    scores = source.scores(question).nan_to_num(neginf=0)  # of an index that texts were deleted from
    best = [[*_firsts(row, k, leader), *_firsts(-row, k, leader)] for row in scores]
    distinct = sorted({index for own in best for index in own})
    if not distinct:
        return [()] * len(best)
    place = {index: at for at, index in enumerate(distinct)}
    train = question.taught(source.rows(distinct))
    meet = torch.tensor([(at, place[index]) for at, own in enumerate(best) for index in own])
    ids = [(chosen[at], index) for at, own in enumerate(best) for index in own]
    asked = source.of_question(question)
    told = iter(split(question, asked, train, meet.to(asked.ptr.device), ids))
    return [
        tuple(next(told).with_texts(text, taught[index]) for index in own)
        for own, text in zip(best, shown, strict=True)
    ]


def _firsts(scores: Tensor, k: int, leader: Mapping[int, int]) -> list[int]:
    """The k highest above 0, best first, one of each group; of equal ones the first."""
    found: list[int] = []
    seen: set[int] = set()
    for index in torch.argsort(scores, descending=True, stable=True).tolist():
        if len(found) == k or not scores[index] > 0:
            break
        group = leader.get(index, index)
        if group not in seen:
            seen.add(group)
            found.append(index)
    return found


def _shown(text: TokenizedText, answers: Answers, index: int) -> TokenizedText:
    label, prediction = answers.labels[index], answers.predicted[index]
    return replace(text, label=answers.names[label], prediction=answers.names[prediction])


def _behind(report: WordReport) -> set[int]:
    """The training texts that a report names, of its first words and of those that go with one label."""
    words = (word for place, word in enumerate(report.words) if place < MOST_WORDS or word.sticks)
    return {index for word in words for index, _ in word.examples}


def _size(tracin: Explained, otherwise: int) -> int:
    """M, as far as it is known before the training set is read."""
    size = tracin.source.size
    if size is None:
        size = tracin.live_source.examples.readable
    return otherwise if size is None else size


def _places(which: str, given: Sequence[str] | None, size: int, texts: int) -> Sequence[str]:
    """Where a person finds each text."""
    called = "test" if which == "test" else "training"
    if texts != size:
        raise ValueError(
            f"explain: expected one of `{which}_texts` for each of the {size} {called} examples, got {texts}."
        )
    if given is None:
        return [f"{called} text {index}" for index in range(size)]
    if len(given) != size:
        raise ValueError(
            f"explain: expected one of `{which}_places` for each of the {size} {called} examples, got {len(given)}."
        )
    return list(given)
