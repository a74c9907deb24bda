"""The k highest (or lowest) scores of each test example, equal scores in the order of their index."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["RANKING_COLUMNS", "merge_top_k", "ranking_rows", "top_k"]

#: Of a table of what was found: a row for each training example.
RANKING_COLUMNS = ("test_index", "train_index", "rank", "score")


def ranking_rows(indices: Tensor, scores: Tensor) -> list[dict[str, Any]]:
    """Training indices and scores, each ``(N, k)``, best first, as one dict each; ``rank`` counts from 1."""
    return [
        {"test_index": i, "train_index": index, "rank": rank, "score": score}
        for i, own in enumerate(zip(indices.tolist(), scores.tolist(), strict=True))
        for rank, (index, score) in enumerate(zip(*own, strict=True), start=1)
    ]


def top_k(scores: Tensor, k: int, highest: bool = True) -> tuple[Tensor, Tensor]:
    """Indices int64 and scores, each ``(N, min(k, M))``, best first, of scores ``(N, M)``."""
    k = min(k, scores.shape[1])
    values, indices = torch.topk(scores, k, dim=1, largest=highest)
    if k == 0:
        return indices, values
    # topk takes any of several equal scores; where the cut falls among equals, a stable sort of the row decides.
    cut = values[:, -1:]
    torn = (scores == cut).sum(1) > (values == cut).sum(1)
    if bool(torn.any()):
        indices[torn] = torch.sort(scores[torn], dim=1, descending=highest, stable=True).indices[:, :k]
    indices = indices.sort(dim=1).values
    order = torch.sort(scores.gather(1, indices), dim=1, descending=highest, stable=True).indices
    indices = indices.gather(1, order)
    return indices, scores.gather(1, indices)


def merge_top_k(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], k: int, highest: bool = True
) -> tuple[Tensor, Tensor]:
    """The best k of two results of :func:`top_k` on different examples; equal scores again in the order of their index."""
    indices, scores = (torch.cat(parts, dim=1) for parts in zip(first, second, strict=True))
    by_index = torch.argsort(indices, dim=1)
    indices, scores = indices.gather(1, by_index), scores.gather(1, by_index)
    best, values = top_k(scores, k, highest)
    return indices.gather(1, best), values
