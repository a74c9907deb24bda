"""Building an index from a TracInWE: what it will take, which segments are missing, and the one worker that writes them."""

from __future__ import annotations

import math
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from captum._utils.progress import NullProgress, progress
from msgspec.structs import replace
from torch import Tensor
from torch.utils.data import DataLoader

from captum_tracinwe.batches import Batch, Block, examples_loader, labels_of, size_of, tensors_in
from captum_tracinwe.index.creation import check_form, create, read_projections, refuse_others
from captum_tracinwe.index.disk import IndexMismatch, Room, claim, full_disk, locked
from captum_tracinwe.index.fingerprints import COLUMN, fingerprints
from captum_tracinwe.index.first import exists_already, leading, wait_for_first
from captum_tracinwe.index.identity import source_of
from captum_tracinwe.index.layout import DTYPES, HEADER
from captum_tracinwe.index.maintenance import check_columns, clean, differences
from captum_tracinwe.index.manifest import NAME, Manifest, Part, SegmentEntry
from captum_tracinwe.index.names import claim_of
from captum_tracinwe.index.same_examples import MANY, Remembered, check_batch, check_examples
from captum_tracinwe.index.segment import Segment
from captum_tracinwe.index.sketch import Sketch
from captum_tracinwe.index.writer import SegmentWriter, Written, commit
from captum_tracinwe.rows import RowGradients

if TYPE_CHECKING:
    from captum_tracinwe.index.gradient_index import GradientIndex
    from captum_tracinwe.tracin_we import TracInWE

__all__ = ["IndexEstimate", "Options", "build", "estimate", "work"]

# Training examples, drawn at random, that fix the sketch and the estimate: 10,000 rows for 32 directions.
SAMPLE = 256
# A block of rows lies in memory up to five times: of single batches, put together, scaled, side by side, and as it is stored.
COPIES = 5
# Bytes per row while a segment is written, beside its sketch: ids, checksums, and the order of its lists.
SORTING = 40


@dataclass(frozen=True)
class Options:
    """See :meth:`TracInWE.build_index`."""

    dtype: str = "float32"
    rank: int = 31
    segment_examples: int = 4096
    memory_limit: int = 1 << 30
    project: int | None = None
    metadata: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    show_progress: bool = False


@dataclass(frozen=True)
class IndexEstimate:
    """What building an index will take; ``str()`` says it in one line.

    Args:
        examples (int or None): None where the data set does not tell its size; all below is then for one example.
        rows_per_example (float): distinct tokens, of a sample.
        payload_bytes, disk_bytes (int): row gradients; all files.
        memory_bytes (int): held beside the model: by the build's own blocks and sketches, and by the passes over one batch,
            as far as the sample showed.
        seconds (float): of one process.
        segment_examples (int): as the memory ceiling allows.
    """

    examples: int | None
    rows_per_example: float
    payload_bytes: int
    disk_bytes: int
    memory_bytes: int
    seconds: float
    segment_examples: int

    def __str__(self) -> str:
        many = "one example" if self.examples is None else f"{self.examples:,} examples"
        return (
            f"Index of {many}, {self.rows_per_example:.1f} rows each: {_amount(self.disk_bytes)} on disk "
            f"({_amount(self.payload_bytes)} of gradients), about {_duration(self.seconds)} in one process, "
            f"{_amount(self.memory_bytes)} of memory beside the model, segments of {self.segment_examples:,} examples."
        )


