"""Columns by what they hold: token ids under any name, and of several texts to an example which columns are of one text."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from captum_tracinwe.batches.batch import LABEL_KEYS

__all__ = ["WORDS", "beside", "columns_by_text"]

#: What the names of all columns of token ids have in them: ``input_ids``, ``sentence1_input_ids``, ``input_ids_b``.
WORDS = "input_ids"


def beside(column: str, name: str) -> str:
    """What the column ``name`` is called beside a column of token ids: ``attention_mask_b`` beside ``input_ids_b``."""
    return column.replace(WORDS, name)


def columns_by_text(columns: Iterable[str], taken: Collection[str] = ()) -> list[dict[str, str]]:
    """Of each text of an example its columns, by the names that a model of one text has for them.

    Texts are told by what stands before and behind ``input_ids``, as in ``anchor_input_ids`` and ``input_ids_2``, in the order
    of the columns. A column that the model takes as it is (``taken``), such as ``decoder_input_ids``, is of no other text.

    Example:
        >>> columns_by_text(["a_input_ids", "a_attention_mask", "b_input_ids", "labels"])
        [{'input_ids': 'a_input_ids', 'attention_mask': 'a_attention_mask'}, {'input_ids': 'b_input_ids'}]
    """
    names = [name for name in columns if name not in LABEL_KEYS]
    ids = [name for name in names if WORDS in name and (name == WORDS or name not in taken)]
    affixes = [tuple(name.split(WORDS, 1)) for name in ids]
    found: list[dict[str, str]] = [{} for _ in ids]
    for name in names:
        fitting = [
            (len(before) + len(behind), place)
            for place, (before, behind) in enumerate(affixes)
            if name.startswith(before) and name.endswith(behind) and len(name) > len(before) + len(behind)
        ]
        if fitting:
            _, place = max(fitting)
            before, behind = affixes[place]
            found[place][name.removeprefix(before).removesuffix(behind)] = name
    return found
