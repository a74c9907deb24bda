"""Whether a model comes back from a checkpoint as it was: by its answers, for not all that it computes by is in its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from captum_tracinwe.batches.batch import Batch, as_parts, move_to, size_of, tensors_in
from captum_tracinwe.batches.cutting import taken
from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.gradients.checkpointed import CheckpointedModel
from captum_tracinwe.gradients.forward import run_model
from captum_tracinwe.gradients.untouched import untouched

__all__ = ["refuse_changed"]

#: Examples that are asked about.
ASKED = 4


def refuse_changed(weights: CheckpointedModel, batch: Batch, label_names: Sequence[str], device: torch.device) -> None:
    """Take the model to its last checkpoint and back, and see that it answers as before.

    Raises:
        RuntimeError: it does not.
    """
    some = taken(batch, range(min(ASKED, size_of(batch))), size_of(batch))
    asked = as_parts(batch) if some is None else some

    def answer() -> list[Tensor]:
        with torch.inference_mode(False), torch.no_grad():
            return [
                one.clone() for one in _floats(run_model(unwrap(weights.model), move_to(asked, device), label_names))
            ]

    def at_rest() -> list[Tensor]:
        with untouched(weights.model):
            return answer()

    try:
        before = at_rest()
        with weights.untouched():
            weights.at(weights.checkpoints[-1])
            answer()
    except Exception:
        return  # said in the words of the pass that needs it
    after = at_rest()
    if _same(before, after):
        return
    if not _same(after, at_rest()):
        return  # a model that answers by chance, which the probe tells
    raise RuntimeError(
        f"The {type(unwrap(weights.model)).__name__} does not answer as before, although its weights were put back after a "
        f"checkpoint was in it: expected a model whose answer hangs on its parameters, buffers and mode. It keeps something else "
        f"of a forward pass or of loading. Load your model anew, and pass a copy of it: TracInWE(copy.deepcopy(model), ...)."
    )


def _floats(output: object) -> Iterator[Tensor]:
    parts = dict(output) if isinstance(output, Mapping) else output
    return (one for one in tensors_in(parts) if one.is_floating_point())


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)
        for a, b in zip(one, other, strict=True)
    )
