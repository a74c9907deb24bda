"""`preconditioner="auto"`: the score that names causes best in the project's evidence, for the kind of model at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import Module

from captum_tracinwe.batches.batch import Batch, Loss, is_mapping, labels_of
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


def of_model(
    model: Module, batch: Batch, label_names: Sequence[str], losses: tuple[Loss | None, Loss | None]
) -> Recommended:
    """By the labels of a training batch: one to a text is a classifier's, one to a token a language model's if it has a head.

    Args:
        losses: of training and of test examples.

    Raises:
        ValueError: a language model with a loss that does not tell which word each position has to predict.
    """
    labels, loss_fn = labels_of(batch, label_names), losses[0]
    if isinstance(labels, Tensor) and labels.dim() > 1 and not labels.is_floating_point():
        try:
            find_head(model)
        except ValueError:
            if not _several_labels(labels, batch):
                return WORDS_READ
        else:
            _check_tells_words(losses)
            return LANGUAGE_MODEL
    several = isinstance(batch, Mapping) and isinstance(batch.get(WORDS), Tensor) and batch[WORDS].dim() > 2
    if several or texts_of(unwrap(model), batch) is not None:  # choices, pairs: no word may speak for any class
        return WORDS_READ
    answers_with_its_loss = loss_fn is None and not hasattr(unwrap(model), "config")
    return CLASSIFIER if isinstance(labels, Tensor) and not answers_with_its_loss else WORDS_READ


def _several_labels(labels: Tensor, batch: Batch) -> bool:
    """Whether whole-number labels ``(N, K)`` are yes or no of each of K classes, and not one for each token."""
    fields = batch.values() if is_mapping(batch) else batch
    inputs = [one for one in fields if isinstance(one, Tensor) and one is not labels]
    yes_or_no = bool(((labels == 0) | (labels == 1)).all())
    return labels.dim() == 2 and yes_or_no and all(one.shape != labels.shape for one in inputs)


def _check_tells_words(losses: tuple[Loss | None, Loss | None]) -> None:
    for name, loss in zip(("loss_fn", "test_loss_fn"), losses, strict=True):
        if not callable(getattr(loss, "target_words", None)):
            given = "None, the model's own" if loss is None else getattr(loss, "__name__", type(loss).__name__)
            raise ValueError(
                f"preconditioner='auto' takes the words predicted of a language model, and `{name}` ({given}) does not tell "
                f"which word each position has to predict. Expected captum_tracinwe.losses.TokenLoss() (a causal model), "
                f"TokenLoss(shift=False) (an encoder-decoder or a masked model), or a loss with target_words(labels). To keep "
                f"this loss, add table='input': the words read alone."
            )


def of_tables(tables: Tables) -> Recommended:
    """For rows that are there already, in an index."""
    if "output" in tables:
        return LANGUAGE_MODEL
    return CLASSIFIER if "bag" in tables else WORDS_READ
