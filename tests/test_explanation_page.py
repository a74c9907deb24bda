"""The page of an explanation, read by a parser of the standard: what comes first, what leads where, foreign texts."""

import re
from dataclasses import replace

import pytest
from explanation_cases import answer_of, foreign, large, performance_of, small, training_of, word_of
from hostile import HOSTILE, obeyed
from test_suspects_page import FOREIGN, parsed, read

from captum_tracinwe import WordReport
from captum_tracinwe import visualization as viz
from captum_tracinwe.explanation import Near
from captum_tracinwe.visualization.explanation_tables import in_name
from captum_tracinwe.visualization.explanation_words import explanation_text

html5lib = pytest.importorskip("html5lib")

EXTRA = [
    '=HYPERLINK("http://x")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "x" * 10_000,
    "مرحبا بالعالم",
    "👩\u200d👩\u200d👧 🇩🇪",
    "e\u0301\u0323\u0489" * 5,
    "a\u200b\u2060b",
    "\ud800half\udc00",
]
STRINGS = [*EXTRA, *FOREIGN]


def of_class(source, name, tag=None):
    return [one for one in parsed(source).iter(tag) if name in (one.get("class") or "").split()]


def by_id(source, name):
    [found] = [one for one in parsed(source).iter() if one.get("id") == name]
    return found


# ---------------------------------------------------------------------------------------------------- what is said


def test_the_result_comes_first_beside_an_answer_that_is_always_the_same():
    page = viz.explanation_html(small())
    [lead] = of_class(page, "lead")
    assert read(lead) == (
        "The model is right on 17 of 20 test texts ( 85% ). Always answering World , the most frequent class among them, would "
        "be right on 8 (40%)."
    )
    assert [read(one) for one in parsed(page).iter("h1")] == ["My run"]
    assert "not learned" not in page
    assert [read(one) for one in parsed(viz.explanation_html(small(), title="Other")).iter("h1")] == ["Other"]


def test_a_model_that_learned_nothing_is_said_so_before_anything_else():
    found = small(performance=performance_of(right=8, p=0.6))
    once = "is right on 8 of 20 test texts"
    for shown in (viz.explanation_html(found), found._repr_html_()):
        [warning] = of_class(shown if shown.startswith("<!") else f"<!DOCTYPE html><title>x</title>{shown}", "warning")
        assert read(warning).startswith(f"This model has not learned the task. It {once} ( 40% ).")
        assert "Always answering World , the most frequent class among them, would be right on 8 (40%)" in read(warning)
        assert shown.index('class="warning"') < shown.index("<h2")
        assert shown.count(once) == shown.count("Always answering") == 1  # the next paragraph does not say it again
    assert viz.explanation_html(found).index('class="warning"') < viz.explanation_html(found).index("<h1")


def test_where_too_few_texts_were_asked_it_is_not_said_that_nothing_was_learned():
    page = viz.explanation_html(small(performance=performance_of(right=9, p=0.4)))
    [warning] = of_class(page, "warning")
    assert read(warning).startswith(
        "Too few test texts to tell whether the model has learned the task. It is right on 9 of 20 test texts ( 45% )."
    )
    assert read(warning).endswith("The difference may be chance (p = 0.400).")
    assert "guesses" not in page


def test_classes_stand_weakest_first_and_many_are_folded():
    [table] = of_class(viz.explanation_html(small()), "each")
    assert [read(row) for row in table.iter("tr")][1:] == ["World 90% 9 of 10 10 50", "Sports 100% 10 of 10 10 40"]
    many = small(performance=performance_of(tests=200, names=tuple("abcdefghij")))
    first, rest = of_class(viz.explanation_html(many), "each")
    assert [read(row)[0] for row in first.iter("tr")][1:] == list("jihgfe")
    assert len(list(rest.iter("tr"))) == 5


def test_mistakes_stand_as_they_are_given_the_first_open_and_right_answers_after_them():
    page = viz.explanation_html(small())
    cards = of_class(page, "answer")
    assert [one.get("open") is not None for one in cards] == [True, False, False]
    assert read(cards[0][0]) == "line 7 troops cross field Sports → World over 99% sure"
    assert read(cards[1][0]) == "line 11 a vote of fans Sports → World 62% sure"
    assert read(cards[2][0]) == "line 3 the vote ✓ World 90% sure"
    assert page.index('id="answers"') < page.index("line 11") < page.index('id="right"') < page.index(">line 3<")
    assert "2 of 3 are explained" in page
    everything = viz.explanation_html(small(performance=performance_of(right=18)))
    assert "are explained" not in everything


