"""Parts of a model that forget their activations and run again in the backward pass, by torch.utils.checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from torch.utils import checkpoint as checkpointing

from captum_tracinwe.gradients.interrupts import unbroken

__all__ = ["recomputed_within"]

# What torch runs for a part with ``use_reentrant=False``.
_WAY = "_checkpoint_without_reentrant_generator"

_lock = threading.Lock()
_users = 0
_here = threading.local()


@unbroken
def recomputed_within(again: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """Parts that are run within this block run again within ``again()``: what they look up there was handed out here.

    Those with ``use_reentrant=True`` run as with False, which saves the same memory: theirs is no gradient of what is asked for
    by name, and none of an embedding in the part.
    """
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            _put_in()
    stack = _here.__dict__.setdefault("stack", [])
    stack.append(again)
    try:
        yield
    finally:
        stack.pop()
        with _lock:
            _users -= 1
            if not _users:
                _take_out()


_own: dict[str, Any] = {}


def _put_in() -> None:
    """In place of torch's ways, ours; in other threads they do as torch's."""
    reentrant, way = checkpointing.CheckpointFunction.apply, getattr(checkpointing, _WAY, None)

    def apply(part: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        if not _here.__dict__.get("stack"):
            return reentrant(part, preserve, *args)  # type: ignore[no-untyped-call]
        return checkpointing.checkpoint(part, *args, use_reentrant=False, preserve_rng_state=preserve)

    def generator(part: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        stack = _here.__dict__.get("stack")
        again = stack[-1] if stack else None

        def once_more(*args: Any, **kwargs: Any) -> Any:
            assert again is not None
            with recomputed_within(again), again():  # a part may have parts
                return part(*args, **kwargs)

        assert way is not None
        return way(part if again is None else once_more, *args, **kwargs)

    checkpointing.CheckpointFunction.apply = staticmethod(apply)  # type: ignore[method-assign]
    if way is not None:
        _own["way"] = way
        setattr(checkpointing, _WAY, generator)


def _take_out() -> None:
    del checkpointing.CheckpointFunction.apply  # that of every torch.autograd.Function again
    if "way" in _own:
        setattr(checkpointing, _WAY, _own.pop("way"))
