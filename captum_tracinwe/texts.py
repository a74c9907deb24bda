"""Texts beside their tokens: the characters and the person's word that each position stands for.

A *word* here is what a person reads, found in the text alone and therefore the same under every tokenizer:
letters and digits in a row ("don't" and "3.5" included), one ideograph, or one punctuation mark (repeated:
"…", "!!"). Where a token covers several such words, they count as one, because the token cannot be divided.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

__all__ = ["SEPARATOR", "TokenizedText", "from_ids", "tokenize"]

Span: TypeAlias = tuple[int, int]
#: Between the two texts of a pair.
SEPARATOR = " │ "
_BLANK_NAMES = ("▁", "Ġ")
# One code point takes at most 4 bytes; a family emoji is put together from single code points.
_MAX_TOKENS_PER_CHARACTER = 8
_IDEOGRAPHS = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))


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

    Raises:
        ValueError: lengths differ, or a span lies outside the text.
    """

    text: str
    token_ids: tuple[int, ...]
    spans: tuple[Span | None, ...]
    words: tuple[int | None, ...]
    token_names: tuple[str, ...] = ()
    label: str | None = None
    prediction: str | None = None
    padding: tuple[int, str] | None = None

    def __post_init__(self) -> None:
        if not self.token_names:
            object.__setattr__(self, "token_names", tuple(f"#{i}" for i in self.token_ids))
        lengths = {name: len(getattr(self, name)) for name in ("token_ids", "spans", "words", "token_names")}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"TokenizedText: expected one entry per position in each field, got {lengths}.")
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

    Returns:
        list of TokenizedText: M of them.

    Raises:
        TypeError: a single str in place of a list of texts, or a text that is neither str nor a pair of str.
        ValueError: wrong number of labels or predictions, or an id beyond ``vocab_size``.

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
        for number, (text, ids, names, raw) in zip(chosen, converted, strict=True):
            _check_ids(ids, names, vocab_size, number)
            spans, words = _spans_and_words(text, raw, names)
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

_Converted: TypeAlias = tuple[str, tuple[int, ...], tuple[str, ...], list[Span | None]]


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
        yield SEPARATOR.join(parts), tuple(encoding.ids), tuple(encoding.tokens), spans


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
        mask = row.get("special_tokens_mask") or [0] * len(ids)
        unknown = getattr(tokenizer, "unk_token_id", None)
        positions = [p for p, special in enumerate(mask) if not special or ids[p] == unknown]
        groups = _decoded_groups(positions, ids, names, unknown, tokenizer)
        text = SEPARATOR.join(parts)
        spans: list[Span | None] = [None] * len(ids)
        gap = (len(parts[0]), len(parts[0]) + len(SEPARATOR)) if len(parts) == 2 else (0, 0)
        for (members, _), span in zip(groups, _align(text, [piece for _, piece in groups], gap), strict=True):
            for position in members:
                spans[position] = span
        yield text, ids, names, spans


def _decoded_groups(
    positions: list[int], ids: tuple[int, ...], names: tuple[str, ...], unknown: int | None, tokenizer: Any
) -> list[tuple[list[int], str | None]]:
    """Positions with the text they decode to, joined where several make one character; None: unknown."""
    groups: list[tuple[list[int], str | None]] = []
    open_group: list[int] = []
    for position in positions:
        if ids[position] == unknown:
            groups += [(open_group, None)] if open_group else []
            groups.append(([position], None))
            open_group = []
            continue
        open_group.append(position)
        piece = str(tokenizer.convert_tokens_to_string([names[p] for p in open_group])).strip().removeprefix("##")
        complete = piece != "" and "�" not in piece
        if (
            names[position] == " " and len(open_group) == 1
        ):  # a byte of its own, as ByT5 has it: no part of the next word
            groups.append(([position], None))
            open_group = []
            continue
        if complete or len(open_group) == _MAX_TOKENS_PER_CHARACTER:
            groups.append((open_group, piece if complete else None))
            open_group = []
    return groups + ([(open_group, None)] if open_group else [])


def _folded(text: str) -> tuple[str, list[int]]:
    """Lower case, no accents, compatibility forms, as tokenizers may make it; and where it came from."""
    characters, origin = [], []
    for index, character in enumerate(text):
        for part in unicodedata.normalize("NFKD", character.lower()):
            if not unicodedata.category(part).startswith("M"):
                characters.append(part)
                origin.append(index)
    return "".join(characters), [*origin, len(text)]


def _align(text: str, pieces: list[str | None], gap: Span) -> list[Span]:
    """Find pieces in the text one by one; what is not found gets the words between its neighbours."""
    folded, origin = _folded(text)
    spans: list[Span] = [(0, 0)] * len(pieces)
    waiting: list[int] = []
    cursor = 0

    def skip(index: int) -> int:
        while index < len(folded) and (folded[index].isspace() or gap[0] <= origin[index] < gap[1]):
            index += 1
        return index

    def settle(end: int, at_end: bool) -> None:
        words = _runs(text, origin[cursor], origin[end])
        each = len(words) == len(waiting) or (at_end and len(words) > len(waiting))
        for order, number in enumerate(waiting):
            whole = (words[0][0], words[-1][1]) if words else (origin[cursor], origin[cursor])
            spans[number] = words[order] if each else whole
        waiting.clear()

    for number, piece in enumerate(pieces):
        cursor = skip(cursor)
        wanted = _folded(piece)[0].strip() if piece else ""
        found = cursor if wanted and folded.startswith(wanted, cursor) else -1
        if wanted and found < 0 and waiting:
            found = folded.find(wanted, cursor)
        if found < 0:
            waiting.append(number)
            continue
        settle(found, at_end=False)
        cursor = found + len(wanted)
        spans[number] = (origin[found], origin[cursor - 1] + 1)
    cursor = skip(cursor)
    settle(len(folded), at_end=True)
    return spans


