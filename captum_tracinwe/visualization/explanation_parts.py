"""What all parts of the page of an `Explanation` share: who is linked to whom, under which names, and small pieces of HTML."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from unicodedata import normalize

from captum_tracinwe.explanation import Explanation, TrainingText
from captum_tracinwe.visualization.page import escaped, running
from captum_tracinwe.words.legible import DIRECTION_MARKS, printable, visible
from captum_tracinwe.words.report import ReportedWord

__all__ = [
    "LEAST",
    "WEAK",
    "Look",
    "figure",
    "link",
    "name_html",
    "percent",
    "probability",
    "start_html",
    "unit_of",
    "word_html",
]

# Characters of a text that a line of a list shows.
START = 150
#: A word with less than this part of the card's scale would have no colour that can be seen.
WEAK = 0.08
#: One of less than this part is not in the list of words.
LEAST = 0.01
# Where the largest number is below this one, all count in smaller units.
LEGIBLE, UNITS = 0.01, ((1e-3, "thousandths"), (1e-6, "millionths"), (1e-9, "billionths"))


@dataclass(frozen=True)
class Look:
    """What is the same for the whole page.

    Args:
        found (Explanation): what is shown.
        top_words (int): words named for a pair of texts.
        fold_at (int): longer texts (characters) are folded.
        live (bool): whether it is a page, with its links and its script; a piece for a notebook has neither.
        classes (dict): number of each class, for the script.
        groups (dict): number of the group of near-duplicates of a training text.
        taught (dict): training index → (number of the answer, whether it pushed towards it).
        rows (dict): word in lower case → id of its row in a table.
        texts (dict): word in lower case → how many of all training texts hold it.
    """

    found: Explanation
    top_words: int
    fold_at: int
    live: bool
    classes: dict[str, int] = field(default_factory=dict)
    groups: dict[int, int] = field(default_factory=dict)
    taught: dict[int, list[tuple[int, bool]]] = field(default_factory=dict)
    rows: dict[str, str] = field(default_factory=dict)
    texts: dict[str, int] = field(default_factory=dict)

    def enter(self, tables: dict[str, Iterable[ReportedWord]]) -> None:
        """Number classes, groups, answers, and the rows of the tables of words, whose ids begin with their keys."""
        names = [one.name for one in self.found.performance.classes]
        names += [name for one in self.found.answers for name in (one.label, one.prediction)]
        names += [one.label for one in self.found.training.values()]
        for name in names:
            self.classes.setdefault(name, len(self.classes))
        for number, group in enumerate(self.found.near):
            for index in group.indices:
                self.groups[index] = number
        for number, answer in enumerate(self.found.answers):
            for pair in answer.pairs:
                self.taught.setdefault(pair.train_index, []).append((number, pair.score > 0))
        for key, words in tables.items():
            for number, word in enumerate(words):
                if not word.special:
                    self.rows.setdefault(word.word, f"{key}{number}")
        for report in filter(None, (self.found.habits, self.found.causes)):
            for word in report.words:
                if word.texts and not word.special:
                    self.texts.setdefault(word.word, word.texts)

    def place(self, index: int) -> str:
        """Where a training text stands, linked to it."""
        known: TrainingText | None = self.found.training.get(index)
        shown = f"<bdi>{escaped(visible(known.place))}</bdi>" if known else f"text {index}"
        return link(f"t{index}", shown) if known and self.live else shown


def link(target: str, shown: str, kind: str = "") -> str:
    """A link within the page; what is shown is escaped already."""
    of_kind = f' class="{kind}"' if kind else ""
    return f'<a{of_kind} href="#{target}">{shown}</a>'


def name_html(label: str) -> str:
    """A name from the data, in a direction of its own; a line may break after each of its parts, as in "card_about_to_expire"."""
    return f"<bdi>{escaped(visible(label)).replace('_', '_<wbr>')}</bdi>"


def word_html(word: str, special: bool, look: Look) -> str:
    """A word: without the script it leads to its row in a table of words, with it to the texts that hold it."""
    shown = f"<bdi>{escaped(visible(word))}</bdi>"
    if special:
        return f'<bdi class="s">{escaped(visible(word))}</bdi>'
    if not look.live:
        return shown
    # As texts show it, in which the script looks for it.
    plain = re.sub(f"[{DIRECTION_MARKS}]", lambda mark: f"U+{ord(mark[0]):04X}", printable(word))
    held = "" if plain == visible(word) else f' data-w="{escaped(plain)}"'
    known = normalize("NFC", word.lower())
    row, texts = look.rows.get(known), look.texts.get(known)
    leads = f' href="#{row}"' if row else ""
    number = f' data-n="{texts}"' if texts else ""
    return f'<a class="w"{held}{leads}{number}>{shown}</a>'


def start_html(text: str, most: int = START) -> str:
    """The first characters of a text on one line, in a direction of their own."""
    line = " ".join(text[: 2 * most].split())
    shown = running(line[:most]) + ("…" if len(line) > most or len(text) > 2 * most else "")
    return f'<span class="start" dir="auto">{shown or "(an empty text)"}</span>'


def percent(part: float) -> str:
    """A probability as a person reads it; never certain."""
    shown = f"{part:.0%}"
    return "over 99%" if part < 1 and shown == "100%" else "under 1%" if part > 0 and shown == "0%" else shown


def probability(value: float) -> str:
    """A p-value."""
    return "&lt; 0.001" if value < 0.001 else f"{value:.3f}"


def figure(value: float, scale: float) -> str:
    """A number with its sign, all of a scale to the same place behind the point, so that they can be compared at a glance."""
    one = unit_of(scale)[0]
    places = max(0, 2 - math.floor(math.log10(scale / one)))
    if places > 9:
        return f"{value:+.2e}".replace("-", "−", 1) if value else "0"
    shown = f"{abs(value) / one:.{places}f}"
    return f"{'−' if value < 0 else '+'}{shown}" if float(shown) else "≈ 0" if value else "0"


def unit_of(scale: float) -> tuple[float, str]:
    """What numbers up to ``scale`` count, and its name: "+846" millionths is read at once, "+0.000846" is not."""
    return next((unit for unit in UNITS if scale >= unit[0]), (1.0, "")) if scale < LEGIBLE else (1.0, "")
