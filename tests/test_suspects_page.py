"""The page of suspected labels: what it says, that hostile texts stay texts, and that a browser decides, keeps and exports."""

import csv
import io
import re
import time

import pytest
from browser import BROWSER
from cases_of_texts import pair_of, text_of
from hostile import HOSTILE, obeyed
from suspect_cases import found_of, one_suspect, three_suspects

from captum_tracinwe import visualization as viz
from captum_tracinwe.app.cleaning import read_decisions
from captum_tracinwe.labels import Double, MixedUp, Suspect, Suspects
from captum_tracinwe.tabular import harmless
from captum_tracinwe.visualization.suspects_words import about, chance

html5lib = pytest.importorskip("html5lib")

MARKUP = [
    "<script>document.body.dataset.ran='yes'</script>",
    "</script><script>document.body.dataset.ran='yes'</script>",
    "<img/src=x/onerror=document.body.dataset.ran='yes'>",
    "</style><style>*{}",
    "<!--",
    "'\"><svg/onload=alert(3)>",
    "</template></article></main></body>",
    'x" onclick="alert(5)',
    "\u202eevil",
    'line\nfeed, "quoted"',
    "a\r\nb",
]
FOREIGN = [*MARKUP, *(n[:80] for n in HOSTILE if not any("\ud800" <= c <= "\udfff" for c in n))]


def parsed(source):
    parser = html5lib.HTMLParser(namespaceHTMLElements=False)
    found = parser.parse(source)
    # A carriage return of a text is written "&#13;", which the standard reads as one, and frowns at. No other error.
    assert [error for error in parser.errors if error[2] != {"charAsInt": 13}] == []
    return found


def read(element):
    return re.sub(r"\s+", " ", " ".join(element.itertext())).strip()


def cards_of(source):
    return [one for one in parsed(source).iter("article") if "suspect" in one.get("class")]


# ---------------------------------------------------------------------------------------------------- what is said


def test_the_head_says_how_many_labels_are_wrong_in_plain_words():
    found = three_suspects()
    page = viz.suspects_html(found, title="My labels")
    [lead] = [one for one in parsed(page).iter("p") if one.get("class") == "lead"]
    whole, fifty, hundred = (about(found.expected(n)) for n in (None, 50, 100))
    assert read(lead) == (
        f"Of 120 training texts, about {whole} probably have a wrong label: about {fifty} of the first 50 and about {hundred} of "
        "the first 100."
    )
    assert [read(one) for one in parsed(page).iter("h1")] == ["My labels"]
    assert 'role="note"' not in page


def test_where_the_judge_cannot_tell_the_page_warns_and_promises_bounds():
    found = three_suspects(tells=False, accuracy=0.34)
    for shown in (viz.suspects_html(found), viz.suspects_fragment(found), viz.suspects_text(found)):
        assert "only 34% of the labels" in re.sub(r"\s+", " ", shown)
        assert "at most 97%" in shown
    [warning] = [one for one in parsed(viz.suspects_html(found)).iter("p") if one.get("class") == "warning"]
    assert "upper bounds" in read(warning)
    assert "upper bounds" not in viz.suspects_text(three_suspects())


def test_a_card_has_label_suggestion_chance_witnesses_and_words():
    first, second, third = cards_of(viz.suspects_html(three_suspects()))
    said = read(first)
    assert said.startswith("Labelled Sports → probably World 97% likely wrong 1 of 3 · text 7")
    assert "Training texts against Sports by their words troops · minister" in said.replace(
        "minister · troops", "troops · minister"
    )
    assert "Training texts for Sports by their words kick" in said
    marked = {(one.text or "").strip(): one.get("class") for one in first.iter("mark")}
    assert marked == {"troops": "o", "minister": "o", "kick": "p"}
    assert [read(one) for one in first.iter("li")] == [
        "label Sports text 90 troops minister witness",  # what was judged, not what its text says
        "label World text 91 friend kick",
    ]
    assert "60% likely wrong" in read(second)
    assert "under 1% likely wrong" in read(third)


