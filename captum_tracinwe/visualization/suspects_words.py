"""`Suspects` in plain words: how many labels are expected to be wrong, and the first of them as text for a terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping, Sequence

from captum_tracinwe.labels import Suspect, Suspects
from captum_tracinwe.visualization.common import check_count, columns_of, counted
from captum_tracinwe.words.legible import shortened, visible

__all__ = [
    "about",
    "by_index",
    "chance",
    "checked",
    "expectations",
    "labels_of",
    "place_of",
    "sureness",
    "suspects_text",
    "warning",
]

# Characters of a text and of a label that are printed.
_TEXT, _LABEL = 160, 32
# Of findings of their own, so many are printed.
_PAIRS = 5


def suspects_text(
    found: Suspects,
    top: int = 12,
    *,
    places: Mapping[int, str] | Sequence[str] | None = None,
    rest: str = "see to_table()",
) -> str:
    """The first ``top`` suspects for a terminal; control characters are shown, never sent.

    Args:
        found (Suspects): what ``suspects(...)`` returned.
        top (int): how many.
        places (sequence or mapping of str, optional): by training index, where a text stands, as in ``"line 7"``.
        rest (str): where the others are.

    Returns:
        str: lines without a final line feed.
    """
    checked(found, "top", top)
    named = by_index(places)
    width = max(40, min(100, shutil.get_terminal_size((88, 24)).columns))
    lines = textwrap.wrap(expectations(found), width)
    lines += [line for said in filter(None, [warning(found)]) for line in textwrap.wrap(f"Warning: {said}", width)]
    for one in found.first[:top]:
        lines += ["", *_lines(one, place_of(one.index, named), found.tells, width)]
    more = len(found) - len(found.first[:top])
    if more > 0:
        lines += ["", f"... and {more:,} more: {rest}"]
    if found.mixed_up:
        lines += ["", "Labels that are mixed up (expected number of wrong ones):"]
        lines += [
            f"  {about(pair.wrong):>5} of {counted(pair.texts, 'text')}: {_short(pair.label)} → {_short(pair.suggested)}"
            for pair in found.mixed_up[:_PAIRS]
        ]
    if found.doubles:
        pairs = counted(len(found.doubles), "pair")
        lines += ["", f"{pairs} of nearly the same text with different labels, such as:"]
        for double in sorted(found.doubles, key=lambda double: -double.cosine)[:_PAIRS]:
            sides = zip(double.indices, double.labels, strict=True)
            lines.append("  " + " and ".join(f"{place_of(i, named)} ({_short(label)})" for i, label in sides))
    return "\n".join(lines)


def expectations(found: Suspects) -> str:
    """How many labels are wrong, of all and of the first ones, as a sentence."""
    if not len(found):
        return "There is no label to be judged."
    most = "about" if found.tells else "at most"
    size = len(found)
    wrong = about(found.expected())
    said = f"Of {counted(size, 'training text')}, {most} {wrong} probably {'has' if wrong == '1' else 'have'} a wrong label"
    firsts = [count for count in (50, 100) if count < size]
    parts = [f"{most} {about(found.expected(count))} of the first {count}" for count in firsts]
    return f"{said}: {' and '.join(parts)}." if parts else f"{said}."


def warning(found: Suspects) -> str | None:
    """What is to be said where the judge does not tell the classes apart."""
    if found.tells or not len(found):
        return None
    return (
        f"the texts of different labels are hard to tell apart here: only {found.accuracy:.0%} of the labels could be guessed "
        f"from the other texts. The order still holds, most suspicious first, but percentages are upper bounds: many of these "
        f"labels may be right."
    )


def chance(suspicion: float, tells: bool = True) -> str:
    """A suspicion as a person reads it: '93 %', 'over 99 %', and an upper bound as one."""
    percent = suspicion * 100
    if percent > 99:
        return "over 99%" if tells else "up to 100%"
    shown = "under 1%" if percent < 1 else f"{percent:.0f}%"
    return shown if tells or percent < 1 else f"at most {shown}"


def sureness(one: Suspect) -> str:
    """How sure the suggested label is, in words; nothing, where there is no other, or nobody can tell."""
    if one.certainty is None or one.certainty == 1:
        return ""
    return f"{chance(one.certainty)} sure if wrong"


def about(number: float) -> str:
    """An expected number: whole, where it is not below one."""
    return "0" if number < 0.05 else f"{number:.1f}" if number < 1 else f"{number:,.0f}"


def checked(found: object, name: str, count: object) -> None:
    """TypeError or ValueError unless this is a result with a number of things to show."""
    if not isinstance(found, Suspects):
        raise TypeError(f"expected Suspects, as suspects(...) returns them, got {type(found).__name__}.")
    check_count(name, count)


def by_index(places: Mapping[int, str] | Sequence[str] | None) -> Mapping[int, str]:
    """Where texts stand, by training index."""
    return places if isinstance(places, Mapping) else dict(enumerate(places or ()))


def place_of(index: int, places: Mapping[int, str]) -> str:
    """Where a text stands, as it can be shown; by its index where that is not known."""
    return visible(places[index]) if index in places else f"text {index}"


def labels_of(found: Suspects) -> Mapping[int, str]:
    """The label of each training text; where all are not known, of those that were judged."""
    judged = dict(zip(found.order, found.labels, strict=True))
    return {**dict(enumerate(found.all_labels)), **judged}


def _short(label: str) -> str:
    return shortened(label, _LABEL, quoted=False)


def _lines(one: Suspect, place: str, tells: bool, width: int) -> list[str]:
    sure = f", {sureness(one)}" if sureness(one) else ""
    head = f"{chance(one.suspicion, tells):>8}  {_short(one.label)} → {_short(one.suggested)}{sure}  ({place})"
    lines = [head]
    if one.text is not None:
        text = visible(" ".join(one.text.text.split()))
        text = text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…"
        narrow = max(20, width - 10 - (columns_of(text) - len(text)))
        lines += [f"          {line}" for line in textwrap.wrap(text, narrow)]
    for name, against in ((f"against {_short(one.label)}", True), (f"for {_short(one.label)}", False)):
        words = ", ".join(visible(word.text)[:24] for word in one.words(against))
        if words:
            lines.append(f"          {name}: {words}")
    return lines
