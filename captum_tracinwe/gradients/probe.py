"""The probe: whether an example's row gradients, computed alone, are those computed in its batch; if not, the way that is right.

A run promises that its batches don't matter. Padding, the reduction of a loss, a model that takes its batch otherwise and a
collator that sorts it break that promise without an error. So it is tried on a few examples before a run relies on it.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from captum_tracinwe.batches.batch import Batch, as_parts, labels_of, size_of, tensors_in
from captum_tracinwe.batches.chance import chance_as_before
from captum_tracinwe.batches.cutting import taken
from captum_tracinwe.batches.training_set import TrainingSet
from captum_tracinwe.gradients.forms import covers, form_of, padded_sides
from captum_tracinwe.gradients.forward import NotTogether
from captum_tracinwe.gradients.tried import TRIED, chosen_of, each_of, lengths_in, singles_of
from captum_tracinwe.gradients.ways import AS_IT_IS, EQUAL_LENGTHS, ONE_BY_ONE, Way, of_left_padding
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["Found", "Passes", "Probes"]

#: The largest difference that rounding explains, as a part of the largest number: in float32 and float64 (a model in float64
#: may compute its positions in float32), and in halves. Over the 24 models of the tests rounding stays below 1e-4, and what is
#: put into them on purpose begins at 1e-2.
ROUNDING, ROUNDING_OF_HALVES = 1e-3, 5e-2
#: Gradients below it are what rounding leaves of a loss that has none: a model may be sure of its answer.
NOTHING = 1e-6


class Passes(Protocol):
    """What the probe needs of a model at a checkpoint."""

    @property
    def model(self) -> torch.nn.Module:
        """The model."""

    def rows(self, batch: Batch, own_loss: str, check: bool = False) -> RowGradients:
        """The row gradients of a batch as it is; ``own_loss`` says how the model's own loss is made of its examples'."""

    def loss(self, batch: Batch) -> float | None:
        """The model's own loss of a batch, where that is one number; None where it isn't asked for."""


@dataclass(frozen=True)
class Found:
    """What the probe found of one form of batch.

    Args:
        what (str): whose batch, such as "training".
        way (Way): by which batches of this form are computed.
        own_loss (str): "mean" or "sum", what the model's own loss is of those of its examples.
        difference (float): of the gradients alone and in the batch as it is, the largest, as a part of the largest number.
        passes (int): forward passes that the probe took.
        seconds (float): how long it took.
        sorts (bool): whether the collator has an order of its own.
    """

    what: str
    way: Way = AS_IT_IS
    own_loss: str = "mean"
    difference: float = 0.0
    passes: int = 0
    seconds: float = 0.0
    sorts: bool = False


@dataclass(eq=False)
class Probes:
    """What was found so far, by the form of the batch and the loss; each form is tried once.

    Args:
        wanted (bool): whether to try at all.
        came_back (bool): whether the model was seen to come back from a checkpoint as it was.
        seconds (float): what all checks took so far.
    """

    wanted: bool = True
    came_back: bool = False
    seconds: float = 0.0
    found: dict[Any, Found] = field(default_factory=dict)
    told: set[Any] = field(default_factory=set)
    sampled: set[Any] = field(default_factory=set)

    def of(self, passes: Passes, batch: Batch, loss: Any, what: str, start: int, examples: TrainingSet | None) -> Found:
        """What holds for a batch; ``examples`` are those that it was made of, its first being the one at place ``start``."""
        key = (id(loss), what, form_of(batch))
        if key not in self.found:
            size = size_of(batch)
            if not self.wanted:
                return Found(what)
            begun = time.perf_counter()
            with chance_as_before():
                if examples is not None and (id(loss), what) not in self.sampled:
                    self._try_sample(passes, key, what, size, examples)
                    self.sampled.add((id(loss), what))  # what is refused is refused again
                known = self.known(batch, loss, what)
                if not known.passes and (size > 1 or any(padded_sides(batch))):
                    places = [start + place for place in range(size)]
                    known = self._told(_Probe(passes, batch, what, singles_of(batch, places, examples), examples))
            self.found[key] = known
            self.seconds += time.perf_counter() - begun
        return self.found[key]

    def known(self, batch: Batch, loss: Any, what: str) -> Found:
        """What was found of a form of batch so far; nothing is tried."""
        key = (id(loss), what, form_of(batch))
        return next((one for other, one in self.found.items() if covers(other, key)), Found(what))

    def _try_sample(self, passes: Passes, key: Any, what: str, size: int, examples: TrainingSet) -> None:
        """Examples from all over the set, for a first batch may be of one label, or of one length."""
        if not examples.readable or (size == 1 and key[0] != id(None)):
            return
        chosen = chosen_of(examples, TRIED if size == 1 else min(size, TRIED))
        together = examples.together(chosen)
        if together is None or size_of(together) != len(chosen):
            return
        probe = _Probe(passes, together, what, singles_of(together, chosen, examples), examples)
        try:
            if size == 1:  # batches of one are as good as alone, but what the model's own loss weighs is lost in them
                passes.loss(together)
            else:
                probe.look()
        except Exception:
            return  # said of a batch that the user knows
        if size == 1:
            probe.own_loss(range(len(chosen)), len(chosen))
            return
        self.found[(key[0], key[1], form_of(together))] = self._told(probe)

    def _told(self, probe: _Probe) -> Found:
        found = probe.found()
        said, told = probe.said(found), (found.what, found.way.name)
        if said and told not in self.told:
            self.told.add(told)
            warnings.warn(said, stacklevel=6)
        return found


@dataclass(eq=False)
class _Probe:
    """One form of batch, tried."""

    passes: Passes
    batch: Batch
    what: str
    single: Callable[[int], Batch | None]
    examples: TrainingSet | None = None
    count: int = 0
    together: RowGradients | None = None
    failure: ValueError | None = None

    def look(self) -> None:
        """The batch as it is: what is wrong with it is said first, and in the words of the pass."""
        try:
            self.together = self._rows(self.batch, "mean", check=True)
        except NotTogether as error:
            self.failure = error

    def found(self) -> Found:
        begun, size, own = time.perf_counter(), size_of(self.batch), "mean"
        if self.together is None and self.failure is None:
            self.look()
        together, tried = self.together, self._places(size)
        rows = self._alone(tried)
        most, first = _rounding(self.passes.model), math.inf

        sorts = size > 1 and self.examples is not None and self.examples.sorts()

        def found(way: Way, difference: float) -> Found:
            return Found(self.what, way, own, difference, self.count, time.perf_counter() - begun, sorts)

        if together is not None and not all(bool(one.values.isfinite().all()) for one in (together, *rows.values())):
            return found(AS_IT_IS, 0.0)  # refused by the pass, which knows the example
        scale = max((float(one.values.abs().max()) for one in rows.values() if one.num_rows), default=0.0)
        scale = max(scale, NOTHING)

        def far(got: RowGradients) -> float:
            return max((_difference(one, got.select([place])) for place, one in rows.items()), default=0.0) / scale

        if together is not None:
            own = self.own_loss(tried, size)
            first = far(together if own == "mean" else self._rows(self.batch, own))
            if first <= most and not sorts:
                return found(AS_IT_IS, first)
            if first > most and self._refuse_chance(rows, own, scale):
                return found(AS_IT_IS, 0.0)
            if size > 1 and first > most and not sorts:
                self._refuse_coupling(tried[0], own, scale, most)
            if len(rows) < len(tried):
                return found(AS_IT_IS, first)
            for way in () if sorts else of_left_padding(self.passes.model, self.batch):
                if far(self._by(way, own)) <= most:
                    return found(way, first)
        if self.examples is not None and self.examples.is_stream:
            raise ValueError(
                f"{self._why(first, sorts)}: expected batches that do not matter, for a stream cannot be read text by text. "
                f"Pass a DataLoader(..., batch_size=1) of it, or a collate_fn, attention_mask or position_ids for which they "
                f"do not."
            )
        if together is not None and far(self._by(EQUAL_LENGTHS, own)) <= most:
            return found(EQUAL_LENGTHS, first)
        return found(ONE_BY_ONE, first)

    def _alone(self, tried: Sequence[int]) -> dict[int, RowGradients]:
        """Place → rows of the example alone, of those that the model takes alone: a text may be too short for a convolution."""
        rows: dict[int, RowGradients] = {}
        for place in tried:
            one = self.single(place)
            if one is not None:
                with suppress(ValueError, RuntimeError, IndexError):
                    rows[place] = self._rows(one, "mean")
        if self.failure is not None and len(rows) < len(tried):
            raise self.failure
        return rows

    def _why(self, difference: float, sorts: bool) -> str:
        if sorts:
            return (
                f"The collator of the {self.what} examples sorts its batch: rows do not stand in the order of examples"
            )
        if difference == math.inf:
            return "The model does not take several texts at once"
        return (
            f"The gradients of {self.what} examples in a batch differ from those of each text alone, by {difference:.2g} of the "
            f"largest number (because the model sees padding, or a collator changes the order of its batch)"
        )

    def said(self, found: Found) -> str:
        """The warning; empty where there is nothing to say."""
        if found.difference <= _rounding(self.passes.model) and not found.sorts:
            return ""
        why = self._why(found.difference, found.sorts)
        if not found.way.done:
            return (
                f"{why}. They are left as they are, for some texts cannot be taken alone: scores hang on what a text shares its "
                f"batch with. Pass texts long enough for the model, or all filled up to one length."
            )
        return (
            f"{why}. From here on {found.way.done}, so that scores are those of each text alone. This takes longer: with a "
            f"collate_fn, attention_mask or position_ids for which batches don't matter it is not needed. probe=False takes "
            f"batches as they are."
        )

    # ------------------------------------------------------------------------------------------------------- the steps

    def _places(self, size: int) -> list[int]:
        if size <= TRIED:
            return list(range(size))
        lengths = lengths_in(self.batch, size)
        order = sorted(range(size), key=lengths.__getitem__)
        between = torch.randperm(size - 2, generator=torch.Generator().manual_seed(size))[: TRIED - 2].tolist()
        return sorted({order[0], order[-1], *(order[1 + place] for place in between)})

    def _rows(self, batch: Batch, own: str, check: bool = False) -> RowGradients:
        self.count += 1
        return self.passes.rows(batch, own, check)

    def _by(self, way: Way, own: str) -> RowGradients:
        parts = way.parts(self.batch, lambda: each_of(self.single, size_of(self.batch)))
        order = torch.argsort(torch.tensor([place for places, _ in parts for place in places]))
        return RowGradients.cat([self._rows(part, own) for _, part in parts]).select(order)

    def own_loss(self, places: Sequence[int], size: int) -> str:
        """How the model's own loss of a batch is made of those of its examples, with the padding that they have there."""
        labels = labels_of(self.batch)
        if isinstance(labels, Tensor) and labels.dim() == 1 and not labels.is_floating_point():
            places = [place for place in places if int(labels[place]) != -100]
        together = taken(self.batch, places, size) if len(places) > 1 else None
        whole = None if together is None else self.passes.loss(together)
        if whole is None:
            return "mean"
        parts = [self.passes.loss(one) for place in places if (one := taken(self.batch, [place], size)) is not None]
        self.count += 1 + len(parts)
        losses = [part for part in parts if part is not None]
        total, close = sum(losses), 1e-4 * max(map(abs, [*losses, whole]))
        mean = total / len(losses)
        if abs(whole - mean) <= close:
            return "mean"
        if abs(whole - total) <= close:
            return "sum"
        raise ValueError(
            f"The model's own loss of {len(losses)} {self.what} examples is {whole:.6g}, and their losses alone have the mean "
            f"{mean:.6g} and the sum {total:.6g}: expected one of these, to tell whose gradient is whose. It has class weights, "
            f"or a term that belongs to the batch (contrastive, balance of experts). Pass loss_fn=..., a function of "
            f"(prediction, labels) with one loss per example, such as torch.nn.CrossEntropyLoss(weight=..., reduction='none')."
        )

    def _refuse_chance(self, rows: dict[int, RowGradients], own: str, scale: float) -> bool:
        """Whether an example is another one each time it is read, which is told where it is read; a model must not change."""
        place = next(iter(rows))
        one, again = self.single(place), self.single(place)
        if one is None or again is None:
            return False
        if not all(map(torch.equal, tensors_in(as_parts(one)), tensors_in(as_parts(again)))):
            return True
        if _difference(rows[place], self._rows(one, own)) > _rounding(self.passes.model) * scale:
            raise ValueError(
                f"The gradients of one of the {self.what} examples are other ones when they are computed again: expected a model "
                f"that in eval mode gives the same answer each time. Look for torch.nn.functional.dropout without "
                f"training=self.training, for noise, and for state that a forward pass changes."
            )
        return False

    def _refuse_coupling(self, place: int, own: str, scale: float, most: float) -> None:
        """Where examples hang on each other although nothing but the batch differs, its parts have no meaning of their own."""
        one = taken(self.batch, [place], size_of(self.batch))
        if one is None:
            return
        within = self._rows(self.batch, own).select([place])
        far = _difference(self._rows(one, own), within) / scale
        if far > most and self.passes.loss(one) is not None:
            raise ValueError(
                f"By the model's own loss the gradients of one of the {self.what} examples differ by {far:.2g} of the largest "
                f"number between its batch and a batch of it alone, padded alike: expected a loss that is the mean or the sum of "
                f"those of the examples. It has class weights, or a term that belongs to the batch. Pass loss_fn=..., a function "
                f"of (prediction, labels) with one loss per example."
            )


def _difference(one: RowGradients, other: RowGradients) -> float:
    """The largest between two rows of gradients of one example each; a row that is missing is zero."""
    apart = RowGradients.cat([one, other.scale(-1.0)]).sum().values
    return float(apart.abs().max()) if apart.numel() else 0.0


def _rounding(model: torch.nn.Module) -> float:
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return ROUNDING if kinds <= {torch.float32, torch.float64} else ROUNDING_OF_HALVES
