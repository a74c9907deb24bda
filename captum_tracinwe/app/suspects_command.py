"""`captum-tracinwe suspects`: train or take a classifier, judge the labels of its training texts, write page and tables."""

from __future__ import annotations

import contextlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from captum_tracinwe.app import training
from captum_tracinwe.app.commands import Source, refusals, tracin_of, training_texts
from captum_tracinwe.app.data import InputError, LabelledTexts, Row, classes_of, listed
from captum_tracinwe.app.files import Reading, in_one, read_texts
from captum_tracinwe.app.files.reading import DEFAULT
from captum_tracinwe.app.files.standing import ending_of_cleaned
from captum_tracinwe.app.given_model import Classes, head_of, kept_tokens, labelled, numbered_by, of_file
from captum_tracinwe.app.outputs import check_outputs, temporary_directory
from captum_tracinwe.app.results import Results
from captum_tracinwe.app.suspects_training import out_of_fold, recipe_of, refuse_taught, said_of
from captum_tracinwe.app.trusted import trusted_labels
from captum_tracinwe.exports import to_argilla
from captum_tracinwe.gradients.seen import is_terminal
from captum_tracinwe.index import GradientIndex
from captum_tracinwe.labels import Suspects, suspects
from captum_tracinwe.labels.found import COLUMNS
from captum_tracinwe.tabular import csv_text, json_text
from captum_tracinwe.tracin_we import TracInWE
from captum_tracinwe.visualization import suspects_html, suspects_text
from captum_tracinwe.visualization.common import counted
from captum_tracinwe.whole_files import write_all
from captum_tracinwe.words.legible import visible
from captum_tracinwe.words.texts import TokenizedText, tokenize

__all__ = ["Settings", "run"]

# Of the table of all texts.
TABLE = (COLUMNS[0], "line", *COLUMNS[1:])
PRINTED = 4  # suspects in the terminal; the page has all
GRADIENT_BATCH = 64
# Where there is nothing to learn from: two texts of each class are not many, but one says nothing.
FEWEST = 2


@dataclass(frozen=True)
class Settings:
    """What the options say; None: not given."""

    train: Path
    out: Path
    csv: Path | None = None
    results: Results = field(default_factory=Results)
    argilla: Path | None = None
    limit: int = 50
    witnesses: int = 3
    reading: Reading = DEFAULT
    seed: int = 0
    model: Path | None = None
    checkpoints: Path | None = None
    index: Path | None = None
    folds: int | None = None
    trusted: Path | None = None
    max_length: int = 64
    batch_size: int = 32
    epochs: int | None = None
    learning_rate: float | None = None
    without_special_tokens: bool = False
    plain: bool = False

    @property
    def outputs(self) -> dict[str, Path]:
        """Path by option, of those to be written."""
        named = {"--out": self.out, "--csv": self.csv, "--argilla": self.argilla, **self.results.outputs}
        return {option: Path(path) for option, path in named.items() if path is not None}


def run(settings: Settings, say: Callable[[str], None] = print) -> Suspects:
    """Judge all labels of a training file; write the page and what else is asked for, all of it or nothing.

    Raises:
        InputError: a file, the model, its checkpoints or the index cannot be used, or a file cannot be written.
    """
    read = (settings.train, settings.model, settings.checkpoints, settings.index, settings.trusted)
    check_outputs(settings.outputs, [path for path in read if path is not None])
    rows = read_texts(settings.train, settings.reading)
    known = classes_of(rows, settings.train, mixed_is_said=False)
    if len(rows) < FEWEST * len(known):
        raise InputError(
            f"{settings.train}: {len(rows)} texts with {len(known)} different labels ({listed(known)}); expected at least "
            f"{FEWEST} texts for each label on average. Is --label-column {settings.reading.label_column} the column of the "
            f"labels?"
        )
    if settings.folds is not None and settings.folds > len(rows):
        raise InputError(
            f"--folds {settings.folds}: {settings.train} has {len(rows)} texts; expected a text at least for each fold."
        )
    with refusals(), _asked(settings, rows, say) as asked:
        texts, tokenized = asked.texts, asked.tokenized
        found = suspects(
            asked.tracin,
            texts=tokenized,
            class_names=texts.names,
            right=asked.right,
            out_of_fold=asked.out_of_fold,
            limit=settings.limit,
            witnesses=settings.witnesses,
            seed=settings.seed,
            show_progress=is_terminal(sys.stderr),
        )
    contents = {settings.out: _page(settings, found, texts, tokenized).encode()}
    if settings.csv is not None:
        contents[settings.csv] = _table(found, texts).encode()
    if settings.argilla is not None:
        contents[settings.argilla] = _records(settings, found, texts).encode()
    content = _content(found, texts) if settings.results.asked else {}
    contents |= settings.results.contents(content, (), ())
    try:
        write_all(contents)
    except OSError as error:
        raise InputError(f"{error.filename or settings.out}: cannot be written ({error.strerror or error}).") from error
    say(suspects_text(found, top=min(PRINTED, settings.limit), places=texts.places, rest="--csv has all"))
    say("")
    for what, path in (("Page", settings.out), ("Table", settings.csv), ("Argilla records", settings.argilla)):
        if path is not None:
            say(f"{what}: {visible(str(path))}")
    say(_then(settings))
    settings.results.say(content)
    return found


