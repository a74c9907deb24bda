"""`captum-tracinwe index` and `query`: an index of a fine-tuned classifier's training texts, and questions to it."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from captum_tracinwe import training
from captum_tracinwe.data import InputError, LabelledTexts, classes_of, read_rows, with_classes
from captum_tracinwe.index import GradientIndex
from captum_tracinwe.texts import tokenize
from captum_tracinwe.tracin_we import TracInWE
from captum_tracinwe.visualization import word_influence_text

__all__ = ["Source", "build", "query"]

# Column of an index that holds each text's label as the training file writes it: a question's labels are numbered alike.
WRITTEN, LINE = "written_label", "line"


@dataclass(frozen=True)
class Source:
    """The model that is asked, and how its texts are read.

    Args:
        model (path): a local transformers directory, with its tokenizer.
        checkpoints (path): what :func:`find_checkpoints` takes.
        text_column, label_column (str), max_length (int): of the texts.
        batch_size (int): texts to a pass.
        without_special_tokens (bool): [CLS] and its like do not count.
    """

    model: Path
    checkpoints: Path
    text_column: str = "text"
    label_column: str = "label"
    max_length: int = 64
    batch_size: int = 16
    without_special_tokens: bool = False


def build(
    source: Source,
    train: Path,
    out: Path,
    *,
    dry_run: bool = False,
    resume: bool = False,
    append: bool = False,
    dtype: str = "float32",
    memory: int = 1 << 30,
    say: Callable[[str], None] = print,
) -> None:
    """Build, or with ``dry_run`` only estimate, the index of a training file; see :meth:`TracInWE.build_index`.

    Raises:
        InputError: a file, the model, the checkpoints or the index there cannot be used.
    """
    rows = read_rows(train, source.text_column, source.label_column)
    with _refusals():
        classes = _classes(GradientIndex.open(out)) if append else classes_of(rows, train)
        texts = with_classes(rows, classes, train)
        model, tokenizer = _model(source, texts.names)
        encoded = training.EncodedTexts(texts.texts, texts.labels, tokenizer, source.max_length)
        tracin = _tracin(source, model, tokenizer, training.batches(encoded, source.batch_size), memory_limit=memory)
        if dry_run:
            say(str(tracin.estimate_index(dtype=dtype)))
            return
        written = list(classes)
        metadata: dict[str, list[Any]] = {WRITTEN: [written[label] for label in texts.labels], LINE: list(texts.lines)}
        shown = sys.stderr.isatty()
        index = tracin.build_index(out, resume, append=append, dtype=dtype, metadata=metadata, show_progress=shown)
    say(
        f"{len(index):,} texts in {out}: {index.file_bytes / 1e6:,.1f} MB, {len(index.segments)} segment(s). Ask it with: "
        f"captum-tracinwe query --index {out} --model {source.model} --checkpoints {source.checkpoints} --test FILE"
    )


def query(
    source: Source,
    index: Path,
    test: Path,
    *,
    k: int = 5,
    opponents: bool = False,
    limit: int = 5,
    predicted: bool = False,
    train: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Print the k proponents (opponents) of the first ``limit`` texts of a file, with the words that carry them.

    Args:
        train (path, optional): the training file, to show its texts.
        predicted (bool): ask about the model's own answers, not the labels of the file.

    Raises:
        InputError: as :func:`build`; a label that the index does not know.
    """
    with _refusals():
        opened = GradientIndex.open(index)
        classes = _classes(opened)
        chosen = with_classes(read_rows(test, source.text_column, source.label_column)[:limit], classes, test)
        model, tokenizer = _model(source, chosen.names)
        encoded = training.EncodedTexts(chosen.texts, chosen.labels, tokenizer, source.max_length)
        if predicted:
            answers = training.logits_of(model, encoded).argmax(1).tolist()
            chosen = dataclasses.replace(chosen, labels=tuple(answers))
            encoded = training.EncodedTexts(chosen.texts, answers, tokenizer, source.max_length)
        tracin = _tracin(source, model, tokenizer, None, index=opened)
        batches = training.batches(encoded, source.batch_size)
        found = opened.search(tracin.row_gradients(batches), k, not opponents)
        pairs = tracin.word_influence(batches, found.indices)
        shown = _training_texts(source, train, opened) if train else None
    lines = {n: line for s in opened.segments for n, line in zip(s.numbers.tolist(), s.columns[LINE], strict=True)}
    labels = [chosen.names[label] for label in chosen.labels]
    test_texts = tokenize(chosen.texts, tokenizer, labels=labels, max_length=source.max_length)
    named = []
    for text, line, own in zip(test_texts, chosen.lines, pairs, strict=True):
        of_train: list[Any] = [None] * len(own)
        if shown:
            kept = shown.take([pair.train_index for pair in own])
            labels = [kept.names[label] for label in kept.labels]
            of_train = tokenize(kept.texts, tokenizer, labels=labels, max_length=source.max_length)
        known = [pair.with_texts(text, one) for pair, one in zip(own, of_train, strict=True)]
        named.append(
            [dataclasses.replace(pair, test_index=line, train_index=lines[pair.train_index]) for pair in known]
        )
    say(word_influence_text(named))
    stats = found.stats
    say(
        f"\nNumbers are lines of the two files. Of {stats.examples:,} training texts {stats.verified:,.0f} were verified per "
        f"question, {stats.bytes_read / max(1, stats.payload_bytes):.1%} of the gradients' bytes read."
    )


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """What the package says of unusable input, as the one line that the command line prints."""
    with training.quiet_transformers():
        try:
            yield
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise InputError(" ".join(message.split())) from error


def _classes(index: GradientIndex) -> dict[str, str]:
    """Label as written → name, in the order of the labels' numbers."""
    numbered: dict[int, str] = {}
    for segment in index.segments:
        if WRITTEN not in segment.columns:
            raise InputError(f"{index.path}: not an index that `captum-tracinwe index` made; ask it from Python.")
        numbered.update(zip(segment.columns["label"], segment.columns[WRITTEN], strict=True))
    return {numbered[number]: numbered[number] for number in sorted(numbered)}


def _model(source: Source, names: tuple[str, ...]) -> tuple[Any, Any]:
    return training.load_model(source.model, names)


def _tracin(source: Source, model: Any, tokenizer: Any, data: Any, **options: Any) -> TracInWE:
    excluded = tokenizer.all_special_ids if source.without_special_tokens else ()
    loss = nn.CrossEntropyLoss(reduction="none")
    return TracInWE(model, data, source.checkpoints, loss_fn=loss, exclude_tokens=excluded, **options)


def _training_texts(source: Source, train: Path, index: GradientIndex) -> LabelledTexts:
    rows = read_rows(train, source.text_column, source.label_column)
    if len(rows) != index.total:
        raise InputError(
            f"--train {train}: {len(rows)} texts; expected the {index.total} that the index was built from."
        )
    return with_classes(rows, _classes(index), train)
