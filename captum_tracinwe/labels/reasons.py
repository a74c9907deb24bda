"""Why a label is suspected: the training texts that speak for it and against it, and the words by which they do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from captum_tracinwe.batches.inputs import GivenBatches
from captum_tracinwe.batches.loaders import in_order
from captum_tracinwe.gradients.live_source import of_question
from captum_tracinwe.gradients.source import Question
from captum_tracinwe.words.explained import Explained
from captum_tracinwe.words.influence import WordInfluence
from captum_tracinwe.words.splitting import split

__all__ = ["Reasons", "reasons_of"]


@dataclass(frozen=True)
class Reasons:
    """Of one label.

    Args:
        speaks_for, speaks_against (tuple of WordInfluence): training texts whose influence on the text, with the label that it
            was given, is highest and above 0, and lowest and below 0; strongest first, but for the label first those that have
            it, and against it first those that have the suggested one. ``test_index`` is the text's training index.
    """

    speaks_for: tuple[WordInfluence, ...] = ()
    speaks_against: tuple[WordInfluence, ...] = ()


def reasons_of(
    tracin: Explained,
    suggested: Mapping[int, int],
    labels: Tensor,
    count: int,
    doubles: Mapping[int, Collection[int]],
) -> dict[int, Reasons]:
    """Of each suspect, by training index, ``count`` texts on either side; neither itself nor its doubles are among them.

    For a label speak first the texts that have it, and against it those that have the suggested one: they say what is right
    instead. Of 77 classes with 15 texts each the strongest three for a label had it in 22 % of the cases.

    Args:
        tracin (TracInWE): asked about the suspects as about test texts, with the labels that they have in training.
        suggested (mapping): training index → the class that is suggested, of each suspect.
        labels (Tensor): int64 ``(M,)``, of all training texts.
        count (int): texts on either side.
        doubles (mapping): of a training index those of nearly the same texts.
    """
    if not suggested or not count:
        return {}
    ordered = sorted(suggested)
    question, source = _asked_about(tracin, ordered), tracin.source
    rows = {index: place for place, index in enumerate(ordered)}
    scores = source.scores(question)
    chosen: list[list[tuple[int, int]]] = []  # (place in the question, training index), for and against
    for sign in (1, -1):
        for index in ordered:
            said = sign * scores[rows[index]].nan_to_num(neginf=0)  # of an index that texts were deleted from
            said[[index, *doubles.get(index, ())]] = 0
            first = labels == (labels[index] if sign > 0 else suggested[index])
            best = _best(said * first.to(said), count)
            best += [at for at in _best(said, count) if not first[at]][: count - len(best)]
            chosen.append([(rows[index], at) for at in best])
    distinct = sorted({at for own in chosen for _, at in own})
    if not distinct:
        return {index: Reasons() for index in ordered}
    train = question.taught(source.rows(distinct))
    known = {at: place for place, at in enumerate(distinct)}
    pairs = [pair for own in chosen for pair in own]
    meet = torch.tensor([(place, known[at]) for place, at in pairs])
    asked = source.of_question(question)
    told = iter(split(question, asked, train, meet.to(asked.ptr.device), [(ordered[place], at) for place, at in pairs]))
    found = [tuple(next(told) for _ in own) for own in chosen]
    return {index: Reasons(found[i], found[len(ordered) + i]) for i, index in enumerate(ordered)}


def _asked_about(tracin: Explained, ordered: list[int]) -> Question:
    """The suspects as test texts. Their gradients are had once, and are those that an index keeps where it has them whole.

    Of 50 texts of a MiniLM, at two checkpoints, they took over half of what 10,000 texts take from an index.
    """
    batches, held = tracin.live_source.examples.chosen(ordered)
    loader = batches if isinstance(batches, DataLoader) else in_order(GivenBatches(batches), None)
    question, source = tracin.question(loader), tracin.source
    there = source.indices is None or set(ordered) <= set(source.indices.tolist())
    as_trained = question.loss_fn is tracin.live_source.loss_fn
    if there and as_trained and len(source.widths) == 1:
        return question.of_rows(source.rows(ordered))
    known = tracin.live_source.live.rows(question.batches, of_question(question))
    return question.of_rows(known.select([held.index(index) for index in ordered]))


def _best(said: Tensor, count: int) -> list[int]:
    """The training indices of the highest scores, of those above 0; of equal ones the first."""
    order = torch.argsort(said, descending=True, stable=True)[:count]
    return [int(at) for at in order if said[at] > 0]
