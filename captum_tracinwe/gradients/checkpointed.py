"""A model that takes the weights of one checkpoint after the other, and is given back as it was."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module

from captum_tracinwe.batches.arguments import is_rate
from captum_tracinwe.gradients.interrupts import unbroken
from captum_tracinwe.gradients.model_state import ModelState, as_saved, fit_for_autograd
from captum_tracinwe.gradients.untouched import forget_computed, untouched

__all__ = ["CheckpointedModel"]


@dataclass(frozen=True, eq=False)
class CheckpointedModel:
    """The user's model and its C checkpoints.

    Args:
        model (Module): the user's.
        checkpoints (sequence): what ``load`` takes.
        load (callable): ``(model, checkpoint) -> learning rate``.
        assigns (bool): ``load`` puts other storage under the weights and writes into none: then no copy of them is made.
        rates (dict): the learning rates that were met so far, by ``id`` of the checkpoint.
    """

    model: Module
    checkpoints: Sequence[Any]
    load: Callable[[Module, Any], float]
    assigns: bool = False
    rates: dict[int, float] = field(default_factory=dict, repr=False)
    _given: list[ModelState] = field(default_factory=list, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.checkpoints)

    @unbroken
    def untouched(self) -> Iterator[None]:
        """The model given back as it was after the block; within it, :meth:`at` may be called."""
        with untouched(self.model, copy_weights=not self.assigns) as state:
            self._given.append(state)
            try:
                yield
            finally:
                self._given.pop()

    @unbroken
    def at_rest(self) -> Iterator[None]:
        """Within :meth:`untouched`, for a block: the model as it was given, in eval mode.

        Then it has its checkpoint again, without reading it. Only for one that ``assigns``: else a third copy of the weights
        would be made.
        """
        assert self.assigns
        here = ModelState(self.model, copy_weights=False)
        try:
            self._given[-1].give_back()
            forget_computed(self.model)
            fit_for_autograd(self.model)
            self.model.eval()
            yield
        finally:
            here.give_back()
            forget_computed(self.model)

    def named(self, checkpoint: Any) -> str:
        """A checkpoint as the user knows it: its path in full, else its place among all."""
        if isinstance(checkpoint, (str, Path)):
            return repr(checkpoint)
        place = next((i for i, one in enumerate(self.checkpoints, 1) if one is checkpoint), None)
        return f"{place} of {len(self.checkpoints)}" if place else f"that is a {type(checkpoint).__name__}"

    def at(self, checkpoint: Any) -> float:
        """Load a checkpoint; its learning rate. The model is in eval mode and frozen again, whatever the loader did.

        It is loaded into the model as that was given, in the state in which checkpoints are saved: what the checkpoint before
        left behind has no part in it. That is let go of first, too, or two would be in memory while one is read.

        Raises:
            ValueError: the loader gives no learning rate; weights that are elsewhere until they are used.
        """
        assert checkpoint is not None, "None returned from `checkpoints`, cannot load."
        if self._given:
            self._given[-1].put_back()
            fit_for_autograd(self.model)
        as_saved(self.model)
        with torch.inference_mode(False):  # weights made within the caller's inference_mode could not be differentiated
            rate = self.load(self.model, checkpoint)
        if not is_rate(rate):
            raise ValueError(
                f"`checkpoints_load_func` returned {rate!r:.80} for the checkpoint {self.named(checkpoint)}: expected the "
                f"learning rate at that checkpoint, a finite number ≥ 0."
            )
        self._refuse_offloaded()
        forget_computed(self.model)
        self.model.eval()
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        self._note(checkpoint, float(rate))
        return float(rate)

    def _refuse_offloaded(self) -> None:
        for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()):
            if tensor.is_meta:
                raise ValueError(
                    f"The model's weight {name!r} is on the meta device, without numbers, after a checkpoint was loaded. Hooks "
                    f"such as those of accelerate's offloading (cpu_offload, disk_offload, device_map with 'cpu' or 'disk') "
                    f"bring others in at each pass. The checkpoint would play no part. Expected a model whose weights are in "
                    f"it: load it without a device_map, or take accelerate.hooks.remove_hook_from_submodules(model)."
                )

    def _note(self, checkpoint: Any, rate: float) -> None:
        """Warn, once, where the learning rates turn out to be 0 at all checkpoints."""
        known = len(self.rates)
        self.rates[id(checkpoint)] = rate
        if known < len(self.rates) == len({id(one) for one in self.checkpoints}) and not any(self.rates.values()):
            warnings.warn(
                f"The learning rate is 0 at each of the {len(self.checkpoints)} checkpoint(s), by which the score of each is "
                f"multiplied, so that all scores are 0. Save checkpoints with the rate that was in force there "
                f"(save_checkpoint(path, model, learning_rate)), or pass a checkpoints_load_func that returns it.",
                stacklevel=2,
            )
