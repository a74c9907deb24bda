"""row_dot, posting_dot and row_dot_terms on bad input: named with what was expected, and never a score."""

from __future__ import annotations

import functools

import pytest
import torch
from op_cases import DEVICES, assert_scores, on
from torch import Tensor

from captum_tracinwe import ops
from captum_tracinwe.rows.kernels.sides import posting_lists, random_side
from captum_tracinwe.rows.postings import PostingLists

GOOD = (torch.tensor([0, 2, 3]), torch.tensor([1, 4, 2]), torch.ones(3, 4))
# What is wrong with a side, the part that is exchanged, what the message must say ({s}: the side's name).
BAD_SIDES = {
    "ptr of another dtype": (0, GOOD[0].int(), r"ptr_{s} of dtype int64"),
    "ids of another dtype": (1, GOOD[1].float(), r"ids_{s} of dtype int64"),
    "ptr with two dimensions": (0, GOOD[0][None], r"ptr_{s} with 1 dimension"),
    "ids with no dimension": (1, GOOD[1][0], r"ids_{s} with 1 dimension"),
    "values with one dimension": (2, GOOD[2][:, 0], r"values_{s} of shape"),
    "values of integers": (2, GOOD[2].long(), r"values_{s} of dtype float32"),
    "values of complex numbers": (2, GOOD[2].to(torch.complex64), r"values_{s} of dtype float32"),
    "more ids than rows": (
        1,
        torch.tensor([1, 4, 2, 3]),
        r"one entry of ids_{s} for each row of values_{s}.*4 and 3 rows",
    ),
    "no ptr": (0, GOOD[0][:0], r"ptr_{s} with at least one entry"),
    "ptr from 1": (0, torch.tensor([1, 2, 3]), r"ptr_{s} to run from 0 to the number of rows \(3\).*1 to 3"),
    "ptr beyond the rows": (
        0,
        torch.tensor([0, 2, 4]),
        r"ptr_{s} to run from 0 to the number of rows \(3\).*0 to 4",
    ),
    "ptr short of the rows": (0, torch.tensor([0, 2]), r"ptr_{s} to run from 0 to the number of rows"),
    "falling ptr": (0, torch.tensor([0, 3, 2, 3]), r"ptr_{s} never to fall"),
    "ptr out of bounds inside": (0, torch.tensor([0, 2**40, 3]), r"ptr_{s} never to fall"),
    "ptr negative inside": (0, torch.tensor([0, -(2**40), 3]), r"ptr_{s} never to fall"),
    "negative id": (1, torch.tensor([-7, 4, 2]), r"ids_{s} not negative.*-7"),
    "most negative id": (1, torch.tensor([1, 4, -(2**63)]), r"ids_{s} not negative"),
    "falling ids": (1, torch.tensor([4, 1, 2]), r"ids_{s} to ascend, each once, within an example.*\[4, 1\]"),
    "repeated id": (1, torch.tensor([4, 4, 2]), r"ids_{s} to ascend, each once, within an example.*\[4, 4\]"),
}
# The same for side b as posting lists: tokens 1, 4; the list of 4 has two rows.
LISTS = (torch.tensor([0, 1, 3]), torch.tensor([1, 4]), torch.tensor([0, 0, 1]), torch.ones(3, 4), 2)
BAD_LISTS = {
    "ptr of another dtype": (0, LISTS[0].int(), r"ptr_b of dtype int64"),
    "falling ptr": (0, torch.tensor([0, 4, 3]), r"ptr_b never to fall"),
    "ptr beyond the rows": (0, torch.tensor([0, 1, 4]), r"ptr_b to run from 0 to the number of rows \(3\)"),
    "ids of another dtype": (1, LISTS[1].int(), r"ids_b of dtype int64"),
    "too few ids": (1, LISTS[1][:1], r"ids_b of shape \(2,\), one for each list, got \(1,\)"),
    "negative id": (1, torch.tensor([-1, 4]), r"ids_b not negative, got -1"),
    "falling ids": (1, torch.tensor([4, 1]), r"ids_b to ascend, each once, got \[4, 1\] in a row"),
    "repeated id": (1, torch.tensor([4, 4]), r"ids_b to ascend, each once, got \[4, 4\]"),
    "examples of another dtype": (2, LISTS[2].float(), r"examples_b of dtype int64"),
    "too many examples": (
        2,
        torch.tensor([0, 0, 1, 1]),
        r"one entry of examples_b for each row of values_b, got 4 and 3",
    ),
    "an example beyond the last": (2, torch.tensor([0, 0, 2]), r"examples_b to ascend from 0 to 1.*list of token 4"),
    "a negative example": (2, torch.tensor([-1, 0, 1]), r"examples_b to ascend from 0 to 1.*list of token 1"),
    "falling examples": (2, torch.tensor([0, 1, 0]), r"examples_b to ascend.*list of token 4"),
    "repeated examples": (2, torch.tensor([0, 1, 1]), r"examples_b to ascend.*list of token 4"),
    "values with one dimension": (3, LISTS[3][:, 0], r"values_b of shape"),
    "a negative number of examples": (4, -1, r"num_examples of at least 0, got -1"),
}
OPS_TO_CALL = {
    "row_dot": ops.row_dot,
    "row_dot_terms": lambda *sides: ops.row_dot_terms(*sides, torch.tensor([[0, 0]], device=sides[0].device)),
}
rejected = (ValueError, RuntimeError)


