"""Whether the entries of a manifest go together, as far as they alone can tell."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from captum_tracinwe.index.files.layout import layout_of
from captum_tracinwe.index.files.names import name_of

if TYPE_CHECKING:
    from captum_tracinwe.index.files.schema import Content, FileEntry, SegmentEntry

__all__ = ["check", "gone_within"]

# Nobody has more, and twice as many still fit in what sizes are computed with.
MOST_EXAMPLES = 1 << 40


def check(manifest: Content) -> str | None:
    """The first thing that does not go together, in words; None where all does."""
    return next(_wrong(manifest), None)


def gone_within(deleted: tuple[tuple[int, int], ...], first: int, stop: int) -> Iterator[tuple[int, int]]:
    """The deleted spans within ``first:stop``, cut at its ends."""
    at = bisect.bisect_right(deleted, first, key=lambda span: span[1])
    while at < len(deleted) and deleted[at][0] < stop:
        yield max(first, deleted[at][0]), min(stop, deleted[at][1])
        at += 1


def _wrong(manifest: Content) -> Iterator[str]:
    yield from _form(manifest)
    yield from _file("projections", manifest.projections, "projections")
    end: int | None = 0
    for i, part in enumerate(manifest.parts):
        if end is None:
            yield f"parts[{i}] follows one whose end is not known"
            return
        if part.first != end:
            yield f"parts[{i}].first is {part.first}, the part before ends at {end}"
        end = None if part.examples is None else part.first + part.examples
    if manifest.total > MOST_EXAMPLES:
        yield f"{manifest.total} training examples are more than an index can have"
    at = 0
    for i, (a, b) in enumerate(manifest.deleted):
        if not at <= a < b <= manifest.total:
            yield f"deleted[{i}] is {a} to {b}: expected spans in order, within the {manifest.total} examples"
        at = b
    at = 0
    for i, segment in enumerate(manifest.segments):
        if not at <= segment.first < segment.stop:
            yield f"segments[{i}] stands for {segment.first} to {segment.stop}: expected spans in order, none twice"
        at = segment.stop
        yield from (f"segments[{i}].{text}" for text in _segment(manifest, segment))
    if end is not None and at > end:
        yield f"the last segment ends at {at}, the last part at {end}"


def _form(manifest: Content) -> Iterator[str]:
    exact = math.frexp(manifest.scale)[0] == 0.5
    if not exact or (manifest.scale != 1 and manifest.dtype != "float16"):
        yield f"scale is {manifest.scale!r}: expected a power of 2, and 1 but for float16"
    width = manifest.source.width if manifest.project is None else manifest.project
    if manifest.stored_width != width or width > manifest.source.width:
        yield f"stored_width is {manifest.stored_width}: expected {width}, of width {manifest.source.width}"
    if manifest.projected == "leading" and manifest.project is None:
        yield "projected is 'leading', and project says no columns"
    if manifest.projected == "random" and manifest.project is not None and manifest.bounded:
        yield f"projected is 'random', of dtype {manifest.dtype!r}"
    if manifest.whole and (not manifest.dtype.startswith("int") or manifest.whole >= manifest.stored_width):
        yield f"whole is {manifest.whole}, of {manifest.stored_width} columns in {manifest.dtype}"
    if manifest.bounded and manifest.version < manifest.least_version:
        yield f"version is {manifest.version}: expected {manifest.least_version} for what is in it"
    if manifest.rank > manifest.stored_width:
        yield f"rank is {manifest.rank}, of {manifest.stored_width} columns"


def _segment(manifest: Content, entry: SegmentEntry) -> Iterator[str]:
    span = entry.stop - entry.first
    gone = sum(b - a for a, b in gone_within(manifest.deleted, entry.first, entry.stop))
    if not span - gone <= entry.examples <= span:
        yield f"examples is {entry.examples}, of {span} of which {gone} are deleted"
    # An example's rows have different tokens: no example has more rows than there are lists, and no list is empty.
    least, most = -(-entry.rows // max(1, entry.examples)), min(entry.rows, entry.lists)
    if not least <= entry.most_rows <= most:
        yield f"most_rows is {entry.most_rows}: expected {least} to {most}"
    if entry.lists > entry.rows:
        yield f"lists is {entry.lists}, of {entry.rows} rows"
    size = layout_of(manifest, entry).size
    if entry.file.bytes != size:
        yield f"file.bytes is {entry.file.bytes}: {size} bytes hold its arrays"
    yield from _file("file", entry.file, "segment")
    if entry.columns is not None:
        yield from _file("columns", entry.columns, "columns")


def _file(where: str, file: FileEntry, kind: str) -> Iterator[str]:
    expected = name_of(kind, file.sha256)
    if file.name != expected:
        yield f"{where}.name is {file.name!r:.120}: expected {expected!r}"
