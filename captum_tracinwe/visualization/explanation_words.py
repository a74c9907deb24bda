"""`Explanation` in plain words: how good the model is, its worst mistake and who taught it, words, near-duplicates."""

from __future__ import annotations

import shutil
import textwrap

from captum_tracinwe.explanation import Answer, Explanation, Near, Performance
from captum_tracinwe.visualization.common import counted
from captum_tracinwe.visualization.explanation_tables import shown_words
from captum_tracinwe.words.influence import WordInfluence
from captum_tracinwe.words.legible import as_line, shortened, visible
from captum_tracinwe.words.report import ReportedWord

__all__ = ["explanation_text", "how_good"]

# Characters of a text and of a label that are printed; words, classes and groups that are.
_TEXT, _LABEL = 150, 32
_WORDS, _CLASSES, _GROUPS = 8, 6, 3
# A model is far from useful that goes less than this part of the way from the most frequent class to being always right.
_USEFUL = 0.25
# Of a pair, the words that carry it.
_CARRY = 4


def explanation_text(found: Explanation, *, top: int = 3) -> str:
    """The result in short, for a terminal; control characters are shown, never sent.

    Args:
        found (Explanation): what ``explain(...)`` returned.
        top (int): training texts named for the worst mistake.

    Returns:
        str: lines without a final line feed.
    """
    width = max(40, min(100, shutil.get_terminal_size((88, 24)).columns))
    lines = [line for said in how_good(found.performance) for line in textwrap.wrap(said, width)]
    lines += ["", *_worst(found, top, width), "", *_words(found, width)]
    return "\n".join([*lines, "", *_near(found, width)])


def how_good(performance: Performance) -> list[str]:
    """A sentence or two on the model beside one that always names the same class; before all else."""
    right = f"{performance.right:,} of {performance.tests:,} test texts"
    always = f"Always naming the most frequent class, {_label(performance.majority)}"
    share = performance.majority_right / performance.tests
    if performance.untold:
        return [
            f"TOO FEW TEST TEXTS to tell whether the model learned its task: it is right on {right} "
            f"({performance.accuracy:.1%}). {always}, would be right on {share:.1%}, "
            f"and the difference may be chance (p = {_p(performance.p_value)})."
        ]
    if not performance.learned:
        return [
            f"THE MODEL LEARNED NOTHING THAT HELPS HERE: it is right on {right} ({performance.accuracy:.1%}). {always}, would be "
            f"right on {share:.1%}.",
            "What follows explains guesses. Train longer (--epochs) or faster (--learning-rate), on more texts, or start from a "
            "model that knows the language (--model).",
        ]
    said = [f"The model is right on {right} ({performance.accuracy:.1%}). {always}, would be right on {share:.1%}."]
    if performance.accuracy - share < _USEFUL * (1 - share):
        said.append(
            "That is little: it guesses more than it knows, and what follows explains guesses. Train longer (--epochs)."
        )
    never = [one.name for one in performance.classes if one.test and not one.right]
    if never:
        named = ", ".join(_label(name) for name in never[:_CLASSES]) + ", ..." * (len(never) > _CLASSES)
        said.append(f"It is never right on {len(never)} class{'es' * (len(never) > 1)}: {named}.")
    return said


def _worst(found: Explanation, top: int, width: int) -> list[str]:
    answer = next((answer for answer in found.answers if answer.wrong), None)
    if answer is None:
        return textwrap.wrap("No test text is answered wrongly: there is no mistake to explain.", width)
    lines = textwrap.wrap(f"The mistake of which it was surest, {_said_of(answer)}", width)
    lines += _quoted(answer.text.text, width, "  ")
    pushed = [pair for pair in answer.pairs if pair.score > 0][:top]
    if not pushed:
        return [*lines, "No training text pushed the model towards this answer."]
    lines += textwrap.wrap(f"The training texts that pushed the model most towards {_label(answer.prediction)}:", width)
    for number, pair in enumerate(pushed, 1):
        lines += _taught(found, pair, number, width)
    return lines


