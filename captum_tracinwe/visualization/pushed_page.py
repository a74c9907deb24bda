"""A page that browses an index: for each training text whom it pushed, towards their label and away from it, by which words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from captum_tracinwe.visualization.common import UNIT, Mark, check_count, counted, marks, scale_of
from captum_tracinwe.visualization.explanation_parts import LEAST, WEAK, figure, name_html, start_html, unit_of
from captum_tracinwe.visualization.explanation_style import EXPLANATION_STYLE
from captum_tracinwe.visualization.page import escaped, level_of, parted_html, side_of, tags_html, whole_page
from captum_tracinwe.words.influence import WordInfluence, WordShare
from captum_tracinwe.words.legible import visible
from captum_tracinwe.words.texts import TokenizedText

__all__ = ["pushed_html"]

TITLE = "Whom did these training texts influence?"
_OWN_STYLE = """
.ctwe .answer section{margin-top:.2rem;border:0;padding:0;scroll-margin-top:4rem}.ctwe .pair a{color:inherit}
"""
_KEY = (
    "<p>Each line opens to the training texts that it influenced most, with the words by which it did.</p>"
    '<p class="key"><mark class="p" style="--a:.7"><b>Blue, solid line</b></mark>: learning from it pushed the model '
    '<b>towards</b> the label of the other text. <mark class="o" style="--a:.7"><b>Orange, dashed</b></mark>: it pushed the '
    "model <b>away</b> from that label. The stronger the colour, the more.</p>\n"
    '<details class="more"><summary>More about these numbers</summary><div class="legend"><p>The shares of words add up to the '
    f"score. Colours have a scale of their own in each part that opens. Unit: {UNIT}.</p></div></details>\n"
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
    """One whole HTML5 page: a line for each training text, which opens to those that it pushed, their words coloured by share.

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
    heading = escaped(str(title))
    lines = [
        _line(number, index, pairs, texts, place, top_words, fold_at, pushed)
        for number, (index, pairs) in enumerate(pushed.items())
    ]
    shown = (
        f'<div class="list">{"".join(lines)}</div>'
        if lines
        else '<p class="none">There is no training text to show.</p>'
    )
    return whole_page(heading, f"<h1>{heading}</h1>\n{_KEY}{shown}\n", EXPLANATION_STYLE + _OWN_STYLE)


def _line(
    number: int,
    index: int,
    pairs: Sequence[WordInfluence],
    texts: Mapping[int, TokenizedText],
    place: Callable[[int], str],
    top_words: int,
    fold_at: int,
    shown: Mapping[int, object],
) -> str:
    """A training text on a line that opens to those that it pushed; the first is open.

    Its place on the page is within what is folded: a browser that follows a link there opens the line by itself.
    """
    text = texts[index]
    told = [pair.with_texts(texts[pair.test_index], texts[pair.train_index]) for pair in pairs if pair.score]
    prepared = [(pair, marks(pair, texts[pair.test_index]), pair.words()) for pair in told]
    shares = [mark.share for _, on_other, _ in prepared for mark in on_other]
    scale = scale_of([*shares, *(word.share for _, _, words in prepared for word in words)])
    label = "" if text.label is None else f"<b>{name_html(text.label)}</b>"
    out = [
        f'<details class="answer"{"" if number else " open"}><summary><span class="where"><bdi>{escaped(visible(place(index)))}'
        f'</bdi></span>{start_html(text.text)}<span class="turn">{label}</span>'
        f'<span class="sure">pushed {counted(len(told), "text")}</span></summary>\n'
        f'<section class="test" id="t{index}"><div class="said">{parted_html(text, [], 1.0, fold_at)}</div>\n'
    ]
    sides = [
        ("p", "Pushed towards their label", [entry for entry in prepared if entry[0].score > 0]),
        ("o", "Pushed away from their label", [entry for entry in prepared if entry[0].score < 0]),
    ]
    out.append(f'<div class="cols{" two" if all(own for _, _, own in sides) else ""}">')
    for side, name, own in sides:
        if own:
            out.append(f'<div><h3 class="{side}">{name} <small>strongest first</small></h3>\n')
            out += [_card(*entry, scale, place, top_words, fold_at, shown) for entry in own]
            out.append("</div>")
    if not prepared:
        out.append('<p class="none">It influenced no other text.</p>')
    return "".join([*out, "</div></section></details>\n"])


def _card(
    pair: WordInfluence,
    on_other: list[Mark],
    words: list[WordShare],
    scale: float,
    place: Callable[[int], str],
    top_words: int,
    fold_at: int,
    shown: Mapping[int, object],
) -> str:
    other = pair.test_text
    assert other is not None
    name = escaped(visible(place(pair.test_index)))
    named = f'<a href="#t{pair.test_index}">{name}</a>' if pair.test_index in shown else name
    seen = [mark for mark in on_other if not mark.special and abs(mark.share) >= WEAK * scale]
    unit = unit_of(scale)[1]
    score = f"{figure(pair.score, scale)}{unit and f' <small>{unit}</small>'}"
    by = f"<bdi>{escaped(visible(place(pair.train_index)))}</bdi>"
    first = [word for word in words[:top_words] if abs(word.share) >= LEAST * scale] or words[: min(1, top_words)]
    rows = "".join(_row(word, scale) for word in first)
    table = f'<table class="shares"><caption>Words of {by} that did it</caption>{rows}</table>' if rows else ""
    return (
        f'<article class="pair"><div class="row"><bdi class="where">{named}</bdi>{tags_html(other)}'
        f'<span class="{side_of(pair.score)} score">{score}</span></div>'
        f"{parted_html(other, seen, scale, fold_at)}{table}</article>\n"
    )


def _row(word: WordShare, scale: float) -> str:
    special = ' class="s"' if word.special else ""
    bar = f'<b class="{side_of(word.share)}" style="--a:{level_of(word.share, scale)}"></b>' if word.share else ""
    return (
        f'<tr><th scope="row"><bdi{special}>{escaped(visible(word.text))}</bdi></th>'
        f'<td class="n">{figure(word.share, scale)}</td><td class="b">{bar}</td></tr>'
    )
