"""`WordReport` as HTML, for a page or a notebook, and as text for a terminal."""

from __future__ import annotations

from html import escape

from captum_tracinwe.report import LEAST_CERTAINTY, SIGNIFICANT, ReportedWord, WordReport
from captum_tracinwe.visualization.common import UNIT, first_words, printable, scale_of, signed, visible
from captum_tracinwe.visualization.page import whole_page
from captum_tracinwe.visualization.style import STYLE

__all__ = ["report_section", "word_report_fragment", "word_report_html", "word_report_text"]

# What `ReportedWord.sticks` says, for legends.
STICKING = (
    f"Words that stick to one label (beyond chance, adjusted p ≤ {SIGNIFICANT}, and at least {LEAST_CERTAINTY:.0%} of the way "
    "from the label's share of all texts to always)"
)
TITLE = "Which words of the training texts drive these predictions"


def word_report_html(report: WordReport, *, title: str = TITLE, top: int = 20) -> str:
    """One whole HTML5 page with the first ``top`` words of a report; everything escaped, nothing loaded."""
    heading = escape(printable(title))
    return whole_page(heading, f"<h1>{heading}</h1>\n{report_section(report, top)}")


def word_report_fragment(report: WordReport, *, top: int = 20) -> str:
    """The same as a piece of HTML for notebooks."""
    return f'<style>{STYLE}</style><div class="ctwe nb"><div class="in">{report_section(report, top)}</div></div>'


def report_section(report: WordReport, top: int) -> str:
    """Legend and table, for within a page that has the style sheet."""
    shown = first_words(report, top)
    scale = scale_of(word.total for word in shown)
    rest = report.words[len(shown) :]
    out = [
        '<div class="legend"><p>What each training word adds to the influence of '
        f"{report.trains:,} training texts on {report.tests:,} test texts (in all {signed(report.score)}). "
        '<mark class="p" style="--a:.7"><b>Positive</b></mark> (solid bars): training on its texts lowers the loss of these '
        'test texts; <mark class="o" style="--a:.7"><b>negative</b></mark> (hatched bars): it raises it. '
        f"Unit: {UNIT}. {STICKING} come first, in bold: "
        "a word that drives predictions and comes nearly always with one label may be a shortcut or a planted word.</p></div>\n"
    ]
    if not shown:
        return "".join([*out, '<p class="none">No test text shares a word with a training text.</p>\n'])
    out.append(
        '<div class="scroll"><table class="report"><thead><tr><th scope="col">word</th><th scope="col" class="n">total</th>'
        '<th scope="col"></th><th scope="col" class="n">texts</th><th scope="col">most with label</th>'
        '<th scope="col" class="n">p (adjusted)</th><th scope="col">acts through training texts</th></tr></thead><tbody>'
    )
    out += [_row(word, scale) for word in shown]
    if rest:
        total = signed(sum(word.total for word in rest))
        out.append(
            f'<tr><th scope="row"><span class="none">{len(rest):,} more</span></th><td class="n">{total}</td>'
            f"{'<td></td>' * 5}</tr>"
        )
    return "".join([*out, "</tbody></table></div>\n"])


def _row(word: ReportedWord, scale: float) -> str:
    side, level = ("p" if word.total > 0 else "o"), f"{abs(word.total) / scale:.2f}"
    bar = f'<b class="{side}" style="--a:{level}"></b>' if word.total else ""
    left, right = (bar, "") if word.total < 0 else ("", bar)
    special = ' class="s"' if word.special else ""
    parts = f"proponents {signed(word.proponent)}, opponents {signed(word.opponent)}"
    texts = ", ".join(f'<span title="{signed(share)}">#{index}</span>' for index, share in word.examples)
    name = f"<bdi{special}>{escape(visible(word.word))}</bdi>"
    name = f"<b>{name}</b>" if word.sticks else name
    label = "–"
    if word.label:
        of_texts = f"<bdi>{escape(visible(word.label))}</bdi>"
        label = f"{of_texts} {word.label_share:.0%} <small>(of all {word.base_share:.0%})</small>"
    return (
        f'<tr><th scope="row">{name}</th>'
        f'<td class="n" title="{parts}">{signed(word.total)}</td>'
        f'<td class="b"><span class="bar"><i>{left}</i><i>{right}</i></span></td>'
        f'<td class="n">{word.count:,}</td><td>{f"<b>{label}</b>" if word.sticks else label}</td>'
        f'<td class="n">{_p(word.adjusted_p)}</td><td>{texts}</td></tr>'
    )


def word_report_text(report: WordReport, *, top: int = 8) -> str:
    """The first ``top`` words as a table for a terminal; control characters are shown, never sent."""
    rows = [("word", "total", "texts", "most with label", "p (adjusted)")]
    for word in first_words(report, top):
        share = f"{visible(word.label)[:24]} {word.label_share:.0%} (of all {word.base_share:.0%})"
        label = share if word.label else "–"
        rows.append(
            (visible(word.word)[:24], signed(word.total), f"{word.count:,}", label, _p(word.adjusted_p)),
        )
    if len(rows) == 1:
        return "No test text shares a word with a training text."
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        f"  {word:<{widths[0]}}  {total:>{widths[1]}}  {texts:>{widths[2]}}  {label:<{widths[3]}}  {p:>{widths[4]}}"
        for word, total, texts, label, p in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
