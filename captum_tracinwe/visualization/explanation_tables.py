"""The words of an `Explanation` as tables, its groups of near-duplicates, and how good the model is on each class."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile

from captum_tracinwe.explanation import ClassCount, Near
from captum_tracinwe.visualization.common import counted, scale_of
from captum_tracinwe.visualization.explanation_parts import (
    Look,
    figure,
    name_html,
    percent,
    probability,
    start_html,
    unit_of,
    word_html,
)
from captum_tracinwe.visualization.page import level_of, side_of
from captum_tracinwe.words.report import ReportedWord, WordReport

__all__ = ["class_table", "group_html", "in_name", "shown_words", "word_table"]

# Rows of a table of words, and of one of classes, before it is folded; training texts named for a word.
WORDS, CLASSES, EXAMPLES = 20, 8, 3
# Words that go with one class, the folded ones too: 2,000 short questions have hundreds.
MOST = 100
# Words behind the mistakes; those that go with no class, at least.
BEHIND, OF_NONE = 12, 4
# Of two words so much is the same from the first letter on: "linked" and "linking", but not "transaction" and "transfer".
ALIKE = 0.65


def shown_words(report: WordReport | None, others: bool) -> tuple[ReportedWord, ...]:
    """The words of a report that its table shows: those that go with one class, or, with ``others``, the largest of all too."""
    if report is None:
        return ()
    first = tuple(word for word in report.words if word.sticks)
    if not others:  # those first that say more than the name of their class
        return tuple(sorted(first, key=lambda word: in_name(word.word, word.label)))[:MOST]
    rest = tuple(word for word in report.words if not word.sticks and not word.special)
    first = first[: max(BEHIND - len(rest), BEHIND - OF_NONE)]
    return (*first, *rest[: BEHIND - len(first)])


def in_name(word: str, label: str) -> bool:
    """Whether a word looks like one of its class's name, as "declined" like "card_decline": it goes with it by its meaning."""
    word = word.lower()
    parts = re.findall(r"[^\W_]+", label.lower())
    for part in parts:
        begin = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(word, part, strict=False)))
        if begin > 2 and begin >= ALIKE * min(len(word), len(part)):
            return True
    return False


def word_table(words: Sequence[ReportedWord], key: str, look: Look) -> str:
    """A row for each word: the class it goes with, in how many of its texts, how surely, and how much it pushes."""
    scale = scale_of(word.total for word in words)
    unit = unit_of(scale)[1]
    heads = ("word", "goes with", "share of its texts", "texts", "p", f"push, {unit}" if unit else "push", "read it in")
    kinds = ("", "", "", ' class="n"', ' class="n"', ' class="n"', "")
    head = "".join(f'<th scope="col"{kind}>{name}</th>' for name, kind in zip(heads, kinds, strict=True))
    rows = [_word_row(word, f"{key}{place}", scale, look) for place, word in enumerate(words)]
    first, rest = (
        f'<div class="scroll"><table class="words" data-kind="{key}"><thead><tr>{head}</tr></thead><tbody>{"".join(part)}</tbody>'
        f"</table></div>\n"
        for part in (rows[:WORDS], rows[WORDS:])
    )
    if len(rows) <= WORDS:
        return first
    return (
        f'{first}<details class="more"><summary>{counted(len(rows) - WORDS, "more word")}</summary>{rest}</details>\n'
    )


