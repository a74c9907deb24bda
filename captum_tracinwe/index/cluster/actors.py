"""What one of Ray's actors does: holds a share of an index's segments, and verifies round by round what it is asked about."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_tracinwe.gradients.switches import undisturbed
from captum_tracinwe.index.cluster.engine import Handle
from captum_tracinwe.index.files.manifest import Manifest, SegmentEntry
from captum_tracinwe.index.gradient_index import GradientIndex
from captum_tracinwe.index.homes import Home
from captum_tracinwe.index.rounds import Bounded, Question, Ranking
from captum_tracinwe.preconditioners import Length

__all__ = ["Asked", "Progress", "SegmentActor", "Share", "Turn"]

# Questions, and blocks of their test examples, that an actor goes on with; of an older one it begins anew.
HELD = 2


@dataclass(frozen=True)
class Share:
    """The segments of one actor, by a manifest that is the same for all of them."""

    home: Home
    manifest: Manifest
    entries: tuple[SegmentEntry, ...]


@dataclass(frozen=True, eq=False)
class Asked:
    """A question, and who may take part."""

    question: Question
    k: int
    first: int
    where: Mapping[str, Any] | None
    indices: Sequence[int] | Tensor | None
    length: Length | None


@dataclass(frozen=True)
class Turn:
    """Test examples ``start:stop`` of a question, and which round it is.

    Args:
        start, stop (int): test examples.
        number (int): 0 is the first round.
        floors (float32 array): ``(stop − start,)``, a signed score that k others have at least, of all actors.
    """

    start: int
    stop: int
    number: int
    floors: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Progress:
    """How far an actor is with some test examples.

    Args:
        indices (int64 array), scores (float32 array): ``(n, w)``, the best so far by signed score; where there are fewer, −∞.
        ends (float32 array): ``(n, w, 2)``, between which each signed score lies; its own, but where rows are not whole.
        highest (float32 array): ``(n,)``, the largest bound of what is not verified; −∞ where nothing is left.
        counts (int64 array): ``(n, 3)``, as :meth:`captum_tracinwe.index.rounds.Ranking.counts`.
        candidates (int): training examples that take part.
        examples, payload_bytes (int): of the share.
    """

    indices: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    ends: npt.NDArray[np.float32]
    highest: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int64]
    candidates: int
    examples: int
    payload_bytes: int


class SegmentActor:
    """Holds segments. All that a call needs comes with it, so that an actor that Ray has started anew can answer it."""

    def __init__(self) -> None:
        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
        self._share: tuple[str, GradientIndex] | None = None
        self._asked: OrderedDict[tuple[str, str], tuple[Asked, Any, Tensor | None]] = OrderedDict()
        self._blocks: OrderedDict[tuple[str, str, int], list[Ranking]] = OrderedDict()

    def process(self) -> int:
        """Its number, which is another after a restart."""
        return os.getpid()

    def open(self, share: Handle) -> int:
        """Open these segments, as far as they are not open; how many examples are there."""
        return len(self._opened(share))

    @undisturbed
    def verify(self, share: Handle, asked: Handle, turn: Turn) -> Progress:
        """One round: bounds and a first chunk, or one more chunk of what the floors leave in question."""
        index = self._opened(share)
        question, allowed, factors = self._prepared(index, share.key, asked)
        place = (share.key, asked.key, turn.start)
        rankings = self._blocks.get(place)
        if rankings is None:
            block = Bounded(index, question.question, turn.start, turn.stop, allowed, factors)
            rankings = list(block.rankings(question.k, first=question.first))
            _hold(self._blocks, place, rankings)
            if (
                turn.number
            ):  # the rounds before were another's, or too long ago: all at once, so that none is begun for ever
                for ranking, floor in zip(rankings, turn.floors.tolist(), strict=True):
                    while ranking.goes_on and ranking.highest >= floor:
                        ranking.verify_more(floor)
        elif turn.number:
            for ranking, floor in zip(rankings, turn.floors.tolist(), strict=True):
                ranking.verify_more(floor)
        return _progress(index, rankings, int(allowed.sum()))

    def _opened(self, share: Handle) -> GradientIndex:
        known = self._share
        if known is None or known[0] != share.key:
            import ray

            given: Share = ray.get(share.references[0])
            former = {} if known is None else {segment.entry: segment for segment in known[1].segments}
            index = GradientIndex.of(given.home, given.manifest, given.entries, former)
            known = self._share = share.key, index
            self._asked.clear()
            self._blocks.clear()
        return known[1]

    def _prepared(self, index: GradientIndex, share: str, asked: Handle) -> tuple[Asked, Any, Tensor | None]:
        found = self._asked.get((share, asked.key))
        if found is None:
            import ray

            given: Asked = ray.get(asked.references[0])
            found = given, index.allowed(given.where, given.indices), index.factors(given.length)
            _hold(self._asked, (share, asked.key), found)
        return found


def _hold(held: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    held[key] = value
    while len(held) > HELD:
        held.popitem(last=False)


def _progress(index: GradientIndex, rankings: Sequence[Ranking], candidates: int) -> Progress:
    best = [ranking.best() for ranking in rankings]
    width = max((len(places) for places, _ in best), default=0)
    indices = np.full((len(best), width), np.iinfo(np.int64).max)
    scores = np.full((len(best), width), -np.inf, dtype=np.float32)
    ends = np.full((len(best), width, 2), -np.inf, dtype=np.float32)
    for i, (ranking, (places, own)) in enumerate(zip(rankings, best, strict=True)):
        indices[i, : len(places)], scores[i, : len(places)] = index.numbers_at(places).numpy(), own
        ends[i, : len(places)] = ranking.intervals(places, own).numpy()
    highest = np.array([ranking.highest for ranking in rankings], dtype=np.float32)
    counts = np.array([ranking.counts() for ranking in rankings], dtype=np.int64).reshape(-1, 3)
    return Progress(indices, scores, ends, highest, counts, candidates, len(index), index.payload_bytes)
