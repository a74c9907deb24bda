"""How large an index of so many texts is, and what a question reads of it: arithmetic, from a few numbers of a sample."""

from __future__ import annotations

import math
from dataclasses import dataclass

from captum_tracinwe.index.files.layout import HEADER
from captum_tracinwe.index.files.packing import Packing

__all__ = ["HELD", "Form", "Texts"]

# Examples that a question reads as a whole: 64 to 126 in the median, from 1,000 texts to 200,000 (benchmarks/results/index.json).
VERIFIED = 100
# Of a question from memory on one core: 5 ms, and then a byte in 0.2 (200,000 texts) to 1.2 ns (20,000; same file).
FIRST, PER_BYTE = 0.005, 1e-9
#: Bytes to a text that a question holds: a bound twice (4 + 4), an order of them (8), whether it takes part (2).
HELD = 18
# Per row: its id, its checksum; its place in its list. Per text: ptr, number, squared norm, and its part of the words' lists.
HEAD_ROW, LIST_ROW, HEAD_TEXT = 8, 8, 30


@dataclass(frozen=True)
class Form:
    """What decides the bytes of a row.

    Args:
        dtype (str), rank (int), project (int or None): as in :meth:`TracInWE.build_index`.
        checkpoints, width (int): C and D.
        whole (int): columns of a bag of words, which codes leave alone.
    """

    dtype: str
    rank: int
    project: int | None
    checkpoints: int
    width: int
    whole: int = 0

    @property
    def packing(self) -> Packing:
        """Of its rows."""
        coded, width = self.dtype.startswith("int"), self.project or self.width
        whole = self.whole if coded and self.project is None else 0
        return Packing(self.dtype, self.checkpoints, width, coded or self.project is not None, whole)

    @property
    def columns(self) -> int:
        """Of a row's sketch."""
        return self.checkpoints * (min(self.rank, self.project or self.width) + 1)


@dataclass(frozen=True)
class Texts:
    """What a sample of texts is like.

    Args:
        rows (float): distinct tokens of a text.
        shared (float): of those, how many another text has.
    """

    rows: float
    shared: float

    def payload(self, form: Form) -> float:
        """Bytes of row gradients to a text."""
        return self.rows * (4 + form.packing.bytes) + 8

    def disk(self, form: Form, examples: int, segment: int) -> int:
        """Bytes of all files."""
        each = self.payload(form) + self.rows * (4 * form.columns + 12) + HEAD_TEXT
        return round(examples * each) + HEADER * math.ceil(examples / segment)

    def read(self, form: Form, examples: int) -> int:
        """Bytes that a question reads: the lists of its words, the small arrays, and what is read as a whole."""
        lists = self.shared * (LIST_ROW + 4 * form.columns)
        head = self.rows * HEAD_ROW + HEAD_TEXT
        return round(examples * (lists + head) + min(examples, VERIFIED) * self.rows * form.packing.bytes)

    def seconds(self, form: Form, examples: int) -> float:
        """Of a question on one core, from memory."""
        return FIRST + PER_BYTE * self.read(form, examples)
