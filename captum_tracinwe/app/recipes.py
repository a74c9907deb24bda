"""How a command trains a classifier: once on all texts, and in folds, each time without a part of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.app import training
from captum_tracinwe.app.data import InputError, LabelledTexts
from captum_tracinwe.app.given_model import kept_tokens
from captum_tracinwe.gradients.seen import is_terminal
from captum_tracinwe.labels.folds import duration, parts
from captum_tracinwe.labels.voices import tells
from captum_tracinwe.visualization.common import counted
from captum_tracinwe.words.legible import visible

__all__ = ["Recipe", "out_of_fold", "recipe_of", "refuse_taught", "said_of"]

CHECKPOINTS = 4


@dataclass(frozen=True)
class Recipe:
    """How a classifier comes from nothing, or from a given model.

    Args:
        make (callable): a model that was not trained on the texts.
        tokenizer (PreTrainedTokenizerBase), length (int): how texts are read, and how many tokens of each.
        epochs, batch_size (int), learning_rate (float): of the training.
    """

    make: Callable[[], Any]
    tokenizer: Any
    length: int
    epochs: int
    batch_size: int
    learning_rate: float

    def encoded(self, texts: LabelledTexts) -> training.EncodedTexts:
        """The texts as the model reads them."""
        return training.EncodedTexts(texts.texts, texts.labels, self.tokenizer, self.length)

    def train(
        self, model: Any, texts: LabelledTexts, directory: str, seed: int, checkpoints: int = CHECKPOINTS
    ) -> training.TrainingRun:
        """Train a model that `make` gave; its checkpoints are folders, as Trainer makes them."""
        return training.train(
            model,
            self.encoded(texts),
            directory,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            seed=seed,
            checkpoints=checkpoints,
            in_folders=True,
        )


def recipe_of(
    model: Path | None,
    texts: LabelledTexts,
    *,
    max_length: int,
    epochs: int | None,
    batch_size: int,
    learning_rate: float | None,
    say: Callable[[str], None],
) -> tuple[Recipe, Any]:
    """A small BERT from scratch, or the given model fine-tuned; and the first model that is made so."""
    if model is None:
        tokenizer = training.wordpiece_tokenizer(texts.texts)

        def make() -> Any:
            return training.small_bert(len(tokenizer), texts.names, positions=max(max_length, 64))

        first, default_epochs, rate = make(), 5, 1e-3
    else:
        first, tokenizer = training.load_model(model, texts.names)
        _name_classes(first, texts.names)

        def make() -> Any:
            return training.load_model(model, texts.names)[0]

        default_epochs, rate = 2, 5e-5
        say(f"--model {visible(str(model))} has no checkpoints of its own: it is fine-tuned on these texts.")
    length = kept_tokens(max_length, tokenizer, first.config, say, texts.pairs)
    return Recipe(make, tokenizer, length, epochs or default_epochs, batch_size, learning_rate or rate), first


def _name_classes(model: Any, names: Sequence[str]) -> None:
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: number for number, name in enumerate(names)}


def refuse_taught(model: Any, recipe: Recipe, texts: LabelledTexts, folds: int, given: Path) -> None:
    """Raise InputError where a given model knows the labels before it was trained here: no fold would be new to it."""
    labels = torch.tensor(texts.labels)
    right = float((training.logits_of(model, recipe.encoded(texts)).argmax(1) == labels).double().mean())
    if tells(right, labels):
        raise InputError(
            f"--folds {folds}: --model {given} names {right:.0%} of these labels before it is trained here: it was taught them, "
            f"or such, so that no fold is new to it. Expected a model that has not seen these labels: give the pretrained one "
            f"that it began from as --model, or, from Python, suspects(tracin, folds={folds}, recipe=...)."
        )


def out_of_fold(
    recipe: Recipe,
    texts: LabelledTexts,
    folds: int,
    seed: int,
    seconds: float,
    directory: str,
    say: Callable[[str], None],
) -> Tensor:
    """What models say of the texts that they were trained without: log-probabilities, float64 ``(M, K)``.

    Args:
        seconds (float): that training on all texts took, by which the cost is told beforehand.
        directory (str): for what training writes.
    """
    from tqdm.auto import tqdm

    each = f"each without one of {folds} parts of the texts"
    say(f"--folds {folds}: {folds} more are trained, {each}; about {duration((folds - 1) * seconds)}.")
    labels = torch.tensor(texts.labels)
    fold = parts(labels, folds, seed)
    found = torch.full((len(texts), len(texts.names)), torch.nan, dtype=torch.float64)
    shown: dict[str, Any] = {"leave": False, "disable": not is_terminal(sys.stderr)}
    with tqdm(total=folds, desc="Training folds", file=sys.stderr, **shown) as bar:
        for number in range(folds):
            held, taught = (fold == number).nonzero().flatten(), (fold != number).nonzero().flatten()
            with training.seeded(seed + number):
                model = recipe.make()
                recipe.train(model, texts.take(taught.tolist()), directory, seed + number, checkpoints=0)
            logits = training.logits_of(model, recipe.encoded(texts.take(held.tolist()))).double()
            if not bool(logits.isfinite().all()):
                raise FloatingPointError(
                    f"Training without part {number + 1} of {folds} diverged: an answer is not finite."
                )
            found[held] = logits.log_softmax(1)
            bar.update()
    return found


def said_of(run: training.TrainingRun, epochs: int) -> str:
    """How training went."""
    return f"Trained for {counted(epochs, 'epoch')} in {run.seconds:.1f} s (loss {run.losses[0]:.2f} to {run.losses[-1]:.2f})."
