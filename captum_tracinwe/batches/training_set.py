"""The training set as batches in a fixed order, which may be another than that of the data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from captum_tracinwe.batches.arguments import out_of_range
from captum_tracinwe.batches.batch import Batch, as_parts, size_of, tensors_in
from captum_tracinwe.batches.copies import OnCopies, on_copies
from captum_tracinwe.batches.counting import Chosen, check_rows, reads_in_order
from captum_tracinwe.batches.inputs import GivenBatches
from captum_tracinwe.batches.lengths import order_by_length
from captum_tracinwe.batches.loaders import examples_loader, has_random_access, in_order, reading
from captum_tracinwe.batches.orders import by_index, order_of
from captum_tracinwe.batches.packed import Unpacked, a_row_for_each
from captum_tracinwe.batches.repeats import EXAMPLES, remakes

__all__ = ["ByLength", "TrainingSet"]

# Examples by which a collator shows whether it sorts: of so many two differ.
FEW = 8


@dataclass(frozen=True, eq=False)
class ByLength:
    """A data set whose batches are read from short to long.

    Args:
        dataset (Dataset): in its own order.
        order (Tensor): int64 ``(M,)``, the index of the example at each place.
    """

    dataset: Dataset[Any]
    order: Tensor


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """M training examples: the *place* of one counts as batches are read, its *index* as in the data set.

    Args:
        loader (DataLoader): batches in the order in which they are read.
        by_length (ByLength, optional): where that is from short to long.
        sampled (Tensor, optional): int64 ``(M,)``, the index of the example at each place, as the loader's own sampler has it.
    """

    loader: DataLoader[Any]
    by_length: ByLength | None = None
    sampled: Tensor | None = None

    @classmethod
    def of(
        cls,
        train_dataset: Dataset[Any] | DataLoader[Any],
        batch_size: int | None,
        collate_fn: Callable[[list[Any]], Any],
        label_names: Sequence[str] = (),
        by_length: bool = False,
    ) -> TrainingSet:
        """Of a DataLoader, whose batches are taken as they come and counted as its data set does, or of a data set.

        Args:
            train_dataset (Dataset or DataLoader): M examples.
            batch_size (int): of a data set, examples to a batch.
            collate_fn (callable): of a data set, makes a batch of a list of examples.
            label_names (sequence of str): labels besides ``labels`` and ``label``.
            by_length (bool): take a data set of mappings with ``attention_mask`` from short to long.

        Raises:
            ValueError: the DataLoader's order cannot be told by indices of its data set (:func:`order_of`).
        """
        if isinstance(train_dataset, DataLoader):
            sampled = order_of(train_dataset, "train_dataset")
            loader = a_row_for_each(train_dataset, "train_dataset")
            return cls(loader, sampled=sampled if loader is train_dataset else order_of(loader, "train_dataset"))
        if not by_length:
            return cls(a_row_for_each(in_order(train_dataset, batch_size, collate_fn), "train_dataset"))
        assert batch_size is not None
        loader, order = order_by_length(train_dataset, batch_size, collate_fn, label_names)
        return cls(loader, ByLength(train_dataset, order))

    @property
    def order(self) -> Tensor | None:
        """The training index of the example at each place, int64 ``(M,)``; None where they are the same."""
        return self.sampled if self.by_length is None else self.by_length.order

    def index_of(self, place: int) -> int:
        """The training index of the example at a place."""
        return place if self.order is None else int(self.order[place])

    def indices_of(self, places: Tensor) -> Tensor:
        """The training indices of the examples at some places, ``(m,)``."""
        return places if self.order is None else self.order[places]

    def places(self) -> Tensor | None:
        """The place of each training index, int64 ``(M,)``; None where they are the same."""
        return None if self.order is None else torch.argsort(self.order)

    def by_index(self) -> DataLoader[Any]:
        """Batches in the order of the training indices."""
        if self.by_length is not None:
            return in_order(self.by_length.dataset, self.loader.batch_size, self.loader.collate_fn)
        return self.loader if self.sampled is None else by_index(self.loader, self.sampled)

    @property
    def readable(self) -> int | None:
        """How many examples there are, if chosen ones can be read without the others."""
        loader = self.by_index()
        return len(loader.dataset) if has_random_access(loader) else None  # type: ignore[arg-type]

    def alone(self, place: int) -> Batch | None:
        """A batch of just the example at a place, made as those of the loader are; None where others cannot be left unread.

        Raises:
            ValueError: the collator makes no row of it, or several.
        """
        found = self.together([place])
        if found is not None:
            check_rows(found, [self.index_of(place)], "train_dataset")
        return found

    @property
    def is_stream(self) -> bool:
        """Whether it is a stream that can be read anew, and only from its beginning."""
        stream = self.loader.dataset
        return isinstance(stream, Unpacked) and stream.can_be_read_anew

    @cached_property
    def is_remade(self) -> bool:
        """Of a stream, whether its collator makes something else of the same examples each time."""
        stream: Any = self.loader.dataset
        return remakes(stream.made, stream.examples(0, EXAMPLES))

    def streamed(self, places: Sequence[int]) -> list[Batch]:
        """Of a stream the examples at some places, one after the other, each alone as its collator makes it."""
        stream: Any = self.loader.dataset
        return [stream.made([example]) for example in stream.examples(places[0], places[-1] + 1)]

    @property
    def maker(self) -> tuple[Any, Any]:
        """Who makes its batches: a collator, and a data set that makes them itself; None of one whose batches are given."""
        loader = self.loader.dataset.loader if isinstance(self.loader.dataset, Unpacked) else self.loader
        collate_fn, dataset = loader.collate_fn, loader.dataset
        if isinstance(collate_fn, OnCopies):
            collate_fn = collate_fn.collate_fn
        return collate_fn, None if loader.batch_sampler is not None or isinstance(dataset, GivenBatches) else dataset

    @cached_property
    def sorts(self) -> bool:
        """Whether the collator has an order of its own: handed the examples in reverse, it does not reverse its batch."""
        if getattr(self.maker[0], "keeps_order", False):
            return False
        stream: Any = self.loader.dataset
        if isinstance(stream, Unpacked):
            made: Callable[[list[Any]], Any] = stream.made
            few = stream.examples(0, FEW) if stream.can_be_read_anew else []
        else:
            made, few = self.together, list(range(min(FEW, self.readable or 0)))
        there, back = (made(few), made(few[::-1])) if len(few) > 1 else (None, None)
        if there is None or back is None:
            return False
        pairs = list(zip(_parts_of(there), _parts_of(back), strict=False))
        told = [place for place, (one, _) in enumerate(pairs) if one.dim() and not torch.equal(one, one.flip(0))]
        if any(pairs[place][0].shape != pairs[place][1].shape or len(pairs[place][0]) != len(few) for place in told):
            return False  # no rows of examples
        if not told or any(torch.equal(pairs[place][0].flip(0), pairs[place][1]) for place in told):
            return False
        again = dict(enumerate(_parts_of(made(few))))  # or else it makes others each time
        return all(place in again and torch.equal(pairs[place][0], again[place]) for place in told)

    def together(self, places: Sequence[int]) -> Batch | None:
        """A batch of the examples at some places; None where others cannot be left unread, or these are never in one batch."""
        reader = self._reader_of(places)
        if reader is None:
            return None
        try:
            batch: Batch = reader(range(len(places)))
        except Exception:
            if self.sampled is None or len(places) == 1:
                raise
            return None  # the sampler has put texts of one length together, for a collator that only stacks them
        return batch

    def each_alone(self, places: Sequence[int]) -> list[Batch]:
        """As :meth:`alone` each of the examples at some places, a third of the time; none where it gives None."""
        reader = self._reader_of(places)
        found = [] if reader is None else [reader([number]) for number in range(len(places))]
        for place, one in zip(places, found, strict=True) if found else ():
            check_rows(one, [self.index_of(place)], "train_dataset")
        return found

    def given(self, places: Sequence[int]) -> list[Any]:
        """The examples at some places as the data set gives them, before the collator; none where others would be read."""
        chosen = self._chosen_at(places)
        return [] if chosen is None else list(chosen.__getitems__(list(range(len(places)))))

    def _reader_of(self, places: Sequence[int]) -> Callable[[Sequence[int]], Batch] | None:
        """Numbers among some places → a batch of the examples there; None where others cannot be left unread.

        As a DataLoader of its own would make it, of which making and starting one takes most of the time.
        """
        chosen, collate = self._chosen_at(places), on_copies(self.loader.collate_fn)
        if chosen is None:
            return None
        assert collate is not None  # torch's own, where none was given
        return lambda numbers: collate(chosen.__getitems__(list(numbers)))

    def _chosen_at(self, places: Sequence[int]) -> Chosen | None:
        """The examples at some places; None where others cannot be left unread."""
        loader, at = self.loader, list(places)
        if self.sampled is not None:
            return Chosen(loader.dataset, self.sampled[at].tolist())
        if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None or not reads_in_order(loader):
            return None
        return Chosen(loader.dataset, at)

    def chosen(self, indices: Sequence[int]) -> tuple[list[Batch] | DataLoader[Any], list[int]]:
        """Batches that hold the examples of some training indices (ascending), and the training index of each example in them.

        Only the chosen examples are read where the data set allows it; else the batches that they come in.

        Raises:
            ValueError: the training set has no such example.
        """
        loader = self.by_index()
        found = examples_loader(loader, indices)
        if found is not None:
            size = len(loader.dataset)  # type: ignore[arg-type]
            if not 0 <= indices[0] <= indices[-1] < size:
                raise ValueError(out_of_range(indices, size))
            return found, list(indices)
        kept: list[Batch] = []
        held: list[int] = []
        start = 0
        for batch in reading(loader, "train_dataset"):
            stop = start + size_of(batch)
            if any(start <= index < stop for index in indices):
                held += range(start, stop)
                kept.append(batch)
            start = stop
        if not set(indices) <= set(held):
            raise ValueError(out_of_range(indices, start))
        return kept, held


def _parts_of(batch: Any) -> list[Tensor]:
    return list(tensors_in(as_parts(batch)))