@pytest.mark.parametrize(
    ("certainty", "card", "line"),
    [
        (None, "Labelled a → probably b 50% likely wrong", "50%  a → b  (text 5)"),
        (1.0, "Labelled a → probably b 50% likely wrong", "50%  a → b  (text 5)"),
        (0.97, "Labelled a → probably b 97% sure if wrong 50% likely", "50%  a → b, 97% sure if wrong  (text 5)"),
        (0.3, "Labelled a → perhaps b 30% sure if wrong 50% likely", "50%  a → b, 30% sure if wrong  (text 5)"),
    ],
)
def test_how_sure_a_suggested_label_is_stands_beside_it(certainty, card, line):
    found = found_of(Suspect(5, "a", "b", 0.5, certainty=certainty))
    assert read(cards_of(viz.suspects_html(found))[0]).startswith(card)
    assert line in viz.suspects_text(found)


def test_places_stand_for_indices_and_texts_for_doubles():
    texts = {3: text_of("goal", "now"), 7: text_of("goal", "then")}
    page = viz.suspects_html(three_suspects(), texts=texts, places=[f"line {n + 2}" for n in range(120)])
    assert "1 of 3 · line 9" in read(cards_of(page)[0])
    doubles = next(one for one in parsed(page).iter("ul") if one.get("class") == "doubles")
    assert read(doubles) == "label World line 5 goal now label Sports line 9 goal then"
    table = next(one for one in parsed(page).iter("table") if one.get("class") == "pairs")
    assert read(table).endswith("Sports World 12 31% of 40")


def test_a_card_without_text_or_reasons_is_still_one():
    found = found_of(Suspect(5, "a", "b", 0.5))
    [card] = cards_of(viz.suspects_html(found))
    assert "The text was not given" in read(card)
    assert "Training texts" not in read(card)
    assert cards_of(viz.suspects_html(found_of())) == []
    assert "pass limit=50" in viz.suspects_html(found_of())


def test_the_weaker_side_is_seen_in_the_text_too():
    one = one_suspect(1, "a", "b", 0.9, "storm", "the", "coast")
    strong = one.reasons.speaks_for[0]
    object.__setattr__(one.reasons, "speaks_for", (pair_of(one.text, strong.train_text, [1000.0], 1, 91),))
    [card] = cards_of(viz.suspects_html(found_of(one)))
    own = next(part for part in card if part.get("class") == "text")
    assert {mark.text: mark.get("class") for mark in own.iter("mark")} == {"storm": "o", "the": "o", "coast": "p"}


def test_words_that_hardly_count_are_not_coloured():
    one = one_suspect(1, "a", "b", 0.9, "storm", "the", "coast")
    pair = one.reasons.speaks_against[0]
    for weak, marked in ((0.1, 1), (1.0, 2)):
        pair.token_shares.copy_(pair.token_shares.new_tensor([weak - 3, -weak]))
        [card] = cards_of(viz.suspects_html(found_of(one)))
        assert len(list(next(card.iter("li")).iter("mark"))) == marked


@pytest.mark.parametrize(
    ("suspicion", "tells", "said"),
    [
        *[(1.0, True, "over 99%"), (0.995, True, "over 99%"), (0.5, True, "50%"), (0.001, True, "under 1%")],
        *[(1.0, False, "up to 100%"), (0.5, False, "at most 50%"), (0.0, False, "under 1%")],
    ],
)
def test_a_chance_is_never_certain(suspicion, tells, said):
    assert chance(suspicion, tells) == said


def test_text_for_a_terminal_has_the_first_ones_and_both_findings():
    shown = viz.suspects_text(three_suspects(), top=1)
    assert "97%  Sports → World  (text 7)" in shown
    assert "for Sports: kick" in shown
    assert "World → Sports" not in shown
    assert "... and 119 more: see to_table()" in shown
    assert "12 of 40 texts: Sports → World" in shown
    assert "text 3 (World) and text 7 (Sports)" in shown
    assert str(three_suspects()) == viz.suspects_text(three_suspects())


