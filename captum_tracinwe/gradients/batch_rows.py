"""One batch → one forward, one backward → `RowGradients`, which a GPU may hand over one batch later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_tracinwe.batches.batch import (
    Batch,
    Loss,
    as_parts,
    labels_of,
    move_to,
    size_of,
    without_targets,
)
from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.gradients.bag import logits_of, occurrences
from captum_tracinwe.gradients.bounds import Bounds, refuse_beyond
from captum_tracinwe.gradients.diagnosis import diagnosed, reported
from captum_tracinwe.gradients.embedding import EmbeddingTable
from captum_tracinwe.gradients.example_losses import by_name
from captum_tracinwe.gradients.forward import run_model
from captum_tracinwe.gradients.head import only_call, predicted_positions
from captum_tracinwe.gradients.look_ups import LookUp
from captum_tracinwe.gradients.own_loss import OwnLoss
from captum_tracinwe.gradients.passed import Read, differentiable, passed_by
from captum_tracinwe.gradients.tables import Tables
from captum_tracinwe.gradients.whose import examples_of
from captum_tracinwe.rows.folding import Roomy, largest
from captum_tracinwe.rows.row_gradients import RowGradients
from captum_tracinwe.waiting import OnItsWay, among, waits

__all__ = [
    "Begun",
    "batch_row_gradients",
    "begun",
    "fold",
    "kept_positions",
    "own_loss_of",
    "row_gradients_of_each",
]

PLAIN = Tables()


class Begun:
    """Row gradients of a batch that were asked for.

    Args:
        make (callable): of the numbers, once they are read: the rows, and whether their sum is finite (None: nobody looked).
        numbers (OnItsWay, optional): of a GPU; the last are the bounds of ids.
        bounds (sequence of Bounds): whose these are.
    """

    def __init__(
        self,
        make: Callable[[list[int]], tuple[RowGradients, bool | None]],
        numbers: OnItsWay | None = None,
        bounds: Sequence[Bounds] = (),
    ) -> None:
        self._make, self._numbers, self._rows = make, numbers, [one.rows for one in bounds]

    def finished(self) -> tuple[RowGradients, bool | None]:
        """The rows, and whether their sum is finite; None: look.

        Raises:
            ValueError: an id that was looked up has no row.
        """
        numbers = [] if self._numbers is None else self._numbers.read()
        for place, rows in enumerate(reversed(self._rows)):
            refuse_beyond(numbers[len(numbers) - 2 * place - 2 : len(numbers) - 2 * place], rows)
        return self._make(numbers)


def batch_row_gradients(*args: Any, **kwargs: Any) -> RowGradients:
    """As :func:`begun`, of the same arguments, and waited for.

    Returns:
        RowGradients: N examples, values ``(R, D)`` in float32, or float64 for a float64 table; D columns of each table, side by
        side.
    """
    return begun(*args, **kwargs).finished()[0]


def begun(
    model: Module,
    table: EmbeddingTable,
    batch: Batch,
    loss_fn: Loss | None,
    check: bool = False,
    exclude: Sequence[int] = (),
    top_k: int | None = None,
    within: Module | None = None,
    label_names: Sequence[str] = (),
    tables: Tables = PLAIN,
    own_loss: str = "mean",
) -> Begun:
    """Row gradients of each example of a batch: g(x)_w = Σ over positions p of x that hold w of ∂ℓ(x)/∂e_p.

    And those of other tables beside them, from the same backward. A GPU is asked for all and waited for nothing, except for
    ``check``, rows of the output table, and ids that the model makes itself.

    Args:
        model (Module): as left by ``untouched``; wrappers of DataParallel and torch.compile are looked through.
        table (EmbeddingTable): the word embedding.
        batch: a tuple (inputs..., labels) or a mapping.
        loss_fn (callable or None): one loss per example, or a scalar of any reduction; None takes the model's output
            (of a `ModelOutput` its ``loss``). Losses of more dimensions are summed over all but the first, as in Captum.
        check (bool): also see, at the price of one more backward, that the first example's loss is its own: equal to
            that of the example alone, and independent of the others' words.
        exclude (sequence of int): tokens that do not count.
        top_k (int, optional): of what is left, keep the k positions of each example with the largest gradient; of equal
            ones the first (TracIn-WE-Topk: positions, not rows).
        within (Module, optional): count only the look-ups made while this part of the model runs.
        label_names (sequence of str): keys of a mapping that are its labels, if not ``labels`` or ``label``; of several the
            loss gets a dict.
        tables (Tables): whose rows are asked for. With ``top_k`` the positions of a text are chosen by the gradient at the word
            table for "bag" too, and those that have to predict a word by their own.
        own_loss (str): with ``loss_fn=None``, whether a model's one loss is the "mean" or the "sum" of those of its examples.

    Returns:
        Begun: whose rows are there when it is :meth:`Begun.finished`.

    Raises:
        ValueError: the loss has the wrong shape or does not depend on the embedding; the message says what to change.
    """
    model = unwrap(model)
    size, given = size_of(batch), batch
    bounds: list[Bounds] = []
    with differentiable(model), reported(model, batch):
        passed = passed_by(model, table, batch, loss_fn, size, check, within, label_names, tables, own_loss, bounds)
        (calls, known, _), batch, labels, output, losses, called = passed
        by_position = "input" in tables or ("bag" in tables and top_k is not None)
        looked_up = [call.output for call in calls] if by_position else []
        logits = [logits_of(output, loss_fn, size)] if "bag" in tables else []
        predicting = [only_call(called, size)] if "output" in tables else []
        asked = [*looked_up, *logits, *(call.logits for call in predicting)]
        gradients = _gradients(losses, asked, len(looked_up), table.name)
    idle = without_targets(given, loss_fn, label_names)  # most batches lie in the host's memory
    chosen = exclude, top_k, idle
    errors = gradients[len(looked_up) :]
    columns = [gradients[: len(looked_up)]] if by_position else []
    if "bag" in tables:
        columns.append(occurrences(calls, batch, size))
    if waits(table.weight.device) and "output" not in tables:
        roomy = laid_out(calls, columns, known, size, table.name, *chosen)
        kinds = list(roomy.values)
        if "bag" in tables:
            kinds[-1] = kinds[-1] * _wide(errors[0].detach().reshape(size, -1))[roomy.examples]
        kinds = [
            _times(one, tables.factor(name))
            for one, name in zip(kinds[-len(tables.names) :], tables.names, strict=True)
        ]
        values = kinds[0] if len(kinds) == 1 else torch.cat(kinds, dim=1)
        told = torch.cat([roomy.numbers(values), *(one.found.long() for one in bounds)])
        return Begun(lambda read: (roomy.rows(read[0], values), bool(read[1])), OnItsWay(told), bounds)
    parts: list[RowGradients] = []
    if tables.of_text:
        folded = fold([passed.read], columns, table.name, *chosen)
        if tables.plain:
            return Begun(lambda _: (folded[0], None))
        if "input" in tables:
            parts.append(folded[0])
        if "bag" in tables:
            error = _wide(errors.pop(0).detach().reshape(size, -1))
            counts = folded[-1]
            parts.append(RowGradients(counts.ptr, counts.ids, counts.values * error[counts.examples]))
    if "output" in tables:
        where, which, values = kept_positions(
            predicted_positions(predicting[0], errors.pop(0), labels, loss_fn), *chosen
        )
        parts.append(RowGradients.from_positions(where, which, values, size))
    parts = [_scaled(part, tables.factor(name)) for part, name in zip(parts, tables.names, strict=True)]
    rows = parts[0] if len(parts) == 1 else RowGradients.beside(parts, union="output" in tables)
    if not bounds:
        return Begun(lambda _: (rows, None))
    return Begun(lambda _: (rows, None), OnItsWay(torch.cat([one.found.long() for one in bounds])), bounds)


def row_gradients_of_each(
    model: Module,
    table: EmbeddingTable,
    batches: Sequence[Batch],
    loss_fn: Loss | None,
    exclude: Sequence[int] = (),
    within: Module | None = None,
    label_names: Sequence[str] = (),
) -> RowGradients:
    """The rows of the word table of several small batches, one behind the other: each has a forward pass of its own.

    They share a backward pass, so that a dozen texts cost half of what they cost one by one. Arguments and errors are as of
    :func:`batch_row_gradients` without ``check``, and without the words for what torch says.
    """
    model = unwrap(model)
    with differentiable(model):
        passes = [
            passed_by(model, table, batch, loss_fn, size_of(batch), False, within, label_names) for batch in batches
        ]
        looked_up = [call.output for one in passes for call in one.read.calls]
        together = torch.stack([one.losses.sum() for one in passes])
        found = _gradients(together, looked_up, len(looked_up), table.name, [len(one.read.calls) for one in passes])
    idle, start = [], 0
    for one in passes:
        idle += [start + place for place in without_targets(one.batch, loss_fn, label_names)]
        start += one.read.size
    return fold([one.read for one in passes], [found], table.name, exclude, None, idle)[0]


def own_loss_of(model: Module, table: EmbeddingTable, batch: Batch, label_names: Sequence[str] = ()) -> OwnLoss | None:
    """The model's own loss of a batch, where it is one number that stands for one of each example; else None."""
    model = unwrap(model)
    with torch.inference_mode(False), torch.no_grad():
        batch = move_to(as_parts(batch), table.weight.device)
        labels = labels_of(batch, label_names)
        with diagnosed(model, batch, labels):
            output = by_name(model, run_model(model, batch, label_names, own_loss=True), None)
    loss = output.get("loss") if isinstance(output, Mapping) else None
    of_examples = isinstance(labels, Tensor) and (labels.dim() <= 1 or labels.is_floating_point())
    if not isinstance(loss, Tensor) or loss.dim() or not of_examples:
        return None
    made_in = [one for one in (table.weight, loss, output.get("logits")) if isinstance(one, Tensor)]
    return OwnLoss(float(loss), max(torch.finfo(one.dtype).eps for one in made_in if one.is_floating_point()))


