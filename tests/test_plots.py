"""matplotlib figures: what they show, and that pyplot's state is left alone."""

import itertools
import os

import pytest
import torch
from captum_tracinwe.evaluation import plots
from cases_of_texts import pair_of, text_of

from captum_tracinwe import ReportedWord, WordReport, evaluation
from captum_tracinwe import visualization as viz
from captum_tracinwe.visualization.common import carried


def test_bars_show_the_words_and_leave_pyplot_alone():
    from matplotlib import pyplot

    test = text_of("dog", "late", "$x$")
    pair = pair_of(test, test, [1.0, -0.5, 0.25])
    fig, ax = viz.plot_word_influence([pair])
    assert pyplot.get_fignums() == []
    assert ax.figure is fig
    assert [bar.get_width() for bar in ax.patches] == [1.0, -0.5, 0.25]
    fig.savefig(os.devnull, format="png")  # "$x$" is no formula
    _, ax = viz.plot_word_influence([[pair], [pair]], top=2, title="both")
    assert [bar.get_width() for bar in ax.patches] == [2.0, -1.0]
    assert "1 more words add +0.500" in ax.get_xlabel()
    assert ax.get_title(loc="left") == "both"


def test_figures_of_nothing_are_drawn():
    zero = pair_of(text_of("dog"), text_of("dog"), [0.0])
    none = pair_of(text_of("dog"), text_of("cat"))
    for pairs in ([], zero, none):
        fig, ax = viz.plot_word_influence(pairs)
        fig.savefig(os.devnull, format="png")
        assert all(bar.get_width() == 0 for bar in ax.patches)
    for scores in (torch.zeros(2, 3), torch.full((1, 1), float("nan")), torch.tensor([[5e-324]]).double()):
        fig, ax = viz.plot_influence_matrix(scores)
        fig.savefig(os.devnull, format="png")
        assert ax.images[0].get_array().shape == scores.shape


def test_the_matrix_has_a_symmetric_scale_and_tests_as_rows():
    fig, ax = viz.plot_influence_matrix(
        torch.tensor([[1e-6, -4e-6, 0.0], [2e-6, float("inf"), 1e-6]]),
        test_labels=["a", "b"],
        train_labels=["x", "y", "$z$"],
    )
    image = ax.images[0]
    assert image.get_array().shape == (2, 3)
    assert image.get_clim() == (-image.get_clim()[1], pytest.approx(4e-6))
    assert "−4.00" in [text.get_text() for text in ax.texts]
    fig.savefig(os.devnull, format="png")
    with pytest.raises(ValueError, match=r"shape \(test, training\), got \(3,\)"):
        viz.plot_influence_matrix(torch.zeros(3))
    with pytest.raises(ValueError, match=r"[Ee]xpected 2 test_labels, got 1"):
        viz.plot_influence_matrix(torch.zeros(2, 2), test_labels=["a"])


def test_figures_go_into_given_axes():
    from matplotlib.figure import Figure

    fig = Figure()
    left, right = fig.subplots(1, 2)
    pair = pair_of(text_of("dog"), text_of("dog"))
    assert viz.plot_word_influence(pair, ax=left) == (fig, left)
    assert viz.plot_influence_matrix([[1.0, -1.0]], ax=right)[1] is right


def test_showing_goes_through_pyplot(monkeypatch):
    from matplotlib import pyplot

    shown = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.append(pyplot.get_fignums()))
    viz.plot_word_influence(pair_of(text_of("dog"), text_of("dog")), True)
    viz.plot_influence_matrix([[1.0]], True)
    assert [len(numbers) for numbers in shown] == [1, 2]
    pyplot.close("all")


def test_numbers_too_small_for_a_cell_are_their_sign():
    _, ax = viz.plot_influence_matrix(torch.tensor([[1.0, 1e-5], [-1e-5, 0.0]]))
    assert [text.get_text() for text in ax.texts] == ["+1.00", "+", "−", ""]
    with pytest.raises(TypeError, match="scores as a matrix of numbers, got 'abc'"):
        viz.plot_influence_matrix("abc")
    with pytest.raises(ValueError, match=r"[Ee]xpected scores of shape \(test, training\), got \(0, 3\)"):
        viz.plot_influence_matrix(torch.zeros(0, 3))


def test_labels_of_a_matrix_may_be_tensors():
    _, ax = viz.plot_influence_matrix(torch.eye(2), test_labels=torch.tensor([3, 4]), train_labels=torch.tensor([5, 6]))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["3", "4"]


# ------------------------------------------------------------------------------------------------------------- reports


def reported(word, total, label="", certain=False, special=False):
    share, p = (0.95, 1e-6) if certain else (0.3, 1.0)
    return ReportedWord(word, total, max(total, 0), min(total, 0), 9, label, share, 0.25, p, p, ((1, total),), special)


def report_of(*words):
    return WordReport(words, sum(word.total for word in words), 2, 40)


WEAK = [reported(f"w{i}", 0.001, "2", certain=True) for i in range(3)]
STRONG = [reported("[CLS]", 6.0, special=True), reported("the", -3.0), reported("a", 0.6), reported("of", 0.4)]


