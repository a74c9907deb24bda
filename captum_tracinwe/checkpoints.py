"""Checkpoints that carry their learning rate: saving atomically, loading without running code, finding them on disk."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import tempfile
import warnings
import zipfile
from collections.abc import Collection, Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from captum_tracinwe.adapters import ADAPTER_FILES, active_adapter, adapter_state, adapter_weights, only_adapter_trains
from captum_tracinwe.embedding import input_embeddings, unwrap
from captum_tracinwe.interrupts import whole
from captum_tracinwe.rates import trainer_rate
from captum_tracinwe.run_states import different_runs
from captum_tracinwe.turns import alone

__all__ = ["assign_checkpoint", "check_whole", "find_checkpoints", "load_checkpoint", "save_checkpoint"]

# The names under which training scripts nest a state dict.
NESTS = ("model_state_dict", "state_dict", "model")
RATES = ("learning_rate", "lr")
# What transformers writes into a checkpoint directory, preferred first.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    *ADAPTER_FILES,
)

NO_WEIGHTS = (".txt", ".json", ".jsonl", ".md", ".csv", ".log", ".yaml", ".yml", ".html", ".png")

_told_of_missing_rate: WeakSet[Module] = WeakSet()


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
    rate = _checked_rate(learning_rate, f"save_checkpoint({str(path)!r})")
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
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(model: Module, path: str | Path) -> float:
    """Load a checkpoint into ``model`` and return its learning rate: the default ``checkpoints_load_func``.

    Reads what :func:`save_checkpoint` writes, plain and nested state dicts (``torch.save`` or safetensors; keys with the
    prefixes of DataParallel and torch.compile too) and checkpoint directories of transformers' Trainer, whose rate is that of
    the scheduler (:func:`captum_tracinwe.rates.trainer_rate`). Of a PEFT model's adapter the weights alone: the base model
    stays as it is. Nothing pickled is run.

    Args:
        model (Module): takes the weights; unchanged if they do not fit.
        path (str or Path): a file, or a directory that holds ``model.safetensors`` or ``pytorch_model.bin``.

    Returns:
        float: η_c. 1.0 if the checkpoint carries none, with a warning once per model.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: truncated, not a checkpoint, of another architecture, or a pickle that would run code.

    Example:
        See :func:`save_checkpoint`.
    """
    return _load(model, path, assign=False)


def assign_checkpoint(model: Module, path: str | Path) -> float:
    """As :func:`load_checkpoint`, but the file's mapped memory is put under the weights instead of being copied into them.

    The storage that the weights had is not written to, so that whoever kept it can put it back. BERT-base costs no memory
    of its own this way, where a copy kept aside and another one read would cost 880 MB.
    """
    return _load(model, path, assign=True)


def _load(model: Module, path: str | Path, assign: bool) -> float:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"No checkpoint at {str(path)!r}: expected a file or a directory with weights.")
    own = unwrap(model).state_dict().keys()
    content, rate = _read(path, own, active_adapter(model))
    content = _stripped(content, own)
    content, wanted = adapter_weights(model, content, path) or (content, own)
    with alone(model):
        whole(lambda: _load_into(model, content, wanted, path, assign))
    if rate is None and path.is_dir():
        given = input_embeddings(model)
        rate = trainer_rate(path, getattr(given, "weight", None))
        if rate == 0:
            warnings.warn(
                f"The checkpoint {path.name!r} has a learning rate of 0, as schedules end: it adds nothing to any score. Explain "
                f"with checkpoints from before the end.",
                stacklevel=3,
            )
    if rate is None:
        if model not in _told_of_missing_rate:
            _told_of_missing_rate.add(model)
            warnings.warn(
                f"The checkpoint {path.name!r} carries no learning rate: 1.0 is used, for it and for others like it. Scores "
                f"then weigh all checkpoints alike, and their unit is that of a rate of 1. Save with "
                f"captum_tracinwe.save_checkpoint(path, model, learning_rate), or put 'learning_rate' beside the state dict.",
                stacklevel=3,
            )
        return 1.0
    return _checked_rate(rate, f"checkpoint {str(path)!r}")


def find_checkpoints(checkpoints: str | Path | Iterable[Any]) -> list[Any]:
    """A list of checkpoints in natural order (``step-9`` before ``step-10``) from a directory, a file, or a list of paths.

    Of a directory: its ``checkpoint-*`` subdirectories if it has any, as transformers' Trainer makes them; else the
    directory itself, if it holds one model's weights; else every entry that may be a checkpoint (no hidden file, no text,
    no directory without weights). Of another iterable: its items, sorted if all are paths; they may be anything that the
    loader takes.

    Raises:
        ValueError: there are none, or a Trainer's directory holds those of several runs.
    """
    found: list[Any]
    if isinstance(checkpoints, (str, Path)):
        place = Path(checkpoints)
        entries = list(place.iterdir()) if place.is_dir() else []
        of_trainer = [entry for entry in entries if entry.is_dir() and re.fullmatch(r"checkpoint-\d+", entry.name)]
        if of_trainer:
            found = _natural(map(str, of_trainer))
            mixed = different_runs(of_trainer)
            if mixed is not None:
                raise ValueError(mixed)
        elif place.is_file() or _has_weights(place):
            found = [str(place)]
        else:
            found = _natural(str(entry) for entry in entries if _may_be_checkpoint(entry))
        where = f"{str(checkpoints)!r} is " + (
            "a directory without checkpoints" if place.is_dir() else "neither a file nor a directory"
        )
    else:
        if checkpoints is not None and not isinstance(checkpoints, Iterable):
            raise TypeError(f"`checkpoints` should be a directory or a list of paths, got {checkpoints!r}.")
        found = list(checkpoints) if checkpoints is not None else []
        where = f"got {checkpoints!r}"
        if found and all(isinstance(item, (str, Path)) for item in found):
            found = _natural(found)
    if not found:
        raise ValueError(
            f"Invalid checkpoints provided for TracIn class: {checkpoints}! Expected a directory with checkpoints, or a list "
            f"of at least one path; {where}. Save some along training with captum_tracinwe.save_checkpoint."
        )
    return found


def check_whole(path: Path) -> None:
    """See that a checkpoint directory has all its weights, without reading them.

    Raises:
        ValueError: no file of weights, a shard missing, or a file that is cut.
    """
    for file in _weight_files(path):
        with open(file, "rb") as content:
            zipped = content.read(2) == b"PK"
        if file.suffix == ".safetensors":
            from safetensors import SafetensorError, safe_open

            try:
                with safe_open(file, framework="pt"):
                    continue
            except SafetensorError as error:
                raise ValueError(_unreadable(file, error)) from error
        if zipped and not zipfile.is_zipfile(file):  # its directory stands at its end
            raise ValueError(_unreadable(file, EOFError("its end is missing")))


def _has_weights(place: Path) -> bool:
    return any((place / name).is_file() for name in WEIGHT_FILES)


def _may_be_checkpoint(entry: Path) -> bool:
    if entry.name.startswith("."):
        return False
    return _has_weights(entry) if entry.is_dir() else entry.suffix not in NO_WEIGHTS


def _natural(paths: Iterable[Any]) -> list[Any]:
    """Sorted so that numbers within names count as numbers."""

    def key(path: Any) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]

    return sorted(paths, key=key)


def _checked_rate(rate: Any, where: str) -> float:
    if isinstance(rate, Tensor) and rate.numel() == 1:
        rate = rate.item()
    if isinstance(rate, bool) or not isinstance(rate, Real) or not math.isfinite(rate) or rate < 0:
        raise ValueError(f"{where}: expected a learning rate that is a finite number ≥ 0, got {rate!r}.")
    return float(rate)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ----------------------------------------------------------------------------------------------------------- reading


def _read(path: Path, own: Collection[str], adapter: str | None = None) -> tuple[dict[str, Tensor], Any]:
    """State dict and learning rate (None if there is none) of a file or directory, for a model with keys ``own``."""
    if path.is_dir():
        return _read_directory(path, own, adapter)
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        # Mapped, not read: an embedding's 94 MB cost what is looked up. Files from before torch 1.6 cannot be mapped.
        mappable = zipfile.is_zipfile(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"The checkpoint {str(path)!r} is refused: it holds more than tensors and plain values, and reading it could run "
            f"code. Expected a state dict; save one with captum_tracinwe.save_checkpoint."
        ) from error
    except Exception as error:  # damaged pickles raise whatever their bytes happen to ask for
        raise ValueError(_unreadable(path, error)) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"The checkpoint {str(path)!r} holds a {type(content).__name__}: expected a state dict.")
    nest = next((content[key] for key in NESTS if isinstance(content.get(key), Mapping)), None)
    # In a flat dict a model's own buffer may be called `step`.
    notes = [key for key in (*RATES, "step", "epoch") if key in content and (nest is not None or key not in own)]
    state = nest if nest is not None else {key: value for key, value in content.items() if key not in notes}
    return dict(state), next((content[key] for key in RATES if key in notes), None)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt", device="cpu") as file:
        notes = file.metadata() or {}
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a safe_open is not a dict)
    rate = notes.get("learning_rate")
    return state, None if rate is None else float(rate)


def _read_directory(path: Path, own: Collection[str], adapter: str | None) -> tuple[dict[str, Tensor], Any]:
    if adapter is not None and not _has_weights(path) and _has_weights(path / adapter):
        path = path / adapter  # where PEFT puts an adapter of another name than "default"
    files = _weight_files(path)
    if files[0].name in ADAPTER_FILES and adapter is None:
        raise ValueError(
            f"The checkpoint {str(path)!r} holds an adapter only ({files[0].name}), and the model has none: expected a PEFT "
            f"model. Wrap it with peft.PeftModel.from_pretrained(model, {str(path)!r})."
        )
    if len(files) == 1:
        return _read(files[0], own)
    state: dict[str, Tensor] = {}
    for shard in files:
        state |= _read(shard, own)[0]
    return state, None


def _weight_files(path: Path) -> list[Path]:
    """The files that hold a checkpoint directory's weights: one, or its shards."""
    name = next((name for name in WEIGHT_FILES if (path / name).is_file()), None)
    if name is None:
        raise ValueError(
            f"The directory {str(path)!r} is not a checkpoint: expected one of {', '.join(WEIGHT_FILES)} in it."
        )
    if not name.endswith(".index.json"):
        return [path / name]
    try:
        shards = sorted(set(json.loads((path / name).read_text())["weight_map"].values()))
    except (json.JSONDecodeError, KeyError, AttributeError) as error:
        raise ValueError(f"The index {str(path / name)!r} cannot be read: expected a JSON `weight_map`.") from error
    missing = [shard for shard in shards if not (path / shard).is_file()]
    if missing:
        raise ValueError(f"The checkpoint {str(path)!r} is not whole: expected the shards {shards}, missing {missing}.")
    return [path / shard for shard in shards]


