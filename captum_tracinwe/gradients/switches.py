"""What a caller may have switched on in torch, off within: autocast, anomaly mode, a default device, functorch's transforms."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from captum_tracinwe.gradients.interrupts import unbroken

__all__ = ["as_the_caller", "switched_off", "undisturbed"]

P = ParamSpec("P")
T = TypeVar("T")

_DEVICES = ("cpu", "cuda", "mps", "xpu")
_of_caller = threading.local()


@unbroken
def switched_off() -> Iterator[None]:
    """Within, numbers are those of torch by itself.

    In half precision, bfloat16's, scores were 1 to 4 % off; anomaly mode has errors of its own for a gradient that is NaN.
    """
    with ExitStack() as stack:
        if torch._C._functorch.peek_interpreter_stack() is not None:
            from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

            stack.enter_context(temporarily_clear_interpreter_stack())
        for kind in _DEVICES:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.is_anomaly_enabled():
            stack.enter_context(torch.autograd.set_detect_anomaly(False))
        device = torch.get_default_device()
        if device.type != "cpu":
            stack.callback(setattr, _of_caller, "device", getattr(_of_caller, "device", None))
            _of_caller.device = device
            stack.enter_context(torch.device("cpu"))
        yield


@unbroken
def as_the_caller() -> Iterator[None]:
    """Within :func:`switched_off` for what is the caller's, such as the model: new tensors are on the default device again."""
    device = getattr(_of_caller, "device", None)
    with ExitStack() as stack:
        if device is not None:
            stack.enter_context(device)
        yield


def undisturbed(function: Callable[P, T]) -> Callable[P, T]:
    """The same, run :func:`switched_off`."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with switched_off():
            return function(*args, **kwargs)

    return run
