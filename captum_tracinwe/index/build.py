"""Building an index from a live source: which segments are missing, and the one worker that writes them."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from msgspec.structs import replace
from torch import Tensor

from captum_tracinwe.batches.batch import Batch, labels_of, size_of
from captum_tracinwe.batches.blocks import Block
from captum_tracinwe.batches.loaders import examples_loader, reading
from captum_tracinwe.gradients.live_source import LiveSource
from captum_tracinwe.gradients.seen import shows_bars
from captum_tracinwe.index.creation import check_form, create, read_projections, refuse_others
from captum_tracinwe.index.environment import Place
from captum_tracinwe.index.estimate import (
    IndexEstimate,
    Options,
    amount,
    examples_in,
    look_ahead,
    row_blocks,
)
from captum_tracinwe.index.files.differences import differences
from captum_tracinwe.index.files.disk import IndexMismatch, Room, claim, full_disk, locked, make_folder
from captum_tracinwe.index.files.first import exists_already, leading, wait_for_first
from captum_tracinwe.index.files.kept import Kept
from captum_tracinwe.index.files.manifest import NAME, Manifest, Part, SegmentEntry, Source
from captum_tracinwe.index.files.names import claim_of
from captum_tracinwe.index.files.segment import Segment
from captum_tracinwe.index.files.sketch import Sketch
from captum_tracinwe.index.files.writer import SegmentWriter, Written, commit
from captum_tracinwe.index.identity.fingerprints import COLUMN, fingerprints
from captum_tracinwe.index.identity.same_examples import MANY, Remembered, check_batch, check_examples
from captum_tracinwe.index.identity.source import source_of
from captum_tracinwe.index.maintenance import check_columns, clean

if TYPE_CHECKING:
    from captum_tracinwe.index.gradient_index import GradientIndex

__all__ = [
    "Beginning",
    "begin",
    "build",
    "check_same",
    "missing_spans",
    "overlaps",
    "refuse_stream",
    "work",
    "write_span",
]


def build(
    training: LiveSource, folder: Path, resume: bool, append: bool, options: Options, place: Place | None = None
) -> GradientIndex:
    """See :meth:`TracInWE.build_index`."""
    from captum_tracinwe.index.gradient_index import GradientIndex

    place = place or Place.of_environment()
    rank, world, again = place.rank, place.world, place.again
    if append and world > 1:
        raise ValueError("append=True runs in one process: expected WORLD_SIZE to be 1.")
    check_form(options.dtype, options.rank, options.segment_examples, options.project, training.width)
    size = examples_in(training.examples.by_index())
    if size is not None:
        check_columns(options.metadata, size)
    elif options.metadata or world > 1:
        refuse_stream()
    refuse_others(folder)
    if rank > 0:
        wait_for_first(folder, resume or again)
    with leading(folder) if rank == 0 and world > 1 else nullcontext(lambda: None) as begun:
        if not (folder / NAME).exists():
            if append:
                Manifest.read(folder)  # says what is missing
            begin(folder, Beginning.of(training, size, options), options)
        else:
            _go_on(training, folder, size, resume or rank > 0 or again, append, options)
        begun()
        work(training, folder, options, place)
    return GradientIndex.open(folder)


def refuse_stream() -> NoReturn:
    """Raise ValueError: this needs a training set that can be read in any order."""
    raise ValueError(
        "`metadata`, and more than one process, need a training set that can be read in any order: a Dataset, or a "
        "DataLoader of one without a sampler of its own."
    )


@dataclass(frozen=True)
class Beginning:
    """What a new index is begun with.

    Args:
        source (Source): what its rows are gradients of.
        found (IndexEstimate): what it will take.
        sample (list of Tensor): rows that fix its form.
        size (int or None): M; None: not told before the end.
    """

    source: Source
    found: IndexEstimate
    sample: list[Tensor]
    size: int | None

    @classmethod
    def of(cls, training: LiveSource, size: int | None, options: Options) -> Beginning:
        """By the gradients of a sample of the training set."""
        return cls(source_of(training), *look_ahead(training, options), size)


def begin(folder: Path, beginning: Beginning, options: Options) -> Manifest:
    """Say what an index will take, and make it, without segments.

    Raises:
        OSError: not enough space, or not writable.
    """
    found = beginning.found
    if options.announce is not None:
        options.announce(found)
    elif shows_bars(options.show_progress):
        print(found, file=sys.stderr)
    make_folder(folder)
    _refuse_little_space(folder, found)
    return create(
        folder,
        beginning.source,
        beginning.sample,
        dtype=options.dtype,
        rank=options.rank,
        project=options.project,
        segment_examples=found.segment_examples,
        part=Part(0, beginning.size),
        whole=found.form.whole,
    )


def _refuse_little_space(folder: Path, needed: IndexEstimate) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed.disk_bytes:
        raise OSError(
            28, f"The index {str(folder)!r} needs about {amount(needed.disk_bytes)} on disk, {amount(free)} are free."
        )


def _go_on(training: LiveSource, folder: Path, size: int | None, resume: bool, append: bool, options: Options) -> None:
    """See that what is there is an index of the same source, and note what is to be appended."""
    manifest = Manifest.read(folder)
    if not resume and not append:
        raise exists_already(folder)
    adds = append and manifest.complete
    if append and not manifest.complete and not resume:
        raise ValueError(
            f"The index {str(folder)!r} is not complete: finish its last part with resume=True, and its training set, first."
        )
    check_same(
        training,
        manifest,
        size,
        adds,
        options,
        str(folder),
        lambda: [Segment(folder, manifest, entry) for entry in manifest.segments],
    )
    if adds:
        with full_disk(folder), locked(folder):
            manifest = Manifest.read(folder)
            replace(manifest, parts=(*manifest.parts, Part(manifest.total, size))).write(folder)
    with full_disk(folder):
        clean(folder)


def check_same(
    training: LiveSource,
    manifest: Manifest,
    size: int | None,
    adds: bool,
    options: Options,
    address: str,
    opened: Callable[[], Sequence[Segment]],
) -> None:
    """Raise IndexMismatch where an index is not of this training set and these options.

    Args:
        training (LiveSource), size (int or None): the training set, and its M.
        manifest (Manifest): of the index.
        adds (bool): whether the training set is to come behind what is there.
        options (Options): as they are asked for.
        address (str): the index, as messages name it.
        opened (callable): gives segments, whose examples are compared.
    """
    wrong = differences(manifest.source, source_of(training))
    width = training.width
    for name, here, there in (
        ("dtype", manifest.dtype, options.dtype),
        ("rank", manifest.rank, min(options.rank, options.project or width)),
        ("project", manifest.project, options.project),
    ):
        if here != there:
            wrong.append(f"{name}: {here!r} here, {there!r} there")
    last = manifest.parts[-1] if manifest.parts else Part(0, 0)
    # A stream does not tell its size; of one whose part is complete nothing is left to do.
    if not adds and size != last.examples and not (size is None and manifest.complete):
        wrong.append(f"train_dataset: {last.examples} examples here, {size} there")
    if wrong:
        raise IndexMismatch(
            f"The index {address!r} is of something else (here: the index; there: the arguments): {'; '.join(wrong)}. Pass "
            f"what it was begun with, or name another directory."
        )
    if not adds and last.examples is not None:  # a stream that is not complete is compared as it comes
        check_examples(training, opened(), MANY, last.first)


# ------------------------------------------------------------------------------------------------------------- worker


def work(training: LiveSource, folder: Path, options: Options, place: Place) -> None:
    """Write segments that nobody else is writing until the last part is complete.

    The one worker of every launcher. Workers share the directory and nothing else: a segment is claimed by a lock that the
    system takes from a process that dies, and another one then writes it.
    """
    manifest = Manifest.read(folder)
    part = manifest.parts[-1]
    writing = _Writing(training, folder, manifest, read_projections(folder, manifest), options)
    with full_disk(folder):
        if part.examples is None:
            writing.stream(part)
            return
        spans = missing_spans(manifest, part)
        batches = sum(-(-(stop - start) // (training.examples.loader.batch_size or 1)) for start, stop in spans)
        desc = f"Using {training.live.name} to build an index. Processing batches"
        with training.live.bar([{}] * batches, desc, options.show_progress) as bar:
            writing = dataclasses.replace(writing, bar=bar)
            while True:
                left = missing_spans(Manifest.read(folder), part)
                if not left:
                    return
                turn = place.rank * len(left) // place.world
                done = [writing.segment(part, span) for span in left[turn:] + left[:turn]]
                if not any(done):
                    time.sleep(0.1)  # others are at the rest; should one die, its claim is free


def missing_spans(manifest: Manifest, part: Part) -> list[tuple[int, int]]:
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


def write_span(
    training: LiveSource,
    folder: Path,
    manifest: Manifest,
    form: tuple[Sketch, Kept],
    span: tuple[int, int],
    options: Options,
    room: Room,
) -> Written:
    """The segment of one span of the last part, finished, under temporary names in ``folder``.

    Args:
        training (LiveSource): the training set of that part.
        folder (Path): any directory with room for it.
        manifest (Manifest), form (Sketch, Kept): of the index.
        span (int, int): first and stop, training indices.
        options (Options): with the ``metadata`` of this span alone.
        room (Room): in ``folder``.
    """
    writing = _Writing(training, folder, manifest, form, options)
    return writing.written(manifest.parts[-1], span, options.metadata, room)


@dataclass(frozen=True)
class _Writing:
    training: LiveSource
    folder: Path
    manifest: Manifest
    form: tuple[Sketch, Kept]
    options: Options
    bar: Any = None

    def segment(self, part: Part, span: tuple[int, int]) -> bool:
        """Write one segment, unless somebody else does or did."""
        with claim(self.folder, claim_of(span[0])) as ours:
            if not ours or any(overlaps(span, one) for one in Manifest.read(self.folder).segments):
                return False
            start, stop = span[0] - part.first, span[1] - part.first
            metadata = {name: values[start:stop] for name, values in self.options.metadata.items()}
            with Room(self.folder) as room:
                self._commit(self.written(part, span, metadata, room))
        return True

    def written(self, part: Part, span: tuple[int, int], metadata: Mapping[str, Sequence[Any]], room: Room) -> Written:
        """One segment, of data that can be read in any order."""
        start, stop = span[0] - part.first, span[1] - part.first
        loader = examples_loader(self.training.examples.by_index(), range(start, stop))
        assert loader is not None
        return self._write(loader, span, start, metadata, room)

    def stream(self, part: Part) -> None:
        """Segments of whole batches, one after the other, of data that can only be read in their order."""
        batches: list[Batch] = []
        size, at = 0, part.first
        there = Manifest.read(self.folder).segments

        def flush() -> None:
            nonlocal size, at
            span = (at, at + size)
            if any(overlaps(span, one) and not (one.first <= at and at + size <= one.stop) for one in there):
                raise IndexMismatch(
                    f"The index {str(self.folder)!r} was begun with other batches: none of its segments ends with example "
                    f"{at + size - 1}. Resume with the batch size it was begun with, or name another directory."
                )
            done = [one for one in there if overlaps(span, one)]
            if not done:
                with Room(self.folder) as room:
                    self._commit(self._write(batches, span, at - part.first, {}, room))
            for one in done:
                known, first = Remembered(Segment(self.folder, self.manifest, one)), at
                for batch in batches:
                    check_batch(self.training, batch, first, known)
                    first += size_of(batch)
            at, size = at + size, 0
            batches.clear()

        for batch in reading(self.training.examples.by_index(), "train_dataset"):
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
        writer = SegmentWriter(self.folder, self.manifest, *self.form, *span, room)
        labels: list[Any] | None = []
        known: list[str] = []

        def read() -> Iterator[Batch]:
            for batch in reading(batches, "train_dataset"):  # before a model or a loss can write into them
                known.extend(str(one) for one in fingerprints(batch, self.training.live.label_names))
                yield batch

        for block, rows in row_blocks(self.training, read(), self.options, start, "training-set", self.bar):
            writer.add(rows.to("cpu"))
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
                if any(overlaps((entry.first, entry.stop), one) for one in found.segments)
                else found.with_segments([entry])
            )

        commit(self.folder, [written], change)


def overlaps(span: tuple[int, int], segment: SegmentEntry) -> bool:
    """Whether a segment stands for an example of ``first:stop``."""
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
