"""`WordInfluence` and score matrices as matplotlib figures; global state is touched only to show one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from captum.influence._utils.common import KMostInfluentialResults
from torch import Tensor

from captum_tracinwe.visualization.common import (
    BLUE,
    UNIT,
    VERMILION,
    Influences,
    Texts,
    carried,
    check_count,
    counted,
    first_words,
    flat,
    largest_others,
    scale_of,
    signed,
    with_label,
)
from captum_tracinwe.visualization.glyphs import Lettering
from captum_tracinwe.words.influence import Vocabulary, names_by_id
from captum_tracinwe.words.report import WordReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_influence_matrix", "plot_word_influence", "plot_word_report"]

_MAX_NAME = 28
# Cells with a number in them: more than these are too small to read it.
_MAX_WRITTEN_CELLS = 150


def plot_word_influence(
    influences: Influences,
    show: bool = False,
    *,
    top: int = 15,
    title: str | None = None,
    vocabulary: Vocabulary | None = None,
    test_texts: Texts | None = None,
    train_texts: Texts | None = None,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Horizontal bars of the words with the largest shares, of one pair or added up over several.

    Args:
        influences (WordInfluence, list of them, or list of lists): one pair, or a set whose shares are added
            per word.
        show (bool): make the figure with pyplot and show it.
        top (int): number of bars; the rest is added up in the line below.
        title (str, optional): default: which examples these are.
        vocabulary (sequence or mapping of str, optional): names of token ids, for pairs without texts.
        test_texts, train_texts (sequence or mapping of TokenizedText, optional): by index.
        ax (matplotlib Axes, optional): where to draw; else a new figure.

    Returns:
        tuple: ``(fig, ax)``.

    Example:
        >>> from captum_tracinwe.testing import toy_tracin
        >>> tracin, inputs = toy_tracin()
        >>> fig, ax = plot_word_influence(tracin.word_influence(inputs, tracin.influence(inputs, k=2).indices), top=3)
        >>> len(ax.get_yticklabels())
        3
    """
    pairs = flat(influences, test_texts, train_texts)
    vocabulary = names_by_id(vocabulary)
    totals: dict[tuple[bool, str], list[float]] = {}
    for pair in pairs:
        for word in pair.words(vocabulary):
            totals.setdefault((word.special, word.text), []).append(word.share)
    sums = sorted(
        ((name, math.fsum(shares)) for (_, name), shares in totals.items()),
        key=lambda entry: (-abs(entry[1]), entry[0]),
    )
    check_count("top", top)
    shown, rest = sums[:top], sums[top:]
    fig, ax = _axes(ax, show, (6.4, 1.5 + 0.27 * max(1, len(shown))))
    lettering = Lettering()
    _draw_bars(ax, [name for name, _ in shown], [value for _, value in shown], lettering)
    also = f"; {len(rest)} more words add {signed(math.fsum(value for _, value in rest))}" if rest else ""
    ax.set_xlabel(f"share of the score (+ proponent, − opponent{also})\nunit: {UNIT}", fontsize=8.5, linespacing=1.4)
    heading = lettering.lines(str(title)) if title is not None else _title(pairs, lettering)
    ax.set_title(heading, fontsize=10, loc="left", parse_math=False)
    return _finished(fig, ax, show, lettering)


