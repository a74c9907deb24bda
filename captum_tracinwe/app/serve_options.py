"""The options of `captum-tracinwe serve`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from captum_tracinwe.app import source_options
from captum_tracinwe.app.option_types import count, index_place, port, size

__all__ = ["add"]

DESCRIPTION = """\
Answer questions to an index over HTTP: a page for people at /, JSON for programs at /explain.

The model is loaded once, and questions are answered one after the other. Only programs on this machine reach the server, unless
--host says otherwise. No request names a file, and none is written."""


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    command = commands.add_parser(
        "serve",
        help="answer questions to an index over HTTP: a page, and JSON",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=_run)
    option = command.add_argument
    option("index", metavar="INDEX", help="what `captum-tracinwe index` made, or the URL of one")
    option("--train", metavar="FILE", help="the training file, to show its texts")
    option("--host", metavar="NAME", default="127.0.0.1", help="where to listen (default: this machine alone)")
    option("--port", metavar="N", type=port, default=8000, help="default: 8000; 0 takes one that is free")
    source_options.add(command)
    limit = command.add_argument_group("limits of a question").add_argument
    limit("--max-k", type=count, metavar="N", default=20, help="training texts named on either side (default: 20)")
    limit("--max-texts", type=count, metavar="N", default=8, help="texts of one request (default: 8)")
    limit("--max-characters", type=count, metavar="N", default=10_000, help="of a text (default: 10000)")
    limit("--max-bytes", type=size, metavar="SIZE", default=1 << 18, help="of a request (default: 256KiB)")
    limit("--waiting", type=count, metavar="N", default=64, help="questions that may wait for a turn (default: 64)")
    limit("--seconds", type=count, metavar="N", default=60, help="for an answer, waiting included (default: 60)")


def _run(options: argparse.Namespace) -> None:
    from captum_tracinwe.app import serve_command
    from captum_tracinwe.app.serving.limits import Limits

    limits = Limits(
        body_bytes=options.max_bytes,
        characters=options.max_characters,
        texts=options.max_texts,
        k=options.max_k,
        waiting=options.waiting,
        seconds=options.seconds,
    )
    serve_command.run(
        serve_command.Settings(
            source_options.source_of(options),
            index_place(options.index),
            Path(options.train) if options.train else None,
            options.host,
            options.port,
            limits,
        ),
        options.say,
    )
