"""The page of an explanation in a browser: searched, filtered, followed and exported by mouse or by keyboard, fast, inert."""

import csv
import io
import json
import re
import time

import pytest
from browser import BROWSER
from explanation_cases import foreign, large, small, training_of, word_of
from test_explanation_page import STRINGS
from test_suspects_page import CONTRAST

from captum_tracinwe import WordReport
from captum_tracinwe import visualization as viz
from captum_tracinwe.words.characters import words_of_characters

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium")

# Rows of a list that can be seen, by their ids.
SHOWN = "name => [...document.querySelectorAll(`[data-list=${name}] > *`)].map(item => item.id)"


@pytest.fixture
def page(tab, tmp_path):
    """Opens an explanation's page; in the end no page may have complained."""

    def opened(found, **options):
        tab.open(viz.write_html(tmp_path / "page.html", viz.explanation_html(found, **options)))
        return tab

    tab.errors.clear()
    yield opened
    assert tab.errors == []


def shown(tab, name):
    return tab.ask(f"({SHOWN})({name!r})")


def search(tab, text):
    tab.ask(
        f"(at => {{ at.value = {json.dumps(text)}; at.dispatchEvent(new Event('input')); }})(document.querySelector('#search'))"
    )


def choose(tab, name, text):
    """A line of a list of choices, by what it says."""
    script = """(name, text) => {
      const at = document.querySelector(name), option = [...at.options].find(one => one.text === text);
      at.value = option.value; at.dispatchEvent(new Event('change'));
    }"""
    tab.ask(f"({script})({json.dumps('#' + name)}, {json.dumps(text)})")


def click(tab, selector):
    """With the mouse, where the element is: what covers it would be clicked instead."""
    script = """async selector => {
      const at = document.querySelector(selector);
      for (let turn = 0; turn < 3; turn++) {  // what comes into sight is laid out then, and may move it
        at.scrollIntoView({block: 'center'});
        await new Promise(then => requestAnimationFrame(() => requestAnimationFrame(then)));
      }
      const box = at.getClientRects()[0];
      return [box.x + box.width / 2, box.y + box.height / 2];
    }"""
    x, y = tab.ask(f"({script})({json.dumps(selector)})")
    for kind in ("mousePressed", "mouseReleased"):
        tab.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


def exported(tab, folder, what):
    """The rows of the file that a button saves."""
    folder.mkdir(exist_ok=True)
    tab.downloads(folder)
    click(tab, f"[data-export={what}]")
    deadline, path = time.monotonic() + 30, folder / f"{what}.csv"
    while not path.exists() or not path.stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    text = path.read_bytes().decode("utf-8")
    assert text.startswith("\ufeff")  # else a sheet takes it for another encoding
    return list(csv.DictReader(io.StringIO(text[1:], newline="")))


def status(tab):
    return tab.ask("document.querySelector('#status').textContent")


def test_a_search_shows_the_texts_that_hold_all_of_its_words(page):
    tab = page(small())
    assert shown(tab, "training") == ["t0", "t1", "t2", "t3", "t4"]
    search(tab, "BORDER the")
    assert shown(tab, "training") == ["t0", "t1"]
    assert shown(tab, "answers") == ["a0"]  # by a training text of it
    assert shown(tab, "right") == []
    assert shown(tab, "near") == ["g0"]
    assert status(tab) == (
        "Shown: 1 of 2 mistakes · 0 of 1 right answers · 1 of 1 groups of near-duplicates · 2 of 5 training texts"
    )
    search(tab, "line 11")
    assert shown(tab, "answers") == ["a1"]
    search(tab, "nowhere")
    assert shown(tab, "training") == shown(tab, "answers") == []
    assert (
        tab.ask("[...document.querySelectorAll('section .none')].filter(one => one.getClientRects().length).length")
        == 4
    )
    click(tab, "#clear")
    assert shown(tab, "training") == ["t0", "t1", "t2", "t3", "t4"]
    assert status(tab) == ""


