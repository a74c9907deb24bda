"""What a batch is: a tuple whose last element is the labels, as in Captum, or a mapping, as in transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from captum_tracinwe.waiting import on_device

if TYPE_CHECKING:
    from typing_extensions import TypeIs

__all__ = [
    "Batch",
    "Loss",
    "as_parts",
    "check_batch",
    "is_mapping",
    "labels_of",
    "move_to",
    "nbytes",
    "part_of",
    "positions_of",
    "rows_of",
    "size_of",
    "tensors_in",
    "with_labels",
    "without_targets",
]

LABEL_KEYS = ("labels", "label")
# The keys of a mapping whose first dimension counts examples, most telling first.
SIZE_KEYS = ("input_ids", "inputs_embeds", *LABEL_KEYS)

#: A batch: inputs and labels in a tuple (or list), as in Captum, or a mapping for ``model(**batch)``, as in transformers.
Batch: TypeAlias = tuple[Any, ...] | list[Any] | Mapping[str, Any]
#: (prediction, labels) → one loss for each example, or one for all.
Loss: TypeAlias = Callable[..., Tensor]


def is_mapping(batch: Batch) -> TypeIs[Mapping[str, Any]]:
    """Dicts, and `transformers.BatchEncoding`, which is a `UserDict`."""
    return isinstance(batch, Mapping)


def as_parts(batch: Batch) -> Any:
    """The batch as a plain dict of its entries, or the tuple or list that it is."""
    return dict(batch) if is_mapping(batch) else batch


def check_batch(batch: Batch) -> None:
    """Raise TypeError unless ``batch`` is a mapping or a sequence of at least inputs and labels."""
    if is_mapping(batch):
        wrong = next((key for key in batch if not isinstance(key, str)), None)
        if wrong is not None:
            raise TypeError(f"The batch has a key {wrong!r:.60}: expected names, for model(**batch).")
        return
    if not isinstance(batch, (tuple, list)):
        raise TypeError(
            f"Expected a batch as a tuple (inputs..., labels), a mapping for model(**batch), or a DataLoader of "
            f"either; got {type(batch).__name__}."
        )
    if len(batch) < 2:
        raise ValueError(
            f"Expected a batch as a tuple (inputs..., labels), got a {type(batch).__name__} of {len(batch)} element(s). "
            f"The last element is taken as the labels; without labels pass (inputs, None)."
        )


def labels_of(batch: Batch, names: Sequence[str] = ()) -> Any:
    """The labels: the last element of a tuple; of a mapping what ``names`` says, else ``labels`` (or ``label``); None if none.

    Several names give a dict.

    Raises:
        ValueError: a mapping lacks one of ``names``.
    """
    if not is_mapping(batch):
        return batch[-1]
    missing = [name for name in names if name not in batch] if names else ()
    if missing:
        raise ValueError(f"The batch has no {missing[0]!r}, which `label_names` names: it has {', '.join(batch)}.")
    if len(names) > 1:
        return {name: batch[name] for name in names}
    for key in (*names, *LABEL_KEYS) if names else LABEL_KEYS:
        if key in batch:
            return batch[key]
    return None


def with_labels(batch: Batch, classes: Sequence[int], names: Sequence[str] = ()) -> Batch:
    """The same batch with one class number for each example in place of its labels, in their type and shape."""
    given = labels_of(batch, names)
    told = torch.tensor(list(classes))
    if isinstance(given, Tensor):
        told = told.to(given.device, given.dtype).reshape(given.shape)
    if is_mapping(batch):
        key = next(key for key in (*names, *LABEL_KEYS) if key in batch)
        return {**batch, key: told}
    return (*batch[:-1], told)


def without_targets(batch: Batch, loss_fn: Loss | None, label_names: Sequence[str] = ()) -> list[int]:
    """Which examples of a batch have no label but −100, or by ``loss_fn.targets`` no target: they teach and ask nothing."""
    labels = labels_of(batch, label_names)
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dim() == 0:
        return []
    count = getattr(loss_fn, "targets", None)
    found = (
        count(labels)
        if callable(count)
        else (labels.flatten(1) if labels.dim() > 1 else labels[:, None]).ne(-100).sum(1)
    )
    return [int(index) for index in (found == 0).nonzero().flatten()]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors within nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)


def size_of(batch: Batch) -> int:
    """The number of examples, :func:`rows_of`; none is an error."""
    size = rows_of(batch)
    if not size:
        shape = next(tuple(tensor.shape) for tensor in _sized(batch))
        raise ValueError(
            f"Expected a batch of at least one example, got a tensor of shape {shape}, whose first dimension counts examples."
        )
    return size


def rows_of(batch: Batch) -> int:
    """The first dimension of the inputs; of words in a row with offsets, that of the labels."""
    check_batch(batch)
    ids = batch.get("input_ids") if is_mapping(batch) else batch[0]
    if isinstance(ids, Tensor) and ids.dim() > 1:  # nearly always, and a third of the time
        return int(ids.shape[0])
    sized = _sized(batch)
    if not sized:
        got = [type(value).__name__ for value in (batch.values() if is_mapping(batch) else batch)]
        raise TypeError(
            f"Expected a batch with at least one tensor of one or more dimensions, got none ({', '.join(got[:6])}). Make tensors "
            f"of its lists or arrays, torch.tensor(ids)."
        )
    size, labels = int(sized[0].shape[0]), labels_of(batch)
    if sized[0].dim() == 1 and isinstance(labels, Tensor) and labels.dim() > 0 and len(labels) != size:
        # All words of the batch in a row, as nn.EmbeddingBag takes them; the offsets of the texts are as many as labels.
        beside = [tensor for tensor in sized[1:] if tensor is not labels and tensor.dim() == 1]
        if any(len(labels) <= len(tensor) <= len(labels) + 1 and not tensor.is_floating_point() for tensor in beside):
            size = len(labels)
    return size


def _sized(batch: Batch) -> list[Tensor]:
    """Its tensors that have a first dimension, the most telling first."""
    if is_mapping(batch):
        preferred = [batch[key] for key in SIZE_KEYS if isinstance(batch.get(key), Tensor)]
        tensors = [*preferred, *tensors_in(dict(batch))]
    else:
        tensors = list(tensors_in(batch))
    return [tensor for tensor in tensors if tensor.dim() > 0]


def part_of(batch: Batch, places: Sequence[int]) -> Batch | None:
    """A batch of some of its examples; None where not each of its tensors has a row for each."""
    size, kept = size_of(batch), torch.tensor(list(places))
    values = list(batch.values()) if is_mapping(batch) else list(batch)
    if any(not isinstance(value, Tensor) or value.dim() == 0 or len(value) != size for value in values):
        return None
    if is_mapping(batch):
        return {key: value[kept.to(value.device)] for key, value in batch.items()}
    return tuple(value[kept.to(value.device)] for value in batch)


def positions_of(batch: Batch) -> int:
    """No fewer than the positions of an example, and so than its rows: no tensor of whole numbers has fewer than the ids."""
    tensors = [tensor for tensor in tensors_in(batch) if not tensor.is_floating_point()]
    return max((tensor.numel() for tensor in tensors), default=0) // max(1, size_of(batch))


def nbytes(batch: Batch) -> int:
    """Bytes of the batch's tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(as_parts(batch)))


def move_to(value: Any, device: torch.device) -> Any:
    """Every tensor on ``device``, as a copy that a model or a loss may write into; other values as they are.

    A copy is fit for autograd too, where the caller collated under inference_mode.
    """
    if isinstance(value, Tensor):
        return on_device(value, device)
    if isinstance(value, Mapping):
        return {key: move_to(item, device) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [move_to(item, device) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