def _gradients(
    losses: Tensor, asked: list[Tensor], looked_up: int, name: str, of_each: Sequence[int] = ()
) -> list[Tensor]:
    """Of the sum of ``losses`` at ``asked``, whose first ``looked_up`` are outputs of the embedding, by one backward.

    ``of_each`` says how many of them are of each loss, where each has its own.
    """
    found: tuple[Tensor | None, ...] = (None,) * len(asked)
    if losses.requires_grad:
        found = torch.autograd.grad(losses.sum(), asked, allow_unused=True)
    left = iter(found[:looked_up])
    if any(all(one is None for one in islice(left, count)) for count in of_each or [looked_up] * (looked_up > 0)):
        raise ValueError(
            f"The loss does not depend on the embedding {name!r}: expected a differentiable path from the words to the loss. "
            f"Look for .detach(), torch.no_grad(), an argmax, or a loss that ignores the model's output."
        )
    if any(gradient is None for gradient in found[looked_up:]):
        raise ValueError(
            "The loss does not depend on the model's logits. Expected a differentiable path from them to the loss, for the rows "
            "of table='bag' and 'output' are made of the error there. Look for .detach() or torch.no_grad(), and for a model "
            "that makes its loss of other logits than it returns."
        )
    return [torch.zeros_like(o) if g is None else g for g, o in zip(found, asked, strict=True)]


