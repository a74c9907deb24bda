"""A folder of a store that fsspec reaches: whole objects read and written by name, its errors in words."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from captum_tracinwe.index.files.digests import BLOCK
from captum_tracinwe.index.files.urls import lower_scheme, shown
from captum_tracinwe.index.remote.said import store_says
from captum_tracinwe.installing import install

__all__ = ["Store"]

# Where a file appears while it is written: a manifest gets its name there when it is whole. Other stores put objects whole.
FILE_SYSTEMS = {"file", "local", "sftp", "ssh", "hdfs", "smb", "ftp"}


class Store:
    """Objects under one URL. It travels to other processes as URL and options.

    Args:
        url (str): ``scheme://...`` of the folder.
        options (mapping, optional): of fsspec's file system: keys, endpoint, and so on.

    Raises:
        ImportError: fsspec, or what it needs for this scheme, is not installed.
        ValueError: fsspec knows no such scheme.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        if not url.partition("://")[2].strip("/"):
            raise ValueError(f"{url!r} names no bucket or folder: expected a URL such as 's3://bucket/index'.")
        if options is not None and not isinstance(options, Mapping):
            raise ValueError(
                f"`storage_options` should be a mapping of names to values, got {type(options).__name__}: see the file system "
                f"of fsspec that reads {shown(url)!r}."
            )
        url = lower_scheme(url).rstrip("/")
        self.url, self.options, self.shown = url, dict(options or {}), shown(url)
        _ = self._opened

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "options": self.options, "shown": self.shown}

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """The file system, and the folder in it."""
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise ImportError(
                f"{self.shown!r} needs fsspec, which is not installed. {install('fsspec', 'remote')}"
            ) from error
        try:
            with store_says(self.shown, "read"):
                fs, root = url_to_fs(self.url, **self.options)
        except ImportError as error:
            raise ImportError(f"{self.shown!r} needs a library that fsspec asks for: {error}") from error
        except OSError as error:
            if isinstance(error.__cause__, ValueError):
                raise ValueError(
                    f"{self.shown!r} is no URL that fsspec knows ({error.__cause__}): expected one such as 's3://bucket/index', "
                    f"or the path of a directory."
                ) from None
            raise
        return fs, root.rstrip("/")

    def _at(self, name: str) -> str:
        return f"{self._opened[1]}/{name}"

    def read(self, name: str) -> bytes | None:
        """A small object; None where there is none.

        Raises:
            OSError: the store, or its bucket, cannot be read.
        """
        fs = self._opened[0]
        with store_says(self.shown, "read"):
            try:
                content: bytes = fs.cat_file(self._at(name))
            except FileNotFoundError:
                return None
        return content

    def sizes(self) -> dict[str, int]:
        """Name → bytes of what is there."""
        fs, root = self._opened
        with store_says(self.shown, "read"):
            fs.invalidate_cache()
            try:
                found = fs.ls(root, detail=True)
            except FileNotFoundError:
                return {}
        return {one["name"].rpartition("/")[2]: int(one["size"] or 0) for one in found if one.get("type") == "file"}

    def fetch(self, name: str, path: Path) -> bool:
        """Copy an object into a local file, which is there; False where the store has no such object."""
        with store_says(self.shown, "read"):
            try:
                self._opened[0].get_file(self._at(name), str(path))
            except FileNotFoundError:
                return False
        return True

    def blocks(self, name: str) -> Iterator[bytes]:
        """An object's bytes, 1 MB at a time.

        Raises:
            FileNotFoundError: it is not there.
        """
        with store_says(self.shown, "read"), self._opened[0].open(self._at(name), "rb") as file:
            while block := file.read(BLOCK):
                yield block

    def send(self, path: Path, name: str) -> None:
        """Copy a local file there."""
        fs, root = self._opened
        with store_says(self.shown, "written to"):
            if _protocols(fs) & FILE_SYSTEMS:
                fs.makedirs(root, exist_ok=True)
            fs.put_file(str(path), self._at(name))

    def replace(self, name: str, content: bytes) -> None:
        """Put a small object in the place of the one of that name: readers see the old one or the new one."""
        fs, root = self._opened
        with store_says(self.shown, "written to"):
            if not _protocols(fs) & FILE_SYSTEMS:
                fs.pipe_file(self._at(name), content)
                return
            fs.makedirs(root, exist_ok=True)
            unfinished = self._at(f".{name}-{secrets.token_hex(8)}")
            fs.pipe_file(unfinished, content)
            fs.mv(unfinished, self._at(name))

    def remove(self, name: str) -> None:
        """Take an object away, if it is there."""
        with store_says(self.shown, "written to"):
            try:
                self._opened[0].rm_file(self._at(name))
            except FileNotFoundError:
                return


def _protocols(fs: Any) -> set[str]:
    return {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
