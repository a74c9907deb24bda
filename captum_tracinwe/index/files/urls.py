"""What is the URL of a store, and what is the path of a directory."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["is_url", "lower_scheme", "shown"]

# Two letters at least: "C://" is a drive.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_url(path: Any) -> bool:
    """Whether an index is named by ``scheme://...``; whatever else has a colon is a path.

    >>> is_url("s3://bucket/index"), is_url("C:/index"), is_url("runs:3/index")
    (True, False, False)
    """
    return isinstance(path, str) and _URL.match(path) is not None


def lower_scheme(url: str) -> str:
    """A URL as fsspec knows it: schemes are the same in capitals, and it has them in small letters.

    >>> lower_scheme("S3://Bucket/index")
    's3://Bucket/index'
    """
    scheme, rest = url.split("://", 1)
    return f"{scheme.lower()}://{rest}"


def shown(url: str) -> str:
    """A URL as messages show it: without the user and password that one may hold.

    >>> shown("ftp://me:secret@host/index/")
    'ftp://…@host/index'
    """
    return re.sub(r"//[^/@]*@", "//…@", url).rstrip("/")
