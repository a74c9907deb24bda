"""All that a model holds, kept aside and put back: tensors, flags, lists, dicts and objects, down to its modules and hooks."""

from __future__ import annotations

import dataclasses
import sys
from collections import OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Iterable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.utils.data import Dataset

from captum_tracinwe.batches.wrapped import unwrap

__all__ = [
    "ModelState",
    "as_saved",
    "fit_for_autograd",
    "forget_cached",
    "has_own_loading",
    "memory_of",
    "shared_memory",
]

_CONTAINERS = {dict, OrderedDict, defaultdict, list, set, deque}
_ATOMS = {int, float, bool, str, bytes, type(None)}
# Whose train() and eval() write into no weight, and whose hooks of loading keep nothing.
_KNOWN = ("torch.", "transformers.", "peft.")
# Whose objects keep nothing that a pass computes by, or much that none does, beside those of Python itself.
_LIBRARIES = {
    "torch",
    "transformers",
    "peft",
    "tokenizers",
    "datasets",
    "accelerate",
    "numpy",
    "pandas",
    "sentence_transformers",
}
#: How far an object is followed into others, and what is too long within one for what a layer keeps.
DEEP, LONG = 3, 1000


class ModelState:
    """A model as it was found.

    What a model keeps beside its weights counts as much as these: a LoRA layer that has merged its weights says so in a flag, a
    layer may keep what it made of its weights when they were loaded, an LSTM has a list of its weights.

    Args:
        model (Module): any.
        copy_weights (bool): keep a copy of each weight's numbers. False where the block puts other storage under the weights;
            then only of those into which the model itself writes.

    Attributes:
        wrote (bool): whether a weight of which a copy is kept had other numbers when it was put back.
    """

    def __init__(self, model: Module, copy_weights: bool = True) -> None:
        self._model = model
        self.wrote = False
        self._containers: list[tuple[Any, Any]] = []
        # A tensor, its memory, a copy of its numbers where they may be written to, whether it asks for a gradient.
        self._tensors: list[tuple[Tensor, Tensor, Tensor | None, bool | None]] = []
        weights, plain = _tensors_of(model, self._containers)
        copied, shared = _written_to(model), _shared(model, weights, plain)
        for tensor in weights:
            if tensor.is_inference():  # nobody can write into it
                continue
            kept = copy_weights or id(tensor) in copied or memory_of(tensor) in shared
            numbers = tensor.detach().clone() if kept else None
            self._tensors.append((tensor, tensor.data, numbers, tensor.requires_grad))
        for tensor in plain:
            if not (tensor.is_meta or tensor.is_inference() or memory_of(tensor) in shared):
                self._tensors.append((tensor, tensor.detach(), tensor.detach().clone(), None))

    def give_back(self) -> None:
        """The model as it was, to the bit."""
        self.put_back()
        if has_own_loading(self._model, _KNOWN) and all(numbers is not None for _, _, numbers, _ in self._tensors):
            # What a model makes of its weights when they are loaded may be kept where nobody else sees it.
            inner = unwrap(self._model)
            with suppress(Exception):
                inner.load_state_dict(inner.state_dict())
            self.put_back()

    @torch.no_grad()
    def put_back(self) -> None:
        """All that can be seen of the model as it was, for the next checkpoint to be loaded into."""
        for container, before in self._containers:
            _refill(container, before)
        for tensor, home, numbers, wanted in self._tensors:
            if (numbers is None and wanted is not None) or not _same_place(tensor, home):
                tensor.data = home
            if wanted is None:  # no weight; where nothing was written, somebody's graph may still need it as it is
                if numbers is not None and _differ(home, numbers):
                    home.copy_(numbers)
                continue
            if numbers is not None and _differ(tensor, numbers):
                self.wrote = True
                tensor.copy_(numbers)
            tensor.requires_grad_(wanted)


