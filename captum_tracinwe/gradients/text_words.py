"""Which ids a model looks up are words of the texts, and which are not: kinds of token, words for classes, places."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_tracinwe.batches.batch import Batch, is_mapping, labels_of, size_of, tensors_in
from captum_tracinwe.gradients.model_state import memory_of

__all__ = ["TextWords"]

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_KINDS = ("token_type_ids", "segment_ids", "position_ids")
# By these numbers leave torch, and may come back as others.
_WAYS_OUT = ("tolist", "numpy", "item", "__array__", "__int__", "__index__", "__float__", "__dlpack__")
# Of their argument these take the shape alone.
_SHAPES = ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randint_like", "randn_like")


class TextWords:
    """Follows whole numbers from a batch through one forward pass.

    A model may cut, shift, join or renumber a text's ids before it looks them up, as a decoder does: what is made of the texts'
    ids are words of theirs. What is made of ``token_type_ids``, positions or masks alone is not, nor is what the model has of its
    own, such as the words that a verbaliser has for classes. The label of a whole text is no text. Where nobody can follow, as
    through NumPy, the ids tell: words of a text are those that its batch holds for the most part.

    Args:
        model (Module): its ``forward`` names the inputs of a tuple.
        batch: on the model's device.
        label_names (sequence of str): as in :class:`TracInWE`.
    """

    def __init__(self, model: Module, batch: Batch, label_names: Any = ()) -> None:
        self._size = size_of(batch)
        # What is followed, by id, and whether it is made of words. Held here, or another tensor might get its id.
        self._known = {id(tensor): (tensor, False) for tensor in _own(model)}
        self._texts: list[Tensor] = []
        labels = {id(one) for one in tensors_in([labels_of(batch, label_names)]) if one.dim() < 2}
        self._labels = labels
        self._left = False  # whether words may have gone out of torch
        self._written: set[int] = set()  # into what memory words were written
        for name, given in _named(model, batch):
            for tensor in tensors_in([given]):
                words = name not in _KINDS and not name.endswith("mask")
                if id(tensor) not in labels:
                    self._known[id(tensor)] = tensor, words
                if words and tensor.dtype in _WHOLE and tensor.dim() > 0:
                    self._texts.append(tensor)

    def follow(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], made: Any) -> None:
        """Told of each step of the pass and of what it made."""
        if isinstance(made, Tensor) and made.dtype not in _WHOLE:  # nearly all
            return
        name = getattr(function, "__name__", "")
        outputs = [one for one in tensors_in([made]) if one.dtype in _WHOLE]
        written = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        if written and isinstance(args[0], Tensor):
            outputs.append(args[0])
        if name in _SHAPES or name.startswith("new_"):
            self._know(outputs, False)
            return
        given = list(tensors_in([args, kwargs]))
        whole = [one for one in given if id(one) in self._known or one.dtype in _WHOLE]
        of_words = [self._kind(one) for one in whole if id(one) not in self._labels]
        if name in _WAYS_OUT:
            self._left = self._left or (bool(whole) and False not in of_words)
        elif True in of_words:
            self._know(outputs, True)
            if written:  # what it is a part of as well
                self._written.update(map(memory_of, outputs))
        elif None not in of_words and (whole or not (given or self._left)):
            self._know(outputs, False)

    def _kind(self, tensor: Tensor) -> bool | None:
        """Whether a tensor is made of words; None where that is not known."""
        known = self._known.get(id(tensor), (tensor, None))[1]
        return True if known is False and self._written and memory_of(tensor) in self._written else known

    def _know(self, tensors: list[Tensor], words: bool) -> None:
        self._known.update((id(one), (one, words)) for one in tensors)

    def hold(self, ids: Tensor) -> bool:
        """Whether ids that are looked up are words of the texts."""
        known = self._kind(ids)
        if known is not None:
            return known
        if not ids.numel() or not self._texts:
            return True
        # Not all of them: the model may have put a [CLS] before.
        rows, texts = [ids], [self._texts]
        if ids.dim() > 0 and len(ids) == self._size and all(len(text) == self._size for text in self._texts):
            rows, texts = list(ids), [[text[i] for text in self._texts] for i in range(self._size)]
        held = [
            torch.isin(row, torch.cat([text.flatten() for text in of])) for row, of in zip(rows, texts, strict=True)
        ]
        return bool(torch.cat([one.flatten() for one in held]).double().mean() > 0.5)


def _own(model: Module) -> list[Tensor]:
    """Whole numbers that a model has of its own: in buffers, and in attributes of layers that are no library's."""
    found: list[Tensor] = []
    for module in model.modules():
        stores = [module._buffers] if module._buffers else []
        if not type(module).__module__.startswith(("torch.", "transformers.")):
            stores.append(module.__dict__)
        for store in stores:
            found += [one for one in store.values() if isinstance(one, Tensor) and one.dtype in _WHOLE]
    return found


def _named(model: Module, batch: Batch) -> Iterator[tuple[str, Any]]:
    """The entries of a batch that go to the model, by the names it has for them; of a tuple the last one does not."""
    if is_mapping(batch):
        yield from batch.items()
        return
    parameters = inspect.signature(model.forward).parameters.values()
    names = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    for i, given in enumerate(batch[:-1]):
        if is_mapping(given):
            yield from given.items()
        else:
            yield names[i] if i < len(names) else "", given