def test_one_of_a_kind_is_said_so():
    found = Suspects((), (0,), (1.0,), ("a",), ("b",))
    assert viz.suspects_text(found).startswith("Of 1 training text, about 1 probably has a wrong label.")


def test_what_is_no_result_is_refused():
    for draw in (viz.suspects_html, viz.suspects_fragment, viz.suspects_text):
        with pytest.raises(TypeError, match=r"[Ee]xpected Suspects, as suspects\(\.\.\.\) returns them, got list"):
            draw([])
    with pytest.raises(ValueError, match="[Ee]xpected `top` as a whole number"):
        viz.suspects_text(three_suspects(), top=-1)


# ---------------------------------------------------------------------------------------------------- hostile texts


def hostile():
    cards = [
        one_suspect(n, FOREIGN[n], FOREIGN[n + 1], 0.9, *FOREIGN[n : n + 6], f"end{n}")
        for n in range(0, len(FOREIGN) - 6, 6)
    ]
    return found_of(
        *cards,
        mixed_up=(MixedUp(FOREIGN[0], FOREIGN[8], 2.0, 3),),
        doubles=(Double((0, 6), (FOREIGN[1], FOREIGN[8]), 1.0),),
    )


def shown_of_hostile():
    found, everything = hostile(), " ".join(FOREIGN)
    page = viz.suspects_html(found, title=everything, places=FOREIGN, texts={0: text_of(*FOREIGN)})
    fragment = viz.suspects_fragment(found, top=99)
    return {"page": page, "fragment": fragment, "notebook": found._repr_html_()}


HOSTILE_PAGES = shown_of_hostile()


@pytest.mark.parametrize("name", HOSTILE_PAGES)
def test_no_text_brings_an_element_or_an_attribute(name):
    source = HOSTILE_PAGES[name]
    found = parsed(source if name == "page" else f"<!DOCTYPE html><meta charset=utf-8><title>x</title>{source}")
    scripts = [one.attrib for one in found.iter("script")]
    assert scripts == ([{"type": "application/json", "id": "about"}, {}] if name == "page" else [])
    assert not {"img", "svg", "iframe", "link", "a", "form"} & {one.tag for one in found.iter()}
    attributes = {attribute for one in found.iter() for attribute in one.attrib}
    assert not [attribute for attribute in attributes if attribute.startswith("on") or attribute in ("src", "href")]
    assert len(list(found.iter("style"))) == 1
    for one in found.iter():
        assert re.fullmatch(r"--a:[\d.]+", one.get("style", "--a:1"))


@pytest.mark.parametrize("name", HOSTILE_PAGES)
def test_no_mark_of_direction_is_obeyed_and_no_control_is_sent(name):
    assert not obeyed(HOSTILE_PAGES[name].replace("\t", "").replace("\r", ""))
    assert "U+202E" in HOSTILE_PAGES[name]


def test_a_terminal_is_sent_no_control():
    shown = viz.suspects_text(hostile(), top=99)
    assert not obeyed(shown)
    assert "<script>" in shown


def test_the_policy_names_our_script_and_no_other():
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', viz.suspects_html(three_suspects()))
    assert re.fullmatch(
        r"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-[A-Za-z0-9+/]{43}='", policy
    )
    assert "script-src" not in viz.word_influence_html([])


# ------------------------------------------------------------------------------------------------------ in a browser

in_a_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium")


@pytest.fixture
def page(tab, tmp_path):
    """Opens a result's page, the store holding what is given; in the end no page may have complained."""

    def opened(found, name="page.html", kept=None):
        tab.keep(kept)
        tab.open(viz.write_html(tmp_path / name, viz.suspects_html(found)))
        return tab

    tab.errors.clear()
    yield opened
    assert tab.errors == []


def progress(tab):
    return tab.ask("document.querySelector('#progress').textContent")


def current(tab):
    return tab.ask("[...document.querySelectorAll('.suspect')].findIndex(card => card.classList.contains('now'))")


