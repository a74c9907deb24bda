"""Where files go: found out before the work, not after it, that one has nowhere to go or would replace another."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from captum_tracinwe.app.data import InputError
from captum_tracinwe.gradients.interrupts import unbroken

__all__ = ["check_outputs", "temporary_directory"]


@unbroken
def temporary_directory() -> Iterator[str]:
    """Removed at the end, however often Ctrl-C is pressed meanwhile."""
    with tempfile.TemporaryDirectory(prefix="captum-tracinwe-") as temporary:
        yield temporary


def check_outputs(outputs: Mapping[str, str | Path], inputs: Iterable[str | Path] = ()) -> None:
    """See that each file can be written and replaces no other.

    Args:
        outputs (mapping): path by the option that names it.
        inputs (iterable of path): files that are read.

    Raises:
        InputError: a directory, no directory to write in, a file that is read, or the same path twice.
    """
    inputs = list(inputs)
    seen: dict[Path, str] = {}
    for option, path in outputs.items():
        out = Path(path)
        if out.is_dir():
            raise InputError(f"{option} {out}: a directory; name a file in it, such as {out / 'report.html'}.")
        if not out.parent.is_dir():
            raise InputError(f"{option} {out}: the directory {out.parent} does not exist; make it, or choose another.")
        if any(os.path.exists(one) and out.exists() and out.samefile(one) for one in inputs):
            raise InputError(
                f"{option} {out}: that is an input file, which the report would replace; choose another name."
            )
        # The file that is replaced is the name itself, wherever a link of that name leads.
        place = out.parent.resolve() / out.name
        if place in seen:
            raise InputError(f"{option} {out}: {seen[place]} names the same file; choose another name for one of them.")
        seen[place] = option
        try:
            with tempfile.TemporaryFile(dir=out.parent):
                pass
        except OSError as error:
            raise InputError(f"{option} {out}: cannot be written ({error.strerror or error}).") from error
