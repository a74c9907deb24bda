"""`posting_dot` in plain torch: what it computes, on every device, and what the kernels are held against."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_tracinwe.rows.kernels.checks import check_alike, check_lists, check_rows
from captum_tracinwe.rows.kernels.joins import add_products, empty_scores, expand

__all__ = ["reference"]


def reference(
    ptr_a: Tensor,
    ids_a: Tensor,
    values_a: Tensor,
    ptr_b: Tensor,
    ids_b: Tensor,
    examples_b: Tensor,
    values_b: Tensor,
    num_examples: int,
) -> Tensor:
    """Each row of side a meets the list of its id."""
    check_rows("a", ptr_a, ids_a, values_a)
    check_lists("b", ptr_b, ids_b, examples_b, values_b, num_examples, among=ids_a)
    check_alike(values_a, values_b)
    scores = empty_scores(ptr_a, num_examples, values_a).zero_()
    ids_a, ids_b = ids_a.contiguous(), ids_b.contiguous()
    if not ids_b.shape[0]:
        return scores
    lists = torch.searchsorted(ids_b, ids_a).clamp_max(ids_b.shape[0] - 1)
    counts = (ptr_b[lists + 1] - ptr_b[lists]) * (ids_b[lists] == ids_a)
    rows_a, rows_b = expand(ptr_b[lists], counts)
    return add_products(scores, ptr_a, values_a, values_b, rows_a, rows_b, examples_b)
