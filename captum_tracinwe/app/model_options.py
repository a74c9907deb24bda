"""The options of commands that ask a classifier about labelled texts: which texts, which model, how it is trained."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from captum_tracinwe.app.file_options import reading_of
from captum_tracinwe.app.option_types import count, folder_name, index_place, rate, seed

__all__ = ["add_model", "path", "settings_of"]

# Option of the command line → field of the settings.
PATHS = ("model", "checkpoints", "save")
OTHERS = ("seed", "max_length", "batch_size", "epochs", "learning_rate")
FLAGS = ("without_special_tokens", "plain")


def add_model(command: Any, index: str, saves: bool = False) -> None:
    """Add the group that says which model is asked, and how it comes about.

    Args:
        command: of argparse.
        index (str): what an index is for.
        saves (bool): the command keeps what it trains.
    """
    option = command.add_argument_group("the model").add_argument
    option("--model", metavar="DIR", help="a local directory of save_pretrained (default: a small BERT from scratch)")
    option("--checkpoints", metavar="DIR", help="--model's own, with their rates; without any it is fine-tuned first")
    option("--index", metavar="DIR", help=f"what `captum-tracinwe index` made: {index}")
    if saves:
        there = "leave the trained model there, for --model (a new or empty directory)"
        option("--save", metavar="DIR", type=folder_name, help=there)
        option("--limit", type=count, metavar="N", help="take a random sample of N training texts, by class shares")
    option("--max-length", type=count, metavar="N", help="tokens kept of a text (default: 64, or as --model was saved)")
    option("--batch-size", type=count, metavar="N", default=32, help="texts per training step (default: 32)")
    option("--epochs", type=count, metavar="N", help="default: 5; 2 with --model")
    option("--learning-rate", type=rate, metavar="RATE", help="default: 0.001; 0.00005 with --model")
    option("--seed", type=seed, metavar="N", help="of weights, shuffling, samples (default: 0)")
    option("--without-special-tokens", action="store_true", help="leave [CLS], [SEP] and their like out of the scores")
    option("--plain", action="store_true", help="the paper's TracIn-WE (default: the score that we recommend)")


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of :class:`ModelSettings` by what was given, or kept with the model.

    Raises:
        InputError: what is of a given model, without one.
    """
    from captum_tracinwe.app.data import InputError
    from captum_tracinwe.app.kept_options import recall

    for name in ("checkpoints", "index"):
        if getattr(options, name) is not None and options.model is None:
            raise InputError(f"--{name} is given without --model; give the model that it is of, too.")
    recall(options, options.say)
    given = {name: getattr(options, name) for name in (*OTHERS, *FLAGS)}
    found = {name: value for name, value in given.items() if value is not None}
    found |= {name: path(getattr(options, name, None)) for name in PATHS}
    found["index"] = None if options.index is None else index_place(options.index)
    return {**found, "train": Path(options.train), "reading": reading_of(options)}


def path(given: str | None) -> Path | None:
    """A path that may be left out."""
    return None if given is None else Path(given)
