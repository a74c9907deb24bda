"""Texts beside their tokens: the characters and the person's word that each position stands for.

A *word* here is what a person reads, found in the text alone and therefore the same under every tokenizer:
letters and digits in a row ("don't" and "3.5" included), one ideograph, or one punctuation mark (repeated:
"…", "!!"). Where a token covers several such words, they count as one, because the token cannot be divided.

Of languages that write no blanks between words (Thai, Lao, Khmer, Burmese, Japanese, Chinese) the text alone does not say
where a word ends: there a word is what a segmenter says that you pass; else what the tokenizer takes for one, where it divides
such texts into words (as Japanese BERTs do); else a token (in XLM-RoBERTa much like words, in a byte-level one a character).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, TypeAlias

from captum_tracinwe.words.alignment import aligned
from captum_tracinwe.words.characters import Span
from captum_tracinwe.words.positions import spans_and_words
from captum_tracinwe.words.segmenting import Segmenter, spans_of

__all__ = ["SEPARATOR", "TokenizedText", "from_ids", "tokenize"]

#: Between the two texts of a pair.
SEPARATOR = " │ "


@dataclass(frozen=True)
class TokenizedText:
    """One text as a person reads it and as the model sees it; T positions.

    Args:
        text (str): the text; a pair is joined by :data:`SEPARATOR`.
        token_ids (tuple of int): ``(T,)``, every position the model sees: special tokens yes, padding no.
        spans (tuple): ``(T,)``, characters ``(start, end)`` of ``text``, without the blank before a word;
            None for a special token. Tokens that share a character have its whole span each.
        words (tuple): ``(T,)``, number of the word a position belongs to, rising; None for a special token.
        token_names (tuple of str): ``(T,)``, the tokens as the vocabulary writes them; empty: ``#id``.
        label, prediction (str, optional): what the data and the model say about the text.
        padding (tuple of int and str, optional): id and name of the padding token. It has no position here,
            but where the embedding has no ``padding_idx`` it takes part in the scores.
        asked (tuple of int): positions whose labels are asked about, see :func:`ask_about`; empty: the text's own, or all.

    Raises:
        ValueError: lengths differ, a span lies outside the text, or a position that is asked about.
    """

    text: str
    token_ids: tuple[int, ...]
    spans: tuple[Span | None, ...]
    words: tuple[int | None, ...]
    token_names: tuple[str, ...] = ()
    label: str | None = None
    prediction: str | None = None
    padding: tuple[int, str] | None = None
    asked: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.token_names:
            object.__setattr__(self, "token_names", tuple(f"#{i}" for i in self.token_ids))
        lengths = {name: len(getattr(self, name)) for name in ("token_ids", "spans", "words", "token_names")}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"TokenizedText: expected one entry per position in each field, got {lengths}.")
        outside = [place for place in self.asked if not 0 <= place < len(self.token_ids)]
        if outside:
            raise ValueError(
                f"TokenizedText: expected positions below {len(self.token_ids)} in `asked`, got {outside[0]}."
            )
        for position, (span, word) in enumerate(zip(self.spans, self.words, strict=True)):
            if (span is None) != (word is None):
                raise ValueError(
                    f"TokenizedText: expected position {position} to have a span and a word, or neither "
                    f"(special token); got span {span} and word {word}."
                )
            if span is not None and not 0 <= span[0] <= span[1] <= len(self.text):
                raise ValueError(
                    f"TokenizedText: expected spans inside the text's {len(self.text)} characters, "
                    f"got {span} at position {position}."
                )

    def token_at(self, position: int) -> tuple[int, str, int | None]:
        """Id, name and word of a position; position T stands for the padding after the text."""
        if position == len(self.token_ids) and self.padding is not None:
            return (*self.padding, None)
        return self.token_ids[position], self.token_names[position], self.words[position]

    @property
    def asked_words(self) -> list[str]:
        """What is asked about, as it is written in the text; a token without characters by its name."""
        spans = self.word_spans()
        numbers = dict.fromkeys((self.words[place], self.token_names[place]) for place in self.asked)
        found = {
            number: name if number is None else self.text[slice(*spans[number])] or name for number, name in numbers
        }
        return list(found.values())

    @cached_property
    def unread(self) -> list[Span]:
        """What was cut off at ``max_length``: characters behind the last token of the text, or of either text of a pair."""
        ends = [span[1] for span in self.spans if span is not None]
        found, start = [], 0
        for part in self.text.split(SEPARATOR):
            stop = start + len(part)
            cut = max((end for end in ends if start <= end <= stop), default=start)
            if any(unicodedata.category(character)[0] not in "CMZ" for character in self.text[cut:stop]):
                found.append((cut, stop))
            start = stop + len(SEPARATOR)
        return found

    def word_spans(self) -> dict[int, Span]:
        """Characters of each word that has tokens, by word number, in reading order."""
        found: dict[int, Span] = {}
        for span, word in zip(self.spans, self.words, strict=True):
            if span is not None and word is not None:
                start, end = found.get(word, span)
                found[word] = (min(start, span[0]), max(end, span[1]))
        return found


def tokenize(
    texts: Iterable[str | Sequence[str]],
    tokenizer: Any,
    *,
    labels: Sequence[object] | None = None,
    predictions: Sequence[object] | None = None,
    max_length: int | None = None,
    vocab_size: int | None = None,
    segmenter: Segmenter | None = None,
) -> list[TokenizedText]:
    """Tokenize texts and keep, for every position, its characters and its word.

    Args:
        texts (iterable of str or of pairs of str): M texts; ``(premise, hypothesis)`` for sentence pairs.
        tokenizer (transformers tokenizer): fast (exact spans) or slow (spans found by decoding the tokens).
        labels, predictions (sequence, optional): M of each; shown as ``str``.
        max_length (int, optional): truncate to that many positions; the cut tail stays in ``text``, without
            tokens.
        vocab_size (int, optional): rows of the model's embedding; ids beyond it are an error here, not a
            crash later.
        segmenter (callable, optional): finds the words of one text, a list of str in order or of ``(start, end)``: for languages
            without blanks, ``jieba.lcut`` or PyThaiNLP's ``word_tokenize``.

    Returns:
        list of TokenizedText: M of them.

    Raises:
        TypeError: a single str in place of a list of texts, or a text that is neither str nor a pair of str.
        ValueError: wrong number of labels or predictions, an id beyond ``vocab_size``, or a word of ``segmenter`` that is not
            in its text.

    Example:
        >>> from captum_tracinwe.training import words_tokenizer
        >>> tokenizer = words_tokenizer(["an unbelievable film"])
        >>> text = tokenize(["An unbelievable film"], tokenizer)[0]
        >>> text.token_names
        ('[CLS]', 'an', 'unbelievable', 'film', '[SEP]')
        >>> text.words
        (None, 0, 1, 2, None)
        >>> text.text[slice(*text.spans[2])]
        'unbelievable'
    """
    if isinstance(texts, str):  # whose items are texts of one letter
        raise TypeError(f"tokenize: expected a list of texts, got the str {texts!r:.80}. Put it in a list: [text].")
    inputs = [_as_parts(text, number) for number, text in enumerate(texts)]
    for name, values in (("labels", labels), ("predictions", predictions)):
        if values is not None and len(values) != len(inputs):
            raise ValueError(f"tokenize: expected one entry of {name} per text ({len(inputs)}), got {len(values)}.")
    pad_id = getattr(tokenizer, "pad_token_id", None)
    padding = None if pad_id is None else (int(pad_id), str(tokenizer.pad_token))
    convert = _tokenize_fast if getattr(tokenizer, "is_fast", False) else _tokenize_slow
    results: list[TokenizedText] = [None] * len(inputs)  # type: ignore[list-item]
    for size in (1, 2):  # a tokenizer takes single texts or pairs in one call, never both
        chosen = [number for number, parts in enumerate(inputs) if len(parts) == size]
        if not chosen:
            continue
        converted = convert([inputs[number] for number in chosen], tokenizer, max_length)
        for number, (text, ids, names, raw, known) in zip(chosen, converted, strict=True):
            _check_ids(ids, names, vocab_size, number)
            segments = None if segmenter is None else _segments(inputs[number], segmenter)
            spans, words = spans_and_words(text, raw, names, known, segments)
            results[number] = TokenizedText(
                text, ids, spans, words, names, _shown(labels, number), _shown(predictions, number), padding
            )
    return results


def from_ids(
    ids: Iterable[int],
    vocabulary: Sequence[str] | None = None,
    *,
    label: object = None,
    prediction: object = None,
    padding_id: int | None = None,
) -> TokenizedText:
    """A text made of its token ids alone, each id a word: its name in ``vocabulary``, or ``#id`` without one.

    Args:
        ids (iterable of int): ``(T,)``, a list or a tensor, without padding.
        vocabulary (sequence of str, optional): ``(V,)``, the name of each id.
        label, prediction (optional): shown as ``str``.
        padding_id (int, optional): the id that fills batches; see :class:`TokenizedText`.

    Raises:
        ValueError: an id has no name in ``vocabulary``.

    Example:
        >>> from_ids([1, 0], ["dog", "a"]).text
        'a dog'
    """
    numbers = tuple(int(i) for i in ids)
    if vocabulary is not None:
        wanted = numbers if padding_id is None else (*numbers, padding_id)
        outside = [i for i in wanted if not 0 <= i < len(vocabulary)]
        if outside:
            raise ValueError(
                f"from_ids: token id {outside[0]} has no name: expected ids from 0 to {len(vocabulary) - 1} "
                f"(the vocabulary has {len(vocabulary)} entries). Pass the vocabulary these ids were made "
                "with, or None."
            )

    def name_of(i: int) -> str:
        return (vocabulary[i] if vocabulary is not None else "") or f"#{i}"

    names = tuple(name_of(i) for i in numbers)
    spans, cursor = [], 0
    for name in names:
        spans.append((cursor, cursor + len(name)))
        cursor += len(name) + 1
    return TokenizedText(
        " ".join(names),
        numbers,
        tuple(spans),
        tuple(range(len(names))),
        names,
        _shown([label], 0),
        _shown([prediction], 0),
        None if padding_id is None else (padding_id, name_of(padding_id)),
    )


# ---------------------------------------------------------------------------------------------------- helpers

_Converted: TypeAlias = tuple[str, tuple[int, ...], tuple[str, ...], list[Span | None], list[Hashable]]


def _segments(parts: tuple[str, ...], segmenter: Segmenter) -> list[Span]:
    """The words of a text, or of each of a pair, as they stand where it is joined."""
    found: list[Span] = []
    start = 0
    for part in parts:
        found += [(start + first, start + end) for first, end in spans_of(part, segmenter)]
        start += len(part) + len(SEPARATOR)
    return found


def _shown(values: Sequence[object] | None, number: int) -> str | None:
    return None if values is None or values[number] is None else str(values[number])


def _as_parts(text: str | Sequence[str], number: int) -> tuple[str, ...]:
    parts = (text,) if isinstance(text, str) else tuple(text) if isinstance(text, (tuple, list)) else ()
    if len(parts) not in (1, 2) or not all(isinstance(part, str) for part in parts):
        raise TypeError(f"tokenize: expected text {number} to be a str or a pair of str, got {text!r:.80}.")
    # A lone surrogate (half a character, from a broken decoding) is no text: tokenizers and files refuse it.
    return tuple(part.encode("utf-8", "replace").decode() for part in parts)


def _check_ids(ids: tuple[int, ...], names: tuple[str, ...], vocab_size: int | None, number: int) -> None:
    for token_id, name in zip(ids, names, strict=True):
        if vocab_size is not None and token_id >= vocab_size:
            raise ValueError(
                f"tokenize: text {number} has the token {name!r} with id {token_id}, but the model's "
                f"vocabulary has {vocab_size} entries. Use the tokenizer the model was trained with, or "
                "resize the model's embedding."
            )


def _tokenize_fast(inputs: list[tuple[str, ...]], tokenizer: Any, max_length: int | None) -> Iterable[_Converted]:
    columns = [list(column) for column in zip(*inputs, strict=True)]
    batch = tokenizer(*columns, padding=False, truncation=max_length is not None, max_length=max_length, verbose=False)
    for parts, encoding in zip(inputs, batch.encodings, strict=True):
        shift = (0, len(parts[0]) + len(SEPARATOR))
        spans = [
            None if part is None else (shift[part] + start, shift[part] + end)
            for part, (start, end) in zip(encoding.sequence_ids, encoding.offsets, strict=True)
        ]
        known: list[Hashable] = list(zip(encoding.sequence_ids, encoding.word_ids, strict=True))
        yield SEPARATOR.join(parts), tuple(encoding.ids), tuple(encoding.tokens), spans, known


def _tokenize_slow(inputs: list[tuple[str, ...]], tokenizer: Any, max_length: int | None) -> Iterable[_Converted]:
    for parts in inputs:
        row = tokenizer(
            *parts,
            padding=False,
            truncation=max_length is not None,
            max_length=max_length,
            return_special_tokens_mask=True,
            verbose=False,
        )
        ids = tuple(int(i) for i in row["input_ids"])
        names = tuple(str(name) for name in tokenizer.convert_ids_to_tokens(list(ids)))
        special = row.get("special_tokens_mask") or [0] * len(ids)
        text = SEPARATOR.join(parts)
        gap = (len(parts[0]), len(parts[0]) + len(SEPARATOR)) if len(parts) == 2 else (0, 0)
        # A piece that goes on with a word says so by its name, where the tokenizer knows words.
        known: list[Hashable] = list(accumulate(int(not name.startswith("##")) for name in names))
        yield text, ids, names, aligned(text, gap, ids, names, special, tokenizer), known
