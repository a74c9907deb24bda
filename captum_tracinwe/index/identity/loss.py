"""A loss by all that makes it: code, constants, defaults, captured values, attributes, tensors."""

from __future__ import annotations

import dis
import enum
import functools
import hashlib
import sys
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.index.identity.written import written_by

__all__ = ["INTERNAL", "Pieces", "describe_loss", "of_library"]

# Modules by the names that indexes have for them: those by which the first indexes were built, wherever a module stands now.
WRITTEN_AS = {
    "captum_tracinwe.app.testing": "captum_tracinwe.testing",
    "captum_tracinwe.gradients.token_losses": "captum_tracinwe.losses",
}
# Functions and classes of these are what their name says.
LIBRARIES = {*sys.stdlib_module_names, "torch", "numpy", "transformers", "captum", "captum_tracinwe"} - {"__main__"}
PLAIN = (int, float, complex, str, bytes, bool, type(None), type(Ellipsis), range, slice, torch.dtype, torch.Size)
#: What every module has, beside what its output depends on. `training` and a device leave a loss the same.
INTERNAL = set(vars(nn.Module())) - {"_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks"}


def written_as(module: str) -> str:
    """The name of a module in an index."""
    return WRITTEN_AS.get(module, module)


def describe_loss(loss: Any, model: nn.Module | None = None) -> str:
    """A loss by its name, its plain settings, and the start of the SHA-256 of all that makes it.

    Args:
        loss (callable or None): None for the model's own.
        model (Module, optional): where the loss refers to it, it stands for itself: its weights are those of a checkpoint.

    Raises:
        ValueError: something in it cannot be recognised in another process.
    """
    if loss is None:
        return "the model's own"
    digest = hashlib.sha256()
    for piece in Pieces(model).of(loss, "loss_fn"):
        digest.update(f"{len(piece)}:".encode() + piece)
    shown = loss
    while isinstance(shown, functools.partial):
        shown = shown.func
    named = shown if hasattr(shown, "__qualname__") else type(shown)
    settings = {} if named is shown else vars(shown) if hasattr(shown, "__dict__") else {}
    told = [
        f"{name}={value!r:.40}"
        for name, value in sorted(settings.items())
        if isinstance(value, (int, float, str, type(None))) and name != "training" and not name.startswith("_")
    ]
    where = f"{written_as(named.__module__)}." if named.__module__ else ""
    return f"{where}{named.__qualname__}({', '.join([*told, f'sha256 {digest.hexdigest()[:16]}'])})"


