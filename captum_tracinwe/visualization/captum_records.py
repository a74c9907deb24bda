"""`WordInfluence` as records of Captum's own text view, with escaped what that view does not escape."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import torch

from captum_tracinwe.visualization.common import Influences, Texts, flat, marks, scale_of, signed
from captum_tracinwe.words.influence import WordInfluence
from captum_tracinwe.words.legible import visible

if TYPE_CHECKING:
    from captum.attr._utils.visualization import VisualizationDataRecord

__all__ = ["to_captum_records", "visualize_text"]


def to_captum_records(
    influences: Influences,
    *,
    test_texts: Texts | None = None,
    train_texts: Texts | None = None,
    test_probabilities: Sequence[float] | None = None,
    normalize: bool = True,
) -> list[VisualizationDataRecord]:
    """Records for Captum's ``visualize_text``: one per pair, the words of the training text with shares.

    Args:
        influences (WordInfluence, list of them, or list of lists): the pairs.
        test_texts, train_texts (sequence or mapping of TokenizedText, optional): by index.
        test_probabilities (sequence of float, optional): probability of the predicted class, by test index;
            else NaN.
        normalize (bool): divide all shares by the largest magnitude among the records, because Captum clips
            at ±1 without scaling. False: ``word_attributions`` add up to the score.

    Returns:
        list of VisualizationDataRecord: labels are strings; all strings are escaped, because Captum puts them
        into HTML as they are. ``convergence_score`` is the score minus the sum of the shares: 0.

    Example:
        >>> from captum_tracinwe.testing import toy_tracin
        >>> tracin, inputs = toy_tracin()
        >>> records = to_captum_records(tracin.word_influence(inputs, [[3], [5]]))
        >>> [record.attr_class.split()[0] for record in records]
        ['#3', '#5']
    """
    from captum.attr import visualization

    pairs = flat(influences, test_texts, train_texts)
    largest = max((pair.test_index for pair in pairs), default=-1)
    if test_probabilities is not None and len(test_probabilities) <= largest:
        raise ValueError(
            f"to_captum_records: expected one of `test_probabilities` for each test text, up to test index {largest}, got "
            f"{len(test_probabilities)}."
        )
    words = [_words(pair) for pair in pairs]
    scale = scale_of(share for row in words for _, share in row) if normalize else 1.0
    records = []
    for pair, row in zip(pairs, words, strict=True):
        test, train = pair.test_text, pair.train_text
        label = f" {train.label}" if train and train.label is not None else ""
        records.append(
            visualization.VisualizationDataRecord(
                word_attributions=torch.tensor([share / scale for _, share in row], dtype=torch.float64),
                pred_prob=float("nan") if test_probabilities is None else float(test_probabilities[pair.test_index]),
                pred_class=_clean(test.prediction if test else None),
                true_class=_clean(test.label if test else None),
                # With the score, of which Captum prints two decimals: most would read 0.00.
                attr_class=_clean(f"#{pair.train_index}{label} ({signed(pair.score)})"),
                attr_score=pair.score,
                raw_input_ids=[_clean(word) for word, _ in row],
                convergence_score=pair.score - pair.token_shares.sum().item(),
            )
        )
    return records


def visualize_text(influences: Influences, *, legend: bool = True, **options: Any) -> Any:
    """Show pairs with Captum's ``visualize_text``; in a notebook the table appears.

    Args:
        influences (WordInfluence, list of them, or list of lists): the pairs.
        legend (bool): Captum's legend (its green is our proponent, its red our opponent).
        **options: those of :func:`to_captum_records`.

    Returns:
        IPython.display.HTML: the table.

    Raises:
        ImportError: IPython is not installed; :func:`word_influence_html` does not need it.

    Example:
        In a notebook: ``visualize_text(tracin.word_influence(inputs, best.indices), test_texts=tests, train_texts=texts)``.
    """
    try:
        import IPython  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "visualize_text shows its table with IPython, which is not installed. Install ipython, or use "
            "word_influence_html, which does without."
        ) from error
    from captum.attr import visualization

    return visualization.visualize_text(to_captum_records(influences, **options), legend=legend)


def _clean(text: str | None) -> str:
    return "–" if text is None else escape(visible(text))


def _words(pair: WordInfluence) -> list[tuple[str, float]]:
    """The training text, word by word in reading order, each with its share; 0 where it is not in common."""
    text = pair.train_text
    if text is None:
        return [(word.text, word.share) for word in pair.words()]
    shared = marks(pair, text)
    taken = {mark.span for mark in shared if not mark.special}
    others = [(span, visible(text.text[slice(*span)]), 0.0) for span in text.word_spans().values() if span not in taken]
    row = [(mark.span, visible(mark.name), mark.share) for mark in shared] + others
    return [(name, share) for _, name, share in sorted(row, key=lambda entry: entry[0])]
