"""`manifest.json`: what an index was made from and which files are it; the one file of them that is ever replaced.

Its entries are typed in ``schema.py``, and must go together (``consistency.py``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from msgspec.structs import replace

from captum_tracinwe.index.files.consistency import check
from captum_tracinwe.index.files.disk import IndexDamaged, read_file, write_whole
from captum_tracinwe.index.files.learned import forget
from captum_tracinwe.index.files.names import MANIFEST
from captum_tracinwe.index.files.schema import (
    FORMAT,
    VERSION,
    CheckpointEntry,
    Content,
    FileEntry,
    Part,
    SegmentEntry,
    Source,
)

__all__ = ["CheckpointEntry", "FileEntry", "Manifest", "Part", "SegmentEntry", "Source"]

NAME = MANIFEST


class Manifest(Content, frozen=True, forbid_unknown_fields=True):
    """The content of a manifest, read and written."""

    def write(self, folder: Path) -> None:
        """Replace the folder's manifest in one step; what was learned by the former one goes."""
        write_whole(folder / NAME, self.encoded())
        forget(folder)

    def encoded(self) -> bytes:
        """As the file holds it: the content, and its checksum."""
        content = msgspec.to_builtins(replace(self, version=self.least_version))
        if not self.bounded:  # what version 2 does not know
            del content["projected"], content["whole"]
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
            raw = read_file(path)
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(
                f"No index at {str(folder)!r}: expected a directory with {NAME}. Build one with TracInWE.build_index."
            ) from None
        return cls.decoded(raw, str(path))

    @classmethod
    def decoded(cls, raw: bytes, path: str) -> Manifest:
        """The manifest in a file of these bytes, which errors call ``path``.

        Raises:
            IndexDamaged: as :meth:`read`.
        """
        try:
            content = json.loads(raw, object_pairs_hook=_each_once, parse_constant=_no_number)
            version, name = content["version"], content["format"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise IndexDamaged(f"{path!r} is damaged: not the JSON that was written ({error}).") from error
        if name != FORMAT or type(version) is not int or not 1 <= version <= VERSION:
            raise IndexDamaged(
                f"{path!r} is of format {name!r:.80}, version {version!r:.80}: this package reads {FORMAT!r}, versions 1 "
                f"to {VERSION}. Use the package that wrote it, or build the index anew."
            )
        found = content.pop("checksum", None)
        try:
            intact = found == _checksum(content)
            manifest = msgspec.convert(content, cls)
        except (ValueError, RecursionError) as error:
            raise IndexDamaged(f"{path!r} is damaged: an entry is missing or altered ({error}).") from error
        if not intact:
            raise IndexDamaged(f"{path!r} is damaged: its content does not have the checksum that it names.")
        wrong = check(manifest)
        if wrong:
            raise IndexDamaged(f"{path!r} is damaged: its entries do not go together ({wrong}).")
        return manifest


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name stands twice")
    return content


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