def _then(settings: Settings) -> str:
    """What to do with the page."""
    ending = ending_of_cleaned(settings.train, settings.reading)
    if ending is None:
        return (
            "Decide on the page and export the decisions. A training file of this form is not written back; of CSV, JSON lines "
            "or Parquet --clean makes a cleaned file."
        )
    given = ["--train", str(settings.train), *settings.reading.options]
    given += ["--model", str(settings.model)] if settings.model else []
    then = shlex.join([*given, "--decisions", "decisions.csv", "--clean", f"clean{ending}"])
    return f"Decide on the page, export the decisions, then: captum-tracinwe suspects {visible(then)}"


# ------------------------------------------------------------------------------------------------------- the model


@dataclass(frozen=True)
class _Asked:
    """The classifier that is asked, its training texts, these as it reads them, and what is known besides."""

    tracin: TracInWE
    texts: LabelledTexts
    tokenized: list[TokenizedText]
    right: dict[int, int] | None
    out_of_fold: Tensor | None


@contextlib.contextmanager
def _asked(settings: Settings, rows: list[Row], say: Callable[[str], None]) -> Iterator[_Asked]:
    with training.seeded(settings.seed), temporary_directory() as directory:
        checkpoints = _checkpoints(settings)
        told, opened = None, None
        if checkpoints is not None:
            assert settings.model is not None
            opened = GradientIndex.open(settings.index) if settings.index is not None else None
            classes = numbered_by(head_of(settings.model), rows, settings.train)
            given = labelled(rows, classes, settings.train)
            right, texts = _trusted(settings, rows, given, classes, say)
            source = _source(settings, checkpoints)
            if opened is not None:
                training_texts(source, settings.train, opened, classes)  # refuses another file
            model, tokenizer = training.load_model(settings.model, classes.names)
            length = kept_tokens(settings.max_length, tokenizer, model.config, say, texts.pairs)
            _say_texts(settings, texts, classes, say)
        else:
            classes = _of_training(settings, rows)
            given = labelled(rows, classes, settings.train)
            right, texts = _trusted(settings, rows, given, classes, say)
            given = texts  # a model that is trained here learns the labels that are known
            _say_texts(settings, texts, classes, say)
            recipe, model = recipe_of(
                settings.model,
                texts,
                max_length=settings.max_length,
                epochs=settings.epochs,
                batch_size=settings.batch_size,
                learning_rate=settings.learning_rate,
                say=say,
            )
            tokenizer, length = recipe.tokenizer, recipe.length
            if settings.folds is not None and settings.model is not None:
                refuse_taught(model, recipe, texts, settings.folds, settings.model)
            done = recipe.train(model, texts, directory, settings.seed)
            say(said_of(done, recipe.epochs))
            if settings.folds is not None:
                told = out_of_fold(recipe, texts, settings.folds, settings.seed, done.seconds, directory, say)
            source = _source(settings, Path(directory))
        encoded = training.EncodedTexts(given.texts, given.labels, tokenizer, length)
        data = training.batches(encoded, GRADIENT_BATCH)
        tracin = tracin_of(source, model, tokenizer, data, **({} if opened is None else {"index": opened}))
        labels = [texts.names[label] for label in texts.labels]
        tokenized = tokenize(texts.texts, tokenizer, labels=labels, max_length=length)
        yield _Asked(tracin, texts, tokenized, right, told)


