"""Where Ray's tasks put segments: a directory that all machines see, or a store. The driver alone enters them in the manifest."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from captum_tracinwe.index.build import Beginning, begin, overlaps
from captum_tracinwe.index.creation import refuse_others
from captum_tracinwe.index.estimate import Options
from captum_tracinwe.index.files.disk import IndexDamaged, Room, full_disk, locked, present
from captum_tracinwe.index.files.manifest import NAME, Manifest, SegmentEntry
from captum_tracinwe.index.files.urls import is_url
from captum_tracinwe.index.files.writer import Written, rename
from captum_tracinwe.index.homes import FolderHome, Home, StoreHome, home_of
from captum_tracinwe.index.maintenance import clean
from captum_tracinwe.index.remote.pushing import enter, send_files
from captum_tracinwe.index.remote.store import Store

__all__ = ["FolderTarget", "StoreTarget", "Target", "target_of"]

# A file that another machine wrote can be seen later than its name arrives (NFS).
LOOKS, PAUSE = 5, 0.5

# Writes one segment into a directory, under temporary names.
Make = Callable[[Path, Room], Written]


class Target(Protocol):
    """Where an index is built. It travels to the tasks, which write segments; all else is the driver's."""

    @property
    def home(self) -> Home:
        """For readers."""

    def manifest(self) -> Manifest | None:
        """The one in force; None: nothing was begun."""

    def begin(self, beginning: Beginning, options: Options) -> Manifest:
        """Make an index without segments."""

    def write(self, make: Make) -> SegmentEntry:
        """Write a segment, in a task: its files have their names, and no manifest names them yet."""

    def enter(self, entries: Sequence[SegmentEntry]) -> Manifest:
        """Enter segments whose files are there, and leave out those whose files have gone."""

    def finish(self) -> None:
        """Remove what tasks left that died."""


class FolderTarget:
    """A directory that all machines see under one path."""

    def __init__(self, home: FolderHome) -> None:
        self.home = home

    def manifest(self) -> Manifest | None:
        """See :class:`Target`."""
        folder = self.home.folder
        refuse_others(folder)
        return Manifest.read(folder) if (folder / NAME).exists() else None

    def begin(self, beginning: Beginning, options: Options) -> Manifest:
        """See :class:`Target`."""
        return begin(self.home.folder, beginning, options)

    def write(self, make: Make) -> SegmentEntry:
        """See :class:`Target`."""
        folder = self.home.folder
        with full_disk(folder), Room(folder) as room:
            written = make(folder, room)
            rename(folder, [written])
        return written.entry

    def enter(self, entries: Sequence[SegmentEntry]) -> Manifest:
        """See :class:`Target`."""
        folder = self.home.folder
        with full_disk(folder), locked(folder):
            found = Manifest.read(folder)
            new = [entry for entry in _others(found, entries) if _is_there(folder, entry)]
            manifest = found.with_segments(new)
            if new:
                manifest.write(folder)
        return manifest

    def finish(self) -> None:
        """See :class:`Target`."""
        clean(self.home.folder)


class StoreTarget:
    """A folder of a store: a task writes a segment on its own machine, and sends it there."""

    def __init__(self, home: StoreHome) -> None:
        self.home, self._seen = home, b""

    @property
    def _store(self) -> Store:
        return self.home.store

    def manifest(self) -> Manifest | None:
        """See :class:`Target`."""
        seen = self._store.read(NAME)
        if seen is None:
            return None
        self._seen = seen
        return Manifest.decoded(seen, f"{self.home}/{NAME}")

    def begin(self, beginning: Beginning, options: Options) -> Manifest:
        """See :class:`Target`."""
        with tempfile.TemporaryDirectory(prefix="captum-tracinwe-") as scratch:
            manifest = begin(Path(scratch), beginning, options)
            send_files(manifest, Path(scratch), self._store)
        content = manifest.encoded()
        enter(self._store, None, content)
        self._seen = content
        return manifest

    def write(self, make: Make) -> SegmentEntry:
        """See :class:`Target`."""
        with tempfile.TemporaryDirectory(prefix="captum-tracinwe-") as scratch:
            folder = Path(scratch)
            with full_disk(folder), Room(folder) as room:
                written = make(folder, room)
                for path, name in written.files:
                    self._store.send(path, name)
        return written.entry

    def enter(self, entries: Sequence[SegmentEntry]) -> Manifest:
        """See :class:`Target`."""
        found = Manifest.decoded(self._seen, f"{self.home}/{NAME}")
        new = _others(found, entries)
        manifest = found.with_segments(new)
        if new:
            content = manifest.encoded()
            enter(self._store, self._seen, content)
            self._seen = content
        return manifest

    def finish(self) -> None:
        """A task that died has sent whole objects or none; who is retried sends the same again."""


def target_of(
    path: str | Path, cache: str | Path | None = None, storage_options: Mapping[str, Any] | None = None
) -> FolderTarget | StoreTarget:
    """What a path or a URL names.

    Raises:
        ValueError, OSError, ImportError: as :meth:`GradientIndex.open`.
    """
    if is_url(path):
        return StoreTarget(StoreHome(str(path), cache, storage_options))
    home = home_of(path, cache, storage_options)
    assert isinstance(home, FolderHome)
    return FolderTarget(home)


def _others(manifest: Manifest, entries: Sequence[SegmentEntry]) -> list[SegmentEntry]:
    """Those for whose examples no segment stands yet."""
    return [
        entry for entry in entries if not any(overlaps((entry.first, entry.stop), one) for one in manifest.segments)
    ]


def _is_there(folder: Path, entry: SegmentEntry) -> bool:
    """Whether the files of a segment are there: another writer takes away what no manifest names."""
    for file in (entry.file, entry.columns):
        for look in range(LOOKS):
            try:
                if file is not None:
                    present(folder / file.name, file.bytes).close()
                break
            except IndexDamaged:
                if look == LOOKS - 1:
                    return False
                time.sleep(PAUSE)
    return True
