"""One form of batch, tried: a few examples alone and in one batch; which way of a batch is right, and what is refused."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from captum_tracinwe.batches.batch import Batch, as_parts, labels_of, size_of, tensors_in
from captum_tracinwe.batches.cutting import joined, taken
from captum_tracinwe.batches.training_set import TrainingSet
from captum_tracinwe.gradients.coupled import Coupled
from captum_tracinwe.gradients.forms import odd_labels_in
from captum_tracinwe.gradients.forward import NotTogether
from captum_tracinwe.gradients.own_loss import OwnLoss, mean_or_sum
from captum_tracinwe.gradients.tried import TRIED, alike, chosen_of, cut_alike, each_of, lengths_in
from captum_tracinwe.gradients.ways import AS_IT_IS, EQUAL_LENGTHS, ONE_BY_ONE, Way, of_left_padding
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["Found", "Passes", "Trial", "rounding_of"]

#: The largest difference that rounding explains, as a part of the largest number: in float32 and float64 (a model in float64
#: may compute its positions in float32), and in halves. Over the 24 models of the tests rounding stays below 1e-4, and what is
#: put into them on purpose begins at 1e-2.
ROUNDING, ROUNDING_OF_HALVES = 1e-3, 5e-2
#: Gradients below it are what rounding leaves of a loss that has none: a model may be sure of its answer.
NOTHING = 1e-6
#: How often one example is computed again where it has nothing beside it: dropout on five numbers leaves them as they were once
#: in seven times.
AGAIN = 3
#: Examples put together where each alone has no gradient: of so many some are a pair, whatever makes a pair.
PUT_TOGETHER = 8


class Passes(Protocol):
    """What the probe needs of a model at a checkpoint."""

    @property
    def model(self) -> torch.nn.Module:
        """The model."""

    @property
    def checkpoint(self) -> object:
        """Whose weights are in it."""

    @property
    def fills(self) -> frozenset[int]:
        """Ids that texts may be filled up with."""

    def rows(self, batch: Batch, own_loss: str, check: bool = False) -> RowGradients:
        """The row gradients of a batch as it is; ``own_loss`` says how the model's own loss is made of its examples'."""

    def rows_of_each(self, batches: Sequence[Batch]) -> RowGradients | None:
        """Those of several small batches, one behind the other, by a pass each; None where they are not to be had so."""

    def loss(self, batch: Batch) -> OwnLoss | None:
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
class Trial:
    """A batch, tried for all of its form; there is ``room`` for the activations of so many examples at once."""

    passes: Passes
    batch: Batch
    what: str
    single: Callable[[int], Batch | None]
    examples: TrainingSet | None = None
    room: int = 0
    count: int = 0
    read: dict[int, Batch] = field(default_factory=dict)
    rows: dict[int, RowGradients] = field(default_factory=dict)
    together: RowGradients | None = None
    agreed: float | None = None
    failure: ValueError | None = None

    def look(self) -> None:
        """The batch as it is: what is wrong with it is said first, and in the words of the pass."""
        if not self._at_once():
            self._look_closely()

    def _look_closely(self) -> None:
        try:
            self.together = self._rows(self.batch, "mean", check=True)
        except NotTogether as error:
            self.failure = error

    def found(self) -> Found:
        """What holds for batches of this form: the way on which examples alone and in a batch agree."""
        begun, size, own = time.perf_counter(), size_of(self.batch), "mean"
        if self.together is None and self.failure is None and self.agreed is None:
            self.look()
        tried = self._places(size)
        sorts = size > 1 and self.examples is not None and self.examples.sorts
        if self.agreed is not None and not sorts:
            own = self.own_loss(tried, size)
            if own == "mean":
                return Found(self.what, AS_IT_IS, own, self.agreed, self.count, time.perf_counter() - begun)
        if self.together is None and self.failure is None:
            self._look_closely()
        together, rows = self.together, self._alone(tried)
        most, first = rounding_of(self.passes.model), math.inf

        def found(way: Way, difference: float) -> Found:
            return Found(self.what, way, own, difference, self.count, time.perf_counter() - begun, sorts)

        if together is not None:
            own = self.own_loss(tried, size)
            if not all(map(_finite, (together, *rows.values()))):
                return found(AS_IT_IS, 0.0)  # refused by the pass, which knows the example
        scale = max([NOTHING, *map(_largest, rows.values())])

        def far(got: RowGradients) -> float:
            return max((_difference(one, got, place) for place, one in rows.items()), default=0.0) / scale

        if together is not None:
            first = far(together if own == "mean" else self._rows(self.batch, own))
            if first <= most and not sorts:  # a model that sorts its batch may have been given it sorted
                first = max(first, far(self._in_reverse(size, own) or together))
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
            if self.examples.is_remade:
                return found(AS_IT_IS, 0.0)  # of which there was a warning
            raise ValueError(
                f"{self.why(first, sorts)}. Expected batches that do not matter, for a stream cannot be read text by text. "
                f"Pass a DataLoader(..., batch_size=1) of it, or a collate_fn, attention_mask or position_ids for which they "
                f"do not."
            )
        alike_do = together is not None and self._alike_do(own, most * scale)
        return found(EQUAL_LENGTHS if alike_do else ONE_BY_ONE, first)

    def alone(self) -> Found:
        """Of a batch of one example: it has nothing beside it, but may be another each time, or have no gradient alone."""
        begun = time.perf_counter()
        rows = self._rows(self.batch, "mean")
        if bool(rows.values.isfinite().all()):
            scale = max(NOTHING, _largest(rows))
            for _ in range(AGAIN):
                self._refuse_other(rows, self._rows(self.batch, "mean"), scale)
            if _largest(rows) < NOTHING:
                self._refuse_nothing()
        return Found(self.what, passes=self.count, seconds=time.perf_counter() - begun)

    def _alone(self, tried: Sequence[int]) -> dict[int, RowGradients]:
        """Place → rows of the example alone, of those that the model takes alone: a text may be too short for a convolution."""
        rows = self.rows
        for place in () if rows else tried:
            one = self.single(place)
            if one is not None:
                with suppress(ValueError, RuntimeError, IndexError):
                    rows[place] = self._rows(one, "mean")
                    self.read[place] = one
        if self.failure is not None and len(rows) < len(tried):
            raise self.failure
        return rows

    def why(self, difference: float, sorts: bool) -> str:
        """For what reason batches do not go through the model as they are."""
        if sorts:
            return (
                f"The collator of the {self.what} examples sorts its batch: rows do not stand in the order of examples"
            )
        if difference == math.inf and not _mixed_up(self.failure):
            return "The model does not take several texts at once"
        if difference == math.inf:
            return f"Whose words are whose cannot be told in a batch of several {self.what} examples"
        return (
            f"The gradients of {self.what} examples in a batch differ from those of each text alone, by {difference:.2g} of the "
            f"largest number. Either the model sees padding, or a collator changes the order of its batch, or texts of a batch "
            f"meet in the model"
        )

    # ------------------------------------------------------------------------------------------------------- the steps

    def _places(self, size: int) -> list[int]:
        if size <= TRIED:
            return list(range(size))
        lengths, labels = lengths_in(self.batch, size), labels_of(self.batch)
        order = sorted(range(size), key=lengths.__getitem__)
        between = torch.randperm(size - 2, generator=torch.Generator().manual_seed(size))[: TRIED - 2].tolist()
        odd = (
            [place for place in order if int(labels[place]) < 0 and int(labels[place]) != -100]
            if odd_labels_in(self.batch)
            else []
        )
        return sorted({order[0], order[-1], *odd[:1], *(order[1 + place] for place in between)})

    def _rows(self, batch: Batch, own: str, check: bool = False) -> RowGradients:
        self.count += 1
        return self.passes.rows(batch, own, check)

    def _at_once(self) -> bool:
        """All that is compared where nothing is wrong, by one backward pass: half of the time for small models.

        The batch goes through the model once, with each of its examples in two places. In that order no model finds it sorted,
        and turned round or with its halves changed it is another. False where there is no room for it, or something is wrong:
        what, is told by one after the other.
        """
        size = size_of(self.batch)
        twice = [*range(size), *range(1, size), 0]
        if size != TRIED or len(twice) + size > self.room:
            return False
        with suppress(Exception):
            together = taken(self.batch, twice, size)
            singles = each_of(self.single, size)
            found = None if together is None else self.passes.rows_of_each([together, *singles])
            if found is None:
                return False
            alone = found.part(len(twice), len(found))
            difference = _apart(alone.select(twice), found.part(0, len(twice))) / max(NOTHING, _largest(alone))
            if difference <= rounding_of(self.passes.model):  # NaN is not
                self.agreed, self.count = difference, self.count + 1 + size
        return self.agreed is not None

    def _in_reverse(self, size: int, own: str) -> RowGradients | None:
        """The same rows, of the batch handed over in reverse; None where it cannot be."""
        back = taken(self.batch, range(size)[::-1], size) if size > 1 else None
        with suppress(ValueError, TypeError, RuntimeError, LookupError):  # cut, it is none that the model takes
            return None if back is None else self._rows(back, own).select(range(size)[::-1])
        return None

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
        cut = [one for place in places if (one := taken(self.batch, [place], size)) is not None]
        losses = [(loss, one) for one in cut if (loss := self.passes.loss(one)) is not None]
        self.count += 1 + len(cut)
        return mean_or_sum(whole, losses, self.what)

    def _refuse_chance(self, rows: dict[int, RowGradients], own: str, scale: float) -> bool:
        """Whether an example is another one each time it is read, which is told where it is read; a model must not change."""
        place = next(iter(rows))
        one = self.read[place]
        for _ in range(AGAIN):
            again = self.single(place)
            if again is None:
                return False
            if not all(map(torch.equal, tensors_in(as_parts(one)), tensors_in(as_parts(again)))):
                return True
        self._refuse_other(rows[place], self._rows(one, own), scale)
        return False

    def _refuse_other(self, rows: RowGradients, again: RowGradients, scale: float) -> None:
        if _difference(rows, again) > rounding_of(self.passes.model) * scale:
            raise ValueError(
                f"The gradients of one of the {self.what} examples are other ones when they are computed again: expected a model "
                f"that in eval mode gives the same answer each time. Look for torch.nn.functional.dropout without "
                f"training=self.training, for noise, and for state that a forward pass changes."
            )

    def _refuse_nothing(self) -> None:
        """Where none of several examples has a gradient alone, and together they have one."""
        if self.examples is None or not self.examples.readable:
            return
        chosen = chosen_of(self.examples, PUT_TOGETHER)
        for place in chosen[:TRIED]:
            one = self.examples.alone(place)
            if one is None or _largest(self._rows(one, "mean")) >= NOTHING:
                return
        try:
            together = self.examples.together(chosen)
            rows = None if together is None else self._rows(together, "mean")
        except Coupled:
            raise
        except Exception:
            return  # a collator that makes no batch of several, or a model that takes none
        if rows is not None and _largest(rows) > 1 / ROUNDING * NOTHING:
            raise ValueError(
                f"Each of the {self.what} examples alone has no gradient, in a batch of {len(chosen)} they have: all scores "
                f"would be 0. Expected a loss of single examples: this one, or the model, is made of several at once "
                f"(contrastive, negatives of the batch, statistics of the batch). Pass loss_fn=... with one loss per example of "
                f"its own, or give what belongs together (a pair with a label, a triplet) as one example."
            )

    def _alike_do(self, own: str, most: float) -> bool:
        """Whether examples of one length that are put together have the gradients that each has alone.

        Where all differ in length, the way would take each alone, and that tells nothing: then the longer ones are cut.
        """
        singles = [one for place in range(size_of(self.batch)) if (one := self.single(place)) is not None]
        group = alike(singles) or alike(cut_alike(singles[:TRIED]))
        if not group:
            return False
        with suppress(ValueError, RuntimeError, IndexError):  # what was cut may lack what its labels point to
            together = self._rows(joined(group), own)
            return all(_difference(self._rows(one, "mean"), together, place) <= most for place, one in enumerate(group))
        return False

    def _refuse_coupling(self, place: int, own: str, scale: float, most: float) -> None:
        """Where examples hang on each other although nothing but the batch differs, its parts have no meaning of their own."""
        one = taken(self.batch, [place], size_of(self.batch))
        if one is None:
            return
        within = self._rows(self.batch, own)
        far = _difference(self._rows(one, own), within, place) / scale
        if far > most and self.passes.loss(one) is not None:
            raise ValueError(
                f"By the model's own loss the gradients of one of the {self.what} examples differ by {far:.2g} of the largest "
                f"number between its batch and one of it alone, padded alike. Expected a loss that is the mean or the sum of "
                f"those of the examples. It has class weights, or a term that belongs to the batch. Pass loss_fn=..., a function "
                f"of (prediction, labels) with one loss per example."
            )


def _mixed_up(failure: ValueError | None) -> bool:
    return failure is not None and "whose gradient is whose" in str(failure)


def _finite(rows: RowGradients) -> bool:
    """A sum is finite unless a value is not, or it overflows: only then is every value looked at."""
    return bool(rows.values.sum().isfinite()) or bool(rows.values.isfinite().all())


def _largest(rows: RowGradients) -> float:
    return float(rows.values.abs().max()) if rows.values.numel() else 0.0


def _apart(some: RowGradients, others: RowGradients) -> float:
    """The largest difference between the rows of the examples of two, one by one."""
    if torch.equal(some.ids, others.ids) and torch.equal(some.ptr, others.ptr):
        apart = some.values - others.values
        return float(apart.abs().max()) if apart.numel() else 0.0
    return max(_difference(some.select([place]), others, place) for place in range(len(some)))


def _difference(one: RowGradients, other: RowGradients, place: int = 0) -> float:
    """The largest between the rows of one example and those of the one at a place of others; a row that is missing is zero."""
    ids, values = other[place]
    if torch.equal(one.ids, ids):  # nearly always, and a tenth of the time
        apart = one.values - values
    else:
        apart = RowGradients.cat([one, other.select([place]).scale(-1.0)]).sum().values
    return float(apart.abs().max()) if apart.numel() else 0.0


def rounding_of(model: torch.nn.Module) -> float:
    """The largest difference that rounding explains in a model's gradients, as a part of the largest number."""
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return ROUNDING if kinds <= {torch.float32, torch.float64} else ROUNDING_OF_HALVES