def there(device: str, *parts: Tensor | int) -> list[Tensor | int]:
    return [part.to(device) if isinstance(part, Tensor) else part for part in parts]


on_every_device = pytest.mark.parametrize("device", DEVICES)


@on_every_device
@pytest.mark.parametrize("op", OPS_TO_CALL)
@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("fault", BAD_SIDES)
def test_a_bad_side_is_named_with_what_was_expected(device: str, op: str, side: str, fault: str) -> None:
    part, tensor, message = BAD_SIDES[fault]
    bad = tuple(tensor if k == part else t for k, t in enumerate(GOOD))
    with pytest.raises(rejected, match=rf"side {side}: expected {message.format(s=side)}"):
        OPS_TO_CALL[op](*there(device, *(bad if side == "a" else GOOD), *(bad if side == "b" else GOOD)))


@on_every_device
@pytest.mark.parametrize("fault", BAD_LISTS)
def test_bad_posting_lists_are_named_with_what_was_expected(device: str, fault: str) -> None:
    part, given, message = BAD_LISTS[fault]
    bad = tuple(given if k == part else t for k, t in enumerate(LISTS))
    with pytest.raises(rejected, match=rf"side b: expected {message}"):
        ops.posting_dot(*there(device, *GOOD, *bad))
    with pytest.raises(ValueError, match="PostingLists: expected " + message.replace("_b", "")):
        PostingLists(*bad)


@functools.cache
def many_rows_in_lists() -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    return posting_lists(random_side(40_000, 4, 2, vocabulary=2, most=2))


@on_every_device
@pytest.mark.parametrize("seed", range(30))
def test_posting_lists_out_of_order_never_give_a_score(device: str, seed: int) -> None:
    """Blocks share lists out by binary search, which an unordered list leads astray: no row may be lost in silence."""
    a = random_side(3, 4, 1, vocabulary=2, most=2)
    ptr, ids, examples, values, m = many_rows_in_lists()
    start, end = int(ptr[-2]), int(ptr[-1])
    order = torch.randperm(end - start, generator=torch.Generator().manual_seed(seed))
    swapped = torch.arange(end - start)
    swapped[order[:2]] = order[:2].flip(0)
    examples = torch.cat([examples[:start], examples[start:end][swapped]])
    with pytest.raises(rejected, match=r"examples_b to ascend"):
        ops.posting_dot(*there(device, *a, ptr, ids, examples, values, m))


