"""Who taught a model its answers: of each test example the training examples for it and against it, and the words behind that."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader

from captum_tracinwe.batches.arguments import is_whole
from captum_tracinwe.batches.batch import Batch
from captum_tracinwe.gradients.live_source import of_question
from captum_tracinwe.gradients.switches import undisturbed
from captum_tracinwe.words.explained import Explained
from captum_tracinwe.words.influence import WordInfluence
from captum_tracinwe.words.splitting import split

__all__ = ["taught_by"]


@undisturbed
def taught_by(tracin: Explained, inputs: Batch | DataLoader[Any], k: int = 5) -> list[list[WordInfluence]]:
    """Of each test example the training examples that pushed it most, either way, with the words by which they did.

    The same as :meth:`TracInWE.influence` with ``k`` for each side and :meth:`TracInWE.word_influence` of what these find. The
    gradients of the test examples, which are most of the time of such a question, are computed once and not three times.

    Args:
        tracin (TracInWE): over a training set or an index.
        inputs (batch or DataLoader): N test examples, with the labels that are asked about.
        k (int): training examples for either side.

    Returns:
        list[list[WordInfluence]]: for each test example up to k with a score above 0, highest first, and up to k with one below
        0, lowest first.

    Raises:
        ValueError: as :meth:`TracInWE.influence`.

    Example:
        >>> from captum_tracinwe.testing import toy_tracin
        >>> tracin, inputs = toy_tracin()
        >>> pairs = taught_by(tracin, inputs, k=2)[1]
        >>> [pair.train_index for pair in pairs if pair.score > 0] == tracin.influence(inputs, k=2).indices[1].tolist()
        True
    """
    if not is_whole(k) or k < 1:
        raise ValueError(f"taught_by: expected `k` as a whole number of at least 1, got {k!r}.")
    source, question = tracin.source, tracin.question(inputs)
    question = question.of_rows(tracin.live_source.live.rows(question.batches, of_question(question), False))
    found: list[list[int]] = [[] for _ in range(len(question))]
    for highest in (True, False):
        indices, scores = source.top_k(question, k, highest)
        for own, numbers, values in zip(found, indices.tolist(), scores.tolist(), strict=True):
            own += [
                index for index, score in zip(numbers, values, strict=True) if (score > 0 if highest else score < 0)
            ]
    distinct = sorted({index for own in found for index in own})
    if not distinct:
        return [[] for _ in found]
    place = {index: at for at, index in enumerate(distinct)}
    train, asked = question.taught(source.rows(distinct)), source.of_question(question)
    meet = torch.tensor([(at, place[index]) for at, own in enumerate(found) for index in own], device=asked.ptr.device)
    names = [(at, index) for at, own in enumerate(found) for index in own]
    told = iter(split(question, asked, train, meet, names))
    return [[next(told) for _ in own] for own in found]
