"""Pages, fragments and figures of hostile texts: elements, attributes and values are ours, and no text turns another round."""

import os
import re

import pytest
import torch
from captum_tracinwe.evaluation import plots
from cases_of_texts import pair_of, text_of
from hostile import HOSTILE, obeyed

from captum_tracinwe import ReportedWord, SynonymInfluence, WordReport, evaluation
from captum_tracinwe import visualization as viz
from captum_tracinwe.visualization.style import STYLE
from captum_tracinwe.words.legible import DIRECTION_MARKS

html5lib = pytest.importorskip("html5lib")

MARKUP = [
    *["<script>alert(1)</script>", "<img src=x onerror=alert(2)>", "'\"><svg/onload=alert(3)>", "</style><style>*{}"],
    *[
        "</title></main></body>",
        "<!--",
        "-->",
        "<![CDATA[x]]>",
        "&#x3c;b&#x3e;",
        "javascript:alert(4)",
        "url(http://x)",
    ],
    *[
        "<iframe srcdoc=x>",
        "<a href=http://x>",
        'x" onclick="alert(5)',
        "x' style='background:url(//x)",
        "{{x}}",
        "\x00<b>",
    ],
]
FOREIGN = [
    name[:200]
    for name in ("\u202eevil", *MARKUP[:4], *HOSTILE, *MARKUP[4:])
    if not any("\ud800" <= c <= "\udfff" for c in name)
]
# Attributes that a fragment has, with the form of their values: none can hold an address or code.
OURS = {
    "class": r"[a-z ]+",
    "style": r"--a:[\d.]+",
    "title": None,  # text: a share, and the tokens of a word
    "aria-label": r"Colours: from [^<>]*",
    "aria-hidden": "true",
    "role": "img",
    "scope": "col|row",
    "colspan": r"\d",
    "dir": "auto",
}
ELEMENTS = {
    *[
        "article",
        "b",
        "bdi",
        "caption",
        "details",
        "div",
        "h2",
        "h3",
        "h4",
        "i",
        "mark",
        "p",
        "section",
        "small",
        "span",
    ],
    *["style", "summary", "table", "tbody", "td", "th", "thead", "tr"],
}
OF_A_PAGE = {"h1", "main"}


def outputs():
    text = text_of(*FOREIGN, "שלום", label=FOREIGN[2], prediction=FOREIGN[-2])
    other = text_of("[CLS]", *FOREIGN[::-1], label=FOREIGN[-1], prediction=FOREIGN[3])
    pair = pair_of(text, other)
    words = tuple(
        ReportedWord(name, 1.0 - i / 50, 1.0, -2.0, 3, name, 0.5, 0.25, 0.001, 0.01, ((2, -2.0),))
        for i, name in enumerate(FOREIGN)
    )
    report = WordReport(words, -2.0, 1, 3)
    ids, ones = pair.token_ids, torch.ones(len(pair.token_ids)).double()
    met = SynonymInfluence(0, 1, float(len(ids)), ids, ids, ones, ones).with_texts(text, other)
    title, top = " ".join(FOREIGN), len(FOREIGN)
    return {
        "page": viz.word_influence_html([pair], title=title, top_words=top, before=viz.report_section(report, top)),
        "folded page": viz.word_influence_html([pair], fold_at=50),
        "report page": viz.word_report_html(report, title=title, top=top),
        "synonym page": viz.synonym_influence_html([met], title=title, top_words=top),
        "fragment": viz.word_influence_fragment([pair], top_words=top),
        "report fragment": viz.word_report_fragment(report, top=top),
        "synonym fragment": viz.synonym_influence_fragment([met], top_words=top),
        "section": viz.report_section(report, top),
        "a pair in a notebook": pair._repr_html_(),
        "a report in a notebook": report._repr_html_(),
        "synonyms in a notebook": met._repr_html_(),
    }


OUTPUTS = outputs()


def look(element, isolated=False):
    """All elements with their own texts, and whether an isolate is around each."""
    isolated = isolated or element.tag == "bdi" or element.get("dir") == "auto"
    yield element, isolated
    for child in element:
        yield from look(child, isolated)


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_element_attribute_and_value_is_ours(name):
    source, whole = OUTPUTS[name], name.endswith("page")
    parser = html5lib.HTMLParser(namespaceHTMLElements=False)
    found = parser.parse(source) if whole else parser.parseFragment(source)
    # A carriage return of a text is written "&#13;", which the standard reads as one, and frowns at. No other error.
    assert [error for error in parser.errors if error[2] != {"charAsInt": 13}] == []
    if whole:
        [policy] = [meta for meta in found.iter("meta") if meta.get("http-equiv")]
        assert policy.attrib == {
            "http-equiv": "Content-Security-Policy",
            "content": "default-src 'none'; style-src 'unsafe-inline'",
        }
        assert [child.tag for child in found.find("head")] == ["meta"] * 4 + ["title", "style"]
        found = found.find("body")
        assert found.attrib == {"class": "ctwe"}
    parts = list(look(found))[1:]
    assert {element.tag for element, _ in parts} <= ELEMENTS | (OF_A_PAGE if whole else set())
    for element, _ in parts:
        for attribute, value in element.attrib.items():
            assert attribute in OURS, (element.tag, attribute)
            assert OURS[attribute] is None or re.fullmatch(OURS[attribute], value), value
        if element.tag == "style":
            assert element.text == STYLE
    assert sum(element.tag == "bdi" for element, _ in parts) >= 20  # the texts are in it


