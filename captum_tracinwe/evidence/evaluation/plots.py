"""Evaluation as matplotlib figures; each returns ``(fig, ax)`` and touches global state only to show one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from captum_tracinwe.evidence.evaluation.agreement import spearman
from captum_tracinwe.evidence.evaluation.deletion import DeletionCurve
from captum_tracinwe.evidence.evaluation.intervals import Interval
from captum_tracinwe.evidence.evaluation.noise import NoiseCurve, RocCurve
from captum_tracinwe.visualization.common import BLUE, VERMILION
from captum_tracinwe.visualization.glyphs import Lettering
from captum_tracinwe.visualization.plots import _axes, _finished, plot_influence_matrix
from captum_tracinwe.words.legible import as_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_agreement", "plot_cancellation", "plot_deletion", "plot_intervals", "plot_noise", "plot_roc"]

#: The palette of Okabe and Ito, without its yellow, which is too pale for a line on white.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# More steps than that get the ticks that matplotlib chooses.
_MOST_TICKS = 12


def _look(number: int) -> dict[str, Any]:
    """Colour and dashes of a picture's n-th line: told apart by either of them."""
    return {"color": OKABE_ITO[number % len(OKABE_ITO)], "linestyle": _DASHES[number % len(_DASHES)]}


def _legend(ax: Axes, **options: Any) -> None:
    """Names as they are given: no formulas, nothing that a figure obeys."""
    for text in ax.legend(fontsize=8, handlelength=3.5, **options).get_texts():
        text.set(text=as_lines(text.get_text()), parse_math=False)


def plot_deletion(
    curves: Mapping[tuple[str, bool], DeletionCurve], show: bool = False, *, ax: Axes | None = None
) -> tuple[Figure, Axes]:
    """DEL₊ (below 0 is right) and DEL₋ (above 0 is right) over k, with 95 % bands over test examples.

    The axis is named for probabilities of the label asked about; where ``retrain`` answered with something else, set it anew.

    Args:
        curves (mapping): ``(name, proponents)`` → curve, as :func:`deletion_curves` returns them.
        show (bool): make the figure with pyplot and show it.
        ax (matplotlib Axes, optional): where to draw; else a new figure.
    """
    fig, ax = _axes(ax, show, (6.4, 4.2))
    names = list(dict.fromkeys(name for name, _ in curves))
    for (name, proponents), curve in curves.items():
        number = names.index(name)
        ends = [curve.interval(k, draws=1000) for k in curve.ks]
        (line,) = ax.plot(
            curve.ks,
            curve.mean().tolist(),
            **_look(number),
            marker="v" if proponents else "^",
            label=name if proponents or (name, True) not in curves else None,
        )
        ax.fill_between(
            curve.ks, [e.low for e in ends], [e.high for e in ends], color=line.get_color(), alpha=0.12, lw=0
        )
    ax.axhline(0, color="0.2", linewidth=0.8)
    directions = {proponents for _, proponents in curves}
    if len(directions) == 1:
        ax.set_xlabel("proponents removed" if True in directions else "opponents removed")
    else:
        ax.set_xlabel("examples removed (▼ proponents, ▲ opponents)")
    ax.set_ylabel("change of the probability of the label asked about")
    _legend(ax, ncols=2)
    return _finished(fig, ax, show)


