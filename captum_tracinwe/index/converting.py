"""Another form of an index that is there: its rows in fewer bits or columns, without a pass of the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from msgspec.structs import replace

from captum_tracinwe.batches.arguments import is_whole
from captum_tracinwe.index.creation import create, refuse_others
from captum_tracinwe.index.files.disk import Room
from captum_tracinwe.index.files.kept import Kept
from captum_tracinwe.index.files.manifest import Manifest, Part
from captum_tracinwe.index.files.segment import Segment
from captum_tracinwe.index.files.sketch import Sketch
from captum_tracinwe.index.files.writer import Written, write_segment
from captum_tracinwe.index.snapshot import Snapshot
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["convert"]

# Rows read and written at a time: 50 MB at 2 x 384. And training examples that choose directions and scale.
AT_ONCE, SAMPLE = 256, 2048


def convert(
    index: Snapshot, folder: Path, dtype: str, rank: int, project: int | None, segment: int, bag: int | None
) -> None:
    """See :meth:`GradientIndex.convert`."""
    manifest = index.manifest
    if manifest.bounded or manifest.project is not None:
        raise ValueError(
            f"GradientIndex.convert: {str(index.path)!r} keeps rows in part (dtype {manifest.dtype!r}, project "
            f"{manifest.project!r}): expected an index of whole rows, in float32, bfloat16 or float16."
        )
    if len(index.segments) < len(manifest.segments):
        raise ValueError(
            f"GradientIndex.convert: this is a part of {str(index.path)!r}, {len(index.segments)} of {len(manifest.segments)} "
            f"segments: expected all of it, GradientIndex.open(path)."
        )
    if not manifest.complete:
        raise ValueError(
            f"GradientIndex.convert: {str(index.path)!r} is not complete: finish it with tracin.build_index(path, resume=True)."
        )
    names = manifest.source.table.split(" + ")
    whole = 0
    if len(names) > 1 and names[-1].endswith("bag") and dtype.startswith("int") and project is None:
        if bag is None or not is_whole(bag) or not 1 <= bag < manifest.source.width:
            raise ValueError(
                f"GradientIndex.convert: the last columns of this index are those of a bag of words, and stay whole: expected "
                f"`bag` as their number, that of the classes, got {bag!r}."
            )
        whole = int(bag)
    refuse_others(folder)
    numbers = index.numbers
    chosen = numbers[torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))[:SAMPLE]].sort().values
    sample = [index.rows(chosen[a : a + AT_ONCE]).values for a in range(0, max(1, len(chosen)), AT_ONCE)]

    def fill(made: Manifest, form: tuple[Sketch, Kept], room: Room) -> list[Written]:
        return [
            write_segment(
                folder,
                made,
                form,
                (one.entry.first, one.entry.stop),
                _pieces(one),
                room,
                (one.numbers - one.entry.first).tolist(),
                one.columns,
            )
            for one in index.segments
        ]

    def whole_of(made: Manifest) -> Manifest:
        return replace(made, parts=manifest.parts, deleted=manifest.deleted)

    create(
        folder,
        manifest.source,
        sample,
        dtype=dtype,
        rank=rank,
        segment_examples=segment,
        project=project,
        part=Part(0, manifest.total),
        whole=whole,
        fill=fill,
        finish=whole_of,
    )


def _pieces(segment: Segment) -> Iterator[RowGradients]:
    for start in range(0, len(segment), AT_ONCE):
        yield segment.rows(np.arange(start, min(start + AT_ONCE, len(segment))))
