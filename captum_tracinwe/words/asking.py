"""Asking about one word's label: of an example whose tokens have labels, and of the text that shows which one is asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.words.texts import TokenizedText

__all__ = ["ask_about"]


def ask_about(
    example: Mapping[str, Any],
    text: TokenizedText,
    word: str | int,
    *,
    labels: str = "labels",
    names: Sequence[str] | Mapping[int, str] | None = None,
) -> tuple[dict[str, Any], TokenizedText]:
    """The example with the labels of one word alone, and its text, which says in pictures what was asked.

    For token classification (who taught the model that "Paris" is a place?), and for a language model, of the word as it is
    predicted. The example is an input of :meth:`TracInWE.influence`, the text one of ``test_texts``.

    Args:
        example (mapping): ``input_ids`` and labels, ``(T,)`` each, padded or not.
        text (TokenizedText): the same, of :func:`tokenize`.
        word (str or int): a word of the text, or a position among its tokens, where the word is there twice.
        labels (str): the column of the labels.
        names (sequence or mapping, optional): of labels by their number, such as ``model.config.id2label``.

    Raises:
        ValueError: the text has no such word, or has it twice; the word has no label; the text is another than the example's.

    Example:
        >>> from captum_tracinwe.words import from_ids
        >>> text = from_ids([4, 7, 2])
        >>> example = {"input_ids": [4, 7, 2], "labels": [1, 2, 0]}
        >>> example, asked = ask_about(example, text, "#7", names=["O", "PER", "LOC"])
        >>> example["labels"].tolist(), asked.asked, asked.label
        ([-100, 2, -100], (1,), 'LOC')
    """
    if not isinstance(example, Mapping) or "input_ids" not in example or labels not in example:
        got = ", ".join(example) if isinstance(example, Mapping) else type(example).__name__
        raise ValueError(
            f"ask_about: expected an example with 'input_ids' and {labels!r}, got {got}. Name the column of the labels by "
            f"labels=..."
        )
    ids, given = (torch.as_tensor(example[name]) for name in ("input_ids", labels))
    if ids.dim() != 1 or given.shape != ids.shape:
        raise ValueError(
            f"ask_about: expected one label for each token of one example, got input_ids {tuple(ids.shape)} and {labels} "
            f"{tuple(given.shape)}: of a batch take one example, {{key: value[0] for key, value in batch.items()}}."
        )
    start = _start(ids, text)
    places = _positions(text, word)
    asked = tuple(place for place in places if int(given[start + place]) != -100)
    if not asked:
        raise ValueError(
            f"ask_about: the word {word!r} has no label but −100 (positions {', '.join(map(str, places))}): expected one that "
            f"the model was taught a label of."
        )
    kept = torch.full_like(given, -100)
    for place in asked:
        kept[start + place] = given[start + place]
    of_words = names is None and bool(
        ((given == -100) | (given == ids)).all()
    )  # a language model predicts the text itself
    shown = text.label if of_words else _name(int(given[start + asked[0]]), names)
    return {**example, labels: kept}, dataclasses.replace(text, asked=asked, label=shown)


def _name(number: int, names: Sequence[str] | Mapping[int, str] | None) -> str:
    try:
        return str(number if names is None else names[number])
    except (KeyError, IndexError):
        raise ValueError(
            f"ask_about: `names` has no name for the label {number}: expected one for each label."
        ) from None


def _start(ids: Tensor, text: TokenizedText) -> int:
    """Where the text begins in an example, which may be padded on either side."""
    own, count = ids.tolist(), len(text.token_ids)
    for start in (0, len(own) - count):
        if start >= 0 and tuple(own[start : start + count]) == text.token_ids:
            return start
    raise ValueError(
        f"ask_about: the text {text.text!r:.60} has other tokens than the example: expected the same text, tokenized the same "
        f"way, with the same max_length."
    )


def _positions(text: TokenizedText, word: str | int) -> list[int]:
    """The tokens of a word."""
    if not isinstance(word, str):
        if not 0 <= word < len(text.token_ids):
            raise ValueError(
                f"ask_about: the text {text.text!r:.60} has {len(text.token_ids)} tokens: expected a position from 0 to "
                f"{len(text.token_ids) - 1}, got {word}."
            )
        number = text.words[word]
        return [word] if number is None else [place for place, own in enumerate(text.words) if own == number]
    found = [number for number, (start, end) in text.word_spans().items() if text.text[start:end] == word]
    firsts = [text.words.index(number) for number in found]
    if len(found) != 1:
        had = f"has {word!r} at the positions {', '.join(map(str, firsts))}" if found else f"has no word {word!r}"
        words = ", ".join(repr(text.text[start:end]) for start, end in list(text.word_spans().values())[:12])
        way = "one of these positions" if found else f"one of its words ({words}), or a position"
        raise ValueError(f"ask_about: the text {text.text!r:.60} {had}: expected {way}.")
    return [place for place, own in enumerate(text.words) if own == found[0]]
