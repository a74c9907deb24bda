"""What the experiments demand of scores, seeds and of a retraining's answers: no NaN becomes a rank or a mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.batches.arguments import is_plain, kind_of

__all__ = ["checked_answers", "checked_mask", "checked_scores", "checked_seeds", "checked_wholes"]


def checked_scores(scores: Any, what: str, dims: int = 2) -> Tensor:
    """``scores`` in float64 on the CPU.

    Raises:
        TypeError: no tensor.
        ValueError: other dimensions than (test, training) examples, or values that are NaN or infinite.
    """
    if not is_plain(scores):
        raise TypeError(f"{what}: expected scores as a tensor, dense and of real numbers, got {kind_of(scores)}.")
    if scores.dim() != dims:
        shape = "(N, M), test x training examples" if dims == 2 else "(M,), one for each training example"
        raise ValueError(f"{what}: expected scores {shape}, got {tuple(scores.shape)}.")
    found: Tensor = scores.detach().cpu().double()
    bad = ~found.isfinite()
    if bool(bad.any()):
        raise ValueError(
            f"{what}: {int(bad.sum())} of {bad.numel()} scores are NaN or infinite, which have no rank: expected finite numbers. "
            f"The first stands at {tuple(bad.nonzero()[0].tolist())}."
        )
    return found


def checked_answers(answers: Any, jobs: int, tests: int, what: str) -> Tensor:
    """What a retraining answers, ``(jobs, tests)`` in float64 on the CPU.

    Raises:
        TypeError, ValueError: no tensor, another shape, NaN or infinite.
    """
    if not isinstance(answers, Tensor) or answers.shape != (jobs, tests):
        got = tuple(answers.shape) if isinstance(answers, Tensor) else type(answers).__name__
        raise (ValueError if isinstance(answers, Tensor) else TypeError)(
            f"{what}: expected of the retraining one answer per job and test example, a tensor ({jobs}, {tests}) such as the "
            f"probability of the true class, got {got}."
        )
    found = answers.detach().cpu().double()
    bad = ~found.isfinite()
    if bool(bad.any()):
        job, test = bad.nonzero()[0].tolist()
        got = "NaN" if bool(found[job, test].isnan()) else str(float(found[job, test]))
        raise ValueError(
            f"{what}: the retraining of job {job} answers {got} for test example {test}: expected a finite number. "
            f"Has its loss diverged?"
        )
    return found


def checked_wholes(values: Sequence[Any], what: str, name: str) -> tuple[int, ...]:
    """``values`` as whole numbers; ValueError where one is not."""
    if not isinstance(values, Iterable):
        raise TypeError(f"{what}: expected a list for `{name}`, got {values!r}: [{values!r}].")
    values = list(values)
    if not all(isinstance(value, Integral) and not isinstance(value, bool) for value in values):
        raise ValueError(f"{what}: expected whole numbers for `{name}`, got {values!r}.")
    return tuple(int(value) for value in values)


def checked_seeds(seeds: Sequence[Any], what: str) -> tuple[int, ...]:
    """Seeds: whole numbers, at least one, each once."""
    found = checked_wholes(seeds, what, "seeds")
    if not found or len(set(found)) < len(found):
        raise ValueError(f"{what}: expected at least one seed, each once, got {list(found)}.")
    return found


def checked_mask(mask: Any, size: int, what: str, name: str) -> Tensor:
    """A bool tensor ``(size,)`` on the CPU; integers would be taken for indices."""
    found = torch.as_tensor(mask).cpu()
    if found.dtype != torch.bool or found.shape != (size,):
        raise ValueError(
            f"{what}: expected `{name}` as bool ({size},), got {str(found.dtype).removeprefix('torch.')} {tuple(found.shape)}"
            f"{'' if found.dtype == torch.bool else '; say which by == or >'}."
        )
    return found
