"""Batches in blocks: as many as the memory holds are taken through all checkpoints before the next ones are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from captum_tracinwe.batches.batch import Batch, nbytes, size_of
from captum_tracinwe.batches.loaders import reading

__all__ = ["Block", "blocks"]


@dataclass(frozen=True)
class Block:
    """Consecutive batches that are taken through all checkpoints before the next ones are read."""

    start: int
    size: int
    batches: list[Batch]


def blocks(
    loader: Iterable[Batch], what: str, bytes_per_example: int | Callable[[Batch], int], limit: float
) -> Iterator[Block]:
    """Batches grouped so that they and ``bytes_per_example`` together stay within ``limit`` bytes; one batch at least."""
    held: list[Batch] = []
    start, used, size = 0, 0, 0
    for batch in reading(loader, what):
        examples = size_of(batch)
        each = bytes_per_example if isinstance(bytes_per_example, int) else bytes_per_example(batch)
        needed = nbytes(batch) + examples * each
        if held and used + needed > limit:
            yield Block(start, size, held)
            held, start, used, size = [], start + size, 0, 0
        held.append(batch)
        used, size = used + needed, size + examples
    if not held:
        raise ValueError(f"`{what}` is empty: expected at least one batch.")
    yield Block(start, size, held)
