"""What stands in a manifest: the types are the schema, by which one from anywhere is read, or refused by an entry's name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FORMAT", "VERSION", "CheckpointEntry", "Content", "FileEntry", "Part", "SegmentEntry", "Source"]

#: The name by which a manifest is known.
FORMAT: Final = "captum_tracinwe.index"
#: Written, where no earlier one says all: only then other releases have to be told apart. Version 1 is read too: its segments
#: do not say themselves which examples they are of (see ``layout.py``).
VERSION: Final = 3
#: Written of an index without codes of a few bits and leading columns.
PLAIN_VERSION: Final = 2
SIGN: Final = "a positive score is a proponent: a training step on it lowers the loss of the test example"

# What a number or a string can be at all; how they go together stands in ``consistency.py``.
Count = Annotated[int, Meta(ge=0, le=1 << 48)]
Size = Annotated[int, Meta(ge=1, le=1 << 48)]
Whole = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Crc = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
Positive = Annotated[float, Meta(gt=0, le=1.7976931348623157e308)]
Rate = Annotated[float, Meta(ge=0, le=1.7976931348623157e308)]
Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Sha256OrNone = Annotated[str, Meta(pattern=r"\A([0-9a-f]{64})?\Z")]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Frozen data that are read from JSON by their types: nothing missing, nothing more."""


class CheckpointEntry(Record, frozen=True, forbid_unknown_fields=True):
    """A checkpoint by name, learning rate, and the SHA-256 of the weights as they are in the model."""

    name: str
    learning_rate: Rate
    sha256: Sha256OrNone


class Source(Record, frozen=True, forbid_unknown_fields=True):
    """Where gradients come from; rows of two different sources must never meet in one score.

    Args:
        model, loss (str): names, with the loss's settings.
        vocabulary, width (int): V of the table, and columns of a row at one checkpoint, D of a plain one.
        checkpoints (tuple): C of them.
        exclude_tokens (tuple of int), top_k_words (int or None), side (str or None): as in :class:`TracInWE`.
        embedding (str), padding_idx (int or None): the layer's name, and the token whose gradient it leaves out.
        config (str): hash of what the model's config says about the computation; empty without a config.
        settings (str): hashes of the model's attributes, buffers and hooks (``index/identity/settings.py``);
            empty for rows that were given, and in older indexes.
        table (str): whose rows they are, with their shares (``gradients/tables.py``).
    """

    model: str
    loss: str
    vocabulary: Count
    width: Size
    checkpoints: Annotated[tuple[CheckpointEntry, ...], Meta(min_length=1)]
    exclude_tokens: tuple[Whole, ...] = ()
    top_k_words: Count | None = None
    side: str | None = None
    embedding: str = ""
    padding_idx: Whole | None = None
    config: str = ""
    settings: str = ""
    table: str = "input"


class FileEntry(Record, frozen=True, forbid_unknown_fields=True):
    """A file of the index and the SHA-256 of its bytes."""

    name: str
    bytes: Count
    sha256: Sha256


class SegmentEntry(Record, frozen=True, forbid_unknown_fields=True):
    """One segment: the training examples ``first`` to ``stop`` as far as they were not deleted when it was written.

    Args:
        first, stop (int): training indices it stands for.
        examples, rows, lists (int): how many are in it; ``most_rows`` of one example.
        head (int): CRC-32 of the small arrays that are read first.
        file (FileEntry): its SHA-256 is that of the bytes behind the header, and then of the header.
        columns (FileEntry or None): the metadata of its examples.
    """

    first: Count
    stop: Count
    examples: Count
    rows: Count
    lists: Count
    most_rows: Count
    head: Crc
    file: FileEntry
    columns: FileEntry | None = None


class Part(Record, frozen=True, forbid_unknown_fields=True):
    """What one build or append set out to index: ``examples`` from ``first`` on (None: not known before its end)."""

    first: Count
    examples: Count | None


class Content(Record, frozen=True, forbid_unknown_fields=True):
    """Everything of an index but the rows.

    Args:
        source (Source): what the rows are gradients of.
        dtype (str): of the stored values; ``scale``, a power of 2, is what they were multiplied by.
        stored_width (int): D, or ``project``.
        project (int or None): columns that are kept of each row and checkpoint; None: all.
        projected (str): which: the leading ones, or in older indexes random ones.
        whole (int): columns at the end of each checkpoint's that are stored as float32 beside codes of a few bits.
        segment_examples (int): training examples to a segment.
        projections (FileEntry): the sketch's projection, and that of ``project``.
        parts (tuple of Part), segments (tuple of SegmentEntry): by training index.
        deleted (tuple): ``(first, stop)`` of training examples that are no more.
    """

    source: Source
    dtype: Literal["float32", "float16", "bfloat16", "int8", "int4", "int2"]
    scale: Positive
    stored_width: Size
    rank: Annotated[int, Meta(ge=1, le=4096)]
    segment_examples: Annotated[int, Meta(ge=1, le=1 << 24)]
    projections: FileEntry
    parts: tuple[Part, ...] = ()
    segments: tuple[SegmentEntry, ...] = ()
    deleted: tuple[tuple[Count, Size], ...] = ()
    project: Size | None = None
    projected: Literal["random", "leading"] = "random"
    whole: Count = 0
    version: Literal[1, 2, 3] = VERSION
    format: Literal["captum_tracinwe.index"] = FORMAT
    sign: Literal["a positive score is a proponent: a training step on it lowers the loss of the test example"] = SIGN

    @property
    def least_version(self) -> int:
        """The first version that knows all that is in it."""
        return VERSION if self.bounded else PLAIN_VERSION

    @property
    def bounded(self) -> bool:
        """Whether it keeps how far scores by its rows can be off."""
        return self.dtype.startswith("int") or self.projected == "leading"

    @property
    def total(self) -> int:
        """Training indices given out so far."""
        planned = [part.first + (part.examples or 0) for part in self.parts]
        return max([*planned, *(segment.stop for segment in self.segments)], default=0)

    @property
    def complete(self) -> bool:
        """Whether all that was planned is in it."""
        covered = sum(segment.stop - segment.first for segment in self.segments)
        return all(part.examples is not None for part in self.parts) and covered == self.total

    @property
    def files(self) -> list[FileEntry]:
        """All files that it names."""
        found = [self.projections]
        for segment in self.segments:
            found += [segment.file] + ([segment.columns] if segment.columns else [])
        return found

    def with_segments(self, added: Iterable[SegmentEntry], gone: Iterable[SegmentEntry] = ()) -> Self:
        """Some segments instead of others, in the order of their examples."""
        kept = [segment for segment in self.segments if segment not in set(gone)]
        return replace(self, segments=tuple(sorted([*kept, *added], key=lambda segment: (segment.first, segment.stop))))

    def is_deleted(self, first: int, stop: int) -> bool:
        """Whether all of ``first:stop`` is deleted."""
        return any(a <= first and stop <= b for a, b in self.deleted)