def test_words_that_carry_the_total_are_seen_even_if_none_sticks():
    report = report_of(*WEAK, *STRONG)
    fig, ax = viz.plot_word_report(report, top=2)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["w0", "w1", "[CLS]", "the", "a"]
    assert [label.get_fontweight() for label in ax.get_yticklabels()] == ["bold"] * 2 + ["normal"] * 3
    assert "shown: 96% of all totals" in ax.get_title(loc="left")
    assert "by total × steadiness × certainty;\nbelow the line" in ax.get_title(loc="left")
    fig.savefig(os.devnull, format="png")
    page, text = viz.word_report_html(report, top=2), viz.word_report_text(report, top=2)
    for shown in (page, " ".join(text.split())):
        assert "The 5 words shown carry 96% of all totals" in shown
        assert "those that go with one label carry under 0.1%" in shown
        assert "total × steadiness" in shown
        assert shown.index("go with no label") < shown.index("[CLS]")
    assert "2 more" in page
    assert "nearly always" not in page
    # Where some of the others are among the first, nothing is added.
    _, ax = viz.plot_word_report(report, top=4)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["w0", "w1", "w2", "[CLS]"]
    assert "go with no label:" not in viz.word_report_html(report, top=4)


@pytest.mark.parametrize(
    ("totals", "said"),
    [((1.0, 0.0), "100%"), ((0.996, 0.004), "over 99%"), ((0.002, 0.998), "0.2%"), ((0.0, 0.0), "0%")],
)
def test_the_part_that_words_carry(totals, said):
    words = [reported(str(i), total) for i, total in enumerate(totals)]
    assert carried(words[:1], report_of(*words)) == said


def test_a_label_that_is_a_number_is_called_label():
    report = report_of(*WEAK, reported("x", 0.1, "sailing"), reported("y", 0.1, "-1"))
    _, ax = viz.plot_word_report(report)
    beside = [text.get_text() for text in ax.texts if "texts" in text.get_text()]
    assert beside[::3] == ["label 2: 95%, 9 texts", "sailing 30%, 9 texts"]
    assert "label -1: 30%, 9 texts" in beside
    text = viz.word_report_text(report)
    assert "label 2: 95% (of all 25%)" in text
    assert " sailing 30% (of all" in text
    assert "label <bdi>2</bdi>: 95%" in viz.word_report_html(report)


# ---------------------------------------------------------------------------------------------------------- evaluation


def curve(proponents):
    return evaluation.DeletionCurve((0, 10), (0,), torch.randn(1, 3, 2, dtype=torch.float64), proponents)


def test_a_picture_names_only_the_directions_that_are_in_it():
    up, down = curve(False), curve(True)
    for curves, label in (
        ({("a", True): down}, "proponents removed"),
        ({("a", False): up}, "opponents removed"),
        ({("a", True): down, ("a", False): up}, "examples removed (▼ proponents, ▲ opponents)"),
    ):
        _, ax = plots.plot_deletion(curves)
        assert ax.get_xlabel() == label
        assert "true class" not in ax.get_ylabel()


def looks(lines):
    return [(line.get_color(), line.get_linestyle()) for line in lines]


def test_lines_are_told_apart_without_their_colour():
    names = [f"method {i}" for i in range(7)]
    noise = evaluation.noise_detection_curve(torch.randn(9), torch.arange(9) < 3)
    drawn = {
        "noise": plots.plot_noise(dict.fromkeys(names, noise))[1],
        "cancellation": plots.plot_cancellation({name: [1.0, 2.0] for name in names}, [1, 2])[1],
        "deletion": plots.plot_deletion({(name, True): curve(True) for name in names})[1],
    }
    for ax in drawn.values():
        lines = [line for line in ax.get_lines() if line.get_label() in names]
        assert len({color for color, _ in looks(lines)}) == 7
        assert all(a[1] != b[1] for a, b in itertools.pairwise(looks(lines)))
        assert {color for color, _ in looks(lines)} <= set(plots.OKABE_ITO)
    markers = [line.get_marker() for line in drawn["cancellation"].get_lines()]
    assert len(set(markers)) == 7
    labels = [text.get_text() for text in drawn["noise"].get_legend().get_texts()]
    assert labels == [*names, "ideal: all wrong labels first", "chance"]


def test_cancellation_is_read_in_plain_numbers_at_whole_epochs():
    fig, ax = plots.plot_cancellation({"embedding": [2.1, 1.2], "out": [7.5, 1.4]}, [2, 8])
    fig.canvas.draw()
    ticks = [label.get_text() for axis in (ax.yaxis, ax.xaxis) for label in axis.get_ticklabels(which="both")]
    assert "2" in ticks
    assert not [tick for tick in ticks if "10^" in tick or "\\" in tick]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["2", "8"]
    fig, ax = plots.plot_cancellation({"embedding": [2.1] * 60}, range(60))  # too many for a tick each
    assert len(ax.get_xticks()) < 15


def test_an_agreement_near_nothing_is_a_number_too():
    _, ax = plots.plot_agreement({"a": torch.tensor([[1.0, 2.0, 3.0, 4.0]]), "b": torch.tensor([[2.0, 4.0, 1.0, 3.0]])})
    assert [text.get_text() for text in ax.texts] == ["+1.00", "0.00", "0.00", "+1.00"]
    assert len(ax.get_title(loc="left").splitlines()) == 2
