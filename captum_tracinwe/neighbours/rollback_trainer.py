"""What a transformers' Trainer draws, batch by batch, and which of its runs can be followed."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module
from torch.utils.data import BatchSampler

from captum_tracinwe.neighbours.rollback_watch import Watch

__all__ = ["check_run", "drawn_by", "follow"]


def check_run(args: Any, state: Any, loader: Any, directory: Path | None) -> None:
    """Refuse a run of which not every update would be known.

    Raises:
        ValueError: it is resumed, on several devices, or puts an earlier model back; its batches come from elsewhere; its own
            files go to ``directory``, too.
    """
    reasons = {
        "a run that is resumed, whose first updates nobody kept": state.global_step > 0,
        "load_best_model_at_end=True, which puts an earlier table back": args.load_best_model_at_end,
        "several devices, each with batches of its own": args.world_size > 1 or args.n_gpu > 1,
    }
    for reason in (reason for reason, holds in reasons.items() if holds):
        raise ValueError(f"KeepUpdates: {reason}: expected one run from its first step to its last on one device.")
    own = getattr(args, "output_dir", None)
    if directory is not None and own is not None and Path(own).resolve().is_relative_to(directory.resolve()):
        raise ValueError(
            f"KeepUpdates: the Trainer writes its own files within directory={str(directory)!r}: expected a directory for "
            f"updates alone, which is empty when training ends. Name another one."
        )
    sampler = getattr(loader, "batch_sampler", None)
    if type(sampler) is not BatchSampler or not hasattr(loader.dataset, "__len__"):
        raise ValueError(
            f"KeepUpdates: the Trainer's batches come from a {type(sampler).__name__}, which does not tell whose they are: "
            f"expected a train_dataset with a length, in batches of torch's BatchSampler. Else train in a loop of your own."
        )


def follow(watch: Watch, model: Module, loader: Any) -> None:
    """Let the watch know whose each batch is, by what the loader's sampler draws, until it is closed."""
    drawn = drawn_by(loader.batch_sampler, watch)
    begun: list[bool] = []  # a forward of the model whose first look-up has not come
    me = weakref.ref(watch)

    def begins(module: Module, args: Any) -> None:
        if torch.is_grad_enabled():
            begun[:] = [True]

    def look_up(size: int) -> None:
        alive = me()
        if alive is None or not begun:
            return
        begun.clear()
        if size > len(drawn):
            raise RuntimeError(
                f"KeepUpdates: a forward of {size} examples, and the Trainer drew {len(drawn)}: expected each batch to pass "
                f"once, as it was drawn. With other batches train in a loop of your own. After a training that failed, call "
                f"keeper.close()."
            )
        alive.indices = torch.tensor([drawn.popleft() for _ in range(size)])

    watch.before_look_up = look_up
    watch.undo(model.register_forward_pre_hook(begins).remove)


def drawn_by(sampler: BatchSampler, watch: Watch) -> deque[int]:
    """What a sampler of batches draws from now on; it is as it was when the watch closes."""
    drawn: deque[int] = deque()
    own, noted = sampler.sampler, _Noted(sampler.sampler, drawn)

    def put_back() -> None:
        if sampler.sampler is noted:
            sampler.sampler = own

    sampler.sampler = noted
    watch.undo(put_back)
    return drawn


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
