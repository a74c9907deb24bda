"""How a model that a command saves was given its texts: kept beside it, so that the next command need not be told again."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec

from captum_tracinwe.app.files import InputError, Reading
from captum_tracinwe.app.files.reading import DEFAULT
from captum_tracinwe.words.legible import visible

__all__ = ["NAME", "KeptOptions", "recall"]

#: The file in a model's folder.
NAME = "captum-tracinwe.json"

Count = Annotated[int, msgspec.Meta(ge=1)]


class KeptOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """The options that were not left at their default; what is kept for a command that has no such option, it leaves.

    Args:
        train (str): the training file, of which ``limit`` and ``seed`` are.
        limit, seed, max_length (int, optional), text_columns, label_column, delimiter, encoding: as the options are called.
    """

    train: str = ""
    limit: Count | None = None
    seed: Annotated[int, msgspec.Meta(ge=0)] | None = None
    max_length: Count | None = None
    text_columns: list[str] | None = None
    label_column: str | None = None
    delimiter: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] | None = None
    encoding: str | None = None

    @classmethod
    def of(cls, train: Path, reading: Reading, limit: int | None, seed: int, max_length: int | None) -> KeptOptions:
        """What there is to keep; ``max_length`` is None where it is the default."""
        columns = list(reading.text_columns) if reading.text_columns != DEFAULT.text_columns else None
        label = reading.label_column if reading.label_column != DEFAULT.label_column else None
        return cls(
            str(train.resolve()),
            limit,
            None if limit is None else seed,
            max_length,
            columns,
            label,
            reading.delimiter,
            reading.encoding,
        )

    def write(self, folder: str | Path) -> None:
        """Write them beside a model."""
        (Path(folder) / NAME).write_text(json.dumps(msgspec.to_builtins(self), indent=1) + "\n", encoding="utf-8")


def recall(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Take what a command was not told from beside its model, and say it in one line; an option that is given wins.

    Raises:
        InputError: the file there cannot be used.
    """
    path = None if options.model is None else Path(options.model) / NAME
    if path is None or not path.is_file():
        return
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=KeptOptions)
        Reading(tuple(kept.text_columns or DEFAULT.text_columns))
    except (OSError, ValueError) as error:  # msgspec's own errors and InputError are ValueErrors
        raise InputError(
            f"--model {options.model}: {NAME} in it cannot be used ({error}); expected what --save wrote there. Restore it, or "
            f"remove it and say the options."
        ) from error
    taken: list[str] = []

    def take(name: str, value: object) -> None:
        if value is not None and getattr(options, name, 0) is None:
            setattr(options, name, value)
            taken.extend(["--" + name.replace("_", "-"), *(value if isinstance(value, list) else [str(value)])])

    if kept.text_columns and options.text_column is None and options.text_columns is None:
        one = len(kept.text_columns) == 1
        take("text_column" if one else "text_columns", kept.text_columns[0] if one else kept.text_columns)
    for name in ("label_column", "delimiter", "encoding"):
        take(name, getattr(kept, name))
    # `suspects` has a --limit of another meaning, and an index is of all texts; of other texts a sample would be another.
    given = getattr(options, "train", None)
    same = given is not None and str(Path(given).resolve()) == kept.train
    if same and options.command == "explain" and options.index is None and options.limit is None:
        take("limit", kept.limit)
        take("seed", kept.seed)
    elif same and kept.limit is not None and options.command in ("index", "suspects"):
        say(
            f"{visible(str(options.model))} was trained on a sample of {visible(str(given))}, at most {kept.limit} of its texts; "
            f"this command reads them all, also those that it never saw."
        )
    take("max_length", kept.max_length)
    if taken:
        say(f"As {visible(str(options.model))} was saved: {visible(shlex.join(taken))}.")
