"""Which attributes of a model's modules any code could read in a pass: what none reads cannot change a gradient."""

from __future__ import annotations

import dis
import functools
import re
import sys
from collections.abc import Iterable, Mapping
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from captum_tracinwe.index.identity.loss import LIBRARIES, of_library

__all__ = ["Readable", "readable"]

# Where one of these is used, a name that is read need not stand in the code.
BY_ANY_NAME = {
    "vars",
    "__dict__",
    "__getattribute__",
    "attrgetter",
    "getmembers",
    "eval",
    "exec",
    "globals",
    "locals",
    "dir",
}
BY_GIVEN_NAME = ("getattr", "hasattr")
READS = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "DELETE_ATTR")
BETWEEN = ("CACHE", "PUSH_NULL", "EXTENDED_ARG", "PRECALL", "NOP")
NAME = re.compile(r"\w+(\.\w+)*")
# Libraries too; what they do to a model, its config says.
BESIDE_OURS = ("peft", "accelerate")
# Holds what the user gave it: a loss.
OURS = "captum_tracinwe."
FOUND_IN = (list, tuple, set, frozenset, Mapping)


class Readable:
    """Names that are read somewhere; all names, if code reads by names that it makes."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.all = False

    def __contains__(self, name: str) -> bool:
        return self.all or name in self.names


def readable(model: nn.Module, beside: Iterable[Any] = ()) -> Readable:
    """What the code of a model's own modules reads, and of all functions, classes and objects that this code can come to.

    It goes by names: ``model.scale`` is read where any ``.scale`` is read or ``"scale"`` stands alone. Only what sets an
    attribute does not read it. Code of libraries is looked at where it computes with a module of the user: as its parent in
    the model, or as a class that its class builds on.

    Args:
        beside: what else runs in a pass: the loss, hooks.
    """
    found = Readable()
    for module in model.modules():
        if _is_own(type(module)) or any(_is_own(type(child)) for child in module.children()):
            for kind in type(module).__mro__:
                if not _is_own(kind) and kind not in (nn.Module, object):
                    found.names |= _names_in_library(kind)
    pending: list[Any] = [model, *beside]
    seen: set[int] = set()
    held: list[Any] = []  # an id counts as long as its object lives
    while pending and not found.all:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        held.append(value)
        for function in _functions(value):
            for name, whole in _reads(function.__code__):
                found.names.add(name)
                found.all = found.all or whole
            pending += _mentioned(function)
        pending += _within(value)
    return found


def _is_own(value: Any) -> bool:
    """Whether a function or class is the user's."""
    return not of_library(value) and str(value.__module__).split(".")[0] not in BESIDE_OURS


def _functions(value: Any) -> list[FunctionType]:
    """The function that a value is at bottom, if it is the user's."""
    while isinstance(value, (MethodType, staticmethod, classmethod)):
        value = value.__func__
    return [value] if isinstance(value, FunctionType) and _is_own(value) else []


def _within(value: Any) -> list[Any]:
    """Where else code may lie: in a class, its bases, an object's class and attributes, containers, what is wrapped."""
    if isinstance(value, (str, bytes, int, float, complex, type(None), ModuleType, Tensor)):
        return []
    if isinstance(value, MethodType):
        return [value.__self__]
    if isinstance(value, property):
        return [value.fget]
    if isinstance(value, type):
        return [*vars(value).values(), *value.__bases__] if _is_own(value) else []
    if isinstance(value, FOUND_IN):
        return [*value, *value.values()] if isinstance(value, Mapping) else list(value)
    wrapped = [getattr(value, name, None) for name in ("__wrapped__", "func", "args", "keywords")]
    if isinstance(value, FunctionType):
        return [*wrapped, *(cell.cell_contents for cell in value.__closure__ or () if cell != CellType())]
    if isinstance(value, nn.Module) or not of_library(type(value)) or type(value).__module__.startswith(OURS):
        return [type(value), *wrapped, *getattr(value, "__dict__", {}).values()]
    return wrapped


def _mentioned(function: FunctionType) -> list[Any]:
    """What a function's code has a name for: globals, what modules among them hold, what it imports."""
    found: list[Any] = [function.__defaults__, function.__kwdefaults__]
    names = _all_names(function.__code__)
    known = function.__globals__
    modules = [known[name] for name in names if name in known]
    package = known.get("__package__") or ""
    modules += [sys.modules.get(name) or sys.modules.get(f"{package}.{name}") for name in names]  # imported within
    for one in modules:
        if not isinstance(one, ModuleType):
            found.append(one)
        elif one.__name__.split(".")[0] not in {*LIBRARIES, *BESIDE_OURS}:
            found += [vars(one)[name] for name in names if name in vars(one)]
    return found


@functools.lru_cache(maxsize=4096)
def _all_names(code: CodeType) -> frozenset[str]:
    inner = [_all_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return frozenset(code.co_names).union(*inner)


@functools.lru_cache(maxsize=4096)
def _reads(code: CodeType) -> frozenset[tuple[str, bool]]:
    """Names that a piece of code reads, each with whether by it any other is read."""
    found: set[tuple[str, bool]] = set()
    steps = [step for step in dis.get_instructions(code) if step.opname not in BETWEEN]
    for place, step in enumerate(steps):
        if step.opname in READS or step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "IMPORT_FROM"):
            name = str(step.argval)
            by_any = name in BY_ANY_NAME or (name in BY_GIVEN_NAME and not _of_constant(steps, place + 1))
            if by_any or step.opname in READS:
                found.add((name, by_any))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _reads(constant)
        elif isinstance(constant, str) and NAME.fullmatch(constant):
            found |= {(part, False) for part in constant.split(".")}
    return frozenset(found)


def _of_constant(steps: list[dis.Instruction], place: int) -> bool:
    """Whether the arguments from here on are one object, as ``self.mix`` is, and then a constant."""
    if place < len(steps) and steps[place].opname.startswith(("LOAD_FAST", "LOAD_DEREF", "LOAD_GLOBAL", "LOAD_NAME")):
        if isinstance(steps[place].argval, tuple):  # two at once: the name is a variable
            return False
        place += 1
    while place < len(steps) and steps[place].opname == "LOAD_ATTR":
        place += 1
    return place < len(steps) and steps[place].opname == "LOAD_CONST" and isinstance(steps[place].argval, str)


@functools.lru_cache(maxsize=256)
def _names_in_library(kind: type) -> frozenset[str]:
    """All names in a library's class, and in the functions beside it if it has a forward pass of its own."""
    functions = [one for value in vars(kind).values() for one in _plain_functions(value)]
    if "forward" in vars(kind) and not kind.__module__.startswith("torch."):
        beside = vars(sys.modules[kind.__module__]) if kind.__module__ in sys.modules else {}
        functions += [one for value in beside.values() for one in _plain_functions(value)]
    return frozenset().union(*(_all_names(function.__code__) for function in functions))


def _plain_functions(value: Any) -> list[FunctionType]:
    value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    return [value] if isinstance(value, FunctionType) else []
