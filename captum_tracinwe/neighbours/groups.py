"""What whole groups of training texts do to the answers: a source, a label, a cluster of near texts, a poison."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from captum_tracinwe.batches.arguments import is_whole, kind_of
from captum_tracinwe.batches.batch import Batch
from captum_tracinwe.gradients.source import times
from captum_tracinwe.gradients.switches import undisturbed
from captum_tracinwe.neighbours.asked import as_list, check_inputs, check_progress, check_tracin, is_missing
from captum_tracinwe.rows.overflow import overflow
from captum_tracinwe.tabular import frame
from captum_tracinwe.tracin_we import TracInWE

__all__ = ["GroupInfluence", "Groups", "Members", "group_influence", "members_of", "readable_size"]

#: A name → training indices, or one label for each training example; None is in no group.
Groups = Mapping[Any, Iterable[int]] | Sequence[Any] | Tensor
COLUMNS = ("group", "texts", "influence", "per_text")
# Groups that are printed at each end.
SHOWN = 5


@dataclass(frozen=True, eq=False)
class GroupInfluence:
    """The influence of G groups of training texts on N questions; positive: proponents.

    Args:
        names (tuple of str): of the groups, as they were given.
        sizes (tuple of int): training texts in each.
        scores (Tensor): float64 ``(N, G)``; of :func:`unlearn_inverse`, which takes all questions as one, ``(1, G)``.
        method (str): "TracIn", "UnTrac" or "UnTrac-Inv", by which it was measured. Their units differ: compare ranks.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    scores: Tensor
    method: str = "TracIn"

    def __len__(self) -> int:
        return len(self.names)

    @property
    def total(self) -> Tensor:
        """On all questions together, float64 ``(G,)``."""
        return self.scores.sum(0)

    @property
    def per_text(self) -> Tensor:
        """The total divided by the group's size, float64 ``(G,)``: small strong groups stand above large weak ones."""
        return self.total / torch.tensor(self.sizes, dtype=torch.float64)

    def rows(self) -> list[dict[str, Any]]:
        """A dict per group, of the highest total first."""
        order = torch.argsort(-self.total, stable=True).tolist()
        total, each = self.total.tolist(), self.per_text.tolist()
        return [
            {"group": self.names[g], "texts": self.sizes[g], "influence": total[g], "per_text": each[g]} for g in order
        ]

    def to_table(self) -> Any:
        """A ``pandas.DataFrame``, a row per group; where pandas is not installed a list of dicts."""
        return frame(self.rows(), COLUMNS)

    def __repr__(self) -> str:
        return f"GroupInfluence(<{len(self)} groups>, method={self.method!r}, questions={len(self.scores)})"

    def __str__(self) -> str:
        rows = self.rows()
        few = len(rows) <= 2 * SHOWN
        shown = [*rows] if few else [*rows[:SHOWN], None, *rows[-SHOWN:]]
        width = max([len("group"), *(len(row["group"][:40]) for row in shown if row)])
        lines = [f"{'group':{width}}  {'texts':>6}  {'influence':>11}  {'per text':>11}"]
        for row in shown:
            if row is None:
                lines.append(f"... {len(rows) - 2 * SHOWN} more")
                continue
            name = "".join(c if c.isprintable() else " " for c in row["group"][:40])
            lines.append(f"{name:{width}}  {row['texts']:>6,}  {row['influence']:>+11.4g}  {row['per_text']:>+11.4g}")
        return "\n".join(lines)


