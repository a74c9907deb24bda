"""Promises of `visualization`: pictures tell the truth, carry no foreign HTML, and touch nothing global."""

import html.parser
import io
import os
import random
import re
import sys
import time
from pathlib import Path

import pytest
import torch
from captum.influence._utils.common import KMostInfluentialResults
from cases_of_texts import pair_of, text_of
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_tracinwe import ReportedWord, SynonymInfluence, WordReport
from captum_tracinwe import visualization as viz
from captum_tracinwe.app.testing import toy_tracin
from captum_tracinwe.visualization.common import signed
from captum_tracinwe.words.influence import WordInfluence
from captum_tracinwe.words.legible import DIRECTION_MARKS, visible
from captum_tracinwe.words.texts import TokenizedText, from_ids

EVIL = "<script>alert(1)</script> & <img src=x onerror=alert(2)> \"quoted' </style></title><!-- "
GUIDE = Path(__file__).parents[1] / "docs" / "guide" / "spurious_words.md"
VOID = {"meta", "br", "img", "link", "input"}


class Page(html.parser.HTMLParser):
    """Elements, attributes and texts of a page; fails on elements that are not closed."""

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts, self.marks = [], [], [], [], []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if dict(attrs).get("class") == "text":
            self.texts.append("")
            self.open.append("TEXT")
        elif tag not in VOID:
            self.open.append(tag)
        if tag == "mark":
            self.marks.append(dict(attrs))

    def handle_endtag(self, tag):
        top = self.open.pop()
        assert top == tag or (top == "TEXT" and tag == "div")

    def handle_data(self, data):
        if "TEXT" in self.open and "bdi" not in self.open:
            self.texts[-1] += data


ALLOWED = {
    *[
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "section",
        "article",
        "div",
        "span",
        "p",
        "h1",
        "h2",
    ],
    *[
        "h3",
        "h4",
        "small",
        "b",
        "i",
        "bdi",
        "mark",
        "table",
        "caption",
        "tr",
        "th",
        "td",
        "details",
        "summary",
    ],
}


# ----------------------------------------------------------------------------------------------------- page


def test_a_page_is_whole_and_loads_nothing():
    test = text_of("[CLS]", "the", "dog", label="pet", prediction="wild")
    page = viz.word_influence_html([[pair_of(test, text_of("[CLS]", "dog"))]], title="A & B")
    assert page.startswith("<!DOCTYPE html>")
    assert "<title>A &amp; B</title>" in page
    found = Page(page)
    assert set(found.tags) <= ALLOWED
    assert not re.search(r"url\(|@import|https?:|src=|href=", page)
    assert "default-src 'none'" in page
    for words in ("proponent", "lowers the loss", "learning rate × squared gradient", "✗ predicted"):
        assert words in page


def test_every_page_is_valid_html5():
    html5lib = pytest.importorskip("html5lib")
    text = text_of(*EVIL.split(), "dog", label=EVIL, prediction="x")
    pair = pair_of(text, text)
    word = ReportedWord(EVIL, -1.0, 1.0, -2.0, 3, EVIL, 0.5, 0.25, 0.001, 0.01, ((2, -2.0),))
    report = WordReport((word, word), -2.0, 1, 3)
    match = SynonymInfluence(
        0, 1, 0.5, pair.token_ids[:1], pair.token_ids[:1], torch.tensor([0.5]).double(), torch.ones(1).double()
    )
    for page in (
        viz.word_influence_html([[pair]], title=EVIL),
        viz.word_influence_html([[pair]], before=viz.report_section(report, 1), fold_at=10),
        viz.word_report_html(report, top=1),
        viz.synonym_influence_html([match.with_texts(text, text)]),
    ):
        parser = html5lib.HTMLParser(strict=True)  # raises at the first error of the standard's parsing algorithm
        assert parser.parse(page).tag.endswith("html")


