"""The probe: whether an example's row gradients, computed alone, are those computed in its batch; if not, the way that is right.

A run promises that its batches don't matter. Padding, the reduction of a loss, a model that takes its batch otherwise and a
collator that sorts it break that promise without an error. So it is tried on a few examples before a run relies on it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import MethodType
from typing import Any
from weakref import ref

import torch

from captum_tracinwe.batches.batch import Batch, as_parts, size_of
from captum_tracinwe.batches.chance import chance_as_before
from captum_tracinwe.batches.cutting import shape_of, taken
from captum_tracinwe.batches.training_set import TrainingSet
from captum_tracinwe.gradients.checkpointed import CheckpointedModel
from captum_tracinwe.gradients.forms import Look, covers, form_of, look_at, looks_at, padded_sides
from captum_tracinwe.gradients.round_trip import RoundTrip
from captum_tracinwe.gradients.trial import Found, Passes, Trial, rounding_of
from captum_tracinwe.gradients.tried import TRIED, chosen_of, singles_of

__all__ = ["Found", "Passes", "Probes", "Whose"]

# Neither on the left nor on the right.
NOT_PADDED = None, None
# Batches of a stream that are tried. A maximum over positions hides the padding of one batch in three or so.
STREAMED = 4


class _Itself:
    """A thing by which something was found: known again as itself, not by what it equals, nor by an id that another has got."""

    def __init__(self, value: Any) -> None:
        self._id = id(value)
        self._value: Callable[[], Any] = lambda: value
        with suppress(TypeError):  # of None, or a dict, there are no weak references
            self._value = ref(value)

    def __hash__(self) -> int:
        return self._id

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Itself) or self._id != other._id:
            return False
        return self is other or (
            self._value() is other._value() and (self._value() is not None or self._id == id(None))
        )


def _alone(examples: TrainingSet, place: int) -> Batch | None:
    return next(iter(examples.streamed([place])), None) if examples.is_stream else examples.alone(place)


def _itself(value: Any) -> Hashable:
    if isinstance(value, MethodType):  # made anew each time it is asked for
        return _Itself(value.__self__), value.__func__
    return value if isinstance(value, str) else _Itself(value)


@dataclass(frozen=True, eq=False)
class Whose:
    """Whose batches are tried: of one kind of example and one collator, asked by one loss, at one checkpoint.

    Args:
        what (str): the kind of example, such as "training".
        of_model (bool): whether the loss is the model's own.
    """

    what: str
    of_model: bool


@dataclass(eq=False)
class Probes:
    """What was found so far: each form of batch is tried once for each loss, each collator, and at each checkpoint.

    A gate that is still shut at the first checkpoint, or class weights that come later, are not seen there.

    Args:
        wanted (bool): whether to try at all.
        came_back (bool): whether the model was seen to come back from a checkpoint as it was.
        trip (RoundTrip, optional): from which it has still to come back.
        seconds (float): what all checks took so far, the look at each batch among them.
    """

    wanted: bool = True
    came_back: bool = False
    trip: RoundTrip | None = None
    seconds: float = 0.0
    found: dict[Any, Found] = field(default_factory=dict)
    told: set[Any] = field(default_factory=set)
    asked: dict[Any, Whose] = field(default_factory=dict)
    sampled: set[Whose] = field(default_factory=set)
    settled: set[Any] = field(default_factory=set)  # forms of which no further batch is tried
    again: dict[Any, int] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """A copy, or what is read from a pickle, tries for itself: things are known as themselves here, and it has others."""
        return {
            **self.__dict__,
            "trip": None,
            "found": {},
            "asked": {},
            "sampled": set(),
            "settled": set(),
            "again": {},
        }

    @property
    def mixed(self) -> bool:
        """Whether batches go by more than one way, so that a text's rows may be of other tokens at another checkpoint."""
        return len({one.way.name for one in self.found.values()}) > 1

    def begin_trip(
        self, weights: CheckpointedModel, batch: Batch, label_names: Sequence[str], device: torch.device
    ) -> None:
        """Before a checkpoint is in the model. Where there is but one, the run itself takes it there: loading costs the most.

        Not where loading writes into the weights, so that going back and forth would take a copy more.
        """
        begun = time.perf_counter()
        trip = RoundTrip.begun(weights, batch, label_names, device)
        self.trip = trip if len(weights) == 1 and weights.assigns else None
        if trip is not None and self.trip is None:
            trip.to_the_last()
        self.came_back = self.trip is None
        self.seconds += time.perf_counter() - begun

    def end_trip(self, trip: RoundTrip) -> None:
        """With a checkpoint in the model, which has been used."""
        begun, self.trip = time.perf_counter(), None
        trip.end()
        self.came_back = True
        self.seconds += time.perf_counter() - begun

    def whose(self, what: str, loss: Any, checkpoint: object, examples: TrainingSet | None) -> Whose:
        """Asked once for a pass over many batches: what holds for one of them is looked up by it."""
        maker = () if examples is None else tuple(map(_itself, examples.maker))
        whose = what, _itself(loss), _itself(checkpoint), maker
        return self.asked.setdefault(whose, Whose(what, loss is None))

    def looks(self, passes: Passes, batches: Iterable[Batch]) -> list[Look]:
        """A look at each of the batches, where they are there; none where they are only made one after the other.

        In one go that takes a quarter of what it takes between passes, after each of which no cache holds its code any more.
        """
        if not self.wanted or not isinstance(batches, list):
            return []
        begun = time.perf_counter()
        found = looks_at(batches, passes.fills)
        self.seconds += time.perf_counter() - begun
        return found

    def of(
        self,
        passes: Passes,
        batch: Batch,
        whose: Whose,
        start: int,
        examples: TrainingSet | None,
        look: Look | None = None,
    ) -> Found:
        """What holds for a batch; ``examples`` are those that it was made of, its first being the one at place ``start``."""
        if not self.wanted:
            return Found(whose.what)
        begun = time.perf_counter()
        try:
            look = look or look_at(batch, passes.fills)
            if self.is_settled(whose, look):
                return self.found[whose, look.form]
            return self._found(passes, batch, whose, start, examples, look)
        finally:
            self.seconds += time.perf_counter() - begun

    def is_settled(self, whose: Whose, look: Look | None) -> bool:
        """Whether what was found by a look holds for every batch that looks so, without another trial."""
        return look is not None and look.padded == NOT_PADDED and (whose, look.form) in self.settled

    def _found(
        self, passes: Passes, batch: Batch, whose: Whose, start: int, examples: TrainingSet | None, look: Look
    ) -> Found:
        size = look.size
        places = range(start, start + size)
        key = self._key(whose, look, batch, places, examples)
        first = key not in self.found
        if first or self._once_more(key, size, examples):
            with chance_as_before():
                if examples is not None and whose not in self.sampled:
                    self._try_sample(passes, whose, size, examples)
                    self.sampled.add(whose)  # what is refused is refused again
                known = self.known(key)
                if not known.passes or not first:
                    trial = Trial(passes, batch, whose.what, singles_of(batch, places, examples), examples)
                    several = size > 1 or any(padded_sides(batch))
                    known = self._told(trial, trial.found() if several else trial.alone())
            self.found[key] = known
        if examples is None or not examples.is_stream:
            self.settled.add(key)
        return self.found[key]

    def _once_more(self, key: Any, size: int, examples: TrainingSet | None) -> bool:
        """Of a stream, which has no sample from all over, several batches of a form are tried."""
        if size == 1 or examples is None or not examples.is_stream:
            return False
        self.again[key] = self.again.get(key, 1) + 1
        return self.again[key] <= STREAMED

    def _key(
        self, whose: Whose, look: Look, batch: Batch, places: Sequence[int], examples: TrainingSet | None
    ) -> tuple[Whose, Any]:
        """Whose a batch is, and its form; without a mask padding is told by a text that ends so, held against the text alone."""
        left, right = look.padded
        if left is None and right is None:
            return whose, look.form
        key = whose, form_of(batch, (left is not None, right is not None), look.size)
        if key in self.found:
            return key
        shown = right if right is not None else left
        with chance_as_before():
            alone = None if examples is None or shown is None else _alone(examples, places[shown])
        cut = None if alone is None or shown is None else taken(batch, [shown], look.size)
        filled = alone is not None and cut is not None and shape_of(as_parts(alone)) != shape_of(as_parts(cut))
        return key if filled else (whose, look.form)

    def known(self, key: tuple[Whose, Any]) -> Found:
        """What was found of a form of batch so far, or of one that it is a part of; nothing is tried."""
        return next((one for other, one in self.found.items() if covers(other, key)), Found(key[0].what))

    def _try_sample(self, passes: Passes, whose: Whose, size: int, examples: TrainingSet) -> None:
        """Examples from all over the set, for a first batch may be of one label, or of one length."""
        if not examples.readable or (size == 1 and not whose.of_model):
            return
        chosen = chosen_of(examples, TRIED if size == 1 else min(size, TRIED))
        together = examples.together(chosen)
        if together is None or size_of(together) != len(chosen):
            return
        single = singles_of(together, chosen, examples, ahead=True)
        trial = Trial(passes, together, whose.what, single, examples, room=size)
        try:
            if size == 1:  # batches of one are as good as alone, but what the model's own loss weighs is lost in them
                passes.loss(together)
            else:
                trial.look()
        except Exception:
            return  # said of a batch that the user knows
        if size == 1:
            trial.own_loss(range(len(chosen)), len(chosen))
            return
        look = look_at(together, passes.fills)
        self.found[self._key(whose, look, together, chosen, examples)] = self._told(trial, trial.found())

    def _told(self, trial: Trial, found: Found) -> Found:
        said, told = _said(trial, found), (found.what, found.way.name)
        if said and told not in self.told:
            self.told.add(told)
            warnings.warn(said, stacklevel=6)
        return found


def _said(trial: Trial, found: Found) -> str:
    """The warning; empty where there is nothing to say."""
    if found.difference <= rounding_of(trial.passes.model) and not found.sorts:
        return ""
    why = trial.why(found.difference, found.sorts)
    if not found.way.done:
        return (
            f"{why}. They are left as they are, for some texts cannot be taken alone: scores depend on what a text shares its "
            f"batch with. Pass texts long enough for the model, or all filled up to one length."
        )
    return (
        f"{why}. From here on {found.way.done}, so that scores are those of each text alone. This takes longer: with a "
        f"collate_fn, attention_mask or position_ids for which batches don't matter it is not needed. probe=False takes "
        f"batches as they are."
    )
