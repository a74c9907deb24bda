"""Which ids a model looks up are words of the texts, and which are not: kinds of token, words for classes, places."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_tracinwe.batches.batch import Batch, is_mapping, labels_of, size_of, tensors_in
from captum_tracinwe.batches.columns import WORDS
from captum_tracinwe.batches.wrapped import parameters_of
from captum_tracinwe.gradients.marks import Marks, joins
from captum_tracinwe.gradients.model_state import memory_of

__all__ = ["TextWords"]

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_KINDS = ("type_ids", "segment_ids", "position_ids", "mask")
# By these numbers leave torch, and may come back as others.
_WAYS_OUT = ("tolist", "numpy", "item", "__array__", "__int__", "__index__", "__float__", "__dlpack__")
# Of their argument these take the shape alone.
_SHAPES = ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randint_like", "randn_like")


class TextWords:
    """Follows whole numbers from a batch through one forward pass.

    A model may cut, shift, join or renumber a text's ids before it looks them up, as a decoder does: what is made of the texts'
    ids are words of theirs. What is made of ``token_type_ids``, positions or masks alone is not, nor is what the model has of its
    own, such as the words that a verbaliser has for classes; where it joins them to a text, each position is told apart. The
    label of a whole text is no text, nor is a number beside it, such as who wrote it. Where nobody can follow, as through NumPy,
    the ids tell: words of a text are those that its batch holds for the most part.

    Args:
        model (Module): its ``forward`` names the inputs of a tuple.
        batch: on the model's device.
        label_names (sequence of str): as in :class:`TracInWE`.
        rows (int): V, of the table: what has as many numbers at its end and is made of words alone may be their one-hot form.
    """

    def __init__(self, model: Module, batch: Batch, label_names: Any = (), rows: int = 0) -> None:
        self._size = size_of(batch)
        # What is followed, by id, and whether it is made of words. Held here, or another tensor might get its id.
        self._known: dict[int, tuple[Tensor, bool | Tensor | None]] = {id(one): (one, False) for one in _own(model)}
        self._texts: list[Tensor] = []
        labels = list(tensors_in([labels_of(batch, label_names)]))
        self._labels = {id(one) for one in labels if one.dim() < 2}
        self._left = False  # whether words may have gone out of torch
        self._marks = Marks(self._kind, lambda: [one for one, _ in self._known.values() if one.dtype in _WHOLE])
        self._end = (rows,) if rows else None
        self._others: dict[int, str] = {}  # where columns lie that stand beside ``input_ids`` and may be words
        columns = [(name, one) for name, given in _named(model, batch) for one in tensors_in([given])]
        named = any(WORDS in name for name, _ in columns)
        wide = any(one.dim() > 1 and one.dtype in _WHOLE and not name.endswith(_KINDS) for name, one in columns)
        for name, tensor in columns:
            words = not name.endswith(_KINDS)
            if WORDS not in name and not any(tensor is one for one in labels):
                number = (tensor.dim() == 1 and wide) or (tensor.dim() == 2 and tensor.shape[1] == 1 and named)
                words = words and not number
                if words and named and tensor.dtype in _WHOLE:
                    self._others[memory_of(tensor)] = name
            if id(tensor) not in self._labels:
                self._known[id(tensor)] = tensor, words
            if words and tensor.dtype in _WHOLE and tensor.dim() > 0:
                self._texts.append(tensor)

    def follow(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], made: Any) -> None:
        """Told of each step of the pass and of what it made."""
        if isinstance(made, Tensor) and made.dtype not in _WHOLE:  # nearly all
            if made.shape[-1:] == self._end and any(self._kind(one) is True for one in tensors_in([args, kwargs])):
                self._know([made], True)
            return
        name = getattr(function, "__name__", "")
        outputs = [one for one in tensors_in([made]) if one.dtype in _WHOLE]
        written = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        if name in _SHAPES or name.startswith("new_"):
            self._know(outputs, False)
            return
        given = list(tensors_in([args, kwargs]))
        whole = [one for one in given if id(one) in self._known or one.dtype in _WHOLE]
        if joins(name) and not self._left:  # what is there since before the pass
            self._know([one for one in whole if id(one) not in self._known], False)
        kinds = [self._kind(one) for one in whole if id(one) not in self._labels]
        some = any(kind is not None and kind is not False for kind in kinds)
        if name in _WAYS_OUT:
            self._left = self._left or (bool(whole) and not any(kind is False for kind in kinds))
        elif some and written and isinstance(args[0], Tensor):
            into = args[0]
            if into.dtype not in _WHOLE:
                self._know([into] if into.shape[-1:] == self._end else [], True)
            elif not self._marks.write(name, function, args, kwargs):
                self._know([into], True)
        elif some:
            apart = name == "pad" or any(isinstance(kind, Tensor) or (joins(name) and kind is False) for kind in kinds)
            marks = self._marks.of_step(name, function, args, kwargs, outputs) if apart else [True] * len(outputs)
            for output, mark in zip(outputs, marks, strict=True):
                self._know([output], mark)
        else:
            known = None not in kinds and (whole or _conditions(given) or not (given or self._left))
            self._know(
                [*outputs, *args[:1]] if written and isinstance(args[0], Tensor) else outputs, False if known else None
            )

    def _kind(self, tensor: Tensor) -> bool | Tensor | None:
        """Whether a tensor is made of words, or which of its positions are; None where that is not known."""
        written = self._marks.written(tensor)
        return self._known.get(id(tensor), (tensor, None))[1] if written is None else written

    def _know(self, tensors: list[Tensor], words: bool | Tensor | None) -> None:
        self._known.update((id(one), (one, words)) for one in tensors)

    def made_of(self, tensor: Tensor, by_ids: bool = False) -> bool:
        """Whether a tensor of any kind is known to be made of words, such as their one-hot form; or, ``by_ids``, seems to be."""
        kind = self.hold(tensor) if by_ids else self._kind(tensor)
        return kind is not None and kind is not False

    def column_of(self, ids: Tensor) -> str | None:
        """The column beside ``input_ids`` that ids which count as words are."""
        return self._others.get(memory_of(ids)) if self._others else None

    def hold(self, ids: Tensor) -> bool | Tensor | None:
        """Whether ids that are looked up are words of the texts; of some that are and some that are not, which are.

        None of those that nobody can follow and that the batch does not hold.
        """
        known = self._kind(ids)
        if isinstance(known, Tensor):
            return True if bool(known.all()) else known.clone() if bool(known.any()) else False
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
        return True if bool(torch.cat([one.flatten() for one in held]).double().mean() > 0.5) else None


def _conditions(given: list[Tensor]) -> bool:
    """Whether all is made of yes and no: a mask of a text, as numbers, is none of its words."""
    return bool(given) and all(one.dtype == torch.bool for one in given)


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
    names = [one.name for one in parameters_of(model) if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    for i, given in enumerate(batch[:-1]):
        if is_mapping(given):
            yield from given.items()
        else:
            yield names[i] if i < len(names) else "", given
