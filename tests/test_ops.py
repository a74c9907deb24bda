"""row_dot, posting_dot and row_dot_terms: against plain loops, and bit for bit across threads and blocks.

Runs on compiled kernels and on the plain-torch reference alike: whatever torch's dispatcher picks is tested.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import import_module

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_cases import DEVICES, DTYPES, WIDTHS, assert_scores, assert_terms, examples_of, on
from torch import Tensor

from captum_tracinwe import ops
from captum_tracinwe.rows.kernels.sides import Side, posting_lists, random_side

needs_native = pytest.mark.skipif(ops.NATIVE_LIBRARY is None, reason=str(ops.native_error))


# ---------------------------------------------------------------------------------------------- right numbers


@st.composite
def problems(draw) -> tuple[Side, Side, int]:
    dtype = draw(st.sampled_from(DTYPES))
    width = draw(st.sampled_from(WIDTHS) | st.integers(0, 40))
    vocabulary = draw(st.sampled_from([1, 2, 5, 12]))
    scale = draw(st.sampled_from([1, 1000, 2**20, 2**40]))
    seed = draw(st.integers(0, 2**31))
    most = draw(st.integers(0, 8))
    make = dict(vocabulary=vocabulary, most=most, dtype=dtype, scale=scale)
    a = random_side(draw(st.integers(0, 7)), width, seed, **make)
    b = random_side(draw(st.integers(0, 7)), width, seed + 1, **make)
    return a, b, seed


quick = settings(
    max_examples=2000, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@pytest.mark.parametrize("device", DEVICES)
@quick
@given(problem=problems())
def test_scores_are_those_of_a_loop_over_pairs_and_shared_ids(device: str, problem) -> None:
    a, b, _ = problem
    assert_scores(on(device, a), on(device, b))


@pytest.mark.parametrize("device", DEVICES)
@settings(quick, max_examples=500)
@given(problem=problems())
def test_terms_are_those_of_a_loop_over_pairs_and_shared_ids(device: str, problem) -> None:
    a, b, seed = problem
    n, m = len(a[0]) - 1, len(b[0]) - 1
    generator = torch.Generator().manual_seed(seed)
    count = 0 if n * m == 0 else int(torch.randint(0, 9, (1,), generator=generator))
    pairs = torch.stack([torch.randint(0, max(s, 1), (count,), generator=generator) for s in (n, m)], 1)
    assert_terms(on(device, a), on(device, b), pairs.to(device))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_and_dtype_is_summed_whole(device: str, dtype: torch.dtype, width: int) -> None:
    a, b = (random_side(n, width, seed, dtype=dtype) for n, seed in ((9, 1), (23, 2)))
    assert_scores(on(device, a), on(device, b))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0), (1, 1), (1, 40), (40, 1), (300, 2), (5, 300)])
def test_every_shape_of_the_score_matrix_is_filled(device: str, n: int, m: int) -> None:
    assert_scores(on(device, random_side(n, 5, 3)), on(device, random_side(m, 5, 4)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n", [1, 6])
def test_examples_without_a_shared_id_score_zero(device: str, n: int) -> None:
    a, b = random_side(n, 5, 3), random_side(7, 5, 4)
    odd = (b[0], b[1] + 100, b[2])
    assert torch.equal(ops.row_dot(*on(device, a), *on(device, odd)).cpu(), torch.zeros(n, 7))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("largest", [2**17, 2**18, 2**31, 2**40, 2**62])
def test_ids_of_any_size_are_matched(device: str, largest: int) -> None:
    ids = torch.tensor([0, 5, largest - 1, largest])
    a = (torch.tensor([0, 4]), ids, torch.ones(4, 3))
    b = (torch.tensor([0, 2, 5]), torch.tensor([largest - 1, largest, 1, 5, largest + 1]), torch.ones(5, 3))
    assert ops.row_dot(*on(device, a), *on(device, b)).tolist() == [[6.0, 3.0]]
    assert ops.row_dot(*on(device, b), *on(device, a)).tolist() == [[6.0], [3.0]]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided_inputs_score_as_their_copies(device: str, dtype: torch.dtype) -> None:
    a, b = (on(device, random_side(n, 40, seed, dtype=dtype)) for n, seed in ((5, 1), (11, 2)))
    expected = ops.row_dot(*a, *b)

    def strided(x: Tensor) -> list[Tensor]:
        wide = torch.zeros(*(2 * s for s in x.shape), dtype=x.dtype, device=device)
        view = wide[tuple(slice(None, None, 2) for _ in x.shape)]
        view.copy_(x)
        views = [view]
        if x.dim() == 2:  # transposed, and a window of wider rows, which the kernels read in place
            window = torch.full((x.shape[0], x.shape[1] + 9), torch.nan, dtype=x.dtype, device=device)
            window[:, 4:-5] = x
            views += [x.t().contiguous().t(), window[:, 4:-5]]
        return views

    for which in range(3):
        for view in strided(a[which]):
            assert torch.equal(ops.row_dot(*(view if k == which else t for k, t in enumerate(a)), *b), expected)
        for view in strided(b[which]):
            assert torch.equal(ops.row_dot(*a, *(view if k == which else t for k, t in enumerate(b))), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_a_row_repeated_by_a_stride_of_zero_is_read_in_place(device: str) -> None:
    a, b = on(device, random_side(4, 6, 1)), on(device, random_side(9, 6, 2))
    same = b[2][:1].expand(b[2].shape[0], 6)
    assert torch.equal(ops.row_dot(*a, b[0], b[1], same), ops.row_dot(*a, b[0], b[1], same.clone()))


@pytest.mark.parametrize("device", DEVICES)
def test_infinite_and_missing_values_stay_visible(device: str) -> None:
    a = (torch.tensor([0, 1, 2]), torch.tensor([1, 2]), torch.tensor([[1.0, torch.inf], [1.0, 1.0]]))
    b = (torch.tensor([0, 1, 2]), torch.tensor([1, 2]), torch.tensor([[1.0, 1.0], [torch.nan, 1.0]]))
    scores = ops.row_dot(*on(device, a), *on(device, b)).cpu()
    assert scores[0, 0] == torch.inf
    assert scores[1, 1].isnan()
    assert scores[0, 1] == scores[1, 0] == 0


@pytest.mark.parametrize("device", DEVICES)
def test_the_terms_of_a_pair_add_up_to_its_score(device: str) -> None:
    a, b = on(device, random_side(6, 130, 1)), on(device, random_side(8, 130, 2))
    pairs = torch.cartesian_prod(torch.arange(6), torch.arange(8)).to(device)
    pair, _, term = ops.row_dot_terms(*a, *b, pairs)
    sums = torch.zeros(48, device=device).index_add_(0, pair, term)
    torch.testing.assert_close(sums.view(6, 8), ops.row_dot(*a, *b))


# -------------------------------------------------------------------------------------------------- same bits


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 2, 30, 300])
def test_scores_have_the_same_bits_for_any_number_of_threads(threads, dtype: torch.dtype, n: int) -> None:
    make = dict(vocabulary=60, most=20, dtype=dtype)
    a, b = random_side(n, 37, 1, **make), random_side(900, 37, 2, **make)
    pairs = torch.cartesian_prod(torch.arange(min(n, 4)), torch.arange(900))
    results = []
    for count in (1, 2, 4):
        threads(count)
        results.append((ops.row_dot(*a, *b), ops.posting_dot(*a, *posting_lists(b)), *ops.row_dot_terms(*a, *b, pairs)))
    assert torch.equal(results[0][0], results[0][1])
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


@needs_native
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [5, 100])
def test_a_score_has_the_same_bits_whoever_else_is_in_the_call(device: str, dtype: torch.dtype, width: int) -> None:
    make = dict(vocabulary=40, most=20, dtype=dtype)
    a, b = on(device, random_side(19, width, 1, **make)), on(device, random_side(450, width, 2, **make))
    whole = ops.row_dot(*a, *b)
    assert torch.equal(ops.posting_dot(*a, *posting_lists(b)), whole)
    for step in (1, 7, 100):
        blocks = [ops.row_dot(*a, *examples_of(b, j, min(j + step, 450))) for j in range(0, 450, step)]
        assert torch.equal(torch.cat(blocks, 1), whole)
    for step in (1, 2, 3, 8):
        blocks = [ops.row_dot(*examples_of(a, i, min(i + step, 19)), *b) for i in range(0, 19, step)]
        assert torch.equal(torch.cat(blocks), whole)


@needs_native
@pytest.mark.parametrize("isa", ["base", "avx2"])
def test_every_instruction_set_passes_the_tests_of_widths_and_bits(isa: str) -> None:
    tests = [
        "test_every_width_and_dtype_is_summed_whole",
        "test_a_score_has_the_same_bits_whoever_else_is_in_the_call",
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, *(f"{__file__}::{test}" for test in tests)],
        env={**os.environ, "CAPTUM_TRACINWE_ISA": isa}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout


# ----------------------------------------------------------------------------------------- torch's own checks


def cases_of(name: str, device: str) -> list[tuple]:
    """What stands in the folder of the op."""
    return import_module(f"captum_tracinwe.rows.kernels.{name}.cases").cases(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", sorted(ops.OPS))
def test_every_op_passes_opcheck(device: str, name: str) -> None:
    for inputs in cases_of(name, device):
        torch.library.opcheck(getattr(torch.ops.captum_tracinwe, name).default, inputs)


@pytest.mark.parametrize("name", sorted(ops.OPS))
def test_every_op_has_its_cases_beside_it_for_every_dtype(name: str) -> None:
    assert {inputs[2].dtype for inputs in cases_of(name, "cpu")} == set(DTYPES)


@needs_native
@pytest.mark.parametrize("name", sorted(ops.OPS))
def test_every_op_has_a_compiled_kernel(name: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"captum_tracinwe::{name}", "CPU")


@needs_native
@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_the_library_needs_no_symbol_of_torch_outside_its_stable_abi() -> None:
    listing = subprocess.run(["nm", "-DuC", str(ops.NATIVE_LIBRARY)], capture_output=True, text=True, check=True)
    needed = [line.split(maxsplit=1)[1] for line in listing.stdout.splitlines()]
    assert any(re.match(r"(aoti_)?torch_", symbol) for symbol in needed)
    assert not [symbol for symbol in needed if re.search(r"\b(at|c10|torch|caffe2|Py\w*)::|^_?Py", symbol)]