def test_the_end_of_a_long_text_is_out_of_sight_until_it_is_asked_for(page):
    long = training_of(0, "World", *(["word"] * 100), "hidden")
    tab = page(small(training={0: long}, answers=(), near=()))
    tab.ask("document.querySelector('#t0').scrollIntoView()")
    tab.until("document.querySelector('#t0').innerText.includes('Show all')")
    assert "hidden" not in tab.ask("document.querySelector('#t0').innerText")
    click(tab, "#t0 .fold .more")
    assert "hidden" in tab.ask("document.querySelector('#t0').innerText")


def test_classes_filter_answers_by_both_and_training_texts_by_their_label(page):
    tab = page(small())
    choose(tab, "label", "Sports")
    assert (shown(tab, "answers"), shown(tab, "right"), shown(tab, "training")) == (["a0", "a1"], [], ["t2", "t3"])
    choose(tab, "prediction", "Sports")
    assert (shown(tab, "answers"), shown(tab, "training")) == ([], ["t2", "t3"])
    choose(tab, "prediction", "World")
    assert shown(tab, "answers") == ["a0", "a1"]
    choose(tab, "label", "World")
    assert (shown(tab, "answers"), shown(tab, "right")) == ([], ["a2"])


def test_a_word_leads_to_its_texts_and_back_to_its_row(page):
    tab = page(small())
    click(tab, "#h0 .w")
    assert tab.ask("document.querySelector('#word').value") == "troops"
    assert (shown(tab, "training"), shown(tab, "answers")) == (["t0", "t1", "t2"], ["a0"])
    click(tab, "#status a:last-child")
    tab.until("location.hash === '#h0'")
    click(tab, "#clear")
    click(tab, ".pair a.w:not([href])")  # one that stands in no table
    assert tab.ask("document.querySelector('#word').value") == "cross"
    assert shown(tab, "training") == ["t0", "t1", "t2", "t3"]
    choose(tab, "word", "vote")
    assert shown(tab, "training") == ["t4"]


def test_answers_training_texts_and_groups_lead_to_each_other(page):
    tab = page(small())
    click(tab, ".pair a[href='#t0']")
    tab.until("document.activeElement.id === 't0'")
    assert tab.ask("document.querySelector('#t0').getBoundingClientRect().top") < 900
    click(tab, "#t4 .taught a")  # its card is closed
    tab.until("location.hash === '#a1' && document.querySelector('#a1').open")
    click(tab, "#t1 .like")
    tab.until("document.querySelector('#g0').open")
    texts = "[...document.querySelectorAll('#g0 li')].map(one => one.textContent)"
    tab.until(f"{texts}[1].includes('again')")  # the text is not in the group's own HTML
    assert tab.ask(texts)[1] == "line 3Worldtroops cross the border again"
    search(tab, "vote")
    tab.ask("location.hash = '#t0'")  # filtered out, and shown all the same
    tab.until("document.activeElement.id === 't0'")
    assert shown(tab, "training") == ["t0", "t4"]


def test_a_keyboard_is_enough(page):
    tab = page(small())
    tab.press("/")
    assert tab.ask("document.activeElement.id") == "search"
    tab.press(*"vote")
    assert shown(tab, "training") == ["t4"]
    tab.press("Escape")
    assert len(shown(tab, "training")) == 5
    reached = set()
    for _ in range(60):
        tab.press("Tab")
        here = "document.activeElement"
        reached.add(tab.ask(f"{here}.id || {here}.dataset.export || {here}.className || {here}.tagName"))
        if tab.ask(f"{here}.matches('.pair a.w')"):
            assert tab.ask(f"getComputedStyle({here}).outlineStyle") == "solid"
            tab.press("Enter")
            break
    assert tab.ask("document.querySelector('#word').value") in ("troops", "cross")
    assert {"label", "prediction", "word", "mistakes", "SUMMARY"} <= reached


