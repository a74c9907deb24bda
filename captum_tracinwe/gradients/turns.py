"""One ask of a model at a time: a model holds one set of weights, so that asks of several threads take turns."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.nn import Module

from captum_tracinwe.gradients.interrupts import deliver, unbroken

__all__ = ["alone"]

# How long, in seconds, somebody who waits for a turn may not notice Ctrl-C.
PATIENCE = 0.1


@dataclass(eq=False)
class _Ask:
    what: str
    thread: int
    parts: frozenset[int]
    inside: bool = False


_changed = threading.Condition()
_asks: list[_Ask] = []  # in the order in which they came


@unbroken
def alone(*things: object) -> Iterator[None]:
    """Within, no other thread is in such a block for the same ``things``; others wait, first come, first served.

    A model stands for all its modules, parameters and buffers, so that a wrapper of it, or another model that shares a part,
    waits too; so do models whose weights lie in the same memory. A thread that is within may enter again.

    What cannot be seen: a loss that hands an ask of its own model to another thread and waits for the answer waits for ever.

    Raises:
        RuntimeError: threads within would wait for each other, as when a loss of one model asks another and the reverse.
    """
    what = " and ".join(type(thing).__name__ for thing in things)
    ask = _Ask(what, threading.get_ident(), frozenset(part for thing in things for part in _parts(thing)))
    with _changed:
        _asks.append(ask)
        circle = _circle(ask)
        if circle:  # only the newest closes one: who is let in waits for nobody
            _asks.remove(ask)
            raise RuntimeError(
                f"These asks wait for each other, each in a thread of its own, from within the ask of another model: "
                f"{', '.join(one.what for one in circle)}. Expected an order in which one of them ends first; this one was given "
                f"up. Ask the models in one order everywhere (a loss of the first asks the second, never the reverse), or ask "
                f"them in one thread."
            )
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
    return bool(_before(ask))


def _before(ask: _Ask) -> list[_Ask]:
    """The asks of other threads that must have ended before this one."""
    # Who is within already must not wait for those that wait for it.
    again = any(one.inside and one.thread == ask.thread for one in _asks)
    ahead = [one for one in _asks if one.inside] if again else _asks[: _asks.index(ask)]
    return [one for one in ahead if one.thread != ask.thread and not one.parts.isdisjoint(ask.parts)]


def _circle(ask: _Ask) -> list[_Ask]:
    """The asks that wait for each other, from this one round to it; empty where there is no such circle."""
    waiting = {one.thread: one for one in _asks if not one.inside}
    ways, seen = [[ask]], {ask.thread}
    while ways:
        way = ways.pop()
        for one in _before(way[-1]):
            if one.thread == ask.thread:
                return way
            if one.thread in waiting and one.thread not in seen:
                seen.add(one.thread)
                ways.append([*way, waiting[one.thread]])
    return []


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
                tensors = [tensor for tensor in list(store.values()) if tensor is not None]
                found.update(map(id, tensors))
                found.update(map(_memory, tensors))
    return found - {0}


def _memory(tensor: Tensor) -> int:
    """Where its numbers lie (``b.data = a.data`` makes two parameters of one memory); 0 where they lie nowhere."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, ValueError):  # sparse, not yet made, or of a kind that has no memory of its own
        return 0


def _only_this_thread() -> None:
    """After a fork there is one thread, and nobody left to give way."""
    global _changed
    _changed = threading.Condition()
    _asks[:] = [ask for ask in _asks if ask.thread == threading.get_ident()]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_only_this_thread)
