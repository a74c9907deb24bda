"""`row_dot_terms`: schema, wrapper and shapes; beside it `reference.py`, the kernels `cpu.cpp` and `cuda.cu`, and `cases.py`.

`tests/test_ops.py` and `tests/test_ops_refusals.py` hold them against plain loops; `benchmarks/row_dot.py` times them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from captum_tracinwe.rows.kernels.checks import check_devices
from captum_tracinwe.rows.kernels.joins import empty_terms
from captum_tracinwe.rows.kernels.library import define
from captum_tracinwe.rows.kernels.row_dot_terms.reference import reference
from captum_tracinwe.rows.kernels.told import told

__all__ = ["row_dot_terms"]

SCHEMA = (
    "(Tensor ptr_a, Tensor ids_a, Tensor values_a, Tensor ptr_b, Tensor ids_b, Tensor values_b, Tensor pairs) "
    "-> (Tensor pair, Tensor id, Tensor term)"
)


def row_dot_terms(
    ptr_a: Tensor,
    ids_a: Tensor,
    values_a: Tensor,
    ptr_b: Tensor,
    ids_b: Tensor,
    values_b: Tensor,
    pairs: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The summands of `row_dot`, id by id, for chosen pairs of examples.

    Args:
        ptr_a, ids_a, values_a, ptr_b, ids_b, values_b (Tensor): the two sides, as in :func:`row_dot`.
        pairs (Tensor): int64, ``(P, 2)``: (example of a, example of b).

    Returns:
        tuple: ``(pair, id, term)``, each ``(S,)``: one entry per id shared by the examples of a pair, ordered by pair
        (an index into ``pairs``), then id. The terms of a pair add up to its score in `row_dot`.

    Raises:
        ValueError: a side is not as described in `row_dot`, or a pair names an example that is not there (RuntimeError
            from the compiled kernels).

    Example:
        >>> import torch
        >>> from captum_tracinwe.rows.ops import row_dot_terms
        >>> one = (torch.tensor([0, 2]), torch.tensor([3, 7]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> pair, id, term = row_dot_terms(*one, *one, torch.tensor([[0, 0]]))
        >>> id.tolist(), term.tolist()  # 5 + 25 = 30, the score of row_dot
        ([3, 7], [5.0, 25.0])
    """
    return torch.ops.captum_tracinwe.row_dot_terms(  # type: ignore[no-any-return]
        ptr_a, ids_a, values_a.detach(), ptr_b, ids_b, values_b.detach(), pairs
    )


def _fake(
    ptr_a: Tensor,
    ids_a: Tensor,
    values_a: Tensor,
    ptr_b: Tensor,
    ids_b: Tensor,
    values_b: Tensor,
    pairs: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    check_devices(ptr_a, ids_a, values_a, ptr_b, ids_b, values_b, pairs)
    size = torch.library.get_ctx().new_dynamic_size()
    return ids_a.new_empty((size,)), ids_a.new_empty((size,)), empty_terms(values_a, size)


define("row_dot_terms", SCHEMA, told("row_dot_terms", reference), _fake)
