"""What building an index will take: time, memory and disk, from the gradients of a sample."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from captum_tracinwe.batches.arguments import is_whole
from captum_tracinwe.batches.batch import Batch, positions_of, size_of
from captum_tracinwe.batches.blocks import Block
from captum_tracinwe.batches.loaders import examples_loader, reading
from captum_tracinwe.batches.training_set import TrainingSet
from captum_tracinwe.gradients.live import Asked
from captum_tracinwe.gradients.live_source import LiveSource
from captum_tracinwe.index.creation import check_form
from captum_tracinwe.index.sizes import HELD, Form, Texts
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = [
    "IndexEstimate",
    "Options",
    "amount",
    "duration",
    "estimate",
    "examples_in",
    "look_ahead",
    "row_blocks",
    "whole_columns",
]

# Training examples, drawn at random, that fix the sketch and the estimate: 10,000 rows for 32 directions.
SAMPLE = 256
# A block of rows lies in memory up to five times: of single batches, put together, scaled, side by side, and as it is stored.
COPIES = 5
# Bytes per row while a segment is written, beside its sketch: ids, checksums, and the order of its lists.
SORTING = 40


@dataclass(frozen=True)
class Options:
    """See :meth:`TracInWE.build_index`; ``announce`` is told the estimate in place of stderr, which is of ``sample`` examples."""

    dtype: str = "float32"
    rank: int = 31
    segment_examples: int = 4096
    memory_limit: int = 1 << 30
    project: int | None = None
    metadata: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    show_progress: bool | None = False
    announce: Callable[[IndexEstimate], None] | None = None
    sample: int = SAMPLE


@dataclass(frozen=True)
class IndexEstimate:
    """What building an index will take, and asking it; ``str()`` says it in two sentences, :meth:`at` of another size.

    Args:
        examples (int or None): None where the data set does not tell its size; all below is then for one example.
        rows_per_example (float): distinct tokens, of a sample.
        payload_bytes, disk_bytes (int): row gradients; all files.
        memory_bytes (int): held beside the model: by the build's own blocks and sketches, and by the passes over one batch,
            as far as the sample showed.
        seconds (float): of ``workers`` processes.
        segment_examples (int): as the memory ceiling allows.
        question_bytes (int), question_seconds (float): what a question reads, and takes on one core if that is in memory.
        question_memory_bytes (int): what it holds.
        form (Form), texts (Texts): from which all bytes follow (``index/sizes.py`` has the formulas).

    Example:
        >>> from captum_tracinwe.testing import toy_tracin
        >>> estimate = toy_tracin()[0].estimate_index()
        >>> many = estimate.at(10**9, dtype="int4", workers=8)
        >>> many.examples, many.disk_bytes < estimate.at(10**9).disk_bytes
        (1000000000, True)
    """

    examples: int | None
    rows_per_example: float
    payload_bytes: int
    disk_bytes: int
    memory_bytes: int
    seconds: float
    segment_examples: int
    question_bytes: int
    question_seconds: float
    question_memory_bytes: int
    form: Form
    texts: Texts
    workers: int = 1

    def at(
        self,
        examples: int,
        *,
        dtype: str | None = None,
        rank: int | None = None,
        project: int | None = None,
        workers: int = 1,
    ) -> IndexEstimate:
        """Of so many texts like those of the sample, and in another form.

        Args:
            examples (int): M.
            dtype, rank, project (optional): as in :meth:`TracInWE.build_index`. Default: as they are.
            workers (int): processes like this one, each with a device of its own; ``seconds`` are shared among them.

        Raises:
            ValueError: a form that an index cannot have, or a number below 1.
        """
        for name, value in (("examples", examples), ("workers", workers)):
            if not is_whole(value) or value < 1:
                raise ValueError(f"`{name}` should be a whole number of at least 1, got {value!r}.")
        form = replace(
            self.form,
            dtype=self.form.dtype if dtype is None else dtype,
            rank=self.form.rank if rank is None else rank,
            project=self.form.project if project is None else project,
        )
        check_form(form.dtype, form.rank, self.segment_examples, form.project, form.width)
        seconds = self.seconds / (self.examples or 1) * examples / workers
        held, before = (
            self.segment_examples * self.texts.rows * (4 * one.columns + SORTING) for one in (form, self.form)
        )
        memory = round(max(held, self.memory_bytes + held - before))
        return replace(_estimate(examples, self.texts, form, memory, seconds, self.segment_examples), workers=workers)

    def __str__(self) -> str:
        processes = "one process" if self.workers == 1 else f"{self.workers:,} processes"
        many = "one example" if self.examples is None else f"{self.examples:,} examples"
        return (
            f"Index of {many}, {self.rows_per_example:.1f} rows each: {amount(self.disk_bytes)} on disk "
            f"({amount(self.payload_bytes)} of gradients), about {duration(self.seconds)} in {processes}, "
            f"{amount(self.memory_bytes)} of memory beside the model, segments of {self.segment_examples:,} examples. A question "
            f"reads {amount(self.question_bytes)} and holds {amount(self.question_memory_bytes)}: "
            f"{duration(self.question_seconds)} on one core if that is in memory."
        )


def amount(size: float) -> str:
    """A number of bytes in words."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 120:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def estimate(training: LiveSource, options: Options) -> IndexEstimate:
    """See :meth:`TracInWE.estimate_index`."""
    return look_ahead(training, options)[0]


