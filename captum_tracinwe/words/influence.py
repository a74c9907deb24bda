"""Why one training text moved one test text: the score, split exactly into shares of their common words."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from captum_tracinwe.tabular import frame
from captum_tracinwe.words.characters import Span
from captum_tracinwe.words.drawing import html_of
from captum_tracinwe.words.texts import TokenizedText

__all__ = [
    "SHARE_COLUMNS",
    "Vocabulary",
    "WordInfluence",
    "WordShare",
    "names_by_id",
    "position_shares",
]

#: Names of token ids, by position, by id, or the other way about as a tokenizer's get_vocab() has them.
Vocabulary: TypeAlias = Sequence[str] | Mapping[int, str] | Mapping[str, int]

#: Of a table of words: a row a word of a pair, where it stands as ``[start, end]`` in characters.
SHARE_COLUMNS = ("test_index", "train_index", "word", "share", "special", "token_ids", "train_spans", "test_spans")

# Shares are float64; this is room for another order of summation, nothing more.
SUM_TOLERANCE = 1e-9
# The parts of checkpoints may come from float32 products.
CHECKPOINT_TOLERANCE = 1e-4


@dataclass(frozen=True)
class WordShare:
    """What one word of the training text adds to a score.

    Args:
        text (str): the word; a special token, or a word without its text, by its vocabulary name.
        share (float): signed; positive = proponent. Unit: that of the score.
        token_ids (tuple of int): the shared tokens it is made of, ascending.
        train_spans, test_spans (tuple): characters of the word in the training text (one span per
            occurrence), and of its tokens in the test text; empty where the text is not known, or the token
            has no characters.
        special (bool): a token like [CLS], which no person wrote.
    """

    text: str
    share: float
    token_ids: tuple[int, ...]
    train_spans: tuple[Span, ...] = ()
    test_spans: tuple[Span, ...] = ()
    special: bool = False


@dataclass(frozen=True, eq=False)
class WordInfluence:
    """The influence of one training text on one test text, token by token; S shared tokens.

    ``token_shares[s]`` = Σ over checkpoints of learning rate × ⟨row gradient of the training text, row
    gradient of the test text⟩ for token ``token_ids[s]``. The shares add up to ``score``. Positive =
    proponent: a training step on this text lowers the loss on the test text. Unit: learning rate × squared
    gradient of the loss.

    Args:
        test_index, train_index (int): numbers of the two texts in their data sets.
        score (float): the sum of ``token_shares`` in float64.
        token_ids (Tensor): int64, ``(S,)``.
        token_shares (Tensor): float64, ``(S,)``.
        checkpoint_shares (Tensor, optional): float64, ``(C, S)``, the same by checkpoint.
        test_text, train_text (TokenizedText, optional): the texts, to show words instead of tokens.
        asked_ids, asked_shares (Tensor, optional): int64 and float64 ``(Q,)``, the same score split over the words of the test
            text, where these are others than the training text's: after a preconditioner that leads from word to word.
        token_names (mapping, optional): token id to its name, for tokens that no text at hand holds. Without a name a token is
            shown by its number in the vocabulary, such as ``#191``.

    Source: Yeh et al., arXiv 2202.11844 (word-level decomposition).

    Raises:
        ValueError: shapes or types differ from these, the shares do not add up to the score, or a text does
            not hold the shared tokens.

    Example:
        >>> import torch
        >>> shares = torch.tensor([0.5, -0.25], dtype=torch.float64)
        >>> pair = WordInfluence(0, 7, 0.25, torch.tensor([3, 8]), shares)
        >>> [(word.text, word.share) for word in pair.words()]
        [('#3', 0.5), ('#8', -0.25)]
    """

    test_index: int
    train_index: int
    score: float
    token_ids: Tensor
    token_shares: Tensor
    checkpoint_shares: Tensor | None = None
    test_text: TokenizedText | None = None
    train_text: TokenizedText | None = None
    asked_ids: Tensor | None = None
    asked_shares: Tensor | None = None
    token_names: Mapping[int, str] | None = None

    def __post_init__(self) -> None:
        _check_tensor("token_ids", self.token_ids, torch.int64, (None,))
        size = self.token_ids.shape[0]
        _check_tensor("token_shares", self.token_shares, torch.float64, (size,))
        if not bool(torch.isfinite(self.token_shares).all()):
            raise ValueError(
                f"{self._name()}: expected finite shares, got "
                f"{self.token_shares[~self.token_shares.isfinite()][0]}. "
                "A loss that has diverged has no influence: leave that checkpoint out."
            )
        total, size_of_terms = self.token_shares.sum().item(), self.token_shares.abs().sum().item()
        if not abs(total - self.score) <= SUM_TOLERANCE * max(abs(self.score), size_of_terms):
            raise ValueError(
                f"{self._name()}: expected token_shares to add up to the score {self.score!r}, they add up "
                f"to {total!r}. Pass score=token_shares.sum().item()."
            )
        if self.checkpoint_shares is not None:
            _check_tensor("checkpoint_shares", self.checkpoint_shares, torch.float64, (None, size))
            difference = (self.checkpoint_shares.sum(0) - self.token_shares).abs()
            size_of_parts = self.checkpoint_shares.abs().sum().item()
            if bool((difference > CHECKPOINT_TOLERANCE * max(size_of_parts, size_of_terms)).any()):
                raise ValueError(
                    f"{self._name()}: expected checkpoint_shares to add up to token_shares over the "
                    f"checkpoints, they differ by up to {difference.max().item()!r}."
                )
        if (self.asked_ids is None) != (self.asked_shares is None):
            raise ValueError(f"{self._name()}: expected both of asked_ids and asked_shares, or neither.")
        if self.asked_ids is not None and self.asked_shares is not None:
            _check_tensor("asked_ids", self.asked_ids, torch.int64, (None,))
            _check_tensor("asked_shares", self.asked_shares, torch.float64, (self.asked_ids.shape[0],))
            # From products of another order, in float32.
            apart = abs(self.asked_shares.sum().item() - self.score)
            if not apart <= CHECKPOINT_TOLERANCE * max(size_of_terms, self.asked_shares.abs().sum().item()):
                raise ValueError(
                    f"{self._name()}: expected asked_shares to add up to the score {self.score!r}, they add up to "
                    f"{self.asked_shares.sum().item()!r}."
                )
        for side, text in (("test", self.test_text), ("training", self.train_text)):
            if text is not None:
                self._check_text(side, text)

    def split(self, text: TokenizedText) -> tuple[Tensor, Tensor]:
        """Ids and shares of the tokens of one of the two texts."""
        if self.asked_ids is None or self.asked_shares is None or text is self.train_text:
            return self.token_ids, self.token_shares
        held = set(text.token_ids) | ({text.padding[0]} if text.padding else set())
        if text is self.test_text or not held.issuperset(self.token_ids.tolist()):
            return self.asked_ids, self.asked_shares
        return self.token_ids, self.token_shares

    def _check_text(self, side: str, text: TokenizedText) -> None:
        held = set(text.token_ids) | ({text.padding[0]} if text.padding else set())
        asked = side == "test" and self.asked_ids is not None
        missing = sorted(set((self.asked_ids if asked else self.token_ids).tolist()) - held)  # type: ignore[union-attr]
        if missing:
            raise ValueError(
                f"{self._name()}: the {side} text {text.text!r:.60} does not hold the shared token id(s) "
                f"{missing[:5]}. Pass the text this score was computed on, tokenized the same way "
                "(for padding see TokenizedText.padding)."
            )

    def _name(self) -> str:
        return f"WordInfluence of training example {self.train_index} on test example {self.test_index}"

    def with_texts(self, test_text: TokenizedText | None, train_text: TokenizedText | None) -> WordInfluence:
        """A copy that knows its texts; ValueError if they do not hold the shared tokens."""
        return dataclasses.replace(self, test_text=test_text, train_text=train_text)

    def words(self, vocabulary: Vocabulary | None = None) -> list[WordShare]:
        """The shares of words, largest magnitude first; they add up to the score.

        With a training text its word pieces are joined to words. A token that occurs several times in the
        training text has its share divided equally over the occurrences; the same word in several places is
        one entry.

        Args:
            vocabulary (sequence or mapping of str, optional): names of token ids, where the texts do not name
                them; a tokenizer's ``get_vocab()`` will do.

        Returns:
            list of WordShare: special tokens included, flagged.
        """
        vocabulary = names_by_id(vocabulary)
        by_word: dict[tuple[bool, str], _Entry] = {}
        text = self.train_text
        if text is None:
            for token_id, share in zip(self.token_ids.tolist(), self.token_shares.tolist(), strict=True):
                special, name = self._token_name(token_id, vocabulary)
                by_word.setdefault((special, f"{name}\0{token_id}"), _Entry(name)).add(share, token_id)
        else:
            spans = text.word_spans()
            for position, share in position_shares(self, text).items():
                token_id, token, word = text.token_at(position)
                name = token if word is None else text.text[slice(*spans[word])] or token
                entry = by_word.setdefault((word is None, name), _Entry(name))
                entry.add(share, token_id, None if word is None else spans[word])
        places: dict[int, list[int]] = {}
        for position, token_id in enumerate(self.test_text.token_ids if self.test_text else ()):
            places.setdefault(token_id, []).append(position)
        shares = [
            WordShare(
                entry.name,
                math.fsum(entry.shares),
                tuple(sorted(entry.token_ids)),
                tuple(sorted(entry.spans)),
                _spans_of(self.test_text, sorted(p for i in entry.token_ids for p in places.get(i, ()))),
                special,
            )
            for (special, _), entry in by_word.items()
        ]
        return sorted(shares, key=lambda word: (-abs(word.share), word.token_ids, word.text))

    def rows(self, vocabulary: Vocabulary | None = None) -> list[dict[str, Any]]:
        """:meth:`words` as a list of dicts, one per word: its text and share, its tokens, and where it stands in either text."""
        return [
            {
                "test_index": self.test_index,
                "train_index": self.train_index,
                "word": word.text,
                "share": word.share,
                "special": word.special,
                "token_ids": list(word.token_ids),
                "train_spans": [list(span) for span in word.train_spans],
                "test_spans": [list(span) for span in word.test_spans],
            }
            for word in self.words(vocabulary)
        ]

    def to_table(self) -> Any:
        """A ``pandas.DataFrame``, a row per word; where pandas is not installed a list of dicts."""
        return frame(self.rows(), SHARE_COLUMNS)

    def _token_name(self, token_id: int, vocabulary: Sequence[str] | Mapping[int, str] | None) -> tuple[bool, str]:
        special = False
        ids = () if self.test_text is None else self.test_text.token_ids
        if self.test_text is not None and (self.asked_ids is None or token_id in ids):
            _, name, word = self.test_text.token_at(ids.index(token_id) if token_id in ids else len(ids))
            special = word is None
            if vocabulary is None:
                return special, name
        if vocabulary is None:
            return special, (self.token_names or {}).get(token_id) or f"#{token_id}"
        try:
            return special, vocabulary[token_id] or f"#{token_id}"
        except (IndexError, KeyError):
            raise ValueError(
                f"{self._name()}: the vocabulary ({len(vocabulary)} entries) has no name for token id "
                f"{token_id}. Pass the vocabulary of the tokenizer the texts were made with, or none."
            ) from None

    def _repr_html_(self) -> str | None:
        return html_of(self)


def names_by_id(vocabulary: Vocabulary | None) -> Sequence[str] | Mapping[int, str] | None:
    """``vocabulary`` to be asked by id; TypeError for what has no names."""
    if isinstance(vocabulary, str) or not isinstance(vocabulary, (Sequence, Mapping, type(None))):
        raise TypeError(
            f"expected `vocabulary` as a list of names or a mapping of token ids and names, such as tokenizer.get_vocab(); got "
            f"{type(vocabulary).__name__}."
        )
    if isinstance(vocabulary, Mapping) and isinstance(next(iter(vocabulary), 0), str):
        by_name: Any = vocabulary
        return {token_id: name for name, token_id in by_name.items()}
    found: Any = vocabulary
    return found  # type: ignore[no-any-return]


def position_shares(influence: WordInfluence, text: TokenizedText) -> dict[int, float]:
    """Share of each position of one of the two texts that holds a shared token; they add up to the score.

    Args:
        influence (WordInfluence): a pair of texts.
        text (TokenizedText): its training or its test text.

    Returns:
        dict: position to share: the share of the token there, divided by the number of its occurrences in
            ``text``. Position T is the padding, see :meth:`TokenizedText.token_at`.

    Raises:
        ValueError: a shared token does not occur in ``text``.
    """
    share_of: dict[int, float] = {}
    ids, values = influence.split(text)
    for token_id, share in zip(ids.tolist(), values.tolist(), strict=True):
        share_of[token_id] = share_of.get(token_id, 0.0) + share
    influence._check_text("test" if ids is influence.asked_ids else "given", text)
    occurrences = Counter(token_id for token_id in text.token_ids if token_id in share_of)
    shares = {
        position: share_of[token_id] / occurrences[token_id]
        for position, token_id in enumerate(text.token_ids)
        if token_id in share_of
    }
    if text.padding is not None and text.padding[0] in share_of and text.padding[0] not in occurrences:
        shares[len(text.token_ids)] = share_of[text.padding[0]]
    return shares


class _Entry:
    """One word of :meth:`WordInfluence.words` while it is being put together."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.shares: list[float] = []
        self.token_ids: set[int] = set()
        self.spans: set[Span] = set()

    def add(self, share: float, token_id: int, span: Span | None = None) -> None:
        self.shares.append(share)
        self.token_ids.add(token_id)
        if span is not None and span[0] < span[1]:
            self.spans.add(span)


def _spans_of(text: TokenizedText | None, positions: list[int]) -> tuple[Span, ...]:
    """Characters of these positions; neighbouring pieces of one word are one span."""
    found: list[tuple[int | None, Span]] = []
    for position in positions if text else ():
        span, word = (text.spans[position], text.words[position]) if text else (None, None)
        if span is None or span[0] == span[1]:
            continue
        if found and found[-1][0] == word and span[0] <= found[-1][1][1]:
            start, end = found.pop()[1]
            span = (min(start, span[0]), max(end, span[1]))
        found.append((word, span))
    return tuple(span for _, span in found)


def _check_tensor(name: str, tensor: object, dtype: torch.dtype, shape: tuple[int | None, ...]) -> None:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"WordInfluence: expected {name} to be a tensor of {dtype}, got {type(tensor).__name__}.")
    fits = tensor.dim() == len(shape) and all(
        want in (None, have) for want, have in zip(shape, tensor.shape, strict=True)
    )
    if tensor.dtype != dtype or not fits:
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(
            f"WordInfluence: expected {name} of {dtype} with shape ({wanted}), "
            f"got {tensor.dtype} with shape {tuple(tensor.shape)}."
        )