def plot_word_report(
    report: WordReport, show: bool = False, *, top: int = 15, title: str | None = None, ax: Axes | None = None
) -> tuple[Figure, Axes]:
    """Horizontal bars of what the first words of a report add, with the label that each goes with.

    Args:
        report (WordReport): of :func:`captum_tracinwe.word_report`.
        show (bool): make the figure with pyplot and show it.
        top (int): number of bars.
        title (str, optional): default: how many texts, what the words carry of all totals, and their order.
        ax (matplotlib Axes, optional): where to draw; else a new figure.

    Returns:
        tuple: ``(fig, ax)``. Bold names go with a label, see :attr:`ReportedWord.sticks`; where all do, the three of the
        largest total that go with none stand below a line.

    Example:
        >>> import torch
        >>> from captum_tracinwe import word_report
        >>> from captum_tracinwe.testing import toy_tracin
        >>> tracin, inputs = toy_tracin()
        >>> labels = torch.cat([labels for _, labels in tracin.train_dataloader])
        >>> report = word_report(tracin, inputs, labels, draws=100)
        >>> fig, ax = plot_word_report(report, top=4)
        >>> [label.get_text() for label in ax.get_yticklabels()] == [word.word for word in report.words[:4]]
        True
    """
    first = first_words(report, top)
    others = largest_others(report, first)
    shown = (*first, *others)
    fig, ax = _axes(ax, show, (7.2, 1.7 + 0.27 * max(1, len(shown))))
    lettering = Lettering()
    _draw_bars(ax, [word.word for word in shown], [word.total for word in shown], lettering)
    for label, word in zip(ax.get_yticklabels(), shown, strict=True):
        if word.sticks:
            label.set_fontweight("bold")
    if others:
        ax.axhline(len(first) - 0.5, color="0.4", linewidth=0.8, linestyle="--")
    for row, word in enumerate(shown):
        before, after = with_label(word.label, f"{word.label_share:.0%}")
        label = f"{before}{lettering(word.label, 16)}{after}, " if word.label else ""
        ax.annotate(
            f"{label}{counted(word.count, 'text')}",
            (1.02, row),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
            color="0.35",
            parse_math=False,
        )
    ax.set_xlabel(f"total over all pairs (+ proponent, − opponent)\nunit: {UNIT}", fontsize=8.5, linespacing=1.4)
    default = (
        f"{counted(report.trains, 'training text')}, {counted(report.tests, 'test text')}; "
        f"shown: {carried(shown, report)} of all totals, ignoring the sign\n"
        "bold: goes with one label, by total × steadiness × certainty;\n"
        f"{'below the line: largest of the others' if others else 'then the others, by total'}"
    )
    heading = lettering.lines(str(title)) if title is not None else default
    ax.set_title(heading, fontsize=10, loc="left", parse_math=False)
    return _finished(fig, ax, show, lettering)


