"""Row gradients for the tests of the ops, and their scores by plain loops."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_tracinwe import ops
from captum_tracinwe.rows.kernels.posting_dot.reference import reference as posting_dot_reference
from captum_tracinwe.rows.kernels.row_dot.reference import reference as row_dot_reference
from captum_tracinwe.rows.kernels.row_dot_terms.reference import reference as row_dot_terms_reference
from captum_tracinwe.rows.kernels.sides import Side, posting_lists

# Largest error of a score, relative to Σ|a·b| over its products: what rounding in float32 (float64) costs a
# sum of 1,031 × 8 products. Half precision is storage only, exact in the products, hence the same bound.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14, torch.float16: 2e-6, torch.bfloat16: 2e-6}
DTYPES = sorted(TOLERANCE, key=str)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
WIDTHS = [0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 65, 127, 384, 1031]


def on(device: str, side: Side) -> Side:
    return side[0].to(device), side[1].to(device), side[2].to(device)


def examples_of(side: Side, begin: int, end: int) -> Side:
    ptr, ids, values = side
    first, last = int(ptr[begin]), int(ptr[end])
    return ptr[begin : end + 1] - first, ids[first:last], values[first:last]


def oracle(a: Side, b: Side) -> tuple[Tensor, Tensor, dict[tuple[int, int], list[tuple[int, float]]]]:
    """Scores, Σ|products|, and the terms of each pair: two loops over examples, one over ids, in float64."""
    tables = []
    for ptr, ids, values in (a, b):
        bounds, names, rows = ptr.tolist(), ids.tolist(), values.detach().cpu().double()
        tables.append([{names[r]: rows[r] for r in range(bounds[i], bounds[i + 1])} for i in range(len(bounds) - 1)])
    scores = torch.zeros(len(tables[0]), len(tables[1]), dtype=torch.float64)
    sizes, terms = torch.zeros_like(scores), {}
    for i, of_a in enumerate(tables[0]):
        for j, of_b in enumerate(tables[1]):
            terms[i, j] = [(name, float(of_a[name] @ of_b[name])) for name in sorted(of_a.keys() & of_b.keys())]
            scores[i, j] = sum(term for _, term in terms[i, j])
            sizes[i, j] = sum(float(of_a[name].abs() @ of_b[name].abs()) for name, _ in terms[i, j])
    return scores, sizes, terms


def assert_scores(a: Side, b: Side) -> None:
    expected, sizes, _ = oracle(a, b)
    lists = posting_lists(b)
    for kernel, side in (
        (ops.row_dot, b),
        (row_dot_reference, b),
        (ops.posting_dot, lists),
        (posting_dot_reference, lists),
    ):
        scores = kernel(*a, *side)
        assert scores.dtype == (torch.float64 if a[2].dtype == torch.float64 else torch.float32)
        assert scores.shape == expected.shape
        assert scores.device == a[2].device
        error = (scores.cpu().double() - expected).abs()
        assert bool((error <= TOLERANCE[a[2].dtype] * sizes).all()), f"{kernel.__module__}: off by {error.max()}"


def assert_terms(a: Side, b: Side, pairs: Tensor) -> None:
    _, sizes, terms = oracle(a, b)
    expected = [(p, *term) for p, (i, j) in enumerate(pairs.tolist()) for term in terms[i, j]]
    for kernel in (ops.row_dot_terms, row_dot_terms_reference):
        pair, name, term = kernel(*a, *b, pairs)
        assert pair.dtype == name.dtype == torch.int64
        assert term.dtype == (torch.float64 if a[2].dtype == torch.float64 else torch.float32)
        assert list(zip(pair.tolist(), name.tolist(), strict=True)) == [(p, n) for p, n, _ in expected]
        wanted = torch.tensor([t for *_, t in expected], dtype=torch.float64)
        bound = sizes[pairs[pair, 0].cpu(), pairs[pair, 1].cpu()] * TOLERANCE[a[2].dtype]
        assert bool(((term.cpu().double() - wanted).abs() <= bound).all())