@pytest.mark.parametrize("name", OUTPUTS)
def test_no_mark_of_direction_stands_in_an_output_and_every_text_is_isolated(name):
    source = OUTPUTS[name]
    assert not obeyed(source.replace("\t", "").replace("\r", ""))
    assert "U+202E" in source
    found = html5lib.parseFragment(
        source[source.index("<body") :] if name.endswith("page") else source, namespaceHTMLElements=False
    )
    for element, isolated in look(found):
        texts = [(element.text, isolated), *((child.tail, isolated) for child in element)]
        for text, inside in texts:
            foreign = text and element.tag not in ("h1", "style") and ("alert" in text or "U+20" in text)
            assert inside or not foreign, (element.tag, text)


def test_honest_texts_keep_their_own_direction():
    hebrew = text_of("\u202bשלום", "dog", "עולם\u202c")
    page = viz.word_influence_html([pair_of(hebrew, hebrew)])
    # The letters of a <bdi> do not count for dir="auto": the first strong one is Hebrew.
    assert (
        '<div class="text" dir="auto"><bdi class="d">U+202B</bdi>שלום dog עולם<bdi class="d">U+202C</bdi></div>' in page
    )
    honest = text_of("שלום", "\u200fمرحبا\u061c", "👩\u200d👧", "می\u200cخواهم")
    assert f'dir="auto">{honest.text}</div>' in viz.word_influence_html([pair_of(honest, honest)])


def test_colours_of_a_terminal_are_all_that_it_is_sent():
    text, other = (
        text_of(*FOREIGN, label=FOREIGN[3]),
        text_of(*FOREIGN[::-1], label="y" * 10_000, prediction=FOREIGN[0]),
    )
    shown = viz.word_influence_text([pair_of(text, other)], color=True, top_words=99, max_chars=10_000)
    assert not obeyed(re.sub("\033\\[[0-9;]*m", "", shown).replace("\n", ""))
    sent = set(re.findall("\033\\[[0-9;]*m", shown))
    assert sent  # by us
    assert "\033[31m" not in sent  # by a text
    assert "y" * 100 not in shown


def test_records_for_captum_hold_no_markup_and_no_marks():
    [record] = viz.to_captum_records(
        [pair_of(text_of(*FOREIGN, label=FOREIGN[-1]), text_of(*FOREIGN, label=FOREIGN[0]))]
    )
    shown = " ".join([*record.raw_input_ids, record.true_class, record.attr_class])
    assert not obeyed(shown)
    assert not set("<>\"'") & set(shown)


FORMULAS = ["$x^{$", r"$\frac{1$", "$$", "$", r"\$x$", "_hidden $x$", r"$\unknown$", "a\nb"]


def written(fig):
    from matplotlib.text import Text

    fig.savefig(os.devnull, format="svg")
    return "".join(text.get_text() for text in fig.findobj(Text))


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.filterwarnings("ignore:.*missing from font")
@pytest.mark.filterwarnings("ignore:.*constrained_layout")
@pytest.mark.filterwarnings("ignore:.*not applied")
def test_figures_show_names_as_they_are():
    names = [*FORMULAS, *(name[:30] for name in HOSTILE[::5] if "\n" not in name), "\u202eevil", "\x1b[2J"]
    title = " ".join(names)
    text = text_of(*names)
    words = tuple(
        ReportedWord(name, 1.0, 1.0, 0.0, 3, name, 0.5, 0.25, 0.001, 0.01, ((2, 1.0),)) for name in names if name
    )
    noise = evaluation.noise_detection_curve(torch.randn(9), torch.arange(9) < 3)
    interval = evaluation.Interval(0.0, -1.0, 1.0)
    square = torch.eye(len(names))
    curve = evaluation.DeletionCurve((0, 10), (0,), torch.randn(1, 3, 2, dtype=torch.float64), True)
    for fig, _ in (
        viz.plot_word_influence(pair_of(text, text), top=len(names), title=title),
        viz.plot_word_report(WordReport(words, 1.0, 1, 3), top=len(names), title=title),
        viz.plot_influence_matrix(square, test_labels=names, train_labels=names, title=title),
        plots.plot_noise(dict.fromkeys(names, noise)),
        plots.plot_cancellation({name: [1.0, 2.0] for name in names}, [1, 2]),
        plots.plot_deletion({(name, True): curve for name in names}),
        plots.plot_intervals(dict.fromkeys(names, interval), label=title),
        plots.plot_agreement({name: torch.randn(1, 4) for name in names}),
    ):
        shown = written(fig)
        assert r"$\frac{1$" in shown
        assert not obeyed(shown)
        assert not set(DIRECTION_MARKS) & set(shown)