def exported(tab, folder):
    """The rows of the file that the button saves."""
    folder.mkdir(exist_ok=True)
    tab.downloads(folder)
    tab.ask("document.querySelector('#export').click()")
    deadline, path = time.monotonic() + 30, folder / "decisions.csv"
    while not path.exists() or not path.stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline="")))


@in_a_browser
def test_keys_decide_move_and_undo(page):
    tab = page(three_suspects())
    assert progress(tab) == "0 of 3 decided"
    assert current(tab) == 0
    tab.press("j", "j", "j")
    assert current(tab) == 2
    tab.press("k", "ArrowLeft", "ArrowRight", "k")
    assert current(tab) == 0
    tab.press("1")
    assert progress(tab) == "1 of 3 decided: 1 kept, 0 changed, 0 dropped"
    assert current(tab) == 1  # on to the next
    tab.press("2", "3")
    assert progress(tab) == "3 of 3 decided: 1 kept, 1 changed, 1 dropped"
    verdicts = "[...document.querySelectorAll('.verdict')].map(one => one.hidden ? '' : one.textContent)"
    assert tab.ask(verdicts) == ["kept", "changed to Sports", "dropped"]
    assert "Export" in tab.ask("document.querySelector('#told').textContent")
    tab.press("u", "u")
    assert tab.ask(verdicts) == ["kept", "", ""]
    assert current(tab) == 1
    tab.press("u", "u")  # one more than there are
    assert progress(tab) == "0 of 3 decided"


@in_a_browser
def test_a_decision_goes_to_the_next_that_waits_and_can_be_changed(page):
    tab = page(three_suspects())
    tab.press("j", "1")
    assert current(tab) == 2
    tab.press("1")
    assert current(tab) == 0  # round to the first, which waits
    tab.press("j", "3")
    assert progress(tab) == "2 of 3 decided: 1 kept, 0 changed, 1 dropped"
    assert current(tab) == 2 - 2


@in_a_browser
def test_another_label_is_chosen_from_a_list_without_the_own_one(page, tmp_path):
    tab = page(three_suspects())
    tab.press("4")
    assert tab.ask("document.activeElement.tagName") == "SELECT"
    options = "[...document.querySelector('.suspect select').options].map(o => [o.text, o.disabled])"
    assert tab.ask(options) == [["–", False], ["Money", False], ["Sports", True], ["World", False]]
    tab.press("M")
    assert tab.ask("document.querySelector('.verdict').textContent") == "changed to Money"
    assert current(tab) == 0  # the list is still being read
    tab.press("1", "Escape")  # within a list a key is the list's
    assert tab.ask("document.activeElement.tagName") == "ARTICLE"
    [row] = exported(tab, tmp_path / "saved")
    assert row == {"index": "7", "label": "Sports", "decision": "relabel", "new_label": "Money"}


@in_a_browser
def test_keys_with_control_or_alt_are_the_browsers(page):
    tab = page(three_suspects())
    tab.ask("document.dispatchEvent(new KeyboardEvent('keydown', {key: '1', ctrlKey: true, bubbles: true}))")
    tab.ask("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '1', altKey: true, bubbles: true}))")
    tab.ask("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '1', repeat: true, bubbles: true}))")
    assert progress(tab) == "0 of 3 decided"
    tab.ask("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '1', bubbles: true}))")
    assert progress(tab).startswith("1 of 3")
    tab.ask("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'é', code: 'Digit2', bubbles: true}))")
    assert progress(tab).endswith("1 kept, 1 changed, 0 dropped")  # where digits need another key
    tab.ask("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'U', bubbles: true}))")
    assert progress(tab).endswith("1 kept, 0 changed, 0 dropped")


