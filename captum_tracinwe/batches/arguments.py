"""What `TracInWE` demands of its arguments at run time, and the words in which it says so."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Collection, Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from captum.influence._utils.common import KMostInfluentialResults
from torch import Tensor
from torch.nn import CrossEntropyLoss, Module, NLLLoss
from torch.nn.modules.loss import _Loss
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader

__all__ = [
    "as_float",
    "as_memory_limit",
    "check_arguments",
    "check_flags",
    "check_paths",
    "index_lists",
    "is_list",
    "is_plain",
    "is_rate",
    "is_whole",
    "kind_of",
    "no_targets",
    "out_of_range",
]


# Where torch keeps layers that compute in int8 forwards only.
INT8 = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")


def check_arguments(
    model: Any,
    train_dataset: Any,
    loss_fn: Any,
    batch_size: Any,
    test_loss_fn: Any,
    exclude_tokens: Any,
    top_k_words: Any,
    label_names: Any,
    collate_fn: Any,
    order_by_length: Any,
    memory_limit: Any,
    load: Any,
) -> None:
    """What the types say, said at run time."""
    if not isinstance(model, Module):
        raise TypeError(f"`model` should be a torch.nn.Module, got {type(model).__name__}.")
    quantised = next((name for name, layer in model.named_modules() if type(layer).__module__.startswith(INT8)), None)
    if quantised is not None:
        raise ValueError(
            f"The model's layer {quantised!r} is a {type(model.get_submodule(quantised)).__name__} of torch.ao's int8 kernels, "
            f"through which there is no gradient. Expected weights in floating point, or quantised weights that are turned into "
            f"it where they are used (torchao's weight-only kinds). Explain the model from before quantize_dynamic."
        )
    lazy = [name for name, one in (*model.named_parameters(), *model.named_buffers()) if is_lazy(one)]
    if lazy:
        raise ValueError(
            f"The model's {', '.join(map(repr, lazy[:4]))} have no shape yet (a layer such as LazyLinear): expected a model "
            f"through which a batch has gone. Call model(...) once on one of yours."
        )
    for name, loss in (("loss_fn", loss_fn), ("test_loss_fn", test_loss_fn)):
        _check_loss(name, loss)
    if train_dataset is None:
        raise TypeError(
            "`train_dataset` is None: expected a Dataset or DataLoader of training examples. It may be left out only with "
            "index=..., an index that build_index made of them."
        )
    if isinstance(train_dataset, DataLoader):
        if order_by_length:
            raise ValueError("`order_by_length` needs a Dataset as `train_dataset`: a DataLoader has its own order.")
        if collate_fn is not None:
            raise ValueError("`collate_fn` needs a Dataset as `train_dataset`: a DataLoader has its own collate_fn.")
    else:
        if not is_whole(batch_size) or not 1 <= batch_size <= sys.maxsize:
            raise ValueError(f"`batch_size` should be a whole number of at least 1, got {batch_size!r}.")
        if hasattr(train_dataset, "__len__") and len(train_dataset) == 0:
            raise ValueError("`train_dataset` is empty: expected at least one training example.")
    if collate_fn is not None and (not callable(collate_fn) or isinstance(collate_fn, type)):
        raise TypeError(f"`collate_fn` should be a function (list of examples) -> batch, got {collate_fn!r:.80}.")
    collator = train_dataset.collate_fn if isinstance(train_dataset, DataLoader) else collate_fn
    if hasattr(collator, "pad_token_id") and hasattr(collator, "convert_tokens_to_ids"):
        raise TypeError(
            f"`collate_fn` is a tokenizer ({type(collator).__name__}): expected a function (list of examples) -> batch. Make one "
            f"of it: captum_tracinwe.collate.TokenizeTexts(tokenizer, text=..., label=...)."
        )
    if not callable(load) or isinstance(load, type):
        raise TypeError(
            f"`checkpoints_load_func` should be a function (model, checkpoint) -> learning rate, got {load!r:.80}. Leave it out "
            f"for checkpoints of save_checkpoint, of transformers or of torch.save."
        )
    check_flags(order_by_length=order_by_length)
    if not is_list(label_names) or not all(isinstance(name, str) for name in label_names):
        raise TypeError(f"`label_names` should be a name or a list of names, got {label_names!r}.")
    if isinstance(exclude_tokens, (str, bytes)) or not is_list(exclude_tokens):
        raise TypeError(f"`exclude_tokens` should be a list of token ids, got {exclude_tokens!r}.")
    if isinstance(exclude_tokens, Collection):
        wrong = next((token for token in exclude_tokens if not _is_id(token)), 0)
        if not _is_id(wrong):
            raise TypeError(
                f"`exclude_tokens` should be a list of token ids, got {wrong!r} in it. Ids of tokens: "
                f"tokenizer.convert_tokens_to_ids(['[CLS]', '[SEP]'])."
            )
    if top_k_words is not None and (not is_whole(top_k_words) or not 1 <= top_k_words <= sys.maxsize):
        raise ValueError(
            f"`top_k_words` should be a whole number of at least 1 (or None for all), got {top_k_words!r}."
        )
    as_memory_limit(memory_limit)


def as_memory_limit(value: Any) -> int:
    """A number of bytes; of infinitely many the largest whole number that memory is counted in.

    Raises:
        ValueError: it is no number, or below 1.
    """
    given: Any = value
    if type(given) is bool or not isinstance(given, Real) or not as_float(given) >= 1:  # nor is NaN
        raise ValueError(f"`memory_limit` should be a number of bytes of at least 1, got {value!r:.80}.")
    return int(min(as_float(given), sys.maxsize))


def check_paths(checkpoints: Iterable[Any]) -> None:
    """Raise TypeError unless all are paths, which is what the loader takes that is used where none is given."""
    wrong = next((one for one in checkpoints if not isinstance(one, (str, os.PathLike))), None)
    if wrong is not None:
        raise TypeError(
            f"`checkpoints` holds a {type(wrong).__name__} ({wrong!r:.60}): expected paths, for that is what is read where "
            f"`checkpoints_load_func` is left out. Save it by save_checkpoint, or pass a function (model, checkpoint) -> rate "
            f"that takes it."
        )


def check_flags(**flags: Any) -> None:
    """Raise TypeError unless each is True or False: ``proponents="opponents"`` would be true."""
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_)) and not (isinstance(value, int) and value in (0, 1)):
            raise TypeError(f"`{name}` should be True or False, got {value!r:.80}.")


def is_list(value: Any) -> bool:
    """Whether it can be gone through; arrays and tensors without a dimension say so too, and cannot."""
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) > 0


def _check_loss(name: str, loss: Any) -> None:
    if loss is None:
        return
    if not callable(loss):
        raise TypeError(f"`{name}` should be a function (prediction, labels) -> loss, got {loss!r}.")
    if isinstance(loss, type):
        raise TypeError(
            f"`{name}` is the class {loss.__name__}: expected a function (prediction, labels) -> loss. Make one of it: "
            f"{loss.__name__}({'reduction=' + repr('none') if issubclass(loss, _Loss) else '...'})."
        )
    # Others with weights (nn.BCELoss, nn.MultiMarginLoss) divide by the number of examples.
    if isinstance(loss, (CrossEntropyLoss, NLLLoss)) and loss.weight is not None and loss.reduction == "mean":
        kind = type(loss).__name__
        raise ValueError(
            f"`{name}` is a {kind} with class weights and reduction='mean', which divides by the weights. Alone, an example of "
            f"weight w has the loss w · l / w = l, and the weights would play no part. Expected one loss per example: "
            f"{kind}(weight=..., reduction='none')."
        )


def _is_id(value: Any) -> bool:
    value = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    return isinstance(value, Real) and float(value).is_integer()


def is_whole(value: Any) -> bool:
    """Whether ``value`` is a whole number: Python's or NumPy's, no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_rate(value: Any) -> bool:
    """Whether ``value`` can be a learning rate: a finite number ≥ 0."""
    if type(value) is bool or not isinstance(value, (Real, Tensor)):
        return False
    if isinstance(value, Tensor) and (not is_plain(value) or value.numel() != 1):
        return False
    return 0 <= as_float(value) < math.inf


