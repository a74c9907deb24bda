"""Losses of sentence-transformers, as `TracInWE` takes them: of the embeddings of an example's texts."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import Module

from captum_tracinwe.gradients.several_texts import is_sentence_transformer

__all__ = ["SentenceLoss"]


class SentenceLoss:
    """A loss of pairs or triplets from sentence-transformers: ``TracInWE(model, ..., loss_fn=SentenceLoss(loss))``.

    The model, a SentenceTransformer, reads each text of an example by itself; this is called with their embeddings and the
    labels. For another model write it as a function: ``lambda texts, labels: (cosine_similarity(*texts) - labels) ** 2``.

    Args:
        loss (Module): such as ``CosineSimilarityLoss(model)``, ``ContrastiveLoss(model)`` or ``TripletLoss(model)``. One that
            compares an example with others of its batch (``MultipleNegativesRankingLoss``, ``CoSENTLoss``) has no loss of single
            examples, which `TracInWE` says.

    Raises:
        TypeError: it is no such loss, or it needs more of the model than the embeddings of its texts.
    """

    def __init__(self, loss: Module) -> None:
        models = {
            id(part): part
            for part in (loss.modules() if isinstance(loss, Module) else ())
            if is_sentence_transformer(part)
        }
        if len(models) != 1:
            raise TypeError(
                f"SentenceLoss: expected a loss of sentence-transformers with one model, such as CosineSimilarityLoss(model); "
                f"got {type(loss).__name__}{f' with {len(models)}' if models else ''}. Of others give a function (texts, labels) "
                f"-> losses as loss_fn."
            )
        self.loss = _of_embeddings(loss, _Embedded())
        self.__name__ = type(loss).__name__

    def __call__(self, texts: Sequence[Tensor], labels: Tensor | None) -> Tensor:
        """The loss, of embeddings ``(N, D)`` of each text of the examples, and labels ``(N,)`` or None."""
        try:
            found: Any = self.loss([{"sentence_embedding": text} for text in texts], labels)
        except (KeyError, AttributeError, TypeError) as error:
            raise TypeError(
                f"SentenceLoss: {self.__name__} cannot be made of {len(texts)} embeddings and the labels alone ({error!r:.80}): "
                f"expected a loss of the texts' embeddings, and as many texts to an example as it takes. Else give a function "
                f"(texts, labels) -> losses as loss_fn."
            ) from error
        loss: Tensor = next(iter(found.values())) if isinstance(found, Mapping) and len(found) == 1 else found
        return loss


def _of_embeddings(loss: Module, stand_in: Module) -> Module:
    """A copy of a loss, and of losses within it, with another module in place of the model."""
    found = copy.copy(loss)
    parts = {
        name: stand_in
        if is_sentence_transformer(part)
        else _of_embeddings(part, stand_in)
        if part is not None and any(is_sentence_transformer(inner) for inner in part.modules())
        else part
        for name, part in loss._modules.items()
    }
    found.__dict__["_modules"] = parts  # which a module's copy would have in common with it
    return found


class _Embedded(Module):
    """Stands for the model, where the texts are embedded already."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """As it came."""
        return features
