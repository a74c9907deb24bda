"""The passes of a `TracInWE` over data and checkpoints: which weights are in the model, which batch runs, what comes of it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from captum._utils.progress import NullProgress, progress
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader, Dataset

from captum_tracinwe import ops
from captum_tracinwe.arguments import is_rate, no_targets, out_of_range
from captum_tracinwe.batches import Batch, Block, Loss, blocks, examples_loader, in_order, size_of, without_targets
from captum_tracinwe.checkpoints import assign_checkpoint, load_checkpoint
from captum_tracinwe.gradients import batch_row_gradients, untouched
from captum_tracinwe.inputs import as_batches
from captum_tracinwe.interrupts import unbroken
from captum_tracinwe.overflow import first_not_finite, overflow
from captum_tracinwe.rows import RowGradients

if TYPE_CHECKING:
    from captum_tracinwe.embedding import EmbeddingTable
    from captum_tracinwe.index import GradientIndex

__all__ = ["Passes"]


def _named(checkpoint: Any) -> str:
    """As the user knows it: a path in full, of the weights themselves only the start."""
    return repr(checkpoint) if isinstance(checkpoint, (str, Path)) else f"{checkpoint!r:.80}"


def _scores(test: RowGradients, train: RowGradients) -> Tensor:
    """``test.dot(train)`` without a look at each batch's scores: those of a block are looked at together."""
    return ops.row_dot(test.ptr, test.ids, test.values, train.ptr, train.ids, train.values)