def fold(
    reads: Sequence[Read],
    columns: list[list[Tensor]],
    name: str,
    exclude: Sequence[int],
    top_k: int | None,
    idle: Sequence[int],
) -> list[RowGradients]:
    """Positions of all calls of some batches → rows, without those of ``padding_idx``, which autograd gives no gradient.

    ``columns`` are kinds of values, each with a tensor ``(N, ..., D)`` for each call; each becomes rows of the same words.
    Examples of a batch are counted on from those of the batches before.
    """
    examples, ids, size = [], [], 0
    values: list[list[Tensor]] = [[] for _ in columns]
    calls: list[tuple[LookUp, Tensor]] = []
    for read in reads:
        for call in read.calls:
            whose = examples_of(call, read.size, name, read.batch)
            calls.append((call, whose + size if size else whose))
        size += read.size
    for number, (call, call_examples) in enumerate(calls):
        call_ids = call.ids.reshape(-1).to(torch.int64)
        kept = None if call.padding_idx is None else call_ids != call.padding_idx
        if call.counted is not None:
            counted = call.counted.reshape(-1)
            kept = counted if kept is None else kept & counted
        for kind, given in zip(values, columns, strict=True):
            own = _wide(given[number].detach().reshape(call_ids.numel(), given[number].shape[-1]))
            kind.append(own if kept is None else own[kept])
        examples.append(call_examples if kept is None else call_examples[kept])
        ids.append(call_ids if kept is None else call_ids[kept])
    positions = torch.cat(examples), torch.cat(ids), *(torch.cat(kind) for kind in values)
    where, which, *kinds = kept_positions(positions, exclude, top_k, idle)
    return [RowGradients.from_positions(where, which, kind, size) for kind in kinds]