def plot_noise(curves: Mapping[str, NoiseCurve], show: bool = False, *, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """Share of the mislabelled examples found over the share looked at, with the ideal and with chance."""
    fig, ax = _axes(ax, show, (5.2, 4.2))
    for number, (name, curve) in enumerate(curves.items()):
        ax.plot(
            curve.inspected.tolist(),
            curve.found.tolist(),
            **_look(number),
            label=name,
        )
    for number, wrong in enumerate(sorted({round(curve.wrong, 6) for curve in curves.values()})):
        ideal = None if number else "ideal: all wrong labels first"
        ax.plot([0, wrong, 1], [0, 1, 1], color="0.6", linewidth=1.2, label=ideal)
    ax.plot([0, 1], [0, 1], ":", color="0.45", linewidth=1.2, label="chance")
    ax.set_xlabel("share of the training set looked at, most suspect first")
    ax.set_ylabel("share of the mislabelled examples found")
    _legend(ax, loc="lower right")
    return _finished(fig, ax, show)


def plot_roc(curves: Mapping[str, RocCurve], show: bool = False, *, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """Share of the wrong labels found over the share of the right ones suspected, with chance."""
    fig, ax = _axes(ax, show, (5.2, 4.2))
    for number, (name, curve) in enumerate(curves.items()):
        ax.plot(curve.right.tolist(), curve.wrong.tolist(), **_look(number), label=name)
    ax.plot([0, 1], [0, 1], ":", color="0.45", linewidth=1.2, label="chance")
    ax.set_xlabel("share of the right labels suspected")
    ax.set_ylabel("share of the wrong labels found")
    _legend(ax, loc="lower right")
    return _finished(fig, ax, show)


def plot_cancellation(
    values: Mapping[str, Sequence[float]], steps: Sequence[float], show: bool = False, *, ax: Axes | None = None
) -> tuple[Figure, Axes]:
    """C(W) of each layer over training, on a logarithmic scale.

    Args:
        values (mapping): layer → C(W) at each of ``steps``.
        steps (sequence of float): epochs or steps.
    """
    fig, ax = _axes(ax, show, (6.4, 4.2))
    for number, (name, line) in enumerate(values.items()):
        if len(line) != len(steps):
            raise ValueError(f"plot_cancellation: expected {len(steps)} values for {name!r}, got {len(line)}.")
        ax.plot(list(steps), list(line), **_look(number), marker=_MARKERS[number % len(_MARKERS)], label=name)
    ax.set_yscale("log")
    _plain_ticks(ax.yaxis)
    if len(steps) <= _MOST_TICKS:
        ax.set_xticks(list(steps), [f"{step:g}" for step in steps])
    ax.set_xlabel("epoch")
    ax.set_ylabel("cancellation Σ‖g‖₁ / ‖Σg‖₁ (1: nothing is undone)")
    _legend(ax)
    return _finished(fig, ax, show)


def _plain_ticks(axis: Any) -> None:
    """Ticks of a logarithmic axis as plain numbers, 1, 2, 5, 10 and so on: "2" and not "2 × 10⁰"."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def plot_intervals(
    intervals: Mapping[str, Interval], show: bool = False, *, label: str = "", ax: Axes | None = None
) -> tuple[Figure, Axes]:
    """An estimate with its interval for each name: AUC-DEL, separation, NDR, LDS, word deletion. Blue excludes 0."""
    fig, ax = _axes(ax, show, (6.0, 1.2 + 0.3 * max(1, len(intervals))))
    for row, interval in enumerate(intervals.values()):
        colour = BLUE if interval.excludes() else VERMILION
        ax.plot([interval.low, interval.high], [row, row], color=colour, linewidth=2)
        ax.plot([interval.estimate], [row], "o", color=colour)
    ax.axvline(0, color="0.2", linewidth=0.8)
    ax.set_yticks(range(len(intervals)))
    lettering = Lettering()
    ax.set_yticklabels([lettering.lines(str(name)) for name in intervals], parse_math=False)
    ax.set_ylim(max(1, len(intervals)) - 0.5, -0.5)
    ax.set_xlabel(lettering.lines(label), parse_math=False)
    return _finished(fig, ax, show, lettering)


def plot_agreement(scores: Mapping[str, Tensor], show: bool = False, *, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """Heat map of Spearman's correlation between methods, mean over test examples."""
    names = list(scores)
    matrix = torch.tensor([[spearman(scores[a], scores[b]).nanmean().item() for b in names] for a in names])
    side = 0.42 * len(names)
    fig, ax = _axes(ax, show, (2.6 + side, 1.7 + side))  # with `show` a figure of pyplot's, which alone it shows
    plot_influence_matrix(matrix, test_labels=names, train_labels=names, ax=ax)
    fig.axes[-1].set_ylabel("")  # of the colour bar, which is not about proponents here
    ax.set_xlabel("")
    ax.set_ylabel("")
    ax.set_title("Spearman's correlation,\nmean over test examples", fontsize=10, loc="left")
    for text in ax.texts:  # a matrix of scores shows the sign alone where the digits are too few; here 0.00 says it all
        if len(text.get_text()) <= 1:
            text.set_text("0.00")
    return _finished(fig, ax, show)
