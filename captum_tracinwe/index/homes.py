"""Where the files of an index are: a directory, or a store with copies in a cache folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from captum_tracinwe.index.files.disk import folder_of
from captum_tracinwe.index.files.manifest import Manifest, SegmentEntry
from captum_tracinwe.index.files.urls import is_url
from captum_tracinwe.index.remote.home import StoreHome

__all__ = ["FolderHome", "Home", "StoreHome", "home_of"]


class Home(Protocol):
    """Where an index is."""

    @property
    def folder(self) -> Path:
        """Where its files lie, or copies of them."""

    def manifest(self) -> Manifest:
        """The one in force.

        Raises:
            FileNotFoundError: there is none.
            IndexDamaged: it is not what was written.
        """

    def hold(self, manifest: Manifest, entries: Iterable[SegmentEntry]) -> None:
        """See that the files of these segments are in the folder, as far as that is ours to see.

        Raises:
            IndexDamaged: one is not to be had.
        """

    def mend(self, manifest: Manifest, entries: Iterable[SegmentEntry]) -> bool:
        """Have files anew that are not what was written, as far as that is ours to do; whether there were such.

        Raises:
            IndexDamaged: one is not to be had.
        """


@dataclass(frozen=True)
class FolderHome:
    """A directory: its files are used where they are."""

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    def manifest(self) -> Manifest:
        """The one in it."""
        return Manifest.read(self.folder)

    def hold(self, manifest: Manifest, entries: Iterable[SegmentEntry]) -> None:
        """Nothing is to be done."""

    def mend(self, manifest: Manifest, entries: Iterable[SegmentEntry]) -> bool:
        """The files are somebody's own: nothing is removed."""
        return False


def home_of(
    path: str | Path, cache: str | Path | None = None, storage_options: Mapping[str, Any] | None = None
) -> FolderHome | StoreHome:
    """What a path or a URL names.

    Raises:
        ValueError: options of a store for a directory.
        OSError, TypeError: no directory can have that name.
    """
    if is_url(path):
        return StoreHome(str(path), cache, storage_options)
    if cache is not None or storage_options is not None:
        raise ValueError(
            f"`cache` and `storage_options` go with a URL such as 's3://bucket/index': expected neither for {str(path)!r:.300}."
        )
    return FolderHome(folder_of(path))
