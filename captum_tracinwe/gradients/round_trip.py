"""Whether a model comes back from a checkpoint as it was: by its answers, for not all that it computes by is in its tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.batches.batch import Batch, as_parts, move_to, size_of, tensors_in
from captum_tracinwe.batches.cutting import taken
from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.gradients.checkpointed import CheckpointedModel
from captum_tracinwe.gradients.forward import run_model
from captum_tracinwe.gradients.untouched import untouched

__all__ = ["RoundTrip"]

#: Examples that are asked about.
ASKED = 4


@dataclass(frozen=True, eq=False)
class RoundTrip:
    """A model that was asked as it was given, and is asked again once a checkpoint has been in it.

    Args:
        weights (CheckpointedModel): the model.
        asked: a batch of a few examples.
        label_names, device: as for a pass.
        before (list of Tensor): what it answered.
        writes (bool): whether it wrote into its weights meanwhile.
    """

    weights: CheckpointedModel
    asked: Any
    label_names: Sequence[str]
    device: torch.device
    before: list[Tensor] = field(default_factory=list)
    writes: bool = True

    @classmethod
    def begun(
        cls, weights: CheckpointedModel, batch: Batch, label_names: Sequence[str], device: torch.device
    ) -> RoundTrip | None:
        """Of a model as it was given; None where it does not answer, which is said in the words of the pass that needs it."""
        some = taken(batch, range(min(ASKED, size_of(batch))), size_of(batch))
        trip = cls(weights, as_parts(batch) if some is None else some, label_names, device)
        with suppress(Exception):
            with untouched(weights.model) as state:
                before = trip._answer()
            return replace(trip, before=before, writes=state.wrote)
        return None

    def to_the_last(self) -> None:
        """Take it to its last checkpoint and back.

        Raises:
            RuntimeError: it does not answer as before.
        """
        try:
            with self.weights.untouched():
                self.weights.at(self.weights.checkpoints[-1])
                self._answer()
        except Exception:
            return  # said in the words of the pass that needs it
        self._compare(partial(untouched, self.weights.model))

    def end(self) -> None:
        """Of a model with a checkpoint in it, which has been used and is in it again afterwards; errors as of the other."""
        self._compare(self._at_rest)

    @contextmanager
    def _at_rest(self) -> Iterator[None]:
        with self.weights.at_rest(), untouched(self.weights.model) if self.writes else nullcontext():
            yield

    def _compare(self, at_rest: Callable[[], AbstractContextManager[Any]]) -> None:
        def answer() -> list[Tensor]:
            with at_rest():
                return self._answer()

        after = answer()
        if _same(self.before, after) or not _same(after, answer()):
            return  # what answers by chance the probe tells
        raise RuntimeError(
            f"The {type(unwrap(self.weights.model)).__name__} does not answer as before, although its weights were put back "
            f"after a checkpoint was in it. Expected a model whose answer depends on its parameters, buffers and mode. It keeps "
            f"something else of a forward pass or of loading. Load your model anew, and pass a copy of it: "
            f"TracInWE(copy.deepcopy(model), ...)."
        )

    def _answer(self) -> list[Tensor]:
        with torch.inference_mode(False), torch.no_grad():
            output = run_model(unwrap(self.weights.model), move_to(self.asked, self.device), self.label_names)
            return [one.clone() for one in _floats(output)]


def _floats(output: object) -> Iterator[Tensor]:
    parts = dict(output) if isinstance(output, Mapping) else output
    return (one for one in tensors_in(parts) if one.is_floating_point())


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)
        for a, b in zip(one, other, strict=True)
    )
