"""What an op says, once, where its reference runs on a device that kernels are written for."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor

__all__ = ["told"]

_told: set[str] = set()


def told(name: str, reference: Callable[..., Any]) -> Callable[..., Any]:
    """The reference of the op ``name``; its first call on CUDA tensors warns that no compiled kernel took them."""

    @functools.wraps(reference)
    def called(*args: Any) -> Any:
        if name not in _told and any(isinstance(argument, Tensor) and argument.is_cuda for argument in args):
            _told.add(name)
            warnings.warn(
                f"captum_tracinwe::{name} runs in plain torch on {_device(args)}: no CUDA kernel is loaded. The results are "
                "right and take longer, and their last bits may differ from call to call. `captum-tracinwe info` says why "
                "there is none.",
                UserWarning,
                stacklevel=2,
            )
        return reference(*args)

    return called


def _device(args: tuple[Any, ...]) -> str:
    """Of the first tensor."""
    return next(str(argument.device) for argument in args if isinstance(argument, Tensor))