@pytest.mark.parametrize("op", OPS_TO_CALL)
def test_sides_of_different_width_or_dtype_are_rejected(op: str) -> None:
    with pytest.raises(rejected, match=r"same width, got 4 \(side a, test\) and 3 \(side b, training\)"):
        OPS_TO_CALL[op](*GOOD, GOOD[0], GOOD[1], GOOD[2][:, :3])
    with pytest.raises(rejected, match=r"same dtype, got torch.float32 \(side a, test\) and torch.float16"):
        OPS_TO_CALL[op](*GOOD, GOOD[0], GOOD[1], GOOD[2].half())


@on_every_device
@pytest.mark.parametrize("position", [1, 999, 50_000, 99_999])
def test_one_bad_id_among_many_is_found(device: str, position: int) -> None:
    ids = torch.arange(100_000)
    ids[position] = ids[position - 1]
    big = (torch.tensor([0, 40_000, 40_000, 100_000]), ids, torch.ones(100_000, 1))
    with pytest.raises(rejected, match=rf"ids_b to ascend.*\[{position - 1}, {position - 1}\] in a row"):
        ops.row_dot(*there(device, torch.tensor([0]), ids[:0], big[2][:0], *big))


def test_ids_may_fall_from_one_example_to_the_next() -> None:
    assert_scores(GOOD, (torch.tensor([0, 0, 1, 1, 2, 3, 3]), torch.tensor([4, 4, 1]), torch.ones(3, 4)))


@on_every_device
@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (torch.tensor([[0, 1], [2, 0]]), r"below \(2, 2\), got \[2, 0\]"),
        (torch.tensor([[0, 1], [0, 2]]), r"below \(2, 2\), got \[0, 2\]"),
        (torch.tensor([[-1, 0]]), r"below \(2, 2\), got \[-1, 0\]"),
        (torch.tensor([[0, 2**40]]), r"below \(2, 2\), got \[0, 1099511627776\]"),
        (torch.tensor([0, 1]), r"pairs as an int64 tensor of shape \(P, 2\) on (cpu|cuda:0), got torch.int64 \(2,\)"),
        (torch.tensor([[0, 1, 1]]), r"pairs as an int64 tensor of shape \(P, 2\)"),
        (
            torch.tensor([[0, 1]], dtype=torch.int32),
            r"pairs as an int64 tensor of shape \(P, 2\) on (cpu|cuda:0), got torch.int32",
        ),
    ],
)
def test_bad_pairs_are_named(device: str, pairs: Tensor, message: str) -> None:
    with pytest.raises(rejected, match=message):
        ops.row_dot_terms(*there(device, *GOOD, *GOOD, pairs))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
@pytest.mark.parametrize("op", OPS_TO_CALL)
def test_sides_on_different_devices_are_rejected(op: str) -> None:
    with pytest.raises(rejected, match=r"same device, got cpu \(side a, test\) and cuda:0"):
        OPS_TO_CALL[op](*GOOD, *on("cuda", GOOD))
    with pytest.raises(rejected, match=r"side a: expected ptr_a, ids_a and values_a on one device"):
        OPS_TO_CALL[op](*GOOD[:2], GOOD[2].cuda(), *GOOD)


def test_a_meta_tensor_among_real_ones_is_refused():
    """Dispatch would bring the call to the fake, whose result nobody fills."""
    side = (torch.tensor([0, 1]), torch.tensor([3]), torch.ones(1, 2))
    on_meta = (*side[:2], side[2].to("meta"))
    with pytest.raises((ValueError, RuntimeError), match="one device"):
        ops.row_dot(*side, *on_meta)
    with pytest.raises((ValueError, RuntimeError), match="one device"):
        ops.row_dot_terms(*side, *on_meta, torch.zeros(1, 2, dtype=torch.int64))