def test_long_lists_are_shown_by_parts(page):
    more = {n: training_of(n, "World", "text", f"number{n}") for n in range(100)}
    tab = page(small(training={**small().training, **{n: one for n, one in more.items() if n > 4}}))
    assert len(shown(tab, "training")) == 25
    click(tab, "[data-list=training] ~ .more-of")
    assert len(shown(tab, "training")) == 50
    tab.ask("location.hash = '#t90'")
    tab.until("document.activeElement.id === 't90'")
    assert len(shown(tab, "training")) == 51
    click(tab, "[data-list=training] ~ .more-of ~ .more-of")
    assert len(shown(tab, "training")) == 100
    assert tab.ask("[...document.querySelectorAll('[data-list=training] ~ .more-of')].every(one => one.hidden)")


def test_what_is_shown_is_exported_with_its_training_texts(page, tmp_path):
    tab = page(small())
    rows = exported(tab, tmp_path / "all", "mistakes")
    assert [(row["test place"], row["pushed"], row["rank"], row["training place"]) for row in rows] == [
        ("line 7", "towards", "1", "line 2"),
        ("line 7", "away", "1", "line 5"),
        ("line 11", "towards", "1", "line 6"),
        ("line 3", "towards", "1", "line 6"),
    ]
    first = {
        name: rows[0][name]
        for name in ("label", "prediction", "probability", "score", "training label", "nearly the same")
    }
    assert first == {
        **{"label": "Sports", "prediction": "World", "probability": "0.999", "score": "2.5", "training label": "World"},
        "nearly the same": "2",
    }
    assert (rows[0]["test text"], rows[1]["training text"]) == ("troops cross field", "the cross wins the game")
    search(tab, "fans")
    assert [row["test place"] for row in exported(tab, tmp_path / "some", "mistakes")] == ["line 11"]
    words = exported(tab, tmp_path / "some", "words")
    assert [(row["found"], row["word"], row["goes with"], row["texts"]) for row in words] == [
        ("goes with one class", "troops", "World", "12"),
        ("behind the mistakes", "vote", "World", "12"),
    ]
    assert float(words[0]["share of its texts"]) == 0.9
    click(tab, "#clear")
    groups = exported(tab, tmp_path / "some", "duplicates")
    assert [(row["group"], row["training place"], row["label"], row["different labels"]) for row in groups] == [
        ("1", "line 2", "World", "yes"),
        ("1", "line 3", "World", "yes"),
        ("1", "line 4", "Sports", "yes"),
    ]
    assert groups[1]["training text"] == "troops cross the border again"


def test_foreign_texts_run_nothing_and_a_sheet_finds_no_formula(page, tmp_path):
    tab = page(foreign(STRINGS))
    assert tab.ask("document.body.dataset.ran") is None
    for what in ("mistakes", "words", "duplicates"):
        rows = exported(tab, tmp_path / what, what)
        cells = [(name, cell) for row in rows for name, cell in row.items()]
        numbers = ("probability", "score", "push", "p", "share of its texts", "share of all texts")
        assert not [cell for name, cell in cells if name not in numbers and re.match(r"\s*[=+\-@＝＋－＠]", cell)]
        assert not [cell for _, cell in cells if set(cell) & set("\u202e\u2066\x1b\x00\x9b")]
        assert any("'=HYPERLINK" in cell for _, cell in cells)
        assert any("U+202E" in cell for _, cell in cells)
    tab.ask("for (const one of document.querySelectorAll('details')) one.open = true")
    words = tab.ask("[...document.querySelectorAll('a.w')].length")
    for n in range(0, words, 7):
        tab.ask(f"document.querySelectorAll('a.w')[{n}] && document.querySelectorAll('a.w')[{n}].click()")
    click(tab, "#clear")
    search(tab, "<script>")
    assert shown(tab, "training")
    assert tab.ask("document.body.dataset.ran") is None


