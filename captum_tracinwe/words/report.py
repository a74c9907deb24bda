"""`word_report`: over a set of test texts, which training words drive the predictions, and which of them go with one label.

A word that carries much of the influence *and* goes with one label is what a spurious correlation, a
planted word or a careless annotator looks like from the data's side.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from captum_tracinwe.batches.arguments import is_list, is_whole
from captum_tracinwe.batches.batch import Batch
from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.gradients.source import Question
from captum_tracinwe.rows.row_gradients import RowGradients
from captum_tracinwe.tabular import frame
from captum_tracinwe.words.association import MAX_DRAWS, association, label_names
from captum_tracinwe.words.drawing import html_of, text_of
from captum_tracinwe.words.explained import Explained
from captum_tracinwe.words.influence import Vocabulary, names_by_id
from captum_tracinwe.words.near import near_groups, occurrences_in
from captum_tracinwe.words.own_labels import check_own_labels
from captum_tracinwe.words.report_shares import Word, holders_of, shares_by_token, shares_by_word
from captum_tracinwe.words.texts import TokenizedText

__all__ = ["WORD_COLUMNS", "ReportedWord", "WordReport", "word_report"]

# A word goes with a label if that is at most this likely by chance, adjusted for the number of words,
SIGNIFICANT = 0.05
# and goes at least this part of the way from the label's share of all texts to "always". With many texts the slightest
# preference is beyond chance: of 4,000 news texts "the" had one, at 27 % where all have 25 %. At a quarter of the way, "of" and
# "he" were among the first of 2,000 comments.
LEAST_CERTAINTY = 0.5


@dataclass(frozen=True)
class ReportedWord:
    """One word of the training texts, over all its pairs with the test texts.

    Args:
        word (str): in lower case, accents composed (NFC); special tokens, and all where there are no texts, as the
            vocabulary writes them.
        total (float): Σ of its shares over all pairs; ``proponent`` + ``opponent``.
        proponent, opponent (float): the positive and the negative part, training text by training text.
        count (int): training texts that hold it, of near-duplicates one; with ``top_k_words`` and no texts, those in which it is
            among the k.
        label (str): of the labels that these texts have more often than chance would give them, the one farthest beyond chance;
            "" if there is none.
        label_share, base_share (float): how many of them have it, and how many of all training texts; 0 to 1.
        p_value (float): how often labels dealt at random go with the word as much, by any label; where no deal did, an
            upper bound of the exact probability.
        adjusted_p (float): the same after Benjamini and Hochberg, for all words of the report.
        examples (tuple): ``(training index, share)`` of the texts through which it acts most.
        special (bool): a token that no person wrote.
        texts (int): as ``count``, but each near-duplicate counts; 0: not counted.
    """

    word: str
    total: float
    proponent: float
    opponent: float
    count: int
    label: str
    label_share: float
    base_share: float
    p_value: float
    adjusted_p: float
    examples: tuple[tuple[int, float], ...]
    special: bool = False
    texts: int = 0

    @property
    def certainty(self) -> float:
        """How far the label is from its share of all texts (0) to all of the word's (1); certainty factor of rules."""
        return (self.label_share - self.base_share) / (1 - self.base_share) if self.label else 0.0

    @property
    def steadiness(self) -> float:
        """1 if all its texts pull the same way, 0 if they cancel: size of ``total`` / (``proponent`` − ``opponent``)."""
        size = self.proponent - self.opponent
        return abs(self.total) / size if size else 0.0

    @property
    def sticks(self) -> bool:
        """Whether it comes with its label beyond chance (``adjusted_p`` ≤ 0.05) and often (``certainty`` ≥ 0.5)."""
        return not self.special and self.adjusted_p <= SIGNIFICANT and self.certainty >= LEAST_CERTAINTY


#: Of a table of words: what a :class:`ReportedWord` has, and what follows of it.
WORD_COLUMNS = (*ReportedWord.__dataclass_fields__, "steadiness", "certainty", "sticks")


