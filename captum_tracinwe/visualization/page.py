"""`WordInfluence` as one whole HTML page: everything escaped, no script, nothing loaded from anywhere.

A page says so in a policy of its own, too. A fragment cannot: a ``<meta>`` policy counts in a document's head only, and a frame
with ``srcdoc`` would need a script to have the height of its content, and is not shown where notebooks are looked at (GitHub's
and nbconvert's cleaners drop frames). So a fragment has what makes the policy needless: elements, attributes and their values
are ours alone, and none of them loads, links or runs anything; a parser of the standard says so in the tests, of every output.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape

from captum_tracinwe.visualization.common import (
    AWAY,
    MEANING,
    TOWARDS,
    UNIT,
    Influences,
    Mark,
    TestGroup,
    Texts,
    check_count,
    group,
    marks,
    read_or_not,
    scale_of,
    signed,
)
from captum_tracinwe.visualization.style import STYLE
from captum_tracinwe.visualization.writing import write_html
from captum_tracinwe.words.characters import Span
from captum_tracinwe.words.influence import WordInfluence, WordShare
from captum_tracinwe.words.legible import DIRECTION_MARKS, marks_by_number, printable, visible
from captum_tracinwe.words.texts import TokenizedText

__all__ = [
    "escaped",
    "level_of",
    "pairs_html",
    "parted_html",
    "side_of",
    "tags_html",
    "text_html",
    "whole_page",
    "word_influence_fragment",
    "word_influence_html",
    "write_html",
]

TITLE = "Which words of the training texts moved the test texts"
# Even if something got past the escaping, the browser would neither run nor load it.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def word_influence_html(
    influences: Influences,
    *,
    title: str = TITLE,
    test_texts: Texts | None = None,
    train_texts: Texts | None = None,
    top_words: int = 6,
    fold_at: int = 600,
    before: str = "",
) -> str:
    """One whole HTML5 page: per test text its proponents and opponents, their words coloured by share.

    Args:
        influences (WordInfluence, list of them, or list of lists ``[test][rank]``): the pairs to show.
        title (str): heading of the page.
        test_texts, train_texts (sequence or mapping of TokenizedText, optional): by ``test_index``,
            ``train_index``; pairs made with :meth:`WordInfluence.with_texts` need none.
        top_words (int): words in the table of a pair; 0 for no table.
        fold_at (int): longer texts (characters) are folded; a click opens them.
        before (str): HTML between the heading and the pairs, escaped already, such as ``report_section(report, top)``.

    Returns:
        str: the page, for :func:`write_html`. One symmetric colour scale holds for all of it; the unit is
        learning rate × squared gradient of the loss.

    Raises:
        ValueError: a text is missing from a list, or does not hold the shared tokens.
        TypeError: something other than WordInfluence.

    Example:
        >>> from captum_tracinwe.testing import toy_tracin
        >>> tracin, inputs = toy_tracin()
        >>> page = word_influence_html(tracin.word_influence(inputs, tracin.influence(inputs, k=2).indices))
        >>> page.startswith("<!DOCTYPE html>"), page.endswith("</html>\\n")
        (True, True)
    """
    heading = escaped(str(title))
    body = pairs_html(group(influences, test_texts, train_texts), top_words, fold_at)
    body = f"<h1>{heading}</h1>\n{before}{body}"
    return whole_page(heading, body)


def whole_page(heading: str, body: str, style: str = "", script: str = "") -> str:
    """A whole HTML5 page around ``body``, both escaped already; it may load nothing, and run nothing but ``script``.

    A script of ours is named to the browser by its hash: one that a text brought along would still not run.
    """
    policy, run = POLICY, ""
    if script:
        hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy, run = f"{POLICY}; script-src 'sha256-{hashed}'", f"<script>{script}</script>\n"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{heading}</title>\n<style>html,body{{margin:0;padding:0}}\n"
        f"@media (prefers-color-scheme:dark){{html{{background:#14171b}}}}{STYLE}{style}</style>\n</head>\n"
        f'<body class="ctwe"><main class="in">\n{body}</main>{run}</body>\n</html>\n'
    )


def word_influence_fragment(
    influences: Influences,
    *,
    test_texts: Texts | None = None,
    train_texts: Texts | None = None,
    top_words: int = 6,
    fold_at: int = 600,
) -> str:
    """The same as a piece of HTML for notebooks; arguments as in :func:`word_influence_html`."""
    body = pairs_html(group(influences, test_texts, train_texts), top_words, fold_at)
    return f'<style>{STYLE}</style><div class="ctwe nb"><div class="in">{body}</div></div>'


# ------------------------------------------------------------------------------------------------------ parts


@dataclass(frozen=True)
class _Look:
    """What is the same for every pair of a page."""

    scale: float
    top_words: int
    fold_at: int
    train_place: Callable[[int], str]


@dataclass(frozen=True)
class _Pair:
    """A pair with its words, computed once: they are needed for the scale before the first one is drawn."""

    pair: WordInfluence
    words: list[WordShare]
    train_marks: list[Mark]
    test_marks: list[Mark]


def _prepared(pairs: Iterable[WordInfluence]) -> list[_Pair]:
    return [
        _Pair(
            pair,
            pair.words(),
            marks(pair, pair.train_text) if pair.train_text else [],
            marks(pair, pair.test_text) if pair.test_text else [],
        )
        for pair in pairs
    ]


def pairs_html(
    groups: list[TestGroup],
    top_words: int,
    fold_at: int,
    test_place: Callable[[int], str] = "Test example {}".format,
    train_place: Callable[[int], str] = "Training example {}".format,
) -> str:
    """Groups of pairs under their legend: what a page has below its heading.

    Args:
        groups (list of TestGroup), top_words (int), fold_at (int): as in :func:`word_influence_html`.
        test_place, train_place (callable): what a person knows a text by, of its index.
    """
    check_count("top_words", top_words)
    check_count("fold_at", fold_at)
    columns = [[_prepared(pairs) for pairs in (part.proponents, part.opponents, part.neutral)] for part in groups]
    everything = [pair for part in columns for column in part for pair in column]
    look = _Look(
        scale_of(
            entry.share
            for pair in everything
            for entries in (pair.words, pair.train_marks, pair.test_marks)
            for entry in entries
        ),
        top_words,
        fold_at,
        train_place,
    )
    texts = [text for pair in everything for text in (pair.pair.test_text, pair.pair.train_text) if text is not None]
    nothing = any(mark.share == 0 for pair in everything for mark in (*pair.train_marks, *pair.test_marks))
    apart = any(pair.pair.asked_ids is not None for pair in everything)
    out = [_legend(look.scale, nothing, any(text.unread for text in texts), apart)]
    if not groups:
        out.append('<p class="none">There is no pair of a test and a training text to show.</p>\n')
    for part, (proponents, opponents, neutral) in zip(groups, columns, strict=True):
        out.append('<section class="test">\n<div class="said"><div class="row">')
        out.append(f"<h2>{escaped(test_place(part.test_index))}</h2>{tags_html(part.text)}</div>")
        out.append(text_html(part.text, [], look.scale, fold_at) if part.text else "")
        out.append(f'</div>\n<div class="cols {"two" if proponents and opponents else "one"}">')
        out.append(_column("p", TOWARDS, "proponents", proponents, look))
        out.append(_column("o", AWAY, "opponents", opponents, look))
        out.append(_column("z", "Neither", "score 0", neutral, look))
        out.append("</div>\n</section>\n")
    return "".join(out)


def _legend(scale: float, nothing: bool, cut: bool, apart: bool) -> str:
    dotted = f'<mark class="z"><b>Dotted</b></mark> = {"" if apart else "in common, "}with a share of 0. '
    of_words = (
        "its words, special tokens included. A word counts for what it has in common with the test text, and through words that "
        "it stands with in other training texts. "
        if apart
        else "the words it has in common with the test text, special tokens included. "
    )
    return (
        '<div class="legend"><p><mark class="p" style="--a:.7"><b>Blue, solid line</b></mark>: pushed the model towards this '
        'answer. <mark class="o" style="--a:.7"><b>Orange, dashed</b></mark>: pushed it away. Point at a word to read its share. '
        f'<span class="ramp" role="img" aria-label="Colours: from {signed(-scale)}, orange, over 0 to {signed(scale)}, blue, '
        f'per word">{signed(-scale)}<i></i>{signed(scale)} per word</span></p>\n'
        "<details><summary>More about these numbers</summary>"
        f"<p>The <b>score</b> of a training text is the sum of the shares of {of_words}{MEANING} {dotted if nothing else ''}"
        f"Unmarked words {'have no share' if apart else 'are not in common'}"
        f"{'; grey ones were cut off, the model did not read them' if cut else ''}. Unit: {UNIT}.</p></details></div>\n"
    )


def _column(side: str, name: str, note: str, pairs: list[_Pair], look: _Look) -> str:
    if not pairs:
        return ""
    out = [f'<div><h3 class="{side}">{name} <small>{note}</small></h3>\n']
    for entry in pairs:
        pair = entry.pair
        out.append('<article class="card"><div class="row">')
        out.append(f"<h4>{escaped(look.train_place(pair.train_index))}</h4>{tags_html(pair.train_text)}")
        out.append(f'<span class="{side} score">{signed(pair.score)}</span></div>')
        if pair.train_text:
            out.append(text_html(pair.train_text, entry.train_marks, look.scale, look.fold_at))
        out.append(_table(entry.words, look))
        if pair.test_text and entry.test_marks:
            same = "The same shares on" if pair.asked_ids is None else "The same score by the words of"
            out.append(f"<details><summary>{same} the test text</summary>")
            out.append(f"{text_html(pair.test_text, entry.test_marks, look.scale, math.inf)}</details>")
        out.append("</article>\n")
    return "".join([*out, "</div>"])


def tags_html(text: TokenizedText | None) -> str:
    """Label and prediction of a text; a wrong prediction is marked."""
    out = []
    if text is not None and text.asked:
        words = ", ".join(visible(word) for word in text.asked_words)
        out.append(f'<span class="tag">asked about <b><bdi>{escaped(words)}</bdi></b></span>')
    if text is not None and text.label is not None:
        out.append(f'<span class="tag">label <b><bdi>{escaped(visible(text.label))}</bdi></b></span>')
    if text is not None and text.prediction is not None:
        wrong = text.label is not None and text.label != text.prediction
        tag = '<span class="tag wrong">✗ predicted' if wrong else '<span class="tag">predicted'
        out.append(f"{tag} <b><bdi>{escaped(visible(text.prediction))}</bdi></b></span>")
    return "".join(out)


def _table(words: list[WordShare], look: _Look) -> str:
    if not look.top_words:
        return ""
    if not words:
        return '<p class="none">No word in common: the score is 0.</p>'
    rows = []
    for word in words[: look.top_words]:
        bar = f'<b class="{side_of(word.share)}" style="--a:{level_of(word.share, look.scale)}"></b>'
        left, right = (bar, "") if word.share < 0 else ("", bar if word.share else "")
        special = ' class="s"' if word.special else ""
        rows.append(
            f'<tr><th scope="row"><bdi{special}>{escaped(visible(word.text))}</bdi></th>'
            f'<td class="n">{signed(word.share)}</td>'
            f'<td class="b"><span class="bar" aria-hidden="true"><i>{left}</i><i>{right}</i></span></td></tr>'
        )
    rest = words[look.top_words :]
    if rest:
        share = math.fsum(word.share for word in rest)
        rows.append(
            f'<tr><th scope="row"><span class="none">{len(rest)} more</span></th>'
            f'<td class="n">{signed(share)}</td><td class="b"></td></tr>'
        )
    return f"<table><caption>Shares of the score</caption>{''.join(rows)}</table>"


def text_html(text: TokenizedText, shares: list[Mark], scale: float, fold_at: float) -> str:
    """A text with its words marked, folded where it is longer than ``fold_at`` characters."""
    if not text.text and not shares:
        return '<p class="none">(an empty text)</p>'
    length = len(text.text)
    whole = f'<div class="text" dir="auto">{_marked(text, shares, scale, length)}</div>'
    if length <= fold_at:
        return whole
    start = f'<div class="text" dir="auto">{_marked(text, shares, scale, int(fold_at * 0.6))}…</div>'
    return (
        f'<details class="long"><summary>{start}<span class="more"><span class="unfold">Show all {length:,} '
        f'characters</span><span class="less">Show less</span></span></summary>{whole}</details>'
    )


def parted_html(text: TokenizedText, shares: list[Mark], scale: float, fold_at: int) -> str:
    """The same for pages of thousands of texts: what is folded is the end alone, so that each character stands once."""
    length = len(text.text)
    if not length or length <= fold_at:
        return text_html(text, shares, scale, fold_at)
    near = int(fold_at * 0.8)
    cut = text.text.rfind(" ", near // 2, near) + 1 or near
    start = (
        f'<span>{_marked(text, shares, scale, cut)}</span><span class="more">… Show all {length:,} characters</span>'
    )
    rest = _marked(text, [mark for mark in shares if mark.span[0] >= cut], scale, length, cut)
    return f'<div class="text" dir="auto"><details class="fold"><summary>{start}</summary><span>{rest}</span></details></div>'


def _marked(of: TokenizedText, shares: list[Mark], scale: float, end: int, begin: int = 0) -> str:
    """The characters before ``end`` with their words marked; every character appears once, in order."""
    text, out, cursor = of.text, [], begin
    for mark in shares:
        if mark.span[1] > end or mark.span[0] == end < len(text):
            break
        # Words never overlap in texts made by `tokenize`; in others no character is shown twice.
        start = max(cursor, mark.span[0])
        inner = running(text[start : mark.span[1]])
        if not inner:
            # A <bdi> does not take part in dir="auto": "[CLS]" must not turn an Arabic text left-to-right.
            inner = f'<bdi class="s">{escaped(visible(mark.name))}</bdi>'
        tokens = " ".join(visible(token) for token in mark.tokens)
        title = escaped(signed(mark.share) + (f" [{tokens}]" if tokens != visible(mark.name) else ""))
        level = f' style="--a:{level_of(mark.share, scale)}"' if mark.share else ""
        out.append(_unmarked(of, cursor, start))
        inner = f'<span class="asked">{inner}</span>' if start < mark.span[1] and _is_asked(of, start) else inner
        out.append(f'<mark class="{side_of(mark.share)}"{level} title="{title}">{inner}</mark>')
        cursor = max(cursor, mark.span[1])
    return "".join([*out, _unmarked(of, cursor, end)])


def _is_asked(text: TokenizedText, character: int) -> bool:
    return any(start <= character < end for start, end in _asked(text))


def _asked(text: TokenizedText) -> list[Span]:
    """The characters of words that are asked about, in order."""
    if not text.asked:
        return []
    spans, numbers = text.word_spans(), {text.words[place] for place in text.asked}
    return sorted(spans[number] for number in numbers if number is not None)


def _unmarked(text: TokenizedText, start: int, end: int) -> str:
    out = []
    for begin, stop in _asked(text):
        if start <= begin < stop <= end:
            out += [_plain(text, start, begin), f'<span class="asked">{_plain(text, begin, stop)}</span>']
            start = stop
    return "".join([*out, _plain(text, start, end)])


def _plain(text: TokenizedText, start: int, end: int) -> str:
    return "".join(
        running(text.text[begin:stop])
        if read
        else f'<span class="cut" title="cut off: the model did not read this">{running(text.text[begin:stop])}</span>'
        for begin, stop, read in read_or_not(text, start, end)
    )


def side_of(value: float) -> str:
    """The class of a share: p(roponent), o(pponent), z(ero)."""
    return "p" if value > 0 else "o" if value < 0 else "z"


def level_of(value: float, scale: float) -> str:
    """The strength of a share's colour, 0 to 1, for the style sheet."""
    return f"{min(1.0, abs(value) / scale):.2f}".removeprefix("0") or "0"


def escaped(text: str) -> str:
    """Escaped, for elements and attributes; browsers would read a bare carriage return as a line feed."""
    return escape(marks_by_number(printable(text))).replace("\r", "&#13;")


def running(text: str) -> str:
    """Escaped, for a text in its own ``dir="auto"`` element: Hebrew and Arabic are read in their own direction.

    Marks of direction are shown and not obeyed: an override has the reader see other words than the model, and one that is
    not closed turns round the rest. In a <bdi>, whose letters do not count where ``dir="auto"`` looks for the first one.
    """
    shown = escape(printable(text)).replace("\r", "&#13;")
    return re.sub(f"[{DIRECTION_MARKS}]", lambda mark: f'<bdi class="d">U+{ord(mark[0]):04X}</bdi>', shown)
