"""Fonts for what a figure's own font has no glyphs of, such as Chinese or emoji; by name or number what no font has."""

from __future__ import annotations

import sys
import unicodedata
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from captum_tracinwe.words.legible import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Lettering"]

# So many characters without a glyph are named in the warning.
_NAMED = 8
# Fonts whose glyphs are pictures of there being none.
_NO_FONTS = ("last resort", "lastresort", "notdef")
# Joiners and selectors of a form, of which nothing is seen.
_UNSEEN = {chr(code) for code in (0x200C, 0x200D, *range(0xFE00, 0xFE10))}
# What stands for what cannot be seen (see `visible`), by its number where no font has the sign.
_SIGNS = {chr(0x2400 + code): f"\\x{code:02x}" for code in range(32)}
_SIGNS |= {"\u2421": "\\x7f", "⏎": "\\n", "␍": "\\r", "⇥": "\\t", "␣": "\\x20", "\ufffd": "?"}


class Lettering:
    """The texts of one figure: each in a font that has its glyphs, without a change of matplotlib's settings.

    matplotlib draws an empty box for a character that its font does not have (DejaVu Sans: no Chinese, no Thai), though
    another font on the machine has it. Those fonts are looked for only where a text needs one.
    """

    def __init__(self) -> None:
        self._own = _fonts_of_settings()
        self._family: dict[str, str | None] = {}  # of each character that the own fonts lack
        self._missing: dict[str, None] = {}

    def __call__(self, text: object, longest: int | None = None) -> str:
        """A text as it can be drawn, at most ``longest`` characters of it."""
        shown = visible(str(text))
        self._look_up(set(shown))
        pieces = [self._drawn(character) for character in shown]
        if longest is None or sum(map(len, pieces)) <= longest:
            return "".join(pieces)
        while len(pieces) > 1 and sum(map(len, pieces)) > longest - 1:
            pieces.pop()  # a number is kept whole or not at all
        pieces[0] = pieces[0][: longest - 1]
        return "".join(pieces) + "…"

    def lines(self, text: str) -> str:
        """The same of a title, whose line feeds stay."""
        return "\n".join(self(line) if line else "" for line in text.split("\n"))

    def finish(self, ax: Axes) -> None:
        """Give the texts of a plot their fonts; warn of characters that no font has."""
        from matplotlib.text import Text

        for label in ax.findobj(Text):
            text = label.get_text()
            self._look_up(set(text))
            if any(self._family.get(character, "") is None for character in text):
                label.set_text("".join(map(self._drawn, text)))
            families = dict.fromkeys(self._family.get(character) for character in text)
            others = [family for family in families if family]
            if others:
                label.set_fontfamily([*label.get_fontfamily(), *others])
        if self._missing:
            some = "".join(list(self._missing)[:_NAMED]) + ("…" if len(self._missing) > _NAMED else "")
            warnings.warn(
                f"No font that matplotlib finds has glyphs for {some!r}: {_by_name(next(iter(self._missing)))} and the like "
                f"stand for them in the figure. Expected a font that has them: install one, for instance Noto Sans CJK, Noto "
                f"Sans Thai or Noto Emoji, or name its file by matplotlib.font_manager.fontManager.addfont(path). A page "
                f"(word_influence_html, word_report_html) shows them as the browser does.",
                stacklevel=_of_caller(),
            )

    def _look_up(self, characters: set[str]) -> None:
        own = frozenset().union(*map(_glyphs, self._own))
        unknown = {one for one in characters - self._family.keys() if ord(one) not in own and one != "\n"}
        if unknown:
            self._family |= _families(unknown)

    def _drawn(self, character: str) -> str:
        if self._family.get(character, "") is not None:
            return character
        if character in _UNSEEN:
            return ""
        if character in _SIGNS:
            return _SIGNS[character]
        self._missing[character] = None
        return _by_name(character)


def _of_caller() -> int:
    """The warning's stacklevel for the line of the user's that asked for a figure."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("captum_tracinwe."):
        level, frame = level + 1, frame.f_back
    return level


def _by_name(character: str) -> str:
    """``:grinning face:`` of a picture, ``\\u4f60`` of a letter."""
    name = unicodedata.name(character, "") if unicodedata.category(character) == "So" else ""
    return f":{name.lower()}:" if name else character.encode("ascii", "backslashreplace").decode()


def _fonts_of_settings() -> list[str]:
    """The files of the fonts that a text has by matplotlib's settings."""
    from matplotlib.font_manager import FontProperties, findfont

    return [findfont(FontProperties(family=[family])) for family in FontProperties().get_family()]


def _families(characters: set[str]) -> dict[str, str | None]:
    """Of each character a font family that has it, as few families as will do; None where there is none."""
    paths = _installed()
    left = set(characters)
    found: dict[str, str | None] = dict.fromkeys(characters)
    having: dict[str, set[str]] = {}
    for name in sorted(paths, key=_plainness):
        having[name] = {character for character in left if ord(character) in _glyphs(paths[name])}
        if having[name] == left:
            break
    while left and having:
        name = max(having, key=lambda name: len(having[name] & left))  # of equal ones the plainest
        own = {character for character in having.pop(name) & left if _draws(paths[name], character)}
        found |= dict.fromkeys(own, name)
        left -= own
    return found


def _installed() -> dict[str, str]:
    """The file of each font family, upright and nearest to the usual weight."""
    from matplotlib.font_manager import fontManager, weight_dict

    found: dict[str, tuple[int, str]] = {}
    for entry in fontManager.ttflist:
        if entry.style == "normal" and not any(part in entry.name.lower() for part in _NO_FONTS):
            weight = weight_dict.get(str(entry.weight), entry.weight)
            apart = abs(int(weight) - 400) if str(weight).isdigit() else 1000
            found[entry.name] = min(found.get(entry.name, (10_000, "")), (apart, entry.fname))
    return {name: path for name, (_, path) in found.items()}


def _plainness(name: str) -> tuple[int, str]:
    """What sorts fonts for running text before others."""
    return sum(part in name for part in ("Serif", "Mono", "Narrow", "Condensed", "Color")), name


@lru_cache(maxsize=512)
def _glyphs(path: str) -> frozenset[int]:
    """The code points that a font's file has glyphs for; none of one that cannot be read."""
    from matplotlib.font_manager import get_font

    try:
        return frozenset(get_font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


def _draws(path: str, character: str) -> bool:
    """Whether matplotlib can draw it: not from fonts of coloured bitmaps."""
    from matplotlib.font_manager import get_font

    try:
        font: Any = get_font(path)
        font.set_size(10, 72)
        font.load_char(ord(character))
    except (OSError, RuntimeError):
        return False
    return True
