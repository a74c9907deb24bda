"""Whose each position of a look-up is."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_tracinwe.batches.batch import Batch, tensors_in
from captum_tracinwe.gradients.forward import NotTogether
from captum_tracinwe.gradients.look_ups import LookUp

__all__ = ["examples_of"]


def examples_of(call: LookUp, size: int, name: str, batch: Batch) -> Tensor:
    """The example that each position of a call belongs to, ``(positions,)``.

    Of a batch of one example all are its own. Else examples are along the first dimension; or the ids are the batch's own, folded
    (N choices of C texts each to N · C texts) or one under the other (both texts of N pairs as 2 · N texts).

    Raises:
        NotTogether: they are neither.
    """
    if size == 1:
        return torch.zeros(call.ids.numel(), dtype=torch.int64, device=call.ids.device)
    if call.bags is not None:
        if call.count != size:
            raise NotTogether(
                f"The nn.EmbeddingBag {name!r} is called with offsets of {call.count} bags for a batch of {size}: expected one "
                f"bag for each example, to tell whose gradient is whose. batch_size=1 takes each text alone."
            )
        return call.bags
    if call.across:
        return torch.arange(size, device=call.ids.device).repeat(call.ids.shape[0])
    if call.ids.dim() > 0 and call.ids.shape[0] == size:
        return torch.arange(size, device=call.ids.device).repeat_interleave(call.ids.numel() // size)
    found = _of_batch(call.ids, size, batch)
    if found is None:
        raise NotTogether(
            f"The embedding {name!r} is called with ids of shape {tuple(call.ids.shape)} for a batch of {size}: expected "
            f"the examples along the first dimension, ({size}, ...), to tell whose gradient is whose. batch_size=1 takes each "
            f"text alone."
        )
    return found


def _of_batch(ids: Tensor, size: int, batch: Batch) -> Tensor | None:
    """The same where the ids are tensors of the batch, folded and one behind the other; None where they are not."""
    if ids.dim() == 0 or ids.shape[0] % size:  # examples within a row meet there
        return None
    given = [
        tensor.to(ids.device)
        for tensor in tensors_in(batch)
        if tensor.dim() > 1 and tensor.shape[0] == size and tensor.numel() and not tensor.is_floating_point()
    ]
    found, rest = [], ids
    while len(rest):
        own = next((one for one in given if _begins(rest, one)), None)
        if own is None:
            return None
        rows = own.numel() if ids.dim() == 1 else own.numel() // own.shape[-1]
        found.append(torch.arange(size, device=ids.device).repeat_interleave(rest[:rows].numel() // size))
        rest = rest[rows:]
    return torch.cat(found)


def _begins(ids: Tensor, one: Tensor) -> bool:
    """Whether the first of the ids are those of a tensor, in as many rows, which the model may have filled up on the right."""
    if ids.dim() == 1:
        return torch.equal(ids[: one.numel()], one.reshape(-1))
    rows, width = one.reshape(-1, one.shape[-1]), one.shape[-1]
    part = ids[: len(rows)]
    if ids.dim() != 2 or part.shape[0] != len(rows) or part.shape[1] < width or not torch.equal(part[:, :width], rows):
        return False
    return width == part.shape[1] or bool((part[:, width:] == part[0, -1]).all())