@in_a_browser
def test_decisions_are_there_after_a_reload_and_on_this_page_alone(page):
    tab = page(three_suspects())
    tab.press("1", "2")
    assert progress(tab) == "2 of 3 decided: 1 kept, 1 changed, 0 dropped"
    kept = tab.kept()
    page(three_suspects(), kept=kept)
    assert progress(tab) == "2 of 3 decided: 1 kept, 1 changed, 0 dropped"
    assert current(tab) == 2  # where it was left
    other = three_suspects()
    changed = found_of(one_suspect(7, "Sports", "World", 0.97, "another", "text", "kick"), *other.first[1:])
    page(changed, "other.html", kept)
    assert progress(tab) == "0 of 3 decided"
    page(three_suspects(), "copy.html", kept)  # the same page under another name
    assert progress(tab).startswith("2 of 3 decided")
    tab.press("u")
    assert progress(tab).startswith("1 of 3 decided")  # also what was decided before


@in_a_browser
def test_a_store_that_is_broken_or_full_of_nonsense_stops_nothing(page):
    tab = page(three_suspects())
    tab.press("1")
    [key] = tab.kept()
    odd = '{"made": [["7", ["relabel", 99]], ["3", ["sing"]], ["99", ["keep"]]]}'
    for held in ("{", "null", "[]", '{"past": [5]}', '{"past": 5}', odd):
        page(three_suspects(), kept={key: held})
        assert progress(tab) == "0 of 3 decided", held
    tab.press("u")
    tab.ask("Storage.prototype.setItem = () => { throw new Error('full'); }")
    tab.press("1")
    assert (
        "export before you close it" in tab.ask("document.querySelector('#told').textContent")
        or progress(tab)[0] == "1"
    )


@in_a_browser
def test_export_and_import_are_of_one_form(page, tmp_path):
    names = ['a,"b"', "line\nfeed", "\u202eevil"]
    found = found_of(
        one_suspect(0, names[0], names[1], 0.9, "x", "y", "z"),
        one_suspect(1, names[1], names[2], 0.8, "x", "y", "w"),
        one_suspect(2, names[2], names[0], 0.7, "x", "y", "v"),
        size=3,
    )
    tab = page(found)
    tab.press("2", "1")
    rows = exported(tab, tmp_path / "saved")
    assert rows == [
        {"index": "0", "label": names[0], "decision": "relabel", "new_label": names[1]},
        {"index": "1", "label": names[1], "decision": "keep", "new_label": ""},
    ]
    page(found)
    assert progress(tab) == "0 of 3 decided"
    tab.choose("#file", tmp_path / "saved" / "decisions.csv")
    tab.until("document.querySelector('#told').textContent.includes('imported')")
    assert progress(tab) == "2 of 3 decided: 1 kept, 1 changed, 0 dropped"
    assert tab.ask("document.querySelector('#told').textContent") == "2 decisions imported."
    tab.press("u")  # an import is one step
    assert progress(tab) == "0 of 3 decided"


@in_a_browser
def test_labels_that_a_spreadsheet_would_obey_are_exported_harmless_and_imported_as_they_are(page, tmp_path):
    names = ["=1+1", "-1", "'@x", "\u3000＝x", "it's = 1"]
    cards = [one_suspect(i, name, names[i - 1], 0.9, "x", "y", f"z{i}") for i, name in enumerate(names)]
    found = found_of(*cards, size=len(names))
    tab = page(found)
    tab.press("2", "2", "2", "2", "2")
    rows = exported(tab, tmp_path / "saved")
    assert [row["label"] for row in rows] == [harmless(name) for name in names]
    assert [row["new_label"] for row in rows] == [harmless(name) for name in (names[-1], *names[:-1])]
    assert [row["label"] for row in rows] == ["'=1+1", "'-1", "''@x", "'\u3000＝x", "it's = 1"]
    told = read_decisions(tmp_path / "saved" / "decisions.csv")
    assert [(one.label, one.new_label) for one in told] == [(name, names[i - 1]) for i, name in enumerate(names)]
    page(found)
    assert progress(tab) == "0 of 5 decided"
    tab.choose("#file", tmp_path / "saved" / "decisions.csv")
    tab.until("document.querySelector('#told').textContent.includes('imported')")
    assert tab.ask("document.querySelector('#told').textContent") == "5 decisions imported."