def as_float(value: Any) -> float:
    """A number as a float; a whole one that no float holds is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def is_plain(value: Any) -> bool:
    """Whether ``value`` is a tensor whose numbers can be read: dense, real, and somewhere in memory."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_complex()
        and not value.is_quantized
        and not value.is_meta
    )


def kind_of(value: Any) -> str:
    """What a value is, in a word or two, where a tensor was expected whose numbers can be read."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"Tensor of {value.dtype}, {'meta' if value.is_meta else value.layout}"


def index_lists(train_indices: Any, size: int) -> list[list[int]]:
    """``train_indices`` as one list of int per test example."""
    if isinstance(train_indices, KMostInfluentialResults):
        train_indices = train_indices.indices
    if isinstance(train_indices, Tensor):
        given = train_indices.tolist()
    else:
        given = list(train_indices) if is_list(train_indices) else train_indices
    if not isinstance(given, list) or len(given) != size or not all(map(is_list, given)):
        raise ValueError(
            f"`train_indices` should hold one list of training indices for each of the {size} test examples, got {given!r:.80}. "
            f"For example: influence(inputs, k=5).indices."
        )
    lists = [row.tolist() if isinstance(row, Tensor) else list(row) for row in given]
    wrong = next((index for row in lists for index in row if not is_whole(index)), None)
    if wrong is not None:
        raise ValueError(f"`train_indices` should hold whole numbers, got {wrong!r}.")
    return [[int(index) for index in row] for row in lists]


def no_targets(what: str, indices: Sequence[int]) -> str:
    """The message about examples whose loss is over nothing."""
    return (
        f"{what.capitalize()} examples {list(indices[:10])} have no target (all labels are −100, or none lies in the part asked "
        f"about). Their gradient is taken as 0, and so are all of their scores."
    )


def out_of_range(indices: Sequence[int], size: int) -> str:
    """The message about the first training index that is not there."""
    wrong = next(index for index in indices if not 0 <= index < size)
    return f"`train_indices` names training example {wrong}: expected 0 to {size - 1}, for the training set has {size} examples."
