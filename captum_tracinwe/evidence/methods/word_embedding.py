"""TracIn on the word embedding as a method: plain, top-k, without common tokens, with synonyms; and its self-influence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.evidence.methods.examples import Examples, Explained, Method, checked, checked_global
from captum_tracinwe.tracin_we import TracInWE
from captum_tracinwe.words.synonyms import synonym_scores

__all__ = ["common_tokens", "tracin_we", "tracin_we_syn", "we_self_influence"]


def tracin_we(explained: Explained, **options: Any) -> Method:
    """TracIn-WE; with ``top_k_words=10`` TracIn-WE-Topk, with ``exclude_tokens=common_tokens(train)`` TracIn-WE-NoC.

    The options are those of :class:`captum_tracinwe.TracInWE`: ``preconditioner``, ``normalize``, ``table`` and ``shares`` among
    them. Positive = proponent.
    """

    def scores(test: Examples, train: Examples) -> Tensor:
        found = _tracin(explained, train, **options).influence(test.batch)
        assert isinstance(found, Tensor)
        return checked(found, test, train, "TracIn-WE")

    return scores


def tracin_we_syn(
    explained: Explained, *, k: int = 10, min_cosine: float = 0.7, exclude_tokens: Sequence[int] = ()
) -> Method:
    """TracIn-WE-Syn (:func:`captum_tracinwe.synonym_scores`)."""

    def scores(test: Examples, train: Examples) -> Tensor:
        tracin = _tracin(explained, train, exclude_tokens=exclude_tokens)
        return checked(synonym_scores(tracin, test.batch, k=k, min_cosine=min_cosine), test, train, "TracIn-WE-Syn")

    return scores


def we_self_influence(explained: Explained, train: Examples) -> Tensor:
    """Σ_c η_c‖g_c(x)‖² on the word embedding, ``(M,)``: high for what the model has to learn by heart."""
    found: Tensor = _tracin(explained, train).self_influence()
    return checked_global(found, train, "Self-influence on the word embedding")


def common_tokens(*sets: Examples, share: float = 1.0) -> list[int]:
    """Tokens that stand in at least ``share`` of all texts (in every one, by default), ascending: what -NoC leaves out.

    Padding (token 0) counts as a token of the texts that hold it.
    """
    if not 0 < share <= 1:
        raise ValueError(f"common_tokens: expected `share` above 0 and at most 1, got {share!r}.")
    counts: dict[int, int] = {}
    texts = 0
    for examples in sets:
        for row in examples.batch[0]:
            texts += 1
            for token in torch.unique(row).tolist():
                counts[token] = counts.get(token, 0) + 1
    return sorted(token for token, count in counts.items() if count >= share * texts)


def _tracin(explained: Explained, train: Examples, **options: Any) -> TracInWE:
    layers = None if explained.embedding is None else [explained.embedding]
    return TracInWE(
        explained.model, train.dataset(), list(explained.checkpoints), explained.load, layers, explained.loss_fn,
        explained.batch_size, **options,
    )  # fmt: skip
