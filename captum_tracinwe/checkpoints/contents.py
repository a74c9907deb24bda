"""What a checkpoint holds for a model: its state dict, found among what training scripts save with it, and the rate."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakSet

from torch import Tensor
from torch.nn import Module

from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.checkpoints import reading
from captum_tracinwe.checkpoints.adapter_configs import check_config
from captum_tracinwe.checkpoints.adapters import ADAPTER_FILES, active_adapter, adapter_state, adapter_weights
from captum_tracinwe.checkpoints.files import has_weights, weight_files
from captum_tracinwe.checkpoints.folders import DEEPSPEED, shards_folder
from captum_tracinwe.checkpoints.layouts import converted
from captum_tracinwe.checkpoints.metadata import checked_rate, shown
from captum_tracinwe.checkpoints.names import (
    Ambiguous,
    is_old_buffer,
    renamed,
    unwrapped,
    versions_of,
    without_old_buffers,
)
from captum_tracinwe.checkpoints.rates import rate_in_force, rate_within
from captum_tracinwe.checkpoints.reading import Unread, opened, read_safetensors, read_torch
from captum_tracinwe.checkpoints.sharded import opened_shards
from captum_tracinwe.gradients.embedding import find_embedding

__all__ = ["Held", "read", "word_table"]

# The names under which training scripts nest a state dict, preferred first. Under others it is found by the model's names.
NESTS = ("model_state_dict", "state_dict", "model")
RATES = ("learning_rate", "lr")
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?(inf|nan)", re.ASCII)
# How deep a state dict may lie: {"app": {"model": ...}} of torch.distributed has two.
DEEPEST = 3

_told_of_the_rest: WeakSet[Module] = WeakSet()
_told_of_two_rates: WeakSet[Module] = WeakSet()


@dataclass(frozen=True)
class Held:
    """What a checkpoint holds.

    Args:
        state (dict): under the model's own names where they could be told.
        wanted (collection of str): which of the model's names have to be in it.
        given (any): the learning rate that was put beside the state dict; None where there is none.
        rate (float, optional): that of an optimiser or scheduler whose state stands in the file.
        versions (mapping, optional): of the modules' ways of saving, which torch keeps with a state dict.
    """

    state: dict[str, Any]
    wanted: Collection[str]
    given: Any = None
    rate: float | None = None
    versions: Mapping[str, Any] | None = None


def read(model: Module, path: Path) -> Held:
    """What a file or directory holds for ``model``.

    Raises:
        ValueError: it cannot be read, or two parts of it could be meant.
    """
    folder = shards_folder(path) if path.is_dir() and not has_weights(path, sharded=False) else None
    if folder is not None:
        with opened_shards(folder) as shards:
            nest = _nest(shards.content, model, path)
            notes = folder / "meta.pt"  # where Lightning keeps the rest
            rest = _of_file(notes) if notes.is_file() else {}
            return _held(model, {**rest, **shards.content}, nest, shards.tensors(nest), path)
    paths = _paths(path, active_adapter(model))
    if paths[0].name in ADAPTER_FILES:
        check_config(model, paths[0].parent)
    merged: dict[str, Any] = {}
    held = None
    with opened(paths) as files:
        mapped = sum(os.fstat(file.fileno()).st_size for file in files) > reading.MAPPED_FROM
        for file, part in zip(files, paths, strict=True):
            if part.suffix == ".safetensors":
                found, notes_of_file = read_safetensors(file, part, mapped)
                merged |= found
                rate = _noted_rate(notes_of_file, part)
                if rate is not None and len(paths) == 1:
                    return Held(*_fitted(model, merged, path), rate)
                continue
            try:
                content = read_torch(file, part, mapped)
            except ValueError as error:
                raise _of_deepspeed(part, error) from error
            if len(paths) == 1:
                nest = _nest(content, model, part)
                held = _held(model, content, nest, dict(nest), part)
            else:
                merged |= _nest(content, model, part)
    return held or Held(*_fitted(model, merged, path))


def word_table(model: Module) -> tuple[Tensor | None, list[str]]:
    """The word embedding, as far as it can be told without ``layers``, and the names that the model has for it."""
    try:
        table = find_embedding(model).weight
    except (ValueError, TypeError):
        return None, []
    named = unwrap(model).named_parameters(remove_duplicate=False)
    return table, [name for name, parameter in named if parameter is table]


def _paths(path: Path, adapter: str | None) -> list[Path]:
    """The files of weights of a path."""
    if not path.is_dir():
        return [path]
    if adapter is not None and not has_weights(path) and has_weights(path / adapter):
        path = path / adapter  # where PEFT puts an adapter of another name than "default"
    paths = weight_files(path)
    if paths[0].name in ADAPTER_FILES and adapter is None:
        raise ValueError(
            f"The checkpoint {str(path)!r} holds an adapter only ({paths[0].name}), and the model has none: expected a PEFT "
            f"model. Wrap it with peft.PeftModel.from_pretrained(model, {str(path)!r})."
        )
    return paths


def _of_file(path: Path) -> Mapping[str, Any]:
    """What stands beside weights; nothing where it cannot be read without running code."""
    try:
        with opened([path]) as (file,):
            content = read_torch(file, path)
    except ValueError:
        return {}
    return content if isinstance(content, Mapping) else {}


def _of_deepspeed(path: Path, error: ValueError) -> ValueError:
    if path.name != DEEPSPEED:
        return error
    script = path.parent.parent / "zero_to_fp32.py"
    return Unread(
        f"{error} DeepSpeed saves objects of the training script with the weights: convert it with `python {script} "
        f"{path.parent.parent} CONVERTED -t {path.parent.name}` and pass the folder CONVERTED."
    )


def _noted_rate(notes: Mapping[str, str], path: Path) -> float | None:
    said = notes.get("learning_rate")
    if said is None:
        return None
    if not NUMBER.fullmatch(said):  # Python reads 1_0 and full-width digits, too
        raise ValueError(
            f"The learning rate of the checkpoint {str(path)!r} cannot be read: its metadata has learning_rate {shown(said)}, "
            f"expected a finite number ≥ 0. Save it anew, or pass a checkpoints_load_func that returns the rate."
        )
    return float(said)


# ---------------------------------------------------------------------------------------------------- the state dict


def _nest(content: Any, model: Module, path: Path) -> Mapping[str, Any]:
    """The state dict within what a file holds: the one under a usual name, else the only one with the model's names."""
    if not isinstance(content, Mapping):
        raise ValueError(f"The checkpoint {str(path)!r} holds a {type(content).__name__}: expected a state dict.")
    own = unwrap(model).state_dict()
    usual = next((content[key] for key in NESTS if isinstance(content.get(key), Mapping)), None)
    first = _weights(content, own) if usual is None else usual
    adapter = adapter_state(model)

    def fits(state: Mapping[str, Any]) -> bool:
        try:
            return renamed(state, own) is not None or (adapter is not None and renamed(state, adapter) is not None)
        except Ambiguous:  # said where it is loaded
            return True

    if _has_names(first) and not fits(first):
        nests = {name: nest for name, nest in _nests(content, DEEPEST) if nest is not first}
        fitting = [name for name, nest in nests.items() if fits(nest)]
        if len(fitting) > 1:
            raise ValueError(
                f"The checkpoint {str(path)!r} has the model's weights several times, under {', '.join(fitting[:8])}: expected "
                f"one of them. Save the one that is meant, or pass a checkpoints_load_func that loads it."
            )
        if fitting or not any(isinstance(value, Tensor) for value in first.values()):
            largest = sorted(nests, key=lambda name: sum(isinstance(value, Tensor) for value in nests[name].values()))
            first = nests[(fitting or largest)[-1]] if nests else first
    odd = next((key for key in first if not isinstance(key, str)), None)
    if odd is not None:
        raise ValueError(
            f"The checkpoint {str(path)!r} has the key {shown(odd)}, a {type(odd).__name__}: expected the names of weights. "
            f"Save model.state_dict(), or use captum_tracinwe.save_checkpoint."
        )
    return first


