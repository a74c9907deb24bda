"""What is asked of a GPU and read later, so that the host never waits for what it has just asked for.

A GPU works off what it is told in order. Whoever reads a number of it waits until all before that is done, and meanwhile tells it
nothing: it then stands idle until the next batch is on its way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["OnItsWay", "among", "numbers_on", "on_device", "waits"]

# Of these a number is read without waiting.
AT_ONCE = ("cpu", "meta")
# Up to here each is held against all: one launch; beyond, a search costs less.
FEW = 16


def waits(device: torch.device) -> bool:
    """Whether reading a number on the host waits for a device."""
    return device.type not in AT_ONCE


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy of a tensor on a device; to a GPU from pinned memory, which nobody waits for."""
    if tensor.device.type != "cpu" or device.type != "cuda" or tensor.layout != torch.strided:
        return tensor.to(device, copy=True)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)


def numbers_on(device: torch.device, numbers: Sequence[int]) -> Tensor:
    """Whole numbers on a device, ``(K,)``."""
    return on_device(torch.tensor(list(numbers), dtype=torch.int64), device)


def among(ids: Tensor, few: Sequence[int]) -> Tensor:
    """Which ids are among some; `torch.isin` counts those that differ, and waits for that."""
    chosen = numbers_on(ids.device, sorted(few))
    if len(chosen) <= FEW:
        return (ids[..., None] == chosen).any(-1)
    return chosen[torch.searchsorted(chosen, ids).clamp_max_(len(chosen) - 1)] == ids


class OnItsWay:
    """Whole numbers of a device, ``(K,)``, on their way to the host."""

    def __init__(self, numbers: Tensor) -> None:
        self._held, self._done = numbers, None
        if numbers.device.type == "cuda":
            self._held = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._held.copy_(numbers, non_blocking=True)
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record(torch.cuda.current_stream(numbers.device))

    def read(self) -> list[int]:
        """The numbers, once they are there: waits for what was asked before them, and not for what was asked since."""
        if self._done is not None:
            self._done.synchronize()
        found: list[int] = self._held.tolist()
        return found
