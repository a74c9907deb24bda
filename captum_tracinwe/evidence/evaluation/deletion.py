"""Case deletion: take away what a method names, retrain, see whether the prediction moves.

DEL₊(k) and DEL₋(k) are the mean changes of the predicted probability of the true class after the k strongest proponents or
opponents have been removed; AUC-DEL is their mean over the grid of k, k = 0 included (Yeh et al., arXiv 2202.11844). Proponents
should make it fall, opponents rise. The retraining before and the one after share the seed, so that its noise cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from captum_tracinwe.evidence.evaluation.checks import checked_answers, checked_scores, checked_seeds, checked_wholes
from captum_tracinwe.evidence.evaluation.intervals import Interval, bootstrap_mean
from captum_tracinwe.evidence.evaluation.tables import tidy
from captum_tracinwe.rows.ranking import top_k

__all__ = ["PAPER_GRID", "DeletionCurve", "Retrain", "auc_del", "deletion_curve", "deletion_curves", "separation"]

#: The numbers k of removed texts over which the paper averages: 0, 10, ..., 100.
PAPER_GRID = tuple(range(0, 101, 10))

Retrain: TypeAlias = Callable[[Tensor, Sequence[int]], Tensor]
"""``(keep (J, M) bool, J seeds) -> (J, N)``: train job j from scratch on what it keeps; a number per test example, such as the
predicted probability of its true class. ``captum_tracinwe.retraining`` has two."""


@dataclass(frozen=True, eq=False)
class DeletionCurve:
    """What removing the k strongest did, for S seeds, N test examples and K values of k.

    Args:
        ks (tuple of int): the grid, ascending.
        seeds (tuple of int): of the retrainings.
        changes (Tensor): float64, ``(S, N, K)``: after minus before, 0 at k = 0.
        proponents (bool): whether proponents were removed, or opponents.
    """

    ks: tuple[int, ...]
    seeds: tuple[int, ...]
    changes: Tensor
    proponents: bool

    def by_test(self) -> Tensor:
        """Mean over seeds, ``(N, K)``."""
        return self.changes.mean(0)

    def mean(self) -> Tensor:
        """DEL at each k, ``(K,)``."""
        return self.by_test().mean(0)

    def interval(self, k: int, **options: Any) -> Interval:
        """DEL at one k, with its interval over test examples (options of :func:`bootstrap`)."""
        if k not in self.ks:
            raise ValueError(f"DeletionCurve.interval: expected a k of the grid, {self.ks}, got {k}.")
        values = self.by_test()[:, self.ks.index(k)]
        return bootstrap_mean(values, **options)

    def to_table(self) -> Any:
        """Tidy: seed, test, k, change."""
        return tidy(
            [
                {"seed": seed, "test": i, "k": k, "change": self.changes[s, i, c].item()}
                for s, seed in enumerate(self.seeds)
                for i in range(self.changes.shape[1])
                for c, k in enumerate(self.ks)
            ]
        )

    @classmethod
    def cat(cls, parts: Sequence[DeletionCurve]) -> DeletionCurve:
        """Curves of different seeds as one.

        Raises:
            ValueError: another grid or direction, or a seed that comes twice.
        """
        if not parts:
            raise ValueError("DeletionCurve.cat: expected at least one curve, got none.")
        first = parts[0]
        seeds = tuple(seed for part in parts for seed in part.seeds)
        if any((part.ks, part.proponents) != (first.ks, first.proponents) for part in parts) or len(set(seeds)) < len(
            seeds
        ):
            raise ValueError("DeletionCurve.cat: expected curves of one grid and direction, each with other seeds.")
        return cls(first.ks, seeds, torch.cat([part.changes for part in parts]), first.proponents)


def deletion_curves(
    scores: Mapping[str, Tensor],
    retrain: Retrain,
    *,
    ks: Sequence[int] = PAPER_GRID,
    seeds: Sequence[int] = tuple(range(10)),
    directions: Sequence[bool] = (True, False),
) -> dict[tuple[str, bool], DeletionCurve]:
    """Curves of several methods on one set of retrainings: what two of them name alike is trained once.

    Of equal scores those of lower index are named first: where many are equal (BM25 of texts that share no word), a training
    set sorted by class makes a class of them. Shuffle it.

    Args:
        scores (mapping): name → ``(N, M)``, positive = proponent.
        retrain (callable): see :data:`Retrain`. It is called once, with all jobs.
        ks (sequence of int): numbers of examples to remove, ascending; 0 belongs to the paper's grid.
        seeds (sequence of int): retrainings of each set; the paper takes 10.
        directions (sequence of bool): True removes proponents, False opponents.

    Returns:
        dict: ``(name, direction)`` → :class:`DeletionCurve`.

    Raises:
        ValueError: scores of different shapes, a grid that does not ascend or would remove everything, no seed.
    """
    if not isinstance(scores, Mapping) or not scores:
        got = "an empty one" if isinstance(scores, Mapping) else type(scores).__name__
        raise TypeError(f"deletion: expected scores as a mapping, {{name: (N, M)}}, got {got}.")
    if not all(isinstance(direction, bool) for direction in directions):
        raise TypeError(
            f"deletion: expected `directions` of True (proponents) or False (opponents), got {directions!r}."
        )
    scores = {name: checked_scores(matrix, f"deletion, {name!r}") for name, matrix in scores.items()}
    shapes = {tuple(matrix.shape) for matrix in scores.values()}
    if len(shapes) != 1:
        raise ValueError(f"deletion: expected scores (N, M) of one shape, got {sorted(shapes)}.")
    tests, trains = next(iter(shapes))
    ks, seeds = checked_wholes(ks, "deletion", "ks"), checked_seeds(seeds, "deletion")
    if not ks or list(ks) != sorted(set(ks)) or ks[0] < 0 or ks[-1] >= trains:
        raise ValueError(
            f"deletion: expected an ascending grid from 0 to below {trains} (the training examples), got {ks}."
        )
    jobs: dict[tuple[int, bytes], int] = {}
    kept: list[Tensor] = []

    def job(seed: int, keep: Tensor) -> int:
        key = seed, keep.numpy().tobytes()
        if key not in jobs:
            jobs[key] = len(kept)
            kept.append(keep)
        return jobs[key]

    everything = torch.ones(trains, dtype=torch.bool)
    before = torch.tensor([job(seed, everything) for seed in seeds])
    after: dict[tuple[str, bool], Tensor] = {}
    for name, matrix in scores.items():
        for direction in directions:
            named = top_k(matrix, ks[-1], direction)[0]
            numbers = torch.empty(len(seeds), tests, len(ks), dtype=torch.int64)
            for i in range(tests):
                for c, k in enumerate(ks):
                    keep = everything.clone()
                    keep[named[i, :k]] = False
                    for s, seed in enumerate(seeds):
                        numbers[s, i, c] = job(seed, keep)
            after[name, direction] = numbers
    answers = checked_answers(retrain(torch.stack(kept), [seed for seed, _ in jobs]), len(kept), tests, "deletion")
    rows = torch.arange(tests)[None, :, None]
    base = answers[before][:, :, None]
    return {key: DeletionCurve(ks, seeds, answers[numbers, rows] - base, key[1]) for key, numbers in after.items()}


def deletion_curve(
    scores: Tensor,
    retrain: Retrain,
    *,
    proponents: bool = True,
    ks: Sequence[int] = PAPER_GRID,
    seeds: Sequence[int] = tuple(range(10)),
) -> DeletionCurve:
    """DEL₊ (``proponents``) or DEL₋ of one method; see :func:`deletion_curves`.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[3.0, 1.0, -2.0]])  # training example 0 helps the test example, 2 hurts it
        >>> retrain = lambda keep, seeds: keep.float() @ torch.tensor([[0.3], [0.1], [-0.2]])  # as if trained
        >>> [round(x, 2) for x in deletion_curve(scores, retrain, ks=[0, 1, 2], seeds=[0]).mean().tolist()]
        [0.0, -0.3, -0.4]
    """
    return deletion_curves({"": scores}, retrain, ks=ks, seeds=seeds, directions=(proponents,))["", proponents]


def auc_del(curve: DeletionCurve, **options: Any) -> Interval:
    """AUC-DEL: the plain mean of DEL over the grid, with its interval over test examples (options of :func:`bootstrap`).

    In the paper's grid k = 0 is included; a grid without it gives larger numbers.
    """
    values = curve.by_test().mean(1)
    return bootstrap_mean(values, **options)


def separation(proponents: DeletionCurve, opponents: DeletionCurve, **options: Any) -> Interval:
    """AUC-DEL₋ minus AUC-DEL₊: how far apart a method drives the two, with its interval over test examples.

    Both are means over the grid of ``ks``. At k = 0 nothing moves, so with ``ks=(0, 100)`` it is half of the difference at 100.

    Args:
        proponents, opponents (DeletionCurve): of the same test examples, grid and seeds.
        **options: of :func:`~captum_tracinwe.evaluation.bootstrap_mean`.

    Returns:
        Interval: in the unit of the curves' changes, a probability; 0 = chance.

    Raises:
        ValueError: the curves are in the wrong order, or of different examples, grids or seeds.

    Source: AUC-DEL is of Yeh et al., arXiv 2202.11844.
    """
    if opponents.proponents or not proponents.proponents:
        raise ValueError("separation: expected the curve of proponents first and that of opponents second.")
    if (proponents.ks, proponents.seeds) != (opponents.ks, opponents.seeds) or (
        proponents.changes.shape != opponents.changes.shape
    ):
        raise ValueError(
            f"separation: expected two curves of the same test examples, grid and seeds, got {tuple(proponents.changes.shape)} "
            f"with {proponents.ks} and {tuple(opponents.changes.shape)} with {opponents.ks}."
        )
    values = opponents.by_test().mean(1) - proponents.by_test().mean(1)
    return bootstrap_mean(values, **options)
