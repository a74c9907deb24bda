"""The torch ops `captum_tracinwe::row_dot`, `posting_dot` and `row_dot_terms`: schema, reference, fake, compiled kernels.

Each op is defined here once. The reference below serves every device; a compiled kernel, where one is loaded,
is preferred by torch's dispatcher, so that nothing in the package asks whether there is one.

One alphabet for the package: N test examples (side a), M training examples (side b), R rows, D columns of a row,
T positions of a text, V vocabulary, C checkpoints. **`scores[i, j]` is the influence of training example j on test
example i**; positive means proponent: a training step on j lowers the loss on i.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from captum_tracinwe.op_checks import check_alike, check_devices, check_lists, check_pairs, check_rows, check_sides

__all__ = ["NATIVE_LIBRARY", "OPS", "native_error", "posting_dot", "row_dot", "row_dot_terms"]

SIDES = "Tensor ptr_a, Tensor ids_a, Tensor values_a, Tensor ptr_b, Tensor ids_b, Tensor values_b"
LISTS = SIDES.replace("Tensor values_b", "Tensor examples_b, Tensor values_b, SymInt num_examples")
#: Name of each op → its schema.
OPS = {
    "row_dot": f"({SIDES}) -> Tensor",
    "posting_dot": f"({LISTS}) -> Tensor",
    "row_dot_terms": f"({SIDES}, Tensor pairs) -> (Tensor pair, Tensor id, Tensor term)",
}
# The reference gathers this many elements per side at a time: 16 MiB of float32 stays in the cache's neighbourhood.
CHUNK_ELEMENTS = 1 << 22

_library = torch.library.Library("captum_tracinwe", "DEF")  # type: ignore[no-untyped-call]
for _name, _schema in OPS.items():
    _library.define(_name + _schema)  # type: ignore[no-untyped-call]


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
        >>> from captum_tracinwe.ops import row_dot
        >>> one = (torch.tensor([0, 2]), torch.tensor([3, 7]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> row_dot(*one, *one)
        tensor([[30.]])
    """
    values_a, values_b = values_a.detach(), values_b.detach()
    return torch.ops.captum_tracinwe.row_dot(ptr_a, ids_a, values_a, ptr_b, ids_b, values_b)  # type: ignore[no-any-return]


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
        >>> from captum_tracinwe.ops import posting_dot
        >>> test = (torch.tensor([0, 1]), torch.tensor([7]), torch.tensor([[3.0]]))
        >>> lists = (torch.tensor([0, 2]), torch.tensor([7]), torch.tensor([0, 1]), torch.tensor([[1.0], [2.0]]))
        >>> posting_dot(*test, *lists, num_examples=2)  # token 7 stands in both of two training examples
        tensor([[3., 6.]])
    """
    return torch.ops.captum_tracinwe.posting_dot(  # type: ignore[no-any-return]
        ptr_a, ids_a, values_a.detach(), ptr_b, ids_b, examples_b, values_b.detach(), num_examples
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
        >>> from captum_tracinwe.ops import row_dot_terms
        >>> one = (torch.tensor([0, 2]), torch.tensor([3, 7]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> pair, id, term = row_dot_terms(*one, *one, torch.tensor([[0, 0]]))
        >>> id.tolist(), term.tolist()  # 5 + 25 = 30, the score of row_dot
        ([3, 7], [5.0, 25.0])
    """
    return torch.ops.captum_tracinwe.row_dot_terms(  # type: ignore[no-any-return]
        ptr_a, ids_a, values_a.detach(), ptr_b, ids_b, values_b.detach(), pairs
    )


# --------------------------------------------------------------------------------------------------------- reference


def _examples_of_rows(ptr: Tensor) -> Tensor:
    return torch.repeat_interleave(torch.arange(ptr.shape[0] - 1, device=ptr.device), ptr[1:] - ptr[:-1])


