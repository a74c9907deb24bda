"""Which words go with a label beyond chance in the data, and which of those a model took up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_tracinwe.neighbours.asked import check_level
from captum_tracinwe.neighbours.held_words import Held, as_weights
from captum_tracinwe.neighbours.written import rows_of, told
from captum_tracinwe.tabular import frame
from captum_tracinwe.words.association import benjamini_hochberg
from captum_tracinwe.words.report import WordReport

__all__ = ["LexicalBias", "TakenUp", "WordLabel", "lexical_bias", "taken_up"]

CORRECTIONS = ("bonferroni", "benjamini-hochberg")


@dataclass(frozen=True)
class WordLabel:
    """A word beside a label.

    Args:
        word (str): in lower case.
        label (str): of these texts.
        count (int): training texts that hold the word.
        with_label (int): of those, how many have the label.
        label_share (float): their share, by weight where there are weights.
        base_share (float): the same of all texts.
        z (float): how far ``label_share`` is above ``base_share``, in standard errors; below 0: the word avoids the label.
        p_value (float): probability of such a ``z`` or a higher one by chance.
        adjusted_p (float): corrected for all words and labels.
    """

    word: str
    label: str
    count: int
    with_label: int
    label_share: float
    base_share: float
    z: float
    p_value: float
    adjusted_p: float


#: Of a table of words: what a :class:`WordLabel` has.
COLUMNS = tuple(WordLabel.__dataclass_fields__)


@dataclass(frozen=True)
class LexicalBias:
    """All words beside all labels, those first that go most surely with their label.

    Args:
        words (tuple of WordLabel): by falling ``z``.
        level (float): largest ``adjusted_p`` of a word that is biased.
        texts (int): M.
        labels (tuple of str): in order.
    """

    words: tuple[WordLabel, ...]
    level: float
    texts: int
    labels: tuple[str, ...]

    @property
    def biased(self) -> tuple[WordLabel, ...]:
        """Words with a label that they have beyond chance: ``adjusted_p`` of at most ``level``."""
        return tuple(one for one in self.words if one.adjusted_p <= self.level)

    @property
    def mean_z(self) -> float:
        """Mean size of ``z`` over all words and labels: about 0.8 where words and labels are independent; NaN of no words."""
        return math.fsum(abs(one.z) for one in self.words) / len(self.words) if self.words else math.nan

    def rows(self) -> list[dict[str, Any]]:
        """The words as a list of dicts."""
        return rows_of(self.words)

    def to_table(self) -> Any:
        """A ``pandas.DataFrame``, a row a word and label; where pandas is not installed a list of dict."""
        return frame(self.rows(), COLUMNS)

    def __repr__(self) -> str:
        """In one line: a data set has thousands of words."""
        return (
            f"LexicalBias(<{len(self.words):,} words and labels>, biased={len(self.biased)}, level={self.level:g}, "
            f"texts={self.texts}, labels={len(self.labels)})"
        )

    def __str__(self) -> str:
        return told(
            f"{len(self.biased)} of {len(self.words):,} pairs of a word and a label go together beyond chance (adjusted p ≤ "
            f"{self.level:g}); mean |z| {self.mean_z:.2f} over {self.texts:,} texts.",
            f"{'word':<20} {'label':<16} {'texts':>6} {'share':>6} {'expected':>9} {'z':>7}",
            (
                f"{one.word!r:<20} {one.label!r:<16} {one.count:6d} {one.label_share:6.2f} {one.base_share:9.2f} {one.z:7.1f}"
                for one in self.words
            ),
        )


@dataclass(frozen=True)
class TakenUp:
    """A biased word beside what a model made of it.

    Args:
        word (WordLabel): in the data.
        total (float): the word's influence on the answers that a report is of, all ways of writing it together.
        part (float): of the size of all words' totals.
    """

    word: WordLabel
    total: float
    part: float


def lexical_bias(
    texts: Sequence[str | Sequence[str]],
    labels: Sequence[object] | Tensor,
    *,
    weights: Sequence[float] | Tensor | None = None,
    least_texts: int = 20,
    level: float = 0.01,
    correction: str = "bonferroni",
) -> LexicalBias:
    r"""Which words go with a label beyond chance in the data (Serrano et al., arXiv 2306.02190).

    With p̂ the share of label y among the n texts that hold a word, and p₀ its share of all texts,

    z = (p̂ − p₀) / √(p₀ (1 − p₀) / n),

    and the p-value is the upper tail of the normal distribution. A text holds a word or not; how often does not matter. With
    weights, shares are weighted and n is (Σw)² / Σw² over the texts that hold the word.

    Args:
        texts (sequence of str, or of sequences of str): M texts, or the words of each, or any other features that are names: for
            pairs of sentences those of the second, for pairs of words ``"not good"``.
        labels (sequence or Tensor): M names or numbers.
        weights (sequence of float or Tensor, optional): M, not negative: how much each text counts.
        least_texts (int): words of fewer texts are left out: the normal distribution does not hold for them.
        level (float): between 0 and 1; of biased words.
        correction (str): "bonferroni", as in the source, or "benjamini-hochberg", for all words and labels.

    Returns:
        LexicalBias: all words beside all labels.

    Raises:
        ValueError: not one label or weight for each text, one label only, a negative or infinite weight, an option out of range.
        TypeError: texts or labels of another kind.

    Source: Gardner, Merrill, Dodge, Peters, Ross, Singh, Smith, *Competency Problems*, arXiv 2104.08646, whose p₀ is 1 / number
    of labels; Serrano, Dodge, Smith, *Stubborn Lexical Bias in Data and Models*, arXiv 2306.02190.

    Example:
        >>> from captum_tracinwe.neighbours import lexical_bias
        >>> texts = ["nobody sleeps", "a man sleeps"] * 30
        >>> found = lexical_bias(texts, ["contradiction", "entailment"] * 30)
        >>> [(one.word, one.label, one.with_label) for one in found.biased]
        [('a', 'entailment', 30), ('man', 'entailment', 30), ('nobody', 'contradiction', 30)]
        >>> round(found.biased[0].z, 2)  # (1 - ½) / √(½ · ½ / 30)
        5.48
    """
    held = Held.of(texts, labels, "lexical_bias", least_texts)
    if correction not in CORRECTIONS:
        raise ValueError(
            f"lexical_bias: expected `correction` as one of {', '.join(map(repr, CORRECTIONS))}, got {correction!r}."
        )
    check_level(level, "lexical_bias")
    heavy = as_weights(weights, held.size)
    most, own = np.zeros(len(held.words)), heavy[held.text_of]
    np.maximum.at(most, held.word_of, own)
    own = own / np.where(most > 0, most, 1.0)[held.word_of]  # shares and n stay, and no square is too small for a float
    table = np.zeros((len(held.words), len(held.names)))
    np.add.at(table, (held.word_of, held.codes[held.text_of]), own)
    whole = table.sum(1)
    squares = np.bincount(held.word_of, own**2, len(held.words))
    with np.errstate(invalid="ignore", divide="ignore"):
        base = np.bincount(held.codes, heavy, len(held.names)) / heavy.sum()
        shares = table / whole[:, None]
        n = whole**2 / squares
        z = (shares - base) / np.sqrt(base * (1 - base) / n[:, None])
    # A word whose texts all weigh 0, or a label of all the weight, tells nothing.
    shares, z = np.where(np.isfinite(z), shares, base), np.where(np.isfinite(z), z, 0.0)
    p_values = (torch.special.erfc(torch.from_numpy(z) / math.sqrt(2)) / 2).flatten().tolist()
    bonferroni = [min(1.0, p * len(p_values)) for p in p_values]
    adjusted = bonferroni if correction == "bonferroni" else benjamini_hochberg(p_values)
    counts = held.table()
    rows = [
        WordLabel(
            word, name, int(counts[i].sum()), int(counts[i, k]), float(shares[i, k]), float(base[k]), float(z[i, k]),
            p_values[i * len(held.names) + k], adjusted[i * len(held.names) + k],
        )
        for i, word in enumerate(held.words)
        for k, name in enumerate(held.names)
    ]  # fmt: skip
    rows.sort(key=lambda one: (-one.z, one.word, one.label))
    return LexicalBias(tuple(rows), float(level), held.size, held.names)


def taken_up(bias: LexicalBias, report: WordReport, *, label: str | None = None) -> tuple[TakenUp, ...]:
    """Which biased words a model took up: their influence on its answers, by :func:`captum_tracinwe.word_report`.

    Ask for the report of texts that the model gives one label, with the predicted label in the question. A word with a large
    positive total taught the model that answer.

    Args:
        bias (LexicalBias): of the training data.
        report (WordReport): of the answers that are asked about.
        label (str, optional): only words that go with this label: the one that the report is of. Default: all biased words.

    Returns:
        tuple of TakenUp: by falling total. Words that the report does not have are left out: no question met them.

    Raises:
        TypeError: another kind of argument.
        ValueError: a label that the data do not have.

    Example:
        >>> from captum_tracinwe import word_report
        >>> from captum_tracinwe.neighbours import lexical_bias, taken_up
        >>> from captum_tracinwe.testing import toy_tracin
        >>> tracin, inputs = toy_tracin()
        >>> ids, labels = map(torch.cat, zip(*tracin.train_dataloader))
        >>> texts = [[f"#{token}" for token in row] for row in ids.tolist()]
        >>> bias = lexical_bias(texts, labels, least_texts=2, level=0.9)
        >>> report = word_report(tracin, inputs, labels, draws=10)
        >>> all(one.word.adjusted_p <= 0.9 for one in taken_up(bias, report))
        True
    """
    given: tuple[Any, Any] = bias, report
    if not isinstance(given[0], LexicalBias) or not isinstance(given[1], WordReport):
        got = " and ".join(type(one).__name__ for one in given)
        raise TypeError(f"taken_up: expected a LexicalBias and a WordReport, got {got}.")
    if label is not None and label not in bias.labels:
        raise ValueError(f"taken_up: expected `label` as one of {', '.join(bias.labels)}, got {label!r}.")
    totals: dict[str, float] = {}
    for word in report.words:
        if not word.special:
            name = word.word.casefold()
            totals[name] = totals.get(name, 0.0) + word.total
    size = math.fsum(map(abs, totals.values())) or 1.0
    found = [
        TakenUp(one, totals[one.word], abs(totals[one.word]) / size)
        for one in bias.biased
        if one.word in totals and label in (None, one.label)
    ]
    return tuple(sorted(found, key=lambda one: -one.total))