def _weights(content: Mapping[Any, Any], own: Collection[str]) -> dict[Any, Any]:
    """A flat dict without what is said beside weights. In it a model's own buffer may be called `step`."""
    return {
        key: value
        for key, value in content.items()
        if key in own
        or not isinstance(key, str)
        or (isinstance(value, Tensor) and key not in (*RATES, "step", "epoch"))
    }


def _has_names(state: Mapping[Any, Any]) -> bool:
    return all(isinstance(key, str) for key in state)


def _nests(content: Mapping[Any, Any], depth: int, ahead: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The dicts in a checkpoint that have tensors under names, and where they are."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            if value and _has_names(value) and any(isinstance(inner, Tensor) for inner in value.values()):
                yield f"{ahead}{key}", value
            if depth > 1:
                yield from _nests(value, depth - 1, f"{ahead}{key}.")


def _held(
    model: Module, content: Mapping[str, Any], nest: Mapping[str, Any], state: dict[str, Any], path: Path
) -> Held:
    """With the rate that a file tells beside a state dict."""
    own = unwrap(model).state_dict()
    flat = not any(nest is inner for _, inner in _nests(content, DEEPEST))
    given = next((content[key] for key in RATES if key in content and not (flat and key in own)), None)
    fitted = _fitted(model, state, path)
    versions = versions_of(nest, fitted[0])
    if given is None:
        return Held(*fitted, None, rate_within(content, nest, *word_table(model), path), versions)
    try:
        number = checked_rate(given, f"checkpoint {str(path)!r}")
        in_force = rate_in_force(content, nest, *word_table(model), number, path)
    except ValueError:  # an odd rate that is used is told where it is; Adafactor's may be None
        in_force = None
    if in_force is None:
        return Held(*fitted, given, versions=versions)
    if model not in _told_of_two_rates:
        _told_of_two_rates.add(model)
        key = next(key for key in RATES if key in content)
        warnings.warn(
            f"The checkpoint {str(path)!r} has {key!r} {shown(given)}, and its optimiser or scheduler the rate {in_force:.6g} "
            f"for the word embedding. The second is used, here and in others like it: it is the rate in force. Where the "
            f"first is meant pass a checkpoints_load_func that calls load_checkpoint and returns it.",
            stacklevel=5,
        )
    return Held(*fitted, None, in_force, versions)


def _fitted(model: Module, state: dict[str, Any], path: Path) -> tuple[dict[str, Any], Collection[str]]:
    """A state dict under the model's own names, and which of these it has to hold; as it is where they cannot be told."""
    inner = unwrap(model)
    own = inner.state_dict()
    try:
        found = renamed(state, own)
        if found is None:
            named = renamed(state, adapter_state(model) or {}) if active_adapter(model) else None
            adapter = adapter_weights(model, named or state, path)
            if adapter is not None:
                return adapter
    except Ambiguous as error:
        raise ValueError(
            f"The checkpoint {str(path)!r} has the weights of the model {type(inner).__name__} several times: {error}. Expected "
            f"them once. Save the state_dict() of the part that is meant, or pass a checkpoints_load_func that loads it."
        ) from error
    wanted = [name for name, value in own.items() if not is_old_buffer(name, value)]
    mended = without_old_buffers(inner, state if found is None else found, own)
    if found is None or mended.keys() - own.keys() or any(_other_shape(mended[name], own[name]) for name in mended):
        for one in unwrapped(state):
            theirs = converted(inner, one)
            if theirs is not None and (theirs := renamed(theirs, own)) is not None:
                return without_old_buffers(inner, theirs, own), wanted
    if found is not None and model not in _told_of_the_rest:
        used = {id(value) for value in found.values()}
        rest = [name for name, value in state.items() if id(value) not in used and not is_old_buffer(name, value)]
        if rest:
            _told_of_the_rest.add(model)
            warnings.warn(
                f"The checkpoint {str(path)!r} holds more than the model {type(inner).__name__}: "
                f"{', '.join(rest[:3])}{', ...' * (len(rest) > 3)} ({len(rest)}). That is not used, here and in others like it.",
                stacklevel=5,
            )
    return mended, wanted


def _other_shape(value: Any, own: Any) -> bool:
    return isinstance(value, Tensor) and isinstance(own, Tensor) and not value.is_nested and value.shape != own.shape
