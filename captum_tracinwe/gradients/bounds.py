"""The least and the largest id of a look-up, and what is said where the table has no such row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

__all__ = ["Bounds", "refuse_beyond"]


class Bounds(NamedTuple):
    """Of the ids of a look-up in ``rows`` rows the least and the largest, ``(2,)``, which a GPU has yet to compute."""

    found: Tensor
    rows: int


def refuse_beyond(bounds: Sequence[int], rows: int) -> None:
    """Raise ValueError unless the least and the largest of some ids have a row.

    torch's own words, "index out of range in self", name neither; on a GPU it ends the process.

    Raises:
        ValueError: one of them has none.
    """
    least, most = bounds
    if least < 0 or most >= rows:
        raise ValueError(
            f"The embedding, of {rows} rows, is asked for token id {least if least < 0 else most}: expected ids from 0 to "
            f"{rows - 1}. Use the tokenizer that the model was trained with, or model.resize_token_embeddings(len(tokenizer)); "
            f"labels of −100 are for losses, not for look-ups."
        )