class Pieces:
    """What an object is made of, as bytes that are the same in every process.

    Args:
        model (Module or None): stands for itself wherever it is referred to.
        strict (bool): raise ValueError at what cannot be recognised. Otherwise its kind counts, and of containers that are
            captured or held, and of attributes that an object's own methods write, not the content: it changes by use.
    """

    def __init__(self, model: nn.Module | None, strict: bool = True) -> None:
        self._model, self._strict = model, strict
        self._seen: dict[int, int] = {}
        self._held: list[Any] = []  # an id counts as long as its object lives

    def of(self, value: Any, path: str) -> Iterator[bytes]:
        """The pieces of a value; ``path`` says where it was found."""
        if isinstance(value, nn.Module):
            value = unwrap(value)
        if isinstance(value, enum.Enum):
            yield f"{type(value).__qualname__}.{value.name}".encode()
        elif isinstance(value, PLAIN):
            yield f"{type(value).__name__} {value!r}".encode()
        elif isinstance(value, torch.device):
            yield b"a device"
        elif isinstance(value, ModuleType):
            yield f"module {written_as(value.__name__)}".encode()
        elif value is self._model:
            yield b"the model"
        elif id(value) in self._seen:
            yield f"again {self._seen[id(value)]}".encode()
        else:
            if not isinstance(value, (Tensor, np.ndarray, np.generic, Mapping, list, tuple, set, frozenset)):
                # Not of values: whether two equal constants are one object is up to the interpreter.
                self._seen[id(value)] = len(self._seen)
                self._held.append(value)
            yield from self._inside(value, path)

    def _inside(self, value: Any, path: str) -> Iterator[bytes]:
        value = getattr(value, "_torchdynamo_orig_callable", value)  # what torch.compile was given
        if isinstance(value, Tensor):
            yield f"tensor {value.dtype} {tuple(value.shape)}".encode()
            if value.device.type != "meta":  # which has a shape and no values
                value = value.detach().dequantize() if value.is_quantized else value.detach()
                value = value if value.layout is torch.strided else value.to_dense()
                yield value.cpu().resolve_conj().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        elif isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind != "O":
            yield f"array {value.dtype} {value.shape}".encode()
            yield value.tobytes()
        elif isinstance(value, Mapping):
            yield f"mapping of {len(value)}".encode()
            for key in value:
                yield from self.of(key, path)
                yield from self.of(value[key], f"{path}[{key!r:.40}]")
        elif isinstance(value, (list, tuple)):
            yield f"{type(value).__name__} of {len(value)}".encode()
            for number, one in enumerate(value):
                yield from self.of(one, f"{path}[{number}]")
        elif isinstance(value, (set, frozenset)):
            # Each by itself, for an order that is the same in every process.
            yield from sorted(b"|".join(Pieces(self._model, self._strict).of(one, path)) for one in value)
            yield f"set of {len(value)}".encode()
        elif isinstance(value, functools.partial):
            yield b"partial"
            for name in ("func", "args", "keywords"):
                yield from self.of(getattr(value, name), f"{path}.{name}")
        elif isinstance(value, MethodType):
            yield from self.of(value.__func__, path)
            yield from self._object(value.__self__, f"{path}.__self__")
        elif isinstance(value, (FunctionType, BuiltinFunctionType, type)) and of_library(value):
            yield f"{written_as(value.__module__)}.{value.__qualname__}".encode()
            if isinstance(value, FunctionType):
                yield from self._captured(value, path)
            elif not isinstance(value, type) and not isinstance(value.__self__, (ModuleType, type(None))):
                yield from self.of(value.__self__, f"{path}.__self__")  # a method of a value: weight.mul
        elif isinstance(value, FunctionType):
            yield from self._function(value, path)
        elif isinstance(value, (staticmethod, classmethod)):
            yield from self.of(value.__func__, path)
        elif isinstance(value, property):
            yield from self.of((value.fget, value.fset), path)
        elif isinstance(value, type):
            yield from self._class(value, path)
        elif isinstance(value, nn.Module) or (callable(value) and (not of_library(type(value)) or _ours(value))):
            yield from self._object(value, path)
        elif isinstance(value, np.ufunc):
            yield f"ufunc {value.__name__}".encode()
        else:
            yield self._unknown(value, path)

    def _held_by(self, value: Any, path: str) -> Iterator[bytes]:
        """Of what a function has captured or names, or an object holds."""
        if not self._strict and isinstance(value, (list, set, Mapping)):
            yield type(value).__qualname__.encode()
        else:
            yield from self.of(value, path)

    def _unknown(self, value: Any, path: str) -> bytes:
        if self._strict:
            raise _unknown(value, path)
        return type(value).__qualname__.encode()

    def _function(self, function: FunctionType, path: str) -> Iterator[bytes]:
        name = f"{path} ({function.__qualname__})"
        yield b"function"
        yield from self._code(function.__code__, function, name)
        for what in ("__defaults__", "__kwdefaults__", "__dict__"):
            yield from self.of(getattr(function, what) or None, f"{name}.{what}")
        yield from self._captured(function, name)

    def _captured(self, function: FunctionType, path: str) -> Iterator[bytes]:
        for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:  # a variable that has no value yet
                content = None
            yield from self._held_by(content, f"{path}, captured {variable!r}")

    def _code(self, code: CodeType, function: FunctionType, path: str) -> Iterator[bytes]:
        yield code.co_code
        yield " ".join(code.co_names).encode()
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from self._code(constant, function, path)
            elif constant is None or constant != function.__doc__:
                yield from self.of(constant, path)
        names = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
        for name in sorted(names):
            if name in function.__globals__:
                yield name.encode()
                yield from self._held_by(function.__globals__[name], f"{path}, global {name!r}")

    def _class(self, kind: type, path: str) -> Iterator[bytes]:
        """What its objects do: methods and values of the class, of its bases up to those of a library."""
        yield f"class {kind.__qualname__}".encode()
        yield from self.of(kind.__bases__, f"{path}.__bases__")
        for name, value in sorted(vars(kind).items()):
            special = name.startswith("__") and name not in ("__call__", "__getattr__")
            if not special and name != "_abc_impl" and type(value).__name__ != "member_descriptor":
                yield name.encode()
                yield from self.of(value, f"{path}.{name}")

    def _object(self, value: Any, path: str) -> Iterator[bytes]:
        """Class and attributes of a module, a callable object, or what a method belongs to."""
        if value is self._model:
            yield b"the model"
            return
        if isinstance(value, type):
            yield from self.of(value, path)
            return
        slots = any("__slots__" in vars(kind) and vars(kind)["__slots__"] for kind in type(value).__mro__)
        if slots or not hasattr(value, "__dict__"):
            yield self._unknown(value, path)
            return
        yield from self.of(type(value), path)
        left_out = INTERNAL if isinstance(value, nn.Module) else set()
        if not self._strict:
            left_out = left_out | written_by(type(value), *(name for name in dir(type(value)) if name != "__init__"))
        for name, one in sorted(vars(value).items()):
            if name in ("_forward_hooks", "_forward_pre_hooks") and isinstance(value, nn.Module):
                one = list(one.values())  # their keys count all hooks of the process
            if name not in left_out:
                yield name.encode()
                yield from self._held_by(one, f"{path}.{name}")


def _ours(value: Any) -> bool:
    """Whether it is an object of this package, such as a `TokenLoss`: its class by name, its attributes by value."""
    return type(value).__module__.split(".")[0] == "captum_tracinwe"


def of_library(value: Any) -> bool:
    """Whether a function or class is what its name says."""
    module = getattr(value, "__module__", None)
    if module is None:  # of a method of a built-in value, or of code that was evaluated
        return not isinstance(value, FunctionType)
    return str(module).split(".")[0] in LIBRARIES


def _unknown(value: Any, path: str) -> ValueError:
    return ValueError(
        f"An index remembers the loss it was built with, and {path} is a {type(value).__name__}, which cannot be recognised "
        f'again. Give a named loss such as nn.CrossEntropyLoss(reduction="none"), or a function without captured objects.'
    )
