"""A word embedding that is watched along a training: which example read which word, and the gradients that came back for it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Module
from torch.nn.utils import parametrize

from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.gradients.embedding import find_embedding
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["Watch", "wide"]


def wide(values: Tensor) -> Tensor:
    """In float32, or float64 where it is that; a copy is not promised."""
    return values if values.dtype == torch.float64 else values.float()


@dataclass(frozen=True)
class _Arrived:
    """Gradients of one look-up: of which backward, for which training examples, and a row for each word of each."""

    backward: int
    indices: Tensor
    rows: RowGradients


class Watch:
    """What the table's gradient is made of, by example, from the moment it is zeroed to the moment it is zeroed again.

    A gradient counts once it has been added to ``weight.grad``. Those that ``zero_grad`` took away do not count any more.

    Args:
        model (Module): that is trained.
        layers (list of str, optional): a list with the name of the embedding; None finds it.

    Raises:
        ValueError: a table that is frozen, tied to the output layer, or made of other tensors.
    """

    def __init__(self, model: Module, layers: list[str] | None) -> None:
        found = find_embedding(model, layers)
        module, table, name = found.module, found.weight, found.name
        if not isinstance(module, nn.Embedding):
            raise ValueError(
                f"KeepUpdates: {name!r} is an nn.EmbeddingBag, at whose output the words of a text are one: expected an "
                f"nn.Embedding, whose output may then be averaged or summed."
            )
        if parametrize.is_parametrized(module) or not isinstance(table, nn.Parameter) or not table.requires_grad:
            raise ValueError(
                f"KeepUpdates: the embedding {name!r} is not trained itself (frozen, as under LoRA, or made of other tensors): "
                f"expected a table that the optimiser moves. Set {name}.weight.requires_grad = True, or use TracInWE, which "
                f"needs no update."
            )
        owners = {key: one for key, one in unwrap(model).named_modules() if getattr(one, "weight", None) is table}
        others = [key for key, one in owners.items() if not isinstance(one, nn.Embedding)]
        if others:
            raise ValueError(
                f"KeepUpdates: the embedding {name!r} is tied to {others[0]!r}, through which each step moves rows of words that "
                f"no text holds: expected a table of its own (tie_word_embeddings=False). Of a tied one use TracInWE."
            )
        self.name, self.padding_idx = name, module.padding_idx
        self.indices: Tensor | None = None  # the training indices of the batch that passes
        self.before_look_up: Callable[[int], None] | None = None  # called with a batch's size
        self.stepping = False
        self._module, self._table = module, table
        self._arrived: list[_Arrived] = []  # not yet in weight.grad
        self._held: list[_Arrived] = []  # in weight.grad
        self._undo: list[Callable[[], None]] = []
        self._end = weakref.finalize(self, _undo_all, self._undo)
        me = weakref.ref(self)  # the hooks keep nobody alive

        def looked_up(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            alive = me()
            if alive is not None and isinstance(output, Tensor) and output.requires_grad:
                alive._looked_up(args[0] if args else kwargs["input"], output)

        def added(table: Tensor) -> None:
            alive = me()
            if alive is not None:
                alive._added()

        for one in owners.values():
            self.undo(one.register_forward_hook(looked_up, with_kwargs=True).remove)
        self.undo(table.register_post_accumulate_grad_hook(added).remove)  # type: ignore[no-untyped-call]

    @property
    def open(self) -> bool:
        """Whether it still watches."""
        return self._end.alive

    @property
    def table(self) -> Tensor:
        """The embedding's weight.

        Raises:
            RuntimeError: it is another one than it was.
        """
        if self._module.weight is not self._table:
            raise RuntimeError(
                f"KeepUpdates: {self.name}.weight was put in place of the one that is watched: expected one table for the whole "
                f"training. Make KeepUpdates(model) after the weights are loaded and moved to their device."
            )
        return self._table

    def undo(self, action: Callable[[], None]) -> None:
        """What else is to be done once nothing is watched any more."""
        self._undo.append(action)

    def close(self) -> None:
        """The model has no hook of this watch any more; what arrived is forgotten."""
        self._end()
        self.forget()

    def forget(self) -> None:
        """No gradient is known."""
        self._arrived, self._held, self.stepping = [], [], False

    def held(self) -> tuple[Tensor, RowGradients]:
        """What ``weight.grad`` is made of: the training examples, each once, and their rows."""
        self._drop_zeroed()
        self._refuse_missed()
        if not self._held:
            nobody = torch.zeros(0, dtype=torch.int64)
            empty = wide(self.table.detach()[:0])
            return nobody, RowGradients.from_positions(nobody.to(empty.device), nobody.to(empty.device), empty, 0)
        indices = torch.cat([one.indices for one in self._held])
        examples, places = torch.unique(indices, return_inverse=True)
        if len(self._held) == 1 and len(examples) == len(indices):
            return indices, self._held[0].rows
        rows = RowGradients.cat([one.rows for one in self._held])
        owners = places.to(rows.ids.device)[rows.examples]
        return examples, RowGradients.from_positions(owners, rows.ids, rows.values, len(examples))

    # ---------------------------------------------------------------------------------------------------- the hooks

    def _looked_up(self, ids: Tensor, output: Tensor) -> None:
        """Of a forward that may be followed by a backward: whose words these are is noted until their gradient comes."""
        if self.before_look_up is not None:
            self.before_look_up(len(ids))
        indices, ids = self.indices, ids.detach()
        if indices is not None and (ids.dim() < 1 or len(ids) != len(indices)):
            raise ValueError(
                f"KeepUpdates: {len(indices)} training indices, and the embedding {self.name!r} is called with ids of shape "
                f"{tuple(ids.shape)}: expected one index for each example, and the examples along the first dimension."
            )
        me = weakref.ref(self)

        def arrived(gradient: Tensor) -> None:
            alive = me()
            if alive is not None and alive.open:
                alive._came(indices, ids, gradient)

        output.register_hook(arrived)  # type: ignore[no-untyped-call]

    def _came(self, indices: Tensor | None, ids: Tensor, gradient: Tensor) -> None:
        if self.stepping:
            raise RuntimeError(
                "KeepUpdates: a backward within optimizer.step(closure): expected the backward before the step, and "
                "optimizer.step() without a closure. An optimiser such as LBFGS moves by several backwards at once: use TracInWE."
            )
        if indices is None:
            raise RuntimeError(
                "KeepUpdates: a backward through words of nobody: expected forward and backward within "
                "`with keeper.batch(indices):`, or keeper.close() when training has ended."
            )
        self._drop_zeroed()
        of_position = torch.arange(len(ids), device=ids.device).repeat_interleave(ids[0].numel() if len(ids) else 0)
        flat, values = ids.reshape(-1), wide(gradient.detach()).reshape(-1, gradient.shape[-1])
        if self.padding_idx is not None:  # autograd gives this row no gradient
            kept = (flat != self.padding_idx).nonzero().flatten()
            of_position, flat, values = of_position[kept], flat[kept], values[kept]
        rows = RowGradients.from_positions(of_position, flat, values, len(ids))
        self._arrived.append(_Arrived(_backward(), indices, rows))

    def _added(self) -> None:
        """A backward's gradients are in ``weight.grad``; what came of others never was, as of torch.autograd.grad."""
        backward, arrived = _backward(), self._arrived
        self._held += [one for one in arrived if one.backward == backward]
        self._arrived = []

    def _drop_zeroed(self) -> None:
        """What was in ``weight.grad`` is gone where its rows are 0: ``zero_grad`` was called since."""
        if self._held and not _any_in(self.table.grad, torch.cat([one.rows.ids for one in self._held])):
            self._held = []

    def _refuse_missed(self) -> None:
        """Gradients that somebody else has put into ``weight.grad``: which of them, nobody tells."""
        arrived, self._arrived = self._arrived, []
        if not arrived:
            return
        missed, known = (torch.cat([one.rows.ids for one in some]) if some else None for some in (arrived, self._held))
        assert missed is not None
        missed = missed if known is None else missed[~torch.isin(missed, known)]
        if _any_in(self.table.grad, missed):
            raise RuntimeError(
                f"KeepUpdates: {self.name}.weight.grad was filled by hand, as after torch.autograd.grad: expected "
                f"loss.backward(), by which each gradient is added to it."
            )


def _any_in(gradient: Tensor | None, ids: Tensor) -> bool:
    """Whether one of these rows of a table's gradient is not 0; NaN is not."""
    if gradient is None or not len(ids):
        return False
    if gradient.is_sparse:
        gradient = gradient.coalesce()
        inside = torch.isin(gradient.indices()[0], ids)
        return bool((gradient.values()[inside] != 0).any())
    # Mostly the first few tell.
    return any(bool((gradient[some] != 0).any()) for some in (ids[:256], ids[256:]) if len(some))


def _backward() -> int:
    """By which backwards are told apart: a number of autograd's for the one that runs."""
    return int(torch._C._current_graph_task_id())


def _undo_all(undo: list[Callable[[], None]]) -> None:
    while undo:
        undo.pop()()