@dataclass(frozen=True)
class WordReport:
    """The words of a report: those that go with one label, by size of ``total`` × ``steadiness`` × ``certainty``; then the
    others, by ``total``.

    Args:
        words (tuple of ReportedWord): their totals add up to ``score``.
        score (float): Σ of the influence of all training texts on all test texts.
        tests, trains (int): N and M.
    """

    words: tuple[ReportedWord, ...]
    score: float
    tests: int
    trains: int

    def rows(self) -> list[dict[str, Any]]:
        """The words as a list of dicts, one per word: what a :class:`ReportedWord` has, and what follows of it."""
        return [
            {name: getattr(word, name) for name in WORD_COLUMNS} | {"examples": [list(one) for one in word.examples]}
            for word in self.words
        ]

    def to_table(self) -> Any:
        """A ``pandas.DataFrame``, a row per word; where pandas is not installed the list of :class:`ReportedWord`."""
        return frame(self.rows(), WORD_COLUMNS, plain=list(self.words))

    def __repr__(self) -> str:
        """In one line: a report has thousands of words."""
        words = f"<{len(self.words):,} words>"
        return f"WordReport(words={words}, score={self.score:.6g}, tests={self.tests}, trains={self.trains})"

    def __str__(self) -> str:
        """The first words, as :func:`captum_tracinwe.visualization.word_report_text` writes them, and how many there are."""
        return text_of(self)

    def _repr_html_(self) -> str | None:
        return html_of(self)


def word_report(
    tracin: Explained,
    inputs: Batch | DataLoader[Any] | None,
    train_labels: Sequence[object] | Tensor,
    *,
    train_texts: Sequence[TokenizedText] | None = None,
    vocabulary: Vocabulary | None = None,
    groups: Sequence[Sequence[int]] | None = None,
    examples: int = 5,
    draws: int = 10_000,
    seed: int = 0,
    show_progress: bool | None = None,
) -> WordReport:
    """Which training words drive the predictions on ``inputs``, for and against, and which label they go with.

    ``inputs`` is the part of the test set that you ask about: all of it, one class, or the misread texts. With predicted labels a
    word with a positive total taught the model its answers. With true labels it helped.

    None asks the training set about itself: which words does the model rely on? That finds a planted or spurious word first, and
    needs no test set. It needs only the gradients of the training texts, which an index holds already.

    Args:
        tracin (TracInWE): model, training set, checkpoints. With an index no gradients of training texts are computed.
        inputs (batch or DataLoader, optional): N test examples; None: the M training examples, each with its own label.
        train_labels (sequence or Tensor): M labels, by training index; shown as ``str``, class numbers by the names that the
            model's config has for them. With ``inputs=None`` they have to be those of the training set, or of its index.
        train_texts (sequence of TokenizedText, optional): M texts, to show words rather than tokens.
        vocabulary (sequence or mapping of str, optional): names of token ids, where there are no texts; as in
            :meth:`WordInfluence.words`.
        groups (sequence of sequences of int, optional): training indices of near-duplicates. In counts and p-values a group is
            one text, with the label that most of it have, because a p-value needs independent texts. Totals are of all texts.
            Default: found among ``train_texts`` (tf-idf cosine of 0.9); without texts none.
        examples (int): training texts named for each word, of a group one.
        draws (int): random deals of the labels behind a p-value; below 1 / (draws + 1) it is a bound instead.
        seed (int): of the deals.
        show_progress (bool, optional): a bar; None: in a terminal or a notebook.

    Returns:
        WordReport: unit of the totals: learning rate × squared gradient, summed over all pairs.

    Raises:
        ValueError: labels or texts are not one for each training example, or a text does not hold its tokens; a group names an
            example that is not there, or one that another group has.
        TypeError: an argument is of another kind; the message says what was expected.

    Example:
        >>> import torch
        >>> from captum_tracinwe.testing import toy_tracin
        >>> tracin, inputs = toy_tracin()
        >>> labels = torch.cat([labels for _, labels in tracin.train_dataloader])
        >>> report = word_report(tracin, inputs, labels, draws=100)
        >>> round(report.score, 6) == round(float(tracin.influence(inputs).sum()), 6)
        True
        >>> word = report.words[0]
        >>> word.total == word.proponent + word.opponent, word.count >= len(word.examples)
        (True, True)
        >>> of_itself = word_report(tracin, None, labels, draws=100)
        >>> of_itself.tests == of_itself.trains == len(labels)
        True
    """
    if train_texts is not None and not is_list(train_texts):
        raise TypeError(
            f"word_report: expected `train_texts` as a list of TokenizedText, got {type(train_texts).__name__}."
        )
    train_texts = None if train_texts is None else list(train_texts)
    _check(tracin, train_texts, examples, draws, seed)
    names = _names_of(tracin)
    labels = label_names(train_labels, names)
    if inputs is None:
        check_own_labels(tracin.source, labels, names, "word_report")
    question = replace(tracin.question(inputs, aggregate=True), by_own_length=True)
    return report_of(
        tracin,
        question,
        labels,
        train_texts=train_texts,
        vocabulary=vocabulary,
        groups=groups,
        examples=examples,
        draws=draws,
        seed=seed,
        show_progress=show_progress,
    )


