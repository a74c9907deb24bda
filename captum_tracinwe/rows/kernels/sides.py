"""Random row gradients, to try the ops on: what their test cases, tests and benchmarks are made of."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Lists", "Side", "posting_lists", "random_side", "two_sides"]

#: ``ptr``, ``ids``, ``values`` of some examples.
Side = tuple[Tensor, Tensor, Tensor]
#: ``ptr``, ``ids``, ``examples``, ``values`` and how many examples, as posting lists.
Lists = tuple[Tensor, Tensor, Tensor, Tensor, int]


def random_side(
    examples: int,
    width: int,
    seed: int,
    *,
    vocabulary: int = 12,
    most: int = 8,
    dtype: torch.dtype = torch.float32,
    scale: int = 1,
) -> Side:
    """A side with up to ``most`` rows an example (some have none); ids are multiples of ``scale``."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, min(most, vocabulary) + 1, (examples,), generator=generator)
    ids = [torch.randperm(vocabulary, generator=generator)[:count].sort().values for count in counts.tolist()]
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    flat = torch.cat([torch.zeros(0, dtype=torch.int64), *ids]) * scale
    return ptr, flat, torch.randn(len(flat), width, generator=generator, dtype=torch.float64).to(dtype)


def posting_lists(side: Side) -> Lists:
    """The same rows token by token, by plain loops."""
    ptr, ids, values = (tensor.cpu() for tensor in side)
    owner = [i for i in range(len(ptr) - 1) for _ in range(int(ptr[i]), int(ptr[i + 1]))]
    order = sorted(range(len(ids)), key=lambda row: (int(ids[row]), owner[row]))
    tokens = sorted(set(ids.tolist()))
    counts = [int((ids == token).sum()) for token in tokens]
    device = side[0].device
    return (
        torch.tensor([0, *counts]).cumsum(0).to(device),
        torch.tensor(tokens, dtype=torch.int64, device=device),
        torch.tensor([owner[row] for row in order], dtype=torch.int64, device=device),
        values[order].to(device),
        len(ptr) - 1,
    )


def two_sides(device: str) -> list[tuple[Tensor, ...]]:
    """Small sides a and b of each dtype, and one without examples."""
    dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    found = [(*random_side(3, 5, 1, dtype=dtype), *random_side(4, 5, 2, dtype=dtype)) for dtype in dtypes]
    found.append((*random_side(0, 5, 1), *random_side(2, 5, 2)))
    return [tuple(tensor.to(device) for tensor in sides) for sides in found]
