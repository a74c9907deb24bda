"""Strings that a file may hold and a terminal, a figure or a page must not obey."""

from __future__ import annotations

import unicodedata

from captum_tracinwe.words.legible import DIRECTION_MARKS

ESCAPES = [
    *[
        "\x1b[31m",
        "\x1b[2J",
        "\x1b]0;title\x07",
        "\x1b]8;;http://x\x1b\\",
        "\x1bP+q\x1b\\",
        "\x1bc",
        "\x1b[6n",
        "\x1b[?1049h",
    ],
    *["\x1b(0", "\x1b]52;c;cm0=\x07", "\n\x1b[A\x1b[2K"],
]
CONTROLS = ["\x00", "\x07", "\b\b\b", "\t", "\n", "\x0b", "\x0c", "\r", "\r\n", "\x0e", "\x1c", "\x7f"]
CONTROLS += ["\x80", "\x85", "\x90q\x9c", "\x9b31m", "\x9d0;t\x9c"]
ODD = [
    "\u200b\u200d\ufeff",
    "\u200e\u200f\u061c",
    "\u2028",
    "\ud800",
    "\udc1b",
    "\udc9b",
    "<script>$x^{$\x1b[31m\u202e",
]
LONG = ["x" * 100_000, "\x1b[31m\u202e" * 2000]
# Each between letters, because the ends of labels and columns are stripped.
HOSTILE = [f"a{core}z" for core in (*ESCAPES, *CONTROLS, *DIRECTION_MARKS, *ODD, *LONG)]
# All kinds in one name that a file may have, and a tokenizer's path, too.
NAME = "a\x1b]0;title\x07\r\b\n\x7f\x85\x9b31m\u202e\u2066\u200bz"


def obeyed(shown: str) -> set[str]:
    """What of a shown text is a control character other than the line feed, a mark of direction, or half a character."""
    return {c for c in shown if (unicodedata.category(c) in ("Cc", "Cs") and c != "\n") or c in DIRECTION_MARKS}
