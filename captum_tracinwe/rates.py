"""What a checkpoint directory of transformers' Trainer tells of its run: the embedding's learning rate, and which run it is."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["RunState", "different_runs", "names_of", "trainer_rate"]

SCHEDULER, OPTIMIZER, STATE, ARGUMENTS = "scheduler.pt", "optimizer.pt", "trainer_state.json", "training_args.bin"
# What a state tells of its run from the first step on, before anything is logged.
PLAN = ("max_steps", "num_train_epochs", "train_batch_size", "save_steps", "logging_steps", "eval_steps")


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


# --------------------------------------------------------------------------------------------------------- which run


@dataclass(frozen=True)
class RunState:
    """A run of Trainer at one of its steps: what it was to do, and what it had logged.

    Args:
        step (int): optimiser steps done.
        plan (tuple): the values of `PLAN`.
        logs (tuple of str): the log until then, entry by entry.
        logged_at (tuple of int): the step of each entry.
        arguments (bytes, optional): the file of `TrainingArguments`, compared and never read; None where there is none.
        written (float): when, in seconds.
    """

    step: int
    plan: tuple[Any, ...]
    logs: tuple[str, ...]
    logged_at: tuple[int, ...]
    arguments: bytes | None = None
    written: float = 0.0

    @classmethod
    def of(cls, state: Mapping[str, Any], arguments: bytes | None = None, written: float = 0.0) -> RunState:
        """That of the fields of a ``TrainerState``."""
        entries = state.get("log_history") or []
        return cls(
            int(state["global_step"]),
            tuple(state.get(name) for name in PLAN),
            tuple(json.dumps(entry, sort_keys=True, default=str) for entry in entries),  # NaN is no equal of itself
            tuple(int(entry.get("step", 0)) for entry in entries),
            arguments,
            written,
        )

    @classmethod
    def at(cls, directory: Path) -> RunState | None:
        """That of a checkpoint directory; None where none can be read."""
        try:
            file, arguments = directory / STATE, directory / ARGUMENTS
            state = json.loads(file.read_text(encoding="utf-8"))
            return cls.of(state, arguments.read_bytes() if arguments.is_file() else None, file.stat().st_mtime)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def leads_to(self, later: RunState) -> bool:
        """Whether ``later`` can be the same run further on: its log begins with this one's, and goes on after this step.

        A run that is resumed may be planned anew, for more epochs say, where its log tells that it is the same. Of a run
        that has logged nothing the plan has to be the same; and it was not written later with other arguments. Either alone
        proves nothing: a copy has other times, and a run that is resumed other arguments.
        """
        shared = len(self.logs)
        if self.step > later.step or self.logs != later.logs[:shared]:
            return False
        if any(step < self.step for step in later.logged_at[shared:]):
            return False
        other_arguments = None not in (self.arguments, later.arguments) and self.arguments != later.arguments
        return shared > 0 or (self.plan == later.plan and not (other_arguments and self.written > later.written))


def different_runs(directories: Sequence[Path]) -> str | None:
    """In words: the checkpoints are of several runs, which ones, and the way out. None: nothing says so."""
    told = [(path, state) for path in directories if (state := RunState.at(path)) is not None]
    told.sort(key=lambda item: item[1].step)
    runs: list[list[tuple[Path, RunState]]] = []
    while told:
        run = [told.pop()]
        for earlier in reversed(told):
            if earlier[1].leads_to(run[0][1]):
                run.insert(0, earlier)
        told = [item for item in told if item not in run]
        runs.append(run)
    if len(runs) < 2:
        return None
    newest = max(runs, key=lambda run: max(state.written for _, state in run))
    said = [
        f"{names_of([path for path, _ in run])} (of {run[-1][1].plan[0]} steps{', the newest' if run is newest else ''})"
        for run in runs
    ]
    return (
        f"The checkpoints in {str(directories[0].parent)!r} are of {len(runs)} runs by their {STATE}: {'; '.join(said)}. "
        f"Expected those of one run, for the influence at all of them is added up. Pass checkpoints=[...] with those of one "
        f"run, or remove the others."
    )


def names_of(paths: Sequence[Path]) -> str:
    """The names of files for a message, not too many."""
    names = [path.name for path in paths]
    return ", ".join(names if len(names) <= 8 else [*names[:3], "...", names[-1]])
