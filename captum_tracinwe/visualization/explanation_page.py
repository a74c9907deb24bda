"""`Explanation` as a page to find one's way in: mistakes, who taught them, words, near-duplicates."""

from __future__ import annotations

from captum_tracinwe.explanation import Answer, Explanation, Performance
from captum_tracinwe.visualization.common import UNIT, check_count, counted
from captum_tracinwe.visualization.explanation_cards import card, training_row
from captum_tracinwe.visualization.explanation_parts import Look, link, name_html, percent, probability
from captum_tracinwe.visualization.explanation_script import EXPLANATION_SCRIPT
from captum_tracinwe.visualization.explanation_style import EXPLANATION_STYLE
from captum_tracinwe.visualization.explanation_tables import class_table, group_html, in_name, shown_words, word_table
from captum_tracinwe.visualization.page import escaped, whole_page
from captum_tracinwe.visualization.style import STYLE
from captum_tracinwe.words.legible import visible

__all__ = ["explanation_fragment", "explanation_html"]

TOP_WORDS, FOLD = 3, 400
# Mistakes in a notebook.
IN_NOTEBOOK = 3


def explanation_html(
    explanation: Explanation, *, title: str | None = None, top_words: int = TOP_WORDS, fold_at: int = FOLD
) -> str:
    """One whole HTML5 page: how good the model is, its mistakes with the training texts that taught them, words, near-duplicates.

    Texts can be searched, filtered by class and by word, and exported as CSV; words, answers and training texts lead to each
    other. Nothing is loaded, nothing leaves the browser, no script runs but the page's own, and without it all texts can be read.

    Args:
        explanation (Explanation): what is shown.
        title (str, optional): heading of the page; None: that of the explanation.
        top_words (int): words named for each training text of an answer; 0 for none.
        fold_at (int): longer texts (characters) are folded; a click opens them.

    Returns:
        str: the page, for :func:`write_html`.

    Raises:
        TypeError: something other than an Explanation.
        ValueError: a number of words or characters below 0.

    Example:
        >>> from captum_tracinwe import WordReport
        >>> from captum_tracinwe.explanation import ClassCount, Performance
        >>> classes = (ClassCount("calm", 9, 4, 4, 5), ClassCount("storm", 8, 4, 3, 3))
        >>> found = Explanation(Performance(8, 7, "calm", 4, 0.03, classes), (), WordReport((), 0.0, 8, 17), None, trains=17)
        >>> page = explanation_html(found, title="Weather")
        >>> page.startswith("<!DOCTYPE html>"), "right on 7 of 8 test texts" in page
        (True, True)
    """
    look = _look(explanation, top_words, fold_at, live=True)
    heading = escaped(str(explanation.title if title is None else title))
    parts = _Parts(look)
    body = "".join(
        [
            _unlearned(explanation),
            f"<h1>{heading}</h1>\n",
            _headline(explanation),
            parts.contents(),
            class_table(explanation.performance.classes),
            _desk(look),
            parts.answers(),
            parts.words(),
            parts.duplicates(),
            parts.training(),
        ]
    )
    return whole_page(heading, body, EXPLANATION_STYLE, EXPLANATION_SCRIPT)


def explanation_fragment(explanation: Explanation, *, top: int = IN_NOTEBOOK) -> str:
    """The headline, the first ``top`` mistakes and the words as a piece of HTML for notebooks, without links or a script."""
    look = _look(explanation, TOP_WORDS, FOLD, live=False)
    check_count("top", top)
    shown = explanation.answers[:top]
    more = len(explanation.answers) - len(shown)
    rest = f'<p class="none">{more:,} more: visualization.explanation_html(...) shows all.</p>' if more else ""
    cards = "".join(card(answer, number, look) for number, answer in enumerate(shown))
    parts = _Parts(look)
    body = (
        f"{_unlearned(explanation)}{_headline(explanation)}{class_table(explanation.performance.classes)}{_KEY}{cards}{rest}"
        f"{parts.words()}"
    )
    return f'<style>{STYLE}{EXPLANATION_STYLE}</style><div class="ctwe nb"><div class="in">{body}</div></div>'


def _look(explanation: Explanation, top_words: int, fold_at: int, live: bool) -> Look:
    if not isinstance(explanation, Explanation):
        raise TypeError(f"expected an Explanation, as explain(...) returns it, got {type(explanation).__name__}.")
    check_count("top_words", top_words)
    check_count("fold_at", fold_at)
    look = Look(explanation, top_words, fold_at, live)
    look.enter({"h": shown_words(explanation.habits, False), "c": shown_words(explanation.causes, True)})
    return look


# ------------------------------------------------------------------------------------------------------ head


