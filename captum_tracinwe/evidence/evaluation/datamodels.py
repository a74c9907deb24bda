"""Linear datamodelling score: do the scores of a random part of the training set add up to what training on it gives?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from captum_tracinwe.evidence.evaluation.agreement import spearman
from captum_tracinwe.evidence.evaluation.checks import checked_answers, checked_scores

__all__ = ["lds", "random_subsets"]


def random_subsets(count: int, size: int, *, share: float = 0.5, seed: int = 0) -> Tensor:
    """bool ``(count, size)``: subsets of ``share`` of the training examples, each drawn without replacement."""
    kept = round(share * size)
    if count < 1 or not 1 <= kept <= size:
        raise ValueError(f"random_subsets: expected at least 1 subset of 1 to {size} examples, got {count} of {kept}.")
    order = torch.rand(count, size, generator=torch.Generator().manual_seed(seed)).argsort(1)
    return torch.zeros(count, size, dtype=torch.bool).scatter_(1, order[:, :kept], True)


def lds(scores: Tensor, subsets: Tensor, outputs: Tensor | Sequence[Tensor]) -> Tensor:
    """For each test example, Spearman's correlation over subsets of the output with the sum of the subset's scores.

    Args:
        scores (Tensor): ``(N, M)``, positive = proponent: a text that raises the output.
        subsets (Tensor): bool, ``(S, M)``, of :func:`random_subsets`.
        outputs (Tensor): ``(S, N)``, what the models trained on the subsets answer (the probability of the true class, mean
            over retrainings); ``retrain(subsets, seeds)``.

    Returns:
        Tensor: float64, ``(N,)``, from −1 to 1; NaN for a test example whose scores or outputs are all alike.

    Raises:
        ValueError: shapes that do not fit, or fewer than 3 subsets.

    Example:
        >>> import torch
        >>> scores, subsets = torch.tensor([[3.0, -1.0, 0.5, 1.0]]), random_subsets(6, 4)
        >>> float(lds(scores, subsets, subsets.float() @ scores.T)[0])  # answers that are the sums themselves
        1.0
    """
    answers = torch.as_tensor(outputs) if isinstance(outputs, Tensor) else torch.stack(list(outputs))
    scores, subsets = checked_scores(scores, "lds"), torch.as_tensor(subsets)
    tests, trains = scores.shape
    if subsets.dtype != torch.bool:
        raise ValueError(f"lds: expected subsets as bool (S, M), what `random_subsets` gives, got {subsets.dtype}.")
    if subsets.shape[1:] != (trains,) or answers.shape != (len(subsets), tests) or len(subsets) < 3:
        raise ValueError(
            f"lds: expected scores (N, M), at least 3 subsets (S, M) and outputs (S, N), got {tuple(scores.shape)}, "
            f"{tuple(subsets.shape)} and {tuple(answers.shape)}."
        )
    answers = checked_answers(answers, *answers.shape, "lds")
    predicted = scores @ subsets.cpu().double().T
    return spearman(predicted, answers.T)
