"""Learning rates within the states of optimisers and schedulers, wherever a training script has put these."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["groups_of", "of_shape", "of_table", "scheduled", "states_within"]

# Lightning's are three levels deep, as lists within the checkpoint. A file may be nested at will.
DEEPEST = 4


def states_within(content: Any, beside: Any = None) -> tuple[list[Mapping[Any, Any]], list[Mapping[Any, Any]]]:
    """The states of optimisers and those of schedulers, told by their form, in a checkpoint; not in what is ``beside`` them."""
    optimisers: list[Mapping[Any, Any]] = []
    schedulers: list[Mapping[Any, Any]] = []
    for one in _mappings(content, beside, DEEPEST):
        if groups_of(one) is not None:
            optimisers.append(one)
        elif scheduled(one) is not None:
            schedulers.append(one)
    return optimisers, schedulers


def _mappings(content: Any, beside: Any, depth: int) -> Iterator[Mapping[Any, Any]]:
    if content is beside or depth == 0:
        return
    if isinstance(content, Mapping):
        yield content
    inner = content.values() if isinstance(content, Mapping) else content if isinstance(content, (list, tuple)) else ()
    for one in inner:
        if isinstance(one, (Mapping, list, tuple)):
            yield from _mappings(one, beside, depth - 1)


def groups_of(state: Mapping[Any, Any]) -> list[Mapping[str, Any]] | None:
    """The parameter groups of an optimiser's state, each with its rate; None where it is none."""
    groups = state.get("param_groups")
    if isinstance(groups, Mapping):  # as torch.distributed keeps a list
        groups = list(groups.values())
    if isinstance(groups, list) and groups and all(isinstance(one, Mapping) and "lr" in one for one in groups):
        return groups
    flat = [(key, rate) for key, rate in state.items() if isinstance(key, str) and key.startswith("param_groups.")]
    rates = [(key.removeprefix("param_groups.")[:-3], rate) for key, rate in flat if key.endswith(".lr")]
    # torch.distributed's flattened form has a rate for each parameter.
    return [{"params": [name], "lr": rate} for name, rate in rates] or None


def scheduled(state: Mapping[Any, Any]) -> list[Any] | None:
    """The rates of a scheduler's state, one for each group; None where it is none."""
    rates = state.get("_last_lr")
    return list(rates) if isinstance(rates, (list, tuple)) and rates else None


def of_table(
    groups: Sequence[Mapping[str, Any]], states: Any, table: Tensor | None, names: Collection[str]
) -> list[int]:
    """Which groups train the word table, by the names of their parameters, or where there are none by its shape."""
    named = [
        any(isinstance(name, str) and _same(name, own) for name in _members(group) for own in names) for group in groups
    ]
    if any(named):
        return [i for i, has in enumerate(named) if has]
    if not isinstance(states, Mapping) or table is None:
        return []
    # torch.distributed makes text of the numbers.
    fitting = {str(parameter) for parameter in of_shape(states, table.shape)}
    return [i for i, group in enumerate(groups) if fitting & {str(one) for one in _members(group)}]


def _members(group: Mapping[str, Any]) -> list[Any]:
    held = [group.get("params"), group.get("param_names")]
    return [one for some in held if isinstance(some, (list, tuple)) for one in some if isinstance(one, (int, str))]


def _same(name: str, own: str) -> bool:
    """Whether two names are one weight's, a prefix more or less."""
    return name == own or name.endswith(f".{own}") or own.endswith(f".{name}")


def of_shape(states: Mapping[Any, Any], shape: torch.Size) -> set[Any]:
    """The numbers of the parameters of a shape, of those that an optimiser has state of."""
    return {
        parameter
        for parameter, state in states.items()
        if isinstance(state, Mapping)
        and any(isinstance(value, Tensor) and value.shape == shape for value in state.values())
    }
