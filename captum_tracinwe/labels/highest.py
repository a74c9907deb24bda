"""Where a function of one hump is highest."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["highest"]

GOLDEN = (math.sqrt(5) - 1) / 2
# Of the logarithm: a scale is known to a thousandth.
NEAR = 1e-3


def highest(of: Callable[[float], float], low: float, high: float) -> float:
    """By golden section on a logarithmic scale between ``low`` and ``high``, both above 0."""
    start, stop = math.log(low), math.log(high)
    left, right = stop - GOLDEN * (stop - start), start + GOLDEN * (stop - start)
    at_left, at_right = of(math.exp(left)), of(math.exp(right))
    while stop - start > NEAR:
        if at_left >= at_right:
            stop, right, at_right = right, left, at_left
            left = stop - GOLDEN * (stop - start)
            at_left = of(math.exp(left))
        else:
            start, left, at_left = left, right, at_right
            right = start + GOLDEN * (stop - start)
            at_right = of(math.exp(right))
    return math.exp((start + stop) / 2)
