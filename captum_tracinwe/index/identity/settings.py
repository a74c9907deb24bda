"""What steers a model's computation beside its weights and its config: kinds of layers, attributes, buffers, hooks."""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import re
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, SimpleNamespace
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor, nn

from captum_tracinwe.index.identity.loss import INTERNAL, Pieces, of_library
from captum_tracinwe.index.identity.read_by import Readable, readable
from captum_tracinwe.index.identity.written import written_by

__all__ = ["Settings"]

# Their settings are in the config, whose hash an index has; floats they make anew differ in the last bit between machines.
BY_CONFIG = ("transformers", "peft")
# Without a say in a pass in eval mode.
BESIDE = {
    *("training", "inplace", "sparse", "momentum", "dropout", "device", "name_or_path", "gradient_checkpointing"),
}
# What torch's layers depend on and do not name in their `__constants__`.
OF_TORCH = ("num_heads", "activation")
PLAIN = (bool, int, float, complex, str, bytes, type(None), enum.Enum, torch.dtype, torch.Size, np.generic)
FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodType, functools.partial)
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
KINDS = ("attributes", "buffers", "hooks")
# Of a manifest, which is written anew with each segment, 10 KB.
MOST_NAMED = 300
DEVICE = re.compile(r"(cpu|cuda|mps|xpu)(:\d+)?")


class Settings:
    """Hashes of a model's settings, by kind; ``str()`` is the same in every process, before and after a pass.

    Left out are names that begin with an underscore, values that are not plain, what no code could read, and what a forward
    pass itself writes (a counter, a cache, what was seen last): no index could be asked twice by a model that keeps such.

    Args:
        beside: what runs in a pass and is no part of the model: the loss.
    """

    def __init__(self, *beside: Any) -> None:
        self._beside = beside
        self._digests = {kind: hashlib.sha256() for kind in KINDS}
        # By kind, module and attribute, for who asks what differs.
        self._named: dict[tuple[str, str, str], Any] = {}

    def add(self, model: nn.Module) -> None:
        """Count the settings that a model has with one checkpoint."""
        names = dict(model.named_modules())
        read = readable(model, self._beside)
        for name, module in names.items():
            parent = names[name.rpartition(".")[0]] if name else None
            for kind, found in (
                ("attributes", _attributes(module, parent, read)),
                ("buffers", _buffers(module)),
                ("hooks", _hooks(module)),
            ):
                for what, value in found:
                    named = self._named.setdefault((kind, name, what), hashlib.sha256())
                    content = [f"{name} {what}:".encode()]
                    for piece in Pieces(model, strict=not callable(value)).of(value, what):
                        content += [f"{len(piece)}:".encode(), piece]
                    for digest in (self._digests[kind], named):
                        digest.update(b"".join(content))

    def __str__(self) -> str:
        """The hash of each kind; behind it a short one of each attribute, where there are few, or of each module."""
        totals = [f"{kind}={digest.hexdigest()[:16]}" for kind, digest in self._digests.items()]
        by_module: dict[tuple[str, str], Any] = {}
        for (kind, name, _), digest in self._named.items():
            by_module.setdefault((kind, name), hashlib.sha256()).update(digest.digest())
        if len(self._named) <= MOST_NAMED:
            named = {f"{kind}:{_quoted(name)}:{_quoted(what)}": one for (kind, name, what), one in self._named.items()}
        elif len(by_module) <= MOST_NAMED:
            named = {f"{kind}:{_quoted(name)}": one for (kind, name), one in by_module.items()}
        else:
            named = {}
        return " ".join([*totals, *(f"{key}={digest.hexdigest()[:6]}" for key, digest in named.items())])


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _attributes(module: nn.Module, parent: nn.Module | None, read: Readable) -> Iterator[tuple[str, Any]]:
    kind = type(module)
    forward = vars(module).get("forward")
    if forward is not None and not _by_others(forward):
        yield "forward", forward
    if _root(module) in BY_CONFIG or isinstance(module, nn.modules.dropout._DropoutNd):
        return
    if _root(module) == "torch":
        # Layers without weights come and go with the versions of transformers.
        if parent is not None and _root(parent) in BY_CONFIG and not module._parameters:
            return
        yield "kind", kind.__qualname__
        wanted = {*getattr(kind, "__constants__", ()), *OF_TORCH} - BESIDE
        found = {name: getattr(module, name) for name in wanted if hasattr(module, name)}
    else:
        yield "kind", kind.__qualname__
        left_out = {*INTERNAL, *HOOKS, *BESIDE, *written_by(kind, "forward"), "forward"}
        found = {
            name: value
            for name, value in vars(module).items()
            if name not in left_out and not name.startswith("_") and name in read
        }
    for name, value in sorted(found.items()):
        if isinstance(value, str) and DEVICE.fullmatch(value):
            continue
        if isinstance(value, (Tensor, *FUNCTIONS)) or _is_plain(value):
            yield name, _opened(value)


def _buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Those that no checkpoint holds; the others count among the weights."""
    if not module._non_persistent_buffers_set:
        return
    whole = _root(module) in BY_CONFIG  # whole numbers alone: those are the same on every machine
    written = written_by(type(module), "forward")
    for name in sorted(module._non_persistent_buffers_set - written):
        buffer = module._buffers.get(name)
        if buffer is not None and not (whole and (buffer.is_floating_point() or buffer.is_complex())):
            yield name, buffer


def _hooks(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Those of the user; libraries have theirs for their own needs (offloading, checkpointing of activations)."""
    for kind in HOOKS:
        for hook in getattr(module, kind, {}).values():
            if not _by_others(hook):
                yield kind, hook


def _by_others(hook: Any) -> bool:
    while isinstance(hook, functools.partial):
        hook = hook.func
    hook = getattr(hook, "__func__", hook)
    named = hook if hasattr(hook, "__qualname__") else type(hook)
    return of_library(named) or str(named.__module__).split(".")[0] in ("accelerate", "peft")


def _root(module: nn.Module) -> str:
    return type(module).__module__.split(".")[0]


def _is_plain(value: Any, depth: int = 8) -> bool:
    """A value, or a container of such and of tensors, however deep within reason: a list may hold itself."""
    inner = _content(value)
    if inner is not None:
        return depth > 0 and all(_is_plain(one, depth - 1) for one in inner)
    return isinstance(value, (Tensor, *PLAIN)) or (isinstance(value, np.ndarray) and value.dtype.kind != "O")


def _content(value: Any) -> list[Any] | None:
    """What a container holds; None of what is none."""
    if isinstance(value, (tuple, list, set, frozenset)):
        return list(value)
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    return list(vars(value).values()) if _has_fields(value) else None


def _has_fields(value: Any) -> bool:
    fields = isinstance(value, SimpleNamespace) or (dataclasses.is_dataclass(value) and not isinstance(value, type))
    return fields and hasattr(value, "__dict__")


def _opened(value: Any) -> Any:
    """A plain value with what has fields written as a mapping of them."""
    if _has_fields(value):
        return {type(value).__qualname__: {name: _opened(one) for name, one in sorted(vars(value).items())}}
    if isinstance(value, Mapping):
        return {key: _opened(one) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        return [type(value).__name__, *map(_opened, value)]
    return value