def test_foreign_html_is_shown_as_it_was_written():
    test, train = text_of(*EVIL.split(), label=EVIL), text_of(*EVIL.split(), "x", label=EVIL, prediction=EVIL)
    page = viz.word_influence_html([pair_of(test, train)], title=EVIL)
    found = Page(page)
    assert set(found.tags) <= ALLOWED
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]
    assert found.texts == [test.text, train.text, test.text]


@settings(max_examples=60, deadline=None)
@given(words=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6), max_size=8))
def test_any_text_is_shown_whole_and_once(words):
    text = text_of(*[word for word in words if word not in ("[CLS]", "[SEP]")])
    found = Page(viz.word_influence_html([pair_of(text, text)]))
    pictured = [c for c in text.text if (ord(c) < 32 or 0x7F <= ord(c) < 0xA0) and c not in "\t\n\r"]
    for shown in found.texts:
        own = "".join(c for c in text.text if c not in DIRECTION_MARKS)  # these stand in a <bdi> of their own
        if pictured:
            assert len(shown) == len(own)
        else:
            assert shown == own
    assert set(found.tags) <= ALLOWED


def test_proponents_come_before_opponents_the_strongest_first():
    test = text_of("dog")
    pairs = [pair_of(test, text_of("dog"), [share], j=j) for j, share in enumerate((0.1, -0.5, 2.0, -3.0, 0.0))]
    page = viz.word_influence_html(pairs)
    places = [page.index(f"Training example {j}<") for j in (2, 0, 3, 1, 4)]
    assert places == sorted(places)
    assert (
        page.index("Pushed the model towards")
        < places[0]
        < page.index("Pushed it away")
        < places[2]
        < page.index("Neither")
    )
    assert "+2.00" in page
    assert "−3.00" in page


def test_one_symmetric_scale_holds_for_the_whole_page():
    test = text_of("dog")
    pairs = [pair_of(test, text_of("dog"), [share], i=i, j=i) for i, share in enumerate((1.0, -4.0, 2.0))]
    found = Page(viz.word_influence_html(pairs))
    shown = [(mark["class"], mark["style"], mark["title"]) for mark in found.marks[2:]]
    assert shown[::2] == shown[1::2]  # training text and test text
    assert shown[::2] == [
        ("p", "--a:.25", "+1.00"),
        ("o", "--a:1.00", "−4.00"),
        ("p", "--a:.50", "+2.00"),
    ]
    assert "−4.00<i></i>+4.00" in viz.word_influence_html(pairs)


def test_the_shares_on_a_text_add_up_to_the_score():
    test = text_of("[CLS]", "dog", "the", "dog", "late")
    train = text_of("[CLS]", "dog", "dog", "dog", "late", "goal")
    pair = pair_of(test, train, [0.125, -0.5, 2.0])
    found = Page(viz.word_influence_html([pair]))
    for part in (found.marks[2:7], found.marks[7:11]):
        titles = [mark["title"].split(" ")[0].replace("−", "-") for mark in part]
        assert sum(map(float, titles)) == pytest.approx(pair.score, abs=2e-3)


@pytest.mark.skipif(not GUIDE.is_file(), reason="the checkout's docs/ are not here")
def test_the_guide_says_how_to_keep_a_page_of_a_report(tmp_path, monkeypatch):
    [line] = re.findall(r"^visualization\.write_html\(.*word_report_html.*\)", GUIDE.read_text("utf-8"), flags=re.M)
    monkeypatch.chdir(tmp_path)
    exec(line, {"visualization": viz, "report": WordReport((), 0.0, 1, 1)})
    assert "No test text shares a word" in (tmp_path / "words.html").read_text("utf-8")


def test_a_dotted_word_is_explained_where_there_is_one():
    test = text_of("dog", "late")
    some, none = pair_of(test, test, [1.0, 0.5]), pair_of(test, test, [1.0, 0.0])
    assert "Dotted" not in viz.word_influence_html([some])
    page = viz.word_influence_html([some, none])
    assert '<mark class="z"><b>Dotted</b></mark> = in common, with a share of 0' in page


