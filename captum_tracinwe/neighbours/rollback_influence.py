"""Take the updates of training examples, or of words, back from the word embedding, and predict again (Gradient Rollback)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader

from captum_tracinwe.batches.arguments import is_whole
from captum_tracinwe.batches.batch import Batch, Loss, as_parts, labels_of, move_to, size_of
from captum_tracinwe.batches.collate import Collate
from captum_tracinwe.batches.inputs import as_batches
from captum_tracinwe.batches.loaders import reading
from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.gradients.diagnosis import diagnosed
from captum_tracinwe.gradients.embedding import EmbeddingTable, find_embedding
from captum_tracinwe.gradients.example_losses import by_name, example_losses, prediction_of
from captum_tracinwe.gradients.forward import run_model
from captum_tracinwe.gradients.interrupts import unbroken
from captum_tracinwe.gradients.switches import undisturbed
from captum_tracinwe.gradients.untouched import untouched
from captum_tracinwe.neighbours.rollback_store import Updates, fingerprint
from captum_tracinwe.rows.ranking import top_k
from captum_tracinwe.rows.row_gradients import RowGradients
from captum_tracinwe.tabular import frame
from captum_tracinwe.tracin_we import TracInWE

__all__ = ["RollbackInfluence", "rollback", "rollback_scores", "rolled_back"]

COLUMNS = ("test_index", "rank", "index", "first_order", "loss_change", "probability_change")
BATCH_SIZE = 32


@dataclass(frozen=True, eq=False)
class RollbackInfluence:
    """What taking updates back does to N test examples, for K training examples (or words) of each, strongest first.

    Args:
        of (str): "example" or "word": whose updates were taken back, one at a time.
        indices (Tensor): int64 ``(N, K)``, training indices or token ids.
        first_order (Tensor): ``(N, K)``, the change of the loss that the gradient promises; positive = proponent.
        loss (Tensor): ``(N,)``, the loss with all updates in place.
        loss_change (Tensor, optional): ``(N, K)``, the loss predicted again less that one; positive = proponent.
        probability_change (Tensor, optional): ``(N, K)``, the same of the label's probability; negative = proponent. None where
            labels are not one class of each example.
    """

    of: str
    indices: Tensor
    first_order: Tensor
    loss: Tensor
    loss_change: Tensor | None = None
    probability_change: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def rows(self) -> list[dict[str, Any]]:
        """The table as a list of dicts, a row for each test example and rank."""
        told = [("first_order", self.first_order), ("loss_change", self.loss_change)]
        told += [("probability_change", self.probability_change)]
        return [
            {"test_index": i, "rank": rank + 1, "index": int(self.indices[i, rank])}
            | {name: None if values is None else float(values[i, rank]) for name, values in told}
            for i in range(len(self))
            for rank in range(self.indices.shape[1])
        ]

    def to_table(self) -> Any:
        """A ``pandas.DataFrame`` of :meth:`rows`; where pandas is not installed a list of dicts."""
        return frame(self.rows(), COLUMNS)

    def __str__(self) -> str:
        lines = [f"Updates of one {self.of} at a time taken back; positive = it had lowered the loss"]
        for i in range(len(self)):
            lines.append(f"test example {i}, loss {float(self.loss[i]):.4f}")
            for row in self.rows()[i * self.indices.shape[1] : (i + 1) * self.indices.shape[1]]:
                change, chance = row["loss_change"], row["probability_change"]
                again = "" if change is None else f", predicted again {change:+.4f}"
                again += "" if chance is None else f", probability {chance:+.4f}"
                lines.append(f"  {self.of} {row['index']}: loss {row['first_order']:+.4f} by the gradient{again}")
        return "\n".join(lines)


@undisturbed
def rollback(
    model: Module,
    updates: Updates,
    inputs: Batch | DataLoader[Any],
    loss_fn: Loss | None = None,
    *,
    examples: Sequence[int] | None = None,
    words: Sequence[int] | None = None,
    k: int = 10,
    proponents: bool = True,
    exact: bool = True,
    label_names: str | Sequence[str] = (),
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> RollbackInfluence:
    r"""Which training examples (or words) changed a prediction: their updates are taken back, and the model predicts again.

    The influence of example j on test example i is the change of i's loss when all that j did to the word embedding is taken
    back: :math:`\ell_i(\Theta - u_j) - \ell_i(\Theta)`, of the first order :math:`-\sum_w \langle g(i)_w, u_{j,w} \rangle`. All
    training examples are ranked by the first order, which takes no pass over them. The first k are predicted again, and ranked by
    what came out. The model is given back as it was, after an error, too.

    Args:
        model (Module): as it is after training.
        updates (Updates): of that training, kept by :class:`KeepUpdates`.
        inputs: N test examples: a batch ``(inputs..., labels)`` or mapping, a DataLoader, a data set, as in
            :class:`captum_tracinwe.TracInWE`.
        loss_fn (callable, optional): one loss for each example; None: the model's own.
        examples (sequence of int, optional): of these training examples alone, all of them predicted again.
        words (sequence of int, optional): of these token ids in place of examples: the word's row goes back to what it was before
            training, with what moved it and is nobody's.
        k (int): how many for each test example, where neither is given.
        proponents (bool): the highest change first, or the lowest.
        exact (bool): predict again. False: the first order alone.
        label_names, collate_fn: as in :class:`captum_tracinwe.TracInWE`.

    Returns:
        RollbackInfluence: K = k, or the number of examples or words given. The unit is that of the loss.

    Raises:
        ValueError: the model's table is not the one at the end of the training that was kept; a number out of range.
        TypeError: an argument of another kind.

    Example:
        >>> import torch
        >>> from captum_tracinwe.app.testing import TinyCNN, toy_texts
        >>> from captum_tracinwe.neighbours import KeepUpdates, rollback
        >>> _ = torch.manual_seed(0)
        >>> (ids, _, labels), model = toy_texts(12), TinyCNN(padding_idx=0)
        >>> loss_fn, optimizer = torch.nn.CrossEntropyLoss(reduction="none"), torch.optim.AdamW(model.parameters(), lr=0.05)
        >>> keeper = KeepUpdates(model, examples=12)
        >>> for indices in torch.arange(12).repeat(4).split(4):
        ...     optimizer.zero_grad()
        ...     with keeper.batch(indices):
        ...         loss_fn(model(ids[indices]), labels[indices]).mean().backward()
        ...     with keeper.step():
        ...         _ = optimizer.step()
        >>> found = rollback(model, keeper.updates(), (ids[:2], labels[:2]), loss_fn, k=3)
        >>> found.loss_change.shape, bool((found.loss_change[:, 0] >= found.loss_change[:, 2]).all())
        (torch.Size([2, 3]), True)
    """
    question = _Question.of(model, updates, inputs, loss_fn, label_names, collate_fn, "rollback")
    if examples is not None and words is not None:
        raise ValueError(
            "rollback: both `examples` and `words` are given: expected one of them. Some examples' updates of some words are "
            "taken back by rolled_back(model, updates, examples=..., words=...)."
        )
    for name, flag in (("proponents", proponents), ("exact", exact)):
        if not isinstance(flag, bool):
            raise TypeError(f"rollback: expected `{name}` as True or False, got {flag!r}.")
    if examples is None and words is None:
        if not is_whole(k) or not 1 <= k <= len(updates):
            raise ValueError(f"rollback: expected `k` from 1 to the {len(updates)} training examples, got {k!r}.")
        indices, promised = top_k(question.scores(updates), int(k), proponents)
    else:
        of_words = words is not None
        chosen = _numbers(words if of_words else examples, "words" if of_words else "examples", updates)
        rows = _of_words(updates, chosen) if of_words else updates.of(chosen)
        promised = -question.rows().dot(_like(rows, question.rows()))
        order = torch.argsort(promised, dim=1, descending=proponents, stable=True)
        indices, promised = torch.tensor(chosen)[order], promised.gather(1, order)
    of = "word" if words is not None else "example"
    with untouched(model):
        loss, chance = question.predicted()
        if not exact:
            return RollbackInfluence(of, indices, promised, loss)
        losses, chances = question.predicted_again(updates, indices, of)
    change = losses - loss[:, None]
    order = torch.argsort(change, dim=1, descending=proponents, stable=True)
    changed = None if chance is None else (chances - chance[:, None]).gather(1, order)
    return RollbackInfluence(
        of, indices.gather(1, order), promised.gather(1, order), loss, change.gather(1, order), changed
    )


@undisturbed
def rollback_scores(
    model: Module,
    updates: Updates,
    inputs: Batch | DataLoader[Any],
    loss_fn: Loss | None = None,
    *,
    label_names: str | Sequence[str] = (),
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> Tensor:
    r"""The first-order influence of every training example, ``(N, M)``: :math:`-\sum_w \langle g(i)_w, u_{j,w} \rangle`.

    Positive = proponent: its updates had lowered the loss. Arguments and errors as of :func:`rollback`, whose ``k`` names them by
    this; the unit is that of the loss.
    """
    return _Question.of(model, updates, inputs, loss_fn, label_names, collate_fn, "rollback_scores").scores(updates)


@unbroken
def rolled_back(
    model: Module, updates: Updates, *, examples: Sequence[int] | None = None, words: Sequence[int] | None = None
) -> Iterator[None]:
    """For a block, the model without the updates of some examples, of some words, or of these examples at these words.

    Within the block the model is in eval mode and asks for no gradient; after it, it is as it was, whatever happened.

    Args:
        model (Module): as it is after training.
        updates (Updates): of that training.
        examples (sequence of int, optional): training examples whose updates are taken back, together.
        words (sequence of int, optional): with ``examples``, only in the rows of these token ids; alone, these rows go back to
            what they were before training.

    Raises:
        ValueError: neither is given; the table is not the one that training left.

    Example:
        >>> import torch
        >>> from captum_tracinwe.neighbours import KeepUpdates, rolled_back
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Flatten(), torch.nn.Linear(8, 2))
        >>> text, first = torch.tensor([[1, 2]]), model[0].weight.detach().clone()
        >>> keeper, optimizer = KeepUpdates(model, examples=1), torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with keeper.batch([0]):
        ...     torch.nn.functional.cross_entropy(model(text), torch.tensor([0])).backward()
        >>> with keeper.step():
        ...     _ = optimizer.step()
        >>> with rolled_back(model, keeper.updates(), examples=[0]):
        ...     print(torch.allclose(model[0].weight, first))
        True
        >>> torch.allclose(model[0].weight, first)
        False
    """
    table = _table_of(model, updates, "rolled_back")
    if examples is None and words is None:
        raise ValueError("rolled_back: expected `examples`, `words` or both: whose updates are taken back.")
    chosen = None if words is None else _numbers(words, "words", updates)
    if examples is None:
        assert chosen is not None
        rows = _of_words(updates, chosen).sum()
    else:
        rows = updates.of(_numbers(examples, "examples", updates)).sum()
        rows = rows if chosen is None else rows.of_tokens(torch.tensor(chosen, dtype=torch.int64))
    with untouched(model):
        _subtract(table.weight, rows.ids, rows.values)
        yield


# ------------------------------------------------------------------------------------------------------------ asking


@dataclass(frozen=True, eq=False)
class _Question:
    """Test examples in batches, and the model that is asked about them."""

    model: Module
    table: EmbeddingTable
    batches: list[Batch]
    loss_fn: Loss | None
    names: tuple[str, ...]
    kept: list[RowGradients]

    @classmethod
    def of(
        cls, model: Module, updates: Updates, inputs: Any, loss_fn: Loss | None, names: Any, collate_fn: Any, whose: str
    ) -> _Question:
        table = _table_of(model, updates, whose)
        names = (names,) if isinstance(names, str) else tuple(names)
        collate = Collate(model, table.module.padding_idx, names, collate_fn)
        batches = list(reading(as_batches(inputs, "inputs", collate, BATCH_SIZE), "inputs"))
        return cls(model, table, batches, loss_fn, names, [])

    def rows(self) -> RowGradients:
        """Row gradients of the test examples, by the model as it is."""
        if not self.kept:
            loader = DataLoader(_Given(self.batches), batch_size=None)
            tracin = TracInWE(
                *(self.model, loader, ["now"], lambda model, checkpoint: 1.0, [self.table.name], self.loss_fn),
                label_names=self.names,
            )
            self.kept.append(tracin.row_gradients(show_progress=False).to("cpu"))
        return self.kept[0]

    def scores(self, updates: Updates) -> Tensor:
        rows = self.rows()
        return torch.cat([-rows.dot(_like(part, rows)) for _, part in updates.blocks()], dim=1)

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
            if losses.dim() == 0 and size > 1:
                raise ValueError(
                    f"rollback: the model's own loss is one number for {size} test examples: expected one for each. Pass "
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
            tokens, values = (_of_words(updates, [one]) if of == "word" else updates.of([one]))[0]
            weight = self.table.weight
            there = tokens.to(weight.device)
            before = weight.detach()[there].clone()
            _subtract(weight, tokens, values)
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


class _Given(torch.utils.data.Dataset[Batch]):
    """Batches as a data set of such."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        return self.batches[index]


