"""Ways in: a figure has a font for each character that one on the machine has; by name or number, and said, what none has."""

import os
import warnings

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from captum_tracinwe import visualization as viz
from captum_tracinwe.visualization.common import columns_of
from captum_tracinwe.words import ReportedWord, TokenizedText, WordInfluence, WordReport

KANJI, THAI, EMOJI, NOWHERE = "日本語", "ภาษา", "🙂", "\U000f1234"


def square(size):
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, size), (size, size), (size, 0)):
        pen.lineTo(point)
    pen.closePath()
    return pen.glyph()


def font(folder, name, characters, size=600, style="Regular"):
    """A font whose glyphs are squares."""
    names = [".notdef", *(f"g{ord(character):x}" for character in dict.fromkeys(characters))]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): f"g{ord(c):x}" for c in characters})
    builder.setupGlyf({glyph: square(10 if glyph == ".notdef" else size) for glyph in names})
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": name, "styleName": style})
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    path = folder / f"{name}-{style}.ttf"
    builder.save(path)
    return path


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Makes fonts and installs them for matplotlib, for the time of a test, beside its own DejaVu alone."""
    manager = font_manager.fontManager
    own = [entry for entry in manager.ttflist if entry.name == "DejaVu Sans"]
    monkeypatch.setattr(manager, "ttflist", own)

    def install(name, characters, **options):
        manager.addfont(font(tmp_path, name, characters, **options))

    return install


def report(*names):
    words = tuple(
        ReportedWord(name, 1.0 / (i + 1), 1.0, 0.0, 3, name, 0.9, 0.25, 0.001, 0.01, ((2, 1.0),))
        for i, name in enumerate(names)
    )
    return WordReport(words, 1.0, 1, 3)


def pair(*names):
    spans, text = [], ""
    for name in names:
        spans.append((len(text), len(text) + len(name)))
        text += name + " "
    found = TokenizedText(text, tuple(range(len(names))), tuple(spans), tuple(range(len(names))))
    shares = torch.arange(1.0, len(names) + 1, dtype=torch.float64)
    return WordInfluence(0, 1, float(shares.sum()), torch.arange(len(names)), shares, None, found, found)


FIGURES = {
    "report": lambda *names: viz.plot_word_report(report(*names)),
    "pair": lambda *names: viz.plot_word_influence(pair(*names)),
    "matrix": lambda *names: viz.plot_influence_matrix(torch.eye(len(names)), test_labels=names, train_labels=names),
    "title": lambda *names: viz.plot_influence_matrix(torch.eye(2), title="\n".join(names)),
}


def shown(fig):
    return [text for text in fig.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("kind", FIGURES)
def test_each_text_has_a_font_with_its_glyphs(kind, installed):
    installed("Kanji Test", KANJI)
    installed("Thai Test", THAI)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig, _ = FIGURES[kind](KANJI, f"a {THAI} {KANJI}", "crimson")
        fig.savefig(os.devnull, format="png")  # without matplotlib's "Glyph ... missing"
    for text in shown(fig):
        families = text.get_fontfamily()
        assert ("Kanji Test" in families) == bool(set(KANJI) & set(text.get_text()))
        assert ("Thai Test" in families) == bool(set(THAI) & set(text.get_text()))
        assert families[0] == "sans-serif"
    assert any(KANJI in text.get_text() for text in shown(fig))


def test_the_glyph_that_is_drawn_is_the_fonts(installed):
    """A square is dark all over; matplotlib's box for what is missing is not."""
    installed("Kanji Test", KANJI)
    fig, ax = viz.plot_word_influence(pair("日"))
    [label] = [text for text in ax.get_yticklabels() if text.get_text() == "日"]
    label.set_fontsize(60)
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    box = label.get_window_extent()
    rows = np.asarray(canvas.buffer_rgba())[..., 0]
    height = rows.shape[0]
    part = rows[height - int(box.y1) : height - int(box.y0), max(0, int(box.x0)) : int(box.x1)]
    dark = (part < 100).nonzero()
    within = part[dark[0].min() : dark[0].max() + 1, dark[1].min() : dark[1].max() + 1]
    assert min(within.shape) > 20
    assert (within < 128).mean() > 0.9


