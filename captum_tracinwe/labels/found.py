"""What is found of suspected labels: each text, why its label is suspected, labels mixed up, doubles; a table of them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from captum_tracinwe.batches.arguments import is_whole
from captum_tracinwe.labels.reasons import Reasons
from captum_tracinwe.tabular import csv_text, frame
from captum_tracinwe.words.drawing import html_of, text_of
from captum_tracinwe.words.influence import WordShare
from captum_tracinwe.words.texts import TokenizedText

__all__ = ["COLUMNS", "Double", "MixedUp", "Suspect", "Suspects"]

#: Of the table; witnesses and words are those of the first suspects.
COLUMNS = (
    "index",
    "label",
    "suggested",
    "suspicion",
    "certainty",
    "text",
    "against",
    "for",
    "words_against",
    "words_for",
)


@dataclass(frozen=True)
class Suspect:
    """One training text whose label is looked at.

    Args:
        index (int): training index.
        label, suggested (str): the label given, and the best other one.
        suspicion (float): how probable it is that the label is wrong.
        reasons (Reasons): the training texts that speak for the label and against it.
        text (TokenizedText, optional): the text.
        certainty (float, optional): how probable it is that the suggested label is the right one, if the given one is wrong;
            None: no judge can tell.
    """

    index: int
    label: str
    suggested: str
    suspicion: float
    reasons: Reasons = field(default_factory=Reasons)
    text: TokenizedText | None = None
    certainty: float | None = None

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
        accuracy (float): part of the texts for which these voices name the given label, 0 to 1.
        tells (bool): whether these voices tell the classes apart; if not, suspicions are upper bounds.
        names (tuple of str): of the K classes.
        all_labels (tuple of str): of all training texts, by training index, those known to be right corrected.
        texts (tuple of str): the texts, in this order; empty if they were not given.
        certainties (tuple of float): how probable each suggested label is the right one, if the given one is wrong, in this
            order; empty if no judge can tell.
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
    names: tuple[str, ...] = ()
    all_labels: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    certainties: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.order)

    def expected(self, count: int | None = None) -> float:
        """The expected number of wrong labels among the first ``count``; None: among all.

        Raises:
            ValueError, TypeError: ``count`` is no whole number of at least 0.
        """
        if count is not None and not is_whole(count):
            raise TypeError(f"expected: `count` should be a whole number, got {count!r:.80}.")
        if count is not None and count < 0:
            raise ValueError(f"expected: `count` should be at least 0, how many of the first texts, got {count}.")
        return float(sum(self.suspicions[:count]))

    def rows(self) -> list[dict[str, Any]]:
        """The table as a list of dicts, one per training text."""
        explained = {one.index: one for one in self.first}
        rows: list[dict[str, Any]] = []
        for place, index in enumerate(self.order):
            one = explained.get(index)
            text = self.texts[place] if self.texts else ""
            rows.append(
                {
                    "index": index,
                    "label": self.labels[place],
                    "suggested": self.suggested[place],
                    "suspicion": self.suspicions[place],
                    "certainty": self.certainties[place] if self.certainties else None,
                    "text": one.text.text if one is not None and one.text is not None else text,
                    "against": _named(one, True),
                    "for": _named(one, False),
                    "words_against": " ".join(word.text for word in one.words(True)) if one else "",
                    "words_for": " ".join(word.text for word in one.words(False)) if one else "",
                }
            )
        return rows

    def to_table(self) -> Any:
        """A ``pandas.DataFrame``, a row per training text; where pandas is not installed a list of dicts."""
        return frame(self.rows(), COLUMNS)

    def to_csv(self) -> str:
        """The table as the text of a file, which is to be written as it is (``newline=""``); no text in it is a formula to a
        spreadsheet (:func:`captum_tracinwe.tabular.harmless`)."""
        return csv_text(COLUMNS, self.rows())

    def __repr__(self) -> str:
        return (
            f"Suspects(<{len(self.first)} of {len(self):,} texts>, expected={self.expected():.1f}, weight={self.weight:.2f}, "
            f"tells={self.tells})"
        )

    def __str__(self) -> str:
        return text_of(self)

    def _repr_html_(self) -> str | None:
        return html_of(self)


def _named(one: Suspect | None, against: bool) -> str:
    if one is None:
        return ""
    pairs = one.reasons.speaks_against if against else one.reasons.speaks_for
    return " ".join(str(pair.train_index) for pair in pairs)
