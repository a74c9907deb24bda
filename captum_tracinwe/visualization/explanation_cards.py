"""The answers of an `Explanation` as cards with the training texts that taught them, and the training texts themselves."""

from __future__ import annotations

import math

from captum_tracinwe.explanation import Answer, TrainingText
from captum_tracinwe.visualization.common import Mark, counted, marks, scale_of
from captum_tracinwe.visualization.explanation_parts import (
    LEAST,
    WEAK,
    Look,
    figure,
    link,
    name_html,
    percent,
    start_html,
    unit_of,
    word_html,
)
from captum_tracinwe.visualization.page import escaped, level_of, parted_html, side_of
from captum_tracinwe.words.influence import WordInfluence, WordShare
from captum_tracinwe.words.legible import visible

__all__ = ["card", "training_row"]

# Of the answers that a training text taught, so many are in sight.
TAUGHT = 6


def card(answer: Answer, place: int, look: Look) -> str:
    """One answer: a line of the list that opens to the texts which taught it; the first is open."""
    prepared = [(pair, pair.words()) for pair in answer.pairs]
    scale = scale_of(word.share for _, words in prepared for word in words)
    label, prediction = name_html(answer.label), name_html(answer.prediction)
    turn = f'{label} <span class="arrow">→</span> <b>{prediction}</b>' if answer.wrong else f"✓ <b>{prediction}</b>"
    about = (
        f' id="a{place}" data-l="{look.classes[answer.label]}" data-p="{look.classes[answer.prediction]}" '
        f'data-s="{answer.probability:.6g}"'
        if look.live
        else ""
    )
    out = [
        f'<details class="answer"{about}{"" if place else " open"}><summary>'
        f'<span class="where"><bdi>{escaped(visible(answer.place))}</bdi></span>{start_html(answer.text.text)}'
        f'<span class="turn">{turn}</span><span class="sure">{percent(answer.probability)} sure</span></summary>\n'
        f'<div class="said">{parted_html(answer.text, [], 1.0, look.fold_at)}</div>'
    ]
    if not prepared:
        out.append('<p class="none">No training text pushed this answer: none shares a word with it.</p></details>\n')
        return "".join(out)
    pro = [entry for entry in prepared if entry[0].score > 0]
    con = [entry for entry in prepared if entry[0].score <= 0]
    out.append(f'<div class="cols{" two" if pro and con else ""}">')
    out.append(_side("p", f"Pushed the model towards <b>{prediction}</b>", pro, scale, look))
    out.append(_side("o", f"Pushed it away from <b>{prediction}</b>", con, scale, look))
    unit = unit_of(scale)[1]
    told = f"Numbers in this card are {unit}. Full colour:" if unit else "Full colour in this card:"
    full = figure(scale, scale).removeprefix("+")
    out.append(f'</div><p class="scale">{told} {full}</p></details>\n')
    return "".join(out)


def _side(side: str, title: str, pairs: list[tuple[WordInfluence, list[WordShare]]], scale: float, look: Look) -> str:
    if not pairs:
        return ""
    return f'<div><h4 class="{side}">{title}</h4>{"".join(_pair(*entry, scale, look) for entry in pairs)}</div>'


def _pair(pair: WordInfluence, words: list[WordShare], scale: float, look: Look) -> str:
    known = look.found.training.get(pair.train_index)
    text = pair.train_text or (known.text if known else None)
    label = known.label if known else text.label if text else None
    tag = "" if label is None else f'<span class="tag">label <b>{name_html(label)}</b></span>'
    about = f' data-t="{pair.train_index}" data-s="{pair.score:.6g}"' if look.live else ""
    unit = unit_of(scale)[1]
    score = f"{figure(pair.score, scale)}{unit and f' <small>{unit}</small>'}"
    shown: list[Mark] = []
    if text is not None:
        shown = [m for m in marks(pair, text) if not m.special and abs(m.share) >= WEAK * scale]
    return (
        f'<article class="pair"{about}><div class="row"><span class="where">{look.place(pair.train_index)}</span>{tag}'
        f'{_alike(pair.train_index, look)}<span class="{side_of(pair.score)} score">{score}</span></div>'
        f"{'' if text is None else parted_html(text, shown, scale, look.fold_at)}{_shares(words, scale, look)}</article>\n"
    )


def _alike(index: int, look: Look) -> str:
    """'and 11 like it', which leads to the group."""
    others = len(look.found.alike(index))
    if not others:
        return ""
    number = look.groups[index]
    odds = ", with different labels" if look.found.near[number].at_odds else ""
    said = f"and {others:,} like it{odds}"
    return link(f"g{number}", said, "like") if look.live else f'<span class="like">{said}</span>'


def _shares(words: list[WordShare], scale: float, look: Look) -> str:
    """The words with the largest shares, and what all the others have together."""
    if not look.top_words or not words:
        return ""
    rows = []
    shown = [word for word in words[: look.top_words] if abs(word.share) >= LEAST * scale] or words[:1]
    for word in shown:
        bar = f'<b class="{side_of(word.share)}" style="--a:{level_of(word.share, scale)}"></b>' if word.share else ""
        rows.append(
            f'<tr><th scope="row">{word_html(word.text, word.special, look)}</th><td class="n">{figure(word.share, scale)}</td>'
            f'<td class="b">{bar}</td></tr>'
        )
    rest = words[len(shown) :]
    if rest:
        total = figure(math.fsum(word.share for word in rest), scale)
        rows.append(
            f'<tr class="none"><th scope="row">{counted(len(rest), "more word")}</th><td class="n">{total}</td><td></td></tr>'
        )
    return f'<table class="shares">{"".join(rows)}</table>'


def training_row(one: TrainingText, look: Look) -> str:
    """A training text, with the answers that it taught."""
    group = look.groups.get(one.index)
    others = len(look.found.alike(one.index))
    like = link(f"g{group}", f"{others:,} like it", "like") if others else ""
    taught = look.taught.get(one.index, [])
    said = ""
    if taught:
        both = [_answers([number for number, towards in taught if towards is way], way, look) for way in (True, False)]
        said = f'<div class="taught">Pushed {"; ".join(filter(None, both))}</div>'
    place = escaped(visible(one.place))
    text = parted_html(one.text, [], 1.0, look.fold_at)
    return (
        f'<li id="t{one.index}" data-l="{look.classes[one.label]}"><div class="row"><bdi class="where">{place}</bdi>'
        f'<span class="tag">{name_html(one.label)}</span>{like}</div>{text}{said}</li>\n'
    )


def _answers(numbers: list[int], towards: bool, look: Look) -> str:
    """The answers that a training text pushed towards, or away from, as links."""
    if not numbers:
        return ""
    links = [
        link(f"a{number}", f"<bdi>{escaped(visible(look.found.answers[number].place))}</bdi>") for number in numbers
    ]
    more = len(links) - TAUGHT
    rest = f" <details><summary>and {more:,} more</summary>{', '.join(links[TAUGHT:])}</details>" if more > 0 else ""
    answers = "the answer" if len(links) == 1 else "the answers"
    return f"{'towards' if towards else 'away from'} {answers} to {', '.join(links[:TAUGHT])}{rest}"
