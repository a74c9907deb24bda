"""Texts that are nearly the same: those labelled differently cannot both be right, and none is a witness for the other."""

from __future__ import annotations

from collections import defaultdict

import torch

from captum_tracinwe.preconditioners.text_gram import Occurrences

__all__ = ["doubles_of", "same_words"]

#: Cosine of the tf-idf vectors from which on two texts are nearly the same.
ALIKE = 0.9
# Less by rounding.
NEARLY = ALIKE - 1e-9
# Words of more texts don't lead to a double: two texts of this cosine share rarer ones, or consist of common words alone.
MOST_TEXTS = 64


def doubles_of(texts: Occurrences) -> dict[tuple[int, int], float]:
    """Pairs of texts, the smaller index first, whose words are nearly the same: their cosine.

    Texts of the very same words are not among them (:func:`same_words`): of a thousand there would be half a million pairs.

    Args:
        texts (Occurrences): N training texts.
    """
    _, places, counts = torch.unique(texts.ids, return_inverse=True, return_counts=True)
    lengths = texts.counts.long()
    example = torch.arange(texts.examples).repeat_interleave(lengths)
    weights = (texts.examples / counts.double()).log()[places]
    sizes = torch.zeros(texts.examples, dtype=torch.float64).index_add_(0, example, weights.square()).sqrt()
    found: dict[tuple[int, int], float] = {}
    kept = counts[places] <= MOST_TEXTS
    order = torch.argsort(places[kept], stable=True)
    word, text, square = places[kept][order], example[kept][order], weights[kept][order].square()
    pairs, squares = [], []
    for step in range(1, MOST_TEXTS):
        near = (word[step:] == word[:-step]).nonzero().flatten()
        if not len(near):
            break
        pairs.append(text[near] * texts.examples + text[near + step])
        squares.append(square[near])
    if not pairs:
        return found
    codes, place = torch.unique(torch.cat(pairs), return_inverse=True)
    shared = torch.zeros(len(codes), dtype=torch.float64).index_add_(0, place, torch.cat(squares))
    # What the common words could add at most is known without a look at them.
    common = torch.zeros(texts.examples, dtype=torch.float64).index_add_(0, example[~kept], weights[~kept].square())
    one, other = codes // texts.examples, codes % texts.examples
    likely = shared + torch.minimum(common[one], common[other]) >= NEARLY * sizes[one] * sizes[other]
    starts = (lengths.cumsum(0) - lengths).tolist()
    ends = lengths.cumsum(0).tolist()
    for a, b in zip(one[likely].tolist(), other[likely].tolist(), strict=True):
        mine, others = (slice(starts[i], ends[i]) for i in (a, b))
        both = torch.isin(places[mine], places[others])
        size = float(sizes[a] * sizes[b])
        cosine = float(weights[mine][both].square().sum()) / size if size else 0.0
        if cosine >= ALIKE and not torch.equal(places[mine], places[others]):
            found[a, b] = min(1.0, cosine)
    return dict(sorted(found.items()))


def same_words(texts: Occurrences) -> list[list[int]]:
    """Texts of the very same words, at least two to a group, whatever words these are."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    ids, start = texts.ids.tolist(), 0
    for index, count in enumerate(texts.counts.tolist()):
        groups[tuple(ids[start : start + count])].append(index)
        start += count
    return [group for words, group in groups.items() if len(group) > 1 and words]
