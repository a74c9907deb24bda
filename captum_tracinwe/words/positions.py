"""From tokens to the characters and the word that each position stands for."""

from __future__ import annotations

from collections.abc import Sequence

from captum_tracinwe.words.characters import Span, clusters, divided, runs_without_blanks, words_of_characters

__all__ = ["spans_and_words"]

_BLANK_NAMES = ("▁", "Ġ")


def spans_and_words(
    text: str,
    raw: list[Span | None],
    names: tuple[str, ...],
    known: Sequence[object] = (),
    segments: list[Span] | None = None,
) -> tuple[tuple[Span | None, ...], tuple[int | None, ...]]:
    """Spans on whole characters and without surrounding blanks, and the number of each position's word.

    Args:
        text (str): one text or several with what stands between them.
        raw, names: ``(T,)``, characters and name of each position; None for a special token.
        known (sequence, optional): ``(T,)``, the word that the tokenizer has a position in. Asked in languages without blanks.
        segments (list, optional): the words that a segmenter found.
    """
    cluster, word_of = clusters(text), words_of_characters(text)
    if segments is not None:
        word_of = divided(word_of, segments, cluster)
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
    if known and segments is None:
        linked |= _linked_by_tokenizer(text, raw, known, cluster, word_of)
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


def _linked_by_tokenizer(
    text: str, raw: list[Span | None], known: Sequence[object], cluster: list[int], word_of: list[int]
) -> set[int]:
    """Numbers k where words k and k + 1 are one to a tokenizer that divides what is written without blanks into words.

    One that has a whole stretch for a word knows no better. Nor does one whose words begin within a character, as at each
    Thai vowel sign for which a byte-level pattern has no name.
    """
    if max(map(ord, text), default=0) < 0x0E00:
        return set()
    runs = runs_without_blanks(text)
    inside: dict[int, dict[object, set[int]]] = {}
    before: object = None
    for span, word in zip(raw, known, strict=True):
        if span is not None and span[0] < min(span[1], len(text)):
            start = span[0]
            while start < span[1] - 1 and text[start].isspace():
                start += 1
            if word != before and start and cluster[start] == cluster[start - 1]:
                return set()
            for index in range(start, span[1]):
                if runs[index] >= 0:
                    inside.setdefault(runs[index], {}).setdefault(word, set()).add(word_of[index])
        before = word
    return {
        number
        for by_word in inside.values()
        if len(by_word) > 1
        for numbers in by_word.values()
        for number in range(min(numbers), max(numbers))
    }
