"""Numbers that were learned of an index's rows, kept beside its manifest: used where they fit, else learned anew.

Nothing of an index hangs on this file. So what is not as it was written, or of other content, is not refused like a damaged
segment, but passed over: who asks learns it again, and writes over it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import stat
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from captum_tracinwe.index.files.disk import IndexDamaged, open_file, write_whole
from captum_tracinwe.index.files.names import LEARNED
from captum_tracinwe.index.files.schema import Record, Sha256

__all__ = ["Numbers", "forget", "keep", "recall", "size_of"]

#: Rows of equally many numbers.
Numbers = tuple[tuple[float, ...], ...]

#: By what the file is known.
FORMAT: Final = "captum_tracinwe.learned"
# An index is asked with a few settings; of more the last ones are kept, in no more bytes than are read of a file from anywhere.
MOST_ENTRIES, MOST_BYTES = 16, 1 << 20


class Entry(Record, frozen=True, forbid_unknown_fields=True):
    """Numbers, and of what they were learned: settings, spelled in one way only."""

    of: str
    numbers: Numbers


class Kept(Record, frozen=True, forbid_unknown_fields=True):
    """The whole file; ``content`` is the SHA-256 of the manifest by whose rows the numbers are."""

    content: Sha256
    entries: Annotated[tuple[Entry, ...], Meta(max_length=MOST_ENTRIES)]
    checksum: Sha256
    version: Literal[1] = 1
    format: Literal["captum_tracinwe.learned"] = FORMAT


def recall(folder: Path, content: str, of: str) -> Numbers | None:
    """What was kept of these settings and this content; None where nothing was, or what is there cannot be relied on."""
    known = _read(folder)
    if known is None or known.content != content:
        return None
    return next((entry.numbers for entry in known.entries if entry.of == of), None)


def keep(folder: Path, content: str, of: str, numbers: Numbers) -> None:
    """Keep it for other processes, in place of what was learned of other content; of several at once the last one's stays.

    Where something else than a file has its name, nothing is kept.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; what was there is still there.
    """
    known = _read(folder)
    others = known.entries if known is not None and known.content == content else ()
    entries = (*(entry for entry in others if entry.of != of), Entry(of, numbers))[-MOST_ENTRIES:]
    written = Kept(content, entries, "0" * 64)
    encoded = msgspec.json.encode(replace(written, checksum=_checksum(written)))
    path = folder / LEARNED
    if len(encoded) <= MOST_BYTES and (size_of(folder) is not None or not os.path.lexists(path)):
        write_whole(path, encoded)


def forget(folder: Path) -> None:
    """Remove the file, as content that it was learned of is no more. A link or a directory of its name is not ours."""
    with contextlib.suppress(OSError):
        if size_of(folder) is not None:
            (folder / LEARNED).unlink()


def size_of(folder: Path) -> int | None:
    """Bytes of the file; None where there is none, or something that no index has made."""
    try:
        found = os.lstat(folder / LEARNED)
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _read(folder: Path) -> Kept | None:
    try:
        with open_file(folder / LEARNED) as file:
            raw = file.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            return None
        known = msgspec.json.decode(raw, type=Kept)
    except (OSError, IndexDamaged, ValueError, RecursionError):
        return None
    if known.checksum != _checksum(known):
        return None
    numbers = [entry.numbers for entry in known.entries]
    whole = all(len(row) == len(rows[0]) and all(map(math.isfinite, row)) for rows in numbers for row in rows)
    return known if whole else None


def _checksum(known: Kept) -> str:
    content = msgspec.to_builtins(replace(known, checksum=""))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
