"""The names of an index's files, each of one exact form: what has another name is never written over or removed."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "FIRST",
    "LEARNED",
    "LOCK",
    "MANIFEST",
    "PUSHED",
    "RESERVED",
    "claim_of",
    "is_claim",
    "is_data",
    "is_temporary",
    "lock_of",
    "name_of",
    "new_temporary",
    "numbered",
    "others_in",
]

#: The one file of an index that is ever replaced.
MANIFEST = "manifest.json"
#: What was learned of an index's rows; it may go at any time.
LEARNED = "captum_tracinwe.learned.json"
#: Where the index was pushed to last, and what stood there then; it may go at any time.
PUSHED = "captum_tracinwe.pushed.json"
#: Locked by whoever changes an index.
LOCK = "lock"
#: How the names of an index's own columns begin; no metadata of a user may have such a name.
RESERVED = "captum_tracinwe."
#: Locked by the first of several processes while it begins an index.
FIRST = ".captum-tracinwe-first"
TEMPORARY = ".captum-tracinwe-"
# Kind → what its files end with. The digits are the first 32 of the file's SHA-256.
SUFFIXES = {"segment": ".safetensors", "columns": ".json", "projections": ".safetensors"}
_DATA = re.compile("|".join(rf"{kind}-[0-9a-f]{{32}}{re.escape(suffix)}" for kind, suffix in SUFFIXES.items()))
# The second form is that of one file of many, under the lock on the one without a number.
_TEMPORARY = re.compile(rf"({re.escape(TEMPORARY)}[0-9a-f]{{16}})(-[0-9a-f]{{8}})?\.tmp")
# What desktops, file systems and git leave in a directory, whatever it is for.
_OF_SYSTEM = re.compile(r"\.ds_store|thumbs\.db|desktop\.ini|lost\+found|\.gitkeep|\.nfs[0-9a-f]+", re.IGNORECASE)
_CLAIM = re.compile(r"\.claim-[0-9]{1,19}")


def name_of(kind: str, sha256: str) -> str:
    """The name of a file of that kind and content."""
    return f"{kind}-{sha256[:32]}{SUFFIXES[kind]}"


def is_data(name: str) -> bool:
    """Whether a manifest may name a file so."""
    return _DATA.fullmatch(name) is not None


def new_temporary() -> str:
    """A name that no reader looks at."""
    return f"{TEMPORARY}{secrets.token_hex(8)}.tmp"


def numbered(temporary: str, number: int) -> str:
    """The name of one of many unfinished files of a writer that has the lock on ``temporary``."""
    return f"{temporary.removesuffix('.tmp')}-{number:08x}.tmp"


def lock_of(temporary: str) -> str:
    """The name of the file whose lock says that the owner of ``temporary`` lives."""
    found = _TEMPORARY.fullmatch(temporary)
    assert found is not None
    return f"{found[1]}.tmp"


def is_temporary(name: str) -> bool:
    """Whether a writer gives such names to what it has not finished."""
    return _TEMPORARY.fullmatch(name) is not None


def claim_of(first: int) -> str:
    """The lock of the segment that begins with training example ``first``."""
    return f".claim-{first}"


def is_claim(name: str) -> bool:
    """Whether it is a lock as :func:`claim_of` names them."""
    return _CLAIM.fullmatch(name) is not None


def others_in(folder: Path, also: Iterable[str] = ()) -> list[str]:
    """What in a directory is not an index's, by name; empty where the directory is not there.

    What desktops and file systems leave everywhere does not count: no index ever touches it.
    """
    if not folder.exists():
        return []
    ours = {MANIFEST, LEARNED, PUSHED, LOCK, FIRST, *also}
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if not _OF_SYSTEM.fullmatch(entry.name)
        and (
            entry.is_symlink()
            or not entry.is_file()
            or not (entry.name in ours or is_data(entry.name) or is_temporary(entry.name) or is_claim(entry.name))
        )
    )
