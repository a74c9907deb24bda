"""`preconditioner="auto"`: the score that names causes best in the project's evidence, for the kind of model at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import Module

from captum_tracinwe.batches.batch import Batch, Loss, labels_of
from captum_tracinwe.batches.columns import WORDS
from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.gradients.head import find_head
from captum_tracinwe.gradients.several_texts import texts_of
from captum_tracinwe.gradients.tables import Tables
from captum_tracinwe.preconditioners import Cooccurrence, Idf, Length, Preconditioner

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CLASSIFIER", "LANGUAGE_MODEL", "WORDS_READ", "Recommended", "of_model", "of_tables"]


@dataclass(frozen=True)
class Recommended:
    """Options of :class:`captum_tracinwe.TracInWE`, by their names there."""

    table: str | tuple[str, ...]
    preconditioner: Preconditioner
    normalize: Length
    shares: str | tuple[float, ...] | None = None


#: Texts with one label each. Chosen by how well sums of scores tell what retraining without sets of texts does, on toxicity, AG
#: News and a BERT (other texts, questions and seeds than those of the evidence); `by_moved` by two models of one file, of which
#: it alone tells which texts taught which.
CLASSIFIER = Recommended(("input", "bag"), Cooccurrence(by_moved=True), Length("words"), "equal")
#: A loss that is not of logits (N, K) leaves the words read alone.
WORDS_READ = Recommended("input", Cooccurrence(by_moved=True), Length("words"))
#: The words predicted, texts divided by their length in rare words. Chosen on three sets of planted pairs, shown on others.
LANGUAGE_MODEL = Recommended("output", Idf(power=2.0), Length("words", sides="train", idf_power=12.0))


def of_model(model: Module, batch: Batch, label_names: Sequence[str], loss_fn: Loss | None) -> Recommended:
    """By the labels of a training batch: one to a text is a classifier's, one to a token a language model's if it has a head."""
    labels = labels_of(batch, label_names)
    if isinstance(labels, Tensor) and labels.dim() > 1 and not labels.is_floating_point():
        try:
            find_head(model)
        except ValueError:
            return WORDS_READ
        return LANGUAGE_MODEL
    several = isinstance(batch, Mapping) and isinstance(batch.get(WORDS), Tensor) and batch[WORDS].dim() > 2
    if several or texts_of(unwrap(model), batch) is not None:  # choices, pairs: no word may speak for any class
        return WORDS_READ
    answers_with_its_loss = loss_fn is None and not hasattr(unwrap(model), "config")
    return CLASSIFIER if isinstance(labels, Tensor) and not answers_with_its_loss else WORDS_READ


def of_tables(tables: Tables, whole_rows: bool = True) -> Recommended:
    """For rows that are there already, in an index; ``whole_rows`` are not random projections, which mix tables."""
    if "output" in tables:
        return LANGUAGE_MODEL
    return CLASSIFIER if "bag" in tables and whole_rows else WORDS_READ
