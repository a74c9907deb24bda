"""Percentile intervals by bootstrap: of any figure that is computed from a sample of examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Interval", "bootstrap", "bootstrap_mean"]


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its interval.

    Args:
        estimate, low, high (float): all in the unit of the figure.
        level (float): 0.95 for a 95 % interval.
    """

    estimate: float
    low: float
    high: float
    level: float = 0.95

    def excludes(self, value: float = 0.0) -> bool:
        """Whether ``value`` lies outside."""
        return not self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.estimate:+.3f} [{self.low:+.3f}, {self.high:+.3f}]".replace("-", "−")


def bootstrap(
    statistic: Callable[[Tensor], float | Tensor], size: int, *, draws: int = 10_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """The percentile interval of ``statistic(indices)`` over samples of ``size`` examples, drawn with replacement.

    Args:
        statistic (callable): takes int64 ``(size,)``, which examples there are, some of them several times.
        size (int): examples in the sample, at least 2.
        draws (int): how many samples.
        level (float): between 0 and 1.
        seed (int): of the draws.

    Returns:
        Interval: the estimate is the statistic of the sample itself.

    Raises:
        ValueError: fewer than 2 examples, no draw, a level out of range, or a statistic that is NaN.

    Example:
        >>> import torch
        >>> values = torch.tensor([1.0, 2.0, 3.0, 4.0])
        >>> bootstrap(lambda indices: values[indices].mean(), 4).estimate
        2.5
    """
    samples = _samples(size, draws, level, seed)
    found = torch.tensor([float(statistic(indices)) for indices in samples], dtype=torch.float64)
    return _interval(float(statistic(torch.arange(size))), found, level)


def bootstrap_mean(values: Tensor, *, draws: int = 10_000, level: float = 0.95, seed: int = 0) -> Interval:
    """:func:`bootstrap` of the mean of ``values`` ``(N,)``: the same interval, all samples at once."""
    samples = _samples(len(values), draws, level, seed)
    values = values.double()
    return _interval(float(values.mean()), values[samples].mean(1), level)


def _samples(size: int, draws: int, level: float, seed: int) -> Tensor:
    if size < 2 or draws < 1 or not 0 < level < 1:
        raise ValueError(
            f"bootstrap: expected at least 2 examples, 1 draw and a level between 0 and 1, got {size}, {draws} and {level}."
        )
    return torch.randint(0, size, (draws, size), generator=torch.Generator().manual_seed(seed))


def _interval(estimate: float, found: Tensor, level: float) -> Interval:
    """Of the statistic of the sample itself and those of the draws."""
    if estimate != estimate:
        raise ValueError(
            "bootstrap: the statistic of the whole sample is NaN: expected a number. Look at its examples."
        )
    draws = len(found)
    found = found[~found.isnan()]  # a sample of one class has no ROC
    if not len(found):
        raise ValueError(f"bootstrap: the statistic is NaN in all {draws} samples: expected a number in some.")
    tail = (1 - level) / 2
    low, high = torch.quantile(found, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(estimate, low, high, level)
