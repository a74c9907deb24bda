"""What `explain` demands of its arguments, which answers it asks about, and the question that is asked about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from captum_tracinwe.batches.arguments import is_list, is_whole
from captum_tracinwe.batches.batch import Batch, part_of, size_of, with_labels
from captum_tracinwe.batches.inputs import GivenBatches
from captum_tracinwe.batches.loaders import in_order, reading
from captum_tracinwe.batches.training_set import TrainingSet
from captum_tracinwe.gradients.answers import answers_now
from captum_tracinwe.gradients.live import Asked
from captum_tracinwe.gradients.live_source import of_question
from captum_tracinwe.gradients.source import Question
from captum_tracinwe.labels.asking import names_of
from captum_tracinwe.words.explained import Explained
from captum_tracinwe.words.texts import TokenizedText

__all__ = ["Answers", "Explainable", "answers_by", "asked_about", "check_arguments", "classes_of"]


class Explainable(Explained, Protocol):
    """A :class:`captum_tracinwe.TracInWE`."""

    def batches_of(self, inputs: Batch | DataLoader[Any]) -> DataLoader[Any]:
        """Batches of test examples."""

    def cached(
        self,
        folder: str | Path | None = None,
        *,
        show_progress: bool | None = None,
        announce: Callable[[Any], None] | None = None,
    ) -> Explainable:
        """The same with its training gradients kept."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What the model says of N test texts.

    Args:
        examples (TrainingSet): the test texts as they were given, with their labels.
        names (list of str): of the classes.
        labels, predicted (list of int): class numbers.
        probabilities (list of float): of the prediction.
    """

    examples: TrainingSet
    names: list[str]
    labels: list[int]
    predicted: list[int]
    probabilities: list[float]

    def chosen(self, count: int) -> list[int]:
        """``count`` test indices: mistakes, of these the surest first; then right answers, the least sure first."""

        def key(index: int) -> tuple[bool, float, int]:
            right = self.labels[index] == self.predicted[index]
            return right, self.probabilities[index] * (1 if right else -1), index

        return sorted(range(len(self.labels)), key=key)[:count]


def check_arguments(tracin: Any, counts: Mapping[str, Any], lists: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError where an argument is of another kind."""
    if not hasattr(tracin, "cached"):
        raise TypeError(f"explain: expected a TracInWE first, got {type(tracin).__name__}.")
    for name, value in counts.items():
        if not is_whole(value) or value < 1:
            raise ValueError(f"explain: expected `{name}` as a whole number of at least 1, got {value!r}.")
    for name, texts in lists.items():
        wrong = [one for one in texts if not isinstance(one, TokenizedText)] if is_list(texts) else [texts]
        if wrong:
            raise TypeError(
                f"explain: expected `{name}` as a list of TokenizedText, got {type(wrong[0]).__name__}: make them with "
                f"captum_tracinwe.texts.tokenize(texts, tokenizer)."
            )


def answers_by(
    tracin: Explainable, inputs: Batch | DataLoader[Any], names: Sequence[str] | Mapping[int, str] | None
) -> Answers:
    """What the model as it is now says of the test texts, by one forward pass; nothing is learned of the training set for it."""
    loader = tracin.batches_of(inputs)
    asked = Asked(tracin.live_source.loss_fn, "test")
    found = answers_now(tracin.live_source.live, reading(loader, "inputs"), asked, "explain")
    best = found.log_probabilities.max(1)
    classes = found.log_probabilities.shape[1]
    return Answers(
        TrainingSet(loader),
        names_of(names, classes, tracin, "explain", "names"),
        found.labels.tolist(),
        best.indices.tolist(),
        best.values.exp().tolist(),
    )


def asked_about(tracin: Explained, answers: Answers, chosen: Sequence[int], show_progress: bool | None) -> Question:
    """Some test texts, asked about as the model answered them; their gradients are computed here, and nowhere else."""
    ordered = sorted(chosen)
    given, held = answers.examples.chosen(ordered)
    wanted, batches, asked, start = set(ordered), [], [], 0
    for batch in given:
        indices = held[start : start + size_of(batch)]
        start += len(indices)
        part = part_of(batch, [place for place, index in enumerate(indices) if index in wanted])
        if part is not None:  # of a batch that came whole only those that are asked about
            batch, indices = part, [index for index in indices if index in wanted]
        told = [answers.predicted[index] for index in indices]
        batches.append(with_labels(batch, told, tracin.live_source.live.label_names))
        asked += indices
    question = tracin.question(in_order(GivenBatches(batches), None))
    rows = tracin.live_source.live.rows(question.batches, of_question(question), show_progress)
    places = torch.tensor([asked.index(index) for index in chosen])
    return question.of_rows(rows.select(places))


def classes_of(labels: Sequence[object] | Tensor | None, texts: Sequence[TokenizedText], names: list[str]) -> list[int]:
    """The class number of each training text: of numbers, of names, or where none are given of the texts' own labels."""
    given: list[Any]
    if labels is None:
        given = [text.label for text in texts]
        if None in given:
            raise ValueError(
                "explain: the training texts have no labels: expected `train_labels`, or texts that know theirs, "
                "tokenize(texts, tokenizer, labels=...)."
            )
    else:
        given = list(labels.tolist() if isinstance(labels, Tensor) else labels)
    if len(given) != len(texts):
        raise ValueError(
            f"explain: expected one of `train_labels` for each of {len(texts)} training texts, got {len(given)}."
        )
    numbers: dict[object, int] = {name: number for number, name in enumerate(names)}
    found = []
    for index, label in enumerate(given):
        label = label.item() if hasattr(label, "item") else label
        number = label if is_whole(label) and 0 <= label < len(names) else numbers.get(label)
        if number is None:
            raise ValueError(
                f"explain: the label of training text {index} is {label!r:.60}: expected a class number from 0 to "
                f"{len(names) - 1}, or one of the names {', '.join(names[:8])}{', ...' * (len(names) > 8)}."
            )
        found.append(int(number))
    return found