def _unlearned(found: Explanation) -> str:
    """What comes before all else where the model is no better than an answer that is always the same."""
    known = found.performance
    if known.learned:
        return ""
    verdict = "This model has not learned the task."
    rest = "What follows explains guesses: train the model better first."
    if known.untold:
        verdict = "Too few test texts to tell whether the model has learned the task."
        rest = f"The difference may be chance (p = {probability(known.p_value)})."
    how_good = _how_good(known, "It")
    return f'<p class="warning" role="note"><b>{verdict}</b> {how_good} {rest}</p>\n'


def _headline(found: Explanation) -> str:
    """How good the model is, unless the warning has said it."""
    how_good = _how_good(found.performance, "The model")
    return f'<p class="lead">{how_good}</p>\n' if found.performance.learned else ""


def _how_good(known: Performance, subject: str) -> str:
    return (
        f"{subject} is right on {known.right:,} of {counted(known.tests, 'test text')} "
        f"(<b>{percent(known.accuracy)}</b>). Always answering {name_html(known.majority)}, the most frequent class among them, "
        f"would be right on {known.majority_right:,} ({percent(known.majority_right / known.tests)})."
    )


_KEY = (
    '<p class="key"><mark class="p" style="--a:.7"><b>Blue, solid line</b></mark>: pushed the model towards its answer. '
    '<mark class="o" style="--a:.7"><b>Orange, dashed</b></mark>: pushed it away. The stronger the colour, the more.</p>\n'
)
_MORE = (
    '<details class="more"><summary>More about these numbers</summary><div class="legend">'
    "<p>The number beside a training text says how much it pushed: above 0 towards the answer, below 0 away from it. It is the "
    f"sum of the numbers of its words. Unit: {UNIT}. Colours have a scale of their own in each card.</p>"
    "<p><b>Sure</b> is the probability that the model gives its answer. Mistakes of which it was surest come first.</p>"
    "<p>Of training texts that are nearly the same, the strongest stands for all: “and 11 like it”.</p>"
    "<p>A grey end of a text was cut off: the model did not read it.</p></div></details>\n"
)
_WORDS_MORE = (
    '<details class="more"><summary>More about these numbers</summary><div class="legend">'
    "<p><b>Share of its texts</b>: of the training texts that hold the word, how many have the class. <b>p</b>: how often labels "
    "dealt at random would go with the word as much, corrected for the number of words; near-duplicates are counted once where "
    "the report was made so. <b>Push</b>: what the word adds over all training texts to the answers that were asked about; "
    "above 0 towards them.</p></div></details>\n"
)


def _desk(look: Look) -> str:
    """Search and filters; they wait for the script."""
    names = "".join(
        f'<option value="{number}">{escaped(visible(name))}</option>' for name, number in look.classes.items()
    )
    return (
        '<noscript><p class="none">To search, filter and export here, allow this page its own script; it loads nothing and sends '
        "nothing.</p></noscript>\n"
        '<div role="search" class="desk" data-live hidden><div class="row">'
        '<input type="search" id="search" placeholder="Search the texts on this page" '
        'aria-label="Search the texts on this page" autocomplete="off">'
        '<button type="button" id="filters" aria-expanded="false" aria-controls="choices">Filters</button>'
        f'<div id="choices"><select id="label" aria-label="True class"><option value="">Any true class</option>{names}</select>'
        f'<select id="prediction" aria-label="Predicted class"><option value="">Any predicted class</option>{names}</select>'
        '<select id="word" aria-label="Word"><option value="">Any word</option></select></div>'
        '<button type="button" id="clear" hidden>Show all again</button></div>'
        '<p id="status" role="status" aria-live="polite"></p></div>\n'
    )


# -------------------------------------------------------------------------------------------------- sections