def as_saved(model: Module) -> None:
    """Bring a model to the state in which checkpoints are saved, that of training; modes are for the caller to set.

    loralib adds the weights of LoRA to those of its layers in ``eval()`` and takes them away in ``train()``, PEFT does so when
    asked to, RWKV of transformers divides weights at its first pass in eval mode. Weights loaded over that would count twice.
    """
    if any(_changes_with_mode(module) for module in model.modules()):
        model.train()
    for module in model.modules():
        if getattr(module, "layers_are_rescaled", False):
            module._rescale_layers()  # type: ignore[operator]
        unmerge = getattr(module, "unmerge", None)
        if callable(unmerge) and getattr(module, "merged", False) is True:
            unmerge()


def fit_for_autograd(model: Module) -> None:
    """In place of weights that were made within the caller's ``inference_mode``, which cannot be written to, copies of them."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in list(store.items()):
                if tensor is None or not tensor.is_inference():
                    continue
                if id(tensor) not in made:
                    with torch.inference_mode(False):
                        copy = tensor.clone()
                        made[id(tensor)] = Parameter(copy, False) if isinstance(tensor, Parameter) else copy
                setattr(module, name, made[id(tensor)])  # and not in the dict: an LSTM has a list of them, too


def forget_cached(model: Module) -> None:
    """What methods of a model's own classes keep by ``functools.lru_cache`` may be made of weights that have changed."""
    kinds = {kind for module in model.modules() for kind in type(module).__mro__ if not _is_of(kind, _KNOWN)}
    for kind in kinds:
        for method in vars(kind).values():
            clear = getattr(getattr(method, "fget", method), "cache_clear", None)
            if callable(clear):
                clear()


def has_own_loading(model: Module, known: tuple[str, ...] = ()) -> bool:
    """Whether something of a model's own runs when weights are loaded, beside what packages that are ``known`` do there."""
    inner = unwrap(model)
    if not _is_of(type(inner).load_state_dict, ("torch.nn.modules.module", *known)):
        return True
    for module in inner.modules():
        own = (
            type(module)._load_from_state_dict,
            type(module).set_extra_state,
            *module._load_state_dict_pre_hooks.values(),
            *module._load_state_dict_post_hooks.values(),
        )
        if not all(_is_of(one, ("torch.nn.modules.module", *known)) for one in own):
            return True
    return False


def shared_memory(model: Module) -> set[int]:
    """Where those weights lie that an attribute, or a buffer that no checkpoint holds, looks at as well, as ``weight.t()`` does.

    Other storage put under such a weight would be seen by the weight alone.
    """
    return _shared(model, *_tensors_of(model, []))


def _shared(model: Module, weights: list[Tensor], plain: list[Tensor]) -> set[int]:
    late = {id(module._buffers.get(name)) for module in model.modules() for name in module._non_persistent_buffers_set}
    others = [*plain, *(tensor for tensor in weights if id(tensor) in late)]
    if not others:
        return set()
    return {memory_of(one) for one in others} & {memory_of(one) for one in weights if id(one) not in late} - {0}


def _changes_with_mode(module: Module) -> bool:
    """Whether a module's own ``train()`` or ``eval()`` runs, or a pass in eval mode writes into its weights (RWKV)."""
    ways = [vars(module).get(name, getattr(type(module), name)) for name in ("train", "eval")]
    plain = all(_is_of(way, ("torch.", "transformers.modeling_utils.")) for way in ways)
    return not plain or hasattr(module, "layers_are_rescaled")


def _written_to(model: Module) -> set[int]:
    """The ids of all weights into which the model itself may write."""
    whole = has_own_loading(model, _KNOWN)
    found: set[int] = set()
    for module in model.modules():
        if whole or _changes_with_mode(module) or getattr(module, "merged", False) is True:
            found.update(id(tensor) for tensor in (*module.parameters(), *module.buffers()))
    return found


