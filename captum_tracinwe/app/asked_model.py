"""The classifier that a command asks: given with its checkpoints, fine-tuned first, or a small one trained from scratch."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from captum_tracinwe.app import training
from captum_tracinwe.app.commands import Source, tracin_of, training_texts
from captum_tracinwe.app.data import InputError, LabelledTexts, Row, classes_of, listed, sample
from captum_tracinwe.app.files import Reading
from captum_tracinwe.app.files.reading import DEFAULT
from captum_tracinwe.app.given_model import Classes, head_of, kept_tokens, labelled, numbered_by, of_file
from captum_tracinwe.app.kept_options import KeptOptions
from captum_tracinwe.app.outputs import temporary_directory
from captum_tracinwe.app.recipes import Recipe, out_of_fold, recipe_of, refuse_taught, said_of
from captum_tracinwe.app.same_texts import refuse_other_texts
from captum_tracinwe.app.trusted import trusted_labels
from captum_tracinwe.index import GradientIndex
from captum_tracinwe.tracin_we import TracInWE
from captum_tracinwe.visualization.common import counted
from captum_tracinwe.whole_files import as_asked_for
from captum_tracinwe.words.legible import visible
from captum_tracinwe.words.texts import TokenizedText, tokenize

__all__ = ["Asked", "ModelSettings", "asked_model", "check_save", "checkpoints_of"]

GRADIENT_BATCH = 64


@dataclass(frozen=True)
class ModelSettings:
    """What the options of every such command say; None: not given."""

    train: Path
    reading: Reading = DEFAULT
    limit_train: int | None = None
    seed: int = 0
    model: Path | None = None
    checkpoints: Path | None = None
    index: Path | str | None = None
    save: Path | None = None
    folds: int | None = None
    trusted: Path | None = None
    max_length: int = 64
    batch_size: int = 32
    epochs: int | None = None
    learning_rate: float | None = None
    without_special_tokens: bool = False
    plain: bool = False

    @property
    def again(self) -> list[str]:
        """The options by which a model that was saved is asked about the same texts, read in the same way."""
        given = ["--model", str(self.save or self.model), *self.reading.options]
        if self.limit_train is not None:
            given += ["--limit", str(self.limit_train), "--seed", str(self.seed)]
        return given if self.max_length == ModelSettings.max_length else [*given, "--max-length", str(self.max_length)]

    @property
    def kept(self) -> KeptOptions:
        """What is kept beside a model that is saved."""
        length = None if self.max_length == ModelSettings.max_length else self.max_length
        return KeptOptions.of(self.train, self.reading, self.limit_train, self.seed, length)

    @property
    def read(self) -> list[Path | str]:
        """Files and directories that are read."""
        return [
            path for path in (self.train, self.model, self.checkpoints, self.index, self.trusted) if path is not None
        ]


@dataclass(frozen=True, eq=False)
class Asked:
    """A classifier, and the training texts that it is asked about.

    Args:
        tracin (TracInWE): of both.
        texts (LabelledTexts), tokenized (list of TokenizedText): the training texts, and as the classifier reads them.
        classes (Classes): what labels stand for.
        tokenizer: the classifier's.
        length (int): how many tokens of a text are kept.
        tests (LabelledTexts, optional): other texts, with labels of the same classes.
        right (dict, optional): class number by training index, of the labels that are known.
        out_of_fold (Tensor, optional): what models say of the texts that they were trained without, log-probabilities ``(M, K)``.
    """

    tracin: TracInWE
    texts: LabelledTexts
    tokenized: list[TokenizedText]
    classes: Classes
    tokenizer: Any
    length: int
    tests: LabelledTexts | None = None
    right: dict[int, int] | None = None
    out_of_fold: Tensor | None = None

    def tokens_of(self, texts: LabelledTexts) -> tuple[training.EncodedTexts, list[TokenizedText]]:
        """Other texts as the classifier reads them."""
        labels = [texts.names[label] for label in texts.labels]
        return (
            training.EncodedTexts(texts.texts, texts.labels, self.tokenizer, self.length),
            tokenize(texts.texts, self.tokenizer, labels=labels, max_length=self.length),
        )


@contextlib.contextmanager
def asked_model(
    settings: ModelSettings, rows: list[Row], say: Callable[[str], None], test: tuple[Path, list[Row]] | None = None
) -> Iterator[Asked]:
    """The classifier that is asked about the rows of the training file, and of a test file, which are refused before the work.

    Raises:
        InputError: the model, its checkpoints or the index cannot be used, or a label is none of the model's classes.
    """
    with training.seeded(settings.seed), temporary_directory() as directory:
        checkpoints, opened, told = checkpoints_of(settings), None, None
        if checkpoints is not None:
            assert settings.model is not None
            if settings.save is not None:
                raise InputError(
                    f"--save {settings.save}: --model {settings.model} is asked as it is, at its checkpoints: there is nothing "
                    f"new to save. Leave out --save."
                )
            opened = GradientIndex.open(settings.index) if settings.index is not None else None
            classes = numbered_by(head_of(settings.model), rows, settings.train)
        else:
            classes = _of_training(settings, rows)
        given = _sampled(settings, labelled(rows, classes, settings.train))
        tests = None if test is None else labelled(test[1], classes, test[0])
        right, texts = _trusted(settings, rows, given, classes, say)
        source = _source(settings, checkpoints or settings.save or Path(directory))
        if checkpoints is not None:
            assert settings.model is not None
            if opened is not None:
                training_texts(source, settings.train, opened, classes)  # refuses another file
            model, tokenizer = training.load_model(settings.model, classes.names)
            length = kept_tokens(settings.max_length, tokenizer, model.config, say, texts.pairs)
            _say_texts(settings, texts, len(rows), tests, classes, say)
        else:
            given = texts  # a model that is trained here learns the labels that are known
            _say_texts(settings, texts, len(rows), tests, classes, say)
            model, recipe, told = _trained(settings, texts, directory, say)
            tokenizer, length = recipe.tokenizer, recipe.length
        encoded = training.EncodedTexts(given.texts, given.labels, tokenizer, length)
        if opened is not None:
            refuse_other_texts(opened, encoded, given.places, settings.train)
        data = training.batches(encoded, GRADIENT_BATCH)
        tracin = tracin_of(source, model, tokenizer, data, **({} if opened is None else {"index": opened}))
        labels = [texts.names[label] for label in texts.labels]
        tokenized = tokenize(texts.texts, tokenizer, labels=labels, max_length=length)
        yield Asked(tracin, texts, tokenized, classes, tokenizer, length, tests, right, told)


def checkpoints_of(settings: ModelSettings) -> Path | None:
    """Where the given model's checkpoints are: named, or in its directory as a Trainer leaves them; else it is trained first."""
    if settings.model is None or settings.checkpoints is not None:
        if settings.checkpoints is not None:
            _refuse_folds(settings)
        return settings.checkpoints
    if not settings.model.exists() and settings.index is None:
        raise InputError(
            f"--model {settings.model}: no such directory; expected one written by save_pretrained, to fine-tune or to ask. To "
            f"train a small model from your texts, leave out --model; captum-tracinwe explain --save {settings.model} then keeps "
            f"it there."
        )
    head_of(settings.model)  # refuses what is no model
    own = any(re.fullmatch(r"checkpoint-\d+", entry.name) and entry.is_dir() for entry in settings.model.iterdir())
    if settings.index is not None and not own:
        raise InputError(
            f"--index {settings.index}: --model {settings.model} has no checkpoints of its own; name those that the index was "
            f"built from with --checkpoints DIR."
        )
    found = settings.model if own else None
    if found is not None:
        _refuse_folds(settings)
    return found


