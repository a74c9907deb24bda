"""The letters of a file: its encoding as its first bytes tell it, or as it is given; gzipped or not."""

from __future__ import annotations

import codecs
import gzip
from pathlib import Path
from typing import IO, Any, NoReturn

from captum_tracinwe.app.files.problems import InputError, LineError, Problems

__all__ = ["encoding_of", "opened", "opened_bytes", "refuse_undecodable"]

# The longer mark first: that of UTF-32 begins as that of UTF-16 does.
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
HEAD = 4096


def opened_bytes(path: Path) -> IO[bytes]:
    """The bytes of a file, unpacked if its name ends in .gz."""
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    return opener(path, "rb")  # type: ignore[no-any-return]


def opened(path: Path, given: str | None) -> IO[str]:
    """The letters of a file, line ends as they are, without a mark at its begin."""
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    return opener(path, "rt", encoding=encoding_of(path, given), newline="")  # type: ignore[no-any-return]


def encoding_of(path: Path, given: str | None) -> str:
    """The name of a file's encoding for Python: what its mark says, or the given one, or UTF-8.

    Raises:
        InputError: there is no such encoding, or the bytes are none of text in UTF-8.
    """
    known = None if given is None else _known(given)
    with opened_bytes(path) as file:
        head = file.read(HEAD)
    marked = next((name for mark, name in MARKS.items() if head.startswith(mark)), None)
    if marked is None and known is None and head.count(0) > len(head) // 4:
        little = head[1::2].count(0) >= head[::2].count(0)
        raise InputError(
            f"{path}: every second byte or so is 0: UTF-16 without a mark at its begin, or no text. Give --encoding "
            f"{'utf-16-le' if little else 'utf-16-be'}, or save it as UTF-8."
        )
    return marked or known or "utf-8-sig"


def refuse_undecodable(path: Path, given: str | None, error: UnicodeError) -> NoReturn:
    """Say which lines are not of a file's encoding, and what may be done.

    Raises:
        InputError: always.
    """
    name = encoding_of(path, given)
    if name != "utf-8-sig":
        reason = error.reason if isinstance(error, UnicodeDecodeError) else str(error)
        raise InputError(f"{path}: not text in {given or name} ({reason}); give the right --encoding.")
    problems, lines = Problems(path), 0
    with opened_bytes(path) as file:
        for lines, line in enumerate(file, 1):
            with problems.at(f"line {lines}"):
                _check_utf8(line)
    problems.check(lines)
    raise InputError(f"{path}: not UTF-8 text; save it as UTF-8.")  # it was rewritten meanwhile


def _check_utf8(line: bytes) -> None:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise LineError(
            f"not UTF-8 text (byte {error.start + 1} of the line is 0x{line[error.start]:02x}); give the encoding, such as "
            f"--encoding cp1252 or latin-1 for Western Europe, or save it as UTF-8."
        ) from error


def _known(given: str) -> str:
    try:
        name = codecs.lookup(given).name
        "".encode(given)  # refuses what is a codec, and of no text
    except (LookupError, ValueError, TypeError) as error:
        raise InputError(
            f"--encoding {given}: Python knows no such encoding of text; expected utf-8, utf-16, latin-1, cp1252, shift_jis or "
            f"another of its names."
        ) from error
    return "utf-8-sig" if name == "utf-8" else name