def saved(kind, name):
    fig, _ = FIGURES[kind](name, "crimson", name)
    fig.savefig(os.devnull, format="png")
    return fig


@pytest.mark.parametrize("kind", FIGURES)
@pytest.mark.parametrize(
    ("name", "drawn"),
    [(KANJI, r"\u65e5\u672c\u8a9e"), (THAI, r"\u0e20\u0e32\u0e29\u0e32"), (EMOJI, ":slightly smiling face:")],
)
def test_without_a_font_there_is_a_name_or_a_number_and_it_is_said_once(kind, name, drawn, installed):
    with pytest.warns(UserWarning, match=r"No font that matplotlib finds has glyphs for .*Noto") as told:
        fig = saved(kind, name)
    assert [name[0] in str(one.message) for one in told] == [True]
    assert any(drawn in text.get_text() for text in shown(fig))
    assert not any(set(name) & set(text.get_text()) for text in shown(fig))


def test_only_what_has_no_font_is_written_by_number(installed):
    installed("Kanji Test", "日本")
    with pytest.warns(UserWarning, match="glyphs for '語'"):
        fig, ax = viz.plot_word_influence(pair(KANJI))
    assert [text.get_text() for text in ax.get_yticklabels()] == [r"日本\u8a9e"]


def test_long_names_are_cut_between_numbers(installed):
    with pytest.warns(UserWarning, match="No font"):
        fig, ax = viz.plot_word_report(report(KANJI * 9, EMOJI))
    long, picture = (text.get_text() for text in ax.get_yticklabels())
    assert long == r"\u65e5\u672c\u8a9e\u65e5…"
    assert picture == ":slightly smiling face:"
    assert ":slightly smili… 90%, 3 texts" in [text.get_text() for text in ax.texts]


def test_fonts_are_looked_for_only_where_a_text_needs_one(installed, monkeypatch):
    from captum_tracinwe.visualization import glyphs

    monkeypatch.setattr(glyphs, "_families", lambda characters: pytest.fail(f"looked for {characters}"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in FIGURES:
            FIGURES[kind]("crimson", "naïve", "مرحبا", "שלום", "−…")


def test_a_font_of_the_users_settings_comes_first(installed):
    import matplotlib

    installed("Kanji Test", KANJI)
    installed("Mine", KANJI + "abcdefghijklmnopqrstuvwxyz")
    installed("Thai Test", THAI)
    with matplotlib.rc_context({"font.family": ["Mine", "sans-serif"]}):
        before = dict(matplotlib.rcParams)
        fig, ax = viz.plot_word_influence(pair(KANJI, THAI))
        families = [text.get_fontfamily() for text in ax.get_yticklabels()]
        assert families == [["Mine", "sans-serif", "Thai Test"], ["Mine", "sans-serif"]]
        assert dict(matplotlib.rcParams) == before


def test_joiners_without_a_glyph_leave_nothing_behind(installed):
    with pytest.warns(UserWarning, match="No font"):
        fig, ax = viz.plot_word_influence(pair(EMOJI + "\ufe0f"))
    [text] = [text.get_text() for text in ax.get_yticklabels()]
    assert text.replace("\ufe0f", "") == ":slightly smiling face:"
    assert "\\ufe0f" not in text


def test_a_character_of_no_font_and_no_name_is_a_number():
    with pytest.warns(UserWarning, match="No font"):
        fig, ax = viz.plot_word_influence(pair("a" + NOWHERE))
    assert [text.get_text() for text in ax.get_yticklabels()] == [r"a\U000f1234"]


def test_columns_of_a_printed_report_are_straight_beside_wide_letters():
    lines = viz.word_report_text(report(KANJI, THAI, "crimson", "น้ำ"), top=4).split("\n")[:5]
    assert {columns_of(line) for line in lines} == {columns_of(lines[0])}
    assert len({len(line) for line in lines}) > 1


def test_what_cannot_be_seen_is_drawn_by_number_where_no_font_has_its_sign(installed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig, ax = viz.plot_word_influence(pair("a\x1bb", "c\x7f"))
        fig.savefig(os.devnull, format="png")
    assert [text.get_text() for text in ax.get_yticklabels()] == [r"c\x7f", r"a\x1bb"]
