"""One ask of a model at a time: a model holds one set of weights, so that asks of several threads take turns."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from torch.nn import Module

from captum_tracinwe.gradients.interrupts import deliver, unbroken

__all__ = ["alone"]

# How long, in seconds, somebody who waits for a turn may not notice Ctrl-C.
PATIENCE = 0.1


@dataclass(eq=False)
class _Ask:
    thread: int
    parts: frozenset[int]
    inside: bool = False


_changed = threading.Condition()
_asks: list[_Ask] = []  # in the order in which they came


@unbroken
def alone(*things: object) -> Iterator[None]:
    """Within, no other thread is in such a block for the same ``things``; others wait, first come, first served.

    A model stands for all its modules, parameters and buffers, so that a wrapper of it, or another model that shares a part,
    waits too. A thread that is within may enter again.
    """
    ask = _Ask(threading.get_ident(), frozenset(part for thing in things for part in _parts(thing)))
    with _changed:
        _asks.append(ask)
    try:
        with _changed:
            while _must_wait(ask):
                _changed.wait(PATIENCE)
                deliver()
            ask.inside = True
        yield
    finally:
        with _changed:
            _asks.remove(ask)
            _changed.notify_all()


def _must_wait(ask: _Ask) -> bool:
    # Who is within already must not wait for those that wait for it.
    again = any(one.inside and one.thread == ask.thread for one in _asks)
    ahead = [one for one in _asks if one.inside] if again else _asks[: _asks.index(ask)]
    return any(one.thread != ask.thread and not one.parts.isdisjoint(ask.parts) for one in ahead)


def _parts(thing: object) -> set[int]:
    """The ids of what a model is made of. Its dicts are copied first: another thread may be loading weights into it."""
    found: set[int] = set()
    left = [thing]
    while left:
        one = left.pop()
        if id(one) in found:
            continue
        found.add(id(one))
        if isinstance(one, Module):
            left += [module for module in list(one._modules.values()) if module is not None]
            for store in (one._parameters, one._buffers):
                found.update(id(tensor) for tensor in list(store.values()) if tensor is not None)
    return found


def _only_this_thread() -> None:
    """After a fork there is one thread, and nobody left to give way."""
    global _changed
    _changed = threading.Condition()
    _asks[:] = [ask for ask in _asks if ask.thread == threading.get_ident()]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_only_this_thread)
