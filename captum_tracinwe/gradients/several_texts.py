"""A batch with several texts to an example, through a model of one text: it reads one after the other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch.nn import Module

from captum_tracinwe.batches.batch import Batch, is_mapping
from captum_tracinwe.batches.columns import WORDS, columns_by_text
from captum_tracinwe.batches.wrapped import parameters_of

__all__ = ["Answers", "is_sentence_transformer", "read_one_by_one", "texts_of"]


class Answers(tuple):  # type: ignore[type-arg]
    """What a model said of each text of an example: what a loss of pairs or triplets is made of."""


def texts_of(model: Module, batch: Batch) -> list[dict[str, Any]] | None:
    """Of each text of the examples what the model takes for it; None where the model takes a batch as it is.

    Texts are columns that share what stands before or behind ``input_ids``, or mappings, in a list (sentence-transformers'
    ``sentence_features``) or one after the other. A model of one text takes ``input_ids``, or is a SentenceTransformer.
    """
    of_sentences = is_sentence_transformer(model)
    if is_mapping(batch):
        if not of_sentences and sum(WORDS in name for name in batch) < 2:
            return None
        names = () if of_sentences else _taken(model)
        texts = [{plain: batch[name] for plain, name in own.items()} for own in columns_by_text(batch, names)]
    else:
        given = batch[0] if len(batch) == 2 and isinstance(batch[0], (list, tuple)) else batch[:-1]
        texts = [dict(text) for text in given if isinstance(text, Mapping) and WORDS in text]
        if len(texts) < len(given):
            return None
    if of_sentences:
        return texts or None
    return texts if len(texts) > 1 and WORDS in _taken(model) else None


def read_one_by_one(model: Module, texts: list[dict[str, Any]]) -> Answers:
    """The model's answer to each text: a SentenceTransformer's embedding ``(N, D)``, of another model what it gives."""
    if is_sentence_transformer(model):
        return Answers(model(text)["sentence_embedding"] for text in texts)
    return Answers(model(**text) for text in texts)


def _taken(model: Module) -> Collection[str]:
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return [one.name for one in parameters_of(base)]


def is_sentence_transformer(model: object) -> bool:
    """Whether it is one, by its name: the library is not needed here."""
    return any(kind.__name__ == "SentenceTransformer" for kind in type(model).__mro__)