@in_a_browser
def test_an_import_takes_what_fits_and_says_what_does_not(page, tmp_path):
    tab = page(three_suspects())
    lines = ["7,Sports,keep,", "3,Sports,keep,", "11,Money,relabel,Nonsense", "99,World,drop,"]
    (tmp_path / "some.csv").write_text("\ufeff" + "\r\n".join(["index,label,decision,new_label", *lines]))
    tab.choose("#file", tmp_path / "some.csv")
    tab.until("document.querySelector('#told').textContent.includes('imported')")
    said = tab.ask("document.querySelector('#told').textContent")
    assert said == "1 decisions imported. 3 do not fit the texts of this page and were left out."
    assert progress(tab) == "1 of 3 decided: 1 kept, 0 changed, 0 dropped"
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    tab.choose("#file", tmp_path / "other.csv")
    tab.until("document.querySelector('#told').textContent.startsWith('Not imported')")
    assert progress(tab).startswith("1 of 3")


@in_a_browser
def test_what_cannot_see_hears_and_a_keyboard_finds_its_way(page):
    tab = page(three_suspects())
    live = "[...document.querySelectorAll('[aria-live=polite]')].map(one => one.id)"
    assert tab.ask(live) == ["progress", "told"]
    tab.press("j")
    assert tab.ask("document.activeElement.getAttribute('aria-labelledby')") == "card1"
    assert tab.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.press("Tab")
    assert tab.ask("document.activeElement.dataset.do") == "keep"
    assert tab.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.press("Enter")
    assert progress(tab).startswith("1 of 3 decided: 1 kept")
    pressed = "[...document.querySelectorAll('[aria-pressed=true]')].map(one => one.dataset.do)"
    assert tab.ask(pressed) == ["keep"]


CONTRAST = """(() => {
const light = rgb => rgb.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
const behind = element => {
  const layers = [];
  for (let at = element; at; at = at.parentElement) layers.unshift(numbers(getComputedStyle(at).backgroundColor));
  return layers.reduce((under, [r, g, b, a = 1]) => under.map((v, i) => v * (1 - a) + [r, g, b][i] * a), [255, 255, 255]);
};
let least = [99, ""];
for (const element of document.querySelectorAll(".ctwe *")) {
  const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
  if (!own || !element.getClientRects().length || element.closest("style, script, .cut, :disabled")) continue;
  const [a, b] = [numbers(getComputedStyle(element).color).slice(0, 3), behind(element)].map(light);
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < least[0]) least = [ratio, element.outerHTML.slice(0, 120)];
}
return least;
})()"""


@in_a_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_letters_can_be_read(page, dark):
    tab = page(three_suspects(tells=False))
    tab.press("1")
    tab.look(1280, 900, dark)
    least, where = tab.ask(CONTRAST)
    tab.look(1280, 900, False)
    assert least >= 4.5, where


@in_a_browser
def test_on_a_narrow_screen_nothing_is_cut_at_the_side(page):
    tab = page(hostile())
    tab.look(420, 900, False)
    wide = tab.ask("[document.documentElement.scrollWidth, innerWidth]")
    tab.look(1280, 900, False)
    assert wide[0] <= wide[1]


@in_a_browser
def test_hostile_texts_run_nothing_and_our_script_runs_all_the_same(page):
    tab = page(hostile())
    assert tab.ask("document.body.dataset.ran") is None
    assert tab.ask("document.querySelectorAll('.suspect').length") == len(hostile().first)
    tab.press("2", "3")
    assert progress(tab).endswith("0 kept, 1 changed, 1 dropped")
    assert tab.ask("document.body.dataset.ran") is None


@in_a_browser
def test_a_page_without_cards_has_nothing_to_decide_and_no_error(page):
    tab = page(found_of())
    tab.press("j", "1", "u")
    assert not tab.ask("[...document.querySelectorAll('.desk')].some(one => one.getClientRects().length)")
