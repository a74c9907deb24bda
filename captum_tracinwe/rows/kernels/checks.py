"""What the ops demand of row gradients, posting lists and pairs, and the words they refuse in; `csrc/check.h` has them too."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_alike", "check_devices", "check_lists", "check_pairs", "check_rows", "check_sides"]

VALUE_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _demand(side: str, holds: bool | Tensor, expected: str, got: object, what: str = "RowGradients") -> None:
    """Raise ValueError in the words that all checks share; without a side, names lose the underscore that leads to it."""
    if not holds:
        what = f"row gradients, side {side}" if side else what
        for name in () if side else ("ptr", "ids", "examples", "values"):
            expected = expected.replace(f"{name}_", name)
        raise ValueError(f"{what}: expected {expected}, got {got}.")


def check_rows(side: str, ptr: Tensor, ids: Tensor, values: Tensor) -> None:
    """Raise ValueError unless ``ptr``, ``ids``, ``values`` are one valid CSR side; ``side`` ("a", "b", "") names it.

    The compiled kernels make the same checks with the same words (``csrc/check.h``).
    """
    _check_shapes(side, ptr, ids, values)

    def demand(holds: bool | Tensor, expected: str, got: object) -> None:
        _demand(side, holds, expected, got)

    rows = ids.shape[0]
    if rows == 0:
        return
    demand(bool((ids >= 0).all()), f"ids_{side} not negative", f"{int(ids.min())}")
    ascends = _ascends(ptr, ids)
    demand(
        bool(ascends.all()),
        f"ids_{side} to ascend, each once, within an example",
        f"{ids[int(torch.argmin(ascends.int())) : int(torch.argmin(ascends.int())) + 2].tolist()} in a row"
        if not bool(ascends.all())
        else "",
    )


def _ascends(ptr: Tensor, ids: Tensor) -> Tensor:
    """For each id but the last, whether the next is larger or begins another example."""
    ascends = ids[1:] > ids[:-1]
    inner_starts = ptr[1:-1]
    ascends[inner_starts[(inner_starts > 0) & (inner_starts < ids.shape[0])] - 1] = True
    return ascends


def check_lists(
    side: str,
    ptr: Tensor,
    ids: Tensor,
    examples: Tensor,
    values: Tensor,
    num_examples: int,
    among: Tensor | None = None,
) -> None:
    """Raise ValueError unless these are posting lists; the entries only of the lists of the tokens ``among``, if given."""
    _check_shapes(side, ptr, examples, values, "examples")

    def demand(holds: bool | Tensor, expected: str, got: object) -> None:
        _demand(side, holds, expected, got, "PostingLists")

    demand(ids.dtype == torch.int64, f"ids_{side} of dtype int64", ids.dtype)
    lists = ptr.shape[0] - 1
    demand(ids.shape == (lists,), f"ids_{side} of shape ({lists},), one for each list", tuple(ids.shape))
    demand(ids.device == ptr.device, f"ids_{side} on {ptr.device}", ids.device)
    demand(num_examples >= 0, "num_examples of at least 0", num_examples)
    if lists:
        demand(bool(ids[0] >= 0), f"ids_{side} not negative", int(ids[0]))
        rises = ids[1:] > ids[:-1]
        at = int(torch.argmin(rises.int())) if lists > 1 else 0
        demand(bool(rises.all()), f"ids_{side} to ascend, each once", f"{ids[at : at + 2].tolist()} in a row")
    if not examples.shape[0]:
        return
    good = (examples >= 0) & (examples < num_examples)
    good[1:] &= _ascends(ptr, examples)
    of_lists = torch.repeat_interleave(ids, ptr[1:] - ptr[:-1])
    if among is not None:
        good |= ~torch.isin(of_lists, among)
    demand(
        bool(good.all()),
        f"examples_{side} to ascend from 0 to {num_examples - 1}, each once, within a list",
        f"others in the list of token {int(of_lists[~good][0]) if not bool(good.all()) else ''}",
    )


def _check_shapes(side: str, ptr: Tensor, ids: Tensor, values: Tensor, column: str = "ids") -> None:
    """What is demanded of rows in CSR form, whatever stands beside each row (``column``)."""

    def demand(holds: bool | Tensor, expected: str, got: object) -> None:
        _demand(side, holds, expected, got, "RowGradients" if column == "ids" else "PostingLists")

    for name, tensor in (("ptr", ptr), (column, ids)):
        demand(tensor.dtype == torch.int64, f"{name}_{side} of dtype int64", tensor.dtype)
        demand(tensor.dim() == 1, f"{name}_{side} with 1 dimension", tuple(tensor.shape))
    demand(values.dim() == 2, f"values_{side} of shape (rows, columns)", tuple(values.shape))
    demand(
        values.dtype in VALUE_DTYPES,
        f"values_{side} of dtype float32, float64, float16 or bfloat16",
        values.dtype,
    )
    demand(
        ptr.device == ids.device == values.device,
        f"ptr_{side}, {column}_{side} and values_{side} on one device",
        f"{ptr.device}, {ids.device}, {values.device}",
    )
    demand(
        ids.shape[0] == values.shape[0],
        f"one entry of {column}_{side} for each row of values_{side}",
        f"{ids.shape[0]} and {values.shape[0]} rows",
    )
    demand(ptr.shape[0] > 0, f"ptr_{side} with at least one entry (0)", "none")
    rows = ids.shape[0]
    demand(
        bool((ptr[0] == 0) & (ptr[-1] == rows)),
        f"ptr_{side} to run from 0 to the number of rows ({rows})",
        f"{int(ptr[0])} to {int(ptr[-1])}",
    )
    demand(bool((ptr[1:] >= ptr[:-1]).all()), f"ptr_{side} never to fall", "an entry smaller than the one before")


def check_sides(ptr_a: Tensor, ids_a: Tensor, values_a: Tensor, ptr_b: Tensor, ids_b: Tensor, values_b: Tensor) -> None:
    """Raise ValueError unless both sides are valid, of one width, dtype and device."""
    check_rows("a", ptr_a, ids_a, values_a)
    check_rows("b", ptr_b, ids_b, values_b)
    check_alike(values_a, values_b)


def check_alike(values_a: Tensor, values_b: Tensor) -> None:
    """Raise ValueError unless the values of both sides have one width, dtype and device."""
    for what, of_a, of_b in (
        ("width", values_a.shape[1], values_b.shape[1]),
        ("dtype", values_a.dtype, values_b.dtype),
        ("device", values_a.device, values_b.device),
    ):
        if of_a != of_b:
            raise ValueError(
                f"row gradients: expected both sides to have the same {what}, "
                f"got {of_a} (side a, test) and {of_b} (side b, training)."
            )


def check_pairs(ptr_a: Tensor, ptr_b: Tensor, pairs: Tensor) -> None:
    """Raise ValueError unless ``pairs`` is ``(P, 2)`` of examples that are there."""
    if pairs.dtype != torch.int64 or pairs.dim() != 2 or pairs.shape[1] != 2 or pairs.device != ptr_a.device:
        raise ValueError(
            f"row_dot_terms: expected pairs as an int64 tensor of shape (P, 2) on {ptr_a.device}, "
            f"got {pairs.dtype} {tuple(pairs.shape)} on {pairs.device}."
        )
    limits = torch.tensor([ptr_a.shape[0] - 1, ptr_b.shape[0] - 1], device=pairs.device)
    if bool(((pairs < 0) | (pairs >= limits)).any()):
        raise ValueError(
            f"row_dot_terms: expected pairs (example of a, example of b) below {tuple(limits.tolist())}, "
            f"got {pairs[((pairs < 0) | (pairs >= limits)).any(1)][0].tolist()}."
        )


def check_devices(*tensors: Tensor) -> None:
    """One meta tensor among real ones brings a call here: the result would be memory that nobody wrote."""
    devices = {str(tensor.device) for tensor in tensors}
    if len(devices) > 1:
        raise ValueError(f"row gradients: expected all parts on one device, got {', '.join(sorted(devices))}.")
