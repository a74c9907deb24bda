"""`row_dot`: schema, wrapper and shapes; beside it `reference.py`, the kernels `cpu.cpp` and `cuda.cu`, and `cases.py`.

`tests/test_ops.py` and `tests/test_ops_refusals.py` hold them against plain loops; `benchmarks/row_dot.py` times them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from captum_tracinwe.rows.kernels.checks import check_devices
from captum_tracinwe.rows.kernels.joins import empty_scores
from captum_tracinwe.rows.kernels.library import define
from captum_tracinwe.rows.kernels.row_dot.reference import reference
from captum_tracinwe.rows.kernels.told import told

__all__ = ["row_dot"]

SCHEMA = "(Tensor ptr_a, Tensor ids_a, Tensor values_a, Tensor ptr_b, Tensor ids_b, Tensor values_b) -> Tensor"


def row_dot(ptr_a: Tensor, ids_a: Tensor, values_a: Tensor, ptr_b: Tensor, ids_b: Tensor, values_b: Tensor) -> Tensor:
    r"""Scores of all pairs: ``scores[i, j]`` = Σ over the ids that a's example i and b's example j share of ⟨row, row⟩.

    Both sides are CSR: example i owns the rows ``ptr[i]:ptr[i + 1]``, whose ids ascend and are unique.

    Args:
        ptr_a, ptr_b (Tensor): int64, ``(N + 1,)`` and ``(M + 1,)``, from 0 to R, never falling.
        ids_a, ids_b (Tensor): int64, ``(R_a,)`` and ``(R_b,)``, not negative.
        values_a, values_b (Tensor): ``(R_a, D)`` and ``(R_b, D)``, both of one dtype: float32, float64, float16, bfloat16.

    Returns:
        Tensor: ``(N, M)``, float64 for float64 values and float32 otherwise; products are accumulated in that type.

    Raises:
        ValueError: a side is not as described; the message says which and why (RuntimeError from the compiled kernels).

    Example:
        >>> import torch
        >>> from captum_tracinwe.rows.ops import row_dot
        >>> one = (torch.tensor([0, 2]), torch.tensor([3, 7]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> row_dot(*one, *one)
        tensor([[30.]])
    """
    values_a, values_b = values_a.detach(), values_b.detach()
    return torch.ops.captum_tracinwe.row_dot(ptr_a, ids_a, values_a, ptr_b, ids_b, values_b)  # type: ignore[no-any-return]


def _fake(ptr_a: Tensor, ids_a: Tensor, values_a: Tensor, ptr_b: Tensor, ids_b: Tensor, values_b: Tensor) -> Tensor:
    check_devices(ptr_a, ids_a, values_a, ptr_b, ids_b, values_b)
    return empty_scores(ptr_a, ptr_b.shape[0] - 1, values_a)


define("row_dot", SCHEMA, told("row_dot", reference), _fake)
