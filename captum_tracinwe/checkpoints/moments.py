"""Adam's second moment of the word embedding, from the `optimizer.pt` of a Trainer's checkpoints, without running code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from captum_tracinwe.checkpoints.metadata import shown
from captum_tracinwe.checkpoints.rates import OPTIMIZER
from captum_tracinwe.checkpoints.reading import opened, read_torch
from captum_tracinwe.checkpoints.states import of_shape
from captum_tracinwe.preconditioners import Adam

__all__ = ["adam_of"]


def adam_of(checkpoints: Iterable[str | Path], table: Tensor) -> Adam:
    """The preconditioner that a run's own optimiser was, Adam or AdamW.

    Args:
        checkpoints (iterable of path): directories that hold ``optimizer.pt``, in the order of the TracInWE's.
        table (Tensor): the word embedding, ``(V, D)``, whose shape tells its moment from those of other parameters.

    Returns:
        Adam: with v / (1 − β₂^step) of each checkpoint, and the ε of its group. With ``amsgrad`` v is the largest so far.

    Raises:
        ValueError: a directory has no optimiser state, another optimiser's, none of the table's shape or several; checkpoints
            differ in ε; a file is damaged, or reading it could run code.

    Example:
        >>> import torch
        >>> from pathlib import Path
        >>> table = torch.nn.Embedding(5, 2)
        >>> optimizer = torch.optim.AdamW(table.parameters())
        >>> table.weight.grad = torch.full((5, 2), 3.0)
        >>> optimizer.step()
        >>> Path("checkpoint-1").mkdir()
        >>> torch.save(optimizer.state_dict(), "checkpoint-1/optimizer.pt")
        >>> adam_of(["checkpoint-1"], table.weight).second_moments[0][0].round(decimals=4).tolist()
        [9.0, 9.0]
    """
    found = [_moment(Path(checkpoint), table) for checkpoint in checkpoints]
    if len({eps for _, eps in found}) > 1:
        raise ValueError(
            f"The checkpoints were trained with several ε of Adam, {sorted({eps for _, eps in found})}: expected those of one "
            f"run. Pass the moments and one ε to captum_tracinwe.preconditioners.Adam."
        )
    return Adam([moment for moment, _ in found], *(eps for _, eps in found[:1]))


def _moment(directory: Path, table: Tensor) -> tuple[Tensor, float]:
    """The second moment of the table at one checkpoint, as Adam divides by it, and ε."""
    path = directory / OPTIMIZER
    if not path.is_file():
        raise _without(directory, f"there is no {OPTIMIZER}", "SaveCheckpoints leaves it out, Trainer keeps it")
    with opened([path]) as (file,):
        # Mapped: of the moments of all parameters only the table's comes into memory.
        content: Any = read_torch(file, path, mapped=True)
        if not _is_state(content):
            raise _without(directory, f"{OPTIMIZER} is no state of an optimiser", "save optimizer.state_dict()")
        fitting = list(of_shape(content["state"], table.shape))
        if len(fitting) != 1:
            raise _without(
                directory,
                f"{OPTIMIZER} has {len(fitting) or 'no'} parameter(s) of the word embedding's shape {tuple(table.shape)}",
                "a frozen table has no moment",
            )
        state: Mapping[Any, Any] = content["state"][fitting[0]]
        try:
            group = next(one for one in content["param_groups"] if fitting[0] in one["params"])
            moment = state["max_exp_avg_sq"] if "max_exp_avg_sq" in state else state["exp_avg_sq"]
            beta, step, eps = float(group["betas"][1]), float(state["step"]), float(group["eps"])
            if not isinstance(moment, Tensor) or moment.shape != table.shape:
                raise TypeError
        except (StopIteration, KeyError, IndexError, TypeError, ValueError, RuntimeError):
            held = shown(sorted(map(str, state)))
            raise _without(
                directory,
                f"its state in {OPTIMIZER} is no Adam's. It has {held}",
                "expected exp_avg_sq, step, betas and eps",
            ) from None
        correction = 1 - beta**step
        if not 0 < correction <= 1:
            raise _without(directory, f"β₂ is {beta} and the step {step}", "expected a step that was made")
        return (moment.double() / correction).to(moment.dtype), eps


def _is_state(content: Any) -> bool:
    if not isinstance(content, Mapping) or not isinstance(content.get("state"), Mapping):
        return False
    groups = content.get("param_groups")
    return isinstance(groups, list) and all(isinstance(group, Mapping) for group in groups)


def _without(directory: Path, what: str, hint: str) -> ValueError:
    return ValueError(
        f"Adam's second moment of the word embedding cannot be read from the checkpoint {str(directory)!r}: {what} ({hint}). "
        f"Pass the moments themselves to captum_tracinwe.preconditioners.Adam, or take another preconditioner."
    )
