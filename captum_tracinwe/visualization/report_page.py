"""`WordReport` as HTML, for a page or a notebook, and as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from captum_tracinwe.visualization.common import (
    ORDER,
    UNIT,
    carried,
    columns_of,
    counted,
    first_words,
    largest_others,
    scale_of,
    signed,
    with_label,
)
from captum_tracinwe.visualization.page import escaped, whole_page
from captum_tracinwe.visualization.style import STYLE
from captum_tracinwe.words.legible import visible
from captum_tracinwe.words.report import LEAST_CERTAINTY, SIGNIFICANT, ReportedWord, WordReport

__all__ = ["report_section", "word_report_fragment", "word_report_html", "word_report_text"]

# What `ReportedWord.sticks` says, for legends.
GOING = (
    f"Words that go with one label (beyond chance, adjusted p ≤ {SIGNIFICANT}, and at least {LEAST_CERTAINTY:.0%} of the way "
    "from the label's share of all texts to always)"
)
OTHERS = "the largest totals of words that go with no label"
TITLE = "Which words of the training texts drive these predictions"


def word_report_html(report: WordReport, *, title: str = TITLE, top: int = 20) -> str:
    """One whole HTML5 page with the first ``top`` words of a report; everything escaped, nothing loaded."""
    heading = escaped(title)
    return whole_page(heading, f"<h1>{heading}</h1>\n{report_section(report, top)}")


def word_report_fragment(report: WordReport, *, top: int = 20) -> str:
    """The same as a piece of HTML for notebooks."""
    return f'<style>{STYLE}</style><div class="ctwe nb"><div class="in">{report_section(report, top)}</div></div>'


def report_section(report: WordReport, top: int) -> str:
    """Legend and table, for within a page that has the style sheet."""
    shown = first_words(report, top)
    others = largest_others(report, shown)
    scale = scale_of(word.total for word in (*shown, *others))
    rest = [word for word in report.words[len(shown) :] if not any(word is other for other in others)]
    out = [
        '<div class="legend"><p>What each training word adds to the influence of '
        f"{counted(report.trains, 'training text')} on {counted(report.tests, 'test text')}. "
        '<mark class="p" style="--a:.7"><b>Solid bars</b></mark>: pushed the model towards these answers; '
        '<mark class="o" style="--a:.7"><b>hatched bars</b></mark>: pushed it away. In bold: goes with one label. Such a word '
        "may be a shortcut or a planted word.</p>\n<details><summary>More about these numbers</summary>"
        f"<p>{GOING} come first, in bold, {ORDER}. {_carried(report, shown, others)} In all {signed(report.score)}; "
        f"unit: {UNIT}.</p></details></div>\n"
    ]
    if not shown:
        return "".join([*out, '<p class="none">No test text shares a word with a training text.</p>\n'])
    out.append(
        '<div class="scroll"><table class="report"><thead><tr><th scope="col">word</th><th scope="col" class="n">total</th>'
        '<th scope="col"></th><th scope="col" class="n">texts</th><th scope="col">most with label</th>'
        '<th scope="col" class="n">p (adjusted)</th><th scope="col">acts through training texts</th></tr></thead><tbody>'
    )
    out += [_row(word, scale) for word in shown]
    if others:
        out.append(f'<tr class="also"><th colspan="7">{OTHERS.capitalize()}:</th></tr>')
        out += [_row(word, scale) for word in others]
    if rest:
        total = signed(sum(word.total for word in rest))
        out.append(
            f'<tr><th scope="row"><span class="none">{len(rest):,} more</span></th><td class="n">{total}</td>'
            f"{'<td></td>' * 5}</tr>"
        )
    return "".join([*out, "</tbody></table></div>\n"])


def _carried(report: WordReport, shown: Sequence[ReportedWord], others: Sequence[ReportedWord]) -> str:
    """A sentence: how much of the whole the words in sight carry, and how much of it those that go with a label."""
    going = [word for word in shown if word.sticks]
    of_them = f"; those that go with one label carry {carried(going, report)}" if going else ""
    seen = [*shown, *others]
    return (
        f"The {counted(len(seen), 'word')} shown {'carries' if len(seen) == 1 else 'carry'} {carried(seen, report)} of all "
        f"totals, ignoring the sign{of_them}."
    )


def _row(word: ReportedWord, scale: float) -> str:
    side, level = ("p" if word.total > 0 else "o"), f"{abs(word.total) / scale:.2f}"
    bar = f'<b class="{side}" style="--a:{level}"></b>' if word.total else ""
    left, right = (bar, "") if word.total < 0 else ("", bar)
    special = ' class="s"' if word.special else ""
    parts = f"proponents {signed(word.proponent)}, opponents {signed(word.opponent)}"
    texts = ", ".join(f'<span title="{signed(share)}">#{index}</span>' for index, share in word.examples)
    name = f"<bdi{special}>{escaped(visible(word.word))}</bdi>"
    name = f"<b>{name}</b>" if word.sticks else name
    label = "–"
    if word.label:
        before, after = with_label(word.label, f"{word.label_share:.0%}")
        of_texts = f"{before}<bdi>{escaped(visible(word.label))}</bdi>{after}"
        label = f"{of_texts} <small>(of all {word.base_share:.0%})</small>"
    return (
        f'<tr><th scope="row">{name}</th>'
        f'<td class="n" title="{parts}">{signed(word.total)}</td>'
        f'<td class="b"><span class="bar" aria-hidden="true"><i>{left}</i><i>{right}</i></span></td>'
        f'<td class="n">{word.count:,}</td><td>{f"<b>{label}</b>" if word.sticks else label}</td>'
        f'<td class="n">{_p(word.adjusted_p)}</td><td>{texts}</td></tr>'
    )


def word_report_text(report: WordReport, *, top: int = 8) -> str:
    """The first ``top`` words as a table for a terminal; control characters are shown, never sent."""
    rows = [("word", "total", "texts", "most with label", "p (adjusted)")]
    shown = first_words(report, top)
    others = largest_others(report, shown)
    for word in (*shown, *others):
        before, after = with_label(word.label, f"{word.label_share:.0%}")
        share = f"{before}{visible(word.label)[:24]}{after} (of all {word.base_share:.0%})"
        label = share if word.label else "–"
        rows.append(
            (visible(word.word)[:24], signed(word.total), f"{word.count:,}", label, _p(word.adjusted_p)),
        )
    if len(rows) == 1:
        return "No test text shares a word with a training text."
    widths = [max(columns_of(row[column]) for row in rows) for column in range(5)]
    lines = []
    for row in rows:
        blanks = [" " * (width - columns_of(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [
            f"{cell}{blank}" if at in (0, 3) else f"{blank}{cell}"
            for at, (cell, blank) in enumerate(zip(row, blanks, strict=True))
        ]
        lines.append(f"  {'  '.join(cells)}")
    if others:
        lines.insert(1 + len(shown), f"  {OTHERS}:")
    order = f"Words that go with one label come first, {ORDER}. {_carried(report, shown, others)}"
    return "\n".join(line.rstrip() for line in (*lines, "", *textwrap.wrap(order, 88)))


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
