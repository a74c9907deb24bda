"""What the references of the ops are made of: pairs of rows that match, and their dot products, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["add_products", "empty_scores", "empty_terms", "examples_of_rows", "expand", "products"]

# A reference gathers this many elements per side at a time: 16 MiB of float32 stays in the cache's neighbourhood.
CHUNK_ELEMENTS = 1 << 22


def examples_of_rows(ptr: Tensor) -> Tensor:
    """The example of each row, ``(R,)``."""
    return torch.repeat_interleave(torch.arange(ptr.shape[0] - 1, device=ptr.device), ptr[1:] - ptr[:-1])


def expand(starts: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """For each i, ``counts[i]`` numbers from ``starts[i]`` on; beside each number its i."""
    owner = torch.repeat_interleave(torch.arange(counts.shape[0], device=counts.device), counts)
    first = torch.cumsum(counts, 0) - counts
    return owner, torch.arange(owner.shape[0], device=counts.device) - first[owner] + starts[owner]


def products(values_a: Tensor, values_b: Tensor, rows_a: Tensor, rows_b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """⟨row of a, row of b⟩ for matching rows, chunk by chunk, accumulated in the result's type."""
    dtype = torch.float64 if values_a.dtype == torch.float64 else torch.float32
    step = max(1, CHUNK_ELEMENTS // max(1, values_a.shape[1]))
    for start in range(0, rows_a.shape[0], step):
        chunk = slice(start, start + step)
        yield chunk, (values_a[rows_a[chunk]].to(dtype) * values_b[rows_b[chunk]].to(dtype)).sum(1)


def add_products(
    scores: Tensor,
    ptr_a: Tensor,
    values_a: Tensor,
    values_b: Tensor,
    rows_a: Tensor,
    rows_b: Tensor,
    examples_b: Tensor,
) -> Tensor:
    """``scores[example of row a, example of row b]`` += ⟨row a, row b⟩, for rows that match."""
    cells = examples_of_rows(ptr_a)[rows_a] * scores.shape[1] + examples_b[rows_b]
    for chunk, found in products(values_a, values_b, rows_a, rows_b):
        scores.view(-1).index_add_(0, cells[chunk], found)
    return scores


def empty_scores(ptr_a: Tensor, num_examples: int | torch.SymInt, values: Tensor) -> Tensor:
    """The score matrix of a call, not filled."""
    dtype = torch.float64 if values.dtype == torch.float64 else torch.float32
    return values.new_empty((ptr_a.shape[0] - 1, num_examples), dtype=dtype)


def empty_terms(values: Tensor, size: int | torch.SymInt) -> Tensor:
    """The terms of a call, not filled."""
    return values.new_empty((size,), dtype=torch.float64 if values.dtype == torch.float64 else torch.float32)
