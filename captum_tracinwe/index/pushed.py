"""Whom a training text influences: of any training text of an index the texts that it pushed most, with the words that did it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from captum_tracinwe.batches.arguments import is_whole
from captum_tracinwe.batches.batch import Batch
from captum_tracinwe.gradients.source import Question
from captum_tracinwe.gradients.switches import undisturbed
from captum_tracinwe.index.snapshot import checked_indices
from captum_tracinwe.index.stored_source import StoredSource
from captum_tracinwe.rows.overflow import first_not_finite, overflow
from captum_tracinwe.rows.ranking import merge_top_k
from captum_tracinwe.words.explained import Explained
from captum_tracinwe.words.influence import WordInfluence
from captum_tracinwe.words.splitting import split

__all__ = ["pushed_by"]

Best = tuple[Tensor, Tensor]


@undisturbed
def pushed_by(
    tracin: Explained, indices: Sequence[int], inputs: Batch | DataLoader[Any], k: int = 5
) -> list[list[WordInfluence]]:
    """For each of some training examples, the others that it pushed most towards their label, and away from it.

    The training set is asked about itself, and an answer read the other way: score[i, j] says what training example j did to
    training example i as if that were a test example. All gradients are those of the index; none is computed.

    Args:
        tracin (TracInWE): over an index, ``TracInWE(..., index=...)``.
        indices (sequence of int): training examples.
        inputs (batch or DataLoader): any examples, such as one training example: by them the score's form is known, and they are
            not asked about.
        k (int): examples named on either side.

    Returns:
        list[list[WordInfluence]]: for each of ``indices`` up to k with a score above 0, highest first, and up to k with one below
        0, lowest first. ``train_index`` is the one of ``indices``, ``test_index`` the training example that was pushed.

    Raises:
        ValueError: there is no index, an example is not in it, or ``k`` is no whole number of at least 1.
    """
    source = tracin.source
    if not isinstance(source, StoredSource):
        raise ValueError("pushed_by: expected a TracInWE over an index: TracInWE(..., index=path), got one without.")
    if not is_whole(k) or k < 1:
        raise ValueError(f"pushed_by: expected `k` as a whole number of at least 1, got {k!r}.")
    chosen = checked_indices(indices, "rows").tolist()
    if not chosen:
        return []
    question = tracin.question(inputs)
    distinct = sorted(set(chosen))
    taught = question.taught(source.rows(distinct))
    ends = {highest: _best(source, question, taught, torch.tensor(distinct), k, highest) for highest in (True, False)}
    names = [
        (pushed, by)
        for place, by in enumerate(distinct)
        for highest, (numbers, scores) in ends.items()
        for pushed, score in zip(numbers[place].tolist(), scores[place].tolist(), strict=True)
        if (score > 0 if highest else score < 0)
    ]
    others = sorted({pushed for pushed, _ in names})
    if not others:
        return [[] for _ in chosen]
    asked = question.asked(source.rows(others))
    at, of = ({index: place for place, index in enumerate(own)} for own in (others, distinct))
    places = torch.tensor([(at[pushed], of[by]) for pushed, by in names])
    found: dict[int, list[WordInfluence]] = {by: [] for by in distinct}
    for pair in split(question, asked, taught, places, names):
        found[pair.train_index].append(pair)
    return [found[by] for by in chosen]


def _best(
    source: StoredSource, question: Question, taught: Any, own: Tensor, k: int, highest: bool
) -> tuple[Tensor, Tensor]:
    """Training indices and scores, ``(n, at most k)``, of those that each of ``own`` pushed most; none pushes itself here."""
    best = torch.empty((len(own), 0), dtype=torch.int64), torch.empty((len(own), 0))
    for numbers, scores in source.pushes(question, taught):
        place = first_not_finite(scores)
        if place is not None:
            what = f"The score of training example {int(own[place[1]])} for training example {int(numbers[place[0]])}"
            raise overflow(what, scores.dtype)
        itself = numbers[:, None] == own[None]
        found = scores.float().masked_fill(itself, -torch.inf if highest else torch.inf).T
        block = numbers.expand(len(own), -1), found
        size = min(k, best[0].shape[1] + found.shape[1])
        best = merge_top_k(best, block, size, highest)
    return best
