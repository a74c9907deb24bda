"""matplotlib figures: what they show, and that pyplot's state is left alone."""

import os

import pytest
import torch
from cases_of_texts import pair_of, text_of

from captum_tracinwe import visualization as viz


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
    with pytest.raises(ValueError, match=r"expected 2 test_labels, got 1"):
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
    with pytest.raises(ValueError, match=r"expected scores of shape \(test, training\), got \(0, 3\)"):
        viz.plot_influence_matrix(torch.zeros(0, 3))


def test_labels_of_a_matrix_may_be_tensors():
    _, ax = viz.plot_influence_matrix(torch.eye(2), test_labels=torch.tensor([3, 4]), train_labels=torch.tensor([5, 6]))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["3", "4"]
