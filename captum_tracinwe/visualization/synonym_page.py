"""`SynonymInfluence` as HTML and as text: which word of the test text met which word of the training text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from captum_tracinwe.visualization.common import UNIT, check_count, marks, pairs_in, scale_of, signed
from captum_tracinwe.visualization.page import escaped, level_of, side_of, tags_html, text_html, whole_page
from captum_tracinwe.visualization.style import STYLE
from captum_tracinwe.words.legible import visible
from captum_tracinwe.words.synonyms import SynonymInfluence, WordMatch

__all__ = ["synonym_influence_fragment", "synonym_influence_html", "synonym_influence_text"]

SynonymInfluences: TypeAlias = SynonymInfluence | Iterable["SynonymInfluence | Iterable[SynonymInfluence]"]
TITLE = "Which words met which: TracIn-WE-Syn"


def synonym_influence_html(influences: SynonymInfluences, *, title: str = TITLE, top_words: int = 8) -> str:
    """One whole HTML5 page: for each pair both texts with their words marked, and a table of who met whom."""
    return whole_page(escaped(title), f"<h1>{escaped(title)}</h1>\n{_body(influences, top_words)}")


def synonym_influence_fragment(influences: SynonymInfluences, *, top_words: int = 8) -> str:
    """The same as a piece of HTML for notebooks."""
    body = _body(influences, top_words)
    return f'<style>{STYLE}</style><div class="ctwe nb"><div class="in">{body}</div></div>'


def synonym_influence_text(influences: SynonymInfluences, *, top_words: int = 8) -> str:
    """For a terminal: for each pair its score and who met whom; control characters are shown, never sent."""
    pairs = pairs_in(influences, SynonymInfluence, "synonym_influence(...)")
    check_count("top_words", top_words)
    lines = []
    for pair in pairs:
        lines.append(f"{signed(pair.score):>9}  test example {pair.test_index}, training example {pair.train_index}")
        lines += [
            f"{signed(word.share):>13}  {visible(word.test)} ↔ {visible(word.train)}  (cosine {word.cosine:.2f})"
            for word in pair.words()[:top_words]
        ]
    return "\n".join(lines) or "There is no pair of a test and a training text to show."


def _body(influences: SynonymInfluences, top_words: int) -> str:
    pairs = pairs_in(influences, SynonymInfluence, "synonym_influence(...)")
    check_count("top_words", top_words)
    words = [pair.words() for pair in pairs]
    scale = scale_of(word.share for row in words for word in row)
    out = [
        '<div class="legend"><p>Words of similar meaning count as shared: at each checkpoint a word has at most one partner. '
        '<mark class="p" style="--a:.7"><b>Blue, solid line</b></mark>: by this match the training text pushed the model towards '
        'this answer; <mark class="o" style="--a:.7"><b>orange, dashed</b></mark>: pushed it away. '
        f"The shares of a pair add up to its score. Unit: {UNIT}.</p></div>\n"
    ]
    if not pairs:
        out.append('<p class="none">There is no pair of a test and a training text to show.</p>\n')
    for pair, row in zip(pairs, words, strict=True):
        side = side_of(pair.score)
        out.append('<section class="test"><div class="row">')
        out.append(f"<h2>Test example {pair.test_index} and training example {pair.train_index}</h2>")
        out.append(f'<span class="{side} score">{signed(pair.score)}</span></div>\n<div class="cols two">')
        for name, text, own in (
            ("Test text", pair.test_text, pair.on_test()),
            ("Training text", pair.train_text, pair.on_train()),
        ):
            if text is not None:
                shown = text_html(text, marks(own, text), scale, 600)
                out.append(f'<div class="said"><div class="row"><h4>{name}</h4>{tags_html(text)}</div>{shown}</div>')
        out.append(f"</div>\n{_table(row, scale, top_words)}</section>\n")
    return "".join(out)


def _table(words: Sequence[WordMatch], scale: float, top: int) -> str:
    if not words:
        return '<p class="none">No two words met: the score is 0.</p>'
    rows = []
    for word in words[:top]:
        bar = f'<b class="{side_of(word.share)}" style="--a:{level_of(word.share, scale)}"></b>' if word.share else ""
        left, right = (bar, "") if word.share < 0 else ("", bar)
        rows.append(
            f'<tr><th scope="row"><bdi>{escaped(visible(word.test))}</bdi> ↔ <bdi>{escaped(visible(word.train))}</bdi></th>'
            f'<td class="n">{word.cosine:.2f}</td><td class="n">{signed(word.share)}</td>'
            f'<td class="b"><span class="bar" aria-hidden="true"><i>{left}</i><i>{right}</i></span></td></tr>'
        )
    rest = words[top:]
    if rest:
        total = signed(sum(word.share for word in rest))
        rows.append(
            f'<tr><th scope="row"><span class="none">{len(rest)} more</span></th><td></td><td class="n">{total}</td>'
            "<td></td></tr>"
        )
    heads = ("test word ↔ training word", "cosine", "share", "")
    head = f"<tr>{''.join(f'<th>{name}</th>' for name in heads)}</tr>"
    return f'<table class="matches"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'
