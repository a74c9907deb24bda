"""Which weight of a model each name in a checkpoint means: names of wrappers, prefixes, and buffers of older versions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

__all__ = ["Ambiguous", "is_old_buffer", "renamed", "unwrapped", "versions_of", "without_old_buffers"]

# What torch puts around a module, or around a part of it: DataParallel and DDP, torch.compile, FSDP, activation checkpoints.
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module"})


class Ambiguous(ValueError):
    """Several parts of a checkpoint have the names of the model's weights."""


def renamed(state: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any] | None:
    """A state dict under a model's own names, where these can be told without guessing.

    Names of wrappers count nowhere, neither at the front nor within. Then all of a model's names may stand behind one
    prefix, as Lightning's ``model.``, or lack one. What stands beside that prefix, a loss's own buffer say, is left out.

    Args:
        state (mapping): of a checkpoint.
        own (mapping): the model's ``state_dict()``.

    Returns:
        dict or None: None where the names are others. What the model does not know keeps its name if no prefix is changed.

    Raises:
        Ambiguous: two prefixes fit, as those of a teacher and a student.
    """
    own_groups = _groups(own)
    if _covers(state, own_groups):
        return dict(state)
    # Wrapper names are left alone where names would no longer be told apart.
    theirs, ours = _plain(state), _plain(own)
    groups = [[plain for plain, key in ours.items() if key in group] for group in own_groups]
    if _covers(theirs, groups):
        return {ours.get(plain, key): state[key] for plain, key in theirs.items()}
    ways: dict[frozenset[tuple[str, str]], str] = {}
    for ahead in _prefixes(ours):  # what the model's names begin with, and the checkpoint's may not
        wanted = {name[len(ahead) :] for name in ours}
        behind = [[name[len(ahead) :] for name in group] for group in groups]
        anchors = min(behind, key=len, default=[])
        for front in {name[: -len(a)] for a in anchors for name in theirs if name == a or name.endswith(f".{a}")}:
            within = {name[len(front) :]: key for name, key in theirs.items() if name.startswith(front)}
            strange = (
                name for name, key in within.items() if name not in wanted and not is_old_buffer(name, state[key])
            )
            if _covers(within, behind) and next(strange, None) is None:
                used = frozenset((ours[ahead + name], key) for name, key in within.items() if name in wanted)
                ways.setdefault(used, front)
    if len(ways) > 1:
        raise Ambiguous(f"{' and '.join(sorted(map(repr, ways.values())))} each hold weights of all the model's names")
    return next(({name: state[key] for name, key in used} for used in ways), None)


def unwrapped(state: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A state dict as it is, without wrappers' names, and without what all its names begin with, part by part."""
    yield dict(state)
    plain = _plain(state)
    for front in _prefixes(plain):
        if front or plain.keys() != state.keys():
            yield {name[len(front) :]: state[key] for name, key in plain.items()}


def versions_of(saved: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any] | None:
    """What torch keeps with a state dict of the versions of its modules, under the names that its weights have in ``state``."""
    told = getattr(saved, "_metadata", None)
    if not isinstance(told, Mapping):
        return None
    names = {id(value): name for name, value in saved.items()}
    found: dict[str, Any] = {}
    for name, value in state.items():
        ours, theirs = name.split(".")[:-1], names.get(id(value), "").split(".")[:-1]
        found.setdefault(".".join(ours), told.get(".".join(theirs)))
        while ours and theirs and ours[-1] == theirs[-1]:  # and the modules around it
            ours, theirs = ours[:-1], theirs[:-1]
            found.setdefault(".".join(ours), told.get(".".join(theirs)))
    return {
        module: notes
        for module, notes in found.items()
        if isinstance(notes, Mapping) and isinstance(notes.get("version"), int)
    }


def without_old_buffers(model: Module, state: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict without what is no weight, and what the model makes for itself today."""
    made = {name: buffer for name, buffer in model.named_buffers() if name not in own}
    return {
        name: value
        for name, value in state.items()
        if name in own
        or not (
            is_old_buffer(name, value)
            or (isinstance(value, Tensor) and name in made and made[name].shape == value.shape)
        )
    }


def is_old_buffer(name: str, value: Any) -> bool:
    """Whether it is a constant that some version of a library kept beside weights, told by its name and its form."""
    if not isinstance(value, Tensor) or value.is_nested or value.layout != torch.strided:
        return False
    last = name.rpartition(".")[2]
    if last == "position_ids":
        counted = torch.arange(value.shape[-1] if value.dim() else 1)
        return not value.is_floating_point() and (value.is_meta or bool((value.cpu() == counted).all()))
    if last == "token_type_ids":
        return not value.is_floating_point() and (value.is_meta or not bool(value.any()))
    if last == "bias":  # the causal mask of GPT-2 and its kin: no layer has a bias of four dimensions
        return value.dim() == 4 and value.shape[:2] == (1, 1) and value.shape[2] == value.shape[3]
    if last == "masked_bias":
        return value.numel() == 1
    return last in ("inv_freq", "original_inv_freq") and value.dim() == 1 and value.is_floating_point()


def _groups(own: Mapping[str, Any]) -> list[list[str]]:
    """Names of weights, those of one tensor together, of which a file may have one; constants need not be there at all."""
    groups: dict[Any, list[str]] = {}
    for name, tensor in own.items():
        if not is_old_buffer(name, tensor):
            place = tensor.data_ptr() if isinstance(tensor, Tensor) and tensor.numel() else 0
            groups.setdefault(place or name, []).append(name)
    return list(groups.values())


def _covers(names: Mapping[str, Any], groups: Iterable[Iterable[str]]) -> bool:
    return all(any(name in names for name in group) for group in groups)


def _plain(names: Iterable[str]) -> dict[str, str]:
    """Name without its wrappers → name; as they are where two would become one."""
    names = list(names)
    plain = {".".join(part for part in name.split(".") if part not in WRAPPERS): name for name in names}
    return plain if len(plain) == len(names) else {name: name for name in names}


def _prefixes(names: Iterable[str]) -> list[str]:
    """What all names begin with, in whole parts, from nothing on."""
    split = [name.split(".")[:-1] for name in names]
    shared = 0
    while split and all(len(parts) > shared and parts[shared] == split[0][shared] for parts in split):
        shared += 1
    return ["".join(f"{part}." for part in split[0][:count]) for count in range(shared + 1)] if split else []
