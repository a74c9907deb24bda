"""Scores of other systems behind the same call, whatever their axes and sign. None of them is a dependency."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.methods.examples import Examples, Method, checked

__all__ = ["peer"]

AXES = ("test, train", "train, test")


def peer(compute: Callable[[Examples, Examples], Any], *, axes: str, positive_is_proponent: bool = True) -> Method:
    """An installed peer as a method.

    Kronfluence's pairwise scores have the axes ``"test, train"`` (it says query, train); TRAK's ``finalize_scores`` and
    dattri's and dattri-llm's ``attribute`` give ``"train, test"``.

    Args:
        compute (callable): ``(test, train)`` → a matrix: tensor, array, memory map or nested lists.
        axes (str): of that matrix.
        positive_is_proponent (bool): False where a positive score means that the loss on the test example rises.

    Raises:
        ValueError: other axes; from the method, a shape that does not fit.

    Example:
        >>> import torch
        >>> from captum_tracinwe.methods import Examples, peer
        >>> texts = Examples((torch.ones(3, 5), torch.zeros(3)))
        >>> peer(lambda test, train: torch.ones(3, 3), axes="train, test")(texts, texts).shape
        torch.Size([3, 3])
    """
    if axes not in AXES:
        raise ValueError(f"peer: expected `axes` as one of {AXES}, got {axes!r}.")

    def scores(test: Examples, train: Examples) -> Tensor:
        found = torch.as_tensor(compute(test, train))
        found = found if axes == AXES[0] else found.T
        return checked(found if positive_is_proponent else -found, test, train, "the peer")

    return scores