class _Parts:
    """The sections of a page."""

    def __init__(self, look: Look) -> None:
        found = look.found
        self.look, self.found = look, found
        self.habits, self.causes = shown_words(found.habits, False), shown_words(found.causes, True)
        self.odds = sum(group.at_odds for group in found.near)
        self.wrong = sum(answer.wrong for answer in found.answers)

    def contents(self) -> str:
        """What there is, with the first of each, as links."""
        found = self.found
        entries = []
        if found.answers:
            first = found.answers[0]
            worst = (
                f"the worst: {link('a0', name_html(first.place))}, {_turn(first)}"
                if first.wrong
                else "none is explained"
            )
            name = f"{counted(self.wrong, 'mistake')} explained" if self.wrong else "Answers"
            entries.append(("answers", name, worst))
        if self.habits:
            # A word of the class's own name is no news.
            news = [word for word in self.habits if not in_name(word.word, word.label)] or self.habits
            said = f"such as <b>{name_html(news[0].word)}</b> with {name_html(news[0].label)}"
            entries.append(("habits", "Words that go with one class", said))
        if self.causes:
            said = ", ".join(f"<b>{name_html(word.word)}</b>" for word in self.causes[:3])
            entries.append(("causes", "Words behind the mistakes", f"first: {said}"))
        if found.near:
            said = f"{counted(self.odds, 'group')} with different labels" if self.odds else "all with one label each"
            entries.append(("near", f"{counted(len(found.near), 'group')} of near-duplicates", said))
        if found.training:
            of_all = f"of {found.trains:,} in all" if found.trains > len(found.training) else "all"
            entries.append(("training", f"{counted(len(found.training), 'training text')}", of_all))
        items = "".join(f"<li>{link(key, name)} <span>{said}</span></li>" for key, name, said in entries)
        return f'<nav aria-label="Contents"><ul class="contents">{items}</ul></nav>\n'

    def answers(self) -> str:
        """Mistakes as a list of lines that open, then right answers."""
        found = self.found
        mistakes = found.performance.tests - found.performance.right
        if not found.answers:
            none = "The model made no mistake on the test texts." if not mistakes else "No answer was explained."
            return f'<section id="answers"><h2 class="part">Mistakes</h2><p class="none">{none}</p></section>\n'
        cards = [card(answer, number, self.look) for number, answer in enumerate(found.answers)]
        out = []
        which = "" if self.wrong == mistakes else f" {self.wrong:,} of {mistakes:,} are explained."
        if self.wrong or not mistakes:
            said = f"The surest come first.{which} Each opens to the training texts that taught it."
            said = said if self.wrong else "The model made none on the test texts."
            out.append(_section("answers", "Mistakes", said, self.wrong > 0, "mistakes", _KEY + _MORE))
            out.append(f'<div class="list" data-list="answers">{"".join(cards[: self.wrong])}</div></section>\n')
        if self.wrong < len(cards):
            name = "right" if out else "answers"
            out.append(
                _section(name, "Right answers", "With the training texts that taught them.", not self.wrong, "mistakes")
            )
            out.append(f'<div class="list" data-list="right">{"".join(cards[self.wrong :])}</div></section>\n')
        return "".join(out)

    def words(self) -> str:
        """Both tables of words."""
        out = []
        all_words = sum(word.sticks for word in self.found.habits.words)
        first = f" {len(self.habits):,} of {all_words:,} are shown." if all_words > len(self.habits) else ""
        said = f"What the model learned. First those in bold, not in their class’s name; click one to read its texts.{first}"
        out.append(
            _section("habits", "Words that go with one class", said, bool(self.habits), "words", live=self.look.live)
        )
        none = '<p class="none">No word goes with one class beyond chance.</p>'
        table = word_table(self.habits, "h", self.look) if self.habits else none
        out.append(f"{table}{_WORDS_MORE}</section>\n")
        if self.found.causes is not None:
            said = "Words of the training texts that taught the mistakes above. Bold ones go with one class, and not by its name."
            out.append(
                _section("causes", "Words behind the mistakes", said, not self.habits, "words", live=self.look.live)
            )
            table = word_table(self.causes, "c", self.look) if self.causes else '<p class="none">There is none.</p>'
            out.append(f"{table}</section>\n")
        return "".join(out)

    def duplicates(self) -> str:
        """Groups of near-duplicates, those with different labels first."""
        near = self.found.near
        if not near:
            none = '<p class="none">No two training texts are nearly the same.</p>'
            return f'<section id="near"><h2 class="part">Near-duplicates</h2>{none}</section>\n'
        order = sorted(range(len(near)), key=lambda number: not near[number].at_odds)
        groups = "".join(group_html(near[number], number, self.look) for number in order)
        odds = (
            f"{self.odds:,} of {counted(len(near), 'group')} {'has' if self.odds == 1 else 'have'} different labels, so that not "
            "all of these can be right."
            if self.odds
            else f"{counted(len(near), 'group')}, each of one label."
        )
        head = _section(
            "near", "Near-duplicates", f"Training texts of nearly the same words. {odds}", True, "duplicates"
        )
        return f'{head}<div class="list" data-list="near">{groups}</div></section>\n'

    def training(self) -> str:
        """Every training text that is named, once."""
        texts = self.found.training
        if not texts:
            return ""
        rows = "".join(training_row(texts[index], self.look) for index in sorted(texts))
        all_of = f"{len(texts):,} of all {self.found.trains:,}" if self.found.trains > len(texts) else "All"
        said = f"{all_of}: those that a result above names, with the answers that they taught."
        head = _section("training", "Training texts", said, False, "")
        return f'{head}<ol class="list" data-list="training">{rows}</ol></section>\n'


def _section(name: str, title: str, said: str, export: bool, what: str, more: str = "", live: bool = True) -> str:
    """The begin of a section, with a button that exports what is shown."""
    button = (
        f'<button type="button" data-export="{what}" data-live hidden>Export as CSV</button>' if export and live else ""
    )
    own = f' id="{name}"' if live else ""
    head = f'<div class="row head"><h2 class="part">{title}</h2>{button}</div>'
    return f'<section{own}>{head}\n<p class="said-of">{said}</p>{more}\n'


def _turn(answer: Answer) -> str:
    return f"{name_html(answer.label)} taken for <b>{name_html(answer.prediction)}</b>"
