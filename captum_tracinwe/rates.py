"""Which learning rate the embedding had at a checkpoint of transformers' Trainer, from the files beside its weights."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.run_states import STATE

__all__ = ["trainer_rate"]

SCHEDULER, OPTIMIZER = "scheduler.pt", "optimizer.pt"


def trainer_rate(directory: Path, table: Tensor | None) -> float | None:
    """η_c of ``directory``: what the scheduler would use for the step after it.

    Args:
        directory (Path): a ``checkpoint-*`` of Trainer.
        table (Tensor, optional): the word embedding, whose shape tells its parameter group in ``optimizer.pt``.

    Returns:
        float or None: None where the directory says nothing of a rate. Where groups have different rates and the
        embedding's cannot be told, the first group's, with a warning. Without ``scheduler.pt`` and ``optimizer.pt`` what was
        logged of the step after it, by later checkpoints of the run; else the last rate logged before, with a warning.

    Raises:
        ValueError: a file that should hold it cannot be read.
    """
    rates = _scheduled(directory)
    groups = _groups(directory) if rates is None or len(set(rates)) > 1 else None
    if rates is None and groups is not None:
        rates = [float(group["lr"]) for group in groups]
    if rates is None:
        return _logged(directory)
    if len(set(rates)) == 1:
        return rates[0]
    of_table = _groups_of_shape(directory, table) if groups is not None and table is not None else []
    if len(of_table) == 1 and of_table[0] < len(rates):
        return rates[of_table[0]]
    warnings.warn(
        f"The checkpoint {str(directory)!r} has parameter groups of different learning rates {rates}, and which of them trains "
        f"the word embedding cannot be told: that of the first group, {rates[0]:.6g}, is used. Pass a "
        f"checkpoints_load_func that returns the right one.",
        stacklevel=5,
    )
    return rates[0]


def _scheduled(directory: Path) -> list[float] | None:
    content = _loaded(directory / SCHEDULER)
    found = content.get("_last_lr") if isinstance(content, dict) else None
    return [float(rate) for rate in found] if found else None


def _groups(directory: Path) -> list[dict[str, Any]] | None:
    content = _loaded(directory / OPTIMIZER)
    groups = content.get("param_groups") if isinstance(content, dict) else None
    return groups if groups and all("lr" in group for group in groups) else None


def _groups_of_shape(directory: Path, table: Tensor) -> list[int]:
    """Groups that hold a parameter with optimiser state of the table's shape."""
    content = _loaded(directory / OPTIMIZER)
    of_shape = {
        parameter
        for parameter, state in content.get("state", {}).items()
        if any(isinstance(value, Tensor) and value.shape == table.shape for value in state.values())
    }
    return [i for i, group in enumerate(content["param_groups"]) if of_shape & set(group["params"])]


def _loaded(path: Path) -> Any:
    """None where there is no such file. Nothing pickled is run; tensors are mapped, not read."""
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # damaged pickles raise whatever their bytes happen to ask for
        raise ValueError(
            f"The learning rate of the checkpoint {str(path.parent)!r} cannot be read: {path.name} is truncated, or holds more "
            f"than tensors and plain values ({(str(error).splitlines() or [type(error).__name__])[0]}). Remove it to go by the "
            f"training log, or pass a checkpoints_load_func that returns the rate."
        ) from error


def _logged(directory: Path) -> float | None:
    """The rate of the step after the checkpoint, from the logs of the run; Trainer logs at each step the rate it used there."""
    path = directory / STATE
    if not path.is_file():
        return None
    step, logged = _log(path)
    known = {at: rate for at, rate in logged.items() if step is None or at <= step}
    if not known:
        return None
    for later in path.parent.parent.glob(f"checkpoint-*/{STATE}"):
        try:
            rates = _log(later)[1]
        except ValueError:
            continue  # said where that checkpoint is loaded
        if step is not None and step + 1 in rates and known.items() <= rates.items():  # the same run, further on
            return rates[step + 1]
    last = max(known)
    warnings.warn(
        f"The checkpoint {str(directory)!r} has no {SCHEDULER} and no {OPTIMIZER}: the rate logged at step {last}, "
        f"{known[last]:.6g}, is used for the step after its step {step}.",
        stacklevel=5,
    )
    return known[last]


def _log(path: Path) -> tuple[int | None, dict[int, float]]:
    """The step at which a state was saved, and the rates logged until then, by step."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        entries = [entry for entry in state.get("log_history", []) if "learning_rate" in entry]
        return state.get("global_step"), {int(e.get("step", 0)): float(e["learning_rate"]) for e in entries}
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"The learning rate of the checkpoint {str(path.parent)!r} cannot be read: {STATE} is not whole JSON. Remove it, or "
            f"pass a checkpoints_load_func that returns the rate."
        ) from error
