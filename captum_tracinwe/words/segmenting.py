"""Words that a segmenter of the user's finds in a text: of languages that write none apart, such as Thai or Japanese."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from captum_tracinwe.words.characters import Span

__all__ = ["Segmenter", "spans_of"]

#: Text → its words in order, as they stand in it, or their characters ``(start, end)``: ``jieba.lcut``, ``word_tokenize``.
Segmenter: TypeAlias = Callable[[str], Iterable["str | Sequence[int]"]]


def spans_of(text: str, segmenter: Segmenter) -> list[Span]:
    """The characters of each word; blanks are none.

    Raises:
        TypeError: the segmenter gives something else.
        ValueError: a word does not stand in the text behind those before it.
    """
    words = segmenter(text)
    if isinstance(words, str) or not isinstance(words, Iterable):
        raise TypeError(
            f"tokenize: expected `segmenter` to give a list of words, got {words!r:.60} of the text {text!r:.60}."
        )
    spans: list[Span] = []
    end = 0
    for word in words:
        if isinstance(word, str):
            start = text.find(word.strip(), end)
            stop = start + len(word.strip())
        elif isinstance(word, Sequence) and len(word) == 2 and all(isinstance(place, int) for place in word):
            start, stop = int(word[0]), int(word[1])
        else:
            raise TypeError(
                f"tokenize: expected `segmenter` to give words, or their first character and the one behind the last, got "
                f"{word!r:.60} of the text {text!r:.60}."
            )
        if not end <= start <= stop <= len(text):
            raise ValueError(
                f"tokenize: `segmenter` gives {word!r:.60}, which does not stand in the text {text!r:.60} behind the words "
                f"before it: expected its words in order, as they are written there."
            )
        if text[start:stop].strip():
            spans.append((start, stop))
        end = stop
    return spans