@undisturbed
def group_influence(
    tracin: TracInWE,
    inputs: Batch | DataLoader[Any],
    groups: Groups,
    *,
    show_progress: bool | None = False,
) -> GroupInfluence:
    """The summed influence of groups of training texts: Σ over members j of ``tracin.influence(inputs)[i, j]``.

    One pass over the training set, or over the index, serves all groups; a block of scores is in memory at a time, and ``(N, G)``
    sums. Groups may overlap. :func:`unlearn` and leaving a group out of a new training are its two checks.

    Source of the question: Isonuma, Titov, *Unlearning Traces the Influential Training Data of Language Models*, ACL 2024,
    arXiv 2401.15241.

    Args:
        tracin (TracInWE): the model, its training set, its checkpoints; with an index, its rows are read. The score is the one it
            is set to, such as that of ``preconditioner="auto"``.
        inputs (batch or DataLoader): N test examples.
        groups (mapping, sequence or Tensor): name → training indices, or one label for each of the M training examples (None: in
            no group), such as those of a column.
        show_progress (bool, optional): a bar over the training batches; None: where a person looks.

    Returns:
        GroupInfluence: scores float64 ``(N, G)``, groups in the order given (of labels, in that of their first text).

    Raises:
        TypeError: `groups` of another kind.
        ValueError: no group, an empty one, an index that the training set does not have or that a group has twice; not one label
            for each training example.

    Example:
        >>> from captum_tracinwe.neighbours import group_influence
        >>> from captum_tracinwe.testing import toy_tracin
        >>> tracin, inputs = toy_tracin()
        >>> found = group_influence(tracin, inputs, {"first": [0, 1, 2], "odd": [1, 3, 5]})
        >>> found.names, found.sizes
        (('first', 'odd'), (3, 3))
        >>> bool((found.scores[:, 0] - tracin.influence(inputs)[:, :3].sum(1)).abs().max() < 1e-5)
        True
    """
    whose = "group_influence"
    check_tracin(tracin, whose)
    check_inputs(inputs, whose)
    check_progress(show_progress, whose)
    source = tracin.source
    if tracin.index is not None:
        tracin.index.warn_unfinished()
    known = source.size if source.size is not None else readable_size(tracin)
    members = members_of(groups, known, whose)
    question = tracin.question(inputs)
    sums = torch.zeros(len(question), len(members.names), dtype=torch.float64)
    met = torch.zeros(len(members.examples), dtype=torch.bool)
    seen = 0
    desc = f"Using {tracin.get_name()} to compute the influence of {len(members.names)} groups"
    for indices, products, factors in source.score_blocks(question, desc=desc, show_progress=show_progress):
        scores = times(products, factors).double().cpu()
        seen += len(indices)
        columns, pairs = members.within(indices.cpu())
        met[pairs] = True
        sums.index_add_(1, members.groups[pairs], scores[:, columns])
    if not bool(sums.isfinite().all()):
        raise overflow("The summed score of a group", sums.dtype)
    members = members.checked(met, seen, source.indices is not None, whose)
    return GroupInfluence(members.names, members.sizes, sums)


# ---------------------------------------------------------------------------------------------------------- membership


@dataclass(frozen=True, eq=False)
class Members:
    """Which training examples are in which group, as P pairs.

    Args:
        names (tuple of str): of the G groups.
        examples (Tensor): int64 ``(P,)``, training indices, ascending.
        groups (Tensor): int64 ``(P,)``, the group of each.
        labelled (int, optional): how many examples there have to be, where one label each was given.
    """

    names: tuple[str, ...]
    examples: Tensor
    groups: Tensor
    labelled: int | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Members of each group."""
        return tuple(torch.bincount(self.groups, minlength=len(self.names)).tolist())

    def of(self, group: int) -> list[int]:
        """The training indices of a group, ascending."""
        found: list[int] = self.examples[self.groups == group].tolist()
        return found

    def within(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Of some training indices ``(m,)`` each pair that one of them has: its place among them, and that of the pair."""
        first = torch.searchsorted(self.examples, indices)
        counts = torch.searchsorted(self.examples, indices, right=True) - first
        columns = torch.repeat_interleave(torch.arange(len(indices)), counts)
        start = torch.repeat_interleave(first - (counts.cumsum(0) - counts), counts)
        return columns, start + torch.arange(len(columns))

    def among(self, indices: Tensor | None, size: int, whose: str) -> Members:
        """Those whose text is there: ``indices`` are the training examples that are, where some were deleted from an index."""
        if indices is None:
            return self
        return self.checked(torch.isin(self.examples, indices.cpu()), size, True, whose)

    def checked(self, met: Tensor, seen: int, deleted: bool, whose: str) -> Members:
        """Those that were met in a pass over the training set, once it is over; ``deleted``: an index that lacks some."""
        if self.labelled is not None:
            if not deleted and self.labelled != seen:
                raise ValueError(_labels(whose, self.labelled, seen))
            kept = Members(self.names, self.examples[met], self.groups[met], self.labelled)
            empty = next((name for name, size in zip(kept.names, kept.sizes, strict=True) if not size), None)
            if empty is not None:
                raise ValueError(
                    f"{whose}: the index has no text of the group {empty!r:.60} any more, all were deleted: expected at least "
                    f"one. Give these None in place of their label."
                )
            return kept
        if not bool(met.all()):
            pair = int((~met).nonzero()[0])
            why = "which is not in the index any more" if deleted else f"and the training set has {seen} examples"
            raise ValueError(
                f"{whose}: the group {self.names[int(self.groups[pair])]!r:.60} names training example "
                f"{int(self.examples[pair])}, {why}: expected indices of training examples. Leave it out."
            )
        return self