def _is_of(function: Any, packages: tuple[str, ...]) -> bool:
    hook = getattr(function, "hook", function)  # as torch wraps hooks of loading
    of = getattr(hook, "__module__", None) or type(hook).__module__
    return f"{of}.".startswith(packages)


# ------------------------------------------------------------------------------------------------------------ tensors


def _tensors_of(model: Module, containers: list[tuple[Any, Any]]) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters and buffers, and the tensors that modules keep otherwise, within containers and what has fields.

    The containers on the way are added to the list, each with its content. A loop and no recursion: BERT has 3,000 of them.
    """
    weights: dict[int, Tensor] = {}
    plain: list[Tensor] = []
    seen: set[int] = set()
    left: list[tuple[Any, int]] = []  # and within how many objects
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            weights.update((id(tensor), tensor) for tensor in store.values() if tensor is not None)
        left.append((vars(module), 0))
    while left:
        value, depth = left.pop()
        kind = type(value)
        if id(value) in seen or isinstance(value, Module):
            continue
        if kind in _CONTAINERS:
            seen.add(id(value))
            if depth and len(value) > LONG:
                continue
            of_keys = isinstance(value, dict)
            containers.append((value, dict(value) if of_keys else kind(value)))
            left += [(one, depth) for one in (value.values() if of_keys else value) if type(one) not in _ATOMS]
        elif isinstance(value, Tensor):
            seen.add(id(value))
            if id(value) not in weights:
                plain.append(value)
        elif isinstance(value, tuple):
            left += [(one, depth) for one in value]
        elif isinstance(value, SimpleNamespace) or (dataclasses.is_dataclass(value) and kind is not type):
            left.append((getattr(value, "__dict__", None), depth))
        elif depth < DEEP and _is_own(value):
            left.append((vars(value), depth + 1))
    return list(weights.values()), plain


def _is_own(value: Any) -> bool:
    """Whether it is an object of somebody's own class, in which a layer may keep what it computed."""
    if isinstance(value, (UserDict, UserList)):
        return True
    home = type(value).__module__.partition(".")[0]
    own = home == "__main__" or (home not in sys.stdlib_module_names and home not in _LIBRARIES)
    return own and not isinstance(value, (type, Dataset)) and isinstance(getattr(value, "__dict__", None), dict)


def _refill(container: Any, before: Any) -> None:
    """The content of a container as before; one that has it is not written to."""
    if isinstance(container, dict):
        for key in [key for key in container if key not in before]:
            del container[key]
        for key, value in before.items():
            if key not in container or container[key] is not value:
                container[key] = value
        if list(container) != list(before):
            container.clear()
            container.update(before)
    elif not _same(container, before):
        container.clear()
        (container.update if isinstance(container, set) else container.extend)(before)


def _same(some: Iterable[Any], others: Iterable[Any]) -> bool:
    some, others = list(some), list(others)
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


def memory_of(tensor: Tensor) -> int:
    """Where its numbers lie; 0 where they lie nowhere."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, ValueError, NotImplementedError):  # sparse, not yet made, or made of other tensors
        return 0


def _same_place(tensor: Tensor, home: Tensor) -> bool:
    of = [(one.shape, one.dtype, one.device, memory_of(one)) for one in (tensor, home)]
    return of[0] == of[1] and (not of[0][3] or tensor.storage_offset() == home.storage_offset())


def _differ(some: Tensor, others: Tensor) -> bool:
    plain = type(some) in (Tensor, Parameter) and type(others) is Tensor and some.device.type == "cpu"
    try:
        if plain and some.is_contiguous() and others.is_contiguous() and not some.numel() * some.element_size() % 8:
            # By their bits, as whole numbers of NumPy: a fifth of the time for 4 MB.
            one, other = (part.detach().reshape(-1).view(torch.int64).numpy() for part in (some, others))
            return not np.array_equal(one, other)
        return not torch.equal(some, others)
    except (RuntimeError, NotImplementedError):  # of a kind that torch cannot compare
        return True
