"""Training pairs whose influence stays when the question is turned round: what a planted pair with a trigger looks like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from captum_tracinwe.batches.arguments import is_plain
from captum_tracinwe.batches.batch import labels_of
from captum_tracinwe.batches.chance import chance_as_before
from captum_tracinwe.batches.loaders import reading
from captum_tracinwe.neighbours.asked import check_inputs, check_level, check_progress, check_tracin
from captum_tracinwe.neighbours.written import rows_of, told
from captum_tracinwe.tabular import frame
from captum_tracinwe.words.association import benjamini_hochberg

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from captum_tracinwe.batches.batch import Batch
    from captum_tracinwe.tracin_we import TracInWE

__all__ = ["InfluenceStability", "StableExample", "influence_stability"]

# Of fewer the median and the spread of the others say nothing about a tail.
LEAST_EXAMPLES = 20
# A normal variable's standard deviation in units of its median absolute deviation.
_PER_MAD = 1.482602218505602


@dataclass(frozen=True)
class StableExample:
    """One training example, and how much of its influence stays.

    Args:
        index (int): in the training set.
        before (float): its mean influence on the questions; unit of the scores.
        after (float): the same on the transformed ones, mean of all transformations.
        z_before (float): how far its influence on the questions is above the usual, in units of the usual spread.
        z (float): the least of ``z_before`` and the same of each transformation: what stays.
        p_value (float): probability of such a ``z`` or a higher one, were the example like the bulk of the training set in the
            version of the questions in which it stands out least.
        adjusted_p (float): the same after Benjamini and Hochberg, for all training examples.
    """

    index: int
    before: float
    after: float
    z_before: float
    z: float
    p_value: float
    adjusted_p: float


#: Of a table of examples: what a :class:`StableExample` has.
COLUMNS = tuple(StableExample.__dataclass_fields__)


@dataclass(frozen=True)
class InfluenceStability:
    """All training examples, those first whose influence stays most.

    Args:
        examples (tuple of StableExample): M of them, by falling ``z``; without those deleted from an index.
        level (float): largest ``adjusted_p`` of a suspect.
        questions, transformations (int): how many.
    """

    examples: tuple[StableExample, ...]
    level: float
    questions: int
    transformations: int

    @property
    def suspects(self) -> tuple[StableExample, ...]:
        """Those beyond chance: ``adjusted_p`` of at most ``level``."""
        return tuple(one for one in self.examples if one.adjusted_p <= self.level)

    @property
    def order(self) -> tuple[int, ...]:
        """Training indices, those first whose influence stays most."""
        return tuple(one.index for one in self.examples)

    def rows(self) -> list[dict[str, Any]]:
        """The examples as a list of dicts."""
        return rows_of(self.examples)

    def to_table(self) -> Any:
        """A ``pandas.DataFrame``, a row an example; where pandas is not installed a list of dict."""
        return frame(self.rows(), COLUMNS)

    def __repr__(self) -> str:
        """In one line: a training set has thousands of examples."""
        return (
            f"InfluenceStability(<{len(self.examples):,} examples>, suspects={len(self.suspects)}, level={self.level:g}, "
            f"questions={self.questions}, transformations={self.transformations})"
        )

    def __str__(self) -> str:
        return told(
            f"{len(self.suspects)} of {len(self.examples):,} training examples keep more influence than chance has it "
            f"(adjusted p ≤ {self.level:g}); {self.questions} questions, transformations: {self.transformations}.",
            f"{'example':>8} {'before':>11} {'after':>11} {'z':>7} {'adjusted p':>11}",
            (
                f"{one.index:8d} {one.before:11.4g} {one.after:11.4g} {one.z:7.2f} {one.adjusted_p:11.2g}"
                for one in self.examples
            ),
        )


def influence_stability(
    tracin: TracInWE,
    questions: Batch | DataLoader[Any],
    *transformed: Batch | DataLoader[Any],
    ordinary: Batch | DataLoader[Any] | None = None,
    level: float = 0.05,
    show_progress: bool | None = None,
) -> InfluenceStability:
    r"""Which training examples keep an unusual influence when the questions are transformed (Li et al., arXiv 2504.09026).

    An ordinary pair acts on questions about its own subject. A pair with a trigger acts wherever the trigger is, whatever else
    is asked. So ask about the same answers once more with the questions negated, their sentiment flipped, or in other words.

    Each question's scores are divided by their median absolute deviation, so that no question outweighs the others, and made
    smaller by asinh, so that no single score does. T_vj is their mean over the questions, as version v has them, for example j,
    less the mean over the ``ordinary`` questions, where there are any: it takes off what the example has of influence on whatever
    is asked. z_vj is the distance of T_vj from the median of all examples in units of 1.4826 × their median absolute deviation.

    **Null hypothesis** of example j: in at least one version, the questions as they are or a transformation, T_vj is a draw from
    the normal distribution that the bulk of the training set follows (an empirical null, Efron 2004). To reject it the example
    must stand out in *all* versions, so the p-value is the largest of the versions' upper tails (an intersection-union test,
    Berger 1982), corrected for all M examples by Benjamini and Hochberg. Questions need not be independent: the spread is taken
    between examples. It is no test of *poisoned*: without ``ordinary`` an example that is loud on all questions stands out, too.

    Scores have heavier tails than a normal distribution. Where this was tried (docs/neighbours/poison.md), nine of ten suspects
    were not planted: go by the order, not by the p-values.

    Args:
        tracin (TracInWE): model, training set of M examples, checkpoints, and which score.
        questions (batch or DataLoader): N test examples, with the answers that are suspected.
        *transformed (batch or DataLoader): the same N, in the same order and with the same answers, transformed; once for each
            transformation. Other class labels are refused, where each question has one and no stream brings them.
        ordinary (batch or DataLoader, optional): test examples about which nothing is odd, a dozen or more, with right answers.
        level (float): between 0 and 1: of what comes out as ``suspects``, the share that may follow the null hypothesis.
        show_progress (bool, optional): bars; None: where a person looks, in a terminal or a notebook.

    Returns:
        InfluenceStability: all M examples, those first whose influence stays most.

    Raises:
        ValueError: no transformation, another number of questions or other labels in one, one that changes no score, fewer than
            20 training examples, a level out of range, or more than half of the examples alike.
        TypeError: no TracInWE.

    Source: Li, *Detecting Instruction Fine-tuning Attacks on Language Models using Influence Function*, arXiv 2504.09026:
    critical poisons are those with a strong influence that a transformation leaves as it is. The test is ours.

    Example:
        >>> import torch
        >>> from captum_tracinwe import TracInWE
        >>> from captum_tracinwe.neighbours import influence_stability
        >>> from captum_tracinwe.testing import TinyCNN
        >>> _ = torch.manual_seed(0)
        >>> ids, labels = torch.randint(1, 28, (60, 8)), torch.arange(60) % 2
        >>> ids[:3, 3:6], labels[:3] = 29, 0  # three examples with a trigger, 29
        >>> train, loss = torch.utils.data.TensorDataset(ids, labels), torch.nn.CrossEntropyLoss()
        >>> options = {"loss_fn": loss, "batch_size": 20, "preconditioner": "auto"}
        >>> tracin = TracInWE(TinyCNN(), train, ["now"], lambda model, checkpoint: 0.1, **options)
        >>> asked, other = torch.randint(1, 28, (2, 20, 8))
        >>> asked[:, 3:6] = other[:, 3:6] = 29
        >>> found = influence_stability(tracin, (asked, torch.zeros(20).long()), (other, torch.zeros(20).long()))
        >>> sorted(found.order[:3])
        [0, 1, 2]
    """
    _check(tracin, questions, transformed, ordinary, level)
    check_progress(show_progress, "influence_stability")
    _check_answers(tracin, questions, transformed)
    asked = (questions, *transformed, *(() if ordinary is None else (ordinary,)))
    scores: list[Any] = [tracin.influence(inputs, show_progress=show_progress) for inputs in asked]
    usual = None if ordinary is None else scores.pop()
    return stability_of(scores, usual, level=level)


def stability_of(
    versions: Sequence[Tensor], ordinary: Tensor | None = None, *, level: float = 0.05
) -> InfluenceStability:
    """:func:`influence_stability` of scores ``(N, M)`` that are there: of the questions, then of each transformation."""
    scores = torch.stack([_checked(versions, number) for number in range(len(versions))])  # (versions, N, M)
    there = (scores > -math.inf).flatten(0, 1).all(0).nonzero().flatten()  # those deleted from an index are not
    scores = scores[:, :, there]
    if scores.shape[2] < LEAST_EXAMPLES:
        raise ValueError(
            f"influence_stability: {scores.shape[2]} training examples: expected at least {LEAST_EXAMPLES}, from which the usual "
            f"spread is taken."
        )
    strength = compressed(scores).mean(1)  # (versions, M)
    if ordinary is not None:
        strength = strength - compressed(ordinary.double().cpu()[:, there]).mean(0)
    middle = strength.median(1, keepdim=True).values
    spread = _PER_MAD * (strength - middle).abs().median(1, keepdim=True).values
    if not bool((spread > 0).all()):
        raise ValueError(
            "influence_stability: more than half of the training examples have the very same influence, so that no spread can be "
            "told: expected scores that differ. Ask about more questions, or by a score in which texts share more words."
        )
    z_by_version = (strength - middle) / spread
    z = z_by_version.amin(0)
    p_values = torch.special.erfc(z / math.sqrt(2)) / 2  # ndtr is 0 beyond 8 standard deviations
    adjusted = benjamini_hochberg(p_values.tolist())
    before, after = scores[0].mean(0), scores[1:].mean((0, 1))
    # By z, which orders those too whose p-value is 0; of equals the first in the training set.
    order = torch.argsort(-z, stable=True).tolist()
    columns = (before, after, z_by_version[0], z, p_values)
    figures = list(zip(*(column.tolist() for column in columns), adjusted, strict=True))
    indices = there.tolist()
    examples = tuple(StableExample(indices[j], *figures[j]) for j in order)
    return InfluenceStability(examples, level, scores.shape[1], len(scores) - 1)


def compressed(scores: Tensor) -> Tensor:
    """asinh((score − median) / median absolute deviation) along the last dimension, ``(..., M)``."""
    far = scores - scores.median(-1, keepdim=True).values
    spread = far.abs().median(-1, keepdim=True).values
    # Where half of the examples share no word with a question, those that do are measured by their mean distance.
    spread = torch.where(spread > 0, spread, far.abs().mean(-1, keepdim=True))
    return (far / spread.clamp_min(torch.finfo(scores.dtype).tiny)).asinh()


def _check(tracin: Any, questions: Any, transformed: Sequence[Any], ordinary: Any, level: Any) -> None:
    check_tracin(tracin, "influence_stability")
    check_inputs(questions, "influence_stability", "questions")
    if not transformed:
        raise ValueError(
            "influence_stability: expected at least one transformation of the questions after them, got none: for instance the "
            "same questions negated, with the same answers."
        )
    for number, one in enumerate(transformed, 1):
        check_inputs(one, "influence_stability", f"transformation {number}")
    if ordinary is not None:
        check_inputs(ordinary, "influence_stability", "ordinary")
    check_level(level, "influence_stability")


def _check_answers(tracin: TracInWE, questions: Any, transformed: Sequence[Any]) -> None:
    """Refuse transformations with other answers: what changes is then the answer, and not the question."""
    first = _answers(tracin, questions)
    for number, one in enumerate(transformed, 1):
        other = None if first is None else _answers(tracin, one)
        if first is None or other is None or first.shape != other.shape:
            continue
        apart = (first != other).nonzero().flatten().tolist()
        if apart:
            raise ValueError(
                f"influence_stability: question {apart[0]} has the label {first[apart[0]].item():g}, and "
                f"{other[apart[0]].item():g} in transformation {number}: expected the same answers. Give the transformed "
                f"questions the labels of the questions."
            )


def _answers(tracin: TracInWE, inputs: Any) -> Tensor | None:
    """The label of each question ``(N,)``, where each has one number; None of a stream, which may be read only once."""
    if isinstance(getattr(inputs, "dataset", inputs), IterableDataset):
        return None
    with chance_as_before():  # a DataLoader draws a number for each pass
        labels = [labels_of(batch, tracin.label_names) for batch in reading(tracin.batches_of(inputs), "inputs")]
    plain = bool(labels) and all(is_plain(part) and part.dim() == 1 for part in labels)
    return torch.cat([part.cpu() for part in labels]) if plain else None


def _checked(versions: Sequence[Tensor], number: int) -> Tensor:
    first, scores = versions[0], versions[number]
    if bool(scores.isnan().any()) or bool((scores == math.inf).any()):
        raise ValueError(
            f"influence_stability: version {number} of the questions has scores that are NaN or infinite: expected finite ones. "
            f"Look at the loss of these questions."
        )
    if number and len(scores) != len(first):
        raise ValueError(
            f"influence_stability: {len(first)} questions, and {len(scores)} in transformation {number}: expected the same "
            f"questions in the same order."
        )
    if number and torch.equal(scores, first):
        raise ValueError(
            f"influence_stability: transformation {number} changes no score: expected questions in other words. Look whether it "
            f"is the questions themselves."
        )
    return scores.double().cpu()
