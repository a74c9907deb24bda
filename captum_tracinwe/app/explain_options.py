"""The options of `captum-tracinwe explain` and `captum-tracinwe cache`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from captum_tracinwe.app import results_options
from captum_tracinwe.app.file_options import FORMS, add_file_options, reading_of
from captum_tracinwe.app.model_options import add_model, path, settings_of
from captum_tracinwe.app.option_types import count, file_name, folder_name, size

__all__ = ["add", "add_cache", "run_demo"]

DESCRIPTION = """\
Why does a text classifier answer as it does? Which training texts taught it its mistakes, by which words; which words go with
one class beyond chance; which training texts are nearly the same, and labelled differently.

Trains a small classifier on the training texts (or fine-tunes --model, or asks it at its --checkpoints), says the result in
short, and writes a page. The gradients of the training texts are computed once and kept in the cache, so that the next question
about the same model costs only itself."""


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    command = commands.add_parser(
        "explain",
        help="why a model answers as it does: its mistakes, who taught it them, telltale words",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=_run)
    option = command.add_argument
    option("--train", metavar="FILE", required=True, help=f"training texts: {FORMS}")
    option("--test", metavar="FILE", required=True, help="test texts, in the same form")
    page = "captum-tracinwe-explain.html"
    option("--out", metavar="FILE", type=file_name, default=page, help="the page (default: %(default)s)")
    option("--k", type=count, metavar="N", default=3, help="training texts for an answer and against it (default: 3)")
    option("--explained", type=count, metavar="N", default=20, help="answers explained, mistakes first (default: 20)")
    results_options.add(command, "the answers with the training texts behind them")
    add_file_options(command)
    add_model(command, "the gradients come from there", saves=True)
    cache = command.add_argument_group("the gradients").add_argument
    there = "keep them there (default: the user's cache folder; see captum-tracinwe cache)"
    cache("--cache", metavar="DIR", type=folder_name, help=there)
    cache("--no-cache", action="store_true", help="do not keep them")


def add_cache(commands: Any) -> None:
    """Add the command that lists and clears the cache."""
    command = commands.add_parser(
        "cache",
        help="what gradients are kept, of what, and how large they are; --clear and --max-size remove them",
        description="List the gradients that are kept for later questions.",
    )
    command.set_defaults(run=_cache)
    less = command.add_mutually_exclusive_group()
    less.add_argument("--clear", action="store_true", help="remove them, but those that a process uses now")
    least = "remove those that were not used for longest until no more than so much is left, such as 5GB or 500MB"
    less.add_argument("--max-size", metavar="SIZE", type=size, help=least)
    results_options.add(command, "what is kept (with --clear or --max-size: what was removed) as a table")
    command.add_argument("--cache", metavar="DIR", help="the folder (default: $CAPTUM_TRACINWE_CACHE, ~/.cache/...)")


def _run(options: argparse.Namespace) -> None:
    from captum_tracinwe.app import explain_command
    from captum_tracinwe.app.data import InputError
    from captum_tracinwe.app.results import Results

    if options.no_cache and options.cache is not None:
        raise InputError("--cache and --no-cache are both given; leave out one of the two.")
    settings = explain_command.Settings(
        **settings_of(options),  # which takes what was kept with the model
        limit_train=options.limit,
        test=Path(options.test),
        out=Path(options.out),
        k=options.k,
        explained=options.explained,
        cache=path(options.cache),
        keep=not options.no_cache,
        results=Results.of(options),
    )
    explain_command.run(settings, options.say)


def run_demo(options: argparse.Namespace) -> None:
    """``demo --train``, an older name of ``explain``: what its options are called here."""
    from captum_tracinwe.app import explain_command
    from captum_tracinwe.app.data import InputError
    from captum_tracinwe.app.kept_options import recall
    from captum_tracinwe.app.results import Results

    recall(options, options.say)
    settings = explain_command.Settings(
        train=Path(options.train),
        test=Path(options.test),
        out=Path(options.out),
        k=options.k,
        explained=options.test_limit or 20,
        limit_train=options.limit,
        reading=reading_of(options),
        seed=options.seed,
        model=path(options.model),
        save=path(options.checkpoints),
        max_length=options.max_length or 64,
        batch_size=options.batch_size,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        without_special_tokens=options.without_special_tokens,
        plain=options.plain,
        results=Results.of(options),
    )
    try:
        explain_command.run(settings, options.say)
    except InputError as error:
        raise InputError(str(error).replace("--save", "--checkpoints")) from error
    options.say("On your own texts the command is captum-tracinwe explain, of which demo --train has a part.")


def _cache(options: argparse.Namespace) -> None:
    from captum_tracinwe.app import cache_command
    from captum_tracinwe.app.results import Results
    from captum_tracinwe.index.cache import cache_folder

    handed = Results.of(options)
    handed.check([cache_folder(path(options.cache))])
    folder, less = path(options.cache), options.clear or options.max_size is not None
    limit = {"max_bytes": options.max_size} if options.max_size else {}
    found = cache_command.clear(folder, options.say, **limit) if less else cache_command.show(folder, options.say)
    if handed.asked:
        rows = cache_command.rows(found)
        handed.hand_on({"removed" if less else "kept": rows}, cache_command.COLUMNS, rows)
