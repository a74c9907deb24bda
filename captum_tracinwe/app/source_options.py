"""The options that name a fine-tuned model and how its texts are read, of `index`, `query`, `browse` and `serve`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captum_tracinwe.app.file_options import add_file_options, reading_of
from captum_tracinwe.app.option_types import count

if TYPE_CHECKING:
    from captum_tracinwe.app.commands import Source

__all__ = ["add", "source_of"]


def add(command: Any) -> None:
    """Add them to a command."""
    option = command.add_argument
    option("--model", metavar="DIR", required=True, help="the fine-tuned classifier, written by save_pretrained")
    option(
        "--checkpoints", metavar="DIR", help="its checkpoints with their rates (default: those in --model's directory)"
    )
    add_file_options(command, "class numbers or the names that the model has")
    option("--max-length", type=count, metavar="N", help="tokens kept of a text (default: 64, or as --model was saved)")
    option("--batch-size", type=count, metavar="N", default=16, help="texts to a pass (default: 16)")
    option("--without-special-tokens", action="store_true", help="leave [CLS], [SEP] and their like out of the scores")
    option("--plain", action="store_true", help="the paper's TracIn-WE (default: the score that we recommend)")


def source_of(options: argparse.Namespace) -> Source:
    """What they say, or what was kept with the model."""
    from captum_tracinwe.app.commands import Source
    from captum_tracinwe.app.kept_options import recall

    recall(options, options.say)
    return Source(
        Path(options.model),
        Path(options.checkpoints or options.model),
        reading_of(options),
        options.max_length or Source.max_length,
        options.batch_size,
        options.without_special_tokens,
        options.plain,
    )