@pytest.mark.parametrize("width", [1400, 400])
def test_nothing_is_cut_at_the_side(page, width):
    tab = page(foreign(STRINGS))
    tab.look(width, 900, False)
    tab.ask("for (const one of document.querySelectorAll('details')) one.open = true")
    wide = tab.ask("[document.documentElement.scrollWidth, innerWidth]")
    tab.look(1280, 900, False)
    assert wide[0] <= wide[1]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_letters_can_be_read(page, dark):
    tab = page(small())
    tab.look(1280, 900, dark)
    tab.ask("for (const one of document.querySelectorAll('details')) one.open = true")
    search(tab, "troops")
    least, where = tab.ask(CONTRAST)
    tab.look(1280, 900, False)
    assert least >= 4.5, where


def test_without_scripts_all_texts_are_there_and_links_lead_on(tab, tmp_path):
    path = viz.write_html(tmp_path / "page.html", viz.explanation_html(small()))
    tab.do("Emulation.setScriptExecutionDisabled", value=True)
    tab.open(path)
    tab.do("Emulation.setScriptExecutionDisabled", value=False)
    seen = tab.ask("document.body.innerText")
    assert len(shown(tab, "training")) == 5
    for text in (
        "troops cross the border",
        "Pushed the model towards World",
        "a vote today",
        "allow this page its own script",
    ):
        assert text in seen, text
    assert not tab.ask("[...document.querySelectorAll('[data-live]')].some(one => one.getClientRects().length)")
    click(tab, ".pair a[href='#t0']")
    tab.until("location.hash === '#t0'")
    click(tab, "#a1 > summary")
    tab.until("document.querySelector('#a1').open")
    tab.errors.clear()


def test_a_word_is_the_same_for_the_script_and_for_a_report(page):
    texts = [
        *[
            "don't go",
            "don t",
            "go-go",
            "3.5 and 3",
            "3 .5",
            "wait... what",
            "wait . what",
            "a_b a",
            "naïve naïve",
            "co\u0301te",
        ],
        *[
            "日本語 text",
            "ไทย",
            "‘quoted’ it's",
            "e-mail@x.org",
            "👩\u200d👧 hi",
            "x\u200by x",
            "1,000 1",
            "...?!",
            "!!",
            "don’t",
        ],
    ]
    found = {n: training_of(n, "World", text) for n, text in enumerate(texts)}
    words = sorted({word for text in texts for word in words_in(text)})
    report = WordReport(tuple(word_of(word) for word in words[:20]), 1.0, 1, 1)
    rest = WordReport(tuple(word_of(word, p=0.001) for word in words[20:32]), 1.0, 1, 1)
    tab = page(small(answers=(), training=found, near=(), habits=report, causes=rest))
    for word in tab.ask("[...document.querySelector('#word').options].slice(1).map(one => one.value)"):
        choose(tab, "word", word)
        assert shown(tab, "training") == [f"t{n}" for n, text in enumerate(texts) if word in words_in(text)], word


def words_in(text):
    """In lower case, as the package divides a text."""
    found: dict[int, str] = {}
    for character, number in zip(text, words_of_characters(text), strict=True):
        if number >= 0:
            found[number] = found.get(number, "") + character
    return {word.lower() for word in found.values()}


def test_a_full_page_opens_and_answers_at_once(tab, tmp_path):
    path = viz.write_html(tmp_path / "page.html", viz.explanation_html(large()))
    tab.do("Performance.enable")
    tab.open(path)
    spent = {one["name"]: one["value"] for one in tab.do("Performance.getMetrics")["metrics"]}
    assert spent["ScriptDuration"] < 1.0
    assert len(shown(tab, "training")) == 25
    asked = """text => { const at = document.querySelector('#search'), start = performance.now();
      at.value = text; at.dispatchEvent(new Event('input')); document.body.offsetHeight; return performance.now() - start; }"""
    time.sleep(1)  # as long as a person takes to the first letter: what is searched is put together meanwhile
    taken = {}
    for _ in range(3):
        for text in ("a", "an", "ed", "no", "class_4", "line 12", "zzz", "", "line 7"):
            taken.setdefault(text, []).append(tab.ask(f"({asked})({text!r})"))
    # The best of three of each: other jobs of the machine are not the page's.
    assert max(map(min, taken.values())) < 100, taken
    assert tab.errors == []