def _unreadable(path: Path, error: Exception) -> str:
    return f"The checkpoint {str(path)!r} cannot be read: it is truncated, or not a checkpoint ({_first_line(error)})."


def _first_line(error: Exception) -> str:
    text = type(error).__name__ if isinstance(error, KeyError) else str(error).strip()
    return (text.splitlines() or [type(error).__name__])[0]


# ----------------------------------------------------------------------------------------------------------- loading


def _stripped(state: dict[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Keys without the prefixes that DataParallel and torch.compile put before them, unless the model's own have them."""
    for prefix in ("module.", "_orig_mod."):
        if state and all(key.startswith(prefix) for key in state) and not all(key.startswith(prefix) for key in own):
            state = {key[len(prefix) :]: value for key, value in state.items()}
    return state


def _load_into(model: Module, state: dict[str, Tensor], wanted: Collection[str], path: Path, assign: bool) -> None:
    """Load by our own check first: `load_state_dict` copies what fits before it complains of the rest."""
    inner = unwrap(model)
    own = inner.state_dict()
    # Tied weights are one tensor under several names; safetensors keeps the first only.
    places: dict[int, list[str]] = {}
    for key, tensor in own.items():
        if isinstance(tensor, Tensor) and tensor.numel():
            places.setdefault(tensor.data_ptr(), []).append(key)
    for names in places.values():
        source = next((name for name in names if name in state), None)
        if source is not None:
            for name in names:
                if own[name].shape == own[source].shape:
                    state.setdefault(name, state[source])
    problems = []
    missing, unexpected = [k for k in wanted if k not in state], [k for k in state if k not in own]
    for what, keys in (("missing", missing), ("unexpected", unexpected)):
        if keys:
            problems.append(f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' * (len(keys) > 3)})")
    for key, tensor in own.items():
        if key in state and isinstance(tensor, Tensor) and getattr(state[key], "shape", None) != tensor.shape:
            got = tuple(state[key].shape) if isinstance(state[key], Tensor) else type(state[key]).__name__
            problems.append(f"{key} is {got}, expected {tuple(tensor.shape)}")
        elif key in state and _is_quantised(tensor) and type(state[key]) is not type(tensor):
            problems.append(f"{key} is a {type(state[key]).__name__}, expected a quantised {type(tensor).__name__}")
    if problems:
        raise ValueError(
            f"The checkpoint {str(path)!r} does not fit the model {type(inner).__name__}: {'; '.join(problems[:5])}. Expected a "
            f"checkpoint of this very architecture."
        )
    if not assign:
        inner.load_state_dict(state, strict=False)
        return
    for key, tensor in inner.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor) or key not in state:
            continue
        if _is_quantised(tensor):  # its values lie in tensors of its own, and setting `data` changes none of them
            owner, _, name = key.rpartition(".")
            new = torch.nn.Parameter(state[key].to(tensor.device), requires_grad=False)
            inner.get_submodule(owner).register_parameter(name, new)
        else:
            tensor.data = state[key].to(device=tensor.device, dtype=tensor.dtype)


def _is_quantised(tensor: Any) -> bool:
    """Whether a tensor is made of others, as torchao's weights of 8 or 4 bits are."""
    return bool(is_traceable_wrapper_subclass(tensor))