def check_save(save: Path | None) -> None:
    """See that the directory is new or empty, and can be made.

    Raises:
        InputError: it is not.
    """
    if save is None:
        return
    try:
        if save.exists() and (not save.is_dir() or any(save.iterdir())):
            raise InputError(f"--save {save}: not empty; name a new or an empty directory.")
        if not save.parent.is_dir():
            raise InputError(f"--save {save}: the directory {save.parent} does not exist; make it, or choose another.")
        with tempfile.TemporaryDirectory(dir=save.parent, prefix=f".{save.name}."):
            pass
    except OSError as error:
        raise InputError(f"--save {save}: cannot be written ({error.strerror or error}).") from error


def _trained(
    settings: ModelSettings, texts: LabelledTexts, directory: str, say: Callable[[str], None]
) -> tuple[Any, Recipe, Tensor | None]:
    """A small BERT from scratch, or the given model fine-tuned; how; and what models say that were trained in folds."""
    recipe, model = recipe_of(
        settings.model,
        texts,
        max_length=settings.max_length,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        say=say,
    )
    if settings.folds is not None and settings.model is not None:
        refuse_taught(model, recipe, texts, settings.folds, settings.model)
    with _saved(settings.save, directory) as folder:
        done = recipe.train(model, texts, folder, settings.seed)
        if settings.save is not None:
            model.save_pretrained(folder)
            recipe.tokenizer.save_pretrained(folder)
            settings.kept.write(folder)
    say(said_of(done, recipe.epochs))
    if settings.save is not None:
        told = settings.again[2:]
        knows = f", which keeps {visible(shlex.join(told))}" if told else ""
        say(
            f"Model, tokenizer and checkpoints: {visible(str(settings.save))}. Ask it again with "
            f"{visible(shlex.join(settings.again[:2]))}{knows}."
        )
    if settings.folds is None:
        return model, recipe, None
    return model, recipe, out_of_fold(recipe, texts, settings.folds, settings.seed, done.seconds, directory, say)


