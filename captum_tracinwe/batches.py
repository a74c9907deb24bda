"""What a batch is: a tuple whose last element is the labels, as in Captum, or a mapping, as in transformers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    "as_batches",
    "blocks",
    "examples_loader",
    "labels_of",
    "move_to",
    "nbytes",
    "refuse_shuffling",
    "run_model",
    "size_of",
]

LABEL_KEYS = ("labels", "label")
# The keys of a mapping whose first dimension counts examples, most telling first.
SIZE_KEYS = ("input_ids", "inputs_embeds", *LABEL_KEYS)

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


def labels_of(batch: Batch) -> Any:
    """The labels: the last element of a tuple; ``labels`` (or ``label``) of a mapping; None when there are none."""
    if is_mapping(batch):
        return next((batch[key] for key in LABEL_KEYS if key in batch), None)
    return batch[-1]


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
    """The number of examples: the first dimension of the inputs."""
    check_batch(batch)
    if is_mapping(batch):
        preferred = [batch[key] for key in SIZE_KEYS if isinstance(batch.get(key), Tensor)]
        tensors = [*preferred, *tensors_in(dict(batch))]
    else:
        tensors = list(tensors_in(batch))
    sized = [tensor for tensor in tensors if tensor.dim() > 0]
    if not sized:
        raise TypeError("Expected a batch with at least one tensor of one or more dimensions, got none.")
    size = int(sized[0].shape[0])
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


def run_model(model: Module, batch: Batch) -> Any:
    """``model(*batch[:-1])`` or ``model(**batch)``; labels are left out where the model does not take them."""
    if not is_mapping(batch):
        return model(*batch[:-1])
    parameters = inspect.signature(model.forward).parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    names = {parameter.name for parameter in parameters}
    return model(**{key: value for key, value in batch.items() if takes_any or key in names or key not in LABEL_KEYS})


# ------------------------------------------------------------------------------------------------------------- blocks


@dataclass(frozen=True)
class Block:
    """Consecutive batches that are taken through all checkpoints before the next ones are read."""

    start: int
    size: int
    batches: list[Batch]


def blocks(loader: Iterable[Batch], what: str, bytes_per_example: int, limit: float) -> Iterator[Block]:
    """Batches grouped so that they and ``bytes_per_example`` together stay within ``limit`` bytes; one batch at least."""
    held: list[Batch] = []
    start, used, size = 0, 0, 0
    for batch in loader:
        examples = size_of(batch)
        needed = nbytes(batch) + examples * bytes_per_example
        if held and used + needed > limit:
            yield Block(start, size, held)
            held, start, used, size = [], start + size, 0, 0
        held.append(batch)
        used, size = used + needed, size + examples
    if not held:
        raise ValueError(f"`{what}` is empty: expected at least one batch.")
    yield Block(start, size, held)


# -------------------------------------------------------------------------------------------------------- DataLoaders


class _OneBatch(Dataset[Batch]):
    """A single batch as a data set of batches."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Batch:
        return self.batch


def as_batches(inputs: Batch | DataLoader[Any], what: str) -> DataLoader[Any]:
    """A DataLoader of batches from one batch or a DataLoader; ``what`` names the argument in errors."""
    if isinstance(inputs, DataLoader):
        refuse_shuffling(inputs, what)
        return inputs
    check_batch(inputs)
    return DataLoader(_OneBatch(inputs), batch_size=None)


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


def examples_loader(loader: DataLoader[Any], indices: Sequence[int]) -> DataLoader[Any] | None:
    """A loader of just these examples (ascending) with the same collating; None if the loader has no random access."""
    if (
        isinstance(loader.dataset, IterableDataset)
        or loader.batch_size is None
        or not isinstance(loader.sampler, SequentialSampler)
        or loader.drop_last
    ):
        return None
    return DataLoader(Subset(loader.dataset, list(indices)), loader.batch_size, collate_fn=loader.collate_fn)
