"""`word_report`: over a set of test texts, which training words drive the predictions, and which of them go with one label.

A word that carries much of the influence *and* goes with one label is what a spurious correlation, a
planted word or a careless annotator looks like from the data's side.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from captum_tracinwe.batches.arguments import is_list, is_whole
from captum_tracinwe.batches.batch import Batch
from captum_tracinwe.gradients.source import times
from captum_tracinwe.rows.overflow import first_not_finite, overflow
from captum_tracinwe.rows.row_gradients import RowGradients
from captum_tracinwe.tabular import frame
from captum_tracinwe.words.association import MAX_DRAWS, association, label_names
from captum_tracinwe.words.drawing import html_of, text_of
from captum_tracinwe.words.explained import Explained
from captum_tracinwe.words.influence import Vocabulary, WordInfluence, names_by_id
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
        count (int): training texts that hold it; with ``top_k_words`` and no texts, those in which it is among the k.
        label (str): the label that these texts have more often than chance has it, most of all labels; "" where none is.
        label_share, base_share (float): how many of them have it, and how many of all training texts; 0 to 1.
        p_value (float): how often labels dealt at random go with the word as much, by any label; where no deal did, an
            upper bound of the exact probability.
        adjusted_p (float): the same after Benjamini and Hochberg, for all words of the report.
        examples (tuple): ``(training index, share)`` of the texts through which it acts most.
        special (bool): a token that no person wrote.
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
    inputs: Batch | DataLoader[Any],
    train_labels: Sequence[object] | Tensor,
    *,
    train_texts: Sequence[TokenizedText] | None = None,
    vocabulary: Vocabulary | None = None,
    examples: int = 5,
    draws: int = 10_000,
    seed: int = 0,
    show_progress: bool = False,
) -> WordReport:
    """Which training words drive the predictions on ``inputs``, for and against, and which label they go with.

    ``inputs`` is the part of the test set that is asked about: all of it, one class, or the misread texts. With predicted
    labels in it, positive totals are of words that taught the model its answers; with true labels, of words that helped.

    Args:
        tracin (TracInWE): model, training set, checkpoints.
        inputs (batch or DataLoader): N test examples.
        train_labels (sequence or Tensor): M labels, by training index; shown as ``str``.
        train_texts (sequence of TokenizedText, optional): M texts, to show words rather than tokens.
        vocabulary (sequence or mapping of str, optional): names of token ids, where there are no texts; as in
            :meth:`WordInfluence.words`.
        examples (int): training texts named for each word.
        draws (int): random deals of the labels behind a p-value; below 1 / (draws + 1) it is a bound instead.
        seed (int): of the deals.

    Returns:
        WordReport: unit of the totals: learning rate × squared gradient, summed over all pairs.

    Raises:
        ValueError: labels or texts are not one for each training example, or a text does not hold its tokens.
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
    """
    if train_texts is not None and not is_list(train_texts):
        raise TypeError(
            f"word_report: expected `train_texts` as a list of TokenizedText, got {type(train_texts).__name__}."
        )
    train_texts = None if train_texts is None else list(train_texts)
    _check(tracin, train_texts, examples, draws, seed)
    labels = label_names(train_labels)
    live = tracin.live_source.live
    shares, tokens, tests = _shares_by_token(tracin, inputs, show_progress)
    size = len(shares) if tracin.source.size is None else tracin.source.size
    for name, given in (("train_labels", labels), ("train_texts", train_texts)):
        if given is not None and len(given) != size:
            raise ValueError(
                f"word_report: expected one of `{name}` for each of the {size} training examples, got {len(given)}."
            )
    there = tracin.source.indices
    indices = list(range(size)) if there is None else there.tolist()  # of an index some may have been deleted
    labels = [labels[index] for index in indices]
    train_texts = None if train_texts is None else [train_texts[index] for index in indices]
    if train_texts is not None and live.top_k_words is None and live.tables.of_text:
        _check_texts(train_texts, tokens, live.exclude_tokens, indices)
    held = _shares_by_word(shares, train_texts, names_by_id(vocabulary))
    holders = _holders(held, train_texts)
    associated = association(labels, holders, draws, seed)
    found = []
    for (special, name), by_text in held.items():
        parts = by_text.values()
        best = sorted(by_text.items(), key=lambda item: (-abs(item[1]), item[0]))[:examples]
        found.append(
            ReportedWord(
                word=name,
                total=math.fsum(parts),
                proponent=math.fsum(share for share in parts if share > 0),
                opponent=math.fsum(share for share in parts if share < 0),
                count=len(holders[special, name]),
                **associated[special, name],
                examples=tuple((indices[place], share) for place, share in best),
                special=special,
            )
        )
    found.sort(key=order)
    return WordReport(tuple(found), math.fsum(word.total for word in found), tests, len(shares))


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
                f"{text.token_names[unseen]!r} (id {text.token_ids[unseen]}), which the model did not get in training: expected "
                f"the texts in the training set's order, tokenized as in training, with the same max_length."
            )


# ------------------------------------------------------------------------------------------------------------ shares


def _shares_by_token(
    tracin: Explained, inputs: Batch | DataLoader[Any], show: bool
) -> tuple[RowGradients, RowGradients, int]:
    """Of each training example its tokens that a test text has, with their shares of Σ_i score[i], ``(R, 1)``; all its
    tokens, ``(R, 0)``; and N.

    The test examples are summed first: a share of the sum is the product with the sum.
    """
    source, live = tracin.source, tracin.live_source.live
    question = replace(tracin.question(inputs, aggregate=True), by_own_length=True)
    size = question.examples
    if live.top_k_words is not None:  # each checkpoint has tokens of its own: they are united first
        train = source.rows(show_progress=show)
        test = question.meet(source.of_question(question), train)
        counts, token, share = _terms_of_sum(test, question.taught(train))
        return _finite(_one_column([(counts, token)], share), live.itemsize), train.columns(0, 0).to("cpu"), size
    structure: list[tuple[Tensor, Tensor]] = []
    seen: list[RowGradients] = []

    def product(test: RowGradients, rows: RowGradients) -> Tensor:
        counts, token, share = _terms_of_sum(test, rows)
        structure.append((counts, token))
        seen.append(RowGradients(rows.ptr, rows.ids, rows.values.new_zeros(rows.num_rows, 0)))
        return share

    desc = f"Using {live.name} to compute word shares for training batches"
    parts, tokens, order = [], [], []
    for indices, share, factors in source.score_blocks(question, product, desc, show):
        once = len(structure) // source.passes  # alike at each checkpoint
        if factors is not None:
            share = times(share, factors.repeat_interleave(torch.cat([counts for counts, _ in structure[:once]])))
        parts.append(_one_column(structure[:once], share))
        tokens += seen[:once]
        structure.clear()
        seen.clear()
        order.append(indices)
    in_order = torch.argsort(torch.cat(order))
    shares, seen_tokens = (RowGradients.cat(found).select(in_order).to("cpu") for found in (parts, tokens))
    return _finite(shares, live.itemsize), seen_tokens, size


def _finite(shares: RowGradients, itemsize: int) -> RowGradients:
    place = first_not_finite(shares.values)
    if place is not None:
        token, example = int(shares.ids[place[0]]), int(shares.examples[place[0]])
        dtype = torch.float64 if itemsize == 8 else torch.float32
        raise overflow(f"What token {token} of training example {example} adds to the scores", dtype)
    return shares


def _terms_of_sum(test: RowGradients, rows: RowGradients) -> tuple[Tensor, Tensor, Tensor]:
    """Of the only example of ``test`` with each of ``rows``: how many tokens they share, which, and their terms."""
    pairs = torch.stack([torch.zeros_like(rows.ptr[1:]), torch.arange(len(rows), device=rows.ptr.device)], dim=1)
    pair, token, share = test.terms(rows, pairs)
    return torch.bincount(pair, minlength=len(rows)), token, share


def _one_column(structure: Sequence[tuple[Tensor, Tensor]], share: Tensor) -> RowGradients:
    counts = torch.cat([count for count, _ in structure])
    ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return RowGradients(ptr, torch.cat([token for _, token in structure]), share[:, None].double())


def _shares_by_word(
    shares: RowGradients,
    texts: Sequence[TokenizedText] | None,
    vocabulary: Sequence[str] | Mapping[int, str] | None,
) -> dict[tuple[bool, str], dict[int, float]]:
    """(special?, word) → training index → share."""
    found: dict[tuple[bool, str], dict[int, float]] = {}
    for index in range(len(shares)):
        tokens, values = shares[index]
        own = values[:, 0]
        pair = WordInfluence(0, index, float(own.sum()), tokens, own)
        if texts is not None:
            pair = pair.with_texts(None, texts[index])
        for word in pair.words(vocabulary):
            key = _key(word.special, word.text) if texts is not None else (word.special, word.text)
            by_text = found.setdefault(key, {})
            by_text[index] = by_text.get(index, 0.0) + word.share
    return found


def _key(special: bool, name: str) -> tuple[bool, str]:
    return special, name if special else unicodedata.normalize("NFC", name.lower())


def _holders(
    held: Mapping[tuple[bool, str], Mapping[int, float]], texts: Sequence[TokenizedText] | None
) -> dict[tuple[bool, str], list[int]]:
    """(special?, word) → training indices of all texts that hold it, ascending.

    Also of those where it is written with tokens that no test text has ("Crimson" where these have "crimson"): a label that
    goes with one spelling would else pass for one that goes with the word.
    """
    found = {key: set(by_text) for key, by_text in held.items()}
    for index, text in enumerate(texts or ()):
        for start, end in text.word_spans().values():
            holders = found.get(_key(False, text.text[start:end]))
            if holders is not None:
                holders.add(index)
    return {key: sorted(indices) for key, indices in found.items()}
