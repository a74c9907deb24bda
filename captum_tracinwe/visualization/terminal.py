"""`WordInfluence` for a terminal: colours where there are some, signs where there are none."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap

from captum_tracinwe.gradients.seen import is_terminal
from captum_tracinwe.visualization.common import (
    AWAY,
    MEANING,
    TOWARDS,
    UNIT,
    Influences,
    Mark,
    Texts,
    check_count,
    columns_of,
    group,
    marks,
    read_or_not,
    scale_of,
    signed,
)
from captum_tracinwe.words.influence import WordInfluence
from captum_tracinwe.words.legible import shortened, visible
from captum_tracinwe.words.texts import TokenizedText

__all__ = ["word_influence_text"]

# The 256-colour palette: three steps of blue and of orange that carry white text, weakest first.
_BACKGROUNDS = {1: (24, 25, 26), -1: (94, 130, 166)}
_FOREGROUNDS = {1: "38;5;32", -1: "38;5;166"}
# Below this part of the scale a word gets coloured letters only: most words of a text are weak.
_WEAK = 0.12
# A column of texts may have been taken for the labels.
_LONGEST = 60
_BOLD, _DIM, _RESET = "\033[1m", "\033[2m", "\033[0m"
_BLUE, _ORANGE = "\033[38;5;32m", "\033[38;5;166m"


def word_influence_text(
    influences: Influences,
    *,
    color: bool | None = None,
    width: int | None = None,
    test_texts: Texts | None = None,
    train_texts: Texts | None = None,
    top_words: int = 5,
    max_chars: int = 400,
) -> str:
    """Text for a terminal: per test text its proponents and opponents with their words.

    Args:
        influences (WordInfluence, list of them, or list of lists): the pairs to show.
        color (bool, optional): ANSI colours; None: if the output is a terminal and NO_COLOR is not set.
            Without colours a word carries its sign: ``word(+)``, up to ``(+++)``.
        width (int, optional): columns; None: the terminal's.
        test_texts, train_texts (sequence or mapping of TokenizedText, optional): by index.
        top_words (int): words listed for a pair.
        max_chars (int): longer texts are cut, and say so.

    Returns:
        str: lines without a final line feed. Control characters of the texts are shown, never sent.

    Example:
        >>> from captum_tracinwe.testing import toy_tracin
        >>> tracin, inputs = toy_tracin()
        >>> pairs = tracin.word_influence(inputs, tracin.influence(inputs, k=1).indices)
        >>> print(word_influence_text(pairs, color=False, width=70).splitlines()[0])
        Test example 0
    """
    if color is None:
        color = is_terminal(sys.stdout) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    check_count("top_words", top_words)
    check_count("max_chars", max_chars)
    check_count("width", 0 if width is None else width)
    width = max(30, width or shutil.get_terminal_size((88, 24)).columns)
    groups = group(influences, test_texts, train_texts)
    if not groups:
        return "There is no pair of a test and a training text to show."
    pairs = [pair for part in groups for pair in part.pairs]
    scale = scale_of(word.share for pair in pairs for word in pair.words())
    lines: list[str] = []
    for part in groups:
        lines += [_paint(f"Test example {part.test_index}", _BOLD, color) + _tags(part.text)]
        lines += _text(part.text, [], scale, color, width, max_chars) if part.text else []
        for name, style, chosen in (
            (f"{TOWARDS} (proponents)", _BLUE, part.proponents),
            (f"{AWAY} (opponents)", _ORANGE, part.opponents),
            ("Neither (score 0)", _DIM, part.neutral),
        ):
            if chosen:
                lines += ["", *(_paint(line, _BOLD + style, color) for line in textwrap.wrap(name, width))]
            for number, pair in enumerate(chosen):
                lines += [""] if number else []
                lines += _pair(pair, scale, color, width, top_words, max_chars)
        lines.append("")
    key = "Blue, underlined: above 0; orange: below." if color else "(+++) and (−−−) mark the strongest words."
    lines += textwrap.wrap(f"{MEANING} {key} Unit: {UNIT}.", width)
    return "\n".join(lines)


def _pair(pair: WordInfluence, scale: float, color: bool, width: int, top_words: int, max_chars: int) -> list[str]:
    style = _BLUE if pair.score > 0 else _ORANGE if pair.score < 0 else _DIM
    lines = [
        f"  {_paint(f'{signed(pair.score):>9}', _BOLD + style, color)}  training example {pair.train_index}"
        f"{_tags(pair.train_text)}"
    ]
    if pair.train_text:
        shares = marks(pair, pair.train_text)
        lines += _text(pair.train_text, shares, scale, color, width, max_chars, "    ")
    words = [word for word in pair.words()[:top_words] if word.share]
    longest = max((columns_of(visible(word.text)[:20]) for word in words), default=0)
    for word in words:
        name = visible(word.text)[:20]
        bar = "█" * max(1, round(abs(word.share) / scale * min(24, width - 26 - longest)))
        padding = " " * (longest - columns_of(name))
        painted = _paint(bar, _BLUE if word.share > 0 else _ORANGE, color)
        lines.append(f"    {signed(word.share):>9}  {name}{padding}  {painted}")
    return lines


def _tags(text: TokenizedText | None) -> str:
    asked = f"{', '.join(text.asked_words)} at {text.asked[0]}" if text and text.asked else None
    said = [("asked about", asked), ("label", text.label), ("predicted", text.prediction)] if text else []
    return "".join(f"  [{name}: {shortened(value, _LONGEST, quoted=False)}]" for name, value in said if value)


def _text(
    text: TokenizedText,
    shares: list[Mark],
    scale: float,
    color: bool,
    width: int,
    limit: int,
    indent: str = "  ",
) -> list[str]:
    cut = min(len(text.text), limit)
    chunks: list[tuple[str, str]] = []
    cursor = 0
    for mark in shares:
        if mark.span[1] > cut:
            break
        chunks += _plain(text, cursor, mark.span[0])
        name = visible(mark.name)
        if mark.special and chunks and not chunks[-1][0].endswith(" "):
            chunks.append((" ", ""))
        chunks.append(_shown_mark(name, mark.share, scale, color))
        chunks += [(" ", "")] if mark.special and mark.span[1] == 0 else []
        cursor = max(cursor, mark.span[1])
    chunks += _plain(text, cursor, cut)
    if cut < len(text.text):
        chunks.append((f"… ({len(text.text):,} characters)", ""))
    words: list[list[tuple[str, str]]] = [[]]
    for shown, style in chunks:
        if shown == " ":
            words.append([])
        else:
            words[-1].append((shown, style))
    lines, line, used = [], indent, len(indent)
    for word in (word for word in words if word):
        size = sum(columns_of(shown) for shown, _ in word)
        if used > len(indent) and used + 1 + size > width:
            lines.append(line)
            line, used = indent, len(indent)
        gap = " " if used > len(indent) else ""
        line += gap + "".join(_paint(shown, style, bool(style)) for shown, style in word)
        used += len(gap) + size
    return [*lines, line] if used > len(indent) else lines


def _plain(text: TokenizedText, start: int, end: int) -> list[tuple[str, str]]:
    """Pieces of unmarked text: words and single blanks; what the model did not read says so."""
    pieces: list[tuple[str, str]] = []
    for begin, stop, read in read_or_not(text, start, end):
        pieces += [] if read else [(" ", ""), ("[not read:", ""), (" ", "")]
        for number, part in enumerate(text.text[begin:stop].split(" ")):
            if number:
                pieces.append((" ", ""))
            if part:
                pieces.append((visible(part), ""))
        pieces += [] if read else [("]", "")]
    return pieces


def _shown_mark(name: str, share: float, scale: float, color: bool) -> tuple[str, str]:
    sign = 1 if share > 0 else -1
    strength = abs(share) / scale
    step = min(2, int(3 * strength))
    if share == 0:
        return name, ""
    if color:
        underline = "4;" if share > 0 else ""  # the sign, for who does not see the colour
        if strength < _WEAK:
            return name, f"\033[{underline}{_FOREGROUNDS[sign]}m"
        return name, f"\033[{underline}38;5;231;48;5;{_BACKGROUNDS[sign][step]}m"
    return f"{name}({('+' if share > 0 else '−') * (step + 1)})", ""


def _paint(text: str, style: str, color: bool) -> str:
    return f"{style}{text}{_RESET}" if color and style else text
