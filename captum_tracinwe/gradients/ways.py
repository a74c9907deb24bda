"""Ways of a batch through a model: as it is, left padding made good, texts of equal length together, one text at a time."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import Module

from captum_tracinwe.batches.batch import Batch, as_parts, is_mapping, labels_of, size_of, tensors_in
from captum_tracinwe.batches.cutting import joined, shape_of
from captum_tracinwe.batches.wrapped import unwrap

__all__ = ["AS_IT_IS", "EQUAL_LENGTHS", "ONE_BY_ONE", "Part", "Singles", "Way", "of_left_padding"]

#: Places in a batch, and a batch of the examples there.
Part: TypeAlias = tuple[list[int], Batch]
#: Each example of a batch alone.
Singles: TypeAlias = Callable[[], list[Batch]]


@dataclass(frozen=True)
class Way:
    """How a batch goes through the model.

    Args:
        name (str): for whoever looks at what was found.
        parts (callable): ``(batch, singles) -> parts``, which are computed one after the other.
        done (str): what is done, in the words of a warning; empty where nothing is to be said.
    """

    name: str
    parts: Callable[[Batch, Singles], list[Part]]
    done: str = ""


def _whole(batch: Batch, singles: Singles) -> list[Part]:
    return [(list(range(size_of(batch))), batch)]


def _alone(batch: Batch, singles: Singles) -> list[Part]:
    return [([place], one) for place, one in enumerate(singles())]


def _by_length(batch: Batch, singles: Singles) -> list[Part]:
    groups: dict[object, list[int]] = {}
    found = singles()
    if not all(len(one) == 1 for single in found for one in tensors_in(as_parts(single)) if one.dim()):
        return [([place], one) for place, one in enumerate(found)]  # words in a row, which offsets divide
    for place, one in enumerate(found):
        groups.setdefault(shape_of(as_parts(one)), []).append(place)
    return [(places, joined([found[place] for place in places])) for places in groups.values()]


#: All together, as they come.
AS_IT_IS = Way("as it is", _whole)
#: Those of one length together, so that nothing is filled up.
EQUAL_LENGTHS = Way("equal lengths", _by_length, "texts of equal length are taken together, without padding")
#: Each by itself.
ONE_BY_ONE = Way("one by one", _alone, "each text is taken alone")


def of_left_padding(model: Module, batch: Batch) -> list[Way]:
    """Ways for a batch (N, T) that is padded on the left, the least change first; none for others.

    A padded position before the first word predicts that word: a target that the text alone doesn't have. And positions count
    the padding, unless the model is told them.
    """
    mask = batch.get("attention_mask") if is_mapping(batch) else None
    if not is_mapping(batch) or not isinstance(mask, Tensor) or mask.dim() != 2 or not bool((mask[:, 0] == 0).any()):
        return []
    labels = labels_of(batch)
    of_tokens = isinstance(labels, Tensor) and labels.shape == mask.shape and not labels.is_floating_point()
    takes = "position_ids" in inspect.signature(unwrap(model).forward).parameters and "position_ids" not in batch
    kinds = [(False, True)] * of_tokens + [(True, False)] * takes + [(True, True)] * (of_tokens and takes)
    return [_left_padding(*kind) for kind in kinds]


def _left_padding(positions: bool, targets: bool) -> Way:
    def parts(batch: Batch, singles: Singles) -> list[Part]:
        assert is_mapping(batch)
        mask, changed = batch["attention_mask"], dict(batch)
        if positions:
            changed["position_ids"] = (mask.long().cumsum(1) - 1).clamp_min(0)
        if targets:
            key = "labels" if "labels" in batch else "label"
            first = torch.nn.functional.pad(mask, (1, 0))[:, :-1].eq(0)
            changed[key] = batch[key].masked_fill(first.to(batch[key].device), -100)
        return _whole(changed, singles)

    said = ["positions are counted from the first word"] * positions
    said += ["padding predicts no word"] * targets
    return Way("left padding", parts, " and ".join(said))
