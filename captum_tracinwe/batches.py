"""What a batch is: a tuple whose last element is the labels, as in Captum, or a mapping, as in transformers."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

__all__ = [
    "Block",
    "blocks",
    "examples_loader",
    "in_order",
    "labels_of",
    "move_to",
    "nbytes",
    "refuse_shuffling",
    "run_model",
    "size_of",
    "without_targets",
]

LABEL_KEYS = ("labels", "label")
# The keys of a mapping whose first dimension counts examples, most telling first.
SIZE_KEYS = ("input_ids", "inputs_embeds", *LABEL_KEYS)

# Of each model the keys of batches that it was said to drop.
_told_of_dropped: WeakKeyDictionary[Module, set[str]] = WeakKeyDictionary()

Batch = Any
Loss = Callable[..., Tensor]


def is_mapping(batch: Batch) -> bool:
    """Dicts, and `transformers.BatchEncoding`, which is a `UserDict`."""
    return isinstance(batch, Mapping)


def check_batch(batch: Batch) -> None:
    """Raise TypeError unless ``batch`` is a mapping or a sequence of at least inputs and labels."""
    if is_mapping(batch):
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
    missing = [name for name in names if name not in batch]
    if missing:
        raise ValueError(f"The batch has no {missing[0]!r}, which `label_names` names: it has {', '.join(batch)}.")
    if len(names) > 1:
        return {name: batch[name] for name in names}
    return next((batch[key] for key in (*names, *LABEL_KEYS) if key in batch), None)


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
    """The number of examples: the first dimension of the inputs; of words in a row with offsets, that of the labels."""
    check_batch(batch)
    if is_mapping(batch):
        preferred = [batch[key] for key in SIZE_KEYS if isinstance(batch.get(key), Tensor)]
        tensors = [*preferred, *tensors_in(dict(batch))]
    else:
        tensors = list(tensors_in(batch))
    sized = [tensor for tensor in tensors if tensor.dim() > 0]
    if not sized:
        raise TypeError("Expected a batch with at least one tensor of one or more dimensions, got none.")
    size, labels = int(sized[0].shape[0]), labels_of(batch)
    if sized[0].dim() == 1 and isinstance(labels, Tensor) and labels.dim() > 0 and len(labels) != size:
        # All words of the batch in a row, as nn.EmbeddingBag takes them; the offsets of the texts are as many as labels.
        beside = [tensor for tensor in sized[1:] if tensor is not labels and tensor.dim() == 1]
        if any(len(labels) <= len(tensor) <= len(labels) + 1 and not tensor.is_floating_point() for tensor in beside):
            size = len(labels)
    if not size:
        raise ValueError(
            f"Expected a batch of at least one example, got a tensor of shape {tuple(sized[0].shape)}, whose first dimension "
            f"counts examples."
        )
    return size


def nbytes(batch: Batch) -> int:
    """Bytes of the batch's tensors."""
    return sum(
        tensor.numel() * tensor.element_size() for tensor in tensors_in(dict(batch) if is_mapping(batch) else batch)
    )


