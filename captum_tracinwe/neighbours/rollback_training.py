"""Along a training: what each step did to the rows of the word embedding, shared out among the examples of its batch."""

from __future__ import annotations

import tempfile
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Module
from torch.nn.utils import parametrize
from torch.utils.data import BatchSampler
from transformers import TrainerCallback

from captum_tracinwe.batches.arguments import as_memory_limit, is_whole
from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.gradients.embedding import find_embedding
from captum_tracinwe.neighbours.rollback_store import Ledger, Updates, check_free, fingerprint, written
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["KeepUpdates", "shares_of"]

# Where gradients of a row cancel to less than this part of their lengths, their sum has no direction to go by.
CANCELS = 0.01


def shares_of(rows: RowGradients, moves: Tensor, places: Tensor) -> Tensor:
    r"""What each example's row has of its word's move: ``(R, D)``; those of a word add up to its move.

    With :math:`g_j` the rows of one word's holders, :math:`G = \sum_j g_j` and :math:`\Delta` its move,

    .. math::
        s_j = \eta g_j + \frac{|g_j|}{\sum_k |g_k|} (\Delta - \eta G), \qquad
        \eta = \langle\Delta, G\rangle / \langle G, G\rangle.

    Plain SGD moves a row along G, so that :math:`s_j = -\text{rate} \cdot g_j`. A row without gradient has no share, and where
    no holder has one the move is nobody's.

    Args:
        rows (RowGradients): of the batch's examples.
        moves (Tensor): ``(U, D)``, of each distinct word.
        places (Tensor): int64 ``(R,)``, the word of each row among these.
    """
    gradients, words = rows.values, len(moves)
    largest = gradients.abs().amax(1)
    shares = moves[places] * (largest > 0)[:, None]
    held = torch.zeros(words, dtype=torch.int64, device=places.device).index_add_(0, places, (largest > 0).long())
    several = (held[places] > 1).nonzero().flatten()
    if not len(several):
        return shares
    places, gradients = places[several], gradients[several]
    # Of one size for each word, so that squares of small gradients do not vanish.
    scale = largest.new_zeros(words).scatter_reduce_(0, places, largest[several], "amax")
    gradients = gradients / scale[places, None]
    lengths = gradients.norm(dim=1)
    total = torch.zeros_like(moves).index_add_(0, places, gradients)
    whole = lengths.new_zeros(words).index_add_(0, places, lengths)
    rate = (moves * total).sum(1) / total.square().sum(1).maximum((CANCELS * whole).square()).clamp_min(1e-30)
    left = moves - rate[:, None] * total
    shares[several] = rate[places, None] * gradients + (lengths / whole[places])[:, None] * left[places]
    return shares


