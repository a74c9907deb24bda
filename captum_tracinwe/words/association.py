"""Which label a word's texts have more often than chance has it, with a p-value by dealing the labels anew.

Words know nothing of influence here: a word is the list of training texts that hold it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from numbers import Real
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

__all__ = ["MAX_DRAWS", "association", "benjamini_hochberg", "label_names"]

Key = TypeVar("Key", bound=Hashable)
#: The most deals of labels; their sorted excesses are kept for each count of texts, 80 MB at most.
MAX_DRAWS = 10**7
# Counts of labels that are dealt at once: 32 MB of int64. All 10,000 deals of 1,000 labels were 80 MB for each count.
_DEALT_AT_ONCE = 1 << 22
_LARGEST_DECK = 10**8


def label_names(train_labels: Sequence[object] | Tensor, names: Mapping[int, str] | None = None) -> list[str]:
    """Labels as they are shown: class numbers by their ``names``, if all have one.

    Raises:
        TypeError: not a list or a tensor ``(M,)``; an entry that is no text and no number, or both kinds.
        ValueError: an entry is missing or NaN.
    """
    is_list = isinstance(train_labels, Sequence) and not isinstance(train_labels, str)
    if not is_list and not (hasattr(train_labels, "tolist") and getattr(train_labels, "ndim", 0) == 1):
        got = tuple(train_labels.shape) if hasattr(train_labels, "shape") else type(train_labels).__name__
        raise TypeError(
            f"word_report: expected `train_labels` as a list or a tensor (M,) of one label each, got {got}."
        )
    values: list[Any] = train_labels.tolist() if hasattr(train_labels, "tolist") else list(train_labels)
    kinds = set()
    for at, value in enumerate(values):
        if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # a number of torch's or NumPy's
            value = values[at] = value.item()
        if value is None or str(value) in ("<NA>", "NaT") or (isinstance(value, Real) and value != value):
            raise ValueError(
                f"word_report: expected a label for every training example, got {value!r} for example {at}: give such "
                f"examples a label of their own, for instance 'none'."
            )
        if not isinstance(value, (str, Real)):
            raise TypeError(
                f"word_report: expected each of `train_labels` as a name or a number, got {value!r:.60} for example {at}."
            )
        kinds.add(isinstance(value, str))
        if not isinstance(value, (str, bool)) and math.isfinite(value) and value == math.floor(value):
            values[at] = math.floor(value)  # 1.0 and 1 are one label, as are −0.0 and 0
    if len(kinds) > 1:
        raise TypeError(
            "word_report: expected `train_labels` as names or as numbers, got both, where 1 and '1' look alike."
        )
    if names and all(type(value) is int and value in names for value in values):
        return [names[value] for value in values]
    return [str(value) for value in values]


def association(
    labels: Sequence[str], holders: Mapping[Key, Sequence[int]], draws: int, seed: int
) -> dict[Key, dict[str, Any]]:
    """For each word its label, how much of it, and p-values.

    Of a word in n texts only n matters: dealing all labels at random deals its texts n of them without putting back. So
    words of one count share their draws, from the multivariate hypergeometric distribution, which *is* the permutation.
    """
    names = sorted(set(labels))
    codes = np.searchsorted(names, labels)
    totals = np.bincount(codes, minlength=len(names))
    generator = np.random.default_rng(seed)
    by_count: dict[int, np.ndarray[Any, Any]] = {}
    rows: dict[Key, dict[str, Any]] = {}
    for key, indices in holders.items():
        n = len(indices)
        counts = np.bincount(codes[indices], minlength=len(names))
        excess = _excess(counts[None], totals)[0]
        if n not in by_count:
            by_count[n] = _dealt(totals, n, draws, generator)
        # Ties are counted as at least as extreme; the tolerance keeps rounding from untying them.
        as_extreme = draws - np.searchsorted(by_count[n], excess.max() - 1e-9)
        p_value = float((as_extreme + 1) / (draws + 1))
        if not as_extreme:
            # Else one planted word among more than 500 could not pass 0.05 after adjusting 1 / 10,001: at 5,000 it had 0.5.
            p_value = min(p_value, _tail_bound(float(excess.max()), n, totals))
        label = int(excess.argmax())
        if excess[label] <= 0:  # one label only, or a word that is in every text: it cannot go with any
            rows[key] = {"label": "", "label_share": 0.0, "base_share": 0.0, "p_value": p_value}
            continue
        rows[key] = {
            "label": names[label],
            "label_share": float(counts[label] / n),
            "base_share": float(totals[label] / len(labels)),
            "p_value": p_value,
        }
    for key, adjusted in zip(rows, benjamini_hochberg([row["p_value"] for row in rows.values()]), strict=True):
        rows[key]["adjusted_p"] = adjusted
    return rows


def _dealt(totals: np.ndarray[Any, Any], n: int, draws: int, generator: np.random.Generator) -> np.ndarray[Any, Any]:
    """The largest excess of each of ``draws`` deals of labels to n texts, ascending."""
    at_once = max(1, _DEALT_AT_ONCE // len(totals))
    # "marginals" draws a number for each label, "count" one for each text: 1.2 s against 0.2 s for 1,000 labels and 10 texts.
    method: Any = "count" if n < len(totals) and totals.sum() < _LARGEST_DECK else "marginals"
    found = [
        _excess(
            generator.multivariate_hypergeometric(totals, n, size=min(at_once, draws - start), method=method), totals
        ).max(1)
        for start in range(0, draws, at_once)
    ]
    return np.sort(np.concatenate(found))


def _excess(counts: np.ndarray[Any, Any], totals: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """How much more of each label there is in counts ``(deals, labels)``, all of n texts, than random labels would give, in
    standard deviations; 0 where that is fixed."""
    n, everyone = counts[0].sum(), totals.sum()
    share = totals / everyone
    variance = n * share * (1 - share) * (everyone - n) / max(1, everyone - 1)
    excess: np.ndarray[Any, Any] = counts - n * share
    excess *= np.where(variance > 0, 1 / np.sqrt(np.maximum(variance, 1e-300)), 0.0)
    return excess


def _tail_bound(excess: float, n: int, totals: np.ndarray[Any, Any]) -> float:
    """At least the probability that labels dealt to n texts give some label this ``excess``; that is not 0.

    The sum over labels of bounds of hypergeometric tails: beyond the mode a term is less than the one before it by a ratio
    that falls, so the first term / (1 − first ratio) is at least the sum of all.
    """
    everyone = int(totals.sum())
    share = totals / everyone
    deviation = np.sqrt(n * share * (1 - share) * (everyone - n) / max(1, everyone - 1))
    # Rounded down where in doubt, which makes the bound larger; a count is whole, so 1e-6 is no doubt lost.
    least = np.ceil(n * share + excess * deviation - 1e-6)
    possible = (deviation > 0) & (least <= np.minimum(n, totals))
    k, held = (torch.from_numpy(values[possible].astype(np.float64)) for values in (least, totals))
    ratio = (held - k) * (n - k) / ((k + 1) * (everyone - held - n + k + 1))
    log_term = _log_choose(held, k) + _log_choose(everyone - held, n - k) - _log_choose(torch.tensor(everyone), n)
    tails = torch.where(ratio < 1, log_term.exp() / (1 - ratio), 1.0)
    return min(1.0, max(float(tails.sum()), 1e-300))


def _log_choose(n: Tensor, k: Tensor | int) -> Tensor:
    n, k = n.double(), torch.as_tensor(k, dtype=torch.float64)
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number: of those up to α a share of at most α is false (Benjamini, Hochberg 1995)."""
    p = np.asarray(p_values)
    order = np.argsort(p)[::-1]
    ranks = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(p[order] * len(p) / ranks))
    return [float(value) for value in adjusted]