def move_to(value: Any, device: torch.device) -> Any:
    """Every tensor on ``device``, and fit for autograd; other values as they are."""
    if isinstance(value, Tensor):
        moved = value.to(device)
        return moved.clone() if moved.is_inference() else moved  # collated under the caller's inference_mode
    if isinstance(value, Mapping):
        return {key: move_to(item, device) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [move_to(item, device) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def run_model(model: Module, batch: Batch, label_names: Sequence[str] = (), own_loss: bool = False) -> Any:
    """``model(*batch[:-1])`` or ``model(**batch)``; labels are left out where the model does not take them.

    With ``own_loss``, labels of another single name are passed as ``labels`` to a model that takes these. Without it, a model of
    transformers gets no labels unless its decoder's inputs are made of them: its own loss would double the memory.
    """
    if not is_mapping(batch):
        return model(*batch[:-1])
    parameters = inspect.signature(model.forward).parameters.values()
    names = {parameter.name for parameter in parameters}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)

    config = getattr(model, "config", None)
    for_loss_only = not own_loss and hasattr(config, "model_type") and not getattr(config, "is_encoder_decoder", False)

    def wanted(key: str) -> bool:
        if for_loss_only and key == "labels":
            return False
        return key in names or not (key in label_names or (key in LABEL_KEYS and not takes_any))

    given = {key: value for key, value in batch.items() if wanted(key)}
    if takes_any and hasattr(config, "model_type"):
        _say_dropped(model, [key for key in given if key not in names and isinstance(given[key], Tensor)], label_names)
    if own_loss and len(label_names) == 1 and label_names[0] not in given and "labels" in names:
        given["labels"] = batch[label_names[0]]
    return model(**given)


def _say_dropped(model: Module, keys: Iterable[str], label_names: Sequence[str]) -> None:
    """Warn, once, of keys for which a model of transformers has no use: its ``**kwargs`` swallow a misspelt name."""
    from transformers.utils import generic

    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    # A user's own class may hand on what it does not name, as one that is made of two models does.
    if not type(base).__module__.startswith("transformers.") or hasattr(base.config, "encoder"):
        return
    names = [name for name in inspect.signature(base.forward).parameters if name not in ("kwargs", *LABEL_KEYS)]
    known = getattr(getattr(generic, "TransformersKwargs", None), "__annotations__", ())
    used = {*names, *LABEL_KEYS, *label_names, *known}
    told = _told_of_dropped.setdefault(model, set())
    for key in keys:
        if key in used or key in told:
            continue
        told.add(key)
        near = difflib.get_close_matches(key, names, 1)
        warnings.warn(
            f"The batch has {key!r}, which {type(base).__name__}.forward does not take: it has no part in any score. "
            + (f"Is {near[0]!r} meant? " if near else "")
            + f"Expected {', '.join(names[:4])}, ...; leave out what is not for the model, and name labels by label_names=[...].",
            stacklevel=5,
        )


# ------------------------------------------------------------------------------------------------------------- blocks


@dataclass(frozen=True)
class Block:
    """Consecutive batches that are taken through all checkpoints before the next ones are read."""

    start: int
    size: int
    batches: list[Batch]


def blocks(
    loader: Iterable[Batch], what: str, bytes_per_example: int | Callable[[Batch], int], limit: float
) -> Iterator[Block]:
    """Batches grouped so that they and ``bytes_per_example`` together stay within ``limit`` bytes; one batch at least."""
    held: list[Batch] = []
    start, used, size = 0, 0, 0
    for batch in loader:
        examples = size_of(batch)
        each = bytes_per_example if isinstance(bytes_per_example, int) else bytes_per_example(batch)
        needed = nbytes(batch) + examples * each
        if held and used + needed > limit:
            yield Block(start, size, held)
            held, start, used, size = [], start + size, 0, 0
        held.append(batch)
        used, size = used + needed, size + examples
    if not held:
        raise ValueError(f"`{what}` is empty: expected at least one batch.")
    yield Block(start, size, held)


# -------------------------------------------------------------------------------------------------------- DataLoaders


def in_order(
    dataset: Dataset[Any], batch_size: int | None, collate_fn: Callable[[list[Any]], Any] | None = None
) -> DataLoader[Any]:
    """A DataLoader of a data set in its order.

    With a generator of its own: each pass of a plain one draws a number from torch's, which another thread may have seeded.
    """
    return DataLoader(dataset, batch_size, collate_fn=collate_fn, generator=torch.Generator())


def refuse_shuffling(loader: DataLoader[Any], what: str) -> None:
    """Raise ValueError if ``loader`` yields examples in random order: a score's column would name no example."""
    pending: list[Any] = [loader.sampler, loader.batch_sampler]
    while pending and not isinstance(loader.dataset, IterableDataset):
        sampler = pending.pop()
        if sampler is None:
            continue
        pending.append(getattr(sampler, "sampler", None))  # that of a BatchSampler
        random = isinstance(sampler, (RandomSampler, SubsetRandomSampler, WeightedRandomSampler))
        known = type(sampler) in (SequentialSampler, BatchSampler)
        if random or getattr(sampler, "shuffle", False) is True or not (known or _repeats_itself(sampler)):
            raise ValueError(
                f"`{what}` is a DataLoader that shuffles ({type(sampler).__name__}): expected a fixed order, because "
                f"scores are told by the index of an example. Build it with shuffle=False."
            )


def _repeats_itself(sampler: Sampler[Any]) -> bool:
    """Whether a sampler of an unknown kind gives the same indices when asked twice."""
    return list(sampler) == list(sampler)


def examples_loader(
    loader: DataLoader[Any], indices: Sequence[int], batch_size: int | None = None
) -> DataLoader[Any] | None:
    """A loader of just these examples (ascending) with the same collating; None if the loader has no random access.

    ``batch_size``: examples to a batch; by default as many as in the loader's.
    """
    if (
        isinstance(loader.dataset, IterableDataset)
        or loader.batch_size is None
        or not isinstance(loader.sampler, SequentialSampler)
        or loader.drop_last
    ):
        return None
    size = batch_size or loader.batch_size
    return in_order(Subset(loader.dataset, list(indices)), size, loader.collate_fn)
