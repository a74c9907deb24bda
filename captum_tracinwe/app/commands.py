"""`captum-tracinwe index`: an index of a fine-tuned classifier's training texts, and what questions to it have in common."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from captum_tracinwe.app import training
from captum_tracinwe.app.data import InputError, LabelledTexts, classes_of, one_line
from captum_tracinwe.app.files import Reading, read_texts
from captum_tracinwe.app.files.reading import DEFAULT
from captum_tracinwe.app.given_model import Classes, head_of, kept_tokens, labelled, numbered_by
from captum_tracinwe.app.same_texts import OTHER
from captum_tracinwe.gradients.seen import is_terminal
from captum_tracinwe.index import GradientIndex
from captum_tracinwe.index.estimate import IndexEstimate
from captum_tracinwe.index.files.manifest import NAME
from captum_tracinwe.tracin_we import TracInWE
from captum_tracinwe.visualization.common import counted
from captum_tracinwe.words.legible import shortened, visible
from captum_tracinwe.words.texts import TokenizedText

__all__ = [
    "LINE",
    "WRITTEN",
    "Source",
    "build",
    "facts_of",
    "labels_indexed",
    "refusals",
    "refuse_other_words",
    "tracin_of",
    "training_texts",
]

#: The column of an index with each text's label as the training file writes it, by which a question's labels are numbered
#: where the model names no classes.
WRITTEN = "written_label"
#: The column with its line there.
LINE = "line"


@dataclass(frozen=True)
class Source:
    """The model that is asked, and how its texts are read.

    Args:
        model (path): a local transformers directory, with its tokenizer.
        checkpoints (path): what :func:`find_checkpoints` takes.
        reading (Reading), max_length (int): of the texts.
        batch_size (int): texts to a pass.
        without_special_tokens (bool): [CLS] and its like do not count.
        plain (bool): the paper's score, and not the recommended one.
    """

    model: Path
    checkpoints: Path
    reading: Reading = DEFAULT
    max_length: int = 64
    batch_size: int = 16
    without_special_tokens: bool = False
    plain: bool = False


def build(
    source: Source,
    train: Path,
    out: Path,
    *,
    dry_run: bool = False,
    resume: bool = False,
    append: bool = False,
    dtype: str = "float32",
    rank: int = 31,
    memory: int = 1 << 30,
    say: Callable[[str], None] = print,
) -> GradientIndex | IndexEstimate:
    """Build, or with ``dry_run`` only estimate, the index of a training file; see :meth:`TracInWE.build_index`.

    Raises:
        InputError: a file, the model, the checkpoints or the index there cannot be used.
    """
    rows = read_texts(train, source.reading)
    with refusals():
        begun = GradientIndex.open(out) if append or (resume and (out / NAME).exists()) else None
        if not append:
            classes_of(rows, train, mixed_is_said=False)  # refuses a file of one label
        head = head_of(source.model)
        classes = numbered_by(head, rows, train, labels_indexed(begun) or None if begun is not None else None)
        texts = labelled(rows, classes, train)
        model, tokenizer, length = _model(source, classes, say, texts.pairs)
        if classes.said:
            say(classes.said)
        encoded = training.EncodedTexts(texts.texts, texts.labels, tokenizer, length)
        tracin = tracin_of(source, model, tokenizer, training.batches(encoded, source.batch_size), memory_limit=memory)
        if dry_run:
            estimate = tracin.estimate_index(dtype=dtype, rank=rank)
            say(str(estimate))
            return estimate
        metadata: dict[str, list[Any]] = {WRITTEN: [row.label for row in rows], LINE: list(texts.lines)}
        shown = is_terminal(sys.stderr)
        form: dict[str, Any] = {"append": append, "dtype": dtype, "rank": rank}
        index = tracin.build_index(out, resume, **form, metadata=metadata, show_progress=shown)
    question = shlex.join(["--index", str(out), *_options(source), "--test", "FILE"])
    say(
        f"{len(index):,} texts in {visible(str(out))}: {index.file_bytes / 1e6:,.1f} MB, "
        f"{counted(len(index.segments), 'segment')}. Ask it with: captum-tracinwe query {visible(question)}"
    )
    return index


def facts_of(built: GradientIndex | IndexEstimate) -> dict[str, Any]:
    """What there is to know of an index, or of what one would take, as data."""
    if not isinstance(built, GradientIndex):
        return {"estimate": dataclasses.asdict(built)}
    manifest = built.manifest
    checkpoints = [{"name": one.name, "learning_rate": one.learning_rate} for one in manifest.source.checkpoints]
    return {
        "index": {
            "path": str(built.path),
            "examples": len(built),
            "complete": built.complete,
            "segments": len(built.segments),
            "file_bytes": built.file_bytes,
            "gradient_bytes": built.payload_bytes,
            "dtype": manifest.dtype,
            "table": manifest.source.table,
            "width": manifest.source.width,
            "vocabulary": manifest.source.vocabulary,
            "model": manifest.source.model,
            "loss": manifest.source.loss,
            "checkpoints": checkpoints,
            "labels": labels_indexed(built),
        }
    }


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """What the package says of unusable input, as the one line that the command line prints."""
    with training.quiet_transformers():
        try:
            yield
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(one_line(error)) from error


def labels_indexed(index: GradientIndex) -> dict[str, int]:
    """Class number by label as written."""
    found: dict[str, int] = {}
    for segment in index.segments:
        if WRITTEN not in segment.columns:
            raise InputError(f"{index.path}: not an index that `captum-tracinwe index` made; ask it from Python.")
        found.update(zip(segment.columns[WRITTEN], segment.columns["label"], strict=True))
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _model(source: Source, classes: Classes, say: Callable[[str], None], pairs: bool) -> tuple[Any, Any, int]:
    """The model, its tokenizer, and how many tokens of a text are kept."""
    model, tokenizer = training.load_model(source.model, classes.names)
    return model, tokenizer, kept_tokens(source.max_length, tokenizer, model.config, say, pairs)


def _options(source: Source) -> list[str]:
    """The options that name a source, those left at their default not."""
    given = ["--model", str(source.model), "--checkpoints", str(source.checkpoints)]
    given += source.reading.options
    for name in ("max_length", "batch_size"):
        if getattr(source, name) != getattr(Source, name):
            given += ["--" + name.replace("_", "-"), str(getattr(source, name))]
    for name in ("without_special_tokens", "plain"):
        given += ["--" + name.replace("_", "-")] if getattr(source, name) else []
    return given


def tracin_of(source: Source, model: Any, tokenizer: Any, data: Any, **options: Any) -> TracInWE:
    """The model of a source over training texts, or over an index of them."""
    excluded = tokenizer.all_special_ids if source.without_special_tokens else ()
    loss = nn.CrossEntropyLoss(reduction="none")
    options["preconditioner"] = None if source.plain else "auto"
    return TracInWE(model, data, source.checkpoints, loss_fn=loss, exclude_tokens=excluded, **options)


def training_texts(source: Source, train: Path, index: GradientIndex, classes: Classes) -> LabelledTexts:
    """The texts of the file that an index was built from; InputError if it is another one."""
    rows = read_texts(train, source.reading)
    if len(rows) != index.total:
        raise InputError(
            f"--train {train}: {len(rows)} texts; expected the {index.total} that the index was built from."
        )
    for segment in index.segments:
        for number, written in zip(segment.numbers.tolist(), segment.columns[WRITTEN], strict=True):
            row = rows[number]
            if row.label != written:
                raise InputError(
                    f"--train {train}, {row.place}: the label is {shortened(row.label)}, and {shortened(written)} in the "
                    f"index; expected the file that the index was built from, in its order."
                )
    return labelled(rows, classes, train)


def refuse_other_words(index: GradientIndex, texts: dict[int, TokenizedText], places: list[str]) -> None:
    """Refuse training texts that lack a token whose gradient the index has for them."""
    if not texts:
        return
    rows = index.rows(list(texts))
    ends, ids = rows.ptr.tolist(), rows.ids.tolist()
    for i, (text, place) in enumerate(zip(texts.values(), places, strict=True)):
        held = {*text.token_ids, *((text.padding[0],) if text.padding else ())}
        if not held.issuperset(ids[ends[i] : ends[i + 1]]):
            raise InputError(f"{place}: {OTHER}")
