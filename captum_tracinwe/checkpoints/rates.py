"""Which learning rate the embedding had at a checkpoint: from the files beside its weights, or what stands with them in one."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from captum_tracinwe.checkpoints.folders import WEIGHTS, is_of_training
from captum_tracinwe.checkpoints.metadata import checked_rate, read_json, shown
from captum_tracinwe.checkpoints.reading import first_line, opened, read_torch
from captum_tracinwe.checkpoints.run_states import STATE, TrainerState
from captum_tracinwe.checkpoints.states import groups_of, of_table, scheduled, states_within

__all__ = ["OPTIMIZER", "rate_beside", "rate_in_force", "rate_within", "trainer_rate"]

#: The file in which Trainer keeps the state of its optimiser.
OPTIMIZER = "optimizer.pt"
SCHEDULER = "scheduler.pt"
# Where accelerate's save_state puts one and the other; further ones have a number.
NUMBERED = re.compile(r"(optimizer|scheduler)(_[0-9]{1,3})?\.bin")


def trainer_rate(directory: Path, table: Tensor | None, names: Collection[str] = ()) -> float | None:
    """η_c of ``directory``: what the scheduler would use for the step after it.

    Args:
        directory (Path): a ``checkpoint-*`` of Trainer, or what accelerate's ``save_state`` wrote.
        table (Tensor, optional): the word embedding, whose shape tells its parameter group in ``optimizer.pt``.
        names (collection of str): the model's names for it, which tell its group where an optimiser was given names.

    Returns:
        float or None: None where the directory says nothing of a rate. Where groups have different rates and the
        embedding's cannot be told, the first group's, with a warning. Without ``scheduler.pt`` and ``optimizer.pt`` what was
        logged of the step after it, by later checkpoints of the run; else the last rate logged before, with a warning.

    Raises:
        ValueError: a file that should hold it cannot be read.
    """
    pairs = _pairs(directory)
    rates = [_scheduled(scheduler) for scheduler, _ in pairs]
    known = {rate for some in rates for rate in some or ()}
    alike = len(known) == 1 and None not in rates
    groups = [None if alike else _groups(optimizer) for _, optimizer in pairs]
    found = [
        some if some is not None else [group["lr"] for group in own or ()]
        for some, own in zip(rates, groups, strict=True)
    ]
    if not any(found):
        return _logged(directory)
    if len({rate for some in found for rate in some}) == 1:
        return next(rate for some in found for rate in some)
    of_embedding = [
        some[i]
        for (_, optimizer), own, some in zip(pairs, groups, found, strict=True)
        for i in (of_table(own, _states(optimizer), table, names) if own is not None else ())
        if i < len(some)
    ]
    return _the_one(of_embedding, found, directory)


def rate_within(content: Any, beside: Any, table: Tensor | None, names: Collection[str], path: Path) -> float | None:
    """η_c by the states of optimisers, else of schedulers, that stand in a file with the weights; as for `trainer_rate`.

    Args:
        content (any): of the file.
        beside (any): the state dict in it, which is not searched.
        table (Tensor, optional): the word embedding.
        names (collection of str): the model's names for it.
        path (Path): of the file, for messages.
    """
    of_embedding, found = _found_within(content, beside, table, names, path)
    return _the_one(of_embedding, found, path) if found else None


def rate_beside(path: Path, table: Tensor | None, names: Collection[str]) -> float | None:
    """η_c by the states in files beside one of weights, with the numbers of its name: `optimizer-2.pt` of `model-2.pt`."""
    numbers = re.findall(r"\d+", path.stem)
    alike = [one for one in path.parent.iterdir() if re.findall(r"\d+", one.stem) == numbers] if numbers else []
    states = []
    for one in sorted(alike):
        if one != path and one.suffix in WEIGHTS and is_of_training(one):
            with suppress(ValueError):  # that there is no rate is said
                states.append(_loaded(one))
    return rate_within(states, None, table, names, path)


def rate_in_force(
    content: Any, beside: Any, table: Tensor | None, names: Collection[str], given: float, path: Path
) -> float | None:
    """The embedding's rate by the states in a file, where it is another than the one ``given`` there; as for `rate_within`.

    What scripts put beside their weights may be the rate that they began with; an optimiser's own is the one in force. None: it
    is the same, or which one is the embedding's cannot be told.
    """
    of_embedding, found = _found_within(content, beside, table, names, path)
    rates = set(of_embedding) or {rate for some in found for rate in some}
    # One may be of float32, or a text of fewer digits.
    alike = any(math.isclose(rate, given, rel_tol=1e-5) for rate in rates)
    return None if alike or len(rates) != 1 else next(iter(rates))


def _found_within(
    content: Any, beside: Any, table: Tensor | None, names: Collection[str], path: Path
) -> tuple[list[float], list[list[float]]]:
    """The rates of the groups that train the word table, and all, of each optimiser or else scheduler."""
    optimisers, schedulers = states_within(content, beside)
    groups = [groups_of(one) or [] for one in optimisers]
    found = [[group["lr"] for group in some] for some in groups] or [scheduled(one) or [] for one in schedulers]
    found = [[checked_rate(rate, f"checkpoint {str(path)!r}") for rate in some] for some in found]
    states = [one.get("state") for one in optimisers]
    return [found[n][i] for n, some in enumerate(groups) for i in of_table(some, states[n], table, names)], found


def _the_one(of_embedding: Sequence[float], found: Sequence[Sequence[float]], path: Path) -> float:
    """The rate of the embedding's group; where it cannot be told the first one's, and a warning if they differ."""
    rates = [rate for some in found for rate in some]
    if len(set(of_embedding)) == 1:
        return of_embedding[0]
    if len(set(rates)) > 1:
        warnings.warn(
            f"The checkpoint {str(path)!r} has parameter groups of different learning rates {shown(rates)}, and which of them "
            f"trains the word embedding cannot be told. That of the first group, {rates[0]:.6g}, is used. Pass a "
            f"checkpoints_load_func that returns the right one.",
            stacklevel=6,
        )
    return rates[0]


def _pairs(directory: Path) -> list[tuple[Path, Path]]:
    """The files of each scheduler and its optimiser; those of Trainer, which need not be there, where there are no others."""
    matches = [NUMBERED.fullmatch(entry.name) for entry in directory.iterdir()]
    numbers = sorted({match[2] or "" for match in matches if match})
    theirs = [(directory / f"scheduler{number}.bin", directory / f"optimizer{number}.bin") for number in numbers]
    own = (directory / SCHEDULER, directory / OPTIMIZER)
    return [own] if not theirs or any(path.is_file() for path in own) else theirs


def _scheduled(path: Path) -> list[float] | None:
    content = _loaded(path)
    found = None if content is None else content.get("_last_lr")
    if not isinstance(found, (list, tuple, type(None))):
        raise _odd(path, f"has a _last_lr that is {shown(found)}, expected a list of numbers")
    return [_rate(rate, path) for rate in found] if found else None


def _groups(path: Path) -> list[Mapping[str, Any]] | None:
    """Parameter groups, each with a rate; the optimiser's tensors are not read for it."""
    content = _loaded(path, values=False)
    if content is not None and any(isinstance(rate, Tensor) for rate in _rates(content)):
        content = _loaded(path)
    if content is None:
        return None
    groups = content.get("param_groups")
    if groups is not None and not (isinstance(groups, list) and all(isinstance(group, Mapping) for group in groups)):
        raise _odd(path, f"has param_groups that are {shown(groups)}, expected a list of dicts")
    if not groups or not all("lr" in group for group in groups):
        return None
    return [{**group, "lr": _rate(group["lr"], path)} for group in groups]


def _rates(content: Mapping[Any, Any]) -> list[Any]:
    groups = content.get("param_groups")
    return [group.get("lr") for group in groups if isinstance(group, Mapping)] if isinstance(groups, list) else []


def _states(path: Path) -> Any:
    content = _loaded(path, values=False)
    return None if content is None else content.get("state")


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
