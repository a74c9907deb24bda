"""What exports are given: scores, rankings and paths, looked at before anything is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.batches.arguments import is_plain, kind_of
from captum_tracinwe.whole_files import as_path

__all__ = ["as_file", "as_folder", "as_ranking", "as_scores"]

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def as_scores(scores: Any, whose: str, *, deleted: bool = False, dims: tuple[int, ...] = (2,)) -> Tensor:
    """Scores of test and training examples, if each is a number.

    Args:
        scores: as they were given.
        whose (str): the export.
        deleted (bool): −∞ is let through, as the score of a text that was deleted from an index.
        dims (tuple of int): how many dimensions there may be.

    Raises:
        TypeError: no tensor, or none of real numbers.
        ValueError: another number of dimensions; NaN or infinity.
    """
    if not isinstance(scores, Tensor):
        raise TypeError(f"{whose}: expected scores as a Tensor, got {type(scores).__name__}.")
    if scores.dim() not in dims:
        raise ValueError(f"{whose}: expected scores (N, M) of test and training examples, got {tuple(scores.shape)}.")
    if not is_plain(scores) or not scores.is_floating_point():
        raise TypeError(f"{whose}: expected scores as real numbers in a dense tensor, got {kind_of(scores)}.")
    bad = ~scores.isfinite()
    lost = scores == -torch.inf
    if deleted:
        bad = bad & ~lost
    if bool(bad.any()):
        place = tuple(bad.nonzero()[0].tolist())
        hint = ""
        if bool(lost[bad].all()):
            hint = " A text that was deleted from an index has −inf: leave it out, scores[:, scores[0] > -torch.inf]."
        raise ValueError(
            f"{whose}: {int(bad.sum())} of {bad.numel()} scores are NaN or infinite, the first at {place}: expected finite "
            f"numbers.{hint}"
        )
    return scores


def as_ranking(found: Any, whose: str, else_: str = "", ordered: bool = True) -> tuple[Tensor, Tensor]:
    """Training indices and scores, each ``(N, k)``, if they can be a ranking.

    Args:
        found: both, in a tuple or list.
        whose (str): the export.
        else_ (str): what could have been given in its place.
        ordered (bool): best first is demanded, from the highest score down or from the lowest up.

    Raises:
        TypeError: it is something else.
        ValueError: two shapes; an index below 0 or twice for a test example; scores that are not finite, or in no order.
    """
    own = isinstance(found, tuple) and hasattr(found, "indices") and hasattr(found, "influence_scores")
    parts = (found.indices, found.influence_scores) if own else tuple(found) if isinstance(found, (tuple, list)) else ()
    if len(parts) != 2 or not all(is_plain(part) and part.dim() == 2 for part in parts):
        raise TypeError(
            f"{whose}: expected {else_}training indices and scores, each (N, k), as tracin.influence(inputs, k=5) returns them. "
            f"Got {_kinds_of(found, parts)}."
        )
    indices, scores = parts
    if indices.dtype not in _WHOLE or not scores.is_floating_point():
        swapped = " Are they swapped?" if scores.dtype in _WHOLE and indices.is_floating_point() else ""
        raise TypeError(
            f"{whose}: expected whole numbers as training indices and real ones as scores, got {indices.dtype} and "
            f"{scores.dtype}.{swapped}"
        )
    if indices.shape != scores.shape:
        raise ValueError(
            f"{whose}: expected as many training indices as scores, got shapes {tuple(indices.shape)} and {tuple(scores.shape)}."
        )
    as_scores(scores, whose)
    if indices.numel() and int(indices.min()) < 0:
        raise ValueError(f"{whose}: expected training indices from 0, got {int(indices.min())}.")
    among = indices.sort(1).values
    twice = (among[:, 1:] == among[:, :-1]).any(1)
    if bool(twice.any()):
        raise ValueError(
            f"{whose}: expected each training index once for a test example, got one twice for {int(twice.nonzero()[0])}."
        )
    steps = scores[:, 1:] - scores[:, :-1]
    if ordered and bool((steps > 0).any()) and bool((steps < 0).any()):
        raise ValueError(
            f"{whose}: expected a ranking best first, from the highest score down or from the lowest up, got scores in no such "
            f"order. Of a matrix of scores (N, M) pass the matrix alone, with k."
        )
    return indices.long(), scores


def _kinds_of(found: Any, parts: tuple[Any, ...]) -> str:
    odd = next((part for part in parts if isinstance(part, Tensor) and not is_plain(part)), None)
    return type(found).__name__ if odd is None else kind_of(odd)


def as_file(given: Any, whose: str, name: str) -> Path:
    """The path of a file that can be written, as far as it can be told before.

    Raises:
        TypeError, ValueError: as of :func:`captum_tracinwe.whole_files.as_path`.
        IsADirectoryError: a folder is there.
        FileNotFoundError: there is no folder for it.
    """
    path = as_path(given, whose, name)
    if path.is_dir():
        raise IsADirectoryError(
            f"{whose}: `{name}` is {str(given)!r}, a folder: expected the path of a file. Add a name, such as 'scores.pt'."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{whose}: `{name}` is {str(given)!r}, and there is no folder {str(path.parent)!r}: expected a file in a folder "
            f"that is there. Make the folder first."
        )
    return path


def as_folder(given: Any, whose: str, name: str) -> Path:
    """The path of a folder that can be made, as far as it can be told before.

    Raises:
        TypeError, ValueError: as of :func:`captum_tracinwe.whole_files.as_path`.
        NotADirectoryError: a file is there, or in its way.
    """
    path = as_path(given, whose, name)
    there = next((one for one in (path, *path.parents) if one.exists() or one.is_symlink()), path)
    if (there.exists() or there.is_symlink()) and not there.is_dir():
        raise NotADirectoryError(
            f"{whose}: `{name}` is {str(given)!r}, and {str(there)!r} is no folder: expected a folder, or a path where one can "
            f"be made. Name another one."
        )
    return path
