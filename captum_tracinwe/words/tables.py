"""Pairs of texts as rows of a table: one row a pair, or one row a word of a pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias, TypeVar

from captum_tracinwe.words.influence import SHARE_COLUMNS, Vocabulary, WordInfluence

__all__ = ["PAIR_COLUMNS", "RANKED_SHARES", "Pairs", "pair_rows", "ranked", "share_rows"]

Pair = TypeVar("Pair")
#: What these take: pairs in a list, or in a list for each test text, as :meth:`TracInWE.word_influence` returns them.
Pairs: TypeAlias = Iterable["WordInfluence | Iterable[WordInfluence]"]

#: A row a pair. Texts, labels and prediction are None where they are not known.
PAIR_COLUMNS = (
    *("test_index", "train_index", "rank", "score", "words"),
    *("test_text", "test_label", "prediction", "train_text", "train_label"),
)
#: A row a word of a pair: :data:`captum_tracinwe.words.influence.SHARE_COLUMNS`, and the pair's rank.
RANKED_SHARES = (*SHARE_COLUMNS[:2], "rank", *SHARE_COLUMNS[2:])
# So many words stand in the row of a pair.
_NAMED = 5


def pair_rows(pairs: Pairs, vocabulary: Vocabulary | None = None) -> list[dict[str, Any]]:
    """Pairs as :data:`PAIR_COLUMNS`. ``rank`` counts those of a test text as they were given, from 1; ``words`` are the five
    that carry most of the score, of those that a person wrote.
    """
    return [
        {
            "test_index": pair.test_index,
            "train_index": pair.train_index,
            "rank": rank,
            "score": float(pair.score),
            "words": " ".join(_carrying(pair, vocabulary)),
            "test_text": None if pair.test_text is None else pair.test_text.text,
            "test_label": None if pair.test_text is None else pair.test_text.label,
            "prediction": None if pair.test_text is None else pair.test_text.prediction,
            "train_text": None if pair.train_text is None else pair.train_text.text,
            "train_label": None if pair.train_text is None else pair.train_text.label,
        }
        for rank, pair in ranked(pairs, WordInfluence)
    ]


def share_rows(pairs: Pairs, vocabulary: Vocabulary | None = None) -> list[dict[str, Any]]:
    """The words of pairs as :data:`RANKED_SHARES`, largest magnitude first; those of a pair add up to its score."""
    return [
        {name: {**row, "rank": rank}[name] for name in RANKED_SHARES}
        for rank, pair in ranked(pairs, WordInfluence)
        for row in pair.rows(vocabulary)
    ]


def ranked(pairs: Any, kind: type[Pair]) -> Iterator[tuple[int, Pair]]:
    """Pairs in a list, or in lists by test text, each with its place among those of its test text, from 1.

    Raises:
        TypeError: something else is among them.
    """
    counts: Counter[int] = Counter()
    given: Any = pairs
    if not isinstance(given, (kind, Iterable)) or isinstance(given, (str, bytes)):
        raise TypeError(
            f"expected {kind.__name__}, or a list of them for each test text, got {type(pairs).__name__}: they are "
            f"tracin.word_influence(inputs, train_indices)."
        )
    entries: Any = [given] if isinstance(given, kind) else given
    for entry in entries:
        for pair in [entry] if isinstance(entry, kind) or not isinstance(entry, Iterable) else entry:
            if not isinstance(pair, kind):
                raise TypeError(
                    f"expected {kind.__name__}, or a list of them for each test text, got {type(pair).__name__}."
                )
            test_index: int = pair.test_index  # type: ignore[attr-defined]
            counts[test_index] += 1
            yield counts[test_index], pair


def _carrying(pair: WordInfluence, vocabulary: Vocabulary | None) -> list[str]:
    """The words on the side of the score, strongest first; punctuation, and tokens that no person wrote, are left out."""
    own = [word for word in pair.words(vocabulary) if not word.special and any(map(str.isalnum, word.text))]
    return [word.text for word in own if word.share * pair.score > 0][:_NAMED]
