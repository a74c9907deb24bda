"""`captum-tracinwe suspects`: train or take a classifier, judge the labels of its training texts, write page and tables."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from captum_tracinwe.app.asked_model import ModelSettings, asked_model
from captum_tracinwe.app.commands import refusals
from captum_tracinwe.app.data import InputError, LabelledTexts, classes_of, listed, read_rows
from captum_tracinwe.app.outputs import check_outputs
from captum_tracinwe.labels import Suspects, suspects
from captum_tracinwe.labels.found import COLUMNS, csv_line
from captum_tracinwe.visualization import suspects_html, suspects_text
from captum_tracinwe.visualization.writing import write_all
from captum_tracinwe.words.legible import visible
from captum_tracinwe.words.texts import TokenizedText

__all__ = ["Settings", "run"]

PRINTED = 4  # suspects in the terminal; the page has all
# Where there is nothing to learn from: two texts of each class are not many, but one says nothing.
FEWEST = 2


@dataclass(frozen=True, kw_only=True)
class Settings(ModelSettings):
    """What the options say; None: not given."""

    out: Path
    csv: Path | None = None
    argilla: Path | None = None
    limit: int = 50
    witnesses: int = 3

    @property
    def outputs(self) -> dict[str, Path]:
        """Path by option, of those to be written."""
        named = {"--out": self.out, "--csv": self.csv, "--argilla": self.argilla}
        return {option: path for option, path in named.items() if path is not None}


def run(settings: Settings, say: Callable[[str], None] = print) -> Suspects:
    """Judge all labels of a training file; write the page and what else is asked for, all of it or nothing.

    Raises:
        InputError: a file, the model, its checkpoints or the index cannot be used, or a file cannot be written.
    """
    check_outputs(settings.outputs, settings.read)
    rows = read_rows(settings.train, settings.text_column, settings.label_column)
    known = classes_of(rows, settings.train)
    if len(rows) < FEWEST * len(known):
        raise InputError(
            f"{settings.train}: {len(rows)} texts with {len(known)} different labels ({listed(known)}); expected at least "
            f"{FEWEST} texts for each label on average. Is --label-column {settings.label_column} the column of the labels?"
        )
    with refusals(), asked_model(settings, rows, say) as asked:
        texts, tokenized = asked.texts, asked.tokenized
        found = suspects(
            asked.tracin,
            texts=tokenized,
            class_names=texts.names,
            limit=settings.limit,
            witnesses=settings.witnesses,
            seed=settings.seed,
        )
    contents = {settings.out: _page(settings, found, texts, tokenized).encode()}
    if settings.csv is not None:
        contents[settings.csv] = _table(found, texts).encode()
    if settings.argilla is not None:
        contents[settings.argilla] = _records(settings, found, texts).encode()
    try:
        write_all(contents)
    except OSError as error:
        raise InputError(f"{error.filename or settings.out}: cannot be written ({error.strerror or error}).") from error
    say(suspects_text(found, top=min(PRINTED, settings.limit), places=_places(texts), rest="--csv has all"))
    say("")
    for what, path in (("Page", settings.out), ("Table", settings.csv), ("Argilla records", settings.argilla)):
        if path is not None:
            say(f"{what}: {visible(str(path))}")
    given = [
        "--train",
        str(settings.train),
        *settings.columns,
        *(("--model", str(settings.model)) if settings.model else ()),
    ]
    then = shlex.join(
        [*given, "--decisions", "decisions.csv", "--clean", f"clean{''.join(settings.train.suffixes[-2:])}"]
    )
    say(f"Decide on the page, export the decisions, then: captum-tracinwe suspects {visible(then)}")
    return found


# ------------------------------------------------------------------------------------------------- what is written


def _page(settings: Settings, found: Suspects, texts: LabelledTexts, tokenized: list[TokenizedText]) -> str:
    title = f"Which labels of {settings.train.name} are probably wrong, and why"
    return suspects_html(found, title=title, texts=tokenized, places=_places(texts))


def _places(texts: LabelledTexts) -> list[str]:
    return [f"line {line}" for line in texts.lines]


def _table(found: Suspects, texts: LabelledTexts) -> str:
    """`Suspects.to_csv` with every text, and the line of the file where it stands."""
    names = (COLUMNS[0], "line", *COLUMNS[1:])
    lines = [csv_line(names)]
    for row in found.rows():
        told = {**row, "line": texts.lines[row["index"]], "text": texts.texts[row["index"]]}
        lines.append(csv_line([told[name] for name in names]))
    return "".join(lines)


def _records(settings: Settings, found: Suspects, texts: LabelledTexts) -> str:
    """The texts of the page, a record of Argilla 2 a line: what ``rg.Record.from_dict`` takes.

    The question is called "label"; its suggestion is the better label, scored by how suspicious the one given is.
    """
    lines = []
    for one in found.first:
        record = {
            "id": f"{visible(settings.train.name)}-{texts.lines[one.index]}",
            "fields": {"text": texts.texts[one.index]},
            "suggestions": {
                "label": {"value": one.suggested, "score": float(one.suspicion), "agent": "captum-tracinwe"}
            },
            "metadata": {
                "index": one.index,
                "line": texts.lines[one.index],
                "given_label": one.label,
                "suspicion": float(one.suspicion),
                "words_against": " ".join(word.text for word in one.words(True)),
                "words_for": " ".join(word.text for word in one.words(False)),
            },
        }
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    return "".join(lines)