def test_pictures_of_html_have_words_beside_them():
    page = viz.word_influence_html([pair_of(text_of("dog"), text_of("dog"), [2.0])])
    assert 'role="img" aria-label="Colours: from −2.00, orange, over 0 to +2.00, blue, per word"' in page
    assert page.count('<span class="bar" aria-hidden="true">') == page.count('class="bar"') == 1


def test_special_tokens_and_padding_are_seen():
    text = text_of("[CLS]", "dog", padding=(9, "[PAD]"))
    ids = torch.tensor([9, *sorted(text.token_ids)])
    shares = torch.tensor([0.5, 1.0, 1.0], dtype=torch.float64)
    page = viz.word_influence_html(WordInfluence(0, 0, 2.5, ids, shares, test_text=text, train_text=text))
    assert page.count('<bdi class="s">[CLS]</bdi>') == 3
    assert page.count('<bdi class="s">[PAD]</bdi>') == 3
    assert "[PAD](+" in viz.word_influence_text([WordInfluence(0, 0, 2.5, ids, shares, None, text, text)], color=False)


def test_texts_can_be_given_apart_from_the_pairs():
    test, train = text_of("dog"), text_of("the", "dog")
    bare = pair_of(test, train, [1.0], i=1, j=3).with_texts(None, None)
    page = viz.word_influence_html([[bare]], test_texts=[None, test], train_texts={3: train})
    assert Page(page).texts == ["dog", "the dog", "dog"]
    assert "#" in viz.word_influence_text([bare], color=False)
    assert viz.word_influence_html([bare]).count("<article") == 1
    with pytest.raises(ValueError, match=r"train_texts: expected a text for train index 3, got 1"):
        viz.word_influence_html([bare], train_texts=[train])
    with pytest.raises(ValueError, match=r"does not hold the shared token"):
        viz.word_influence_html([bare], train_texts={3: text_of("cat")})
    with pytest.raises(TypeError, match=r"[Ee]xpected WordInfluence.*got str"):
        viz.word_influence_html(["ab"])


def test_long_texts_fold():
    long = text_of(*["word"] * 300)
    page = viz.word_influence_html([pair_of(text_of("word"), long)])
    assert '<details class="long">' in page
    assert "Show all 1,499 characters" in page
    assert '<details class="long">' not in viz.word_influence_html([pair_of(text_of("word"), long)], fold_at=2000)


def test_nothing_to_show_is_said():
    empty = pair_of(text_of("dog"), text_of("cat"))
    assert "There is no pair" in viz.word_influence_html([])
    assert "There is no pair" in viz.word_influence_html([[], []])
    assert "There is no pair" in viz.word_influence_text([])
    assert "No word in common" in viz.word_influence_html([empty])
    assert viz.to_captum_records([]) == []
    for shares in ([0.0], [5e-324]):
        pair = pair_of(text_of("dog"), text_of("dog"), shares)
        for picture in (viz.word_influence_html, viz.word_influence_text):
            assert "nan" not in picture([pair]).lower()


def test_fifty_pairs_of_200_tokens_are_quick_and_small():
    chance = random.Random(0)
    vocabulary = [f"word{i}" for i in range(120)]
    texts = [text_of("[CLS]", *chance.choices(vocabulary, k=199)) for _ in range(51)]
    pairs = [
        pair_of(texts[0], text, torch.randn(len({*texts[0].token_ids} & {*text.token_ids})).double().tolist(), j=j)
        for j, text in enumerate(texts[1:])
    ]
    seconds = []
    for _ in range(3):
        start = time.process_time()  # whatever else the machine does meanwhile
        page = viz.word_influence_html(pairs)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 1
    assert len(page.encode()) < 2e6


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    assert viz.write_html(path, "é\n") == path
    assert path.read_bytes() == "é\n".encode()

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match=r"disk full"):
        viz.write_html(path, "new")
    assert path.read_text(encoding="utf-8") == "é\n"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError, match=r"folder of .* does not exist. Make it"):
        viz.write_html(tmp_path / "no" / "page.html", "")