def _runs(text: str, start: int, end: int) -> list[Span]:
    """The parts of ``text[start:end]`` between blanks."""
    runs: list[Span] = []
    for index in range(start, end):
        if text[index].isspace():
            continue
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return runs


def _spans_and_words(
    text: str, raw: list[Span | None], names: tuple[str, ...]
) -> tuple[tuple[Span | None, ...], tuple[int | None, ...]]:
    """Spans on whole characters and without surrounding blanks, and the number of each position's word."""
    cluster, word_of = _clusters(text), _words_of_characters(text)
    spans = [None if span is None else _tidy(text, span, cluster) for span in raw]
    # A lone "▁" or "Ġ" right before the rest of its word ("▁", "日") belongs to it and shares its span.
    for position in range(len(spans) - 2, -1, -1):
        here, after, before = spans[position], spans[position + 1], raw[position]
        if here is None or after is None or before is None or names[position] not in _BLANK_NAMES:
            continue
        follows = raw[position + 1] or after
        if before[1] == follows[0] and follows[0] == after[0]:
            spans[position] = after
    linked: set[int] = set()  # word k and word k + 1 share a token
    for span in spans:
        touched = {word_of[index] for index in range(*span)} - {-1} if span else set()
        if touched:
            linked.update(range(min(touched), max(touched)))
    words: list[int | None] = []
    number, previous, reached = -1, None, 0
    for span in spans:
        if span is None:
            words.append(None)
            continue
        inside = [word_of[index] for index in range(*span) if word_of[index] >= 0]
        # A token of blanks alone, or of nothing at all, is a word of its own.
        key = inside[0] if inside else None
        while key is not None and key - 1 in linked:
            key -= 1
        overlaps = number >= 0 and span[0] < reached  # blanks that share a character
        if not overlaps and (key is None or key != previous):
            number += 1
        previous, reached = key, max(reached, span[1])
        words.append(number)
    return tuple(spans), tuple(words)


def _tidy(text: str, span: Span, cluster: list[int]) -> Span:
    start, end = span
    if start >= end:  # a token of blanks whose span the tokenizer trimmed away, or a token that is no character
        return (start - 1, start) if 0 < start <= len(text) and text[start - 1].isspace() else (start, start)
    while start > 0 and cluster[start] == cluster[start - 1]:
        start -= 1
    while end < len(text) and cluster[end] == cluster[end - 1]:
        end += 1
    first, last = start, end
    while first < last and text[first].isspace():
        first += 1
    while last > first and text[last - 1].isspace():
        last -= 1
    return (first, last) if first < last else (start, end)


def _clusters(text: str) -> list[int]:
    """Number of the character a person sees each code point in: marks and joined emoji stay together."""
    numbers: list[int] = []
    number, flags = -1, 0
    for index, character in enumerate(text):
        previous = text[index - 1] if index else ""
        is_flag = 0x1F1E6 <= ord(character) <= 0x1F1FF
        flags = flags + 1 if is_flag else 0
        joins = previous != "" and (
            _extends(character) or (previous == "\u200d" and character > "\u2000") or (is_flag and flags % 2 == 0)
        )
        if not joins or previous.isspace():
            number += 1
        numbers.append(number)
    return numbers


def _extends(character: str) -> bool:
    if character.isascii():
        return False
    code = ord(character)
    return (
        unicodedata.category(character).startswith("M")
        or code in (0x200C, 0x200D)
        or 0x1F3FB <= code <= 0x1F3FF
        or 0xE0020 <= code <= 0xE007F
    )


def _words_of_characters(text: str) -> list[int]:
    """For each code point the number of its word, -1 for blanks."""
    numbers: list[int] = []
    number, kind = -1, ""
    clusters = _clusters(text)
    for index, character in enumerate(text):
        previous = text[index - 1] if index else " "
        after = text[index + 1] if index + 1 < len(text) else " "
        now = _kind(character)
        if now == "blank":
            numbers.append(-1)
            kind = now
            continue
        joined = index > 0 and clusters[index] == clusters[index - 1]
        inner = kind == "word" and (
            (character in "'’" and previous.isalpha() and after.isalpha())
            or (character in ".," and previous.isdigit() and after.isdigit())
        )
        same_mark = now == kind == "mark" and character == previous
        invisible = unicodedata.category(character) == "Cf" and kind != "blank" and index > 0
        if joined or inner or invisible:
            now = kind  # the character before says what this is
        elif not same_mark and not (now == kind == "word"):
            number += 1
        numbers.append(number)
        kind = now
    return numbers


def _kind(character: str) -> str:
    if character.isspace():
        return "blank"
    if any(first <= ord(character) <= last for first, last in _IDEOGRAPHS):
        return "ideograph"
    if character.isalnum() or character == "_" or unicodedata.category(character)[0] == "M":
        return "word"
    return "mark"