def _word_row(word: ReportedWord, name: str, scale: float, look: Look) -> str:
    own = look.live and look.rows.get(word.word) is not None
    about = (
        f' id="{name}" data-c="{word.label_share:.4g}" data-b="{word.base_share:.4g}" data-s="{word.total:.6g}" '
        f'data-pv="{word.adjusted_p:.4g}" data-n="{word.count}"'
        if own
        else ""
    )
    label = "no class" if not word.label else name_html(word.label)
    named = bool(word.label) and in_name(word.word, word.label)
    label += " <small>(in its name)</small>" if named else ""
    bar = f'<span class="bar"><b class="c" style="--a:{word.label_share:.2f}"></b></span>'
    share = (
        f"{bar}<b>{percent(word.label_share)}</b> <small>of all texts {percent(word.base_share)}</small>"
        if word.label
        else "–"
    )
    examples = ", ".join(look.place(index) for index, _ in word.examples[:EXAMPLES])
    kind = ' class="firm"' if word.sticks and not named else ""
    push = f'<b class="{side_of(word.total)}" style="--a:{level_of(word.total, scale)}"></b>'
    return (
        f'<tr{about}{kind}><th scope="row">{word_html(word.word, word.special, look)}</th>'
        f'<td data-h="goes with">{label}</td><td data-h="share of its texts">{share}</td>'
        f'<td class="n" data-h="texts">{word.count:,}</td><td class="n" data-h="p">{probability(word.adjusted_p)}</td>'
        f'<td class="n" data-h="push"><span class="bar">{push}</span><span>{figure(word.total, scale)}</span></td>'
        f'<td data-h="read it in">{examples}</td></tr>\n'
    )


def group_html(group: Near, number: int, look: Look) -> str:
    """A group of near-duplicates: one text of each label; the script adds the texts of the others when it is opened."""
    counts = Counter(group.labels).most_common()
    labels = ", ".join(f"{name_html(name)} {many:,} ×" for name, many in counts)
    odds = '<b class="odds">different labels</b> ' if group.at_odds else ""
    texts = look.found.training
    first = next((texts[index].text.text for index in group.indices if index in texts), None)
    shown = "" if first is None else start_html(first)
    out = [
        f'<details class="group" id="g{number}"><summary><span class="where">{counted(len(group.indices), "text")}</span>{shown}'
        f'<span class="turn">{odds}{labels}</span></summary><ul>'
    ]
    seen: set[str] = set()
    for index, label in zip(group.indices, group.labels, strict=True):
        text = "" if label in seen or index not in texts else start_html(texts[index].text.text, 400)
        seen.add(label)
        known = f' data-t="{index}"' if index in texts else ""
        out.append(
            f'<li{known}><span class="where">{look.place(index)}</span><span class="tag">{name_html(label)}</span>{text}</li>'
        )
    return "".join([*out, "</ul></details>\n"])


def class_table(classes: Sequence[ClassCount]) -> str:
    """How many of each class are named rightly, the weakest first; many classes are folded."""
    order = sorted(classes, key=lambda one: (one.test == 0, one.right / max(1, one.test), one.name))
    first, rest = (order, []) if len(order) <= CLASSES else (order[: CLASSES - 2], order[CLASSES - 2 :])
    table = _classes(first)
    if rest:
        more = f"{len(rest):,} more {'class' if len(rest) == 1 else 'classes'}"
        table += f'<details class="more"><summary>{more}</summary>{_classes(rest)}</details>'
    return f'<section class="classes"><h2>How good it is on each class, the weakest first</h2>{table}</section>\n'


def _classes(classes: Sequence[ClassCount]) -> str:
    rows = []
    for one in classes:
        share = one.right / one.test if one.test else 0.0
        right = (
            f"<b>{share:.0%}</b> <small>{one.right:,} of {one.test:,}</small>"
            if one.test
            else "<small>no test text</small>"
        )
        rows.append(
            f'<tr><th scope="row">{name_html(one.name)}</th><td class="b"><span class="bar"><b class="c" style="--a:{share:.2f}">'
            f'</b></span></td><td>{right}</td><td class="n">{one.named:,}</td><td class="n">{one.train:,}</td></tr>'
        )
    return (
        '<table class="each"><thead><tr><th scope="col">class</th><td></td><th scope="col">right</th><th scope="col" class="n">'
        f'times named</th><th scope="col" class="n">training texts</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )
