"""Several texts that a model reads one by one, as the one text of an example: both of a pair, the choices of a question."""

from __future__ import annotations

from collections.abc import Sequence

from captum_tracinwe.words.characters import Span
from captum_tracinwe.words.texts import SEPARATOR, TokenizedText

__all__ = ["joined"]


def joined(texts: Sequence[TokenizedText], *, label: object = None, prediction: object = None) -> TokenizedText:
    """The texts of one example, one behind the other, with all tokens of each and :data:`SEPARATOR` between them.

    Args:
        texts (sequence of TokenizedText): those of one example, as :func:`tokenize` makes them of each.
        label, prediction (optional): of the example; shown as ``str``.

    Raises:
        TypeError, ValueError: they are no TokenizedText, or none is there.

    Example:
        >>> from captum_tracinwe.words import from_ids
        >>> pair = joined([from_ids([1, 2], ["a", "dog", "runs"]), from_ids([0, 1], ["a", "dog", "runs"])], label="alike")
        >>> pair.text, pair.token_ids, pair.words
        ('dog runs │ a dog', (1, 2, 0, 1), (0, 1, 2, 3))
    """
    texts = list(texts)
    wrong = next((text for text in texts if not isinstance(text, TokenizedText)), None)
    if wrong is not None:
        raise TypeError(
            f"joined: expected the texts of one example as TokenizedText, got {type(wrong).__name__}: make them with "
            f"captum_tracinwe.texts.tokenize(texts, tokenizer), or from_ids."
        )
    if not texts:
        raise ValueError("joined: expected at least one text.")
    spans: list[Span | None] = []
    words: list[int | None] = []
    start = number = 0
    for text in texts:
        spans += [None if span is None else (span[0] + start, span[1] + start) for span in text.spans]
        words += [None if word is None else word + number for word in text.words]
        start += len(text.text) + len(SEPARATOR)
        number += max((word for word in text.words if word is not None), default=-1) + 1
    return TokenizedText(
        SEPARATOR.join(text.text for text in texts),
        tuple(token for text in texts for token in text.token_ids),
        tuple(spans),
        tuple(words),
        tuple(name for text in texts for name in text.token_names),
        None if label is None else str(label),
        None if prediction is None else str(prediction),
        texts[0].padding,
    )
