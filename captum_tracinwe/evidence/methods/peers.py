"""Scores of other systems behind the same call, whatever their axes and sign. None of them is a dependency."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.evidence.methods.examples import Examples, Method, checked

__all__ = ["peer"]

AXES = ("test, train", "train, test")


def peer(compute: Callable[[Examples, Examples], Any], *, axes: str, positive_is_proponent: bool = True) -> Method:
    """An installed peer as a method.

    Kronfluence's ``load_pairwise_scores(name)["all_modules"]`` has the axes ``"test, train"`` (it says query, train); TRAK's
    ``finalize_scores`` and dattri's and dattri-llm's ``attribute`` give ``"train, test"``. Of others, such as bergson, try it on
    sets of different sizes: the wrong way round is refused.

    Args:
        compute (callable): ``(test, train)`` → a matrix: tensor, array, memory map or nested lists.
        axes (str): of that matrix.
        positive_is_proponent (bool): False where a positive score means that the loss on the test example rises.

    Raises:
        TypeError, ValueError: no function, other axes; from the method, what is no matrix or does not fit.

    Example:
        >>> import torch
        >>> from captum_tracinwe.evidence.methods import Examples, peer
        >>> texts = Examples((torch.ones(3, 5), torch.zeros(3)))
        >>> peer(lambda test, train: torch.ones(3, 3), axes="train, test")(texts, texts).shape
        torch.Size([3, 3])
    """
    if not callable(compute):
        raise TypeError(f"peer: expected a function (test, train) -> scores, got {compute!r:.60}.")
    if axes not in AXES:
        raise ValueError(f"peer: expected `axes` as one of {AXES}, got {axes!r}.")

    def scores(test: Examples, train: Examples) -> Tensor:
        given = compute(test, train)
        try:
            found = torch.as_tensor(given)
        except (TypeError, ValueError, RuntimeError) as error:
            inside = f" of {', '.join(map(repr, given))}" if isinstance(given, dict) else ""
            raise TypeError(
                f"peer: expected of `compute` a matrix of scores, got {type(given).__name__}{inside}."
            ) from error
        found = found if axes == AXES[0] else found.T
        return checked(found if positive_is_proponent else -found, test, train, "the peer")

    return scores
