"""A batch through a model: which of its entries are handed on, and what is said of those that are not."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor
from torch.nn import Module

from captum_tracinwe.batches.batch import LABEL_KEYS, Batch, is_mapping
from captum_tracinwe.batches.wrapped import signature_of
from captum_tracinwe.gradients.several_texts import read_one_by_one, texts_of
from captum_tracinwe.gradients.switches import as_the_caller

__all__ = ["NotTogether", "run_model"]

# What tokenizers add to the ids, and by what words in the names of its parameters a model may take it all the same.
ADDED = {"attention_mask": ("mask",), "token_type_ids": ("type", "segment")}

# Of each model the keys of batches that it was said to drop.
_told_of_dropped: WeakKeyDictionary[Module, set[str]] = WeakKeyDictionary()


class NotTogether(ValueError):
    """Raised of a model that takes no two texts at once, or in which nobody can tell whose words are whose."""


def run_model(model: Module, batch: Batch, label_names: Sequence[str] = (), own_loss: bool = False) -> Any:
    """``model(*batch[:-1])`` or ``model(**batch)``; labels are left out where the model does not take them.

    With ``own_loss``, labels of another single name are passed as ``labels`` to a model that takes these. Without it, a model of
    transformers gets no labels unless its decoder's inputs are made of them: its own loss would double the memory.
    A model of one text reads several texts of an example one by one. What a tokenizer adds for other models is left out.
    """
    texts = texts_of(model, batch)
    if texts is not None:
        return read_one_by_one(model, texts)
    if not is_mapping(batch):
        return _run(model, *batch[:-1])
    parameters = signature_of(model.forward)
    names = {parameter.name for parameter in parameters}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)

    config = getattr(model, "config", None)
    for_loss_only = not own_loss and hasattr(config, "model_type") and not getattr(config, "is_encoder_decoder", False)

    def wanted(key: str) -> bool:
        if for_loss_only and key == "labels":
            return False
        if key in ADDED and not takes_any and _is_for_others(key, batch[key], names):
            return False
        return key in names or not (key in label_names or (key in LABEL_KEYS and not takes_any))

    given = {key: value for key, value in batch.items() if wanted(key)}
    if takes_any and hasattr(config, "model_type"):
        _say_dropped(model, [key for key in given if key not in names and isinstance(given[key], Tensor)], label_names)
    if own_loss and len(label_names) == 1 and label_names[0] not in given and "labels" in names:
        given["labels"] = batch[label_names[0]]
    if "use_cache" in names and hasattr(config, "model_type"):
        # In eval mode a model keeps states for tokens to come. RWKV writes them over those that its gradient needs.
        given.setdefault("use_cache", False)
    return _run(model, **given)


def _is_for_others(key: str, value: Any, names: Iterable[str]) -> bool:
    """Whether a model has no use for what a tokenizer added: then padding, if the model sees it, is the probe's to find."""
    if any(word in name for name in names for word in ADDED[key]):
        return False
    return key == "attention_mask" or (isinstance(value, Tensor) and not value.any())


def _run(model: Module, *args: Any, **kwargs: Any) -> Any:
    try:
        with as_the_caller():
            return model(*args, **kwargs)
    except ValueError as error:
        if "batch sizes > 1" not in str(error):  # transformers' classifiers that read the last token of a text
            raise
        raise NotTogether(
            f"The {type(model).__name__} has no padding token, by which it would tell where each text of a batch ends, and takes "
            f"no batch sizes above 1. Expected model.config.pad_token_id, or one text at a time. Set it to the id that your "
            f"batches are padded with; or take batch_size=1, and `inputs` as a DataLoader(..., batch_size=1)."
        ) from error


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
