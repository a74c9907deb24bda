"""Checkpoints that carry their learning rate: saving atomically, loading into a model that is unchanged if they do not fit."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.checkpoints.adapters import adapter_state, only_adapter_trains
from captum_tracinwe.checkpoints.contents import Held, read, word_table
from captum_tracinwe.checkpoints.files import WEIGHT_FILES, check_whole, exists, find_checkpoints
from captum_tracinwe.checkpoints.metadata import checked_rate
from captum_tracinwe.checkpoints.names import unwrapped
from captum_tracinwe.checkpoints.rates import rate_beside, trainer_rate
from captum_tracinwe.gradients.interrupts import whole
from captum_tracinwe.gradients.model_state import ModelState, has_own_loading, memory_of, shared_memory
from captum_tracinwe.gradients.turns import alone
from captum_tracinwe.whole_files import as_asked_for

__all__ = [
    "assign_checkpoint",
    "check_whole",
    "find_checkpoints",
    "load_checkpoint",
    "load_weights",
    "save_checkpoint",
]

_told_of_missing_rate: WeakSet[Module] = WeakSet()
_told_of_rate_zero: WeakSet[Module] = WeakSet()


def save_checkpoint(path: str | Path, model: Module, learning_rate: float, step: int | None = None) -> None:
    """Save the weights of ``model`` and the learning rate in force, for :func:`load_checkpoint`.

    The file appears whole or not at all: it is written under a temporary name, synced, then renamed.

    Args:
        path (str or Path): ``*.safetensors`` is written as safetensors, anything else by ``torch.save``.
        model (Module): its ``state_dict()`` is saved; of a PEFT model that trains its adapter only, the adapter's.
        learning_rate (float): η_c, the optimiser's rate at this step, finite and not negative.
        step (int, optional): kept beside it.

    Raises:
        ValueError: the learning rate is not a finite number ≥ 0.
        IsADirectoryError: ``path`` is a directory.

    Example:
        >>> import tempfile, torch
        >>> path, model = f"{tempfile.mkdtemp()}/step-100.pt", torch.nn.Embedding(10, 4)
        >>> save_checkpoint(path, model, learning_rate=0.05, step=100)
        >>> load_checkpoint(model, path)
        0.05
    """
    path = Path(path)
    rate = checked_rate(learning_rate, f"save_checkpoint({str(path)!r})")
    if path.is_dir():
        raise IsADirectoryError(
            f"save_checkpoint: {str(path)!r} is a directory: expected the path of a file. Name one in it, for instance "
            f"{str(path / f'step-{0 if step is None else step}.pt')!r}."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    # A leading dot keeps an unfinished file out of `checkpoints=directory`, whatever kills the process.
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with alone(model):  # an ask in another thread has another checkpoint in the model
            adapter = adapter_state(model) if only_adapter_trains(model) else None
            if path.suffix == ".safetensors":
                from safetensors.torch import save_file, save_model

                notes = {"learning_rate": repr(rate)} | ({} if step is None else {"step": str(step)})
                if adapter is None:
                    save_model(model, str(temporary), metadata=notes)
                else:
                    save_file({key: value.contiguous() for key, value in adapter.items()}, temporary, metadata=notes)
            else:
                state = model.state_dict() if adapter is None else adapter
                torch.save({"model_state_dict": state, "learning_rate": rate, "step": step}, temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        as_asked_for(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(model: Module, path: str | Path) -> float:
    """Load a checkpoint into ``model`` and return its learning rate: the default ``checkpoints_load_func``.

    It reads files: what :func:`save_checkpoint` writes, and state dicts, plain or inside what a script or Lightning saves
    (``torch.save`` or safetensors), with any wrapper's names and one prefix before all of them. It reads directories: of
    transformers' Trainer, of accelerate, of torch.distributed as FSDP saves, and of DeepSpeed if the weights are whole. Of a PEFT
    model's adapter it reads the weights alone, and the base model stays as it is. Layouts of transformers are converted by
    transformers itself. Nothing pickled is run.

    The rate is that beside the state dict. If there is none, it is that of the optimiser's or scheduler's state, in the file or
    in the directory (:func:`captum_tracinwe.rates.trainer_rate`): of the group of the word embedding, if that can be told. If a
    file has both and they differ, the optimiser's is the one in force. It is used, with a warning that names both.

    Files are read whole, and one that is rewritten meanwhile is refused. From
    :data:`captum_tracinwe.checkpoints.reading.MAPPED_FROM` bytes on they are mapped, and must stay as they are while in use.

    Args:
        model (Module): takes the weights; unchanged if they do not fit.
        path (str or Path): a file or a directory with weights.

    Returns:
        float: η_c. If the checkpoint carries none, it is 1.0, with a warning once per model. A rate of 0, as at the end of
        schedules, gives a warning, too.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: truncated, rewritten meanwhile, not a checkpoint, of another architecture, a pickle that would run code, or
            one that is out of proportion to its tensors; several parts could be meant; or it has to be converted first, and how.

    Example:
        See :func:`save_checkpoint`.
    """
    return _load(model, path, assign=False)


def assign_checkpoint(model: Module, path: str | Path) -> float:
    """As :func:`load_checkpoint`, but what was read is put under the weights instead of being copied into them.

    The storage that the weights had is not written to, so that whoever kept it can put it back. BERT-base costs 440 MB of
    its own this way, where a copy kept aside and another one read would cost 880 MB.
    """
    return _load(model, path, assign=True)


def load_weights(model: Module, path: Path, assign: bool = False) -> Held:
    """As :func:`load_checkpoint`, but what is told of the learning rate comes back as it was read."""
    held = read(model, path)
    with alone(model):
        whole(lambda: _load_into(model, held, path, assign))
    return held


def _load(model: Module, path: str | Path, assign: bool) -> float:
    path = Path(path)
    if not exists(path):
        raise FileNotFoundError(f"No checkpoint at {str(path)!r}: expected a file or a directory with weights.")
    held = load_weights(model, path, assign)
    if held.given is not None:
        return checked_rate(held.given, f"checkpoint {str(path)!r}")
    rate = held.rate
    beside = path if path.is_dir() else path.parent if path.name in WEIGHT_FILES else None
    if rate is None and beside is not None:
        rate = trainer_rate(beside, *word_table(model))
    elif rate is None:
        rate = rate_beside(path, *word_table(model))
    if rate == 0 and model not in _told_of_rate_zero:
        _told_of_rate_zero.add(model)
        warnings.warn(
            f"The checkpoint {path.name!r} has a learning rate of 0, as schedules end: it adds nothing to any score, nor do "
            f"others like it. Explain with checkpoints from before the end.",
            stacklevel=3,
        )
    if rate is None:
        if model not in _told_of_missing_rate:
            _told_of_missing_rate.add(model)
            warnings.warn(
                f"The checkpoint {path.name!r} carries no learning rate: 1.0 is used, for it and for others like it. Scores "
                f"then weigh all checkpoints alike, and their unit is that of a rate of 1. Save with "
                f"captum_tracinwe.save_checkpoint(path, model, learning_rate), put 'learning_rate' beside the state dict, or "
                f"pass checkpoints_load_func, a function of model and path that calls load_checkpoint and returns the right one.",
                stacklevel=3,
            )
        return 1.0
    return rate


# ----------------------------------------------------------------------------------------------------------- loading


def _load_into(model: Module, held: Held, path: Path, assign: bool) -> None:
    """Load by our own check first: `load_state_dict` copies what fits before it complains of the rest."""
    inner, state = unwrap(model), dict(held.state)
    own = inner.state_dict()
    # Tied weights are one tensor under several names; safetensors keeps the first only.
    places: dict[int, list[str]] = {}
    for key, tensor in own.items():
        if isinstance(tensor, Tensor) and tensor.numel() and tensor.data_ptr():  # 0: made of other tensors
            places.setdefault(tensor.data_ptr(), []).append(key)
    problems = []
    for names in places.values():
        given = [name for name in names if name in state]
        problems += [  # one would overwrite the other
            f"{given[0]} and {name} are one tensor in the model, and two that differ here"
            for name in given[1:]
            if own[name].shape == own[given[0]].shape and _differ(state[name], state[given[0]])
        ]
        for name in names if given else ():
            if own[name].shape == own[given[0]].shape:
                state.setdefault(name, state[given[0]])
    missing, unexpected = [k for k in held.wanted if k not in state], [k for k in state if k not in own]
    for what, keys in (("missing", missing), ("unexpected", unexpected)):
        if keys:
            problems.append(f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' * (len(keys) > 3)})")
    for key, tensor in own.items():
        problem = _misfit(state[key], tensor) if key in state and isinstance(tensor, Tensor) else None
        if problem is not None:
            problems.append(f"{key} is {problem}")
    if problems and _taken_by_the_model(inner, held, assign):
        return
    if problems:
        raise ValueError(
            f"The checkpoint {str(path)!r} does not fit the model {type(inner).__name__}: {'; '.join(problems[:5])}. Expected a "
            f"checkpoint of this very architecture, with its names: save this model's state_dict(), or pass a "
            f"checkpoints_load_func that renames the weights, loads them and returns the learning rate."
        )
    if not assign:
        inner.load_state_dict(_versioned(state, held), strict=False)
        return
    shared = shared_memory(inner)
    quantised = set()
    for key, tensor in inner.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor) or key not in state or key.endswith("_extra_state"):
            continue
        if _is_quantised(tensor):  # its values lie in tensors of its own, and setting `data` changes none of them
            quantised.add(key)
            owner, _, name = key.rpartition(".")
            new = torch.nn.Parameter(state[key].to(tensor.device), requires_grad=False)
            inner.get_submodule(owner).register_parameter(name, new)
        elif memory_of(tensor) in shared:
            tensor.detach().copy_(state[key])
        else:
            tensor.data = state[key].to(device=tensor.device, dtype=tensor.dtype)
    if has_own_loading(
        inner
    ):  # what runs there makes something of the weights; copied onto themselves, they take no time
        rest = {key: value for key, value in state.items() if key not in quantised}
        inner.load_state_dict(_versioned(rest, held), strict=False)


def _versioned(state: Mapping[str, Any], held: Held) -> OrderedDict[str, Any]:
    """With the versions by which modules see how they were saved."""
    found: Any = OrderedDict(state)
    if held.versions is not None:
        found._metadata = held.versions
    return found  # type: ignore[no-any-return]


def _taken_by_the_model(inner: Module, held: Held, assign: bool) -> bool:
    """Let a model that loads in a way of its own have names that only it knows, as hooks do that rename old ones or split them.

    It is asked strictly, and has to miss nothing and leave nothing over. Where it does the model is as it was.
    """
    own = inner.state_dict()
    odd = (_misfit(value, own[key]) for key, value in held.state.items() if isinstance(own.get(key), Tensor))
    if not has_own_loading(inner) or any(problem and not problem.startswith("(") for problem in odd):
        return False  # only another shape is for a hook to turn: torch would cut numbers, or take none from "meta"
    if any(_is_quantised(value) or (isinstance(value, Tensor) and value.is_meta) for value in held.state.values()):
        return False
    before = ModelState(inner, copy_weights=not assign)
    for names in unwrapped(held.state):
        if assign:  # what it writes into is not what the caller keeps
            shared = shared_memory(inner)
            for tensor in {id(one): one for one in inner.state_dict(keep_vars=True).values()}.values():
                if isinstance(tensor, Tensor) and not _is_quantised(tensor) and memory_of(tensor) not in shared:
                    tensor.data = tensor.data.clone()
        try:
            told = inner.load_state_dict(_versioned(names, held))
            # One of a script's own may return nothing, and be lenient.
            left = [*told.missing_keys, *told.unexpected_keys] if told is not None else own.keys() - names.keys()
        except Exception as error:  # hooks raise whatever these names happen to lead to
            left = [str(error)]
        if not left:
            return True
        before.give_back()
    return False


def _misfit(given: Any, own: Tensor) -> str | None:
    """In words: what is given in place of a weight, and what was expected. None: it fits."""
    if not isinstance(given, Tensor):
        return f"{type(given).__name__}, expected {tuple(own.shape)}"
    if given.is_nested:  # which has no shape
        return f"nested, expected a tensor of {tuple(own.shape)}"
    if given.shape != own.shape:
        return f"{tuple(given.shape)}, expected {tuple(own.shape)}"
    if _is_quantised(own) and type(given) is not type(own):
        return f"a {type(given).__name__}, expected a quantised {type(own).__name__}"
    if given.is_meta:
        return "a meta tensor, without numbers: expected a dense one"
    if given.layout != own.layout or given.is_quantized != own.is_quantized:
        kind = "quantised" if given.is_quantized else str(given.layout).removeprefix("torch.")
        return f"{kind}, expected a tensor of {own.dtype} as the model's ({str(own.layout).removeprefix('torch.')})"
    if _family(given.dtype) != _family(own.dtype):  # numbers would be cut on the way
        return f"of {given.dtype}, expected {own.dtype}"
    return None


def _differ(one: Any, two: Any) -> bool:
    """Whether two tensors of a file have other numbers; what is no plain tensor is told elsewhere."""
    if not all(
        isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta for value in (one, two)
    ):
        return False
    return one.shape == two.shape and one.data_ptr() != two.data_ptr() and not torch.equal(one, two)


def _family(dtype: torch.dtype) -> int:
    return 2 if dtype.is_complex else 1 if dtype.is_floating_point else 0


def _is_quantised(tensor: Any) -> bool:
    """Whether a tensor is made of others, as torchao's weights of 8 or 4 bits are."""
    return bool(is_traceable_wrapper_subclass(tensor))
