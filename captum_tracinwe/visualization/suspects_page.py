"""`Suspects` as a page to decide on labels by keyboard, and as a piece of HTML for notebooks; as text: `suspects_words`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from captum_tracinwe.labels import Suspect, Suspects
from captum_tracinwe.visualization.common import Mark, Texts, counted, marks, scale_of
from captum_tracinwe.visualization.page import escaped, text_html, whole_page
from captum_tracinwe.visualization.style import STYLE
from captum_tracinwe.visualization.suspects_script import SUSPECTS_SCRIPT
from captum_tracinwe.visualization.suspects_style import SUSPECTS_STYLE
from captum_tracinwe.visualization.suspects_words import (
    about,
    by_index,
    chance,
    checked,
    expectations,
    labels_of,
    place_of,
    sureness,
    warning,
)
from captum_tracinwe.words.influence import WordInfluence, WordShare
from captum_tracinwe.words.legible import visible
from captum_tracinwe.words.texts import TokenizedText

__all__ = ["suspects_fragment", "suspects_html"]

TITLE = "Which labels are probably wrong, and why"
# A word with less than this part of the strongest share of its text is not coloured: every text has "the" in common.
WEAK = 0.15
# Longer texts (characters) are folded: of the text itself, and of those that speak about its label.
FOLD, FOLD_WITNESS = 600, 400
# Rows of the table, and pairs of nearly the same text.
MIXED, DOUBLES = 20, 50
SUSPECTS_IN_NOTEBOOK = 10


@dataclass(frozen=True)
class _Look:
    """What is the same for every card of a page."""

    found: Suspects
    labels: Mapping[int, str]
    places: Mapping[int, str]
    live: bool


def suspects_html(
    found: Suspects,
    *,
    title: str = TITLE,
    texts: Texts | None = None,
    places: Mapping[int, str] | Sequence[str] | None = None,
) -> str:
    """One whole HTML5 page: a card for each of ``found.first``, to keep, relabel or drop by keyboard.

    Decisions are kept in the browser, under a hash of the texts and labels on the page, and exported as CSV:
    ``index,label,decision,new_label``. Nothing is loaded, nothing leaves the browser, and no script runs but the page's own.

    Args:
        found (Suspects): what ``suspects(...)`` returned; with ``texts`` there, texts are shown here.
        title (str): heading of the page.
        texts (sequence or mapping of TokenizedText, optional): by training index, for the list of nearly the same texts.
        places (sequence or mapping of str, optional): by training index, where a text stands, as in ``"line 7"``; else its index
            is named.

    Returns:
        str: the page, for :func:`write_html`.

    Raises:
        TypeError: something other than Suspects.

    Example:
        >>> from captum_tracinwe import suspects
        >>> from captum_tracinwe.app.testing import toy_tracin
        >>> import warnings
        >>> with warnings.catch_warnings(action="ignore"):  # of random texts
        ...     page = suspects_html(suspects(toy_tracin()[0], limit=2))
        >>> page.startswith("<!DOCTYPE html>"), page.count("<article")
        (True, 2)
    """
    checked(found, "top", 0)
    heading = escaped(str(title))
    look = _Look(found, labels_of(found), by_index(places), live=True)
    data, names = _data(found)
    body = "".join(
        [
            f"<h1>{heading}</h1>\n",
            _head(found, live=True),
            _desk(len(found.first)),
            *(_card(one, number, look) for number, one in enumerate(found.first)),
            _findings(look, texts),
            f'<template id="labels">{names}</template>\n<script type="application/json" id="about">{data}</script>\n',
        ]
    )
    return whole_page(heading, body, SUSPECTS_STYLE, SUSPECTS_SCRIPT)


def suspects_fragment(found: Suspects, *, top: int = SUSPECTS_IN_NOTEBOOK) -> str:
    """The first ``top`` cards as a piece of HTML for notebooks, without a script: to read, not to decide."""
    checked(found, "top", top)
    look = _Look(found, labels_of(found), {}, live=False)
    shown = found.first[:top]
    more = len(found.first) - len(shown)
    rest = f'<p class="none">{more:,} more cards: visualization.suspects_html(...) shows all.</p>' if more else ""
    cards = "".join(_card(one, number, look) for number, one in enumerate(shown))
    body = f"{_head(found, live=False)}{cards}{rest}{_findings(look, None)}"
    return f'<style>{STYLE}{SUSPECTS_STYLE}</style><div class="ctwe nb"><div class="in">{body}</div></div>'


# ------------------------------------------------------------------------------------------------------ head


def _head(found: Suspects, live: bool) -> str:
    said = warning(found)
    out = [f'<p class="lead">{escaped(expectations(found))}</p>\n']
    if said:
        out.append(f'<p class="warning" role="note"><b>Take care:</b> {escaped(said)}</p>\n')
    if not found.first:
        return "".join([*out, '<p class="none">No card is shown: pass limit=50 to suspects(...).</p>\n'])
    cut = any(one.text is not None and one.text.unread for one in found.first)
    out.append(
        '<div class="legend"><p>Each card is one training text: its label → the label that fits better, and how probable it is '
        "that the label is wrong. Below it are the training texts that taught the model to doubt the label, or to believe it. "
        '<mark class="o" style="--a:.7"><b>Orange, dashed</b></mark> words speak against the label, '
        '<mark class="p" style="--a:.7"><b>blue</b></mark> words for it; the stronger the colour, the more they count.'
        f"{' Grey ends were cut off: the model did not read them.' if cut else ''}</p>"
    )
    if live:
        out.append(
            '<p class="keys" data-live hidden>Keys: <kbd>j</kbd> or <kbd>↓</kbd> next card, <kbd>k</kbd> or <kbd>↑</kbd> the one '
            "before, <kbd>1</kbd> keep the label, <kbd>2</kbd> change it to the one suggested, <kbd>3</kbd> drop the text, "
            "<kbd>4</kbd> another label, <kbd>u</kbd> undo. Decisions stay in this browser until you export them.</p>"
            "<noscript><p>To decide here, allow this page its own script; it loads nothing and sends nothing.</p></noscript>"
        )
    first = counted(len(found.first), "text")
    return "".join([*out, f'</div>\n<h2 class="part">The {first} with the most suspicious labels</h2>\n'])


def _desk(size: int) -> str:
    live = (
        " data-live" if size else ""
    )  # without a card there is nothing to decide, but the script finds what it looks for
    return f'<div class="desk"{live} hidden>{_DESK.format(size=size or 1)}</div>\n'


_DESK = (
    '<div class="row"><p id="progress" role="status" aria-live="polite"></p>'
    '<progress id="done" max="{size}" value="0" aria-label="Cards decided"></progress>'
    '<button type="button" id="undo" aria-keyshortcuts="u">Undo <kbd>u</kbd></button>'
    '<button type="button" id="export">Export as CSV</button>'
    '<button type="button" id="import">Import</button>'
    '<input type="file" id="file" accept=".csv,text/csv" aria-label="Decisions to import" hidden></div>'
    '<p id="told" class="said-last" role="status" aria-live="polite"></p>'
)


def _data(found: Suspects) -> tuple[str, str]:
    """What the script needs to know, as JSON that no parser of HTML can misread; and the labels as options."""
    labels = sorted({*found.names, *found.labels, *found.suggested}, key=_by_number)
    numbers = {label: number for number, label in enumerate(labels)}
    shown = [visible(label) for label in labels]
    texts = [[one.index, numbers[one.label], numbers[one.suggested]] for one in found.first]
    words = [None if one.text is None else one.text.text for one in found.first]
    hashed = hashlib.sha256(json.dumps([labels, texts, words]).encode()).hexdigest()
    key = f"captum-tracinwe suspects {hashed[:32]}"
    data = json.dumps({"key": key, "labels": labels, "shown": shown, "texts": texts})  # ASCII alone
    for sign in "<>&":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    options = (f'<option value="{number}">{escaped(name)}</option>' for number, name in enumerate(shown))
    return data, "".join(options)


def _by_number(label: str) -> tuple[bool, int, str]:
    whole = label.isascii() and label.isdigit()
    return not whole, int(label) if whole and len(label) < 19 else 0, label


# ----------------------------------------------------------------------------------------------------- cards


def _card(one: Suspect, number: int, look: _Look) -> str:
    was, new = _name(one.label), _name(one.suggested)
    total, sure = len(look.found.first), sureness(one)
    sure = f" <small>{sure}</small>" if sure else ""
    guess = "perhaps" if one.certainty is not None and one.certainty < 0.5 else "probably"
    out = [
        f'<article class="card suspect" tabindex="-1" aria-labelledby="card{number}"><div class="row">'
        f'<h3 id="card{number}">Labelled <b>{was}</b> <span class="arrow" aria-hidden="true">→</span> {guess} '
        f'<b class="new">{new}</b>{sure}</h3>'
        f'<span class="chance">{chance(one.suspicion, look.found.tells)} likely wrong</span></div>'
        f'<div class="row"><span class="where">{number + 1} of {total} · {_place(one.index, look)}</span>'
        f'<span class="verdict" hidden></span></div>\n'
    ]
    if one.text is None:
        out.append('<p class="none">The text was not given: pass texts=... to suspects(...).</p>')
    else:
        out.append(_text(one.text, _of_own_text(one), FOLD))
    if look.live:
        out.append(
            '<div class="choices" data-live hidden>'
            f'<button type="button" data-do="keep" aria-keyshortcuts="1"><kbd>1</kbd> Keep {was}</button>'
            f'<button type="button" data-do="relabel" aria-keyshortcuts="2"><kbd>2</kbd> Change to {new}</button>'
            '<button type="button" data-do="drop" aria-keyshortcuts="3"><kbd>3</kbd> Drop the text</button>'
            '<label><kbd>4</kbd> <span>Another label</span> <select><option value="">–</option></select></label></div>\n'
        )
    sides = [_side(one, against, look) for against in (True, False)]
    if any(sides):
        out.append(f'<div class="cols two why">{"".join(sides)}</div>')
    return "".join([*out, "</article>\n"])


def _side(one: Suspect, against: bool, look: _Look) -> str:
    """The texts that speak against the label, or for it, and their words."""
    pairs = one.reasons.speaks_against if against else one.reasons.speaks_for
    if not one.reasons.speaks_against and not one.reasons.speaks_for:
        return ""
    sign, name = ("o", "against") if against else ("p", "for")
    out = [f'<div><h4>Training texts <span class="{sign}">{name}</span> {_name(one.label)}</h4>']
    words = one.words(against)
    if words:
        named = " · ".join(f"<bdi>{escaped(visible(word.text))}</bdi>" for word in words)
        out.append(f'<p class="by"><small>by their words</small> {named}</p>')
    if not pairs:
        out.append(f'<p class="none">No training text speaks {name} it.</p>')
    out.append("<ul>")
    for pair in pairs:
        label = _label_of(pair, look)
        tag = "" if label is None else f'<span class="tag">label <b>{_name(label)}</b></span>'
        out.append(
            f'<li><div class="row">{tag}<span class="where">{_place(pair.train_index, look)}</span></div>'
            f"{_witness(pair)}</li>"
        )
    return "".join([*out, "</ul></div>"])


def _witness(pair: WordInfluence) -> str:
    if pair.train_text is not None:
        return _text(pair.train_text, marks(pair, pair.train_text), FOLD_WITNESS)
    words: list[WordShare] = [word for word in pair.words() if not word.special][:5]
    return f'<p class="by">{" · ".join(f"<bdi>{escaped(visible(word.text))}</bdi>" for word in words)}</p>'


def _of_own_text(one: Suspect) -> list[Mark]:
    """The words of the text itself: what each adds to the side against its label, and to the side for it.

    Each side is measured by its own strongest word. A wrong label often stands on a few texts that are wrong in the same way:
    their shares are larger, and all words of the text would look as if they spoke for the label.
    """
    assert one.text is not None
    told: dict[tuple[int, int], list[Mark]] = {}
    for side in (one.reasons.speaks_against, one.reasons.speaks_for):
        own: dict[tuple[int, int], Mark] = {}
        for pair in side:
            for mark in marks(pair, one.text):
                before = own.get(mark.span)
                if not mark.special:
                    own[mark.span] = mark if before is None else replace(mark, share=mark.share + before.share)
        scale = scale_of(mark.share for mark in own.values())
        for span, mark in own.items():
            told.setdefault(span, []).append(replace(mark, share=mark.share / scale))
    return [replace(same[0], share=math.fsum(mark.share for mark in same)) for _, same in sorted(told.items())]


def _text(text: TokenizedText, shares: list[Mark], fold: int) -> str:
    """A text with its strongest words coloured, on a scale of its own."""
    words = [mark for mark in shares if not mark.special and any(map(str.isalnum, mark.name))]
    scale = scale_of(mark.share for mark in words)
    return text_html(text, [mark for mark in words if abs(mark.share) >= WEAK * scale], scale, fold)


def _label_of(pair: WordInfluence, look: _Look) -> str | None:
    own = None if pair.train_text is None else pair.train_text.label
    return look.labels.get(pair.train_index, own)


def _place(index: int, look: _Look) -> str:
    return escaped(place_of(index, look.places))


def _name(label: str) -> str:
    return f"<bdi>{escaped(visible(label))}</bdi>"


# -------------------------------------------------------------------------------------------------- findings


def _findings(look: _Look, texts: Texts | None) -> str:
    return _mixed_up(look.found) + _doubles(look, texts)


def _mixed_up(found: Suspects) -> str:
    if not found.mixed_up:
        return ""
    rows = [
        f'<tr><th scope="row">{_name(pair.label)}</th><td>{_name(pair.suggested)}</td>'
        f'<td class="n">{"" if found.tells else "at most "}{about(pair.wrong)}</td>'
        f'<td class="n">{min(1.0, pair.wrong / max(1, pair.texts)):.0%} of {pair.texts:,}</td></tr>'
        for pair in found.mixed_up[:MIXED]
    ]
    more = len(found.mixed_up) - len(rows)
    rest = f'<p class="none">{more:,} more pairs: see .mixed_up</p>' if more else ""
    return (
        '<section><h2 class="part">Labels that are mixed up</h2>\n<p>Where many labels are wrong in the same way, the rule by '
        "which people labelled may be unclear.</p>"
        '<div class="scroll"><table class="pairs"><thead><tr><th scope="col">labelled</th><th scope="col">probably</th>'
        '<th scope="col" class="n">expected wrong</th><th scope="col" class="n">of those labelled so</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{rest}</section>\n"
    )


def _doubles(look: _Look, texts: Texts | None) -> str:
    doubles = sorted(look.found.doubles, key=lambda double: (-double.cosine, double.indices))
    if not doubles:
        return ""
    known = _known_texts(look.found)
    out = []
    for double in doubles[:DOUBLES]:
        sides = []
        for index, label in zip(double.indices, double.labels, strict=True):
            text = _given(texts, index) or known.get(index)
            shown = "" if text is None else text_html(text, [], 1.0, FOLD_WITNESS)
            sides.append(
                f'<div><div class="row"><span class="tag">label <b>{_name(label)}</b></span>'
                f'<span class="where">{_place(index, look)}</span></div>{shown}</div>'
            )
        out.append(f'<li><div class="cols two">{"".join(sides)}</div></li>')
    more = len(doubles) - len(out)
    rest = f'<p class="none">{counted(more, "more pair")}: see .doubles</p>' if more else ""
    return (
        f'<section><h2 class="part">Nearly the same text, different labels</h2>\n<p>{counted(len(doubles), "pair")}. At most one '
        f'label of a pair is right, or the label does not depend on the text.</p><ul class="doubles">{"".join(out)}</ul>{rest}'
        f"</section>\n"
    )


def _known_texts(found: Suspects) -> dict[int, TokenizedText]:
    known = {one.index: one.text for one in found.first if one.text is not None}
    for one in found.first:
        for pair in (*one.reasons.speaks_against, *one.reasons.speaks_for):
            if pair.train_text is not None:
                known.setdefault(pair.train_index, pair.train_text)
    return known


def _given(texts: Texts | None, index: int) -> TokenizedText | None:
    if texts is None:
        return None
    return texts.get(index) if isinstance(texts, Mapping) else texts[index] if index < len(texts) else None