def _table_of(model: Any, updates: Any, whose: str) -> EmbeddingTable:
    """The embedding that was watched, if it is as training left it."""
    if not isinstance(model, Module):
        raise TypeError(f"{whose}: expected a torch.nn.Module first, got {type(model).__name__}.")
    if not isinstance(updates, Updates):
        raise TypeError(
            f"{whose}: expected `updates` as Updates, got {type(updates).__name__}: they are keeper.updates(), or "
            f"Updates.open(directory)."
        )
    table = find_embedding(model, [updates.name] if updates.name in dict(model.named_modules()) else None)
    if table.weight.shape != updates.moved.shape or fingerprint(table.weight) != updates.final:
        raise ValueError(
            f"{whose}: the table {table.name!r} {tuple(table.weight.shape)} of the model is not the one that training left, of "
            f"shape {tuple(updates.moved.shape)}. Expected its very numbers, for an update is taken back from what it led to. "
            f"Load the weights of the last step, in the dtype of training."
        )
    return table


def _numbers(given: Any, name: str, updates: Updates) -> list[int]:
    """Training indices or token ids, each once."""
    numbers = given.tolist() if isinstance(given, Tensor) else given
    size = len(updates) if name == "examples" else len(updates.moved)
    what = "training indices" if name == "examples" else "token ids"
    if not isinstance(numbers, Sequence) or isinstance(numbers, (str, bytes)) or not len(numbers):
        raise TypeError(f"rollback: expected `{name}` as a list of {what}, got {given!r:.60}.")
    wrong = [one for one in numbers if not is_whole(one) or not 0 <= one < size]
    if wrong:
        raise ValueError(f"rollback: expected {what} from 0 to {size - 1} in `{name}`, got {wrong[0]!r:.40}.")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"rollback: `{name}` names one twice: expected each of the {what} once.")
    return [int(one) for one in numbers]


def _of_words(updates: Updates, words: Sequence[int]) -> RowGradients:
    """All that moved each word's row, as if each were an example of this row alone."""
    ids = torch.tensor(list(words), dtype=torch.int64)
    return RowGradients.sound(torch.arange(len(ids) + 1), ids, updates.moved[ids])


def _like(rows: RowGradients, other: RowGradients) -> RowGradients:
    return rows if rows.values.dtype == other.values.dtype else rows.to(dtype=other.values.dtype)


def _subtract(weight: Tensor, ids: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        there = ids.to(weight.device)
        weight[there] = weight[there] - values.to(weight)
