"""The tokens of a batch's rows, without its gradients: as little of a forward pass as shows them, and no backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_tracinwe.batches.batch import (
    Batch,
    Loss,
    as_parts,
    is_mapping,
    labels_of,
    move_to,
    size_of,
    tensors_in,
    without_targets,
)
from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.gradients.bag import occurrences
from captum_tracinwe.gradients.batch_rows import fold, kept_positions
from captum_tracinwe.gradients.diagnosis import diagnosed
from captum_tracinwe.gradients.embedding import EmbeddingTable
from captum_tracinwe.gradients.forward import run_model
from captum_tracinwe.gradients.head import words_to_predict
from captum_tracinwe.gradients.interrupts import unbroken
from captum_tracinwe.gradients.look_ups import AllSeen, LookUp, recorded
from captum_tracinwe.gradients.passed import Read, unused
from captum_tracinwe.gradients.tables import Tables
from captum_tracinwe.gradients.text_words import TextWords
from captum_tracinwe.gradients.token_losses import with_virtual_tokens
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["TokenPass"]


@dataclass(frozen=True, eq=False)
class TokenPass:
    """Batch → the tokens that :func:`batch_row_gradients` has rows of, without ``top_k``, which needs gradients.

    A forward pass shows which words are looked up. Once one pass has shown that a batch of this form takes a single look-up,
    passes end right behind it, where its ids are all that the batch holds in one of its tensors: no layer above runs.
    Words to predict are told by the labels, without a pass.

    Args:
        model, table, loss_fn, exclude, within, label_names, tables: as in :func:`batch_row_gradients`.
        counted (bool): also how often each word counts for the row of a bag of words, as the one column of the values.
    """

    model: Module
    table: EmbeddingTable
    loss_fn: Loss | None
    exclude: Sequence[int] = ()
    within: Module | None = None
    label_names: Sequence[str] = ()
    tables: Tables = field(default_factory=Tables)
    counted: bool = False
    _of_one_call: set[Any] = field(default_factory=set, init=False)

    def __call__(self, batch: Batch) -> RowGradients:
        """Values ``(R, 0)``, or counts ``(R, 1)``."""
        size, weight = size_of(batch), self.table.weight
        nothing = weight.new_empty((0, 0), dtype=torch.float64 if weight.dtype == torch.float64 else torch.float32)
        chosen = self.exclude, None, without_targets(batch, self.loss_fn, self.label_names)
        parts = []
        with torch.inference_mode(False), torch.no_grad():
            batch = move_to(as_parts(batch), weight.device)
            if self.tables.of_text:
                known = batch, move_to(batch, weight.device)  # the model may write into the second
                calls = [call.of_batch(tensors_in(known), size) for call in self._calls(known[1])]
                columns = [nothing.new_empty((*call.ids.shape, 0)) for call in calls]
                if self.counted:
                    columns = occurrences(calls, batch, size)
                parts += fold([Read(calls, known, size)], [columns], self.table.name, *chosen)
            if "output" in self.tables:
                labels = with_virtual_tokens(unwrap(self.model), labels_of(batch, self.label_names), self.loss_fn)
                words = words_to_predict(labels, self.loss_fn)
                examples, places = (words != -100).nonzero(as_tuple=True)
                values = nothing.new_empty((len(examples), 0))
                where, which, values = kept_positions((examples, words[examples, places], values), *chosen)
                parts.append(RowGradients.from_positions(where, which, values, size))
        return parts[0] if len(parts) == 1 else RowGradients.beside(parts, union=True)

    def _calls(self, batch: Batch) -> list[LookUp]:
        """The look-ups of a pass that count."""
        model, form = unwrap(self.model), _form(batch)

        def enough(call: LookUp) -> bool:
            return form in self._of_one_call and any(
                given.shape == call.ids.shape and given.dtype == call.ids.dtype and torch.equal(given, call.ids)
                for given in tensors_in(batch)
            )

        words = TextWords(model, batch, self.label_names, len(self.table.weight))
        with ExitStack() as stack:
            record = stack.enter_context(recorded(self.table, self.within, enough, words))
            stack.enter_context(diagnosed(model, batch, labels_of(batch, self.label_names)))
            stack.enter_context(_same_forwards(model))
            stack.enter_context(suppress(AllSeen))
            run_model(model, batch, self.label_names, own_loss=self.loss_fn is None)
        if not record.calls:
            raise unused(self.table.name, self.within)
        if len(record.calls) == 1:
            self._of_one_call.add(form)
        else:
            self._of_one_call.discard(form)
        return record.calls


def _form(batch: Batch) -> tuple[Any, ...]:
    """What a model's way through a batch may hang on, sizes apart: which entries there are, and of what kind."""
    items = batch.items() if is_mapping(batch) else enumerate(batch)
    return tuple((key, type(value), value.dim() if isinstance(value, Tensor) else None) for key, value in items)


@unbroken
def _same_forwards(model: Module) -> Iterator[None]:
    """Each module's own ``forward`` after the block as before it.

    Some versions of transformers put others there for the time of a pass, to collect hidden states, and only a pass that comes
    to its end takes them away.
    """
    before = [(module, module.__dict__.get("forward")) for module in model.modules()]
    try:
        yield
    finally:
        for module, forward in before:
            if module.__dict__.get("forward") is not forward:
                if forward is None:
                    del module.__dict__["forward"]
                else:
                    module.__dict__["forward"] = forward
