"""`captum-tracinwe suspects`: train or take a classifier, judge the labels of its training texts, write page and tables."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from captum_tracinwe.app.asked_model import ModelSettings, asked_model
from captum_tracinwe.app.commands import refusals
from captum_tracinwe.app.data import InputError, LabelledTexts, classes_of, listed
from captum_tracinwe.app.files import in_one, read_texts
from captum_tracinwe.app.files.standing import ending_of_cleaned
from captum_tracinwe.app.outputs import check_outputs
from captum_tracinwe.app.results import Results
from captum_tracinwe.exports import to_argilla
from captum_tracinwe.labels import Suspects, suspects
from captum_tracinwe.labels.found import COLUMNS
from captum_tracinwe.tabular import json_text
from captum_tracinwe.visualization import suspects_html, suspects_text
from captum_tracinwe.whole_files import write_all
from captum_tracinwe.words.legible import visible
from captum_tracinwe.words.texts import TokenizedText

__all__ = ["Settings", "run"]

# Of the table of all texts.
TABLE = (COLUMNS[0], "line", *COLUMNS[1:])
PRINTED = 4  # suspects in the terminal; the page has all
# Where there is nothing to learn from: two texts of each class are not many, but one says nothing.
FEWEST = 2


@dataclass(frozen=True, kw_only=True)
class Settings(ModelSettings):
    """What the options say; None: not given."""

    out: Path
    results: Results = field(default_factory=Results)
    argilla: Path | None = None
    limit: int = 50
    witnesses: int = 3

    @property
    def outputs(self) -> dict[str, Path]:
        """Path by option, of those to be written."""
        named = {"--out": self.out, "--argilla": self.argilla, **self.results.outputs}
        return {option: Path(path) for option, path in named.items() if path is not None}


def run(settings: Settings, say: Callable[[str], None] = print) -> Suspects:
    """Judge all labels of a training file; write the page and what else is asked for, all of it or nothing.

    Raises:
        InputError: a file, the model, its checkpoints or the index cannot be used, or a file cannot be written.
    """
    settings.results.check_dashes()
    check_outputs(settings.outputs, settings.read)
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
    with refusals(), asked_model(settings, rows, say) as asked:
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
        )
    contents = {settings.out: _page(settings, found, texts, tokenized).encode()}
    if settings.argilla is not None:
        contents[settings.argilla] = _records(settings, found, texts).encode()
    table = _rows(found, texts) if settings.results.asked else []
    content = _content(found, table)
    contents |= settings.results.contents(content, TABLE, table)
    try:
        write_all(contents)
    except OSError as error:
        raise InputError(f"{error.filename or settings.out}: cannot be written ({error.strerror or error}).") from error
    say(suspects_text(found, top=min(PRINTED, settings.limit), places=texts.places, rest="--csv has all"))
    say("")
    named = (("Page", settings.out), ("Table", settings.outputs.get("--csv")), ("Argilla records", settings.argilla))
    for what, path in named:
        if path is not None:
            say(f"{what}: {visible(str(path))}")
    say(_then(settings))
    settings.results.say(content, TABLE, table)
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


# ------------------------------------------------------------------------------------------------- what is written


def _page(settings: Settings, found: Suspects, texts: LabelledTexts, tokenized: list[TokenizedText]) -> str:
    title = f"Which labels of {settings.train.name} are probably wrong, and why"
    return suspects_html(found, title=title, texts=tokenized, places=texts.places)


def _content(found: Suspects, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """For JSON: all that was found."""
    return {
        "classes": list(found.names),
        "expected": found.expected(),
        "accuracy": found.accuracy,
        "weight": found.weight,
        "tells": found.tells,
        "texts": rows,
        "mixed_up": [asdict(one) for one in found.mixed_up],
        "doubles": [asdict(one) for one in found.doubles],
    }


def _rows(found: Suspects, texts: LabelledTexts) -> list[dict[str, Any]]:
    """`Suspects.rows` with every text, and the line of the file where it stands."""
    return [
        {**row, "line": texts.lines[row["index"]], "text": in_one(texts.texts[row["index"]])} for row in found.rows()
    ]


def _records(settings: Settings, found: Suspects, texts: LabelledTexts) -> str:
    """The texts of the page, a record of Argilla 2 a line (:func:`captum_tracinwe.exports.to_argilla`)."""
    records = to_argilla(found, settings.train.name, lambda index: texts.lines[index])
    return "".join(f"{json_text(record)}\n" for record in records)
