"""Records of Argilla 2, as plain dicts that ``argilla.Record.from_dict`` takes: of suspected labels, and of pairs of texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from captum_tracinwe.explanation import Explanation
from captum_tracinwe.exports.tables import pairs_of
from captum_tracinwe.labels import Suspects
from captum_tracinwe.words.influence import WordInfluence
from captum_tracinwe.words.legible import visible
from captum_tracinwe.words.tables import Pairs, pair_rows, ranked

__all__ = ["to_argilla"]

AGENT = "captum-tracinwe"


def to_argilla(
    found: Suspects | Pairs | Explanation, name: str = "train", place: Callable[[int], object] | None = None
) -> list[dict[str, Any]]:
    """Records of Argilla 2, one for each text that a person is to look at.

    Of :class:`Suspects` one for each of its first: the field is called "text", the question "label"; its suggestion is the better
    label, scored by how suspicious the one given is. Of pairs one for each: the field "text" is the training text, the field
    "asked" the test text; the training text's label is in the metadata, and nothing is suggested.

    Args:
        found (Suspects, Explanation or list): suspects, or pairs with their texts, as in :func:`pairs_table`.
        name (str): begins the records' ids, which have to differ within a data set of Argilla.
        place (callable, optional): of a training index what its id ends in and what "line" has in the metadata.

    Returns:
        list of dict: for ``argilla.Record.from_dict``, and as JSON.

    Raises:
        ValueError: a suspect or a pair does not know its texts.
        TypeError: something else is among the pairs.

    Example:
        >>> from captum_tracinwe.testing import toy_tracin
        >>> from captum_tracinwe.texts import from_ids
        >>> tracin, inputs = toy_tracin()
        >>> pair = tracin.word_influence(inputs, [[3], [4]])[0][0]
        >>> text = from_ids(range(100), label="a")
        >>> to_argilla([pair.with_texts(text, text)])[0]["id"]
        'train-0-3'
    """
    if isinstance(found, Suspects):
        return _of_suspects(found, name, place)
    records = []
    pairs = [pair for _, pair in ranked(pairs_of(found), WordInfluence)]
    for pair, row in zip(pairs, pair_rows(pairs), strict=True):
        if pair.train_text is None or pair.test_text is None:
            raise ValueError(
                f"to_argilla: training example {pair.train_index} on test example {pair.test_index} comes without its texts; "
                f"expected pairs made with pair.with_texts(test_text, train_text)."
            )
        told = ("test_index", "train_index", "rank", "score", "words", "test_label", "prediction", "train_label")
        metadata = {key: row[key] for key in told if row[key] is not None}
        if place is not None:
            metadata["line"] = place(pair.train_index)
        records.append(
            {
                "id": f"{visible(name)}-{pair.test_index}-{pair.train_index}",
                "fields": {"text": row["train_text"], "asked": row["test_text"]},
                "suggestions": {},
                "metadata": metadata,
            }
        )
    return records


def _of_suspects(found: Suspects, name: str, place: Callable[[int], object] | None) -> list[dict[str, Any]]:
    texts = dict(zip(found.order, found.texts, strict=False))
    records = []
    for one in found.first:
        text = one.text.text if one.text is not None else texts.get(one.index)
        if text is None:
            raise ValueError(
                f"to_argilla: the text of training example {one.index} is not known; expected suspects(..., texts=...)."
            )
        line = {} if place is None else {"line": place(one.index)}
        records.append(
            {
                "id": f"{visible(name)}-{line.get('line', one.index)}",
                "fields": {"text": text},
                "suggestions": {
                    "label": {"value": one.suggested, "score": float(one.suspicion), "agent": AGENT},
                },
                "metadata": {
                    "index": one.index,
                    **line,
                    "given_label": one.label,
                    "suspicion": float(one.suspicion),
                    "words_against": " ".join(word.text for word in one.words(True)),
                    "words_for": " ".join(word.text for word in one.words(False)),
                },
            }
        )
    return records
