"""A page that browses an index: for each training text whom it pushed, towards their label and away from it, by which words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from captum_tracinwe.visualization.common import UNIT, check_count, counted, marks, scale_of, signed
from captum_tracinwe.visualization.page import escaped, level_of, side_of, tags_html, text_html, whole_page
from captum_tracinwe.words.influence import WordInfluence, WordShare
from captum_tracinwe.words.legible import shortened, visible
from captum_tracinwe.words.texts import TokenizedText

__all__ = ["pushed_html"]

TITLE = "Whom did these training texts influence?"
_OWN_STYLE = """
.ctwe nav ol{columns:2 26em;column-gap:3em;padding-left:2.2em;margin:.5em 0 1.5em}.ctwe nav li{margin:.15em 0;break-inside:avoid}
.ctwe nav a,.ctwe h4 a{color:inherit}.ctwe section.test{scroll-margin-top:1em}
"""
_LEGEND = (
    "Under each training text stand the training texts that it influenced most, with the words by which it did. "
    '<mark class="p" style="--a:.7"><b>Blue</b></mark> (solid line): learning from it pushed the model <b>towards</b> the label '
    'of the other text. <mark class="o" style="--a:.7"><b>Orange</b></mark> (dashed line): it pushed the model <b>away</b> from '
    f"that label. The shares of words add up to the score. Each card has its own scale of colours. Unit: {UNIT}."
)


def pushed_html(
    pushed: Mapping[int, Sequence[WordInfluence]],
    texts: Mapping[int, TokenizedText],
    *,
    place: Callable[[int], str] = "training example {}".format,
    title: str = TITLE,
    top_words: int = 6,
    fold_at: int = 600,
) -> str:
    """One whole HTML5 page: contents, then for each training text those that it pushed, their words coloured by share.

    Args:
        pushed (mapping): of a training index its pairs, as :func:`captum_tracinwe.index.pushed_by` returns them.
        texts (mapping of TokenizedText): by training index, of all that are named.
        place (callable): of a training index what a person knows it by, such as "line 12".
        title (str): heading of the page.
        top_words (int): words in the table of a pair; 0 for no table.
        fold_at (int): longer texts (characters) are folded; a click opens them.

    Returns:
        str: the page, for :func:`write_html`.

    Raises:
        KeyError: a text is missing.
        ValueError: a text does not hold the tokens of its pair.
    """
    check_count("top_words", top_words)
    check_count("fold_at", fold_at)
    own = f"<h1>{escaped(str(title))}</h1>\n" + f'<div class="legend"><p>{_LEGEND}</p></div>\n'
    items = "".join(
        f'<li><a href="#t{index}">{escaped(visible(place(index)))}</a>: '
        f"<bdi>{escaped(shortened(texts[index].text, 60, quoted=False))}</bdi></li>\n"
        for index in pushed
    )
    contents = f'<nav aria-label="Contents"><ol>\n{items}</ol></nav>\n' if len(pushed) > 1 else ""
    sections = [_section(index, pairs, texts, place, top_words, fold_at, pushed) for index, pairs in pushed.items()]
    nothing = "" if pushed else '<p class="none">There is no training text to show.</p>\n'
    return whole_page(escaped(str(title)), own + contents + nothing + "".join(sections), _OWN_STYLE)


def _section(
    index: int,
    pairs: Sequence[WordInfluence],
    texts: Mapping[int, TokenizedText],
    place: Callable[[int], str],
    top_words: int,
    fold_at: int,
    shown: Mapping[int, object],
) -> str:
    text = texts[index]
    towards = [pair for pair in pairs if pair.score > 0]
    away = [pair for pair in pairs if pair.score < 0]
    out = [
        f'<section class="test" id="t{index}">\n<div class="said"><div class="row">',
        f"<h2>{escaped(visible(place(index)))}</h2>{tags_html(text)}</div>{text_html(text, [], 1.0, fold_at)}</div>\n",
        f'<div class="cols {"two" if towards and away else "one"}">',
    ]
    for side, name, own in (("p", "Pushed towards their label", towards), ("o", "Pushed away from their label", away)):
        if own:
            out.append(
                f'<div><h3 class="{side}">{name} <small>{counted(len(own), "text")}, strongest first</small></h3>\n'
            )
            out += [_card(pair, texts, place, side, top_words, fold_at, shown) for pair in own]
            out.append("</div>")
    if not towards and not away:
        out.append('<p class="none">It influenced no other text.</p>')
    return "".join([*out, "</div>\n</section>\n"])


def _card(
    pair: WordInfluence,
    texts: Mapping[int, TokenizedText],
    place: Callable[[int], str],
    side: str,
    top_words: int,
    fold_at: int,
    shown: Mapping[int, object],
) -> str:
    other = texts[pair.test_index]
    pair = pair.with_texts(other, texts[pair.train_index])
    on_other, words = marks(pair, other), pair.words()
    scale = scale_of(entry.share for entries in (on_other, words) for entry in entries)
    by = f"<bdi>{escaped(visible(place(pair.train_index)))}</bdi>"
    name = escaped(visible(place(pair.test_index)))
    named = f'<a href="#t{pair.test_index}">{name}</a>' if pair.test_index in shown else name

    def special(word: WordShare) -> str:
        return ' class="s"' if word.special else ""

    level = {word: f'class="{side_of(word.share)}" style="--a:{level_of(word.share, scale)}"' for word in words}
    rows = [
        f'<tr><th scope="row"><bdi{special(word)}>{escaped(visible(word.text))}</bdi></th>'
        f'<td class="n"><b {level[word]}>{signed(word.share)}</b></td></tr>'
        for word in words[:top_words]
    ]
    table = f"<table><caption>Words of {by} that did it</caption>{''.join(rows)}</table>" if rows else ""
    return (
        f'<article class="card"><div class="row"><h4>{named}</h4>{tags_html(other)}'
        f'<span class="{side} score">{signed(pair.score)}</span></div>'
        f"{text_html(other, on_other, scale, fold_at)}{table}</article>\n"
    )
