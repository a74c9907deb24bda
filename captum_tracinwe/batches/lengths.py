"""Training texts taken in the order of their length, so that a batch costs its own longest text, not everybody's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from captum_tracinwe.batches.batch import LABEL_KEYS
from captum_tracinwe.batches.counting import Chosen
from captum_tracinwe.batches.loaders import in_order

__all__ = ["order_by_length", "trim_padding"]


def order_by_length(
    dataset: Dataset[Any],
    batch_size: int,
    collate_fn: Callable[[list[Any]], Any] = default_collate,
    label_names: Collection[str] = (),
) -> tuple[DataLoader[Any], Tensor]:
    """A loader of the examples from short to long, padding trimmed, and the index of the example at each place, ``(M,)``.

    Args:
        dataset (Dataset): map-style, of mappings with an ``attention_mask``, or with ``input_ids`` as long as the text.
        batch_size (int): examples to a batch.
        collate_fn (callable): makes a batch of examples, before it is trimmed.
        label_names (collection of str): labels besides ``labels`` and ``label``.

    Raises:
        ValueError: the examples carry neither, or there is no random access to them.
    """
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ValueError(
            f"`order_by_length` needs a data set with a length and random access, got {type(dataset).__name__}: build its "
            f"batches by length yourself and pass a DataLoader."
        )
    lengths = [_length(dataset[index], index) for index in range(len(dataset))]
    order = torch.sort(torch.tensor(lengths), stable=True).indices
    loader = in_order(
        Chosen(dataset, order.tolist()),
        batch_size,
        lambda examples: trim_padding(collate_fn(examples), label_names),
    )
    return loader, order


def _length(example: Any, index: int) -> int:
    """Words of an example: where nothing tells of padding, all its ids are words."""
    if isinstance(example, Mapping) and "attention_mask" in example:
        return int(torch.as_tensor(example["attention_mask"]).sum())
    ids = example.get("input_ids") if isinstance(example, Mapping) else None
    if getattr(ids, "ndim", 0) == 1 or (isinstance(ids, (list, tuple)) and all(isinstance(one, Real) for one in ids)):
        return len(ids)  # type: ignore[arg-type]
    got = ", ".join(example) if isinstance(example, Mapping) else type(example).__name__
    raise ValueError(
        f"`order_by_length` needs examples as mappings with an `attention_mask`, to tell text from padding, or with `input_ids` "
        f"of single texts; example {index} is {got}."
    )


def trim_padding(batch: Mapping[str, Any], label_names: Collection[str] = ()) -> dict[str, Any]:
    """Cut the columns on the right where all texts of the batch are padding, from every tensor that has them.

    On the left nothing is cut: there it would move the positions of the words. Nor is anything where a label stands behind
    the texts: the target of an encoder-decoder may be longer than its text, though both are padded alike.
    """
    mask = batch.get("attention_mask")
    if not isinstance(mask, Tensor):  # a collator that packs texts leaves it out
        return dict(batch)
    axis = mask.dim() - 1  # 2 where examples have several texts, as in a multiple choice
    columns = mask.shape[axis]
    used = (mask != 0).flatten(0, -2).any(0).nonzero()
    width = int(used.max()) + 1 if used.numel() else columns
    padded = {
        key: value
        for key, value in batch.items()
        if isinstance(value, Tensor)
        and value.dim() > axis
        and value.shape[axis] == columns
        and not key.startswith("decoder_")
        # One number per class, not per position.
        and not (key in (*LABEL_KEYS, *label_names) and value.is_floating_point())
    }
    labels = [padded[key] for key in (*LABEL_KEYS, *label_names) if key in padded]
    if any(bool((label.narrow(axis, width, columns - width) != -100).any()) for label in labels):
        return dict(batch)
    # Contiguous as a collator's own: T5's loss takes `labels.view(-1)`.
    return {key: value.narrow(axis, 0, width).contiguous() if key in padded else value for key, value in batch.items()}
