"""Finding one's way in the page of an explanation: from a word to its texts, what is exported, narrow screens, small numbers."""

from dataclasses import replace

import pytest
from browser import BROWSER
from cases_of_texts import text_of
from explanation_cases import answer_of, performance_of, small, training_of, word_of
from test_explanation_page_browser import choose, click, exported, page, search, shown, status
from test_hostile_exports import FORMULAS, OBEYED

from captum_tracinwe import WordReport
from captum_tracinwe.explanation import Answer, Near
from captum_tracinwe.tabular import as_meant

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium")
__all__ = ["page"]  # a fixture

OFFERED = "[...document.querySelectorAll('[data-export]')].map(button => button.textContent)"


def cut(text, rest):
    """The same text with an end that the model did not read."""
    return replace(text, text=f"{text.text} {rest}")


# ------------------------------------------------------------------------------------------------- a word and its texts


def test_a_word_is_not_found_where_the_model_did_not_read_it(page):
    texts = dict(small().training)
    texts[3] = replace(texts[3], text=cut(texts[3].text, "troops"))
    texts[4] = replace(texts[4], text=cut(texts[4].text, " ".join(["long"] * 100) + " troops"))  # folded, too
    answers = small().answers
    read = replace(answers[2], text=cut(answers[2].text, "troops"), pairs=())
    tab = page(small(training=texts, answers=(*answers[:2], read)))
    click(tab, "#h0 .w")
    assert shown(tab, "training") == ["t0", "t1", "t2"]
    assert (shown(tab, "answers"), shown(tab, "right")) == (["a0"], [])
    click(tab, "#clear")
    search(tab, "troops")  # a search is for all that can be seen
    assert shown(tab, "training") == ["t0", "t1", "t2", "t3", "t4"]
    assert shown(tab, "right") == ["a2"]


def test_it_is_said_how_many_of_a_words_texts_are_on_the_page(page):
    habits = WordReport(
        (
            word_of("troops", texts=40, count=31),
            word_of("vote", texts=1, count=1),
            word_of("border", texts=3, count=3),
            word_of("cross", p=0.9, texts=2000, count=2000),
        ),
        2.0,
        20,
        90,
    )
    tab = page(small(habits=habits))
    for word, said in (
        ("troops", "3 of the 40 training texts with “troops” are on this page (31 without near-duplicates)"),
        ("vote", "The one training text with “vote” is on this page"),
        ("border", "All 3 training texts with “border” are on this page"),
    ):
        choose(tab, "word", word)
        assert status(tab).endswith(f"5 training texts · {said} · the word in its table"), word
    choose(tab, "label", "Sports")
    assert "All 3 training texts with “border” are on this page" in status(tab)  # whatever else is asked for
    click(tab, "#clear")
    click(tab, ".pair a.w:not([href])")  # one that stands in no table
    assert status(tab).endswith(" · 4 of the 2,000 training texts with “cross” are on this page")


def test_a_words_link_leads_to_its_texts_with_the_word_painted(page):
    tab = page(small())
    click(tab, "#h0 .w")
    tab.until("document.activeElement.textContent === 'Training texts'")
    top, desk, bottom = tab.ask(
        "['#training h2', '.desk', '#t2'].map((name, at) => "
        "document.querySelector(name).getBoundingClientRect()[at ? 'bottom' : 'top'])"
    )
    assert desk <= top < bottom <= 900
    # In the card of the mistake its own text and a training text's, in the group two of its texts, and three training texts.
    painted = (
        "[...CSS.highlights.get('sought')].map(one => one.startContainer.data.slice(one.startOffset, one.endOffset))"
    )
    assert tab.ask(painted).count("troops") == len(tab.ask(painted)) >= 6
    click(tab, "#clear")
    assert tab.ask("CSS.highlights.get('sought').size") == 0


def test_a_training_text_that_is_not_among_those_listed_is_searched_as_itself(page):
    one, other = (training_of(n, "World", "the", word) for n, word in ((70, "river"), (71, "harbour")))
    answers = (
        answer_of(5, "Sports", "World", 0.9, text_of("the", "a"), (one, [1.0])),
        answer_of(6, "Sports", "World", 0.8, text_of("the", "b"), (other, [1.0])),
    )
    tab = page(small(answers=answers))
    search(tab, "harbour")
    assert shown(tab, "answers") == ["a1"]


def test_words_of_their_class_name_come_last_and_many_are_folded(page):
    named = [word_of(f"world{n}") for n in range(40)]
    telling = [word_of(f"word{n}") for n in range(90)]
    tab = page(small(habits=WordReport((*named, *telling), 1.0, 20, 90)))
    words = tab.ask("[...document.querySelectorAll('#habits tr[id] .w')].map(word => word.textContent)")
    assert words == [*(word.word for word in telling), *(word.word for word in named[:10])]
    assert "100 of 130 are shown." in tab.ask("document.querySelector('#habits .said-of').textContent")
    seen = "[...document.querySelectorAll('#habits tr[id]')].filter(row => row.checkVisibility()).length"
    assert tab.ask(seen) == 20
    tab.ask("location.hash = '#h70'")
    tab.until("document.activeElement.id === 'h70'")
    assert tab.ask(seen) == 100


# -------------------------------------------------------------------------------------------------------------- export


