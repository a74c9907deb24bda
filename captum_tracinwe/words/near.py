"""Texts of nearly the same words: pairs of them, and the groups that these make; of a group one text says what all say."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from captum_tracinwe.preconditioners.text_gram import Occurrences

__all__ = ["doubles_of", "near_groups", "occurrences_in", "same_words"]

#: Cosine of the tf-idf vectors from which on two texts are nearly the same.
ALIKE = 0.9
# Less by rounding.
NEARLY = ALIKE - 1e-9
# Words of more texts don't lead to a double: two texts of this cosine share rarer ones, or consist of common words alone.
MOST_TEXTS = 64
# Words that are looked up at a time, of one text of each pair in the other: 8 bytes each, four times.
AT_ONCE = 1 << 21

# Of languages that write no blanks between words (Thai, Lao, Burmese, Khmer, Japanese, Chinese) a character is a word.
ALONE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
# Else letters and digits in a row.
WORD = re.compile(rf"[{ALONE}]|\w+?(?=[{ALONE}]|\b)")


def occurrences_in(texts: Iterable[str]) -> Occurrences:
    """Which words stand in which texts, whatever their case; a word's number is of no meaning."""
    numbers: dict[str, int] = {}
    counts, ids = [], []
    for text in texts:
        held = sorted({numbers.setdefault(word, len(numbers)) for word in WORD.findall(text.casefold())})
        counts.append(len(held))
        ids += held
    return Occurrences(torch.tensor(counts, dtype=torch.int32), torch.tensor(ids, dtype=torch.int32), 1, 0)


def near_groups(texts: Occurrences) -> list[tuple[int, ...]]:
    """Texts that are nearly the same, or lead to each other by such as are; largest group first, indices ascending."""
    leader = list(range(texts.examples))

    def of(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    joined = [(group[0], other) for group in same_words(texts) for other in group[1:]]
    for one, other in (*joined, *doubles_of(texts)):
        first, second = sorted((of(one), of(other)))
        leader[second] = first
    groups: dict[int, list[int]] = defaultdict(list)
    for index in range(texts.examples):
        groups[of(index)].append(index)
    found = [tuple(group) for group in groups.values() if len(group) > 1]
    return sorted(found, key=lambda group: (-len(group), group))


def doubles_of(texts: Occurrences) -> dict[tuple[int, int], float]:
    """Pairs of texts, the smaller index first, whose words are nearly the same: their cosine.

    Texts of the very same words are not among them (:func:`same_words`): of a thousand there would be half a million pairs.

    A text's first words, from the rarest on, lead to all its doubles, once they make up more than 1 − 0.9² of its squared
    length: of a pair that shares none of them, the rest could not make up the cosine (prefix filtering; Bayardo, Ma and
    Srikant, *Scaling Up All Pairs Similarity Search*, WWW 2007). They are a few of a text's words, and the pairs that they
    lead to are looked at whole: nothing is approximate.

    Args:
        texts (Occurrences): N training texts.
    """
    if not len(texts.ids):
        return {}
    words, places, counts = torch.unique(texts.ids, return_inverse=True, return_counts=True)
    lengths = texts.counts.long()
    example = torch.arange(texts.examples).repeat_interleave(lengths)
    squares = (texts.examples / counts.double()).log().square()[places]
    whole = torch.zeros(texts.examples, dtype=torch.float64).index_add_(0, example, squares)
    leads = _leading(example, places, counts, squares, whole) & (counts[places] <= MOST_TEXTS)
    order = torch.argsort(places[leads], stable=True)
    word, text = places[leads][order], example[leads][order]
    sizes, codes = whole.sqrt(), []
    for step in range(1, MOST_TEXTS):
        near = (word[step:] == word[:-step]).nonzero().flatten()
        if not len(near):
            break
        one, other = text[near], text[near + step]
        likely = torch.minimum(sizes[one], sizes[other]) >= NEARLY * torch.maximum(sizes[one], sizes[other])
        codes.append((one * texts.examples + other)[likely])
    if not codes:
        return {}
    both = torch.unique(torch.cat(codes))
    pairs = torch.stack([both // texts.examples, both % texts.examples], dim=1)
    keys = torch.sort(example * len(words) + places).values
    found: dict[tuple[int, int], float] = {}
    for some in _parts(pairs, lengths):
        shared, product = _shared(some, lengths, places, squares, keys, len(words))
        cosine = product / (sizes[some[:, 0]] * sizes[some[:, 1]])
        same = (shared == lengths[some[:, 0]]) & (shared == lengths[some[:, 1]])
        kept = (cosine >= ALIKE) & ~same
        for (one, other), value in zip(some[kept].tolist(), cosine[kept].tolist(), strict=True):
            found[one, other] = min(1.0, value)
    return found


def same_words(texts: Occurrences) -> list[list[int]]:
    """Texts of the very same words, at least two to a group, whatever words these are."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    ids, start = texts.ids.tolist(), 0
    for index, count in enumerate(texts.counts.tolist()):
        groups[tuple(ids[start : start + count])].append(index)
        start += count
    return [group for words, group in groups.items() if len(group) > 1 and words]


def _leading(example: Tensor, places: Tensor, counts: Tensor, squares: Tensor, whole: Tensor) -> Tensor:
    """Which words of each text come before 1 − 0.9² of its squared length is reached, from the rarest on, bool ``(R,)``."""
    rank = torch.argsort(torch.argsort(counts, stable=True))
    order = torch.argsort(example * len(counts) + rank[places])
    before = squares[order].cumsum(0) - squares[order]
    texts = example[order]
    starts = torch.full_like(whole, torch.inf).scatter_reduce_(0, texts, before, "amin")
    found = torch.zeros(len(places), dtype=torch.bool)
    # Rounding lets a word more take part, never one less.
    found[order] = before - starts[texts] <= (1 - NEARLY**2) * whole[texts] * (1 + 1e-6) + 1e-6
    return found


def _parts(pairs: Tensor, lengths: Tensor) -> Iterator[Tensor]:
    ends = lengths[pairs[:, 0]].cumsum(0)
    start = 0
    while start < len(pairs):
        limit = (int(ends[start - 1]) if start else 0) + AT_ONCE
        stop = max(start + 1, int(torch.searchsorted(ends, limit, right=True)))
        yield pairs[start:stop]
        start = stop


def _shared(
    pairs: Tensor, lengths: Tensor, places: Tensor, squares: Tensor, keys: Tensor, words: int
) -> tuple[Tensor, Tensor]:
    """Of each pair how many words both texts hold, and the sum of their squared weights."""
    one, other = pairs.unbind(1)
    starts = lengths.cumsum(0) - lengths
    pair = torch.arange(len(pairs)).repeat_interleave(lengths[one])
    first = lengths[one].cumsum(0) - lengths[one]
    at = starts[one][pair] + torch.arange(len(pair)) - first[pair]
    wanted = other[pair] * words + places[at]
    there = keys[torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)] == wanted
    shared = torch.zeros(len(pairs), dtype=torch.int64).index_add_(0, pair, there.long())
    product = torch.zeros(len(pairs), dtype=torch.float64).index_add_(0, pair, squares[at] * there)
    return shared, product
