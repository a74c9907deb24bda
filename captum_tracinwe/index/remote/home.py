"""Where an index is that was opened from a URL: the manifest in the store, and copies of its files in a cache folder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from captum_tracinwe.index.cache_entries import ABOUT, INDEX, LOCK, cache_folder, locked_entry, said_of_cache
from captum_tracinwe.index.files.digests import expected_files
from captum_tracinwe.index.files.disk import IndexDamaged, locked, make_folder, read_file, write_whole
from captum_tracinwe.index.files.learned import forget
from captum_tracinwe.index.files.manifest import NAME, Manifest, SegmentEntry
from captum_tracinwe.index.remote.copies import fetch_all, remove_wrong
from captum_tracinwe.index.remote.store import Store
from captum_tracinwe.whole_files import write_all

__all__ = ["StoreHome"]

# Of a store that shows a manifest while it is written.
LOOKS, PAUSE = 5, 0.2
# Of the options that tell one store from another of the same URL. No key or password is among them.
WHERE = ("endpoint_url", "endpoint", "host", "port", "account_name", "project", "repo_id", "revision")


class StoreHome:
    """An index under a URL; its files are read through copies, which several processes share.

    As long as it is there, `captum-tracinwe cache --clear` leaves the copies alone. It travels to other processes as URL,
    cache folder and options.

    Args:
        url (str): ``scheme://...``.
        cache (path, optional): the cache folder; see :func:`captum_tracinwe.index.cache.cache_folder`.
        storage_options (mapping, optional): of fsspec's file system.
    """

    def __init__(
        self, url: str, cache: str | Path | None = None, storage_options: Mapping[str, Any] | None = None
    ) -> None:
        self.store, self._cache = Store(url, storage_options), cache
        self._entry = cache_folder(cache) / _key(self.store)
        self.folder = self._entry / INDEX
        self._lock: IO[bytes] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return StoreHome, (self.store.url, self._cache, self.store.options)

    def __str__(self) -> str:
        return self.store.shown

    def manifest(self) -> Manifest:
        """The one in force there.

        Raises:
            FileNotFoundError: there is none.
            IndexDamaged: it is not what was written.
            OSError: the store does not answer, or refuses.
        """
        manifest, raw = self._read(LOOKS)
        with said_of_cache(self._entry.parent):
            self._use()
            make_folder(self.folder)
            with locked(self.folder):
                self._keep(manifest, raw)
        return manifest

    def _read(self, looks: int) -> tuple[Manifest, bytes]:
        """The manifest, and its bytes; one that is not whole is looked at again."""
        raw = self.store.read(NAME)
        if raw is None:
            raise FileNotFoundError(
                f"No index at {str(self)!r}: expected {NAME} there. Build one in a directory, then push it: "
                f"GradientIndex.open(path).push(url)."
            )
        try:
            return Manifest.decoded(raw, f"{self}/{NAME}"), raw
        except IndexDamaged:
            if looks == 1:
                raise
        time.sleep(PAUSE)
        return self._read(looks - 1)

    def hold(self, manifest: Manifest, entries: Iterable[SegmentEntry]) -> None:
        """See that the files of these segments are in the folder.

        Raises:
            IndexDamaged: one is not there, or not what was written.
            OSError: the store does not answer, or refuses; the cache folder cannot be written.
        """
        with said_of_cache(self._entry.parent):
            self._use()
            make_folder(self.folder)
            fetch_all(self.store, self.folder, expected_files(manifest, entries))

    def mend(self, manifest: Manifest, entries: Iterable[SegmentEntry]) -> bool:
        """Fetch copies anew that the disk has damaged; whether there were such.

        Raises:
            IndexDamaged, OSError: as :meth:`hold`.
        """
        files = list(expected_files(manifest, entries))
        with said_of_cache(self._entry.parent):
            self._use()
            return remove_wrong(self.folder, files) and fetch_all(self.store, self.folder, files) > 0

    def verify(self, manifest: Manifest) -> None:
        """Read every byte there, and of the copies: one that the disk has damaged is removed, and fetched at the next open.

        Raises:
            IndexDamaged: something is not what was written; the message names every damaged file.
        """
        wrong = []
        for expected in expected_files(manifest):
            try:
                found = expected.wrong(self.store.blocks(expected.file.name))
            except FileNotFoundError:
                found = "it is missing"
            if found is not None:
                wrong.append(f"{expected.file.name}: {found}")
        if wrong:
            raise IndexDamaged(f"The index {str(self)!r} is damaged in {len(wrong)} place(s): {'; '.join(wrong)}")
        with said_of_cache(self._entry.parent):
            self._use()
            remove_wrong(self.folder, expected_files(manifest))

    def _use(self) -> None:
        """Keep others from clearing it away."""
        if self._lock is None:
            self._lock = locked_entry(self._entry, fcntl.LOCK_SH)
            weakref.finalize(self, self._lock.close)
            write_all({self._entry / ABOUT: json.dumps({"data": str(self)}).encode()})
        os.utime(self._entry / LOCK)

    def _keep(self, manifest: Manifest, raw: bytes) -> None:
        """Keep the manifest beside the copies; what only the former one named goes."""
        try:
            former = read_file(self.folder / NAME)
        except FileNotFoundError:
            former = b""
        if former == raw:
            return
        write_whole(self.folder / NAME, raw)
        forget(self.folder)
        with contextlib.suppress(IndexDamaged):
            gone = {one.name for one in Manifest.decoded(former, NAME).files} - {one.name for one in manifest.files}
            for name in gone:
                (self.folder / name).unlink(missing_ok=True)


def _key(store: Store) -> str:
    """The name of the folder of copies: by where they come from, and not by whose keys."""
    nested = store.options.get("client_kwargs")
    options = {**store.options, **(nested if isinstance(nested, Mapping) else {})}
    where = {name: str(options[name]) for name in WHERE if options.get(name) is not None}
    return hashlib.sha256(json.dumps(["copies", store.shown, where], sort_keys=True).encode()).hexdigest()[:32]