class Passes:
    """What :class:`captum_tracinwe.TracInWE` runs; its arguments are the attributes."""

    model: Module
    embedding: EmbeddingTable
    checkpoints: Any
    checkpoints_load_func: Callable[..., Any]
    loss_fn: Loss | None
    test_loss_fn: Loss | None
    train_dataloader: DataLoader[Any]
    exclude_tokens: tuple[int, ...]
    top_k_words: int | None
    label_names: tuple[str, ...]
    memory_limit: int
    index: GradientIndex | None
    _within: Module | None
    _order: Tensor | None
    _dataset: Dataset[Any]
    _checked_losses: set[int]
    _own: Sequence[tuple[Tensor, Tensor]] = ()
    _collate: Callable[[list[Any]], Any]
    get_name: Callable[[], str]

    def _score_blocks(
        self,
        test_batches: list[Batch],
        aggregate: bool,
        desc: str,
        show_progress: bool,
        product: Callable[[RowGradients, RowGradients], Tensor] = _scores,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Indices ``(m,)`` and scores ``(N, m)`` of one block of training examples after the other.

        The model is untouched, and free for others, whenever a block is out: whoever takes the blocks may stop at any.

        ``product`` of the test rows and those of a training batch: what is laid side by side, and added up over checkpoints.
        Of scores ``(N, m)`` none is NaN or infinite.
        """
        if not test_batches:
            raise ValueError("`inputs` is empty: expected at least one test example.")
        size = 1 if aggregate else sum(size_of(batch) for batch in test_batches)
        item = 8 if self.embedding.weight.dtype == torch.float64 else 4
        tests: list[RowGradients] = []
        with self._bar(self.train_dataloader, desc, show_progress) as bar:
            for block in blocks(self.train_dataloader, "train_dataset", size * item, self.memory_limit):
                scores: Tensor | None = None
                with self._untouched():
                    for c, checkpoint in enumerate(self.checkpoints):
                        rate = self._load(checkpoint)
                        if c == len(tests):  # the first block
                            parts = self._rows_at(
                                checkpoint, test_batches, self.test_loss_fn, "test", 0, NullProgress()
                            )
                            rows = RowGradients.cat(parts)
                            tests.append((rows.sum() if aggregate else rows).scale(rate))
                        trained = self._rows_at(checkpoint, block.batches, self.loss_fn, "training", block.start, bar)
                        products = torch.cat([product(tests[c], rows) for rows in trained], dim=-1)
                        scores = products if scores is None else scores.add_(products)
                        place = first_not_finite(scores) if scores.dim() == 2 else None
                        if place is not None:
                            asked = "the test examples together" if aggregate else f"test example {place[0]}"
                            taught = self._number("training", block.start + place[1])
                            raise overflow(
                                f"The score of training example {taught} for {asked}, at checkpoint {_named(checkpoint)},",
                                scores.dtype,
                            )
                assert scores is not None
                places = torch.arange(block.start, block.start + block.size)
                yield (places if self._order is None else self._order[places]).to(scores.device), scores

    def _row_gradients(self, loader: DataLoader[Any], loss_fn: Loss | None, show_progress: bool) -> RowGradients:
        """All examples of a loader at all checkpoints, scaled by √η."""
        what = self._what(loader)
        desc = f"Using {self.get_name()} to compute row gradients. Processing batches"
        with self._bar(loader, desc, show_progress) as bar:
            return RowGradients.cat([rows for _, rows in self._row_blocks(loader, loss_fn, bar, what)])

    def _row_blocks(
        self,
        loader: Iterable[Batch],
        loss_fn: Loss | None,
        bar: Any,
        what: str,
        start: int = 0,
        bytes_per_example: int | Callable[[Batch], int] = 0,
        limit: int | None = None,
    ) -> Iterator[tuple[Block, RowGradients]]:
        """Block by block the batches and their rows at all checkpoints; the model is untouched whenever a block is out."""
        for block in blocks(loader, "inputs", bytes_per_example, self.memory_limit if limit is None else limit):
            at_checkpoints = []
            with self._untouched():
                for checkpoint in self.checkpoints:
                    rate = self._load(checkpoint)
                    parts = self._rows_at(checkpoint, block.batches, loss_fn, what, start + block.start, bar)
                    rows = RowGradients.cat(parts).scale(math.sqrt(rate))
                    place = first_not_finite(rows.values) if rate > 1 else None  # finite as they were
                    if place is not None:
                        number = self._number(what, start + block.start + int(rows.examples[place[0]]))
                        raise overflow(
                            f"The gradient of {what} example {number} times the root of the learning rate {rate} at checkpoint "
                            f"{_named(checkpoint)}",
                            rows.values.dtype,
                        )
                    at_checkpoints.append(rows)
            yield block, RowGradients.beside(at_checkpoints, union=self.top_k_words is not None)

    def _training_loader(self) -> DataLoader[Any]:
        """Training batches in the order of ``train_dataset``."""
        loader: DataLoader[Any] = self.train_dataloader
        if self._order is None:
            return loader
        return in_order(self._dataset, loader.batch_size, loader.collate_fn)

    def _training_rows(self, indices: Sequence[int]) -> RowGradients:
        """Row gradients of chosen training examples (ascending), reading no others where the data set allows it."""
        if self.index is not None:
            return self.index.rows(indices)
        chosen = examples_loader(self._training_loader(), indices)
        if chosen is not None:
            size = len(chosen.dataset.dataset)  # type: ignore[attr-defined]
            if not 0 <= indices[0] <= indices[-1] < size:
                raise ValueError(out_of_range(indices, size))
            return self._row_gradients(chosen, self.loss_fn, False)
        kept: list[Batch] = []
        places: list[int] = []
        start = 0
        for batch in self.train_dataloader:
            size = size_of(batch)
            inside = [index for index in indices if start <= index < start + size]
            if inside:
                held = sum(size_of(other) for other in kept)
                places += [held + index - start for index in inside]
                kept.append(batch)
            start += size
        if len(places) != len(indices):
            raise ValueError(out_of_range(indices, start))
        rows = [self._row_gradients(as_batches(batch, "train_dataset"), self.loss_fn, False) for batch in kept]
        return RowGradients.cat(rows).select(places)

    def _self_influence_at(self, checkpoint: Any, batches: Iterable[Batch], what: str, start: int, bar: Any) -> Tensor:
        rate = self._load(checkpoint)
        parts = self._rows_at(checkpoint, batches, self.loss_fn, what, start, bar)
        norms = [rows.squared_norms() for rows in parts]
        if not norms:
            raise ValueError("`inputs` is empty: expected at least one example.")
        return self._finite(torch.cat(norms) * rate, what, start)

    def _finite(self, scores: Tensor, what: str, start: int) -> Tensor:
        """These self-influences, none of which is NaN or infinite."""
        place = first_not_finite(scores)
        if place is not None:
            raise overflow(f"The self-influence of {what} example {self._number(what, start + place[0])}", scores.dtype)
        return scores

    def _rows_at(
        self, checkpoint: Any, batches: Iterable[Batch], loss_fn: Loss | None, what: str, start: int, bar: Any
    ) -> Iterator[RowGradients]:
        """Row gradients batch by batch, with the weights now in the model; ``what`` and ``start`` name examples in errors."""
        for batch in batches:
            # Once for each loss: texts along the wrong dimension, or labels that broadcast, would give wrong numbers.
            check = id(loss_fn) not in self._checked_losses and size_of(batch) > 1
            rows = batch_row_gradients(
                *(self.model, self.embedding, batch, loss_fn, check, self.exclude_tokens, self.top_k_words),
                *(self._within, self.label_names),
            )
            idle = [self._number(what, start + i) for i in without_targets(batch, loss_fn, self.label_names)]
            if idle:
                warnings.warn(no_targets(what, idle), stacklevel=2)
            if check:
                self._checked_losses.add(id(loss_fn))
            # A sum is finite unless a value is not, or it overflows: only then is every value looked at.
            if not bool(torch.isfinite(rows.values.sum())) and not bool(torch.isfinite(rows.values).all()):
                bad = self._number(what, start + int(rows.examples[~torch.isfinite(rows.values).all(1)][0]))
                raise ValueError(
                    f"The gradient of {what} example {bad} is NaN or infinite at checkpoint {_named(checkpoint)}: expected "
                    f"finite numbers. Look at its text and label, at the loss there, and at the weights of that checkpoint."
                )
            yield rows
            start += len(rows)
            bar.update()

    def _what(self, loader: DataLoader[Any]) -> str:
        return "training" if loader is self.train_dataloader else "given"

    def _number(self, what: str, place: int) -> int:
        """The index that the user has for the example at a place of what is being read."""
        return int(self._order[place]) if self._order is not None and what == "training" else place

    def _load(self, checkpoint: Any) -> float:
        """Load a checkpoint; its learning rate. The model is in eval mode and frozen again, whatever the loader did."""
        assert checkpoint is not None, "None returned from `checkpoints`, cannot load."
        assigns = self.checkpoints_load_func is load_checkpoint
        for tensor, own in self._own:  # lets go of the checkpoint before, or two would be in memory while one is read
            tensor.data = own
        with torch.inference_mode(False):  # weights made within the caller's inference_mode could not be differentiated
            rate = (assign_checkpoint if assigns else self.checkpoints_load_func)(self.model, checkpoint)
        if not is_rate(rate):
            raise ValueError(
                f"`checkpoints_load_func` returned {rate!r} for {checkpoint!r}: expected the learning rate at that checkpoint, a "
                f"finite number ≥ 0."
            )
        self.model.eval()
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        return float(rate)

    def _batches(self, inputs: Batch | DataLoader[Any]) -> DataLoader[Any]:
        """Batches of ``inputs``, which may be a data set or a list of examples as well."""
        return as_batches(inputs, "inputs", self._collate, self.train_dataloader.batch_size or 1)

    @unbroken
    def _untouched(self) -> Iterator[None]:
        """The model given back as it was; its weights are copied aside only if the loader may write into them."""
        assigns = self.checkpoints_load_func is load_checkpoint
        with untouched(self.model, copy_weights=not assigns):
            held = (*self.model.parameters(), *self.model.buffers()) if assigns else ()
            self._own = [(tensor, tensor.data) for tensor in held]
            try:
                yield
            finally:
                self._own = []

    def _bar(self, loader: DataLoader[Any], desc: str, show: bool, passes: int | None = None) -> Any:
        """A progress bar over batches, one pass of the data for each checkpoint."""
        if not show:
            return NullProgress()
        try:
            total = len(loader) * (len(self.checkpoints) if passes is None else passes)
        except TypeError:  # an iterable data set
            total = None
        return progress(desc=desc, total=total)