def report_of(
    tracin: Explained,
    question: Question,
    labels: list[str],
    *,
    train_texts: list[TokenizedText] | None,
    vocabulary: Vocabulary | None = None,
    groups: Sequence[Sequence[int]] | None = None,
    examples: int = 5,
    draws: int = 10_000,
    seed: int = 0,
    show_progress: bool | None = None,
) -> WordReport:
    """:func:`word_report` of a question that adds its test examples up."""
    live = tracin.live_source.live
    shares, tokens, tests = shares_by_token(tracin, question, show_progress)
    size = len(shares) if tracin.source.size is None else tracin.source.size
    for name, given in (("train_labels", labels), ("train_texts", train_texts)):
        if given is not None and len(given) != size:
            raise ValueError(
                f"word_report: expected one of `{name}` for each of the {size} training examples, got {len(given)}."
            )
    if groups is None:
        groups = [] if train_texts is None else near_groups(occurrences_in(text.text for text in train_texts))
    units = _units(groups, size)
    there = tracin.source.indices
    indices = list(range(size)) if there is None else there.tolist()  # of an index some may have been deleted
    labels = [labels[index] for index in indices]
    units = [units[index] for index in indices]
    train_texts = None if train_texts is None else [train_texts[index] for index in indices]
    if train_texts is not None and live.top_k_words is None and live.tables.of_text:
        _check_texts(train_texts, tokens, live.exclude_tokens, indices)
    held = shares_by_word(shares, train_texts, names_by_id(vocabulary))
    each = holders_of(held, train_texts)
    holders, dealt = _counted_once(each, labels, units)
    associated = association(dealt, holders, draws, seed)
    found = []
    for (special, name), by_text in held.items():
        parts = by_text.values()
        best = sorted(by_text.items(), key=lambda item: (-abs(item[1]), item[0]))
        found.append(
            ReportedWord(
                word=name,
                total=math.fsum(parts),
                proponent=math.fsum(share for share in parts if share > 0),
                opponent=math.fsum(share for share in parts if share < 0),
                count=len(holders[special, name]),
                **associated[special, name],
                examples=tuple((indices[place], share) for place, share in islice(_firsts(best, units), examples)),
                special=special,
                texts=len(each[special, name]),
            )
        )
    found.sort(key=order)
    return WordReport(tuple(found), math.fsum(word.total for word in found), tests, len(shares))