def plot_influence_matrix(
    scores: Tensor | Sequence[Sequence[float]],
    show: bool = False,
    *,
    test_labels: Sequence[object] | Tensor | None = None,
    train_labels: Sequence[object] | Tensor | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Heat map of scores with a symmetric scale: white is 0, blue a proponent, orange an opponent.

    Args:
        scores (Tensor): ``(N, M)``: ``scores[i, j]`` is the influence of training example j on test example
            i.
        show (bool): make the figure with pyplot and show it.
        test_labels, train_labels (sequence or Tensor, optional): N and M names, shown as ``str``; default: their numbers.
        title (str, optional): heading.
        ax (matplotlib Axes, optional): where to draw; else a new figure.

    Returns:
        tuple: ``(fig, ax)``. Scores that are not finite are grey.

    Raises:
        ValueError: scores that are not a matrix, or the wrong number of labels.

    Example:
        >>> from captum_tracinwe.testing import toy_tracin
        >>> tracin, inputs = toy_tracin()
        >>> fig, ax = plot_influence_matrix(tracin.influence(inputs), test_labels=["a", "b"])
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('training example', 'test example')
    """
    from matplotlib.colors import LinearSegmentedColormap

    if isinstance(scores, KMostInfluentialResults):
        raise TypeError(
            "plot_influence_matrix: expected a matrix of scores, got KMostInfluentialResults, whose columns are other training "
            "examples in each row: call TracInWE.influence(inputs) without k."
        )
    try:
        values = torch.as_tensor(scores).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"plot_influence_matrix: expected scores as a matrix of numbers, got {scores!r:.60}."
        ) from error
    if values.dim() != 2 or not values.numel():
        raise ValueError(
            f"plot_influence_matrix: expected scores of shape (test, training), got {tuple(values.shape)}. "
            "TracInWE.influence(inputs) without k returns such a matrix."
        )
    rows, columns = values.shape
    test_labels, train_labels = (
        labels.tolist() if isinstance(labels, Tensor) else labels for labels in (test_labels, train_labels)
    )
    for name, labels, size in (("test_labels", test_labels, rows), ("train_labels", train_labels, columns)):
        if labels is not None and len(labels) != size:
            raise ValueError(f"plot_influence_matrix: expected {size} {name}, got {len(labels)}.")
    limit = scale_of(values[values.isfinite()].tolist())
    ends = [VERMILION, "#FFFFFF", BLUE]
    colours = LinearSegmentedColormap.from_list("proponent_opponent", ends).with_extremes(bad="0.75")
    fig, ax = _axes(ax, show, (min(12.0, 2.6 + 0.42 * columns), max(2.7, min(9.0, 1.7 + 0.34 * rows))))
    lettering = Lettering()
    image = ax.imshow(values.numpy(), cmap=colours, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    bar = fig.colorbar(image, ax=ax, pad=0.02)
    bar.ax.ticklabel_format(style="sci", scilimits=(-3, 4), useMathText=True)
    note = ""
    if 0 < rows * columns <= _MAX_WRITTEN_CELLS and limit > 1e-300:
        exponent = math.floor(math.log10(limit))
        exponent = 0 if -2 < exponent < 3 else exponent
        note = f"\n(cells: $\\times 10^{{{exponent}}}$)" if exponent else ""
        for row, column in torch.nonzero(values.isfinite()).tolist():
            value = values[row, column].item()
            number = f"{value / 10.0**exponent:+.2f}".replace("-", "−")
            number = (
                number[0] * bool(value) if number[1:] == "0.00" else number
            )  # too small for its digits: the sign alone
            ink = "white" if abs(value) > 0.65 * limit else "0.15"
            ax.text(column, row, number, ha="center", va="center", fontsize=7, color=ink)
    bar.set_label(f"+ proponent\n− opponent{note}", fontsize=8.5, rotation=0, ha="left", va="center")
    for axis, labels, name, length in (
        (ax.xaxis, train_labels, "training example", columns),
        (ax.yaxis, test_labels, "test example", rows),
    ):
        axis.set_label_text(name)
        if labels is not None:
            axis.set_ticks(range(length))
            axis.set_ticklabels([lettering(label, _MAX_NAME) for label in labels], parse_math=False, fontsize=8)
        elif length <= 20:
            axis.set_ticks(range(length))
    if train_labels is not None:
        for label in ax.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    for spine in ax.spines.values():
        spine.set_color("0.6")
    if title:
        ax.set_title(lettering.lines(str(title)), fontsize=10, loc="left", parse_math=False)
    return _finished(fig, ax, show, lettering)


def _axes(ax: Axes | None, show: bool, size: tuple[float, float]) -> tuple[Figure, Any]:
    if ax is not None:
        figure: Any = ax.figure
        return figure, ax
    if show:
        from matplotlib import pyplot

        fig = pyplot.figure(figsize=size, layout="constrained")
    else:
        from matplotlib.figure import Figure

        fig = Figure(figsize=size, layout="constrained")
    return fig, fig.add_subplot()


def _draw_bars(ax: Axes, names: Sequence[str], values: Sequence[float], lettering: Lettering) -> None:
    """Bars to the right for positive, hatched to the left for negative values, each with its number."""
    bars = ax.barh(
        range(len(values)),
        values,
        color=[BLUE if value >= 0 else VERMILION for value in values],
        height=0.72,
        zorder=2,
    )
    for bar, value in zip(bars, values, strict=True):
        if value < 0:
            bar.set(hatch="////", edgecolor="white", linewidth=0)  # the sign without colour
    limit = scale_of(values)
    for row, value in enumerate(values):
        side = 1 if value >= 0 else -1
        ax.annotate(
            signed(value),
            (value, row),
            xytext=(3 * side, 0),
            textcoords="offset points",
            va="center",
            ha="left" if side > 0 else "right",
            fontsize=8,
        )
    low, high = min(values, default=0.0), max(values, default=0.0)
    room = 0.28 * max(limit, high - low) if values else 1.0
    ax.set_xlim(low - room if low < 0 else -0.02 * limit, high + room if high > 0 or low == 0 else 0.02 * limit)
    ax.set_ylim(max(1, len(values)) - 0.4, -0.6)
    ax.set_yticks(range(len(values)))
    ax.set_yticklabels([lettering(name, _MAX_NAME) for name in names], parse_math=False)
    ax.axvline(0, color="0.2", linewidth=0.8, zorder=3)
    ax.tick_params(axis="y", length=0, labelsize=9)
    ax.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4), useMathText=True)
    ax.locator_params(axis="x", nbins=6)
    ax.grid(axis="x", color="0.9", linewidth=0.6, zorder=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    if not values:
        ax.text(0.5, 0.5, "no word in common", transform=ax.transAxes, ha="center", va="center", color="0.4")


def _finished(fig: Figure, ax: Axes, show: bool, lettering: Lettering | None = None) -> tuple[Figure, Axes]:
    (lettering or Lettering()).finish(ax)
    if show:
        from matplotlib import pyplot

        pyplot.show()
    return fig, ax


def _title(pairs: list[Any], lettering: Lettering) -> str:
    if len(pairs) == 1:
        pair = pairs[0]
        names = f"Training example {pair.train_index} on test example {pair.test_index}"
        if pair.test_text is not None and pair.test_text.asked:
            names += f", asked about {lettering(', '.join(pair.test_text.asked_words), _MAX_NAME)}"
        return f"{names}: score {signed(pair.score)}"
    return f"Shares added up over {len(pairs)} pairs" if pairs else "No pairs"
