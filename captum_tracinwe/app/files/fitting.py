"""Of options that hold for all files of a command those that one file does not need: it says itself how it is read."""

from __future__ import annotations

import codecs
import warnings
from dataclasses import replace
from pathlib import Path

from captum_tracinwe.app.files import delimited, encodings
from captum_tracinwe.app.files.forms import PACKED, TABLES, Form
from captum_tracinwe.app.files.reading import Reading

__all__ = ["fitted"]

PART = 1 << 20  # bytes that are looked at at once


def fitted(form: Form, reading: Reading, said: bool = False) -> Reading:
    """How a file is read: as the options say, but for an encoding and a delimiter that it shows to be another.

    Of two files one may be in latin-1, which needs ``--encoding``, and the other in UTF-8, which does not. UTF-8 is told by its
    bytes: letters of another encoding are hardly ever, all of them, right UTF-8. A delimiter is another where it gives the file
    the columns that are asked for, and the given one does not.

    Args:
        form (Form): of the file.
        reading (Reading): as the options say.
        said (bool): what is read otherwise was said before; else it is a warning.

    Raises:
        InputError: there is no such encoding.
        OSError, EOFError, UnicodeError: it cannot be read.
    """
    if form.kind not in PACKED:
        return reading
    if reading.encoding is not None and _is_utf8(form.place, reading.encoding):
        if not said:
            warnings.warn(
                f"{form.place}: read as UTF-8, which it is, and not by --encoding {reading.encoding}.", stacklevel=3
            )
        reading = replace(reading, encoding=None)
    if form.kind == "table" and reading.delimiter is not None:
        other = delimited.fitting(form.place, reading, TABLES.get(form.ending))
        if other is not None:
            if not said:
                warnings.warn(
                    f"{form.place}: read with {other!r} between fields, which it has, and not by --delimiter "
                    f"{reading.delimiter!r}.",
                    stacklevel=3,
                )
            reading = replace(reading, delimiter=other)
    return reading


def _is_utf8(path: Path, given: str) -> bool:
    """Whether a file has letters beyond ASCII, all of them as UTF-8 has them. ASCII is given to say that there are none."""
    if codecs.lookup(encodings.encoding_of(path, given)).name in ("utf-8-sig", "utf-8", "ascii", "utf-16", "utf-32"):
        return False
    decoder, letters = codecs.getincrementaldecoder("utf-8")(), False
    with encodings.opened_bytes(path) as file:
        try:
            while part := file.read(PART):
                letters = letters or not part.isascii()
                decoder.decode(part)
            decoder.decode(b"", True)
        except UnicodeDecodeError:
            return False
    return letters