def _trusted(
    settings: Settings, rows: list[Row], texts: LabelledTexts, classes: Classes, say: Callable[[str], None]
) -> tuple[dict[int, int] | None, LabelledTexts]:
    """The labels that are known, and the texts with these."""
    if settings.trusted is None:
        return None, texts
    right = trusted_labels(settings.trusted, settings.train, rows, texts.labels, classes, settings.reading)
    other = sum(texts.labels[index] != label for index, label in right.items())
    say(f"Known: {counted(len(right), 'label')}, {other:,} of them other than in {visible(settings.train.name)}.")
    return right, replace(texts, labels=tuple(right.get(index, label) for index, label in enumerate(texts.labels)))


def _checkpoints(settings: Settings) -> Path | None:
    """Where the given model's checkpoints are: named, or in its directory as a Trainer leaves them; else it is trained first."""
    if settings.model is None or settings.checkpoints is not None:
        if settings.checkpoints is not None:
            _refuse_folds(settings)
        return settings.checkpoints
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


def _refuse_folds(settings: Settings) -> None:
    """Raise InputError where folds are asked of a model that is not trained here."""
    if settings.folds is not None:
        raise InputError(
            f"--folds {settings.folds}: --model {settings.model} is asked at its checkpoints, and how it was trained is not "
            f"known, so that it cannot be trained again without some of the texts. Give the pretrained model that it began from "
            f"as --model, without --checkpoints and --index: it is fine-tuned here. Or, from Python, give your recipe: "
            f"suspects(tracin, folds={settings.folds}, recipe=...)."
        )


def _of_training(settings: Settings, rows: list[Row]) -> Classes:
    """The classes of a model that is trained here: those of the file; of one that names them all, as it numbers them."""
    classes = classes_of(rows, settings.train)
    head = head_of(settings.model) if settings.model is not None else None
    if head is not None and head.named and set(classes.values()) <= head.numbers.keys():
        numbers = {label: head.numbers[name] for label, name in classes.items()}
        return Classes(head.names, numbers, f"in the training file ({listed(classes)})")
    return of_file(classes)


def _source(settings: Settings, checkpoints: Path) -> Source:
    return Source(
        settings.model or checkpoints,
        checkpoints,
        settings.reading,
        settings.max_length,
        settings.batch_size,
        settings.without_special_tokens,
        settings.plain,
    )


def _say_texts(settings: Settings, texts: LabelledTexts, classes: Classes, say: Callable[[str], None]) -> None:
    said = f" {classes.said}" if classes.said else ""
    names = listed(texts.names, quoted=False)
    say(f"{len(texts):,} training texts; {len(texts.names)} classes: {names}.{said}{settings.reading.said}")


# ------------------------------------------------------------------------------------------------- what is written


def _page(settings: Settings, found: Suspects, texts: LabelledTexts, tokenized: list[TokenizedText]) -> str:
    title = f"Which labels of {settings.train.name} are probably wrong, and why"
    return suspects_html(found, title=title, texts=tokenized, places=texts.places)


def _table(found: Suspects, texts: LabelledTexts) -> str:
    """`Suspects.to_csv` with every text, and the line of the file where it stands."""
    return csv_text(TABLE, _rows(found, texts))


def _content(found: Suspects, texts: LabelledTexts) -> dict[str, Any]:
    """For JSON: all that was found."""
    return {
        "classes": list(found.names),
        "expected": found.expected(),
        "accuracy": found.accuracy,
        "weight": found.weight,
        "tells": found.tells,
        "texts": _rows(found, texts),
        "mixed_up": [asdict(one) for one in found.mixed_up],
        "doubles": [asdict(one) for one in found.doubles],
    }


def _rows(found: Suspects, texts: LabelledTexts) -> list[dict[str, Any]]:
    return [
        {**row, "line": texts.lines[row["index"]], "text": in_one(texts.texts[row["index"]])} for row in found.rows()
    ]


def _records(settings: Settings, found: Suspects, texts: LabelledTexts) -> str:
    """The texts of the page, a record of Argilla 2 a line (:func:`captum_tracinwe.exports.to_argilla`)."""
    records = to_argilla(found, settings.train.name, lambda index: texts.lines[index])
    return "".join(f"{json_text(record)}\n" for record in records)
