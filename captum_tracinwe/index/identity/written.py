"""Which attributes of an object its own methods change: counters, caches, what was seen last."""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

__all__ = ["written_by"]

# Methods that change a list, a dict or a set in place; those of tensors end with an underscore.
CHANGING = {
    *("append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse"),
    *("update", "setdefault", "popitem", "add", "discard", "appendleft", "popleft", "move_to_end"),
}


def written_by(kind: Any, *methods: str) -> frozenset[str]:
    """Names of attributes that some methods of a class, and those they call, write: as far as their code shows it."""
    return _written(kind, methods)


@functools.lru_cache(maxsize=256)
def _written(kind: Any, methods: tuple[str, ...]) -> frozenset[str]:
    found: set[str] = set()
    seen: set[str] = set()
    pending = list(methods)
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        methods_of = (vars(base).get(name) for base in kind.__mro__)  # a class and what it calls by super()
        codes = [code for method in methods_of for code in _codes(_code_of(method))]
        for code in codes:
            found |= _written_in(code)
            if "register_buffer" in code.co_names or "setattr" in code.co_names:
                found |= {constant for constant in code.co_consts if isinstance(constant, str)}
            pending += code.co_names
    return frozenset(found)


def _written_in(code: CodeType) -> set[str]:
    """Attributes that code sets, or whose content it sets: ``self.a = 1``, ``.a[0] = 1``, ``.a.b = 1``, ``.a.add(1)``."""
    found: set[str] = set()
    steps = [step for step in dis.get_instructions(code) if step.opname not in BETWEEN]
    # What each step has put on the stack, if it is an attribute; a local name may stand for one.
    loaded: list[str | None] = []
    entries: list[str | None] = []  # the same of an entry of one: if it changes, so does the whole
    aliases: dict[Any, str | None] = {}
    for step in steps:
        before, holder = (loaded[-1], entries[-1]) if loaded else (None, None)
        entry_of = None
        attribute = None
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            attribute = step.argval
            changes = attribute in CHANGING or (attribute.endswith("_") and not attribute.endswith("__"))
            # `self.a.b += 1` copies `self.a` before it reads `b`.
            copied = len(loaded) > 1 and steps[len(loaded) - 1].opname in COPIES
            if before is not None and (changes or copied):
                found.add(before)
            if holder is not None and attribute in CHANGING:
                found.add(holder)
        elif step.opname in COPIES:
            attribute = before
        elif step.opname == "STORE_FAST":
            aliases[step.argval] = before
        elif step.opname.startswith("LOAD_FAST"):
            attribute = aliases.get(step.argval[-1] if isinstance(step.argval, tuple) else step.argval)
        elif step.opname == "STORE_ATTR":
            found.add(step.argval)
            if before is not None:
                found.add(before)
        elif step.opname in ("BINARY_SUBSCR", "STORE_SUBSCR", "DELETE_SUBSCR"):
            place = _before_value(steps, len(loaded))
            owner = None if place is None else loaded[place] or entries[place]
            if step.opname == "BINARY_SUBSCR":
                entry_of = owner
            elif owner is not None:
                found.add(owner)
        loaded.append(attribute)
        entries.append(entry_of)
        # `self.a[0] += 1` copies both before it reads the entry.
        if _copies_two(steps, len(loaded) - 1):
            place = _before_value(steps, len(loaded) - 1)
            if place is not None and loaded[place] is not None:
                found.add(str(loaded[place]))
    return found


# Steps that neither read nor write.
BETWEEN = {"CACHE", "RESUME", "NOP", "EXTENDED_ARG", "PRECALL"}
COPIES = ("COPY", "DUP_TOP")


def _copies_two(steps: list[dis.Instruction], at: int) -> bool:
    if steps[at].opname == "DUP_TOP_TWO":
        return True
    twice = at + 1 < len(steps) and steps[at].opname == steps[at + 1].opname == "COPY"
    return twice and steps[at].arg == steps[at + 1].arg == 2


def _before_value(steps: list[dis.Instruction], stop: int) -> int | None:
    """The step before those that put the value on the stack that is on top at ``stop``."""
    needed = 1
    for place in range(stop - 1, 0, -1):
        step = steps[place]
        needed -= dis.stack_effect(step.opcode, step.arg if step.opcode >= dis.HAVE_ARGUMENT else None, jump=False)
        if needed <= 0:
            return place - 1
    return None


def _code_of(method: Any) -> CodeType | None:
    method = method.fget if isinstance(method, property) else getattr(method, "__func__", method)
    return inspect.unwrap(method).__code__ if isinstance(method, FunctionType) else None


def _codes(code: CodeType | None) -> Iterator[CodeType]:
    if code is None:
        return
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
