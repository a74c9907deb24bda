"""`word_report`: over a set of test texts, which training words drive the predictions, and which stick to one label.

A word that carries much of the influence *and* comes nearly always with one label is what a spurious correlation, a
planted word or a careless annotator looks like from the data's side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from captum_tracinwe.arguments import is_whole
from captum_tracinwe.batches import Batch, as_batches, size_of
from captum_tracinwe.rows import RowGradients
from captum_tracinwe.texts import TokenizedText
from captum_tracinwe.words import WordInfluence

if TYPE_CHECKING:
    from captum_tracinwe.tracin_we import TracInWE

__all__ = ["ReportedWord", "WordReport", "word_report"]

# Words at most this likely by chance, adjusted for the number of words, come first in a report.
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class ReportedWord:
    """One word of the training texts, over all its pairs with the test texts.

    Args:
        word (str): in lower case; special tokens as the vocabulary writes them.
        total (float): Σ of its shares over all pairs; ``proponent`` + ``opponent``.
        proponent, opponent (float): the positive and the negative part, training text by training text.
        count (int): training texts that hold it.
        label (str): the label that these texts have more often than chance has it, most of all labels.
        label_share, base_share (float): how many of them have it, and how many of all training texts; 0 to 1.
        p_value (float): how often labels dealt at random stick to the word as much, by any label; where no deal did, an
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


@dataclass(frozen=True)
class WordReport:
    """The words of a report, those that stick to a label first (``adjusted_p`` ≤ 0.05), then by magnitude of ``total``.

    Args:
        words (tuple of ReportedWord): their totals add up to ``score``.
        score (float): Σ of the influence of all training texts on all test texts.
        tests, trains (int): N and M.
    """

    words: tuple[ReportedWord, ...]
    score: float
    tests: int
    trains: int

    def to_table(self) -> Any:
        """A ``pandas.DataFrame``, a row per word; where pandas is not installed a list of dict."""
        rows = [asdict(word) for word in self.words]
        try:
            import pandas
        except ImportError:
            return rows
        return pandas.DataFrame(rows, columns=[field.name for field in fields(ReportedWord)])

    def _repr_html_(self) -> str:
        from captum_tracinwe.visualization import word_report_fragment

        return word_report_fragment(self)


def word_report(
    tracin: TracInWE,
    inputs: Batch | DataLoader[Any],
    train_labels: Sequence[object] | Tensor,
    *,
    train_texts: Sequence[TokenizedText] | None = None,
    vocabulary: Sequence[str] | Mapping[int, str] | None = None,
    examples: int = 5,
    draws: int = 10_000,
    seed: int = 0,
    show_progress: bool = False,
) -> WordReport:
    """Which training words drive the predictions on ``inputs``, for and against, and which label they stick to.

    ``inputs`` is the part of the test set that is asked about: all of it, one class, or the misread texts. With predicted
    labels in it, positive totals are of words that taught the model its answers; with true labels, of words that helped.

    Args:
        tracin (TracInWE): model, training set, checkpoints.
        inputs (batch or DataLoader): N test examples.
        train_labels (sequence or Tensor): M labels, by training index; shown as ``str``.
        train_texts (sequence of TokenizedText, optional): M texts, to show words rather than tokens.
        vocabulary (sequence or mapping of str, optional): names of token ids, where there are no texts.
        examples (int): training texts named for each word.
        draws (int): random deals of the labels behind a p-value; below 1 / (draws + 1) it is a bound instead.
        seed (int): of the deals.

    Returns:
        WordReport: unit of the totals: learning rate × squared gradient, summed over all pairs.

    Raises:
        ValueError: labels or texts are not one for each training example, or a text does not hold its tokens.
        TypeError: an argument is of another kind; the message says what was expected.

    Example:
        >>> report = word_report(tracin, misread, labels, train_texts=texts)  # doctest: +SKIP
        >>> report.words[0].word, report.words[0].label, report.words[0].p_value  # doctest: +SKIP
        ('crimson', 'sailing', 9.999e-05)
    """
    _check(tracin, train_labels, train_texts, examples, draws, seed)
    labels = [str(label) for label in (train_labels.tolist() if hasattr(train_labels, "tolist") else train_labels)]
    shares, tests = _shares_by_token(tracin, inputs, show_progress)
    for name, given in (("train_labels", labels), ("train_texts", train_texts)):
        if given is not None and len(given) != len(shares):
            raise ValueError(
                f"word_report: expected one of `{name}` for each of the {len(shares)} training examples, got {len(given)}."
            )
    held = _shares_by_word(shares, train_texts, vocabulary)
    holders = _holders(held, train_texts)
    association = _association(labels, holders, draws, seed)
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
                **association[special, name],
                examples=tuple(best),
                special=special,
            )
        )
    found.sort(key=lambda word: (word.special or word.adjusted_p > SIGNIFICANT, -abs(word.total), word.word))
    return WordReport(tuple(found), math.fsum(word.total for word in found), tests, len(shares))