def _said_of(answer: Answer) -> str:
    return (
        f"{visible(answer.place)}: it says {_label(answer.prediction)} ({_percent(answer.probability)}), the label is "
        f"{_label(answer.label)}."
    )


def _taught(found: Explanation, pair: WordInfluence, number: int, width: int) -> list[str]:
    one = found.training[pair.train_index]
    alike = len(found.alike(pair.train_index))
    more = f", and {alike:,} nearly the same" if alike else ""
    words = [word.text for word in pair.words() if word.share > 0 and not word.special]
    words = [word for word in words if _is_read(word)] or words
    head = f"{number}. {visible(one.place)} ({_label(one.label)}){more}" + (
        f"; by: {', '.join(map(visible, words[:_CARRY]))}" if words else ""
    )
    return [
        *textwrap.wrap(head, width, initial_indent="  ", subsequent_indent="     "),
        *_quoted(one.text.text, width, "     "),
    ]


def _is_read(word: str) -> bool:
    """Whether it is more than punctuation."""
    return any(character.isalnum() for character in word)


def _words(found: Explanation, width: int) -> list[str]:
    words = [word for word in found.habits.words if word.sticks]
    if not words:
        return textwrap.wrap("No word goes with one class beyond chance in what the model learned.", width)
    lines = textwrap.wrap(
        "Words that go with one class, those that drive the model most first. Is one no reason for its class? Then the model "
        "relies on a shortcut.",
        width,
    )
    shown = words[:_WORDS]
    longest = max(len(_word(word)) for word in shown)
    for word in shown:
        lines.append(
            f"  {_word(word):<{longest}}  {word.count:>6,} training texts, {word.label_share:.0%} of them {_label(word.label)} "
            f"({word.base_share:.0%} of all)"
        )
    more = len(shown_words(found.habits, False)) - len(shown)
    of_all = "" if more + len(shown) == len(words) else f", of {len(words):,} in all"
    return [*lines, f"  ... and {more:,} more on the page{of_all}"] if more > 0 else lines


def _word(word: ReportedWord) -> str:
    return shortened(word.word, 24, quoted=False)


def _near(found: Explanation, width: int) -> list[str]:
    if not found.near:
        return ["No two training texts are nearly the same."]
    texts = sum(len(group.indices) for group in found.near)
    odds = [group for group in found.near if group.at_odds]
    head = f"{texts:,} training texts are nearly the same as another, in {counted(len(found.near), 'group')}; "
    if not odds:
        return textwrap.wrap(f"{head}each group has one label.", width)
    same = "one of them has" if len(odds) == 1 else f"{len(odds):,} of them have"
    lines = textwrap.wrap(f"{head}{same} different labels, which cannot all be right:", width)
    for group in odds[:_GROUPS]:
        lines += _group(found, group, width)
    more = len(odds) - len(odds[:_GROUPS])
    return [*lines, f"  ... and {counted(more, 'more group')} on the page"] if more else lines


def _group(found: Explanation, group: Near, width: int) -> list[str]:
    firsts: dict[str, list[int]] = {}
    for index, label in zip(group.indices, group.labels, strict=True):
        firsts.setdefault(label, []).append(index)
    told = [
        f"{_label(label)}: {visible(found.training[own[0]].place)}" + f" and {len(own) - 1} more" * (len(own) > 1)
        for label, own in firsts.items()
    ]
    lines = textwrap.wrap("; ".join(told), width, initial_indent="  ", subsequent_indent="  ")
    return [*lines, *_quoted(found.training[group.indices[0]].text.text, width, "    ", 80)]


def _quoted(text: str, width: int, indent: str, most: int = _TEXT) -> list[str]:
    line = as_line(text)
    cut = line if len(line) <= most else line[: most - 1] + "…"
    return textwrap.wrap(f"“{cut}”", width, initial_indent=indent, subsequent_indent=indent)


def _label(label: str) -> str:
    return shortened(label, _LABEL, quoted=False)


def _percent(probability: float) -> str:
    """Never 100 % of what is not certain."""
    return f"{min(probability, 0.999):.1%}" if probability > 0.99 else f"{probability:.0%}"


def _p(value: float) -> str:
    return f"{value:.2g}"
