"""What a store says when something cannot be done there, in words: the URL, the fact, the way out."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from captum_tracinwe.index.files.disk import IndexDamaged

__all__ = ["store_says"]

# Of this machine, and not of the store: said by whoever writes here.
OF_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
REFUSED = ("credential", "token", "denied", "forbidden", "unauthor")
SILENT = ("timeout", "timed out", "connect", "endpoint", "resolve", "unreachable")


@contextmanager
def store_says(url: str, doing: str) -> Iterator[None]:
    """Errors of a store and its library, in words.

    Args:
        url (str): as it is shown.
        doing (str): "read" or "written to".

    Raises:
        FileNotFoundError, PermissionError, ConnectionError, OSError: the store's error, with the URL and the way out.
    """
    try:
        yield
    except (IndexDamaged, ImportError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in OF_DISK:
            raise
        raise _in_words(url, doing, error) from error


def _in_words(url: str, doing: str, error: Exception) -> OSError:
    what, told = f"{url!r} cannot be {doing}", f"{type(error).__name__}: {error}".splitlines()[0]
    known = told.lower()
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(
            f"{what}: there is no such bucket, folder or object ({told}). Make it, or correct the URL."
        )
    if isinstance(error, PermissionError) or any(word in known for word in REFUSED):
        return PermissionError(
            f"{what}: the store refuses it ({told}). Give credentials that may do it: by `storage_options`, or where the store's "
            f"own library looks for them."
        )
    if isinstance(error, (TimeoutError, ConnectionError)) or any(word in known for word in SILENT):
        return ConnectionError(
            f"{what}: the store does not answer ({told}). Look at the network and at the endpoint in `storage_options`, then try "
            f"again; what was sent or fetched by then is kept."
        )
    if isinstance(error, NotImplementedError):
        return OSError(
            f"{what}: fsspec's file system for it cannot do that ({told}). Name a URL of another kind of store."
        )
    return OSError(
        f"{what}: the store's library failed ({told}). Look at the URL and at `storage_options`, then try again."
    )
