"""Scores of pairs of texts, split by token: by those that both hold, or after a map from word to word by those of either."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from captum_tracinwe.gradients.source import Question
from captum_tracinwe.preconditioners import leads_from_word_to_word
from captum_tracinwe.rows.overflow import first_not_finite, overflow
from captum_tracinwe.rows.row_gradients import RowGradients
from captum_tracinwe.words.influence import WordInfluence

__all__ = ["split", "split_by_token"]

# Pairs that meet at a time after a map from word to word: a test text then has a row for every word of their training texts.
PAIRS_AT_ONCE = 16


def split(
    question: Question,
    asked: RowGradients,
    train: RowGradients,
    rows: Tensor,
    names: Sequence[tuple[int, int]],
    checkpoints: int | None = None,
) -> list[WordInfluence]:
    """The scores of P pairs of examples, split by token.

    The map of a preconditioner is symmetric, ⟨P q, t⟩ = ⟨q, P t⟩: what leads from word to word is applied to the test rows for
    the shares of the training text's words, and to the training rows for those of the test text's.

    Args:
        question (Question): what is asked.
        asked (RowGradients): rows of the test examples, as a source gives them.
        train (RowGradients): rows of the training examples, divided by their length.
        rows, names, checkpoints: as in :func:`split_by_token`.
    """
    if not leads_from_word_to_word(question.preconditioner):
        return split_by_token(asked, train, rows, names, checkpoints)
    found: list[WordInfluence] = []
    for start in range(0, len(names), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        (own, own_place), (others, other_place) = (
            torch.unique(side, return_inverse=True) for side in rows[part].unbind(1)
        )
        test, taught = asked.select(own), train.select(others)
        places = torch.stack([own_place, other_place], dim=1)
        pairs = split_by_token(question.meet(test, taught), taught, places, names[part], checkpoints)
        pair, token, share = test.terms(question.met_by(taught, test), places)
        for number, given in enumerate(pairs):
            mine = pair == number
            shares = share[mine].double().cpu()
            found.append(dataclasses.replace(given, asked_ids=token[mine].cpu(), asked_shares=shares))
    return found


def split_by_token(
    test: RowGradients, train: RowGradients, rows: Tensor, names: Sequence[tuple[int, int]], checkpoints: int | None
) -> list[WordInfluence]:
    """The scores of P pairs of examples, split by token.

    Args:
        test, train (RowGradients): values ``(R, C * D)``, as :meth:`TracInWE.row_gradients` gives them.
        rows (Tensor): int64 ``(P, 2)``, examples of ``test`` and ``train``.
        names (sequence of (int, int)): P times the test and the training index they are known by.
        checkpoints (int, optional): C, to keep the shares of single checkpoints too.
    """
    pair, token, share = test.terms(train, rows)
    parts = None
    if checkpoints is not None:
        width = test.width // checkpoints
        columns = [(c * width, (c + 1) * width) for c in range(checkpoints)]
        parts = torch.stack([test.columns(*c).terms(train.columns(*c), rows)[2] for c in columns]).double()
        share = parts.sum(0)
    place = first_not_finite(share)
    if place is not None:
        asked, taught = names[int(pair[place[0]])]
        what = (
            f"What token {int(token[place[0]])} adds to the score of training example {taught} for test example {asked}"
        )
        raise overflow(what, torch.float64 if test.values.dtype == torch.float64 else torch.float32)
    share = share.double()
    ends = torch.cumsum(torch.bincount(pair, minlength=len(names)), 0).tolist()
    return [
        WordInfluence(
            test_index=test_index,
            train_index=train_index,
            score=float(share[start:end].sum()),
            token_ids=token[start:end].cpu(),
            token_shares=share[start:end].cpu(),
            checkpoint_shares=None if parts is None else parts[:, start:end].cpu(),
        )
        for (test_index, train_index), start, end in zip(names, [0, *ends[:-1]], ends, strict=True)
    ]
