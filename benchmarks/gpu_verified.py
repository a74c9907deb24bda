"""Whether the compiled ops say on a device what their references say in float64 on the CPU: generated cases for `gpu.py`."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe import ops
from captum_tracinwe.rows.kernels.sides import posting_lists, random_side

# Of the sum of all products without their signs.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13, torch.float16: 1e-5, torch.bfloat16: 1e-5}


def verify(device: torch.device, widths: list[int], shapes: list[tuple[int, int]], seconds: float) -> dict[str, Any]:
    """Each op against its reference in float64 on the CPU; the same bits twice, and posting lists those of rows."""
    reference = {name: import_module(f"captum_tracinwe.rows.kernels.{name}.reference").reference for name in ops.OPS}
    cases, worst, failed = 0, 0.0, []
    end = time.monotonic() + seconds
    problems = list(itertools.product(TOLERANCE, widths, shapes, (1, 2**33)))
    random.Random(0).shuffle(problems)  # of each kind some, when time runs out
    for seed, (dtype, width, (n, m), scale) in enumerate(problems, start=1):
        if time.monotonic() > end:
            break
        make = {"vocabulary": 12, "most": 9, "dtype": dtype, "scale": scale}
        a, b = random_side(n, width, seed, **make), random_side(m, width, -seed % 2**31, **make)
        pairs = torch.cartesian_prod(torch.arange(n), torch.arange(m)).reshape(-1, 2)[:200]
        of_each = {"row_dot": (*a, *b), "posting_dot": (*a, *posting_lists(b)), "row_dot_terms": (*a, *b, pairs)}
        found = {}
        for name, inputs in of_each.items():
            cases += 1
            wide, bare = (_values(inputs, how) for how in (Tensor.double, lambda values: values.double().abs()))
            expected, bound = (_tuple(reference[name](*given)) for given in (wide, bare))
            inputs = [one.to(device) if isinstance(one, Tensor) else one for one in inputs]
            found[name], again = (_tuple(getattr(ops, name)(*inputs)) for _ in range(2))
            what = f"{name}, {dtype}, {n} x {m} x {width}, ids x {scale}"
            off = max(map(_apart, found[name], expected, bound))
            worst = max(worst, off if dtype != torch.float64 else 0.0)
            if off > TOLERANCE[dtype]:
                failed.append(f"{what}: {off:.1e} off")
            elif not all(map(torch.equal, found[name], again)):
                failed.append(f"{what}: other bits at the second call")
        if not torch.equal(found["row_dot"][0], found["posting_dot"][0]):
            failed.append(f"posting_dot, {dtype}, {n} x {m} x {width}, ids x {scale}: other bits than row_dot's")
    return {"cases": cases, "largest_relative_difference": worst, "failed": len(failed), "first_failures": failed[:20]}


def _tuple(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


def _values(inputs: tuple[Any, ...], how: Callable[[Tensor], Tensor]) -> list[Any]:
    return [how(one) if isinstance(one, Tensor) and one.is_floating_point() else one for one in inputs]


def _apart(found: Tensor, expected: Tensor, bound: Tensor) -> float:
    """The largest difference, of the bound; infinite where ids or shapes differ, or a number is none."""
    found = found.cpu()
    if found.shape != expected.shape or (not found.is_floating_point() and not torch.equal(found, expected)):
        return float("inf")
    if not found.is_floating_point() or not found.numel():
        return 0.0
    apart = (found.double() - expected).abs() / bound.clamp_min(torch.finfo(torch.float32).tiny)
    return float(apart.nan_to_num(float("inf")).max())