def look_ahead(training: LiveSource, options: Options) -> tuple[IndexEstimate, list[Tensor]]:
    """The estimate, and the rows of the sample it was made from."""
    check_form(options.dtype, options.rank, options.segment_examples, options.project, training.width)
    if options.project is not None and training.live.tables.equal:
        raise ValueError(
            f"project={options.project} mixes the columns of several tables ({training.live.tables}). The recommended score, as "
            f"shares='equal', needs them apart. Make the index smaller by dtype='int4', or build one of the plain score."
        )
    loader = training.examples.by_index()
    size = examples_in(loader)
    chosen: Any = _first_batches(loader, options.sample)
    if size is not None:
        generator = torch.Generator().manual_seed(0)
        chosen = examples_loader(loader, torch.randperm(size, generator=generator)[: options.sample].tolist())
    peak, started = _peak(), time.perf_counter()
    first = started, 0
    sample: list[Tensor] = []
    words: list[Tensor] = []
    count = rows = 0
    for block, part in row_blocks(training, chosen, options, 0, "sample"):
        sample.append(part.values.cpu())
        words.append(part.ids.cpu())
        count, rows = count + block.size, rows + part.num_rows
        if len(sample) == 1:
            first = time.perf_counter(), block.size
        if sum(values.nbytes for values in sample) > options.memory_limit / 4:
            break
    # What the first pass loads and compiles is not the price of a text.
    begun, before = first if count > first[1] else (started, 0)
    seconds = (time.perf_counter() - begun) / (count - before)
    grown = max(0, _peak() - peak)
    checkpoints = len(training.live.weights)
    form = Form(options.dtype, options.rank, options.project, checkpoints, training.width, whole_columns(training))
    mean = rows / count
    segment = _segment_examples(options, mean, form.columns)
    held = max(segment * mean * (4 * form.columns + SORTING), sum(values.nbytes for values in sample))
    texts = Texts(mean, _shared(torch.cat(words), count))
    many = 1 if size is None else size
    found = _estimate(many, texts, form, round(held + grown), seconds * many, segment)
    return replace(found, examples=size), sample


def _estimate(examples: int, texts: Texts, form: Form, memory: int, seconds: float, segment: int) -> IndexEstimate:
    payload = round(examples * texts.payload(form))
    return IndexEstimate(
        examples,
        texts.rows,
        payload,
        texts.disk(form, examples, segment),
        memory,
        seconds,
        segment,
        texts.read(form, examples),
        texts.seconds(form, examples),
        HELD * examples,
        form,
        texts,
    )


def _shared(words: Tensor, count: int) -> float:
    """How many of its words a text of ``count`` shares with another, on average; ``words`` are those of all."""
    often = torch.unique(words, return_counts=True)[1].double()
    return float((often * (often - 1)).sum()) / max(1, count * (count - 1))


def whole_columns(training: LiveSource) -> int:
    """The columns of a bag of words, where they are the last of several tables."""
    names = training.live.tables.names
    return training.live.widths(training.width)[-1] if len(names) > 1 and names[-1] == "bag" else 0


def _peak() -> int:
    """The most memory this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def row_blocks(
    training: LiveSource, batches: Any, options: Options, start: int, what: str, bar: Any = None
) -> Iterator[tuple[Block, RowGradients]]:
    """Rows block by block, so few at a time that all their copies stay within a third of the memory."""
    columns = len(training.live.weights) * training.width

    def most(batch: Batch) -> int:
        return COPIES * 4 * columns * positions_of(batch)

    limit = int(options.memory_limit / 3)
    examples = TrainingSet(batches if isinstance(batches, DataLoader) else training.examples.by_index())
    asked = Asked(training.loss_fn, what, examples=examples)
    return training.live.row_blocks(batches, asked, bar, start, most, limit)


def _segment_examples(options: Options, rows_per_example: float, columns: int) -> int:
    """As asked for, or as many as keep a segment's sketch within a third of the memory."""
    per_example = max(1.0, rows_per_example) * (4 * columns + SORTING)
    return max(1, min(options.segment_examples, int(options.memory_limit / 3 / per_example)))


def examples_in(loader: DataLoader[Any]) -> int | None:
    """How many training examples there are, if they can be read in any order."""
    if not hasattr(loader.dataset, "__len__") or examples_loader(loader, [0]) is None:
        return None
    return len(loader.dataset)


def _first_batches(loader: DataLoader[Any], examples: int) -> Iterator[Batch]:
    for batch in reading(loader, "train_dataset"):
        if examples <= 0:
            return
        yield batch
        examples -= size_of(batch)
