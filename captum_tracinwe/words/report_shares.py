"""What each word of each training text adds to the scores of all test texts together: the numbers of a report."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from captum_tracinwe.gradients.source import Question, times
from captum_tracinwe.rows.overflow import first_not_finite, overflow
from captum_tracinwe.rows.row_gradients import RowGradients
from captum_tracinwe.words.explained import Explained
from captum_tracinwe.words.influence import WordInfluence
from captum_tracinwe.words.texts import TokenizedText

__all__ = ["Word", "holders_of", "shares_by_token", "shares_by_word"]

#: (whether it is a special token, the word).
Word = tuple[bool, str]


def shares_by_token(tracin: Explained, question: Question, show: bool | None) -> tuple[RowGradients, RowGradients, int]:
    """Of each training example its tokens that a test text has, with their shares of Σ_i score[i], ``(R, 1)``; all its
    tokens, ``(R, 0)``; and N.

    The test examples are summed first, as ``question`` says: a share of the sum is the product with the sum.
    """
    source, live = tracin.source, tracin.live_source.live
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


def shares_by_word(
    shares: RowGradients,
    texts: Sequence[TokenizedText] | None,
    vocabulary: Sequence[str] | Mapping[int, str] | None,
) -> dict[Word, dict[int, float]]:
    """(special?, word) → training index → share."""
    found: dict[Word, dict[int, float]] = {}
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


def _key(special: bool, name: str) -> Word:
    return special, name if special else unicodedata.normalize("NFC", name.lower())


def holders_of(
    held: Mapping[Word, Mapping[int, float]], texts: Sequence[TokenizedText] | None
) -> dict[Word, list[int]]:
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