class KeepUpdates(TrainerCallback):  # type: ignore[misc]
    r"""Keep, along a training, what each example did to the rows of the word embedding (Gradient Rollback).

    After Lawrence, Sztyler and Niepert, *Explaining Neural Matrix Factorization with Gradient Rollback* (AAAI 2021, arXiv
    2010.05516). What counts is how far the optimiser moved a row, with its momentum, its preconditioner and its weight decay. Of
    each step a row's move is shared out among those examples of the batch that hold its word, by their gradients
    (:func:`captum_tracinwe.neighbours.rollback_training.shares_of`). Moves of rows that no example of the batch holds belong to
    nobody: they are :attr:`Updates.rest`.

    Either a callback of transformers' Trainer: ``Trainer(..., callbacks=[KeepUpdates()])``; or in a loop of your own, as in the
    example. The training itself is the same to the last bit.

    Args:
        model (Module, optional): the model that is trained; as a callback it gets the Trainer's.
        examples (int, optional): M, the number of training examples; as a callback that of the Trainer's data set. Default: one
            more than the highest index met.
        layers (list of str, optional): a list with the name of the embedding; None finds it.
        directory (str or Path, optional): where the updates are written when training ends, whole or not at all. Memory is then
            bounded by ``memory_limit``. Without it they stay in memory: 4 D bytes for each distinct token of each text.
        memory_limit (int): bytes for updates, beyond which they wait in files beside ``directory``.

    Raises:
        ValueError: a table that is frozen, tied to the output layer, or made of other tensors, in which a move has other causes
            than the texts read; a Trainer on several devices, of a resumed run, or that puts an earlier model back at its end.
        FileExistsError: ``directory`` is not empty.

    Example:
        >>> import torch
        >>> from captum_tracinwe.neighbours import KeepUpdates, rollback
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> loss_fn, ids = torch.nn.CrossEntropyLoss(reduction="none"), torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 3]])
        >>> optimizer, keeper = torch.optim.AdamW(model.parameters(), lr=0.1), KeepUpdates(model, examples=3)
        >>> for indices in ([0, 1], [2], [0, 1], [2]):
        ...     optimizer.zero_grad()
        ...     with keeper.batch(indices):  # whose words the forward reads
        ...         loss_fn(model(ids[indices]), torch.tensor(indices) % 2).mean().backward()
        ...     with keeper.step():
        ...         _ = optimizer.step()
        >>> updates = keeper.updates()
        >>> rollback(model, updates, (ids[:1], torch.tensor([0])), loss_fn, k=2).indices.shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        model: Module | None = None,
        *,
        examples: int | None = None,
        layers: list[str] | None = None,
        directory: str | Path | None = None,
        memory_limit: int = 1 << 30,
    ) -> None:
        if model is not None and not isinstance(model, Module):
            raise TypeError(f"KeepUpdates: expected a torch.nn.Module, got {type(model).__name__}.")
        if examples is not None and (not is_whole(examples) or examples < 1):
            raise ValueError(f"KeepUpdates: expected `examples` as the number of training examples, got {examples!r}.")
        self.directory = None if directory is None else Path(directory)
        self.memory_limit, self.layers, self.examples = as_memory_limit(memory_limit), layers, examples
        if self.directory is not None:
            check_free(self.directory)
        self._ended: Updates | None = None
        self._embedding: nn.Embedding | None = None
        self._hooks: list[Any] = []
        self._steps = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._parts: list[tuple[Tensor, RowGradients]] = []
        if model is not None:
            self._watch(model)

    # ------------------------------------------------------------------------------------------------ a loop of one's own

    @contextmanager
    def batch(self, indices: Sequence[int] | Tensor) -> Iterator[None]:
        """For a block with the forward and the backward of a batch: the training indices of its examples, in their order.

        Several batches before one :meth:`step` are gradient accumulation.
        """
        self._open("batch")
        before, self._now = self._now, _indices(indices, self.examples)
        try:
            yield
        finally:
            self._now = before

    @contextmanager
    def step(self) -> Iterator[None]:
        """For a block with ``optimizer.step()``, and nothing else that moves the table."""
        self.before_step()
        try:
            yield
        except BaseException:
            self._forget()
            raise
        self.after_step()

    def before_step(self) -> None:
        """Called right before ``optimizer.step()``, where :meth:`step` is not at hand."""
        table = self._open("before_step").weight
        if self._pending is not None:
            raise RuntimeError(
                "KeepUpdates.before_step: called twice: expected after_step() after each optimizer.step()."
            )
        examples, rows = self._together()
        words, places = torch.unique(rows.ids, return_inverse=True)
        with torch.no_grad():
            self._pending = examples, rows, words, places, _wide(table[words])

    def after_step(self) -> None:
        """Called right after ``optimizer.step()``."""
        table = self._open("after_step").weight
        if self._pending is None:
            raise RuntimeError("KeepUpdates.after_step: expected before_step() right before optimizer.step().")
        examples, rows, words, places, before = self._pending
        self._pending, self._steps = None, self._steps + 1
        with torch.no_grad():
            moves = _wide(table[words]) - before
            if not bool(moves.any()):  # nothing was read, or a step that a GradScaler left out
                return
            shares = shares_of(rows, moves, places)
            if not bool(shares.sum().isfinite()):
                raise ValueError(
                    f"KeepUpdates: step {self._steps} moved rows of the embedding by, or for gradients of, NaN or infinite "
                    f"numbers: expected finite ones. Look at the loss there."
                )
            self._ledger.add(examples.cpu(), RowGradients.sound(rows.ptr, rows.ids, shares).to("cpu"))

    def updates(self) -> Updates:
        """The updates of all steps up to now; the keeper stops watching, and with a ``directory`` they are written there."""
        if self._ended is None:
            table = self._open("updates").weight
            self.close()
            final = table.detach().cpu()
            moved = _wide(final) - self._first
            about = self._name, self._steps, fingerprint(table)
            ledger, folder = self._ledger, self._folder
            if self.directory is None:
                rows = next(ledger.parts())
                shared = torch.zeros(moved.shape, dtype=torch.float64).index_add_(0, rows.ids, rows.values.double())
                self._ended = Updates(
                    about[0], about[1], moved, shared.to(moved.dtype), about[2], (len(rows),), (rows,)
                )
            else:
                self._ended = written(self.directory, about, moved, ledger.parts())
            if folder is not None:
                folder.cleanup()
        return self._ended

    def close(self) -> None:
        """Stop watching: the model has no hook of this keeper any more."""
        while self._hooks:
            self._hooks.pop().remove()

    def __enter__(self) -> KeepUpdates:
        return self

    def __exit__(self, *raised: Any) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------------- watching

    def _watch(self, model: Module) -> None:
        found = find_embedding(model, self.layers)
        table, module = found.weight, found.module
        name = found.name
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
        self._name, self._embedding = name, module
        self._first = _wide(table.detach().cpu()).clone()
        if self.directory is not None:
            self.directory.parent.mkdir(parents=True, exist_ok=True)
            self._folder = tempfile.TemporaryDirectory(".runs", f".{self.directory.name}.", self.directory.parent)
        folder = None if self._folder is None else Path(self._folder.name)
        self._ledger = Ledger(self.examples, table, folder, self.memory_limit)
        keeper = weakref.ref(self)  # a keeper that nobody holds any more leaves no updates behind

        def looked_up(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            alive = keeper()
            if alive is not None and isinstance(output, Tensor) and output.requires_grad:
                alive._looked_up(args[0] if args else kwargs["input"], output)

        for one in owners.values():
            self._hooks.append(one.register_forward_hook(looked_up, with_kwargs=True))

    def _open(self, caller: str) -> nn.Embedding:
        if self._embedding is None or not self._hooks:
            why = "its training has ended" if self._embedding is not None else "it has no model yet"
            raise RuntimeError(
                f"KeepUpdates.{caller}: {why}: expected KeepUpdates(model) during its training, or KeepUpdates() among the "
                f"callbacks of a Trainer that trains."
            )
        return self._embedding

    _now: Tensor | None = None  # the training indices of the batch that passes
    _ledger: Ledger
    _drawn: deque[int] | None = None
    _fresh = False

    def _looked_up(self, ids: Tensor, output: Tensor) -> None:
        """Of a forward that may be followed by a backward: whose words these are is noted until their gradient comes."""
        if self._drawn is not None and self._fresh:
            size, self._fresh = len(ids), False
            if size > len(self._drawn):
                raise RuntimeError(
                    f"KeepUpdates: a forward of {size} examples, and the Trainer drew {len(self._drawn)}: expected each batch to "
                    f"pass once, as it was drawn. With other batches train in a loop of your own."
                )
            self._now = torch.tensor([self._drawn.popleft() for _ in range(size)])
        indices, ids = self._now, ids.detach()
        padding = None if self._embedding is None else self._embedding.padding_idx
        if indices is not None and (ids.dim() < 1 or len(ids) != len(indices)):
            raise ValueError(
                f"KeepUpdates: {len(indices)} training indices, and the embedding {self._name!r} is called with ids of shape "
                f"{tuple(ids.shape)}: expected one index for each example, and the examples along the first dimension."
            )

        def arrived(gradient: Tensor) -> None:
            if indices is None:
                raise RuntimeError(
                    "KeepUpdates: a backward through words of nobody: expected forward and backward within "
                    "`with keeper.batch(indices):`, or keeper.close() when training has ended."
                )
            of_position = torch.arange(len(ids), device=ids.device).repeat_interleave(ids[0].numel() if len(ids) else 0)
            flat, values = ids.reshape(-1), _wide(gradient.detach()).reshape(-1, gradient.shape[-1])
            if padding is not None:  # autograd gives this row no gradient
                kept = (flat != padding).nonzero().flatten()
                of_position, flat, values = of_position[kept], flat[kept], values[kept]
            self._parts.append((indices, RowGradients.from_positions(of_position, flat, values, len(ids))))

        output.register_hook(arrived)  # type: ignore[no-untyped-call]

    def _together(self) -> tuple[Tensor, RowGradients]:
        """What arrived since the last step: the training examples, each once, and their rows."""
        parts, self._parts = self._parts, []
        if not parts:
            assert self._embedding is not None
            nobody = torch.zeros(0, dtype=torch.int64)
            empty = _wide(self._embedding.weight.detach()[:0])
            return nobody, RowGradients.from_positions(nobody.to(empty.device), nobody.to(empty.device), empty, 0)
        indices = torch.cat([one for one, _ in parts])
        examples, places = torch.unique(indices, return_inverse=True)
        if len(parts) == 1 and len(examples) == len(indices):
            return indices, parts[0][1]
        rows = RowGradients.cat([one for _, one in parts])
        owners = places.to(rows.ids.device)[rows.examples]
        return examples, RowGradients.from_positions(owners, rows.ids, rows.values, len(examples))

    def _forget(self) -> None:
        self._parts, self._pending = [], None

    _pending: tuple[Tensor, RowGradients, Tensor, Tensor, Tensor] | None = None

    # ------------------------------------------------------------------------------------------- transformers' Trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Called by Trainer."""
        reasons = {
            "a run that is resumed, whose first updates nobody kept": state.global_step > 0,
            "load_best_model_at_end=True, which puts an earlier table back": args.load_best_model_at_end,
            "several devices, each with batches of its own": args.world_size > 1 or args.n_gpu > 1,
        }
        for reason in (reason for reason, holds in reasons.items() if holds):
            raise ValueError(f"KeepUpdates: {reason}: expected one run from its first step to its last on one device.")
        if self._embedding is not None:
            raise ValueError("KeepUpdates: it has kept a training already: expected a new KeepUpdates() for each.")
        loader = given["train_dataloader"]
        sampler = getattr(loader, "batch_sampler", None)
        if type(sampler) is not BatchSampler or not hasattr(loader.dataset, "__len__"):
            raise ValueError(
                f"KeepUpdates: the Trainer's batches come from a {type(sampler).__name__}, which does not tell whose they are: "
                f"expected a train_dataset with a length, in batches of torch's BatchSampler. Else train in a loop of your own."
            )
        self.examples = len(loader.dataset)
        self._watch(given["model"])
        self._drawn = deque()
        sampler.sampler = _Noted(sampler.sampler, self._drawn)
        keeper = weakref.ref(self)

        def begins(module: Module, args: Any) -> None:
            alive = keeper()
            if alive is not None and torch.is_grad_enabled():
                alive._fresh = True

        self._hooks.append(given["model"].register_forward_pre_hook(begins))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Called by Trainer."""
        self.before_step()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Called by Trainer."""
        self.after_step()

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Called by Trainer."""
        self.updates()


class _Noted:
    """A sampler that notes what it draws, until a new epoch begins; else it is the one that it stands for."""

    def __init__(self, sampler: Any, drawn: deque[int]) -> None:
        self._sampler, self._drawn = sampler, drawn

    def __iter__(self) -> Iterator[int]:
        self._drawn.clear()  # what was drawn for a batch that was dropped
        for index in self._sampler:
            self._drawn.append(int(index))
            yield index

    def __len__(self) -> int:
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_sampler"], name)


def _wide(values: Tensor) -> Tensor:
    """In float32, or float64 where it is that; a copy is not promised."""
    return values if values.dtype == torch.float64 else values.float()


def _indices(given: Any, examples: int | None) -> Tensor:
    numbers = torch.as_tensor(given)
    whole = numbers.dim() == 1 and not numbers.is_floating_point() and numbers.dtype != torch.bool
    if not whole or (len(numbers) and int(numbers.min()) < 0):
        raise ValueError(
            f"KeepUpdates.batch: expected the training indices of the batch's examples, whole numbers from 0, got {given!r:.80}."
        )
    if examples is not None and len(numbers) and int(numbers.max()) >= examples:
        raise ValueError(
            f"KeepUpdates.batch: training index {int(numbers.max())}, and there are examples={examples}: expected indices from 0 "
            f"to {examples - 1}."
        )
    return numbers.long().cpu()