# ------------------------------------------------------------------------------------------------- terminal


def test_without_colours_the_terminal_shows_signs():
    test = text_of("[CLS]", "dog", "late", label="pet")
    out = viz.word_influence_text([pair_of(test, text_of("[CLS]", "dog", "late"), [1.0, -0.4, 0.1])], color=False)
    assert "\033" not in out
    assert sorted(re.findall(r"\(([+−]+)\)", out.split("Above 0:")[0])) == ["+", "+++", "−−"]
    for words in ("proponents", "learning rate × squared gradient", "[label: pet]", "+0.700"):
        assert words in " ".join(out.split())


@pytest.mark.parametrize("closed", [None, "closed", object()])
def test_pictures_and_bars_need_no_open_streams(closed, monkeypatch, tmp_path):
    pair = pair_of(text_of("dog"), text_of("dog"))
    if closed == "closed":
        closed = io.StringIO()
        closed.close()
    tracin, inputs = toy_tracin()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", closed)
        patch.setattr(sys, "stderr", None)
        said = viz.word_influence_text([pair])
        scores = tracin.influence(inputs, show_progress=True)
        tracin.self_influence(show_progress=True)
        tracin.build_index(tmp_path / "index", rank=3, show_progress=True)
    assert "dog" in said
    assert "\033" not in said
    assert torch.equal(scores, tracin.influence(inputs))


