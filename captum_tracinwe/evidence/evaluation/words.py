"""Word deletion: hide the word that a method names in the texts that it names, retrain, see whether the prediction moves.

The control hides another word, drawn at random, in the same texts: what is left is due to naming the word.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from captum_tracinwe.evidence.evaluation.checks import checked_answers, checked_seeds
from captum_tracinwe.evidence.evaluation.intervals import Interval, bootstrap_mean
from captum_tracinwe.evidence.evaluation.tables import tidy

__all__ = ["Position", "RetrainHidden", "WordDeletion", "another_word", "word_deletion"]

#: (training index, place in its tokens).
Position: TypeAlias = tuple[int, int]
RetrainHidden: TypeAlias = Callable[[Tensor, Sequence[int], Sequence[Sequence[Position]]], Tensor]
"""``(keep (J, M), J seeds, J lists of (training example, position) to hide) -> (J, N)``; see :data:`~.deletion.Retrain`."""


@dataclass(frozen=True, eq=False)
class WordDeletion:
    """What hiding words did, for S seeds and N test examples.

    Args:
        named, control (Tensor): float64, ``(S, N)``: change of the answer, after minus before.
    """

    named: Tensor
    control: Tensor

    def difference(self, **options: Any) -> Interval:
        """Named minus control, mean over seeds, with its interval over test examples (options of :func:`bootstrap`)."""
        return _mean((self.named - self.control).mean(0), options)

    def intervals(self, **options: Any) -> tuple[Interval, Interval]:
        """The two changes with their intervals."""
        return _mean(self.named.mean(0), options), _mean(self.control.mean(0), options)

    def to_table(self) -> Any:
        """Tidy: seed (its place), test, word, change."""
        return tidy(
            [
                {"seed": s, "test": i, "word": word, "change": float(value)}
                for word, changes in (("named", self.named), ("control", self.control))
                for s, row in enumerate(changes)
                for i, value in enumerate(row)
            ]
        )


def word_deletion(
    named: Sequence[Sequence[Position]],
    control: Sequence[Sequence[Position]],
    retrain: RetrainHidden,
    trains: int,
    *,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
) -> WordDeletion:
    """Retrain with the named positions hidden, and with those of the control.

    Args:
        named, control (sequence of lists): for each of N test examples, the (training example, position) to hide.
        retrain (callable): see :data:`RetrainHidden`.
        trains (int): M.
        seeds (sequence of int): a retraining before and after share one.

    Raises:
        ValueError: not one list per test example on both sides, or a training example that there is not.

    Example:
        >>> import torch
        >>> def retrain(keep, seeds, hidden):  # as if the word at position 0 of each text carried 0.1
        ...     return torch.tensor([[-0.1 * sum(position == 0 for _, position in places)] for places in hidden])
        >>> found = word_deletion([[(3, 0)]], [[(3, 1)]], retrain, 5, seeds=(0,))
        >>> [round(float(change), 3) for change in (found.named, found.control)]
        [-0.1, 0.0]
    """
    seeds = checked_seeds(seeds, "word_deletion")
    if len(named) != len(control) or not named:
        raise ValueError(
            f"word_deletion: expected a list of positions per test example on both sides, got {len(named)} lists and "
            f"{len(control)} for the control."
        )
    tests = len(named)
    for side in (named, control):
        outside = [example for places in side for example, _ in places if not 0 <= example < trains]
        if outside:
            raise ValueError(
                f"word_deletion: expected positions as (training example, place), examples from 0 to {trains - 1}, got "
                f"{outside[0]}."
            )
    hidden: list[Sequence[Position]] = []
    owners: list[int] = []
    for seed in seeds:
        hidden += [[], *named, *control]
        owners += [seed] * (1 + 2 * tests)
    keep = torch.ones(len(hidden), trains, dtype=torch.bool)
    answers = checked_answers(retrain(keep, owners, hidden), len(hidden), tests, "word_deletion")
    answers = answers.view(len(seeds), 1 + 2 * tests, tests)
    before, after = answers[:, 0], answers[:, 1:].view(len(seeds), 2, tests, tests).diagonal(dim1=2, dim2=3)
    return WordDeletion(after[:, 0] - before, after[:, 1] - before)


def another_word(
    named: Sequence[Position],
    texts: Sequence[Sequence[int]],
    *,
    among: Collection[int] | None = None,
    skip: Collection[int] = (),
    seed: int = 0,
) -> list[Position]:
    """For each text in ``named`` all positions of another of its tokens, drawn at random; texts without one are left out.

    Of the others those are drawn from that hold as many positions as what is named, or come closest to it, so that a control
    hides about as much.

    Args:
        named (sequence of (example, position)): the positions of the named words.
        texts (sequence of sequence of int): the token ids of all training texts.
        among (collection of int, optional): only these tokens, such as those of the test text: what is left of a difference is
            then not due to a shared word alone.
        skip (collection of int): tokens that are no words, such as padding.
        seed (int): of the draw.

    Example:
        >>> another_word([(0, 1), (0, 3)], [[7, 5, 8, 5, 6, 6]])  # 6 stands twice as well
        [(0, 4), (0, 5)]
    """
    draw = random.Random(seed)
    chosen: list[Position] = []
    places: dict[int, list[int]] = {}
    for example, position in named:
        if not 0 <= example < len(texts) or not 0 <= position < len(texts[example]):
            raise ValueError(
                f"another_word: expected positions in {len(texts)} texts, got place {position} of text {example}"
                f"{f', which has {len(texts[example])}' if 0 <= example < len(texts) else ''}."
            )
        places.setdefault(example, []).append(position)
    for example, positions in sorted(places.items()):
        counts = Counter(int(token) for token in texts[example])
        taken = {int(texts[example][position]) for position in positions}
        others = {t: n for t, n in counts.items() if t not in taken and t not in skip and (among is None or t in among)}
        if others:
            nearest = min(abs(n - len(positions)) for n in others.values())
            token = draw.choice(sorted(t for t, n in others.items() if abs(n - len(positions)) == nearest))
            chosen += [(example, place) for place, other in enumerate(texts[example]) if int(other) == token]
    return chosen


def _mean(values: Tensor, options: dict[str, Any]) -> Interval:
    return bootstrap_mean(values, **options)
