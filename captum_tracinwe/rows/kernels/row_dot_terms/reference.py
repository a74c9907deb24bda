"""`row_dot_terms` in plain torch: what it computes, on every device, and what the kernels are held against."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_tracinwe.rows.kernels.checks import check_pairs, check_sides
from captum_tracinwe.rows.kernels.joins import empty_terms, examples_of_rows, expand, products

__all__ = ["reference"]


def reference(
    ptr_a: Tensor,
    ids_a: Tensor,
    values_a: Tensor,
    ptr_b: Tensor,
    ids_b: Tensor,
    values_b: Tensor,
    pairs: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each pair the ids that both examples have, and the products of their rows."""
    check_sides(ptr_a, ids_a, values_a, ptr_b, ids_b, values_b)
    check_pairs(ptr_a, ptr_b, pairs)
    # Ids are renumbered over both sides, so that (example, id) fits one integer even for ids beyond 2⁴⁰.
    names, numbers = torch.unique(torch.cat([ids_a, ids_b]), return_inverse=True)
    number_a, number_b = numbers[: ids_a.shape[0]], numbers[ids_a.shape[0] :]
    example_a, example_b = pairs[:, 0], pairs[:, 1]
    pair, rows_a = expand(ptr_a[example_a], ptr_a[example_a + 1] - ptr_a[example_a])
    keys_b = examples_of_rows(ptr_b) * len(names) + number_b
    keys = example_b[pair] * len(names) + number_a[rows_a]
    rows_b = torch.searchsorted(keys_b, keys)
    shared = torch.zeros_like(keys, dtype=torch.bool)
    inside = rows_b < keys_b.shape[0]
    shared[inside] = keys_b[rows_b[inside]] == keys[inside]
    pair, rows_a, rows_b = pair[shared], rows_a[shared], rows_b[shared]
    terms = empty_terms(values_a, pair.shape[0])
    for chunk, found in products(values_a, values_b, rows_a, rows_b):
        terms[chunk] = found
    return pair, ids_a[rows_a], terms