def _amount(size: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# ----------------------------------------------------------------------------------------------------------- estimate


def estimate(tracin: TracInWE, options: Options) -> IndexEstimate:
    """See :meth:`TracInWE.estimate_index`."""
    return _look_ahead(tracin, options)[0]


def _look_ahead(tracin: TracInWE, options: Options) -> tuple[IndexEstimate, list[Tensor]]:
    """The estimate, and the rows of the sample it was made from."""
    check_form(options.dtype, options.rank, options.segment_examples, options.project, tracin.embedding.weight.shape[1])
    loader = tracin._training_loader()
    size = _examples(loader)
    chosen: Any = _first_batches(loader, SAMPLE)
    if size is not None:
        generator = torch.Generator().manual_seed(0)
        chosen = examples_loader(loader, torch.randperm(size, generator=generator)[:SAMPLE].tolist())
    peak, started = _peak(), time.perf_counter()
    sample: list[Tensor] = []
    count = rows = 0
    for block, part in _blocks(tracin, chosen, options, 0, "sample"):
        sample.append(part.values.cpu())
        count, rows = count + block.size, rows + part.num_rows
        if sum(values.nbytes for values in sample) > options.memory_limit / 4:
            break
    seconds = (time.perf_counter() - started) / count
    grown = max(0, _peak() - peak)
    checkpoints, width = len(tracin.checkpoints), options.project or int(tracin.embedding.weight.shape[1])
    columns = checkpoints * (min(options.rank, width) + 1)
    mean = rows / count
    payload = mean * (4 + DTYPES[options.dtype][1] * checkpoints * width) + 8
    disk = payload + mean * (4 * columns + 12) + 30
    segment = _segment_examples(options, mean, columns)
    held = max(segment * mean * (4 * columns + SORTING), sum(values.nbytes for values in sample))
    many = 1 if size is None else size
    on_disk = round(many * disk) + HEADER * math.ceil(many / segment)
    memory = round(held + max(grown, 0))
    return IndexEstimate(size, mean, round(many * payload), on_disk, memory, seconds * many, segment), sample


def _peak() -> int:
    """The most memory this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _blocks(
    tracin: TracInWE, batches: Any, options: Options, start: int, what: str
) -> Iterator[tuple[Block, RowGradients]]:
    """Rows block by block, so few at a time that all their copies stay within a third of the memory."""
    columns = len(tracin.checkpoints) * int(tracin.embedding.weight.shape[1])

    def most(batch: Batch) -> int:
        """No example has more rows than positions, and no tensor of whole numbers fewer positions than the ids."""
        tensors = [tensor for tensor in tensors_in(batch) if not tensor.is_floating_point()]
        positions = max((tensor.numel() for tensor in tensors), default=0) // max(1, size_of(batch))
        return COPIES * 4 * columns * positions

    limit = int(options.memory_limit / 3)
    return tracin._row_blocks(batches, tracin.loss_fn, NullProgress(), what, start, most, limit)


def _segment_examples(options: Options, rows_per_example: float, columns: int) -> int:
    """As asked for, or as many as keep a segment's sketch within a third of the memory."""
    per_example = max(1.0, rows_per_example) * (4 * columns + SORTING)
    return max(1, min(options.segment_examples, int(options.memory_limit / 3 / per_example)))


def _examples(loader: DataLoader[Any]) -> int | None:
    """How many training examples there are, if they can be read in any order."""
    if not hasattr(loader.dataset, "__len__") or examples_loader(loader, [0]) is None:
        return None
    return len(loader.dataset)


def _first_batches(loader: DataLoader[Any], examples: int) -> Iterator[Batch]:
    for batch in loader:
        if examples <= 0:
            return
        yield batch
        examples -= size_of(batch)


# -------------------------------------------------------------------------------------------------------------- build


@dataclass(frozen=True)
class Place:
    """Which of how many workers this process is, and whether it, or another in its place, has died before."""

    rank: int = 0
    world: int = 1
    again: bool = False

    @classmethod
    def of_environment(cls) -> Place:
        """As ``torchrun`` tells it; outside, the only worker."""
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        return cls(rank, world, int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0)


def build(
    tracin: TracInWE, folder: Path, resume: bool, append: bool, options: Options, place: Place | None = None
) -> GradientIndex:
    """See :meth:`TracInWE.build_index`."""
    from captum_tracinwe.index.gradient_index import GradientIndex

    place = place or Place.of_environment()
    rank, world, again = place.rank, place.world, place.again
    if append and world > 1:
        raise ValueError("append=True runs in one process: expected WORLD_SIZE to be 1.")
    check_form(options.dtype, options.rank, options.segment_examples, options.project, tracin.embedding.weight.shape[1])
    size = _examples(tracin._training_loader())
    if size is not None:
        check_columns(options.metadata, size)
    elif options.metadata or world > 1:
        raise ValueError(
            "`metadata`, and more than one process, need a training set that can be read in any order: a Dataset, or a "
            "DataLoader of one without a sampler of its own."
        )
    refuse_others(folder)
    if rank > 0:
        wait_for_first(folder, resume or again)
    with leading(folder) if rank == 0 and world > 1 else nullcontext(lambda: None) as begun:
        if not (folder / NAME).exists():
            if append:
                Manifest.read(folder)  # says what is missing
            _begin(tracin, folder, size, options)
        else:
            _go_on(tracin, folder, size, resume or rank > 0 or again, append, options)
        begun()
        work(tracin, folder, options, place)
    return GradientIndex.open(folder)


def _begin(tracin: TracInWE, folder: Path, size: int | None, options: Options) -> None:
    source = source_of(tracin)
    found, sample = _look_ahead(tracin, options)
    if options.show_progress:
        print(found, file=sys.stderr)
    with full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    _refuse_little_space(folder, found)
    form = {"dtype": options.dtype, "rank": options.rank, "project": options.project}
    part = Part(0, size)
    create(folder, source, sample, **form, segment_examples=found.segment_examples, part=part)  # type: ignore[arg-type]


def _refuse_little_space(folder: Path, needed: IndexEstimate) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed.disk_bytes:
        raise OSError(
            28, f"The index {str(folder)!r} needs about {_amount(needed.disk_bytes)} on disk, {_amount(free)} are free."
        )


def _go_on(tracin: TracInWE, folder: Path, size: int | None, resume: bool, append: bool, options: Options) -> None:
    """See that what is there is an index of the same source, and note what is to be appended."""
    manifest = Manifest.read(folder)
    if not resume and not append:
        raise exists_already(folder)
    wrong = differences(manifest.source, source_of(tracin))
    width = int(tracin.embedding.weight.shape[1])
    for name, here, there in (
        ("dtype", manifest.dtype, options.dtype),
        ("rank", manifest.rank, min(options.rank, options.project or width)),
        ("project", manifest.project, options.project),
    ):
        if here != there:
            wrong.append(f"{name}: {here!r} here, {there!r} there")
    last = manifest.parts[-1] if manifest.parts else Part(0, 0)
    adds = append and manifest.complete
    if append and not manifest.complete and not resume:
        raise ValueError(
            f"The index {str(folder)!r} is not complete: finish its last part with resume=True, and its training set, first."
        )
    # A stream does not tell its size; of one whose part is complete nothing is left to do.
    if not adds and size != last.examples and not (size is None and manifest.complete):
        wrong.append(f"train_dataset: {last.examples} examples here, {size} there")
    if wrong:
        raise IndexMismatch(
            f"The index {str(folder)!r} is of something else (here: the index; there: the arguments): {'; '.join(wrong)}. Pass "
            f"what it was begun with, or name another directory."
        )
    if not adds and last.examples is not None:  # a stream that is not complete is compared as it comes
        segments = [Segment(folder, manifest, entry) for entry in manifest.segments]
        check_examples(tracin, segments, MANY, last.first)
    if adds:
        with full_disk(folder), locked(folder):
            manifest = Manifest.read(folder)
            replace(manifest, parts=(*manifest.parts, Part(manifest.total, size))).write(folder)
    with full_disk(folder):
        clean(folder)


# ------------------------------------------------------------------------------------------------------------- worker


def work(tracin: TracInWE, folder: Path, options: Options, place: Place) -> None:
    """Write segments that nobody else is writing until the last part is complete.

    The one worker of every launcher. Workers share the directory and nothing else: a segment is claimed by a lock that the
    system takes from a process that dies, and another one then writes it.
    """
    manifest = Manifest.read(folder)
    sketches = read_projections(folder, manifest)
    part = manifest.parts[-1]
    writing = _Writing(
        tracin, folder, manifest, Sketch(sketches[0]), sketches[1] if len(sketches) > 1 else None, options
    )
    with full_disk(folder):
        if part.examples is None:
            writing.stream(part)
            return
        spans = _missing(manifest, part)
        desc = f"Using {tracin.get_name()} to build an index. Processing segments"
        with progress(desc=desc, total=len(spans)) if options.show_progress else NullProgress() as bar:
            while True:
                left = _missing(Manifest.read(folder), part)
                if not left:
                    return
                turn = place.rank * len(left) // place.world
                done = [writing.segment(part, span) for span in left[turn:] + left[:turn]]
                bar.update(sum(done))
                if not any(done):
                    time.sleep(0.1)  # others are at the rest; should one die, its claim is free


def _missing(manifest: Manifest, part: Part) -> list[tuple[int, int]]:
    """What no segment stands for yet, cut at multiples of ``segment_examples``; a compacted segment is longer than that."""
    spans = []
    step, end = manifest.segment_examples, part.first + (part.examples or 0)
    covered = [(one.first, one.stop) for one in manifest.segments if one.stop > part.first]
    at = part.first
    for first, stop in [*covered, (end, end)]:
        while at < first:
            cut = min(first, end, at + step - (at - part.first) % step)
            spans.append((at, cut))
            at = cut
        at = max(at, stop)
    return spans


@dataclass(frozen=True)
class _Writing:
    tracin: TracInWE
    folder: Path
    manifest: Manifest
    sketch: Sketch
    random: Tensor | None
    options: Options

    def segment(self, part: Part, span: tuple[int, int]) -> bool:
        """Write one segment, unless somebody else does or did."""
        with claim(self.folder, claim_of(span[0])) as ours:
            if not ours or any(_overlaps(span, one) for one in Manifest.read(self.folder).segments):
                return False
            start, stop = span[0] - part.first, span[1] - part.first
            loader = examples_loader(self.tracin._training_loader(), range(start, stop))
            assert loader is not None
            metadata = {name: values[start:stop] for name, values in self.options.metadata.items()}
            with Room(self.folder) as room:
                self._commit(self._write(loader, span, start, metadata, room))
        return True

    def stream(self, part: Part) -> None:
        """Segments of whole batches, one after the other, of data that can only be read in their order."""
        batches: list[Batch] = []
        size, at = 0, part.first
        there = Manifest.read(self.folder).segments

        def flush() -> None:
            nonlocal size, at
            span = (at, at + size)
            if any(_overlaps(span, one) and not (one.first <= at and at + size <= one.stop) for one in there):
                raise IndexMismatch(
                    f"The index {str(self.folder)!r} was begun with other batches: none of its segments ends with example "
                    f"{at + size - 1}. Resume with the batch size it was begun with, or name another directory."
                )
            done = [one for one in there if _overlaps(span, one)]
            if not done:
                with Room(self.folder) as room:
                    self._commit(self._write(batches, span, at - part.first, {}, room))
            for one in done:
                known, first = Remembered(Segment(self.folder, self.manifest, one)), at
                for batch in batches:
                    check_batch(self.tracin, batch, first, known)
                    first += size_of(batch)
            at, size = at + size, 0
            batches.clear()

        for batch in self.tracin._training_loader():
            batches.append(batch)
            size += size_of(batch)
            if size >= self.manifest.segment_examples:
                flush()
        if batches:
            flush()
        with locked(self.folder):
            manifest = Manifest.read(self.folder)
            if manifest.segments and manifest.segments[-1].stop > at:
                raise IndexMismatch(
                    f"The index {str(self.folder)!r} was begun with more data: it has {manifest.segments[-1].stop - part.first} "
                    f"examples, the training set gave {at - part.first}. Resume with what it was begun with."
                )
            replace(manifest, parts=(*manifest.parts[:-1], Part(part.first, at - part.first))).write(self.folder)

    def _write(
        self, batches: Any, span: tuple[int, int], start: int, metadata: Mapping[str, Sequence[Any]], room: Room
    ) -> Written:
        writer = SegmentWriter(self.folder, self.manifest, self.sketch, *span, room)
        labels: list[Any] | None = []
        known: list[str] = []

        def read() -> Iterator[Batch]:
            for batch in batches:  # before a model or a loss can write into them
                known.extend(str(one) for one in fingerprints(batch, self.tracin.label_names))
                yield batch

        for block, rows in _blocks(self.tracin, read(), self.options, start, "training-set"):
            rows = rows.to("cpu")
            if self.random is not None:
                values = (
                    rows.values.float().view(rows.num_rows, self.sketch.checkpoints, self.manifest.source.width)
                    @ self.random.T
                )
                rows = RowGradients(rows.ptr, rows.ids, values.flatten(1))
            writer.add(rows)
            labels = _labels(labels, block)
        if writer.examples != span[1] - span[0]:
            raise ValueError(
                f"The training set gave {writer.examples} examples for {span[0]} to {span[1] - 1}: expected {span[1] - span[0]}."
            )
        kept = {"label": labels} if labels else {}
        return writer.finish(columns={**kept, **metadata, COLUMN: known})

    def _commit(self, written: Written) -> None:
        entry = written.entry

        def change(found: Manifest) -> Manifest:
            return (
                found
                if any(_overlaps((entry.first, entry.stop), one) for one in found.segments)
                else found.with_segments([entry])
            )

        commit(self.folder, [written], change)


def _overlaps(span: tuple[int, int], segment: SegmentEntry) -> bool:
    return segment.first < span[1] and span[0] < segment.stop


def _labels(found: list[Any] | None, block: Block) -> list[Any] | None:
    """Whole-number labels, one per example, as far as all batches have them."""
    for batch in block.batches:
        labels = labels_of(batch)
        plain = isinstance(labels, Tensor) and labels.dim() == 1 and not labels.is_floating_point()
        if found is None or not plain or len(labels) != size_of(batch):
            return None
        found = found + labels.tolist()
    return found
