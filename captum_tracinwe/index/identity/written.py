"""Which attributes of an object its own methods change: counters, caches, what was seen last."""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

__all__ = ["written_by"]

# Methods that change a list in place; those of tensors end with an underscore.
CHANGING = {"append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse"}


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
            before = None
            for step in dis.get_instructions(code):
                changes = step.opname in ("LOAD_ATTR", "LOAD_METHOD") and (
                    step.argval in CHANGING or (step.argval.endswith("_") and not step.argval.endswith("__"))
                )
                if step.opname == "STORE_ATTR":
                    found.add(step.argval)
                elif changes and before is not None:
                    found.add(before)
                before = step.argval if step.opname == "LOAD_ATTR" else None
            if "register_buffer" in code.co_names or "setattr" in code.co_names:
                found |= {constant for constant in code.co_consts if isinstance(constant, str)}
            pending += code.co_names
    return frozenset(found)


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