def _check(tracin: Any, train_labels: Any, train_texts: Any, examples: Any, draws: Any, seed: Any) -> None:
    """What the types say, said at run time."""
    if not hasattr(tracin, "row_gradients"):
        raise TypeError(f"word_report: expected a TracInWE first, got {type(tracin).__name__}.")
    for name, value, least in (("examples", examples, 0), ("draws", draws, 1), ("seed", seed, 0)):
        if not is_whole(value) or value < least:
            raise ValueError(f"word_report: expected `{name}` as a whole number of at least {least}, got {value!r}.")
    is_list = isinstance(train_labels, Sequence) and not isinstance(train_labels, str)
    if not is_list and not (hasattr(train_labels, "tolist") and getattr(train_labels, "ndim", 0) == 1):
        got = tuple(train_labels.shape) if hasattr(train_labels, "shape") else type(train_labels).__name__
        raise TypeError(
            f"word_report: expected `train_labels` as a list or a tensor (M,) of one label each, got {got}."
        )
    wrong = next((text for text in train_texts or () if not isinstance(text, TokenizedText)), None)
    if wrong is not None:
        raise TypeError(
            f"word_report: expected `train_texts` as TokenizedText, got {type(wrong).__name__}: make them with "
            f"captum_tracinwe.texts.tokenize(texts, tokenizer), or from_ids."
        )


# ------------------------------------------------------------------------------------------------------------ shares


