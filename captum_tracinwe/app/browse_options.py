"""The options of `captum-tracinwe browse`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from captum_tracinwe.app import results_options, source_options
from captum_tracinwe.app.option_types import count, file_name, index_place

__all__ = ["add"]

DESCRIPTION = """\
A page of training texts, each with the training texts that it influenced most, and the words by which it did.

All gradients are those of the index; none is computed again."""


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    command = commands.add_parser(
        "browse",
        help="a page that browses an index: whom did a training text influence?",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=_run)
    option = command.add_argument
    option("--index", metavar="DIR", required=True, help="what `captum-tracinwe index` made, or the URL of one")
    option("--train", metavar="FILE", required=True, help="the training file that it was made from")
    page = "captum-tracinwe-browse.html"
    option("--out", metavar="FILE", type=file_name, default=page, help="the page (default: %(default)s)")
    option("--texts", type=count, metavar="N", default=20, help="the N texts of largest self-influence (default: 20)")
    option("--lines", type=count, metavar="N", nargs="+", help="the texts of these lines of --train instead")
    option("--k", type=count, default=5, metavar="N", help="texts named that it pushed either way (default: 5)")
    results_options.add(command, "the pairs of training texts as a table")
    source_options.add(command)


def _run(options: argparse.Namespace) -> None:
    from captum_tracinwe.app import browse, results

    handed = results.Results.of(options)
    handed.check([options.train, options.model, options.checkpoints, options.index], out=options.out)
    found = browse.browse(
        source_options.source_of(options),
        index_place(options.index),
        Path(options.train),
        Path(options.out),
        texts=options.texts,
        lines=options.lines,
        k=options.k,
        say=options.say,
    )
    if not handed.asked:
        return
    tables = results.of_pairs(list(found.pushed.values()), found.lines, found.lines)
    handed.hand_on(tables, results.PAIRS, tables["pairs"])
