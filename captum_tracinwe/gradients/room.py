"""Batches for which a GPU has no room: taken in smaller parts, and so from then on."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from captum_tracinwe.batches.batch import Batch
from captum_tracinwe.batches.cutting import taken
from captum_tracinwe.gradients.ways import Part

__all__ = ["Room"]

T = TypeVar("T")


@dataclass(eq=False)
class Room:
    """How many examples go through a model at once since memory ran out; None: it never did."""

    most: int | None = None

    def through(self, part: Part, compute: Callable[[Batch], T]) -> list[tuple[list[int], T]]:
        """What is computed of a part of a batch, or of parts of that, with their places.

        Raises:
            torch.OutOfMemoryError: there is no room for a single example, or the batch cannot be cut.
        """
        places, first = part[0], None
        while True:
            parts = [part] if self.most is None or len(places) <= self.most else _cut(part, self.most)
            try:
                found = [(own, compute(one)) for own, one in parts]
            except torch.OutOfMemoryError as error:
                largest = max(len(own) for own, _ in parts)
                if largest == 1 or len(_cut(part, 1)) == 1:
                    raise error if first is None else type(error)(first) from error.__cause__
                # Its words alone: the traceback holds all that the pass has made so far.
                first = first or str(error)
                self.most = (largest + 1) // 2
            else:
                if first is not None:
                    self._tell(len(places))
                return found
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _tell(self, size: int) -> None:
        warnings.warn(
            f"Memory ran out for {size} examples at once: from here on they go through the model {self.most} at a time, with the "
            f"same scores. batch_size={self.most} leaves out the attempts that fail.",
            stacklevel=2,
        )


def _cut(part: Part, most: int) -> list[Part]:
    """Parts of at most so many examples; the whole, where it cannot be cut."""
    places, batch = part
    ranges = [range(start, min(start + most, len(places))) for start in range(0, len(places), most)]
    found = [taken(batch, own, len(places)) for own in ranges]
    cut = [([places[place] for place in own], one) for own, one in zip(ranges, found, strict=True) if one is not None]
    return cut if len(cut) == len(ranges) else [part]
