"""The options of `captum-tracinwe suspects`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from captum_tracinwe.app import results_options
from captum_tracinwe.app.file_options import FORMS, add_file_options, reading_of
from captum_tracinwe.app.model_options import add_model, path, settings_of
from captum_tracinwe.app.option_types import count, file_name, fold_count

__all__ = ["add"]

# What says nothing about a cleaned file.
BESIDE = ("out", "csv", "json", "argilla", "limit", "witnesses", "folds", "trusted")

DESCRIPTION = """\
Which labels of your training texts are probably wrong, which would be right, and which texts and words say so.

Trains a small classifier on the texts (or fine-tunes --model, or asks it at its --checkpoints) and writes a page with the
most suspicious texts. Open it, decide by keyboard (1 keep, 2 change, 3 drop), and export the decisions as CSV. Then

  captum-tracinwe suspects --train train.csv --decisions decisions.csv --clean clean.csv

writes the training file with your decisions. No text is changed or dropped that you did not decide about."""


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    command = commands.add_parser(
        "suspects",
        help="which labels are probably wrong, and why: a page to decide on them",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=_run)
    option = command.add_argument
    option("--train", metavar="FILE", required=True, help=f"training texts: {FORMS}")
    option("--out", metavar="FILE", type=file_name, help="the page (default: captum-tracinwe-suspects.html)")
    results_options.add(command, "all texts as a table, most suspicious first")
    records = "the texts of the page as JSON lines, records for Argilla 2"
    option("--argilla", metavar="FILE", type=file_name, help=records)
    option("--limit", type=count, metavar="N", help="texts on the page (default: 50)")
    option("--witnesses", type=count, metavar="N", help="texts named for a label and against it (default: 3)")
    add_file_options(command)
    option(
        "--trusted",
        metavar="FILE",
        help="labels that you have checked: what the page exported, or texts of --train with their right labels; the others "
        "are judged by them",
    )
    option(
        "--folds",
        type=fold_count,
        metavar="N",
        help="train N more, each without a part of the texts, which it is then asked about; you are told how long it takes",
    )
    add_model(command, "reasons are looked up there")
    clean = command.add_argument_group("a cleaned training file").add_argument
    clean("--decisions", metavar="FILE", help="what the page exported")
    cleaned = "--train with these decisions, in the same format; nothing else is done then"
    clean("--clean", metavar="FILE", type=file_name, help=cleaned)


def _run(options: argparse.Namespace) -> None:
    from captum_tracinwe.app import suspects_command
    from captum_tracinwe.app.cleaning import clean
    from captum_tracinwe.app.data import InputError
    from captum_tracinwe.app.kept_options import recall
    from captum_tracinwe.app.results import Results

    train = Path(options.train)
    if options.clean is not None and options.decisions is None:
        raise InputError(
            "--clean is given without --decisions: no text is changed or dropped that is only suspected. Decide on the page, "
            "export the decisions, and give them with --decisions FILE."
        )
    if options.decisions is not None and options.clean is None:
        raise InputError("--decisions is given without --clean; name the file to write with --clean FILE.")
    if options.clean is not None:
        beside = next((name for name in BESIDE if getattr(options, name) is not None), None)
        if beside is not None:
            raise InputError(
                f"--{beside} is given with --clean, which only writes the cleaned file; leave it out, or run the command twice."
            )
        recall(options, options.say)
        clean(
            train,
            Path(options.decisions),
            Path(options.clean),
            reading=reading_of(options),
            model=path(options.model),
            say=options.say,
        )
        return
    settings = suspects_command.Settings(
        **settings_of(options),
        out=Path(options.out or "captum-tracinwe-suspects.html"),
        results=Results.of(options),
        argilla=path(options.argilla),
        limit=options.limit or suspects_command.Settings.limit,
        witnesses=options.witnesses or suspects_command.Settings.witnesses,
        folds=options.folds,
        trusted=path(options.trusted),
    )
    suspects_command.run(settings, options.say)
