"""How a row lies in a file: its numbers; or codes of a few bits, their step, and the norm of what is left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["DTYPES", "PackedRows", "Packing", "as_words"]

#: Name of a stored dtype → its name in the header of a file, and the bits of a number.
DTYPES = {
    "float32": ("F32", 32),
    "float16": ("F16", 16),
    "bfloat16": ("BF16", 16),
    "int8": ("U8", 8),
    "int4": ("U8", 4),
    "int2": ("U8", 2),
}
TORCH = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# A step, in root mean squares of the row: where the squared error of normally distributed numbers is least (Max, 1960). With 8
# bits the largest number decides, for there is room for it.
STEPS = {"int4": 0.335, "int2": 0.996}


class PackedRows(NamedTuple):
    """Rows of some examples as they lie in a file: ``ptr (N + 1,)``, ``ids (R,)``, and the array ``(R, …)``."""

    ptr: Tensor
    ids: Tensor
    stored: Tensor


@dataclass(frozen=True)
class Packing:
    """The bytes of rows ``(R, C * w)`` in a segment.

    Where a row is more than its numbers, its bytes are: the norms of what is left out (C float32), if the index is
    ``bounded``; for codes the steps (C float32), and the last columns of each checkpoint as they are (C * whole float32); the
    numbers; zeros up to a multiple of 4. A code c of b bits stands for (c − (2ᵇ − 1) / 2) steps.

    Args:
        dtype (str): of the numbers.
        checkpoints, width (int): C and w.
        bounded (bool): whether norms of what is left out are kept.
        whole (int): columns at the end of each checkpoint that are no codes: those of a bag of words, which are few and much
            larger than the others. (MiniLM on AG News: of the ten best by the recommended score int4 finds 81 % with codes of
            all columns, and all with these as they are.)
    """

    dtype: str
    checkpoints: int
    width: int
    bounded: bool = False
    whole: int = 0

    @property
    def columns(self) -> int:
        """C * w."""
        return self.checkpoints * self.width

    @property
    def bits(self) -> int:
        """Of a number."""
        return DTYPES[self.dtype][1]

    @property
    def coded(self) -> bool:
        """Whether numbers are codes."""
        return self.dtype not in TORCH

    @property
    def plain(self) -> bool:
        """Whether a row is its numbers alone."""
        return not self.bounded and not self.coded

    @property
    def beside(self) -> int:
        """Bytes before the numbers."""
        return 4 * self.checkpoints * (self.bounded + self.coded + self.whole)

    @property
    def bytes(self) -> int:
        """Of a row."""
        size = self.beside + -(-self.checkpoints * self._few * self.bits // 8)
        return size if self.plain else -(-size // 4) * 4

    @property
    def form(self) -> tuple[str, int]:
        """Type and number of columns of the array, as the header of a file names them."""
        return (DTYPES[self.dtype][0], self.columns) if self.plain else ("U8", self.bytes)

    @property
    def kind(self) -> torch.dtype:
        """What the array in the file is seen as."""
        return TORCH[self.dtype] if self.plain else torch.uint8

    def pack(self, values: Tensor, left: Tensor | None = None) -> Tensor:
        """The array ``(R, columns or bytes)`` of ``values (R, C * w)`` and ``left (R, C)``, both float32."""
        if self.plain:
            return values.to(self.kind)
        parts = [] if left is None else [_bytes(left)]
        if self.coded:
            columns = values.view(len(values), self.checkpoints, self.width)
            numbers, whole = columns[:, :, : self._few], columns[:, :, self._few :]
            steps = self._steps(numbers)
            most = 2**self.bits - 1
            codes = (numbers / steps[:, :, None] + most / 2).nan_to_num(most / 2, most, 0).round().clamp(0, most)
            parts += [_bytes(steps), _bytes(whole), self._together(codes.to(torch.uint8).flatten(1))]
        else:
            parts.append(_bytes(values.to(TORCH[self.dtype])))
        found = torch.cat(parts, dim=1)
        return torch.nn.functional.pad(found, (0, self.bytes - found.shape[1]))

    def unpack(self, stored: Tensor) -> Tensor:
        """``values (R, C * w)`` as float32, of rows of that array."""
        if self.plain:
            return stored.float()
        numbers = stored[:, self.beside :]
        if not self.coded:
            size = self.columns * self.bits // 8
            return numbers[:, :size].contiguous().view(TORCH[self.dtype]).float()
        shifts = torch.arange(0, 8, self.bits, dtype=torch.uint8)
        codes = ((numbers[:, :, None] >> shifts) & (2**self.bits - 1)).flatten(1)[:, : self.checkpoints * self._few]
        centred = codes.float().view(len(stored), self.checkpoints, self._few) - (2**self.bits - 1) / 2
        values: Tensor = centred * self._floats(stored, int(self.bounded))[:, :, None]
        if not self.whole:
            return values.flatten(1)
        whole = self._floats(stored, self.bounded + 1, self.whole).view(len(stored), self.checkpoints, self.whole)
        return torch.cat([values, whole], dim=2).flatten(1)

    def left(self, stored: Tensor) -> Tensor:
        """The norms of what is left out, float32 ``(R, C)``, of rows of that array."""
        return self._floats(stored, 0) if self.bounded else torch.zeros(len(stored), self.checkpoints)

    def _steps(self, numbers: Tensor) -> Tensor:
        """A code's distance from the next, float32 ``(R, C)``; 0 of rows of zeros."""
        if self.dtype == "int8":
            steps: Tensor = numbers.abs().amax(2) / ((2**self.bits - 1) / 2)
            return steps
        largest = numbers.abs().amax(2, keepdim=True)  # squares of what is below 1e-23 would be 0
        ratio = (numbers / largest).nan_to_num(0, 0, 0).square().mean(2).sqrt()
        return ratio * largest[:, :, 0] * STEPS[self.dtype]

    def _together(self, codes: Tensor) -> Tensor:
        """As many in a byte as have room, the first in the lowest bits."""
        many = 8 // self.bits
        codes = torch.nn.functional.pad(codes, (0, -codes.shape[1] % many)).view(len(codes), -1, many)
        found = torch.zeros_like(codes[:, :, 0])
        for place in range(many):
            found |= codes[:, :, place] << (place * self.bits)
        return found

    @property
    def _few(self) -> int:
        """Columns of a checkpoint that are codes."""
        return self.width - self.whole

    def _floats(self, stored: Tensor, place: int, count: int = 1) -> Tensor:
        size = 4 * self.checkpoints
        return stored[:, place * size : (place + count) * size].contiguous().view(torch.float32)


def as_words(stored: Tensor) -> npt.NDArray[Any]:
    """That array as whole numbers of NumPy, of which checksums are made."""
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[stored.element_size()]
    return np.ascontiguousarray(stored.view(kind).numpy())


def _bytes(values: Tensor) -> Tensor:
    return values.flatten(1).contiguous().view(torch.uint8)
