"""Where the arrays of a segment stand in its file: safetensors, with a header of fixed size that can be foretold."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from captum_tracinwe.index.files.packing import Packing

if TYPE_CHECKING:
    from captum_tracinwe.index.files.schema import Content, SegmentEntry

__all__ = ["HEADER", "MOST_ID", "Layout", "header_of", "layout_of", "packing_of"]

# Values are written before anything is known about them; the header, of a fixed size, comes last. 4096 keeps them on pages.
#: Bytes of the header.
HEADER = 4096
#: The largest token: ids are stored as int32.
MOST_ID = 2**31 - 1
SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U32": 4, "U8": 1}


@dataclass(frozen=True)
class Layout:
    """Names, types, shapes and places of a segment's arrays.

    ``values (R, C * D)``, as :class:`Packing` says, lie example by example, so that one example is read in one go.
    ``sketch (R, C * (r + 1))`` and ``list_examples (R,)`` lie token by token: a question reads the lists of its own tokens.
    The head, the small rest, is read once: ``ptr``, ``numbers`` (training index minus the segment's first), ``list_ids``,
    ``list_ptr``, ``squared_norms``, ``ids``, ``row_sums``, ``list_sums``.
    """

    examples: int
    rows: int
    lists: int
    packing: Packing
    columns: int

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Name → type and shape, in the order of the file; padding keeps every array on a multiple of 8 bytes."""
        kind, columns = self.packing.form
        values, sketch = self.rows * self.packing.bytes, self.rows * self.columns * 4
        return {
            "values": (kind, (self.rows, columns)),
            "padding_of_values": ("U8", (-values % 64,)),
            "list_examples": ("I64", (self.rows,)),
            "sketch": ("F32", (self.rows, self.columns)),
            "padding_of_sketch": ("U8", (-sketch % 8,)),
            "ptr": ("I64", (self.examples + 1,)),
            "numbers": ("I64", (self.examples,)),
            "list_ids": ("I64", (self.lists,)),
            "list_ptr": ("I64", (self.lists + 1,)),
            "squared_norms": ("F32", (self.examples,)),
            "ids": ("I32", (self.rows,)),
            "row_sums": ("U32", (self.rows,)),
            "list_sums": ("U32", (self.lists,)),
        }

    @functools.cached_property
    def places(self) -> dict[str, tuple[int, int]]:
        """Name → first byte in the file and the one behind the last."""
        places, at = {}, HEADER
        for name, (kind, shape) in self.shapes.items():
            end = at + math.prod(shape) * SIZES[kind]
            places[name] = (at, end)
            at = end
        return places

    @property
    def size(self) -> int:
        """Of the whole file."""
        return self.places["list_sums"][1]

    @property
    def head(self) -> tuple[int, int]:
        """First and last byte of the arrays that are read once."""
        return self.places["ptr"][0], self.size

    @property
    def payload(self) -> int:
        """Bytes of the row gradients alone: ptr, ids and values."""
        return sum(end - start for name in ("ptr", "ids", "values") for start, end in [self.places[name]])

    def header(self, bound: Mapping[str, str] | None = None) -> bytes:
        """The 4096 bytes before the arrays, padded with spaces as safetensors allows; with ``bound`` as metadata."""
        entries = {
            name: {"dtype": kind, "shape": list(shape), "data_offsets": [place - HEADER for place in self.places[name]]}
            for name, (kind, shape) in self.shapes.items()
        }
        about = {"format": "captum_tracinwe.index segment", **(bound or {})}
        text = json.dumps({"__metadata__": about, **entries}).encode()
        return (HEADER - 8).to_bytes(8, "little") + text.ljust(HEADER - 8)


def packing_of(manifest: Content) -> Packing:
    """Of the rows in all segments."""
    return Packing(
        manifest.dtype, len(manifest.source.checkpoints), manifest.stored_width, manifest.bounded, manifest.whole
    )


def layout_of(manifest: Content, entry: SegmentEntry) -> Layout:
    """Of a segment that a manifest names."""
    columns = len(manifest.source.checkpoints) * (manifest.rank + 1)
    return Layout(entry.examples, entry.rows, entry.lists, packing_of(manifest), columns)


def header_of(manifest: Content, entry: SegmentEntry) -> bytes:
    """The header of a segment: beside its arrays, what the manifest says too and its answers depend on.

    So an edited manifest does not fit its segments any more. Segments of version 1 say only what arrays they hold.
    """
    bound = {
        "first": entry.first,
        "stop": entry.stop,
        "most_rows": entry.most_rows,
        "scale": manifest.scale,
        "checkpoints": len(manifest.source.checkpoints),
        "projections": manifest.projections.sha256,
        "columns": entry.columns.sha256 if entry.columns else "",
    }
    return layout_of(manifest, entry).header({name: str(value) for name, value in bound.items()})
