"""`PostingLists`: row gradients turned round, token by token, for asking many questions of the same training set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from captum_tracinwe.rows import ops
from captum_tracinwe.rows.kernels.checks import check_lists

__all__ = ["ByExample", "PostingLists"]


class ByExample(Protocol):
    """Rows that lie example by example, as :class:`RowGradients` holds them."""

    @property
    def ptr(self) -> Tensor:
        """int64 ``(N + 1,)``."""

    @property
    def ids(self) -> Tensor:
        """int64 ``(R,)``."""

    @property
    def values(self) -> Tensor:
        """``(R, D)``."""

    @property
    def examples(self) -> Tensor:
        """The example of each row, int64 ``(R,)``."""

    def __len__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class PostingLists:
    r"""The rows of M examples grouped by token: list t owns the rows ``ptr[t]:ptr[t + 1]``.

    Made by :meth:`RowGradients.by_token`. A question reads only the lists of its own tokens, each from end to end.

    Args:
        ptr (Tensor): int64 ``(L + 1,)``, from 0 to R.
        ids (Tensor): int64 ``(L,)``, the token of each list, ascending.
        examples (Tensor): int64 ``(R,)``, the example of each row, ascending within a list.
        values (Tensor): ``(R, D)``.
        num_examples (int): M.

    Raises:
        ValueError: the parts do not fit together; the message says where.

    Example:
        >>> import torch
        >>> from captum_tracinwe import RowGradients
        >>> rows = RowGradients(torch.tensor([0, 2, 3]), torch.tensor([3, 7, 3]), torch.tensor([[1.0], [2.0], [3.0]]))
        >>> lists = rows.by_token()
        >>> lists.ids.tolist(), lists.ptr.tolist(), lists.examples.tolist(), lists.values.flatten().tolist()
        ([3, 7], [0, 2, 3], [0, 1, 0], [1.0, 3.0, 2.0])
        >>> torch.equal(rows.dot(lists), rows.dot(rows))
        True
    """

    ptr: Tensor
    ids: Tensor
    examples: Tensor
    values: Tensor
    num_examples: int

    def __post_init__(self) -> None:
        check_lists("", self.ptr, self.ids, self.examples, self.values, self.num_examples)

    @classmethod
    def of(cls, rows: ByExample) -> PostingLists:
        """The same rows by token."""
        order = torch.sort(rows.ids, stable=True).indices
        ids, counts = torch.unique_consecutive(rows.ids[order], return_counts=True)
        ptr = torch.cat([counts.new_zeros(1), torch.cumsum(counts, 0)])
        return cls(ptr, ids, rows.examples[order], rows.values[order], len(rows))

    def __len__(self) -> int:
        return self.num_examples

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in (self.ptr, self.ids, self.examples, self.values))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> PostingLists:
        """On another device, with values of another dtype."""
        ptr, ids, examples = (tensor.to(device) for tensor in (self.ptr, self.ids, self.examples))
        return PostingLists(ptr, ids, examples, self.values.to(device=device, dtype=dtype), self.num_examples)

    def scores_of(self, test: ByExample) -> Tensor:
        """Scores ``(N, M)`` of test examples: :func:`captum_tracinwe.ops.posting_dot`."""
        return ops.posting_dot(
            test.ptr, test.ids, test.values, self.ptr, self.ids, self.examples, self.values, self.num_examples
        )
