"""What a person reads as one character and as one word, found in the text alone and so the same under every tokenizer."""

from __future__ import annotations

import unicodedata
from typing import TypeAlias

__all__ = ["Span", "clusters", "divided", "runs_without_blanks", "words_of_characters"]

#: First character, and the one behind the last.
Span: TypeAlias = tuple[int, int]
_IDEOGRAPHS = ((0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
# Scripts that write no blank between words, as ideographs don't: where words end, only a segmenter or a tokenizer knows.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),
    (0xA9E0, 0xA9FF),  # Burmese
    (0xAA60, 0xAADF),  # Burmese, Tai Viet
    (0xFF66, 0xFF9F),  # Katakana of half a width
)
_FIRST_UNSPACED = 0x0E00


def clusters(text: str) -> list[int]:
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


def words_of_characters(text: str) -> list[int]:
    """For each code point the number of its word, -1 for blanks."""
    numbers: list[int] = []
    number, kind = -1, ""
    cluster = clusters(text)
    for index, character in enumerate(text):
        previous = text[index - 1] if index else " "
        after = text[index + 1] if index + 1 < len(text) else " "
        now = _kind(character)
        if now == "blank":
            numbers.append(-1)
            kind = now
            continue
        joined = index > 0 and cluster[index] == cluster[index - 1]
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
    code = ord(character)
    if code >= _FIRST_UNSPACED:
        if any(first <= code <= last for first, last in _IDEOGRAPHS):
            return "unspaced"
        if any(first <= code <= last for first, last in _UNSPACED) and unicodedata.category(character)[0] in "LM":
            return "unspaced"
    if character.isalnum() or character == "_" or unicodedata.category(character)[0] == "M":
        return "word"
    return "mark"


def runs_without_blanks(text: str) -> list[int]:
    """For each code point the number of the stretch it is in that is written without blanks, -1 outside of such stretches."""
    numbers: list[int] = []
    number, before = -1, False
    for character in text:
        inside = _kind(character) == "unspaced" or (before and _extends(character))
        number += inside and not before
        numbers.append(number if inside else -1)
        before = inside
    return numbers


def divided(words: list[int], spans: list[Span], cluster: list[int]) -> list[int]:
    """``words`` of code points as :func:`words_of_characters` numbers them, but with these as words of their own.

    A character that a person sees is in the word in which it begins.
    """
    of_span = [-1] * len(words)
    for number, (start, end) in enumerate(spans):
        of_span[start:end] = [number] * (end - start)
    numbers: list[int] = []
    number, key = -1, (-2, -2)
    for index, word in enumerate(words):
        if index and cluster[index] == cluster[index - 1]:
            numbers.append(numbers[-1])
            continue
        now = (of_span[index], word if of_span[index] < 0 else -1)
        if word < 0 and now[0] < 0:
            numbers.append(-1)
            continue
        number += now != key
        key = now
        numbers.append(number)
    return numbers