def test_a_card_says_who_pushed_the_model_there_and_who_away_on_a_scale_of_its_own():
    first, second, _ = of_class(viz.explanation_html(small()), "answer")
    assert [read(one) for one in first.iter("h4")] == [
        "Pushed the model towards World",
        "Pushed it away from World",
    ]
    towards, away = [one for one in first.iter("article")]
    assert read(towards).startswith("line 2 label World and 2 like it, with different labels +2.50")
    assert read(away).startswith("line 5 label Sports −0.40")
    marked = {(one.get("class"), one.get("style")) for one in first.iter("mark")}
    assert marked == {("p", "--a:1.00"), ("p", "--a:.25"), ("o", "--a:.20")}
    assert max(one.get("style") for one in second.iter("mark")) == "--a:1.00"  # weak numbers, and yet seen
    assert read(second).endswith("Full colour in this card: 0.0200")


def test_a_line_of_key_stands_before_the_mistakes_and_the_rest_is_folded():
    page = viz.explanation_html(small())
    [key] = of_class(page, "key")
    assert read(key) == (
        "Blue, solid line : pushed the model towards its answer. Orange, dashed : pushed it away. The stronger the colour, the "
        "more."
    )
    assert len(of_class(page, "legend")) >= 1
    parents = {child: parent for parent in parsed(page).iter() for child in parent}
    for one in parents:
        if (one.get("class") or "") == "legend":
            assert parents[one].tag == "details"
            assert parents[one].get("open") is None


def test_every_link_leads_to_a_place_on_the_page():
    for page in (viz.explanation_html(small()), viz.explanation_html(foreign(STRINGS))):
        found = list(parsed(page).iter())
        ids = [one.get("id") for one in found if one.get("id")]
        assert len(ids) == len(set(ids))
        links = [one.get("href") for one in found if one.get("href") is not None]
        assert len(links) > 10
        assert {link.removeprefix("#") for link in links} <= set(ids)
        assert all(link.startswith("#") for link in links)


def test_words_lead_to_their_row_and_texts_to_those_they_taught():
    page = viz.explanation_html(small())
    of_words = {read(one): one.get("href") for one in of_class(by_text(page, "article", "line 2"), "w")}
    assert of_words == {"cross": None, "troops": "#h0"}
    row = by_id(page, "h0")
    assert read(row) == "troops World 90% of all texts 25% 12 0.001 +1.00 line 2 , line 3"
    assert [one.get("href") for one in row.iter("a") if one.get("href")] == ["#h0", "#t0", "#t1"]
    assert "the" not in [read(one[0]) for one in by_id(page, "habits").iter("tr")]  # goes with no class
    text = by_id(page, "t4")
    assert read(text) == "line 6 World a vote today Pushed towards the answers to line 11 , line 3"
    assert [one.get("href") for one in text.iter("a")] == ["#a1", "#a2"]


def by_text(page, tag, start):
    """The first element of a kind that begins so, as a page of its own."""
    found = next(one for one in parsed(page).iter(tag) if read(one).startswith(start))
    inner = html5lib.serialize(found, quote_attr_values="always")
    return f"<!DOCTYPE html><title>x</title>{inner}"


def test_contents_name_what_there_is_and_a_word_that_is_not_in_its_class_name():
    words = (word_of("worldly", "World"), word_of("crimson", "World"))
    found = small(habits=WordReport(words, 2.0, 20, 90))
    said = [read(one) for one in of_class(viz.explanation_html(found), "contents")[0]]
    assert said == [
        "2 mistakes explained the worst: line 7 , Sports taken for World",
        "Words that go with one class such as crimson with World",
        "Words behind the mistakes first: vote",
        "1 group of near-duplicates 1 group with different labels",
        "5 training texts of 90 in all",
    ]


