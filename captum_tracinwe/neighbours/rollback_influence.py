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
from captum_tracinwe.batches.batch import Batch, Loss
from captum_tracinwe.gradients.interrupts import unbroken
from captum_tracinwe.gradients.switches import undisturbed
from captum_tracinwe.gradients.untouched import untouched
from captum_tracinwe.neighbours.asked import as_list
from captum_tracinwe.neighbours.rollback_question import Question, like, marked, of_words, subtract, table_of
from captum_tracinwe.neighbours.rollback_store import Updates
from captum_tracinwe.rows.ranking import top_k
from captum_tracinwe.tabular import frame

__all__ = ["RollbackInfluence", "rollback", "rollback_scores", "rolled_back"]

DEFAULT_K = 10
COLUMNS = ("test_index", "rank", "index", "first_order", "loss_change", "probability_change")


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
    k: int | None = None,
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
        k (int, optional): how many for each test example, where neither is given. None: 10, or all where there are fewer.
        proponents (bool): the highest change first, or the lowest.
        exact (bool): predict again. False: the first order alone.
        label_names, collate_fn: as in :class:`captum_tracinwe.TracInWE`.

    Returns:
        RollbackInfluence: K = k, or the number of examples or words given. The unit is that of the loss.

    Raises:
        ValueError: the model's table is not the one at the end of the training that was kept; a number out of range; no loss of
            each test example, or one that is not finite.
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
    question = Question.of(model, updates, inputs, loss_fn, label_names, collate_fn, "rollback")
    if examples is not None and words is not None:
        raise ValueError(
            "rollback: both `examples` and `words` are given: expected one of them. Some examples' updates of some words are "
            "taken back by rolled_back(model, updates, examples=..., words=...)."
        )
    for name, flag in (("proponents", proponents), ("exact", exact)):
        if not isinstance(flag, bool):
            raise TypeError(f"rollback: expected `{name}` as True or False, got {flag!r}.")
    if examples is None and words is None:
        k = min(DEFAULT_K, len(updates)) if k is None else k
        if not is_whole(k) or not 1 <= k <= len(updates):
            raise ValueError(f"rollback: expected `k` from 1 to the {len(updates)} training examples, got {k!r}.")
        indices, promised = top_k(question.scores(updates), int(k), proponents)
    else:
        by_word = words is not None
        chosen = _numbers(words if by_word else examples, "words" if by_word else "examples", updates, "rollback")
        rows = of_words(updates, chosen) if by_word else updates.of(chosen)
        promised = -question.rows().dot(like(rows, question.rows()))
        order = torch.argsort(promised, dim=1, descending=proponents, stable=True)
        indices, promised = torch.tensor(chosen)[order], promised.gather(1, order)
    of = "word" if words is not None else "example"
    loss, chance = question.before()
    if not exact:
        return RollbackInfluence(of, indices, promised, loss)
    with untouched(model):
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
    return Question.of(model, updates, inputs, loss_fn, label_names, collate_fn, "rollback_scores").scores(updates)


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
    table = table_of(model, updates, "rolled_back")
    if examples is None and words is None:
        raise ValueError("rolled_back: expected `examples`, `words` or both: whose updates are taken back.")
    chosen = None if words is None else _numbers(words, "words", updates, "rolled_back")
    if examples is None:
        assert chosen is not None
        rows = of_words(updates, chosen).sum()
    else:
        rows = updates.of(_numbers(examples, "examples", updates, "rolled_back")).sum()
        rows = rows if chosen is None else rows.of_tokens(torch.tensor(chosen, dtype=torch.int64))
    with untouched(model), marked(table.module):
        subtract(table.weight, rows.ids, rows.values)
        yield


def _numbers(given: Any, name: str, updates: Updates, whose: str) -> list[int]:
    """Training indices or token ids, each once."""
    numbers = None if isinstance(given, (set, frozenset)) else as_list(given)
    size = len(updates) if name == "examples" else len(updates.moved)
    what = "training indices" if name == "examples" else "token ids"
    if not numbers:
        raise TypeError(f"{whose}: expected `{name}` as a list of {what}, got {given!r:.60}.")
    wrong = [one for one in numbers if not is_whole(one) or not 0 <= one < size]
    if wrong:
        raise ValueError(f"{whose}: expected {what} from 0 to {size - 1} in `{name}`, got {wrong[0]!r:.40}.")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{whose}: `{name}` names one twice: expected each of the {what} once.")
    return [int(one) for one in numbers]
