"""Row gradients of any examples, computed: each batch goes through the model at each checkpoint."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import zip_longest
from typing import Any

import torch
from captum._utils.progress import NullProgress, progress
from torch import Tensor
from torch.nn import Module

from captum_tracinwe.batches.arguments import no_targets
from captum_tracinwe.batches.batch import Batch, Loss, positions_of, size_of, without_targets
from captum_tracinwe.batches.blocks import Block, blocks
from captum_tracinwe.batches.loaders import reading
from captum_tracinwe.batches.training_set import TrainingSet
from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.gradients.asked import Asked
from captum_tracinwe.gradients.batch_rows import (
    Begun,
    batch_row_gradients,
    begun,
    own_loss_of,
    row_gradients_of_each,
)
from captum_tracinwe.gradients.batch_tokens import TokenPass
from captum_tracinwe.gradients.checkpointed import CheckpointedModel
from captum_tracinwe.gradients.embedding import EmbeddingTable
from captum_tracinwe.gradients.forward import NotTogether
from captum_tracinwe.gradients.head import find_head, head_size
from captum_tracinwe.gradients.movement import moved
from captum_tracinwe.gradients.own_loss import OwnLoss
from captum_tracinwe.gradients.probe import Found, Probes
from captum_tracinwe.gradients.room import Room
from captum_tracinwe.gradients.seen import shows_bars, when_shown
from captum_tracinwe.gradients.tables import Tables
from captum_tracinwe.gradients.tried import all_singles
from captum_tracinwe.gradients.ways import Part
from captum_tracinwe.rows.overflow import first_not_finite, overflow
from captum_tracinwe.rows.row_gradients import RowGradients
from captum_tracinwe.waiting import waits

__all__ = ["Asked", "LiveRows"]

# Of a token: its id twice, where it stands, and room for the sorting.
TOKEN_BYTES = 64


@dataclass(frozen=True, eq=False)
class LiveRows:
    """The model as a source of row gradients.

    Args:
        weights (CheckpointedModel): the model at its C checkpoints.
        table (EmbeddingTable): the word embedding.
        exclude_tokens, top_k_words: as in :class:`TracInWE`.
        side (str, optional): as in :class:`TracInWE`; only look-ups made while ``within``, that part of the model, runs count.
        label_names (sequence of str): as in :class:`TracInWE`.
        memory_limit (int): bytes of what is held at once.
        name (str): of the method, for bars.
        probes (Probes): what is known of how batches go through this model.
        tables (Tables): whose rows stand side by side in a row.
        room (Room): how many examples go through the model at once, where that was found to be fewer than a batch has.
    """

    weights: CheckpointedModel
    table: EmbeddingTable
    exclude_tokens: tuple[int, ...] = ()
    top_k_words: int | None = None
    side: str | None = None
    within: Module | None = None
    label_names: tuple[str, ...] = ()
    memory_limit: int = 1 << 30
    name: str = "TracInWE"
    probes: Probes = field(default_factory=Probes)
    tables: Tables = field(default_factory=Tables)
    room: Room = field(default_factory=Room)

    @property
    def vocabulary(self) -> int:
        """V, that of the larger side."""
        read = int(self.table.weight.shape[0])
        return max(read, head_size(find_head(self.weights.model))[0]) if "output" in self.tables else read

    @property
    def width(self) -> int | None:
        """D, columns of a row at one checkpoint; None where only an answer of the model tells it."""
        if "bag" in self.tables:
            return None
        read = int(self.table.weight.shape[1]) if "input" in self.tables else 0
        return read + (head_size(find_head(self.weights.model))[1] if "output" in self.tables else 0)

    @property
    def of_one_unit(self) -> LiveRows:
        """Of which self-influence is made: the first table alone where others are only made as large as it for a question."""
        return replace(self, tables=self.tables.first) if self.tables.equal else self

    def widths(self, width: int) -> tuple[int, ...]:
        """Columns of each table, of the ``width`` that a row has at one checkpoint."""
        known = {"input": int(self.table.weight.shape[1])}
        if "output" in self.tables:
            known["output"] = head_size(find_head(self.weights.model))[1]
        known["bag"] = width - sum(known[name] for name in self.tables.names if name != "bag")
        return tuple(known[name] for name in self.tables.names)

    def moved(self, words: Tensor) -> Tensor:
        """How far the vectors of the training ``words`` moved from the first checkpoint to the last: float64 ``(V,)``, others 0.

        Raises:
            ValueError: a word's vector is NaN or infinite at one of the two.
        """
        ends = []
        with self.weights.untouched():
            for checkpoint in (self.weights.checkpoints[0], self.weights.checkpoints[-1]):
                self.weights.at(checkpoint)
                ends.append(self.table.weight.detach().cpu().clone())
                bad = words[~ends[-1][words].isfinite().all(1)]
                if len(bad):
                    raise ValueError(
                        f"The word embedding at checkpoint {self.weights.named(checkpoint)} is NaN or infinite in the row of "
                        f"token {int(bad[0])}: expected finite numbers. Leave this checkpoint out."
                    )
        return moved(ends[0], ends[1], words)

    @property
    def itemsize(self) -> int:
        """Bytes of a score."""
        return 8 if self.table.weight.dtype == torch.float64 else 4

    def rows(self, batches: Iterable[Batch], asked: Asked, show_progress: bool | None = False) -> RowGradients:
        """All examples of some batches at all checkpoints, values ``(R, C * D)``, those of checkpoint c scaled by √η_c."""
        desc = f"Using {self.name} to compute row gradients. Processing batches"
        with self.bar(batches, desc, show_progress) as bar:
            return RowGradients.cat([rows for _, rows in self.row_blocks(batches, asked, bar)])

    def row_blocks(
        self,
        batches: Iterable[Batch],
        asked: Asked,
        bar: Any = None,
        start: int = 0,
        bytes_per_example: int | Callable[[Batch], int] = 0,
        limit: int | None = None,
    ) -> Iterator[tuple[Block, RowGradients]]:
        """Block by block the batches and their rows at all checkpoints; the model is untouched whenever a block is out."""
        limit = self.memory_limit if limit is None else limit
        for block in self.blocks(batches, asked.argument, bytes_per_example, limit):
            at_checkpoints = []
            with self.weights.untouched():
                for checkpoint in self.weights.checkpoints:
                    rate = self.weights.at(checkpoint)
                    parts = self.rows_at(checkpoint, block.batches, asked, start + block.start, bar)
                    rows = RowGradients.cat(parts).scale(math.sqrt(rate))
                    place = first_not_finite(rows.values) if rate > 1 else None  # finite as they were
                    if place is not None:
                        number = asked.index_of(start + block.start + int(rows.examples[place[0]]))
                        raise overflow(
                            f"The gradient of {asked.what} example {number} times the root of the learning rate {rate} at "
                            f"checkpoint {self.weights.named(checkpoint)}",
                            rows.values.dtype,
                        )
                    at_checkpoints.append(rows)
            # By another way padding is left out, and a word of a text's rows with it.
            yield block, RowGradients.beside(at_checkpoints, union=self.top_k_words is not None or self.probes.mixed)

    def token_blocks(self, batches: Iterable[Batch], asked: Asked) -> Iterator[RowGradients]:
        """Block by block the tokens of the rows, values ``(R, 0)``, without gradients; with ``top_k_words`` these choose them.

        The weights are those of the first checkpoint; tokens do not hang on them.
        """
        assert self.top_k_words is None
        tokens = TokenPass(
            *(self.weights.model, self.table, asked.loss_fn, self.exclude_tokens, self.within, self.label_names),
            self.tables,
        )
        for block in blocks(
            batches, asked.argument, lambda batch: TOKEN_BYTES * positions_of(batch), self.memory_limit
        ):
            with self.weights.untouched():
                self.weights.at(self.weights.checkpoints[0])
                place, found = block.start, []
                for batch in block.batches:
                    places = range(place, place + size_of(batch))
                    found += _tokens_of(tokens, batch, places, asked.examples)
                    place += len(places)
            yield RowGradients.cat(found)

    def rows_at(
        self, checkpoint: Any, batches: Iterable[Batch], asked: Asked, start: int = 0, bar: Any = None
    ) -> Iterator[RowGradients]:
        """Row gradients batch by batch, values ``(R, D)``, not scaled, with the weights that are in the model now.

        Args:
            checkpoint: whose weights these are, for errors.
            batches (iterable): one pass over them.
            asked (Asked): the loss.
            start (int): the place of the first example.
            bar (optional): told of each batch.

        Raises:
            ValueError: a gradient is not finite; the message names the example.
        """
        # While a GPU computes a batch, the host asks for the next one: what it reads then is there already.
        ahead, waiting = (
            1 if waits(self.table.weight.device) else 0,
            deque[tuple[Batch, list[tuple[list[int], Begun]]]](),
        )
        for batch, parts, found in self.in_parts(checkpoint, batches, asked, start):
            compute = partial(self._begun, asked.loss_fn, found)
            waiting.append((batch, [one for part in parts for one in self.room.through(part, compute)]))
            if len(waiting) > ahead:
                rows = self._finished(checkpoint, *waiting.popleft(), asked, start)
                yield rows
                start += len(rows)
                if bar is not None:
                    bar.update()
        while waiting:
            rows = self._finished(checkpoint, *waiting.popleft(), asked, start)
            yield rows
            start += len(rows)
            if bar is not None:
                bar.update()

    def _begun(self, loss_fn: Loss | None, found: Found, part: Batch) -> Begun:
        return begun(
            *(self.weights.model, self.table, part, loss_fn, False, self.exclude_tokens, self.top_k_words),
            *(self.within, self.label_names, self.tables, found.own_loss),
        )

    def _finished(
        self, checkpoint: Any, batch: Batch, parts: list[tuple[list[int], Begun]], asked: Asked, start: int
    ) -> RowGradients:
        """The rows of a batch, which were asked for part by part; all of them finite."""
        found = [part.finished() for _, part in parts]
        computed, finite = [rows for rows, _ in found], [one for _, one in found]
        rows = computed[0]
        if len(computed) > 1:
            order = torch.argsort(torch.tensor([place for places, _ in parts for place in places]))
            rows = RowGradients.cat(computed).select(order)
        idle = [asked.index_of(start + i) for i in without_targets(batch, asked.loss_fn, self.label_names)]
        if idle:
            warnings.warn(no_targets(asked.what, idle), stacklevel=3)
        # A sum is finite unless a value is not, or it overflows: only then is every value looked at.
        sound = all(finite) or bool(torch.isfinite(rows.values.sum()))
        if not sound and not bool(torch.isfinite(rows.values).all()):
            bad = asked.index_of(start + int(rows.examples[~torch.isfinite(rows.values).all(1)][0]))
            raise ValueError(
                f"The gradient of {asked.what} example {bad} is NaN or infinite at checkpoint "
                f"{self.weights.named(checkpoint)}: expected finite numbers. "
                f"Look at its text and label, at the loss there, and at the weights of that checkpoint."
            )
        return rows

    def in_parts(
        self, checkpoint: Any, batches: Iterable[Batch], asked: Asked, start: int = 0
    ) -> Iterator[tuple[Batch, list[Part], Found]]:
        """Batches, each in the parts that go through the model one after the other, and what the probe found of it."""
        passes = _Passes(self, asked.loss_fn, checkpoint)
        what = "training" if asked.what in ("sample", "training-set") else asked.what
        whose = self.probes.whose(what, asked.loss_fn, checkpoint, asked.examples)
        looks = self.probes.looks(passes, batches)
        settled: dict[int, Found] = {}  # by looks, which are kept meanwhile: nearly every batch is known by its own
        for batch, look in zip_longest(reading(batches, asked.argument), looks):
            known = settled.get(id(look))
            found = known or self.probes.of(passes, batch, whose, start, asked.examples, look)
            if known is None and self.probes.is_settled(whose, look):
                settled[id(look)] = found
            if self.probes.trip is not None:
                self.probes.end_trip(self.probes.trip)
            yield batch, found.way.parts(batch, partial(_singles_of, batch, start, asked.examples)), found
            start += size_of(batch)

    def blocks(
        self,
        batches: Iterable[Batch],
        what: str,
        bytes_per_example: int | Callable[[Batch], int],
        limit: float | None = None,
    ) -> Iterator[Block]:
        """Batches in blocks, while the model is not in use; before the first it is seen to come back from a checkpoint."""
        for block in blocks(batches, what, bytes_per_example, self.memory_limit if limit is None else limit):
            if self.probes.wanted and not self.probes.came_back:
                self.probes.begin_trip(self.weights, block.batches[0], self.label_names, self.table.weight.device)
            yield block

    # ------------------------------------------------------------------------------------------------- self-influence

    def self_influence(self, batches: Iterable[Batch], asked: Asked, show_progress: bool | None = False) -> Tensor:
        """Σ_c η_c‖g_c(x)‖², ``(N,)``; the data are read once, in blocks."""
        desc = f"Using {self.name} to compute self influence. Processing batch"
        scores = []
        with self.bar(batches, desc, show_progress) as bar:
            for block in self.blocks(batches, asked.argument, 8):
                total: Tensor | None = None
                with self.weights.untouched():
                    for checkpoint in self.weights.checkpoints:
                        part = self._self_influence_at(checkpoint, block.batches, asked, block.start, bar)
                        total = part if total is None else _finite(total + part, asked, block.start)
                assert total is not None
                scores.append(total)
        return torch.cat(scores)

    def self_influence_by_checkpoints(
        self, batches: Iterable[Batch], asked: Asked, show_progress: bool | None = False
    ) -> Tensor:
        """The same; the data are read once for each checkpoint, and each checkpoint is loaded exactly once."""
        name = f"Using {self.name} to compute self influence."
        total: Tensor | None = None
        self.probes.trip = None  # of a run that was not ended, since when the model may have changed
        outer = (
            progress(desc=f"{name} Processing checkpoint", total=len(self.weights), mininterval=0.0)
            if shows_bars(show_progress)
            else NullProgress()
        )
        with self.weights.untouched(), outer:
            for checkpoint in self.weights.checkpoints:
                with self.bar(batches, f"{name} Processing batch", show_progress, passes=1) as bar:
                    part = self._self_influence_at(checkpoint, batches, asked, 0, bar)
                if total is not None and total.shape != part.shape:
                    raise ValueError(
                        f"`inputs` gave {len(total)} examples at one checkpoint and {len(part)} at the next: expected the same "
                        f"examples in the same order each time."
                    )
                total = part if total is None else _finite(total + part, asked, 0)
                outer.update()
        assert total is not None
        return total

    def _self_influence_at(
        self, checkpoint: Any, batches: Iterable[Batch], asked: Asked, start: int, bar: Any
    ) -> Tensor:
        rate = self.weights.at(checkpoint)
        norms = [rows.squared_norms() for rows in self.rows_at(checkpoint, batches, asked, start, bar)]
        if not norms:
            raise ValueError(f"`{asked.argument}` is empty: expected at least one example.")
        return _finite(torch.cat(norms) * rate, asked, start)

    # ------------------------------------------------------------------------------------------------------- progress

    def bar(self, batches: Iterable[Batch], desc: str, show: bool | None, passes: int | None = None) -> Any:
        """A progress bar over batches, one pass of the data for each checkpoint."""
        if not shows_bars(show):
            return NullProgress()
        try:
            total = len(batches) * (len(self.weights) if passes is None else passes)  # type: ignore[arg-type]
        except TypeError:  # an iterable data set
            total = None
        return progress(desc=desc, total=total, **when_shown(show))


def _tokens_of(tokens: TokenPass, batch: Batch, places: range, examples: TrainingSet | None) -> list[RowGradients]:
    if examples is None or not examples.sorts:  # else its rows do not stand in the order of examples
        with suppress(NotTogether):
            return [tokens(batch)]
    return [tokens(one) for one in all_singles(batch, places, examples)]


def _singles_of(batch: Batch, start: int, examples: TrainingSet | None) -> list[Batch]:
    return all_singles(batch, range(start, start + size_of(batch)), examples)


@dataclass(frozen=True, eq=False)
class _Passes:
    """What the probe needs, by the weights that are in the model now."""

    live: LiveRows
    loss_fn: Loss | None
    checkpoint: Any

    @property
    def model(self) -> Module:
        return self.live.weights.model

    @cached_property
    def fills(self) -> frozenset[int]:
        config = getattr(unwrap(self.model), "config", None)
        known = (0, self.live.table.module.padding_idx, getattr(config, "pad_token_id", None))
        return frozenset(one for one in known if isinstance(one, int))

    def rows(self, batch: Batch, own_loss: str, check: bool = False) -> RowGradients:
        live = self.live
        # Without top_k_words: of two gradients of one norm rounding chooses.
        return batch_row_gradients(
            *(self.model, live.table, batch, self.loss_fn, check, live.exclude_tokens, None),
            *(live.within, live.label_names, live.tables, own_loss),
        )

    def rows_of_each(self, batches: Sequence[Batch]) -> RowGradients | None:
        live = self.live
        if not live.tables.plain:
            return None
        return row_gradients_of_each(
            *(self.model, live.table, batches, self.loss_fn, live.exclude_tokens, live.within, live.label_names)
        )

    def loss(self, batch: Batch) -> OwnLoss | None:
        if self.loss_fn is not None:
            return None
        return own_loss_of(self.model, self.live.table, batch, self.live.label_names)


def _finite(scores: Tensor, asked: Asked, start: int) -> Tensor:
    """These self-influences, none of which is NaN or infinite."""
    place = first_not_finite(scores)
    if place is not None:
        raise overflow(f"The self-influence of {asked.what} example {asked.index_of(start + place[0])}", scores.dtype)
    return scores
