"""`manifest.json`: what an index was made from and which files are it; the one file that is ever replaced."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from captum_tracinwe.index.disk import IndexDamaged, write_whole

__all__ = ["FORMAT", "VERSION", "CheckpointEntry", "FileEntry", "Manifest", "Part", "SegmentEntry", "Source"]

NAME = "manifest.json"
#: The name by which a manifest is known.
FORMAT = "captum_tracinwe.index"
VERSION = 1
SIGN = "a positive score is a proponent: a training step on it lowers the loss of the test example"


@dataclass(frozen=True)
class CheckpointEntry:
    """A checkpoint by name, learning rate, and the SHA-256 of the weights as they are in the model."""

    name: str
    learning_rate: float
    sha256: str


@dataclass(frozen=True)
class Source:
    """Where gradients come from; rows of two different sources must never meet in one score.

    Args:
        model, loss (str): names, with the loss's settings.
        vocabulary, width (int): V and D of the embedding table.
        checkpoints (tuple): C of them.
        exclude_tokens (tuple of int), top_k_words (int or None), side (str or None): as in :class:`TracInWE`.
        embedding (str), padding_idx (int or None): the layer's name, and the token whose gradient it leaves out.
        config (str): hash of what the model's config says about the computation; empty without a config.
        settings (str): hashes of the model's attributes, buffers and hooks (:mod:`captum_tracinwe.index.settings`); empty for
            rows that were given, and in older indexes.
    """

    model: str
    loss: str
    vocabulary: int
    width: int
    checkpoints: tuple[CheckpointEntry, ...]
    exclude_tokens: tuple[int, ...] = ()
    top_k_words: int | None = None
    side: str | None = None
    embedding: str = ""
    padding_idx: int | None = None
    config: str = ""
    settings: str = ""


@dataclass(frozen=True)
class FileEntry:
    """A file of the index and the SHA-256 of its bytes."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SegmentEntry:
    """One segment: the training examples ``first`` to ``stop`` as far as they were not deleted when it was written.

    Args:
        first, stop (int): training indices it stands for.
        examples, rows, lists (int): how many are in it; ``most_rows`` of one example.
        head (int): CRC-32 of the small arrays that are read first.
        file (FileEntry): its SHA-256 is that of the bytes behind the header.
        columns (FileEntry or None): the metadata of its examples.
    """

    first: int
    stop: int
    examples: int
    rows: int
    lists: int
    most_rows: int
    head: int
    file: FileEntry
    columns: FileEntry | None = None


@dataclass(frozen=True)
class Part:
    """What one build or append set out to index: ``examples`` from ``first`` on (None: not known before its end)."""

    first: int
    examples: int | None


@dataclass(frozen=True)
class Manifest:
    """Everything but the rows.

    Args:
        source (Source): what the rows are gradients of.
        dtype (str): of the stored values; ``scale``, a power of 2, is what they were multiplied by.
        stored_width (int): D, or less where a random projection was asked for.
        project (int or None): columns of the random projection, if there is one.
        segment_examples (int): training examples to a segment.
        projections (FileEntry): the sketch's projection, and the random one if there is one.
        parts (tuple of Part), segments (tuple of SegmentEntry): by training index.
        deleted (tuple): ``(first, stop)`` of training examples that are no more.
    """

    source: Source
    dtype: str
    scale: float
    stored_width: int
    rank: int
    segment_examples: int
    projections: FileEntry
    parts: tuple[Part, ...] = ()
    segments: tuple[SegmentEntry, ...] = ()
    deleted: tuple[tuple[int, int], ...] = ()
    project: int | None = None
    version: int = VERSION
    format: str = FORMAT
    sign: str = field(default=SIGN)

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

    def with_segments(self, added: Iterable[SegmentEntry], gone: Iterable[SegmentEntry] = ()) -> Manifest:
        """Some segments instead of others, in the order of their examples."""
        kept = [segment for segment in self.segments if segment not in set(gone)]
        return replace(self, segments=tuple(sorted([*kept, *added], key=lambda segment: (segment.first, segment.stop))))

    def is_deleted(self, first: int, stop: int) -> bool:
        """Whether all of ``first:stop`` is deleted."""
        return any(a <= first and stop <= b for a, b in self.deleted)

    # ------------------------------------------------------------------------------------------------- reading, writing

    def write(self, folder: Path) -> None:
        """Replace the folder's manifest in one step."""
        write_whole(folder / NAME, self.encoded())

    def encoded(self) -> bytes:
        """As the file holds it: the content, and its checksum."""
        content = asdict(self)
        if not self.source.settings:
            del content["source"]["settings"]  # byte for byte what older versions wrote
        return (json.dumps({**content, "checksum": _checksum(content)}, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a folder.

        Raises:
            FileNotFoundError: there is none.
            IndexDamaged: it is not what was written, or of a version that this package does not read.
        """
        path = folder / NAME
        try:
            raw = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(
                f"No index at {str(folder)!r}: expected a directory with {NAME}. Build one with TracInWE.build_index."
            ) from None
        try:
            content = json.loads(raw)
            version, name = content["version"], content["format"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise IndexDamaged(f"{str(path)!r} is damaged: not the JSON that was written ({error}).") from error
        if name != FORMAT or version != VERSION:
            raise IndexDamaged(
                f"{str(path)!r} is of format {name!r}, version {version!r}: this package reads {FORMAT!r}, version {VERSION}. "
                f"Use the package that wrote it, or build the index anew."
            )
        found = content.pop("checksum", None)
        try:
            manifest = _decoded(content)
            intact = found == _checksum(content) and manifest.encoded() == raw
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise IndexDamaged(f"{str(path)!r} is damaged: an entry is missing or altered ({error}).") from error
        if not intact:
            raise IndexDamaged(f"{str(path)!r} is damaged: its content does not have the checksum that it names.")
        return manifest


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _decoded(content: dict[str, Any]) -> Manifest:
    source = dict(content["source"])
    source["checkpoints"] = tuple(CheckpointEntry(**entry) for entry in source["checkpoints"])
    source["exclude_tokens"] = tuple(source["exclude_tokens"])
    segments = []
    for entry in content["segments"]:
        columns = FileEntry(**entry["columns"]) if entry["columns"] else None
        segments.append(SegmentEntry(**{**entry, "file": FileEntry(**entry["file"]), "columns": columns}))
    return Manifest(
        **{
            **content,
            "source": Source(**source),
            "projections": FileEntry(**content["projections"]),
            "parts": tuple(Part(**entry) for entry in content["parts"]),
            "segments": tuple(segments),
            "deleted": tuple((first, stop) for first, stop in content["deleted"]),
        }
    )