def laid_out(
    calls: list[LookUp],
    columns: list[list[Tensor]],
    batch: Batch,
    size: int,
    name: str,
    exclude: Sequence[int],
    top_k: int | None,
    idle: Sequence[int],
) -> Roomy:
    """As :func:`fold`, where the host has to wait for what it reads: it reads nothing."""
    of_calls, examples, ids = [], [], []
    for call in calls:
        call_ids = call.ids.reshape(-1).to(torch.int64)
        kept = torch.ones_like(call_ids, dtype=torch.bool) if call.padding_idx is None else call_ids != call.padding_idx
        of_calls.append(kept if call.counted is None else kept & call.counted.reshape(-1))
        examples.append(examples_of(call, size, name, batch))
        ids.append(call_ids)
    kinds = [
        torch.cat([_wide(one.detach().reshape(len(own), one.shape[-1])) for one, own in zip(kind, ids, strict=True)])
        for kind in columns
    ]
    kept, whose, words = torch.cat(of_calls), torch.cat(examples), torch.cat(ids)
    if idle:
        kept = kept & ~among(whose, idle)
    if exclude:
        kept = kept & ~among(words, exclude)
    if top_k is not None:
        kept = kept & largest(torch.where(kept, whose, size), kinds[0], top_k, size)
    return Roomy.of(whose, words, kinds, kept, size)


def kept_positions(
    positions: tuple[Tensor, ...], exclude: Sequence[int], top_k: int | None, idle: Sequence[int]
) -> tuple[Tensor, ...]:
    """Examples, words and values of the positions that count, without those of ``idle`` examples.

    Their loss is over no target: a mean is 0 / 0 there.
    """
    if idle:
        kept = ~torch.isin(positions[0], torch.tensor(idle, device=positions[0].device))
        positions = tuple(one[kept] for one in positions)
    if exclude:
        kept = ~torch.isin(positions[1], torch.tensor(exclude, device=positions[1].device))
        positions = tuple(one[kept] for one in positions)
    if top_k is not None:
        norms = positions[2].norm(dim=1)
        if not bool(torch.isfinite(norms.sum())):  # squares beyond float32 would make all large ones equal
            wide = positions[2].double()
            norms = (wide / wide.abs().max()).norm(dim=1)
        kept = _largest(positions[0], norms, top_k)
        positions = tuple(one[kept] for one in positions)
    return positions


def _wide(values: Tensor) -> Tensor:
    """In single precision at least: sums over positions in half of it would lose what the products need."""
    return values.to(torch.float64 if values.dtype == torch.float64 else torch.float32)


def _times(values: Tensor, factor: float) -> Tensor:
    return values if factor == 1 else values * factor


def _scaled(rows: RowGradients, factor: float) -> RowGradients:
    return rows if factor == 1 else rows.scale(factor)


def _largest(examples: Tensor, norms: Tensor, k: int) -> Tensor:
    """Which positions are among the k of largest norm of their example; of equal norms the first."""
    order = torch.sort(norms, descending=True, stable=True).indices
    order = order[torch.sort(examples[order], stable=True).indices]
    counts = torch.bincount(examples)
    first = torch.cumsum(counts, 0) - counts
    rank = torch.arange(len(order), device=order.device) - first[examples[order]]
    kept = torch.zeros_like(examples, dtype=torch.bool)
    kept[order[rank < k]] = True
    return kept
