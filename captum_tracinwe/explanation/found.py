"""What is found of a run: how good the model is, its answers with those who taught it them, words, near-duplicates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from captum_tracinwe.words.drawing import html_of
from captum_tracinwe.words.influence import WordInfluence
from captum_tracinwe.words.report import WordReport
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
    """How good the model is on all test texts, beside one that always names the most frequent class of the training set.

    Args:
        tests, right (int): test texts, and those that the model names rightly.
        majority (str): the most frequent class of the training set.
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
        return self.right / self.tests

    @property
    def learned(self) -> bool:
        """Whether it is better than that class beyond chance (``p_value`` ≤ 0.05): if not, there is little to explain."""
        return self.p_value <= 0.05


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
        pairs (tuple of WordInfluence): with the training texts that pushed the model towards this answer most, strongest first, then
            with those that pushed it away most, strongest first; of near-duplicates the strongest alone. Both texts are in them.
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
        return self.label != self.prediction


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

    def alike(self, index: int) -> tuple[int, ...]:
        """The other training texts of nearly the same words."""
        group = next((group.indices for group in self.near if index in group.indices), ())
        return tuple(other for other in group if other != index)

    def _repr_html_(self) -> str | None:
        return html_of(self)
