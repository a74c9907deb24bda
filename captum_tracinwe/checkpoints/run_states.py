"""Which run a checkpoint of transformers' Trainer is of, by its `trainer_state.json`: a directory may hold those of several."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from captum_tracinwe.checkpoints.metadata import Rate, Step, read_json

__all__ = ["STATE", "Logged", "RunState", "TrainerState", "different_runs", "names_of"]

#: The file in which Trainer keeps its plan and its log.
STATE = "trainer_state.json"
ARGUMENTS = "training_args.bin"
# What a state tells of its run from the first step on, before anything is logged.
PLAN = ("max_steps", "num_train_epochs", "train_batch_size", "save_steps", "logging_steps", "eval_steps")
# The arguments of a run have some KB; what is larger is not read.
MOST_ARGUMENTS = 1 << 20

Planned = int | Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)] | None


class Logged(msgspec.Struct):
    """What is read of an entry of a log."""

    step: Step = 0
    learning_rate: Rate | None = None


class TrainerState(msgspec.Struct):
    """What is read of a `trainer_state.json`."""

    global_step: Step | None = None
    log_history: list[dict[str, Any]] | None = None
    max_steps: Planned = None
    num_train_epochs: Planned = None
    train_batch_size: Planned = None
    save_steps: Planned = None
    logging_steps: Planned = None
    eval_steps: Planned = None

    def entries(self) -> list[Logged]:
        """Those of the log.

        Raises:
            ValueError: one is not as Trainer writes it.
        """
        try:
            return msgspec.convert(self.log_history or [], list[Logged])
        except msgspec.ValidationError as error:
            raise ValueError(f"log_history: {error}") from error


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
            state = read_json(file, TrainerState)
            if state.global_step is None:
                return None
            state.entries()  # steps and rates are numbers
            small = arguments.is_file() and arguments.stat().st_size <= MOST_ARGUMENTS
            content = arguments.read_bytes() if small else None
            return cls.of(msgspec.structs.asdict(state), content, file.stat().st_mtime)
        except (OSError, ValueError, RecursionError):
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
