"""Along a training: what each step did to the rows of the word embedding, kept for the examples of its batch."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import Module
from transformers import TrainerCallback

from captum_tracinwe.batches.arguments import as_memory_limit, is_whole
from captum_tracinwe.neighbours.rollback_files import check_free
from captum_tracinwe.neighbours.rollback_ledger import Ledger
from captum_tracinwe.neighbours.rollback_shares import shares_of
from captum_tracinwe.neighbours.rollback_store import Updates, fingerprint, written
from captum_tracinwe.neighbours.rollback_trainer import check_run, follow
from captum_tracinwe.neighbours.rollback_watch import Watch, wide
from captum_tracinwe.rows.row_gradients import RowGradients
from captum_tracinwe.whole_files import as_path

__all__ = ["KeepUpdates"]

# A table of the training examples' places takes 8 bytes for each index up to the highest: 2 GB of so many.
MOST_EXAMPLES = 1 << 28


class KeepUpdates(TrainerCallback):  # type: ignore[misc]
    r"""Keep, along a training, what each example did to the rows of the word embedding (Gradient Rollback).

    After Lawrence, Sztyler and Niepert, *Explaining Neural Matrix Factorization with Gradient Rollback* (AAAI 2021, arXiv
    2010.05516). What counts is how far the optimiser moved a row, with its momentum, its preconditioner and its weight decay. Of
    each step a row's move is shared out among those examples of the batch that hold its word, by their gradients
    (:func:`captum_tracinwe.neighbours.rollback_shares.shares_of`). Moves of rows that no example of the batch holds belong to
    nobody: they are :attr:`Updates.rest`.

    Either a callback of transformers' Trainer: ``Trainer(..., callbacks=[KeepUpdates()])``; or in a loop of your own, as in the
    example. The training itself is the same to the last bit. A gradient that ``zero_grad`` takes away before a step is nobody's.

    Args:
        model (Module, optional): the model that is trained; as a callback it gets the Trainer's.
        examples (int, optional): M, the number of training examples; as a callback that of the Trainer's data set. Default: one
            more than the highest index met.
        layers (list of str, optional): a list with the name of the embedding; None finds it.
        directory (str or Path, optional): where the updates are written when training ends, whole or not at all. Memory is then
            bounded by ``memory_limit``. Without it they stay in memory: 4 D bytes for each distinct token of each text. It is new
            or empty now, and has to be then.
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
        if examples is not None and (not is_whole(examples) or not 1 <= examples <= MOST_EXAMPLES):
            raise ValueError(
                f"KeepUpdates: expected `examples` as the number of training examples, 1 to {MOST_EXAMPLES}, got "
                f"{examples!r:.60}."
            )
        self.directory = None if directory is None else as_path(directory, "KeepUpdates", "directory")
        self.memory_limit, self.layers = as_memory_limit(memory_limit), layers
        self.examples = None if examples is None else int(examples)
        if self.directory is not None:
            check_free(self.directory)
        self._watched: Watch | None = None
        self._steps = 0
        self._step: tuple[Tensor, RowGradients, Tensor, Tensor, Tensor] | None = None  # what after_step() needs
        self._kept: tuple[tuple[str, int, str], Tensor] | None = (
            None  # of a training that has ended: about it, and all moves
        )
        self._updates: Updates | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if model is not None:
            self._begin(model)

    # ------------------------------------------------------------------------------------------------ a loop of one's own

    @contextmanager
    def batch(self, indices: Sequence[int] | Tensor) -> Iterator[None]:
        """For a block with the forward and the backward of a batch: the training indices of its examples, in their order.

        Several batches before one :meth:`step` are gradient accumulation. One that ``zero_grad`` takes back does not count.

        Raises:
            ValueError: no whole numbers, or indices that there are not.
        """
        watch = self._open("batch")
        before, watch.indices = watch.indices, _indices(indices, self.examples)
        try:
            yield
        finally:
            watch.indices = before

    @contextmanager
    def step(self) -> Iterator[None]:
        """For a block with ``optimizer.step()``, and nothing else that moves the table; there is no ``closure``."""
        self.before_step()
        try:
            yield
        except BaseException:
            self._step = None
            if self._watched is not None:
                self._watched.forget()
            raise
        self.after_step()

    def before_step(self) -> None:
        """Called right before ``optimizer.step()``, where :meth:`step` is not at hand."""
        watch = self._open("before_step")
        if self._step is not None:
            raise RuntimeError(
                "KeepUpdates.before_step: called twice: expected after_step() after each optimizer.step()."
            )
        examples, rows = watch.held()
        words, places = torch.unique(rows.ids, return_inverse=True)
        with torch.no_grad():
            self._step = examples, rows, words, places, wide(watch.table[words])
        watch.stepping = True

    def after_step(self) -> None:
        """Called right after ``optimizer.step()``."""
        watch = self._open("after_step")
        if self._step is None:
            raise RuntimeError("KeepUpdates.after_step: expected before_step() right before optimizer.step().")
        examples, rows, words, places, before = self._step
        self._step, self._steps, watch.stepping = None, self._steps + 1, False
        with torch.no_grad():
            moves = wide(watch.table[words]) - before
            if not bool(moves.any()):  # nothing was read, or a step that a GradScaler left out
                return
            shares = shares_of(rows, moves, places)
            if not bool(shares.sum().isfinite()):
                raise ValueError(
                    f"KeepUpdates: step {self._steps} moved rows of the embedding by, or for gradients of, NaN or infinite "
                    f"numbers: expected finite ones. Look at the loss there."
                )
            self._ledger.add(examples.cpu(), RowGradients.sound(rows.ptr, rows.ids, shares).to("cpu"))

    def updates(self, directory: str | Path | None = None) -> Updates:
        """The updates of all steps up to now; the keeper stops watching, and with a ``directory`` they are written there.

        Args:
            directory (str or Path, optional): in place of the one given before, if nothing could be written there.

        Raises:
            OSError: they could not be written. They are still kept: call it again with another ``directory``.
            RuntimeError: there was no training.
        """
        target = self.directory if directory is None else as_path(directory, "KeepUpdates.updates", "directory")
        if self._updates is not None:
            if directory is not None and target is not None:
                self._updates.save(target)
            return self._updates
        if self._kept is None:
            self._open("updates")
        if not self._steps:
            raise RuntimeError(
                "KeepUpdates.updates: no step of the optimiser was seen: expected `with keeper.step(): optimizer.step()` for "
                "each, or KeepUpdates() among the callbacks of a Trainer."
            )
        if self._kept is None:
            self.close()
        assert self._kept is not None
        about, moved = self._kept
        if target is None:
            rows = next(self._ledger.parts())
            shared = torch.zeros(moved.shape, dtype=torch.float64).index_add_(0, rows.ids, rows.values.double())
            self._updates = Updates(*about[:2], moved, shared.to(moved.dtype), about[2], (len(rows),), (rows,))
        else:
            self._updates = _written(target, about, moved, self._ledger)
        self._ledger.clear()
        if self._folder is not None:
            self._folder.cleanup()
        return self._updates

    def close(self) -> None:
        """Stop watching: the model has no hook of this keeper any more. :meth:`updates` can still be asked for."""
        watch = self._watched
        if watch is None or not watch.open:
            return
        try:
            table = watch.table.detach()
            moved = wide(table.cpu()) - self._first
            self._kept = (watch.name, self._steps, fingerprint(table)), moved
        finally:
            self._step = None
            watch.close()

    def __enter__(self) -> KeepUpdates:
        return self

    def __exit__(self, *raised: Any) -> None:
        self.close()

    def _begin(self, model: Module) -> Watch:
        watch = Watch(model, self.layers)
        self._watched = watch
        self._first = wide(watch.table.detach().cpu()).clone()
        if self.directory is not None:
            self.directory.parent.mkdir(parents=True, exist_ok=True)
            self._folder = tempfile.TemporaryDirectory(".runs", f".{self.directory.name}.", self.directory.parent)
        folder = None if self._folder is None else Path(self._folder.name)
        self._ledger = Ledger(self.examples, watch.table, folder, self.memory_limit)
        return watch

    def _open(self, caller: str) -> Watch:
        if self._watched is None or not self._watched.open:
            why = "its training has ended" if self._watched is not None else "it has no model yet"
            raise RuntimeError(
                f"KeepUpdates.{caller}: {why}: expected KeepUpdates(model) during its training, or KeepUpdates() among the "
                f"callbacks of a Trainer that trains."
            )
        return self._watched

    # ------------------------------------------------------------------------------------------- transformers' Trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Called by Trainer."""
        if self._watched is not None:
            raise ValueError("KeepUpdates: it has kept a training already: expected a new KeepUpdates() for each.")
        loader = given["train_dataloader"]
        check_run(args, state, loader, self.directory)
        if self.directory is not None:
            check_free(self.directory)
        self.examples = len(loader.dataset)
        follow(self._begin(given["model"]), given["model"], loader)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Called by Trainer."""
        self.before_step()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Called by Trainer."""
        self.after_step()

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Called by Trainer, whose own end must not fail for updates that could not be written."""
        try:
            self.updates()
        except OSError as error:
            warnings.warn(
                f"KeepUpdates: the training has ended, and its updates are not on the disk. They are still kept: write them "
                f"elsewhere by keeper.updates(directory=...). What happened: {error.__cause__ or error}",
                stacklevel=2,
            )


def _written(path: Path, about: tuple[str, int, str], moved: Tensor, ledger: Ledger) -> Updates:
    try:
        return written(path, about, moved, ledger.parts())
    except (OSError, SafetensorError) as error:
        raise (FileExistsError if isinstance(error, FileExistsError) else OSError)(
            f"KeepUpdates: the updates could not be written to {str(path)!r}: expected a new or an empty directory, and room "
            f"on the disk. They are still kept: write them elsewhere by keeper.updates(directory=...). What happened: {error}"
        ) from error


def _indices(given: Any, examples: int | None) -> Tensor:
    try:
        numbers = torch.as_tensor(np.ascontiguousarray(given) if isinstance(given, np.ndarray) else given).cpu()
        whole = numbers.dim() == 1 and torch.iinfo(numbers.dtype) is not None and numbers.layout == torch.strided
        whole = whole and not (len(numbers) and int(numbers.min()) < 0)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        whole = isinstance(given, (list, tuple)) and not given
        numbers = torch.zeros(0, dtype=torch.int64)
    if not whole:
        raise ValueError(
            f"KeepUpdates.batch: expected the training indices of the batch's examples, whole numbers from 0, got {given!r:.80}."
        )
    if len(numbers) and int(numbers.max()) >= MOST_EXAMPLES:
        raise ValueError(
            f"KeepUpdates.batch: training index {int(numbers.max())}: expected places in the training set, from 0 to below "
            f"{MOST_EXAMPLES}. Of ids of your own pass their places."
        )
    if examples is not None and len(numbers) and int(numbers.max()) >= examples:
        raise ValueError(
            f"KeepUpdates.batch: training index {int(numbers.max())}, and there are examples={examples}: expected indices from 0 "
            f"to {examples - 1}."
        )
    return numbers.long()
