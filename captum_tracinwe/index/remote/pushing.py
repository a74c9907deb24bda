"""An index copied to a store: files first, the manifest last, nothing twice, and nobody else's manifest replaced unseen."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from captum_tracinwe.index.files.digests import blocks_of, expected_files
from captum_tracinwe.index.files.disk import IndexDamaged, open_file, write_whole
from captum_tracinwe.index.files.manifest import NAME, Manifest
from captum_tracinwe.index.files.names import PUSHED
from captum_tracinwe.index.remote.store import Store

__all__ = ["Pushed", "enter", "push", "send_files"]

# Of a note of this package's own; more is somebody else's.
MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Pushed:
    """What a push has sent.

    Args:
        url (str): where to.
        files, bytes (int): that were not there yet, the manifest among them.
        kept (int): files that were there already.
    """

    url: str
    files: int
    bytes: int
    kept: int


def push(manifest: Manifest, folder: Path, store: Store, replace: bool = False) -> Pushed:
    """See :meth:`GradientIndex.push`."""
    content, seen = manifest.encoded(), store.read(NAME)
    if seen not in (None, content) and not replace and _sum(seen) != _noted(folder).get(store.shown):
        raise FileExistsError(
            f"{store.shown!r} holds another index, or was replaced by somebody since this one was pushed there last: nothing was "
            f"sent. Look at it by GradientIndex.open(url); then name another URL, or put this one in its place: replace=True."
        )
    files, size, kept = send_files(manifest, folder, store, anew=replace)
    if seen != content:
        enter(store, seen, content)
        files, size = files + 1, size + len(content)
    with contextlib.suppress(OSError, IndexDamaged):  # without the note the next push asks for replace=True
        write_whole(folder / PUSHED, json.dumps({**_noted(folder), store.shown: _sum(content)}).encode())
    with contextlib.suppress(IndexDamaged):
        former = Manifest.decoded(seen or b"", NAME).files
        for name in {one.name for one in former} - {one.name for one in manifest.files}:
            store.remove(name)
    return Pushed(store.shown, files, size, kept)


def send_files(manifest: Manifest, folder: Path, store: Store, anew: bool = False) -> tuple[int, int, int]:
    """Send all that the manifest names and the store lacks; how many files and bytes were sent, and how many were there.

    ``anew`` sends all, for what is there may be damaged.

    Raises:
        IndexDamaged: a file to be sent is not what was written.
    """
    there = store.sizes()
    files = size = kept = 0
    for expected in expected_files(manifest):
        name = expected.file.name
        if there.get(name) == expected.file.bytes and not anew:
            kept += 1
            continue
        path = folder / name
        try:
            wrong = expected.wrong(blocks_of(path))
        except FileNotFoundError:
            wrong = "it is missing; a writer compacted it away, or the index was opened in part"
        if wrong is not None:
            raise IndexDamaged(
                f"{str(path)!r} cannot be pushed: {wrong}. Nothing is changed at {store.shown!r}. Open the index again, and "
                f"see what GradientIndex.verify() says."
            )
        store.send(path, name)
        files, size = files + 1, size + expected.file.bytes
    return files, size, kept


def enter(store: Store, seen: bytes | None, content: bytes) -> None:
    """Replace the manifest that was seen there, or none.

    Raises:
        RuntimeError: somebody has replaced it since.
    """
    found = store.read(NAME)
    if found != seen:
        raise RuntimeError(
            f"The index {store.shown!r} was changed by somebody else meanwhile: its manifest has the checksum {_sum(found)[:8]}, "
            f"expected {_sum(seen)[:8]}. Theirs was left as it is. Look at it, then push again, or to another URL."
        )
    store.replace(NAME, content)


def _sum(content: bytes | None) -> str:
    return "none" if content is None else hashlib.sha256(content).hexdigest()


def _noted(folder: Path) -> dict[str, str]:
    """URL → checksum of the manifest that was put there last from this directory."""
    try:
        with open_file(folder / PUSHED) as file:
            found = json.loads(file.read(MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return {str(url): str(known) for url, known in found.items()} if isinstance(found, dict) else {}
