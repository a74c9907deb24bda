"""Which learning rate the embedding had at a checkpoint of transformers' Trainer, from the files beside its weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.checkpoints.metadata import checked_rate, read_json, shown
from captum_tracinwe.checkpoints.reading import first_line, opened, read_torch
from captum_tracinwe.checkpoints.run_states import STATE, TrainerState

__all__ = ["OPTIMIZER", "of_shape", "trainer_rate"]

#: The file in which Trainer keeps the state of its optimiser.
OPTIMIZER = "optimizer.pt"
SCHEDULER = "scheduler.pt"


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
        rates = [group["lr"] for group in groups]
    if rates is None:
        return _logged(directory)
    if len(set(rates)) == 1:
        return rates[0]
    of_table = _groups_of_shape(directory, groups, table) if groups is not None and table is not None else []
    if len(of_table) == 1 and of_table[0] < len(rates):
        return rates[of_table[0]]
    warnings.warn(
        f"The checkpoint {str(directory)!r} has parameter groups of different learning rates {shown(rates)}, and which of them "
        f"trains the word embedding cannot be told: that of the first group, {rates[0]:.6g}, is used. Pass a "
        f"checkpoints_load_func that returns the right one.",
        stacklevel=5,
    )
    return rates[0]


def _scheduled(directory: Path) -> list[float] | None:
    content = _loaded(directory / SCHEDULER)
    found = None if content is None else content.get("_last_lr")
    if not isinstance(found, (list, tuple, type(None))):
        raise _odd(directory / SCHEDULER, f"has a _last_lr that is {shown(found)}, expected a list of numbers")
    return [_rate(rate, directory / SCHEDULER) for rate in found] if found else None


def _groups(directory: Path) -> list[Mapping[str, Any]] | None:
    """Parameter groups, each with a rate; the optimiser's tensors are not read for it."""
    content = _loaded(directory / OPTIMIZER, values=False)
    if content is not None and any(isinstance(rate, Tensor) for rate in _rates(content)):
        content = _loaded(directory / OPTIMIZER)
    if content is None:
        return None
    groups = content.get("param_groups")
    if groups is not None and not (isinstance(groups, list) and all(isinstance(group, Mapping) for group in groups)):
        raise _odd(directory / OPTIMIZER, f"has param_groups that are {shown(groups)}, expected a list of dicts")
    if not groups or not all("lr" in group for group in groups):
        return None
    return [{**group, "lr": _rate(group["lr"], directory / OPTIMIZER)} for group in groups]


def _rates(content: Mapping[Any, Any]) -> list[Any]:
    groups = content.get("param_groups")
    return [group.get("lr") for group in groups if isinstance(group, Mapping)] if isinstance(groups, list) else []


def _groups_of_shape(directory: Path, groups: Sequence[Mapping[str, Any]], table: Tensor) -> list[int]:
    """Groups that hold a parameter with optimiser state of the table's shape."""
    content = _loaded(directory / OPTIMIZER, values=False)
    states = content.get("state") if content is not None else None
    if not isinstance(states, Mapping):
        return []
    fitting = of_shape(states, table.shape)
    members = [group.get("params") for group in groups]
    held = [{p for p in some if isinstance(p, int)} if isinstance(some, list) else set() for some in members]
    return [i for i, some in enumerate(held) if some & fitting]


def of_shape(states: Mapping[Any, Any], shape: torch.Size) -> set[Any]:
    """The numbers of the parameters of a shape, of those that an optimiser has state of."""
    return {
        parameter
        for parameter, state in states.items()
        if isinstance(state, Mapping)
        and any(isinstance(value, Tensor) and value.shape == shape for value in state.values())
    }


def _loaded(path: Path, values: bool = True) -> Mapping[Any, Any] | None:
    """None where there is no such file. Nothing pickled is run."""
    if not path.is_file():
        return None
    try:
        with opened([path]) as (file,):
            content = read_torch(file, path, values=values)
    except ValueError as error:
        raise _odd(path, f"is truncated, or holds more than tensors and plain values ({error})") from error
    if not isinstance(content, Mapping):
        raise _odd(path, f"holds {shown(content)}, expected a dict")
    return content


def _rate(rate: Any, path: Path) -> float:
    try:
        return checked_rate(rate, "holds something else")
    except ValueError as error:
        raise _odd(path, str(error).rstrip(".")) from error


def _odd(path: Path, what: str) -> ValueError:
    return ValueError(
        f"The learning rate of the checkpoint {str(path.parent)!r} cannot be read: {path.name} {what}. Remove it to go by the "
        f"training log, or pass a checkpoints_load_func that returns the rate."
    )


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
        state = read_json(path, TrainerState)
        return state.global_step, {
            entry.step: entry.learning_rate for entry in state.entries() if entry.learning_rate is not None
        }
    except ValueError as error:
        raise ValueError(
            f"The learning rate of the checkpoint {str(path.parent)!r} cannot be read: {STATE} is not as Trainer writes it "
            f"({first_line(error)}). Remove it, or pass a checkpoints_load_func that returns the rate."
        ) from error
