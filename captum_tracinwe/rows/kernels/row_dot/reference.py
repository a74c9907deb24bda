"""`row_dot` in plain torch: what it computes, on every device, and what the kernels are held against."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_tracinwe.rows.kernels.checks import check_sides
from captum_tracinwe.rows.kernels.joins import add_products, empty_scores, examples_of_rows, expand

__all__ = ["reference"]


def reference(ptr_a: Tensor, ids_a: Tensor, values_a: Tensor, ptr_b: Tensor, ids_b: Tensor, values_b: Tensor) -> Tensor:
    """The rows of side b grouped by id; each row of side a meets those of its id."""
    check_sides(ptr_a, ids_a, values_a, ptr_b, ids_b, values_b)
    scores = empty_scores(ptr_a, ptr_b.shape[0] - 1, values_a).zero_()
    sorted_ids, order = torch.sort(ids_b, stable=True)  # rows of b grouped by id: its posting lists
    ids_a = ids_a.contiguous()  # searchsorted warns of strides
    first = torch.searchsorted(sorted_ids, ids_a)
    counts = torch.searchsorted(sorted_ids, ids_a, right=True) - first
    rows_a, position = expand(first, counts)
    return add_products(scores, ptr_a, values_a, values_b, rows_a, order[position], examples_of_rows(ptr_b))
