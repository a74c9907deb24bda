"""What is asked of a model whose updates are taken back: test examples, their rows and losses, with and without the updates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.nn import Module

from captum_tracinwe.batches.arguments import is_list
from captum_tracinwe.batches.batch import Batch, Loss, as_parts, labels_of, move_to, size_of
from captum_tracinwe.batches.chance import chance_as_before
from captum_tracinwe.batches.collate import Collate
from captum_tracinwe.batches.inputs import GivenBatches, as_batches
from captum_tracinwe.batches.loaders import in_order, reading
from captum_tracinwe.batches.training_set import TrainingSet
from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.gradients.asked import Asked
from captum_tracinwe.gradients.diagnosis import diagnosed
from captum_tracinwe.gradients.embedding import EmbeddingTable, find_embedding
from captum_tracinwe.gradients.example_losses import by_name, example_losses, prediction_of
from captum_tracinwe.gradients.forward import run_model
from captum_tracinwe.gradients.untouched import untouched
from captum_tracinwe.neighbours.asked import check_inputs
from captum_tracinwe.neighbours.rollback_store import Updates, fingerprint
from captum_tracinwe.rows.row_gradients import RowGradients
from captum_tracinwe.tracin_we import TracInWE

__all__ = ["Question", "like", "marked", "of_words", "subtract", "table_of"]

BATCH_SIZE = 32
# The one checkpoint, as errors have it.
AS_TRAINED = "as trained"
# Embeddings whose updates are taken back now.
_TAKEN_BACK: WeakSet[Module] = WeakSet()


@dataclass(frozen=True, eq=False)
class Question:
    """Test examples in batches, and the model that is asked about them."""

    model: Module
    table: EmbeddingTable
    batches: list[Batch]
    loss_fn: Loss | None
    names: tuple[str, ...]
    whose: str
    kept: list[RowGradients] = field(default_factory=list)
    predictions: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)

    @classmethod
    def of(
        cls, model: Module, updates: Updates, inputs: Any, loss_fn: Loss | None, names: Any, collate_fn: Any, whose: str
    ) -> Question:
        """Test examples as the user gave them, to a model that is as training left it."""
        table = table_of(model, updates, whose)
        check_inputs(inputs, whose)
        names = (names,) if isinstance(names, str) else names
        if not is_list(names) or not all(isinstance(name, str) for name in names):
            raise TypeError(f"{whose}: expected `label_names` as a name or a list of names, got {names!r:.60}.")
        if collate_fn is not None and not callable(collate_fn):
            raise TypeError(
                f"{whose}: expected `collate_fn` as a function (list of examples) -> batch, got {collate_fn!r:.60}."
            )
        collate = Collate(model, table.module.padding_idx, tuple(names), collate_fn)
        with chance_as_before():  # a DataLoader draws a number for each pass
            batches = list(reading(as_batches(inputs, "inputs", collate, BATCH_SIZE), "inputs"))
        if not batches:
            raise ValueError(f"{whose}: `inputs` is empty: expected at least one test example.")
        return cls(model, table, batches, loss_fn, tuple(names), whose)

    def rows(self) -> RowGradients:
        """Row gradients of the test examples, by the model as it is."""
        if not self.kept:
            self.before()  # a loss that is none is told first
            loader = in_order(GivenBatches(self.batches), None)
            tracin = TracInWE(
                *(self.model, loader, [AS_TRAINED], lambda model, checkpoint: 1.0, [self.table.name], self.loss_fn),
                label_names=self.names,
            )
            asked = Asked(self.loss_fn, "test", examples=TrainingSet(loader))
            self.kept.append(tracin.live.rows(loader, asked, False).to("cpu"))
        return self.kept[0]

    def before(self) -> tuple[Tensor, Tensor | None]:
        """:meth:`predicted` with all updates in place, once; each loss is finite."""
        if not self.predictions:
            with untouched(self.model):
                found = self.predicted()
            bad = (~found[0].isfinite()).nonzero().flatten().tolist()
            if bad:
                raise ValueError(
                    f"{self.whose}: the loss of test example {bad[0]} is {float(found[0][bad[0]]):g}: expected a finite number. "
                    f"Look at its text and label, and at the model's weights."
                )
            self.predictions.append(found)
        return self.predictions[0]

    def scores(self, updates: Updates) -> Tensor:
        """The first order of every training example, ``(N, M)``."""
        rows = self.rows()
        return torch.cat([-rows.dot(like(part, rows)) for _, part in updates.blocks()], dim=1)

    def predicted(self) -> tuple[Tensor, Tensor | None]:
        """Losses ``(N,)`` and, of classes, the probability of each label, with the weights that are in the model now."""
        losses, chances = [], []
        for batch in self.batches:
            loss, chance = self._predicted(batch)
            losses.append(loss)
            chances.append(chance)
        known = [chance for chance in chances if chance is not None]
        return torch.cat(losses), torch.cat(known) if len(known) == len(chances) else None

    def _predicted(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        model, size = unwrap(self.model), size_of(batch)
        with torch.no_grad():
            moved = move_to(as_parts(batch), self.table.weight.device)
            labels = labels_of(moved, self.names)
            with diagnosed(model, moved, labels):
                output = by_name(model, run_model(model, moved, self.names, self.loss_fn is None), self.loss_fn)
                losses = example_losses(output, labels, moved, self.loss_fn, size)
            if self.loss_fn is None and isinstance(output, Tensor) and losses.shape not in ((), (size,)):
                raise ValueError(
                    f"{self.whose}: `loss_fn` is None, and the model gives a tensor of shape {tuple(losses.shape)}, such as "
                    f"logits: expected a loss of each test example. Pass loss_fn=torch.nn.CrossEntropyLoss(reduction='none')."
                )
            if losses.dim() == 0 and size > 1:
                raise ValueError(
                    f"{self.whose}: the model's own loss is one number for {size} test examples: expected one for each. Pass "
                    f"loss_fn=torch.nn.CrossEntropyLoss(reduction='none'), or `inputs` as a DataLoader with batch_size=1."
                )
            losses = losses.reshape(size, -1).sum(1).double().cpu()
            logits = prediction_of(output)
            of_classes = isinstance(logits, Tensor) and logits.dim() == 2 and logits.shape[1] > 1
            if not (
                of_classes and isinstance(labels, Tensor) and labels.shape == (size,) and not labels.is_floating_point()
            ):
                return losses, None
            inside = (labels >= 0) & (labels < logits.shape[1])
            chance = logits.double().softmax(1).gather(1, labels.clamp(0, logits.shape[1] - 1).long()[:, None])[:, 0]
            return losses, chance.masked_fill(~inside, float("nan")).cpu()

    def predicted_again(self, updates: Updates, indices: Tensor, of: str) -> tuple[Tensor, Tensor]:
        """As :meth:`predicted`, ``(N, K)``, without each of the updates; within ``untouched``."""
        losses, chances = (torch.full(indices.shape, float("nan"), dtype=torch.float64) for _ in range(2))
        starts = torch.tensor([0, *(size_of(batch) for batch in self.batches)]).cumsum(0).tolist()
        for one in torch.unique(indices).tolist():
            tokens, values = (of_words(updates, [one]) if of == "word" else updates.of([one]))[0]
            weight = self.table.weight
            there = tokens.to(weight.device)
            before = weight.detach()[there].clone()
            subtract(weight, tokens, values)
            asked = (indices == one).any(1)
            for batch, start, stop in zip(self.batches, starts, starts[1:], strict=False):
                if not bool(asked[start:stop].any()):
                    continue
                loss, chance = self._predicted(batch)
                place = indices[start:stop] == one
                losses[start:stop][place] = loss[:, None].expand(place.shape)[place]
                if chance is not None:
                    chances[start:stop][place] = chance[:, None].expand(place.shape)[place]
            with torch.no_grad():
                weight[there] = before
        return losses, chances


@contextmanager
def marked(module: Module) -> Iterator[None]:
    """For a block, this embedding is known to lack some updates."""
    _TAKEN_BACK.add(module)
    try:
        yield
    finally:
        _TAKEN_BACK.discard(module)


def table_of(model: Any, updates: Any, whose: str) -> EmbeddingTable:
    """The embedding that was watched, if it is as training left it."""
    if not isinstance(model, Module):
        raise TypeError(f"{whose}: expected a torch.nn.Module first, got {type(model).__name__}.")
    if not isinstance(updates, Updates):
        raise TypeError(
            f"{whose}: expected `updates` as Updates, got {type(updates).__name__}: they are keeper.updates(), or "
            f"Updates.open(directory)."
        )
    table = find_embedding(model, [updates.name] if updates.name in dict(model.named_modules()) else None)
    if table.module in _TAKEN_BACK:
        raise ValueError(
            f"{whose}: called within `with rolled_back(...)` of the same model, whose updates are taken back already: expected "
            f"the model as training left it. Name all of them in one rolled_back(...), or ask after its block."
        )
    if table.weight.shape != updates.moved.shape or fingerprint(table.weight) != updates.final:
        raise ValueError(
            f"{whose}: the table {table.name!r} {tuple(table.weight.shape)} of the model is not the one that training left, of "
            f"shape {tuple(updates.moved.shape)}. Expected its very numbers, for an update is taken back from what it led to. "
            f"Load the weights of the last step, in the dtype of training."
        )
    return table


def of_words(updates: Updates, words: Sequence[int]) -> RowGradients:
    """All that moved each word's row, as if each were an example of this row alone."""
    ids = torch.tensor(list(words), dtype=torch.int64)
    return RowGradients.sound(torch.arange(len(ids) + 1), ids, updates.moved[ids])


def like(rows: RowGradients, other: RowGradients) -> RowGradients:
    """The same rows, in the other's dtype."""
    return rows if rows.values.dtype == other.values.dtype else rows.to(dtype=other.values.dtype)


def subtract(weight: Tensor, ids: Tensor, values: Tensor) -> None:
    """Take values from rows of the table, in place."""
    with torch.no_grad():
        there = ids.to(weight.device)
        weight[there] = weight[there] - values.to(weight)
