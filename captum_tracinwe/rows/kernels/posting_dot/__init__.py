"""`posting_dot`: schema, wrapper and shapes; beside it `reference.py`, the kernels `cpu.cpp` and `cuda.cu`, and `cases.py`.

`tests/test_ops.py` and `tests/test_ops_refusals.py` hold them against plain loops; `benchmarks/row_dot.py` times them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from captum_tracinwe.rows.kernels.checks import check_devices
from captum_tracinwe.rows.kernels.joins import empty_scores
from captum_tracinwe.rows.kernels.library import define
from captum_tracinwe.rows.kernels.posting_dot.reference import reference
from captum_tracinwe.rows.kernels.told import told

__all__ = ["posting_dot"]

SCHEMA = (
    "(Tensor ptr_a, Tensor ids_a, Tensor values_a, Tensor ptr_b, Tensor ids_b, Tensor examples_b, Tensor values_b, "
    "SymInt num_examples) -> Tensor"
)


def posting_dot(
    ptr_a: Tensor,
    ids_a: Tensor,
    values_a: Tensor,
    ptr_b: Tensor,
    ids_b: Tensor,
    examples_b: Tensor,
    values_b: Tensor,
    num_examples: int,
) -> Tensor:
    r"""The scores of :func:`row_dot` where side b lies token by token, as posting lists: the same bits, read in long runs.

    With few test examples the time is that of reading the rows that match, which in this order are neighbours: 1.5 to 2.5
    times faster for one test example, and nothing has to be searched (``benchmarks/row_dot.py``).

    Args:
        ptr_a, ids_a, values_a (Tensor): N test examples, as in :func:`row_dot`.
        ptr_b (Tensor): int64, ``(L + 1,)``; list t owns the rows ``ptr_b[t]:ptr_b[t + 1]``.
        ids_b (Tensor): int64, ``(L,)``, the token of each list, ascending.
        examples_b (Tensor): int64, ``(R_b,)``, the example of each row, ascending and unique within a list.
        values_b (Tensor): ``(R_b, D)``.
        num_examples (int): M.

    Returns:
        Tensor: ``(N, M)``.

    Raises:
        ValueError: the parts are not as described; of the lists only those are looked at whose token a test example has
            (RuntimeError from the compiled kernels).

    Example:
        >>> import torch
        >>> from captum_tracinwe.rows.ops import posting_dot
        >>> test = (torch.tensor([0, 1]), torch.tensor([7]), torch.tensor([[3.0]]))
        >>> lists = (torch.tensor([0, 2]), torch.tensor([7]), torch.tensor([0, 1]), torch.tensor([[1.0], [2.0]]))
        >>> posting_dot(*test, *lists, num_examples=2)  # token 7 stands in both of two training examples
        tensor([[3., 6.]])
    """
    return torch.ops.captum_tracinwe.posting_dot(  # type: ignore[no-any-return]
        ptr_a, ids_a, values_a.detach(), ptr_b, ids_b, examples_b, values_b.detach(), num_examples
    )


def _fake(
    ptr_a: Tensor,
    ids_a: Tensor,
    values_a: Tensor,
    ptr_b: Tensor,
    ids_b: Tensor,
    examples_b: Tensor,
    values_b: Tensor,
    num_examples: int,
) -> Tensor:
    check_devices(ptr_a, ids_a, values_a, ptr_b, ids_b, examples_b, values_b)
    return empty_scores(ptr_a, num_examples, values_a)


define("posting_dot", SCHEMA, told("posting_dot", reference), _fake)