@pytest.mark.parametrize(
    ("word", "label", "said"),
    [
        *[("declined", "card_decline", True), ("linked", "card_linking", True), ("top", "automatic_top_up", True)],
        *[("transaction", "cancel_transfer", False), ("china", "card_about_to_expire", False), ("a", "a", False)],
    ],
)
def test_a_word_of_its_class_name_is_told(word, label, said):
    assert in_name(word, label) is said


def test_the_terminal_promises_no_more_words_than_the_page_has():
    for many, said in ((130, "... and 92 more on the page, of 130 in all"), (50, "... and 42 more on the page\n")):
        found = small(habits=WordReport(tuple(word_of(f"word{n}") for n in range(many)), 1.0, 20, 90))
        assert said in explanation_text(found)
        assert viz.explanation_html(found).count(' id="h') == min(many, 100) + 1  # and "habits"


def test_groups_at_odds_come_first_with_a_text_of_each_label():
    found = small(near=(Near((3, 4), ("Sports", "Sports")), Near((0, 1, 2, 77), ("World", "World", "Sports", "World"))))
    odds, same = of_class(viz.explanation_html(found), "group")
    assert read(odds[0]) == "4 texts troops cross the border different labels World 3 ×, Sports 1 ×"
    assert [read(one) for one in odds[1]] == [
        "line 2 World troops cross the border",
        "line 3 World",
        "line 4 Sports troops cross a border",
        "text 77 World",
    ]
    assert read(same[0]).endswith("Sports 2 ×")


def test_what_is_not_there_is_said_and_not_drawn():
    nothing = WordReport((), 0.0, 20, 90)
    page = viz.explanation_html(
        small(answers=(), habits=nothing, causes=None, near=(), training={}, performance=performance_of(right=20))
    )
    assert "The model made no mistake on the test texts." in page
    assert "No word goes with one class beyond chance." in page
    assert "No two training texts are nearly the same." in page
    assert not of_class(page, "answer") + of_class(page, "group")
    assert 'id="training"' not in page
    assert "data-export" not in page.split("<script>")[0]
    lonely = answer_of(1, "World", "Sports", 0.5, training_of(9, "World", "a").text)
    assert "none shares a word with it" in viz.explanation_html(small(answers=(lonely,)))


def test_a_long_text_is_folded_and_each_character_stands_once():
    words = [f"w{n}" for n in range(300)]
    one = training_of(6, "World", *words)
    page = viz.explanation_html(small(training={**small().training, 6: one}), fold_at=100)
    row = by_id(page, "t6")
    assert re.sub(r"… Show all [\d,]+ characters ", "", read(row)).endswith(" ".join(words))
    assert page.count("w250") == 1
    assert len(of_class(viz.explanation_html(small(training={6: one}), fold_at=10_000), "fold")) == 0


def test_what_is_no_explanation_is_refused():
    for draw in (viz.explanation_html, viz.explanation_fragment):
        with pytest.raises(TypeError, match=r"[Ee]xpected an Explanation, as explain\(\.\.\.\) returns it, got list"):
            draw([])
    with pytest.raises(ValueError, match="[Ee]xpected `top_words` as a whole number of at least 0"):
        viz.explanation_html(small(), top_words=-1)
    with pytest.raises(ValueError, match="[Ee]xpected `fold_at` as a whole number"):
        viz.explanation_html(small(), fold_at=1.5)
    assert '<table class="shares"' not in viz.explanation_html(small(), top_words=0)


ODD = (
    "signs aside",
    "stick to",
    "sticks to",
    "(numbers: lines)",
    "1 segments",
    "a training step on them lowers this text",
)


def test_pictures_say_it_in_plain_words_the_result_before_the_details():
    report = WordReport((word_of("troops"), word_of("vote", p=0.9)), 2.0, 1, 1)
    pairs = list(small().answers[0].pairs)
    pages = [viz.word_report_html(report), viz.word_influence_html(pairs), viz.explanation_html(small())]
    fig, ax = viz.plot_word_report(report, top=1)
    for said in (
        *pages,
        viz.word_report_text(report),
        viz.word_influence_text(pairs, color=False),
        ax.get_title(loc="left"),
    ):
        assert not [phrase for phrase in ODD if phrase in " ".join(said.split())]
    for said in pages[:2]:
        [legend] = of_class(said, "legend")
        folded = [read(one) for one in legend.iter("details")]
        assert len(read(legend)) - len(folded[0]) < 250  # a line or two
        assert "pushed" in read(legend)
        assert "squared gradient" in folded[0]