def test_a_button_says_what_it_exports(page, tmp_path):
    tab = page(small())
    assert tab.ask(OFFERED) == ["Export all 3 answers as CSV", "Export all 2 words as CSV", "Export the group as CSV"]
    search(tab, "vote")
    assert tab.ask(OFFERED) == [
        "Export the 2 answers shown as CSV",
        "Export all 2 words as CSV",
        "Nothing shown to export",
    ]
    assert tab.ask("document.querySelector('[data-export=duplicates]').disabled")
    assert len({row["test place"] for row in exported(tab, tmp_path / "two", "mistakes")}) == 2
    search(tab, "troops")
    assert tab.ask(OFFERED)[::2] == ["Export the 1 answer shown as CSV", "Export the 1 group shown as CSV"]
    click(tab, "#clear")
    assert tab.ask(OFFERED)[2] == "Export the group as CSV"
    many = [replace(small().answers[0], index=n, place=f"line {n}") for n in range(60)]
    tab = page(small(answers=tuple(many)))
    assert len(shown(tab, "answers")) == 25
    assert tab.ask(OFFERED)[0] == "Export all 60 mistakes as CSV"  # those below "Show 25 more", too


def test_no_cell_is_a_formula_behind_signs_that_cannot_be_seen_and_each_is_read_back(page, tmp_path):
    texts = {n: training_of(n, "World", text) for n, text in enumerate((*FORMULAS, "plain", "'x", "a=1"))}
    near = (Near(tuple(texts), ("World",) * len(texts)),)
    rows = exported(page(small(answers=(), training=texts, near=near)), tmp_path / "new", "duplicates")
    cells = [row["training text"] for row in rows]
    assert not [cell for cell in cells if OBEYED.match(cell)]
    assert [as_meant(cell) for cell in cells] == [one.text.text for one in texts.values()]


# ------------------------------------------------------------------------------------------------------- narrow screens


@pytest.fixture
def narrow(tab):
    tab.look(400, 800, False)
    yield tab
    tab.look(1280, 900, False)


def test_nothing_that_is_jumped_to_stands_under_the_bar(narrow, page):
    tab = page(small())
    place = """name => [document.querySelector(name).getBoundingClientRect().top,
      document.querySelector('.desk').getBoundingClientRect().bottom]"""
    search(tab, "troops")  # the bar grows by what it says
    click(tab, "#status a[href='#training']")
    for target, name in (
        ("#near", "#near h2"),
        ("#causes", "#causes h2"),
        ("#h0", "#h0"),
        ("#t0", "#t0"),
        ("#a0", "#a0"),
    ):
        tab.ask(f"location.hash = {target!r}")
        tab.until(f"(([top, bottom]) => top >= bottom - 1 && top < 800)(({place})({name!r}))")


def test_filters_are_folded_and_have_the_whole_width(narrow, page):
    tab = page(small())
    boxes = "['label', 'prediction', 'word'].map(name => document.getElementById(name).getBoundingClientRect().width)"
    assert tab.ask(boxes) == [0, 0, 0]
    click(tab, "#filters")
    assert tab.ask("document.querySelector('#filters').getAttribute('aria-expanded')") == "true"
    assert min(tab.ask(boxes)) > 340
    choose(tab, "label", "Sports")
    choose(tab, "prediction", "World")
    assert tab.ask("document.querySelector('#filters').textContent") == "Filters: 2"
    assert tab.ask("document.querySelector('#label').title") == "Sports"
    click(tab, "#filters")
    assert tab.ask(boxes) == [0, 0, 0]
    tab.look(1280, 900, False)
    assert min(tab.ask(boxes)) > 100
    assert not tab.ask("document.querySelector('#filters').checkVisibility()")


def test_a_long_class_name_leaves_its_row_legible(narrow, page):
    names = ("balance_not_updated_after_cheque_or_cash_deposit_abroad", "Donaudampfschifffahrtsgesellschaft")
    tab = page(small(performance=performance_of(names=names)))
    lines = """[...document.querySelectorAll('.each tbody th')].map(cell => {
      const range = document.createRange(); range.selectNodeContents(cell);
      return new Set([...range.getClientRects()].map(box => Math.round(box.top))).size; })"""
    assert max(tab.ask(lines)) <= 3
    assert tab.ask("document.querySelector('.each tbody tr:last-child th').textContent") == names[0]
    assert tab.ask("document.documentElement.scrollWidth <= 400")


# -------------------------------------------------------------------------------------------------------- small numbers


def test_a_small_number_is_short_and_beside_its_bar(page):
    first: Answer = small().answers[0]
    one, other = small().training[0], small().training[3]
    tiny = answer_of(5, "Sports", "World", 0.9, first.text, (one, [8.46e-7, -3.5e-8]), (other, [-2.2e-7]))
    tab = page(small(answers=(tiny,)))
    number, *_ = numbers = tab.ask("[...document.querySelectorAll('.answer .shares .n')].map(cell => cell.textContent)")
    assert (number, max(map(len, numbers)) <= 5) == ("+846", True)
    assert "+811 billionths" in tab.ask("document.querySelector('.answer .score').textContent")
    assert "are billionths. Full colour: 846" in tab.ask("document.querySelector('.answer .scale').textContent")
    gaps = """[...document.querySelectorAll('.shares tr')].map(row => {
      const range = document.createRange(); range.selectNodeContents(row.querySelector('.n'));
      return row.querySelector('.b').getBoundingClientRect().left - range.getBoundingClientRect().right; })"""
    for least in (1e-3, 1e-7, 1e-11, 1e-15):
        tab = page(
            small(answers=(answer_of(5, "Sports", "World", 0.9, first.text, (one, [8.46 * least, -3.5 * least / 9])),))
        )
        assert min(tab.ask(gaps)) >= 0, least