def test_colours_are_for_terminals_that_want_them(monkeypatch):
    pair = pair_of(text_of("dog"), text_of("dog"))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\033[" in viz.word_influence_text([pair])
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033" not in viz.word_influence_text([pair])
    assert "\033[" in viz.word_influence_text([pair], color=True)


@settings(max_examples=50, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30), width=st.integers(1, 120))
def test_a_text_sends_no_control_characters_to_the_terminal(text, width):
    one = text_of(text)
    out = viz.word_influence_text([pair_of(one, one)], color=False, width=width)
    assert not [c for c in out if (ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0]


def test_lines_fit_the_terminal():
    words = text_of(*["storm", "日本語日本語"] * 60)
    out = viz.word_influence_text([pair_of(words, words)], color=False, width=50)
    wide = [sum(1 + (c in "日本語") for c in line) for line in out.split("\n")]
    assert max(wide) <= 50


# --------------------------------------------------------------------------------------------------- Captum


def test_captum_records_say_the_same():
    test = text_of("dog", "late", label="pet", prediction="wild")
    pair = pair_of(test, text_of("the", "late", "dog", label="<b>"), [4.0, -2.0], j=7)
    (record,) = viz.to_captum_records([[pair]])
    assert record.raw_input_ids == ["the", "late", "dog"]
    assert record.word_attributions.abs().max() == 1
    assert record.word_attributions[0] == 0
    assert (record.true_class, record.pred_class, record.attr_class) == ("pet", "wild", "#7 &lt;b&gt; (+2.00)")
    assert record.attr_score == pair.score
    assert record.convergence_score == 0
    (raw,) = viz.to_captum_records([pair], normalize=False, test_probabilities=[0.25])
    assert raw.word_attributions.sum().item() == pytest.approx(pair.score)
    assert raw.pred_prob == 0.25


def test_captum_shows_foreign_html_as_it_was_written():
    pytest.importorskip("IPython")
    text = text_of(*EVIL.split(), "<b>", "</s>", label=EVIL, prediction=EVIL)
    table = viz.visualize_text([pair_of(text, text)]).data
    assert not re.search(r"<(script|img|/style|!--|b>g|s>)", table)
    assert table.count("&lt;script&gt;") >= 3
    assert "&lt;/s&gt;" in table


def test_captum_records_without_texts_name_the_ids():
    pair = pair_of(from_ids([3, 5]), from_ids([5, 3])).with_texts(None, None)
    assert viz.to_captum_records(pair)[0].raw_input_ids == ["#3", "#5"]


# -------------------------------------------------------------------------------------------------- figures


# --------------------------------------------------------------------------------------------- small things


def test_numbers_carry_their_sign():
    assert [signed(value) for value in (0.0, -0.0, 1.0, -0.03, 1.234e-5, -123456.0, 250.0)] == (
        ["0", "0", "+1.00", "−0.0300", "+1.23e-05", "−1.23e+05", "+250"]
    )


def test_invisible_names_become_visible():
    names = ["a", " ", "\n", "\u200b", "\x1b[31m", "\u2028", "e\u0301", ""]
    assert [visible(name) for name in names] == (["a", "␣", "⏎", "U+200B", "␛[31m", "U+2028", "e\u0301", ""])


def test_what_is_no_pair_is_refused_by_name():
    pair = WordInfluence(0, 0, 1.0, torch.tensor([1]), torch.tensor([1.0], dtype=torch.float64))
    for picture in (viz.word_influence_html, viz.word_influence_text, viz.plot_word_influence, viz.to_captum_records):
        for wrong in (None, WordReport((), 0.0, 1, 1), "text", [[3]]):
            with pytest.raises(TypeError, match="[Ee]xpected WordInfluence, or a list of them"):
                picture(wrong)
        with pytest.raises(TypeError, match="train_texts: expected TokenizedText, got str for train index 0"):
            picture(pair, train_texts=["a text"])
    for picture in (viz.synonym_influence_html, viz.synonym_influence_text):
        with pytest.raises(TypeError, match="[Ee]xpected SynonymInfluence, or a list of them"):
            picture(pair)
    for picture in (viz.word_influence_html, viz.word_influence_text):
        with pytest.raises(ValueError, match="`top_words` as a whole number of at least 0, got -1"):
            picture(pair, top_words=-1)
    with pytest.raises(ValueError, match="one of `test_probabilities` for each test text, up to test index 0, got 0"):
        viz.to_captum_records(pair, test_probabilities=[])
    with pytest.raises(TypeError, match="got KMostInfluentialResults"):
        viz.plot_influence_matrix(KMostInfluentialResults(torch.zeros(1, 1), torch.zeros(1, 1)))


def test_what_was_cut_off_looks_it():
    text = TokenizedText("dogs bark all night", (5, 6), ((0, 4), (5, 9)), (0, 1), label="\u202ertl")
    pair = WordInfluence(0, 0, 1.0, torch.tensor([5]), torch.tensor([1.0], dtype=torch.float64), None, text, text)
    page = viz.word_influence_html(pair)
    assert '<span class="cut" title="cut off: the model did not read this"> all night</span>' in page
    assert "grey ones were cut off" in page
    assert "&lt;U+202E&gt;rtl" in page
    assert "[not read: all night]" in " ".join(viz.word_influence_text(pair, color=False).split()).replace(
        "night ]", "night]"
    )
    whole = TokenizedText("dogs bark \u200b", (5, 6), ((0, 4), (5, 9)), (0, 1))
    assert "cut off" not in viz.word_influence_html(pair.with_texts(whole, whole))
    folded = viz.word_influence_html(pair, fold_at=12)
    assert folded.count(" all night</span>") >= 1


def test_no_text_turns_the_terminal_round():
    text = from_ids([1], ["", "a\u202eb\u2066"], label="\u202e")
    pair = WordInfluence(0, 0, 1.0, torch.tensor([1]), torch.tensor([1.0], dtype=torch.float64), None, text, text)
    shown = viz.word_influence_text(pair)
    assert "<U+202E>" in shown
    assert not {"\u202e", "\u2066"} & set(shown)