def test_in_a_notebook_it_is_a_piece_without_links_and_scripts():
    shown = small()._repr_html_()
    assert shown == viz.explanation_fragment(small())
    found = parsed(f"<!DOCTYPE html><title>x</title>{shown}")
    assert not [one for one in found.iter() if one.get("id") or one.get("href") or one.tag in ("script", "button", "a")]
    assert "Pushed the model towards" in shown
    assert "2 more: visualization.explanation_html(...) shows all" in viz.explanation_fragment(small(), top=1)


# ---------------------------------------------------------------------------------------------------- hostile texts

PAGES = {"page": viz.explanation_html(foreign(STRINGS)), "fragment": viz.explanation_fragment(foreign(STRINGS), top=99)}
ATTRIBUTES = {
    *[
        "class",
        "style",
        "title",
        "id",
        "href",
        "open",
        "scope",
        "dir",
        "hidden",
        "role",
        "type",
        "value",
        "lang",
        "charset",
    ],
    *[
        "http-equiv",
        "content",
        "name",
        "placeholder",
        "autocomplete",
        "aria-label",
        "aria-live",
        "aria-expanded",
        "aria-controls",
    ],
    *[
        "data-l",
        "data-p",
        "data-s",
        "data-t",
        "data-w",
        "data-c",
        "data-b",
        "data-pv",
        "data-h",
        "data-n",
        "data-kind",
        "data-list",
    ],
    *["data-live", "data-export"],
}


@pytest.mark.parametrize("name", PAGES)
def test_no_text_brings_an_element_or_an_attribute(name):
    assert len(STRINGS) >= 40
    found = parsed(
        PAGES[name] if name == "page" else f"<!DOCTYPE html><meta charset=utf-8><title>x</title>{PAGES[name]}"
    )
    assert [one.attrib for one in found.iter("script")] == ([{}] if name == "page" else [])
    assert not {"img", "svg", "iframe", "link", "form", "object", "template"} & {str(one.tag) for one in found.iter()}
    assert {attribute for one in found.iter() for attribute in one.attrib} <= ATTRIBUTES
    assert len(list(found.iter("style"))) == 1
    for one in found.iter():
        assert re.fullmatch(r"--a:[\d.]+", one.get("style", "--a:1"))
        assert re.fullmatch(r"#[a-z]+\d*", one.get("href", "#a"))


@pytest.mark.parametrize("name", PAGES)
def test_no_mark_of_direction_is_obeyed_and_every_text_is_isolated(name):
    source = PAGES[name].split("<script>")[0]
    assert not obeyed(source.replace("\t", "").replace("\r", ""))
    assert "U+202E" in source

    def look(element, isolated=False):
        isolated = isolated or element.tag == "bdi" or element.get("dir") == "auto"
        yield element, isolated
        for child in element:
            yield from look(child, isolated)

    body = source[source.index("<body") :] if name == "page" else source
    for element, inside in look(html5lib.parseFragment(body, namespaceHTMLElements=False)):
        for text, isolated in [(element.text, inside), *((child.tail, inside) for child in element)]:
            told = text and element.tag not in ("h1", "style", "option") and ("evil" in text or "مرحبا" in text)
            assert isolated or not told, (element.tag, text[:60])


def test_the_policy_names_our_script_and_no_other():
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', PAGES["page"])
    assert re.fullmatch(
        r"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-[A-Za-z0-9+/]{43}='", policy
    )


def test_all_texts_stand_on_the_page_once_with_the_training_texts():
    found = small()
    page = viz.explanation_html(found)
    texts = [re.sub(r".*? (?=troops|the|a )", "", read(one), count=1) for one in by_id(page, "training").iter("li")]
    assert len(texts) == len(found.training)
    for one in found.training.values():
        assert f'<div class="text" dir="auto">{one.text.text}</div>' in page


def test_a_full_page_has_at_most_5_megabytes():
    assert len(viz.explanation_html(large()).encode()) <= 5_000_000


def test_hostile_names_of_others_too():
    everything = [name[:80] for name in HOSTILE]
    page = viz.explanation_html(replace(foreign(everything), title="x"))
    assert not obeyed(page.split("<script>")[0].replace("\t", "").replace("\r", ""))
