"""Foreign text made safe to show: what a terminal obeys, or what turns a line round, is seen and not done."""

from __future__ import annotations

__all__ = ["DIRECTION_MARKS", "as_line", "as_lines", "marks_by_number", "printable", "shortened", "visible"]

#: Overrides, embeddings and isolates: one that is not closed turns round what follows it, in a terminal, a figure or a table.
DIRECTION_MARKS = "".join(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
_MARKS_BY_NUMBER = {ord(mark): f"<U+{ord(mark):04X}>" for mark in DIRECTION_MARKS}
_CONTROL_PICTURES = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n\r"}
_CONTROL_PICTURES |= {0x7F: "\u2421"} | dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000)], "\ufffd")
# A message is read, whatever a file has for a name: of a longer one the begin (what is wrong) and the end (the way out).
_BEGIN, _END = 1200, 600


def visible(text: str) -> str:
    """A name one can see: control characters as pictures, marks of direction, and blanks if alone, by number."""
    if text.isprintable() and not text.isspace():
        return text
    shown = marks_by_number(printable(text)).replace("\n", "⏎").replace("\r", "␍").replace("\t", "⇥")
    if shown and all(character.isspace() or not character.isprintable() for character in shown):
        return "".join("␣" if character == " " else f"U+{ord(character):04X}" for character in shown)
    return shown


def printable(text: str) -> str:
    """Control characters, which HTML forbids and terminals obey, as their pictures; the rest as it is."""
    return text if text.isprintable() else text.translate(_CONTROL_PICTURES)


def marks_by_number(text: str) -> str:
    """Marks of direction as ``<U+202E>``; the rest as it is."""
    return text if text.isprintable() else text.translate(_MARKS_BY_NUMBER)


def as_line(text: str) -> str:
    """A message on one line, for a terminal; of a very long one the begin and the end."""
    line = visible(" ".join(text.split()))
    longest = _BEGIN + _END + len(" … ")  # so that a line made of one that was cut stays as it is
    return line if len(line) <= longest else f"{line[:_BEGIN]} … {line[-_END:]}"


def as_lines(text: str) -> str:
    """Several lines, such as a title that the user gave: its line feeds stay, all else is :func:`visible`."""
    return "\n".join(visible(line) if line else "" for line in text.split("\n"))


def shortened(label: str | None, most: int = 40, quoted: bool = True) -> str:
    """At most ``most`` characters of a label, in quotes: a column of texts may have been taken for the labels."""
    label = str(label)
    label = label if len(label) <= most else label[: most - 1] + "…"
    return repr(label) if quoted else visible(label)  # repr, too, shows what cannot be seen