def _expand(starts: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """For each i, ``counts[i]`` numbers from ``starts[i]`` on; beside each number its i."""
    owner = torch.repeat_interleave(torch.arange(counts.shape[0], device=counts.device), counts)
    first = torch.cumsum(counts, 0) - counts
    return owner, torch.arange(owner.shape[0], device=counts.device) - first[owner] + starts[owner]


def _products(values_a: Tensor, values_b: Tensor, rows_a: Tensor, rows_b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """⟨row of a, row of b⟩ for matching rows, chunk by chunk, accumulated in the result's type."""
    dtype = torch.float64 if values_a.dtype == torch.float64 else torch.float32
    step = max(1, CHUNK_ELEMENTS // max(1, values_a.shape[1]))
    for start in range(0, rows_a.shape[0], step):
        chunk = slice(start, start + step)
        yield chunk, (values_a[rows_a[chunk]].to(dtype) * values_b[rows_b[chunk]].to(dtype)).sum(1)


def _row_dot_reference(
    ptr_a: Tensor, ids_a: Tensor, values_a: Tensor, ptr_b: Tensor, ids_b: Tensor, values_b: Tensor
) -> Tensor:
    check_sides(ptr_a, ids_a, values_a, ptr_b, ids_b, values_b)
    scores = _empty_scores(ptr_a, ptr_b.shape[0] - 1, values_a).zero_()
    sorted_ids, order = torch.sort(ids_b, stable=True)  # rows of b grouped by id: its posting lists
    ids_a = ids_a.contiguous()  # searchsorted warns of strides
    first = torch.searchsorted(sorted_ids, ids_a)
    counts = torch.searchsorted(sorted_ids, ids_a, right=True) - first
    rows_a, position = _expand(first, counts)
    return _add_products(scores, ptr_a, values_a, values_b, rows_a, order[position], _examples_of_rows(ptr_b))


def _add_products(
    scores: Tensor,
    ptr_a: Tensor,
    values_a: Tensor,
    values_b: Tensor,
    rows_a: Tensor,
    rows_b: Tensor,
    examples_b: Tensor,
) -> Tensor:
    """``scores[example of row a, example of row b]`` += ⟨row a, row b⟩, for rows that match."""
    cells = _examples_of_rows(ptr_a)[rows_a] * scores.shape[1] + examples_b[rows_b]
    for chunk, products in _products(values_a, values_b, rows_a, rows_b):
        scores.view(-1).index_add_(0, cells[chunk], products)
    return scores


def _posting_dot_reference(
    ptr_a: Tensor,
    ids_a: Tensor,
    values_a: Tensor,
    ptr_b: Tensor,
    ids_b: Tensor,
    examples_b: Tensor,
    values_b: Tensor,
    num_examples: int,
) -> Tensor:
    check_rows("a", ptr_a, ids_a, values_a)
    check_lists("b", ptr_b, ids_b, examples_b, values_b, num_examples, among=ids_a)
    check_alike(values_a, values_b)
    scores = _empty_scores(ptr_a, num_examples, values_a).zero_()
    ids_a, ids_b = ids_a.contiguous(), ids_b.contiguous()
    if not ids_b.shape[0]:
        return scores
    lists = torch.searchsorted(ids_b, ids_a).clamp_max(ids_b.shape[0] - 1)
    counts = (ptr_b[lists + 1] - ptr_b[lists]) * (ids_b[lists] == ids_a)
    rows_a, rows_b = _expand(ptr_b[lists], counts)
    return _add_products(scores, ptr_a, values_a, values_b, rows_a, rows_b, examples_b)


def _row_dot_terms_reference(
    ptr_a: Tensor,
    ids_a: Tensor,
    values_a: Tensor,
    ptr_b: Tensor,
    ids_b: Tensor,
    values_b: Tensor,
    pairs: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    check_sides(ptr_a, ids_a, values_a, ptr_b, ids_b, values_b)
    check_pairs(ptr_a, ptr_b, pairs)
    # Ids are renumbered over both sides, so that (example, id) fits one integer even for ids beyond 2⁴⁰.
    names, numbers = torch.unique(torch.cat([ids_a, ids_b]), return_inverse=True)
    number_a, number_b = numbers[: ids_a.shape[0]], numbers[ids_a.shape[0] :]
    example_a, example_b = pairs[:, 0], pairs[:, 1]
    pair, rows_a = _expand(ptr_a[example_a], ptr_a[example_a + 1] - ptr_a[example_a])
    keys_b = _examples_of_rows(ptr_b) * len(names) + number_b
    keys = example_b[pair] * len(names) + number_a[rows_a]
    rows_b = torch.searchsorted(keys_b, keys)
    shared = torch.zeros_like(keys, dtype=torch.bool)
    inside = rows_b < keys_b.shape[0]
    shared[inside] = keys_b[rows_b[inside]] == keys[inside]
    pair, rows_a, rows_b = pair[shared], rows_a[shared], rows_b[shared]
    terms = _empty_terms(values_a, pair.shape[0])
    for chunk, products in _products(values_a, values_b, rows_a, rows_b):
        terms[chunk] = products
    return pair, ids_a[rows_a], terms


# -------------------------------------------------------------------------------------------------------------- fake


def _empty_scores(ptr_a: Tensor, num_examples: int | torch.SymInt, values: Tensor) -> Tensor:
    dtype = torch.float64 if values.dtype == torch.float64 else torch.float32
    return values.new_empty((ptr_a.shape[0] - 1, num_examples), dtype=dtype)


def _empty_terms(values: Tensor, size: int | torch.SymInt) -> Tensor:
    return values.new_empty((size,), dtype=torch.float64 if values.dtype == torch.float64 else torch.float32)


def _row_dot_fake(
    ptr_a: Tensor, ids_a: Tensor, values_a: Tensor, ptr_b: Tensor, ids_b: Tensor, values_b: Tensor
) -> Tensor:
    check_devices(ptr_a, ids_a, values_a, ptr_b, ids_b, values_b)
    return _empty_scores(ptr_a, ptr_b.shape[0] - 1, values_a)


def _posting_dot_fake(
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
    return _empty_scores(ptr_a, num_examples, values_a)


def _row_dot_terms_fake(
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
    return ids_a.new_empty((size,)), ids_a.new_empty((size,)), _empty_terms(values_a, size)


for _name, _reference, _fake in (
    ("row_dot", _row_dot_reference, _row_dot_fake),
    ("posting_dot", _posting_dot_reference, _posting_dot_fake),
    ("row_dot_terms", _row_dot_terms_reference, _row_dot_terms_fake),
):
    _library.impl(_name, _reference, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"captum_tracinwe::{_name}", _fake, lib=_library)


# --------------------------------------------------------------------------------------------------- compiled library


def _load_native() -> tuple[Path | None, str | None]:
    """Load the compiled kernels if the package was built with them; ``(path, why not)``."""
    here = Path(__file__).parent
    suffixes = (sysconfig.get_config_var("EXT_SUFFIX") or ".so", ".abi3.so", ".so")
    found = [path for path in (here / f"_native{suffix}" for suffix in suffixes) if path.is_file()]
    if not found:
        return None, "the package was built without compiled kernels"
    try:
        torch.ops.load_library(str(found[0]))  # type: ignore[no-untyped-call]
    except OSError as error:
        return None, f"{found[0].name} does not load: {error}"
    return found[0], None


#: The compiled library that is loaded, or None; and why there is none.
NATIVE_LIBRARY, native_error = _load_native()