def _refuse_folds(settings: ModelSettings) -> None:
    """Raise InputError where folds are asked of a model that is not trained here."""
    if settings.folds is not None:
        raise InputError(
            f"--folds {settings.folds}: --model {settings.model} is asked at its checkpoints, and how it was trained is not "
            f"known, so that it cannot be trained again without some of the texts. Give the pretrained model that it began from "
            f"as --model, without --checkpoints and --index: it is fine-tuned here. Or, from Python, give your recipe: "
            f"suspects(tracin, folds={settings.folds}, recipe=...)."
        )


def _trusted(
    settings: ModelSettings, rows: list[Row], texts: LabelledTexts, classes: Classes, say: Callable[[str], None]
) -> tuple[dict[int, int] | None, LabelledTexts]:
    """The labels that are known, and the texts with these."""
    if settings.trusted is None:
        return None, texts
    right = trusted_labels(settings.trusted, settings.train, rows, texts.labels, classes, settings.reading)
    other = sum(texts.labels[index] != label for index, label in right.items())
    say(f"Known: {counted(len(right), 'label')}, {other:,} of them other than in {visible(settings.train.name)}.")
    return right, replace(texts, labels=tuple(right.get(index, label) for index, label in enumerate(texts.labels)))


@contextlib.contextmanager
def _saved(save: Path | None, otherwise: str) -> Iterator[str]:
    """A folder that gets the name ``save`` when all is in it."""
    if save is None:
        yield otherwise
        return
    folder = tempfile.mkdtemp(dir=save.parent, prefix=f".{save.name}.")
    try:
        yield folder
        as_asked_for(folder)
        os.rename(folder, save)
    except OSError as error:
        raise InputError(f"--save {save}: cannot be written ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _of_training(settings: ModelSettings, rows: list[Row]) -> Classes:
    """The classes of a model that is trained here: those of the file; of one that names them all, as it numbers them."""
    classes = classes_of(rows, settings.train)
    head = head_of(settings.model) if settings.model is not None else None
    if head is not None and head.named and set(classes.values()) <= head.numbers.keys():
        numbers = {label: head.numbers[name] for label, name in classes.items()}
        said = "Labels have the numbers that the model's config.json gives them."
        return Classes(head.names, numbers, f"in the training file ({listed(classes)})", said)
    return of_file(classes)


def _sampled(settings: ModelSettings, texts: LabelledTexts) -> LabelledTexts:
    return texts if settings.limit_train is None else sample(texts, settings.limit_train, settings.seed)


def _source(settings: ModelSettings, checkpoints: Path) -> Source:
    return Source(
        settings.model or checkpoints,
        checkpoints,
        settings.reading,
        settings.max_length,
        settings.batch_size,
        settings.without_special_tokens,
        settings.plain,
    )


def _say_texts(
    settings: ModelSettings,
    texts: LabelledTexts,
    rows: int,
    tests: LabelledTexts | None,
    classes: Classes,
    say: Callable[[str], None],
) -> None:
    said = f" {classes.said}" if classes.said else ""
    drawn = f", a random sample of {rows:,} that keeps the class shares" if len(texts) < rows else ""
    asked = f" {len(tests):,} test texts;" if tests is not None else ""
    names = listed(texts.names, quoted=False)
    say(
        f"{len(texts):,} training texts{drawn};{asked} {len(texts.names)} classes: {names}.{said}{settings.reading.said}"
    )