def _shares_by_token(tracin: TracInWE, inputs: Batch | DataLoader[Any], show: bool) -> tuple[RowGradients, int]:
    """For each training example and each of its tokens that a test text has: its share of Σ_i score[i], ``(R, 1)``; and N.

    The test examples are summed first: a share of the sum is the product with the sum.
    """
    batches = list(as_batches(inputs, "inputs"))
    size = sum(map(size_of, batches))
    if tracin.top_k_words is not None:  # each checkpoint has tokens of its own: they are united first
        train = tracin.row_gradients(show_progress=show)
        counts, token, share = _terms_of_sum(tracin.row_gradients(inputs).sum(), train)
        return _one_column([(counts, token)], share), size
    structure: list[tuple[Tensor, Tensor]] = []

    def product(test: RowGradients, rows: RowGradients) -> Tensor:
        counts, token, share = _terms_of_sum(test, rows)
        structure.append((counts, token))
        return share

    desc = f"Using {tracin.get_name()} to compute word shares for training batches"
    parts, order = [], []
    for places, share in tracin._score_blocks(batches, True, desc, show, product):
        parts.append(
            _one_column(structure[: len(structure) // len(tracin.checkpoints)], share)
        )  # alike at each checkpoint
        structure.clear()
        order.append(places)
    return RowGradients.cat(parts).select(torch.argsort(torch.cat(order))).to("cpu"), size


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
            key = _key(word.special, word.text)
            by_text = found.setdefault(key, {})
            by_text[index] = by_text.get(index, 0.0) + word.share
    return found


def _key(special: bool, name: str) -> tuple[bool, str]:
    return special, name if special else name.lower()


def _holders(
    held: Mapping[tuple[bool, str], Mapping[int, float]], texts: Sequence[TokenizedText] | None
) -> dict[tuple[bool, str], list[int]]:
    """(special?, word) → training indices of all texts that hold it, ascending.

    Also of those where it is written with tokens that no test text has ("Crimson" where these have "crimson"): a label that
    sticks to one spelling would else pass for one that sticks to the word.
    """
    found = {key: set(by_text) for key, by_text in held.items()}
    for index, text in enumerate(texts or ()):
        for start, end in text.word_spans().values():
            holders = found.get(_key(False, text.text[start:end]))
            if holders is not None:
                holders.add(index)
    return {key: sorted(indices) for key, indices in found.items()}


# ------------------------------------------------------------------------------------------------------- association


def _association(
    labels: Sequence[str], holders: Mapping[tuple[bool, str], Sequence[int]], draws: int, seed: int
) -> dict[tuple[bool, str], dict[str, Any]]:
    """For each word its label, how much of it, and p-values.

    Of a word in n texts only n matters: dealing all labels at random deals its texts n of them without putting back. So
    words of one count share their draws, from the multivariate hypergeometric distribution, which *is* the permutation.
    """
    names = sorted(set(labels))
    codes = np.searchsorted(names, labels)
    totals = np.bincount(codes, minlength=len(names))
    generator = np.random.default_rng(seed)
    by_count: dict[int, np.ndarray[Any, Any]] = {}
    rows: dict[tuple[bool, str], dict[str, Any]] = {}
    for key, indices in holders.items():
        n = len(indices)
        counts = np.bincount(codes[indices], minlength=len(names))
        excess = _excess(counts[None], totals)[0]
        if n not in by_count:
            dealt = generator.multivariate_hypergeometric(totals, n, size=draws, method="marginals")
            by_count[n] = np.sort(_excess(dealt, totals).max(1))
        # Ties are counted as at least as extreme; the tolerance keeps rounding from untying them.
        as_extreme = draws - np.searchsorted(by_count[n], excess.max() - 1e-9)
        p_value = float((as_extreme + 1) / (draws + 1))
        if not as_extreme:
            # Else one planted word among more than 500 could not pass 0.05 after adjusting 1 / 10,001: at 5,000 it had 0.5.
            p_value = min(p_value, _tail_bound(float(excess.max()), n, totals))
        label = int(excess.argmax())
        rows[key] = {
            "label": names[label],
            "label_share": float(counts[label] / n),
            "base_share": float(totals[label] / len(labels)),
            "p_value": p_value,
        }
    for key, adjusted in zip(rows, _benjamini_hochberg([row["p_value"] for row in rows.values()]), strict=True):
        rows[key]["adjusted_p"] = adjusted
    return rows


def _excess(counts: np.ndarray[Any, Any], totals: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Standardised excess of each label in counts ``(..., labels)`` over what random labels would give; 0 if that is fixed."""
    n, everyone = counts.sum(-1, keepdims=True), totals.sum()
    share = totals / everyone
    variance = n * share * (1 - share) * (everyone - n) / max(1, everyone - 1)
    return np.where(variance > 0, (counts - n * share) / np.sqrt(np.maximum(variance, 1e-300)), 0.0)


def _tail_bound(excess: float, n: int, totals: np.ndarray[Any, Any]) -> float:
    """At least the probability that labels dealt to n texts give some label this ``excess``; that is not 0.

    The sum over labels of bounds of hypergeometric tails: beyond the mode a term is less than the one before it by a ratio
    that falls, so the first term / (1 − first ratio) is at least the sum of all.
    """
    everyone = int(totals.sum())
    share = totals / everyone
    deviation = np.sqrt(n * share * (1 - share) * (everyone - n) / max(1, everyone - 1))
    # Rounded down where in doubt, which makes the bound larger; a count is whole, so 1e-6 is no doubt lost.
    least = np.ceil(n * share + excess * deviation - 1e-6)
    possible = (deviation > 0) & (least <= np.minimum(n, totals))
    k, held = (torch.from_numpy(values[possible].astype(np.float64)) for values in (least, totals))
    ratio = (held - k) * (n - k) / ((k + 1) * (everyone - held - n + k + 1))
    log_term = _log_choose(held, k) + _log_choose(everyone - held, n - k) - _log_choose(torch.tensor(everyone), n)
    tails = torch.where(ratio < 1, log_term.exp() / (1 - ratio), 1.0)
    return min(1.0, max(float(tails.sum()), 1e-300))


def _log_choose(n: Tensor, k: Tensor | int) -> Tensor:
    n, k = n.double(), torch.as_tensor(k, dtype=torch.float64)
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def _benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    p = np.asarray(p_values)
    order = np.argsort(p)[::-1]
    ranks = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(p[order] * len(p) / ranks))
    return [float(value) for value in adjusted]