def readable_size(tracin: TracInWE) -> int | None:
    """How many training examples there are, where that can be told without reading them."""
    return tracin.training_set.readable


def members_of(groups: Any, size: int | None, whose: str) -> Members:
    """Groups as pairs of example and group.

    Args:
        groups: as the user gave them.
        size (int, optional): M, where it is known.
        whose (str): the function that asks, for what is said of an error.
    """
    if isinstance(groups, Mapping):
        named = {name: _indices(name, given, size, whose) for name, given in groups.items()}
        labelled = None
    else:
        named, labelled = _by_label(groups, size, whose)
    if not named and labelled:
        raise ValueError(
            f"{whose}: all {labelled:,} labels in `groups` are None, which is for texts in no group: expected the name of a "
            f"group for at least one text."
        )
    if not named:
        raise ValueError(f"{whose}: `groups` is empty: expected at least one group of training examples.")
    names = tuple(str(name) for name in named)
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise ValueError(
            f"{whose}: two of `groups` are called {twice!r:.60} as text: expected a name of its own for each."
        )
    parts = list(named.values())
    examples = torch.cat(parts)
    of = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor([len(part) for part in parts]))
    order = torch.argsort(examples, stable=True)
    return Members(names, examples[order], of[order], labelled)


def _indices(name: Any, given: Any, size: int | None, whose: str) -> Tensor:
    values = as_list(given)
    if values is None:
        raise TypeError(f"{whose}: the group {name!r:.60} is a {kind_of(given)}: expected a list of training indices.")
    wrong = next((one for one in values if not is_whole(one)), None)
    if wrong is not None:
        hint = ": of a mask pass mask.nonzero().flatten()" if isinstance(wrong, bool) else ""
        raise TypeError(
            f"{whose}: the group {name!r:.60} holds {wrong!r:.60}: expected whole numbers, training indices{hint}."
        )
    if not values:
        raise ValueError(
            f"{whose}: the group {name!r:.60} is empty: expected at least one training index. Leave it out."
        )
    most = f"0 to {size - 1}" if size is not None else "indices from 0"
    outside = next((one for one in values if not 0 <= one < (sys.maxsize if size is None else size)), None)
    if outside is not None:
        raise ValueError(f"{whose}: the group {name!r:.60} names training example {outside!r:.40}: expected {most}.")
    found = torch.tensor([int(one) for one in values], dtype=torch.int64)
    distinct: Tensor
    distinct, counts = torch.unique(found, return_counts=True)
    if len(distinct) < len(found):
        raise ValueError(
            f"{whose}: the group {name!r:.60} has training example {int(distinct[counts > 1][0])} twice: expected each once, "
            f"for it would count twice."
        )
    return distinct


def _by_label(groups: Any, size: int | None, whose: str) -> tuple[dict[Any, Tensor], int]:
    labels = as_list(groups)
    if labels is None:
        raise TypeError(
            f"{whose}: `groups` is a {kind_of(groups)}: expected a mapping of name to training indices, or one label for each "
            f"training example."
        )
    if size is not None and len(labels) != size:
        raise ValueError(_labels(whose, len(labels), size))
    found: dict[Any, list[int]] = {}
    for index, label in enumerate(labels):
        if not isinstance(label, Hashable) or isinstance(label, tuple):
            raise TypeError(
                f"{whose}: `groups` has {label!r:.60} for training example {index}: expected one label for each training "
                f"example, a name or a number. Groups of indices are given by name, {{name: [indices]}}."
            )
        if not is_missing(label):
            found.setdefault(label, []).append(index)
    if len(found) > 1 and len(found) == len(labels):
        some = ", ".join(repr(label)[:20] for label in islice(found, 3))
        raise ValueError(
            f"{whose}: each of the {len(labels)} training examples has a label of its own ({some}, ...), so that no group has "
            f"two texts. Expected labels that several share, or a mapping of name to indices. Single texts are asked about by "
            f"influence(inputs)."
        )
    return {label: torch.tensor(places, dtype=torch.int64) for label, places in found.items()}, len(labels)


def _labels(whose: str, given: int, size: int) -> str:
    return (
        f"{whose}: `groups` has {given} labels, and there are {size} training examples: expected one for each, in their order, "
        f"or a mapping of name to indices."
    )
