"""`RowGradients`: for each example, the gradient rows of the embedding table that its tokens touch, in CSR form.

The one currency between the rooms of this package: gradients become rows here, and scores, words and indexes are made
from rows alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_tracinwe.rows import ops
from captum_tracinwe.rows.in_order import in_order
from captum_tracinwe.rows.kernels.checks import check_rows
from captum_tracinwe.rows.overflow import first_not_finite, overflow
from captum_tracinwe.rows.postings import PostingLists

__all__ = ["RowGradients"]


@dataclass(frozen=True, eq=False)
class RowGradients:
    r"""Row gradients of N examples: example i owns the rows ``ptr[i]:ptr[i + 1]``.

    Args:
        ptr (Tensor): int64 ``(N + 1,)``, from 0 to R.
        ids (Tensor): int64 ``(R,)``, the token of each row; ascending and unique within an example.
        values (Tensor): ``(R, D)``, or ``(R, C * D)`` for C checkpoints side by side.

    Raises:
        ValueError: the three do not fit together; the message says where.

    Example:
        >>> import torch
        >>> rows = RowGradients.from_positions(
        ...     torch.tensor([0, 0, 0]), torch.tensor([7, 2, 7]), torch.tensor([[1.0], [2.0], [3.0]]), 1
        ... )
        >>> rows.ids.tolist(), rows.values.flatten().tolist()  # token 7 stands twice: its gradients are added
        ([2, 7], [2.0, 4.0])
    """

    ptr: Tensor
    ids: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        check_rows("", self.ptr, self.ids, self.values)

    # -------------------------------------------------------------------------------------------------------- making

    @classmethod
    def sound(cls, ptr: Tensor, ids: Tensor, values: Tensor) -> RowGradients:
        """RowGradients of parts that are known to fit. They are not checked, because a check would wait for the GPU."""
        rows = object.__new__(cls)
        for name, part in (("ptr", ptr), ("ids", ids), ("values", values)):
            object.__setattr__(rows, name, part)
        return rows

    @classmethod
    def from_positions(cls, examples: Tensor, ids: Tensor, values: Tensor, num_examples: int) -> RowGradients:
        r"""Fold the gradients of single positions into rows; repeats of a token within an example are added.

        Args:
            examples (Tensor): int64 ``(P,)``, the example of each position, below ``num_examples``.
            ids (Tensor): int64 ``(P,)``, its token.
            values (Tensor): ``(P, D)``, the gradient at the embedding's output there.
            num_examples (int): N; examples without a position own no rows.
        """
        if not (examples.dim() == ids.dim() == 1 and values.dim() == 2 and len(examples) == len(ids) == len(values)):
            raise ValueError(
                f"RowGradients.from_positions: expected examples (P,), ids (P,) and values (P, D), got "
                f"{tuple(examples.shape)}, {tuple(ids.shape)} and {tuple(values.shape)}."
            )
        if len(examples) and not (int(examples.min()) >= 0 and int(examples.max()) < num_examples):
            raise ValueError(
                f"RowGradients.from_positions: expected examples from 0 to {num_examples - 1}, got "
                f"{int(examples.min())} to {int(examples.max())}."
            )
        order, examples, ids, starts = in_order(examples, ids)
        rows = torch.cumsum(starts, 0) - 1
        folded = values[order[starts]]
        # Most tokens of a text stand once (about 85 % of positions in news text): only the others need adding.
        folded.index_add_(0, rows[~starts], values[order[~starts]])
        counts = torch.bincount(examples[starts], minlength=num_examples)
        return cls.sound(_ptr_of(counts), ids[starts], folded)

    @classmethod
    def cat(cls, parts: Iterable[RowGradients]) -> RowGradients:
        """The examples of all ``parts``, one part after the other.

        Raises:
            ValueError: no part, or parts of different width, dtype or device.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("RowGradients.cat: expected at least one part, got none.")
        kinds = {(part.width, part.values.dtype, part.values.device) for part in parts}
        if len(kinds) > 1:
            got = "; ".join(
                f"{width} columns of {dtype} on {device}" for width, dtype, device in sorted(kinds, key=str)
            )
            raise ValueError(f"RowGradients.cat: expected parts of one width, dtype and device, got {got}.")
        counts = torch.cat([part.ptr[1:] - part.ptr[:-1] for part in parts])
        return cls.sound(_ptr_of(counts), torch.cat([p.ids for p in parts]), torch.cat([p.values for p in parts]))

    @classmethod
    def beside(cls, parts: Sequence[RowGradients], union: bool = False) -> RowGradients:
        """The same rows at several checkpoints, or of several tables, as columns side by side: ``(R, C * D)`` from C times
        ``(R, D)``.

        With ``union`` the parts may hold different tokens of the same examples; a row that one lacks is 0 in its columns.

        Raises:
            ValueError: the tokens differ between the parts, which happens when the data changed its order on the way.
        """
        if not parts:
            raise ValueError("RowGradients.beside: expected at least one part, got none.")
        if union:
            return cls._united(parts)
        first, *others = parts
        for number, other in enumerate(others, start=1):
            if not (_same(first.ptr, other.ptr) and _same(first.ids, other.ids)):
                raise ValueError(
                    f"The texts seen at checkpoint {number} are not those seen at checkpoint 0: expected the data in "
                    f"the same order each time. Do not shuffle, and do not augment at random."
                )
        return cls.sound(first.ptr, first.ids, torch.cat([part.values for part in parts], dim=1))

    @classmethod
    def _united(cls, parts: Sequence[RowGradients]) -> RowGradients:
        examples = len(parts[0])
        if any(len(part) != examples for part in parts):
            raise ValueError(
                f"RowGradients.beside: expected parts of {examples} examples, got {[len(part) for part in parts]}."
            )
        # Ids are renumbered, so that (example, id) fits one integer even for ids beyond 2⁴⁰.
        names, numbers = torch.unique(torch.cat([part.ids for part in parts]), return_inverse=True)
        keys = torch.cat([part.examples for part in parts]) * max(1, len(names)) + numbers
        rows, place = torch.unique(keys, return_inverse=True)
        values = parts[0].values.new_zeros((len(rows), sum(part.width for part in parts)))
        start = 0
        for part, own in zip(parts, place.split([part.num_rows for part in parts]), strict=True):
            values[own, start : start + part.width] = part.values
            start += part.width
        counts = torch.bincount(rows // max(1, len(names)), minlength=examples)
        return cls(_ptr_of(counts), names[rows % max(1, len(names))], values)

    # ------------------------------------------------------------------------------------------------------- reading

    def __len__(self) -> int:
        return int(self.ptr.shape[0]) - 1

    @property
    def num_rows(self) -> int:
        """R."""
        return int(self.ids.shape[0])

    @property
    def width(self) -> int:
        """Columns of a row, D or C * D."""
        return int(self.values.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of the three tensors."""
        return sum(t.numel() * t.element_size() for t in (self.ptr, self.ids, self.values))

    @property
    def examples(self) -> Tensor:
        """The example of each row, int64 ``(R,)``."""
        counts = self.ptr[1:] - self.ptr[:-1]
        return torch.repeat_interleave(
            torch.arange(len(self), device=self.ptr.device), counts, output_size=self.num_rows
        )

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Tokens ``(S,)`` and rows ``(S, D)`` of one example."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        rows = slice(int(self.ptr[index % len(self)]), int(self.ptr[index % len(self) + 1]))
        return self.ids[rows], self.values[rows]

    def norms(self) -> Tensor:
        """Euclidean norm of each row, ``(R,)``, float32 or float64."""
        return self.values.to(_result_dtype(self.values)).square().sum(1).sqrt()

    def squared_norms(self) -> Tensor:
        """Σ over rows of the squared norm, by example: ``(N,)``, the diagonal of ``self.dot(self)``."""
        squares = self.values.to(_result_dtype(self.values)).square().sum(1)
        return squares.new_zeros(len(self)).index_add_(0, self.examples, squares)

    # ------------------------------------------------------------------------------------------------------ changing

    def select(self, examples: Tensor | Sequence[int]) -> RowGradients:
        """The chosen examples, in the order given; repeats are allowed.

        Raises:
            IndexError: there is no such example.
        """
        chosen = _whole_numbers(examples, "RowGradients.select").to(self.ptr.device)
        if chosen.numel() and not (int(chosen.min()) >= 0 and int(chosen.max()) < len(self)):
            raise IndexError(
                f"RowGradients.select: expected examples from 0 to {len(self) - 1}, "
                f"got {int(chosen.min())} to {int(chosen.max())}."
            )
        counts = (self.ptr[1:] - self.ptr[:-1])[chosen]
        ptr = _ptr_of(counts)
        rows = torch.arange(int(ptr[-1]), device=ptr.device) + torch.repeat_interleave(
            self.ptr[chosen] - ptr[:-1], counts
        )
        return RowGradients.sound(ptr, self.ids[rows], self.values[rows])

    def part(self, start: int, stop: int) -> RowGradients:
        """Examples ``start`` to ``stop - 1``, as of :meth:`select`, but only ``ptr`` is copied."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(
                f"RowGradients.part: expected a range within the {len(self)} examples, got {start} to {stop}."
            )
        first, last = int(self.ptr[start]), int(self.ptr[stop])
        return RowGradients.sound(
            self.ptr[start : stop + 1] - self.ptr[start], self.ids[first:last], self.values[first:last]
        )

    def sum(self) -> RowGradients:
        """All examples as one: rows of the same token are added."""
        return RowGradients.from_positions(torch.zeros_like(self.ids), self.ids, self.values, 1)

    def exclude(self, tokens: Tensor | Sequence[int]) -> RowGradients:
        """Without the rows of the given tokens (TracIn-WE-NoC excludes those common to all texts)."""
        tokens = _whole_numbers(tokens, "RowGradients.exclude").to(self.ids.device)
        keep = ~torch.isin(self.ids, tokens)
        counts = torch.bincount(self.examples[keep], minlength=len(self))
        return RowGradients.sound(_ptr_of(counts), self.ids[keep], self.values[keep])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> RowGradients:
        """On another device, with values of another dtype."""
        return RowGradients(self.ptr.to(device), self.ids.to(device), self.values.to(device=device, dtype=dtype))

    def of_tokens(self, tokens: Tensor) -> RowGradients:
        """The rows of these tokens alone. No example is left out, though some may have no row then."""
        kept = torch.isin(self.ids, tokens.to(self.ids.device))
        ptr = torch.cat([kept.new_zeros(1).long(), kept.long().cumsum(0)])[self.ptr]
        return RowGradients.sound(ptr, self.ids[kept], self.values[kept])

    def scale(self, factor: float | Tensor) -> RowGradients:
        """All values times ``factor``: one number, or ``(N,)`` with one for each example."""
        if isinstance(factor, Tensor):
            factor = factor.to(self.values)[self.examples][:, None]
        return RowGradients.sound(self.ptr, self.ids, self.values * factor)

    def columns(self, start: int, stop: int) -> RowGradients:
        """The columns ``start:stop``: with ``c * D`` and ``(c + 1) * D`` the rows of checkpoint c."""
        return RowGradients.sound(self.ptr, self.ids, self.values[:, start:stop])

    # ------------------------------------------------------------------------------------------------------ products

    def by_token(self) -> PostingLists:
        """The same rows grouped by token. That is faster if few test examples at a time ask the same training set."""
        return PostingLists.of(self)

    def dot(self, train: RowGradients | PostingLists) -> Tensor:
        """Scores ``(N, M)`` of these (test) examples against ``train``: :func:`captum_tracinwe.ops.row_dot`.

        Raises:
            ValueError: a score is NaN or infinite, and so has no rank. (The operator itself returns such scores.)
            TypeError: ``train`` is neither RowGradients nor PostingLists.
        """
        if isinstance(train, PostingLists):
            scores = train.scores_of(self)
        elif isinstance(train, RowGradients):
            scores = ops.row_dot(self.ptr, self.ids, self.values, train.ptr, train.ids, train.values)
        else:
            raise TypeError(f"RowGradients.dot: expected RowGradients or PostingLists, got {type(train).__name__}.")
        place = first_not_finite(scores)
        if place is not None:
            raise overflow(f"The score of training example {place[1]} for test example {place[0]}", scores.dtype)
        return scores

    def terms(self, train: RowGradients, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The summands of chosen scores, by token.

        Args:
            train (RowGradients): M training examples.
            pairs (Tensor): int64 ``(P, 2)``, a test and a training example each.

        Returns:
            tuple: ``(pair, id, term)``, each ``(S,)``, as of :func:`captum_tracinwe.ops.row_dot_terms`.
        """
        return ops.row_dot_terms(self.ptr, self.ids, self.values, train.ptr, train.ids, train.values, pairs)

    def to_dense(self, vocabulary_size: int) -> Tensor:
        """``(N, V, D)``, mostly zeros. For small tables and tests: BERT-base takes 94 MB per example."""
        if self.num_rows and int(self.ids.max()) >= vocabulary_size:
            raise ValueError(
                f"RowGradients.to_dense: expected ids below the vocabulary size {vocabulary_size}, got {int(self.ids.max())}."
            )
        dense = self.values.new_zeros((len(self), vocabulary_size, self.width))
        dense[self.examples, self.ids] = self.values
        return dense


def _whole_numbers(given: Tensor | Sequence[int], where: str) -> Tensor:
    """As int64 ``(K,)``; masks and fractions are refused, which a conversion would quietly turn into other numbers."""
    try:
        numbers = torch.as_tensor(given)
    except (ValueError, RuntimeError, OverflowError) as error:  # as beyond 64 bits
        raise ValueError(f"{where}: expected whole numbers of shape (K,), got {given!r:.80} ({error}).") from None
    if numbers.numel() == 0:
        return numbers.to(torch.int64).flatten()
    if numbers.dim() != 1 or numbers.dtype == torch.bool or numbers.is_floating_point() or numbers.is_complex():
        raise ValueError(f"{where}: expected whole numbers of shape (K,), got {numbers.dtype} {tuple(numbers.shape)}.")
    return numbers.to(torch.int64)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two are equal; nothing is read where they are one."""
    return one is other or torch.equal(one, other)


def _ptr_of(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), torch.cumsum(counts, 0)])


def _result_dtype(values: Tensor) -> torch.dtype:
    return torch.float64 if values.dtype == torch.float64 else torch.float32