def _units(groups: Sequence[Sequence[int]], size: int) -> list[int]:
    """Of each training example the first of its group: itself, where it has none."""
    found = list(range(size))
    seen: set[int] = set()
    for group in groups:
        for index in group:
            if not is_whole(index) or not 0 <= index < size:
                raise ValueError(
                    f"word_report: `groups` names the training example {index!r}: expected whole numbers from 0 to {size - 1}."
                )
            if index in seen:
                raise ValueError(
                    f"word_report: `groups` has the training example {index} twice: expected each in one group at most."
                )
            seen.add(index)
            found[index] = min(group)
    return found


def _counted_once(
    holders: Mapping[Word, Sequence[int]], labels: Sequence[str], units: Sequence[int]
) -> tuple[dict[Word, list[int]], list[str]]:
    """Holders and labels of texts that are told apart: a group is one, which holds what one of it holds."""
    members: dict[int, list[str]] = {}
    for unit, label in zip(units, labels, strict=True):
        members.setdefault(unit, []).append(label)
    number = {unit: place for place, unit in enumerate(members)}
    dealt = [max(sorted(Counter(own).items()), key=lambda item: item[1])[0] for own in members.values()]
    return {word: sorted({number[units[at]] for at in own}) for word, own in holders.items()}, dealt


def _firsts(best: Sequence[tuple[int, float]], units: Sequence[int]) -> Iterator[tuple[int, float]]:
    """The first of each group."""
    seen: set[int] = set()
    for place, share in best:
        if units[place] not in seen:
            seen.add(units[place])
            yield place, share


def _names_of(tracin: Explained) -> Mapping[int, str]:
    """Of class numbers the names in the model's config; empty where nobody gave them any."""
    config = getattr(unwrap(tracin.live_source.live.weights.model), "config", None)
    given = getattr(config, "id2label", None)
    if not isinstance(given, Mapping) or all(name == f"LABEL_{number}" for number, name in given.items()):
        return {}
    names = {int(number): str(name) for number, name in given.items()}
    return names if len(set(names.values())) == len(names) else {}  # of two that are called alike one would be both


def order(word: ReportedWord) -> tuple[bool, float, str]:
    """Key of the order of a report."""
    part = word.steadiness * word.certainty if word.sticks else 1.0
    return not word.sticks, -abs(word.total) * part, word.word


def _check(tracin: Any, train_texts: Any, examples: Any, draws: Any, seed: Any) -> None:
    """What the types say, said at run time."""
    if not hasattr(tracin, "row_gradients"):
        raise TypeError(f"word_report: expected a TracInWE first, got {type(tracin).__name__}.")
    for name, value, least in (("examples", examples, 0), ("draws", draws, 1), ("seed", seed, 0)):
        if not is_whole(value) or value < least:
            raise ValueError(f"word_report: expected `{name}` as a whole number of at least {least}, got {value!r}.")
    if draws > MAX_DRAWS:
        raise ValueError(f"word_report: expected `draws` of at most {MAX_DRAWS:,}, got {draws:,}.")
    wrong = next((text for text in train_texts or () if not isinstance(text, TokenizedText)), None)
    if wrong is not None:
        raise TypeError(
            f"word_report: expected `train_texts` as TokenizedText, got {type(wrong).__name__}: make them with "
            f"captum_tracinwe.texts.tokenize(texts, tokenizer), or from_ids."
        )


def _check_texts(
    texts: Sequence[TokenizedText], tokens: RowGradients, excluded: Sequence[int], indices: Sequence[int]
) -> None:
    """A text that was cut in training and is whole here would have words that the model never saw take their share."""
    ids, ends = tokens.ids.tolist(), tokens.ptr.tolist()
    for index, text in enumerate(texts):
        seen = {*ids[ends[index] : ends[index + 1]], *excluded, *(text.padding or ())[:1]}
        unseen = next((at for at, token in enumerate(text.token_ids) if token not in seen), None)
        if unseen is not None:
            raise ValueError(
                f"word_report: the text of training example {indices[index]} ({text.text!r:.60}) has the token "
                f"{text.token_names[unseen]!r} (id {text.token_ids[unseen]}), which the model did not get in training. Expected "
                f"the texts in the training set's order, tokenized as in training, with the same max_length."
            )
