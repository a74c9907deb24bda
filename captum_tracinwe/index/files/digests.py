"""The files that a manifest names, each with what its bytes must be: for copies that are read as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from captum_tracinwe.index.files.disk import open_file
from captum_tracinwe.index.files.layout import HEADER, header_of
from captum_tracinwe.index.files.schema import Content, FileEntry, SegmentEntry

__all__ = ["Expected", "blocks_of", "expected_files"]

BLOCK = 1 << 20


@dataclass(frozen=True)
class Expected:
    """A file, and what it must hold.

    Args:
        file (FileEntry): its name, size and SHA-256.
        header (bytes or None): of a segment, whose SHA-256 is that of what is behind the header, and then of the header; segments
            of version 1 leave the header out.
    """

    file: FileEntry
    header: bytes | None = None

    def wrong(self, blocks: Iterable[bytes]) -> str | None:
        """What is wrong with a file of these bytes, in words; None: nothing is."""
        digest, size, head = hashlib.sha256(), 0, b""
        for block in blocks:
            size += len(block)
            rest = block
            if self.header is not None and len(head) < HEADER:
                missing = HEADER - len(head)
                head, rest = head + block[:missing], block[missing:]
            digest.update(rest)
            if size > self.file.bytes:
                break
        if size != self.file.bytes:
            more = " or more" if size > self.file.bytes else ""
            return f"it has {size}{more} bytes, {self.file.bytes} were written"
        if self.header is not None and head == self.header:
            digest.update(head)
        if digest.hexdigest() != self.file.sha256:
            return "its SHA-256 is not the one in the manifest"
        return None


def expected_files(manifest: Content, entries: Iterable[SegmentEntry] | None = None) -> Iterator[Expected]:
    """The files of some segments, by default of all, and those that every reader needs."""
    yield Expected(manifest.projections)
    for entry in manifest.segments if entries is None else entries:
        yield Expected(entry.file, header_of(manifest, entry))
        if entry.columns is not None:
            yield Expected(entry.columns)


def blocks_of(path: Path) -> Iterator[bytes]:
    """A local file's bytes, 1 MB at a time."""
    with open_file(path) as file:
        while block := file.read(BLOCK):
            yield block
