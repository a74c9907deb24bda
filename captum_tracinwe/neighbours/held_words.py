"""Texts as the words that they hold, beside their labels and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from captum_tracinwe.neighbours.asked import as_list, check_wholes, is_missing
from captum_tracinwe.words.near import WORD

__all__ = ["Held", "as_weights", "words_in"]


@dataclass(frozen=True)
class Held:
    """Which words stand in which texts: pair j is word ``word_of[j]`` in text ``text_of[j]``; ``codes`` are the texts' labels."""

    words: tuple[str, ...]
    names: tuple[str, ...]
    codes: np.ndarray[Any, Any]
    word_of: np.ndarray[Any, Any]
    text_of: np.ndarray[Any, Any]

    @property
    def size(self) -> int:
        """M."""
        return len(self.codes)

    def table(self) -> np.ndarray[Any, Any]:
        """How many texts with each label hold each word, ``(words, labels)``."""
        counts = np.zeros((len(self.words), len(self.names)), dtype=np.int64)
        np.add.at(counts, (self.word_of, self.codes[self.text_of]), 1)
        return counts

    @classmethod
    def of(cls, texts: Any, labels: Any, caller: str, least_texts: int = 1, only: Sequence[str] | None = None) -> Held:
        """Words of at least ``least_texts`` texts, or those of ``only``, in order."""
        if isinstance(texts, (str, bytes, Tensor)) or not (isinstance(texts, Sequence) or hasattr(texts, "tolist")):
            raise TypeError(
                f"{caller}: expected `texts` as a list of str, or of lists of words, got {type(texts).__name__}."
            )
        texts = texts.tolist() if hasattr(texts, "tolist") else texts  # a column, or an array
        check_wholes(caller, least_texts=least_texts)
        given = _labels_of(labels, caller)
        if len(given) != len(texts):
            raise ValueError(f"{caller}: {len(texts)} texts and {len(given)} labels: expected one label for each text.")
        names = tuple(sorted(set(given)))
        if len(names) < 2:
            raise ValueError(f"{caller}: expected at least two different labels, got {', '.join(names) or 'no text'}.")
        sets = [words_in(text, at, caller) for at, text in enumerate(texts)]
        counts: dict[str, int] = {}
        for own in sets:
            for word in own:
                counts[word] = counts.get(word, 0) + 1
        if only is None:
            words = sorted(word for word, count in counts.items() if count >= least_texts)
        else:
            words = sorted(set(only))
            missing = next((word for word in words if word not in counts), None)
            if missing is not None:
                raise ValueError(
                    f"{caller}: no text has the word {missing!r}: expected words of the texts, in lower case."
                )
        number = {word: place for place, word in enumerate(words)}
        pairs = [(number[word], at) for at, own in enumerate(sets) for word in sorted(own) if word in number]
        both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        codes = np.searchsorted(names, given)
        return cls(tuple(words), names, codes, both[:, 0], both[:, 1])


def words_in(text: Any, at: int = 0, caller: str = "lexical_bias") -> set[str]:
    """The words of a text, in lower case; of a list of words those."""
    if isinstance(text, str):
        return set(WORD.findall(text.casefold()))
    if not isinstance(text, Sequence) or not all(isinstance(word, str) for word in text):
        raise TypeError(f"{caller}: expected text {at} as a str or a list of str, got {text!r:.60}.")
    return {word.casefold() for word in text}


def as_weights(weights: Any, size: int, caller: str = "lexical_bias") -> np.ndarray[Any, Any]:
    """One finite weight for each text, none below 0, and not all 0; the largest is 1, for only their ratios count."""
    if weights is None:
        return np.ones(size)

    found = _floats(as_list(weights))
    if found is None:
        raise TypeError(f"{caller}: expected `weights` as a list of {size} numbers or a tensor, got {weights!r:.60}.")
    if found.shape != (size,):
        raise ValueError(f"{caller}: expected `weights` as {size} numbers, one a text, got shape {tuple(found.shape)}.")
    if not np.isfinite(found).all() or (found < 0).any() or not found.any():
        raise ValueError(
            f"{caller}: expected finite `weights` of at least 0, not all 0, got {found.min():g} to {found.max():g}."
        )
    largest: float = found.max()
    return found / largest


def _floats(listed: list[Any] | None) -> np.ndarray[Any, Any] | None:
    """Numbers as an array; None where there are others among them."""
    if listed is None or any(isinstance(one, (str, bytes)) for one in listed):
        return None
    try:
        return np.array(listed, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def _labels_of(labels: Any, caller: str) -> list[str]:
    values = as_list(labels)
    if values is None:
        raise TypeError(f"{caller}: expected `labels` as a list or a tensor, got {type(labels).__name__}.")
    values = [value.item() if np.ndim(value) == 0 and hasattr(value, "item") else value for value in values]
    for at, value in enumerate(values):
        if is_missing(value) or not isinstance(value, (str, int, float)):
            hint = " Leave its text out." if is_missing(value) else ""
            raise TypeError(f"{caller}: expected label {at} as a name or a number, got {value!r:.60}.{hint}")
    if len({isinstance(value, str) for value in values}) > 1:
        raise TypeError(f"{caller}: expected `labels` as names or as numbers, got both.")
    return [str(int(value) if isinstance(value, float) and value.is_integer() else value) for value in values]
