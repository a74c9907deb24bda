"""Libraries that only some forms of files need: asked for where they are used, and named where they are not there."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from captum_tracinwe.app.files.problems import InputError
from captum_tracinwe.installing import install

__all__ = ["library", "others_errors"]


def library(name: str, path: object) -> Any:
    """A module that reads a form of files.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise InputError(
            f"{path}: reading this needs {package}, which cannot be imported here ({error}). "
            f"{install(package, 'files')}. Or save the texts as .csv or .jsonl."
        ) from error


@contextmanager
def others_errors(path: object, package: str, form: str) -> Iterator[None]:
    """What a library says of a file that it cannot read, in one line.

    Of a damaged file each of them raises what it happens on (KeyError, zlib.error, OverflowError, …): whatever comes is said.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
        raise InputError(f"{path}: {package} cannot read it as {form} ({reason}).") from error
