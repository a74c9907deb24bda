"""What is found of a run: how good the model is, its answers with those who taught it them, words, near-duplicates."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from captum_tracinwe.explanation.tables import COLUMNS, as_json, write_folder
from captum_tracinwe.words.drawing import html_of
from captum_tracinwe.words.influence import WordInfluence
from captum_tracinwe.words.report import WordReport
from captum_tracinwe.words.tables import pair_rows, share_rows
from captum_tracinwe.words.texts import TokenizedText

__all__ = ["Answer", "ClassCount", "Explanation", "Near", "Performance", "TrainingText"]


@dataclass(frozen=True)
class ClassCount:
    """One class.

    Args:
        name (str): as the model or the training set calls it.
        train, test (int): how many texts have it as label.
        right (int): of the ``test`` ones, those that the model names.
        named (int): test texts for which the model names it, rightly or not.
    """

    name: str
    train: int
    test: int
    right: int
    named: int


@dataclass(frozen=True)
class Performance:
    """How good the model is on all test texts, beside one that always names the same class.

    Args:
        tests, right (int): test texts, and those that the model names rightly.
        majority (str): the most frequent class of the test texts, which is the best answer that is always the same.
        majority_right (int): of the test texts those that have it.
        p_value (float): how probable it is that the model is at least as far ahead of that class by chance (sign test on the test
            texts on which one of the two is right and the other wrong).
        classes (tuple of ClassCount): in the order of their numbers.
    """

    tests: int
    right: int
    majority: str
    majority_right: int
    p_value: float
    classes: tuple[ClassCount, ...]

    @property
    def accuracy(self) -> float:
        """Part of the test texts that the model names rightly."""
        return self.right / self.tests

    @property
    def learned(self) -> bool:
        """Whether it is better than that class beyond chance (``p_value`` ≤ 0.05)."""
        return self.p_value <= 0.05

    @property
    def untold(self) -> bool:
        """Whether it is ahead of that class, on too few test texts to tell it from chance. Else, if not :attr:`learned`, it is
        no better than an answer that is always the same, and there is little to explain.
        """
        return not self.learned and self.right > self.majority_right

    def row(self) -> dict[str, Any]:
        """As a row of a table."""
        return {name: getattr(self, name) for name in COLUMNS["performance"]}


@dataclass(frozen=True)
class TrainingText:
    """One training text that a result names.

    Args:
        index (int): training index.
        place (str): where a person finds it, such as "line 12".
        label (str): its label.
        text (TokenizedText): the text.
    """

    index: int
    place: str
    label: str
    text: TokenizedText


@dataclass(frozen=True)
class Near:
    """Training texts of nearly the same words.

    Args:
        indices (tuple of int): training indices, at least two, ascending.
        labels (tuple of str): their labels, one each.
    """

    indices: tuple[int, ...]
    labels: tuple[str, ...]

    @property
    def at_odds(self) -> bool:
        """Whether they have different labels, so that not all can be right."""
        return len(set(self.labels)) > 1


@dataclass(frozen=True)
class Answer:
    """One answer of the model, and who taught it.

    Args:
        index (int): index of the test text.
        place (str): where a person finds it, such as "line 12".
        text (TokenizedText): the test text, with label and prediction.
        label, prediction (str): the right class, and the one that the model names.
        probability (float): that the model gives its prediction.
        pairs (tuple of WordInfluence): with the training texts that pushed the model towards this answer most, strongest first,
            then with those that pushed it away most; of near-duplicates the strongest alone. Both texts are in them.
    """

    index: int
    place: str
    text: TokenizedText
    label: str
    prediction: str
    probability: float
    pairs: tuple[WordInfluence, ...]

    @property
    def wrong(self) -> bool:
        """Whether it is a mistake."""
        return self.label != self.prediction

    def row(self) -> dict[str, Any]:
        """As a row of a table."""
        return {name: getattr(self, name) for name in COLUMNS["answers"]} | {"text": self.text.text}


@dataclass(frozen=True)
class Explanation:
    """Why a model answers as it does on a test set.

    Args:
        performance (Performance): on all test texts.
        answers (tuple of Answer): those explained: mistakes first, and of them those of which the model was surest.
        habits (WordReport): words that go with one class in what the model learned: the training set asked about itself.
        causes (WordReport, optional): words of the training texts behind the mistakes that are explained; None: no mistake.
        near (tuple of Near): groups of near-duplicate training texts, largest first.
        training (mapping of int to TrainingText): the training texts that are named above, by training index.
        trains (int): M.
        title (str): of a page.
    """

    performance: Performance
    answers: tuple[Answer, ...]
    habits: WordReport
    causes: WordReport | None
    near: tuple[Near, ...] = ()
    training: Mapping[int, TrainingText] = field(default_factory=dict)
    trains: int = 0
    title: str = "Why does the model answer like this?"

    def __repr__(self) -> str:
        """In one line: its parts hold thousands of tokens."""
        known = self.performance
        return (
            f"Explanation({known.right} of {known.tests} test texts right, answers=<{len(self.answers)}>, "
            f"habits={self.habits!r}, causes={self.causes!r}, near=<{len(self.near)} groups>, trains={self.trains})"
        )

    def alike(self, index: int) -> tuple[int, ...]:
        """Training indices of the other texts of nearly the same words as text ``index``; empty if there are none."""
        group = next((group.indices for group in self.near if index in group.indices), ())
        return tuple(other for other in group if other != index)

    def _repr_html_(self) -> str | None:
        return html_of(self)

    # ------------------------------------------------------------------------------------------------ taking it away

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """All that was found as tables, a list of rows each.

        "performance" (one row), "classes", "answers", "pairs" (a row for each training text behind an answer), "shares" (a row
        for each word of a pair), "words" (of ``habits`` and of ``causes``), "near" (a row for each text of a group).

        The columns stand in :data:`captum_tracinwe.explanation.tables.COLUMNS`; ``pandas.DataFrame(found.tables()["pairs"])``
        makes a data frame of one.
        """
        return {
            "performance": [self.performance.row()],
            "classes": [asdict(one) for one in self.performance.classes],
            "answers": [one.row() for one in self.answers],
            "pairs": [row for one in self.answers for row in self._pairs(one)],
            "shares": [{**row, "test_index": one.index} for one in self.answers for row in share_rows(one.pairs)],
            "words": [
                {"of": name, **row}
                for name, report in (("habits", self.habits), ("causes", self.causes))
                if report is not None
                for row in report.rows()
            ],
            "near": [row for number, group in enumerate(self.near) for row in self._near(number, group)],
        }

    def to_json(self) -> str:
        """All of :meth:`tables` as one JSON object, with its ``schema_version``."""
        return as_json(self.tables(), trains=self.trains, title=self.title)

    def to_csv(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write each of :meth:`tables` as a file into a folder, all of them or none; returns their paths.

        No text in them is a formula to a spreadsheet (:func:`captum_tracinwe.tabular.harmless`).

        Raises:
            OSError: the folder cannot be made or written to.
        """
        return write_folder(self.tables(), folder)

    def _pairs(self, answer: Answer) -> list[dict[str, Any]]:
        own = {"test_text": answer.text.text, "test_label": answer.label, "prediction": answer.prediction}
        rows = []
        for pair, row in zip(answer.pairs, pair_rows(answer.pairs), strict=True):
            there = self.training.get(pair.train_index)
            told = {**row, **own, "test_index": answer.index, "test_place": answer.place, "train_place": None}
            if there is not None:
                told |= {"train_place": there.place, "train_text": there.text.text, "train_label": there.label}
            told["alike"] = list(self.alike(pair.train_index))
            rows.append({name: told[name] for name in COLUMNS["pairs"]})
        return rows

    def _near(self, number: int, group: Near) -> list[dict[str, Any]]:
        return [
            {
                "group": number,
                "index": index,
                "place": self.training[index].place if index in self.training else None,
                "label": label,
                "at_odds": group.at_odds,
            }
            for index, label in zip(group.indices, group.labels, strict=True)
        ]
