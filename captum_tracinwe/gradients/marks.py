"""Which positions of ids are a text's, where a model joins them to others: marks that go each step beside the ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.gradients.model_state import memory_of

__all__ = ["Marks", "joins"]

_JOINS = ("cat", "concat", "concatenate", "stack", "hstack", "vstack", "column_stack", "row_stack", "dstack")
# These put what their first argument holds elsewhere. What lies where it was needs no marks of its own.
_MOVES = (
    *(
        "__getitem__",
        "index_select",
        "gather",
        "take",
        "take_along_dim",
        "masked_select",
        "reshape",
        "flatten",
        "contiguous",
    ),
    *(
        "clone",
        "repeat",
        "tile",
        "repeat_interleave",
        "expand",
        "expand_as",
        "flip",
        "fliplr",
        "roll",
        "unfold",
        "view",
    ),
    *(
        "transpose",
        "permute",
        "movedim",
        "swapaxes",
        "t",
        "__get__",
        "squeeze",
        "unsqueeze",
        "narrow",
        "select",
        "unbind",
    ),
    *("split", "chunk", "tensor_split", "__iter__", "detach", "view_as", "reshape_as"),
)
# Same shape, other places.
_MIXES = ("sort", "argsort", "msort", "cumsum", "unique")
# Of these the last argument is what is written.
_WRITES = ("copy_", "scatter_", "index_copy_", "masked_scatter_", "__setitem__")


def joins(name: str) -> bool:
    """Whether a step puts tensors side by side, or numbers of its own beside one."""
    return name in _JOINS or name == "pad"


class Marks:
    """Marks of ids some of which are words of the texts: True where they are.

    What a model writes into memory is marked there, for all that looks at it. A number that it writes beside words of a text is
    the text's, such as the symbol with which a decoder starts, or the mask in a word's place.

    Args:
        kind (callable): of a tensor, whether it is made of words, its marks, or None where nobody knows: it counts as words then.
        known (callable): all tensors of which that is known.
    """

    def __init__(self, kind: Callable[[Tensor], bool | Tensor | None], known: Callable[[], Iterable[Tensor]]) -> None:
        self._kind, self._all = kind, known
        # By memory: a tensor that keeps it from being given away, and a mark for each number there.
        self._memory: dict[int, tuple[Tensor, Tensor]] = {}

    def written(self, tensor: Tensor) -> Tensor | None:
        """The marks of a tensor in whose memory words were written; None of others."""
        if not self._memory:
            return None
        held = self._memory.get(memory_of(tensor))
        return self._view(tensor) if held is not None and held[0].element_size() == tensor.element_size() else None

    def write(self, name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Told of a step that writes words into its first argument, or something into words; whether that could be marked."""
        into, place = args[0], memory_of(args[0])
        if not place:
            return False
        if self.written(into) is None:
            before = [
                (one, self._kind(one))
                for one in (*self._all(), into)
                if one.element_size() == into.element_size() and memory_of(one) == place
            ]
            count = into.untyped_storage().nbytes() // into.element_size()
            self._memory[place] = into, torch.zeros(count, dtype=torch.bool, device=into.device)
            for one, kind in before:  # what is written into may be a part, such as a column
                self._view(one).copy_(kind if isinstance(kind, Tensor) else torch.tensor(kind is not False))
        own = self._view(into)
        if name in _WRITES and not kwargs:
            source = args[-1]
            what = (
                self._of(source)
                if isinstance(source, Tensor) and source.dim()
                else torch.tensor(True, device=own.device)
            )
            with suppress(RuntimeError, TypeError, IndexError):
                function(own, *args[1:-1], what)
                return True
        elif not any(
            self._kind(one) is not False for one in args[1:] if isinstance(one, Tensor) and one.dtype != torch.bool
        ):
            return True
        own.fill_(True)
        return True

    def _view(self, tensor: Tensor) -> Tensor:
        marks = self._memory[memory_of(tensor)][1]
        return marks.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    def of_step(
        self,
        name: str,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        outputs: Sequence[Tensor],
    ) -> list[bool | Tensor]:
        """Marks of what a step made; True for all where nobody can tell."""
        found: Any = None
        if name in _JOINS and args:
            found = function([self._of(one) for one in args[0]], *args[1:], **kwargs)
        elif name == "pad" and (args[2:3] or ("constant",))[0] == kwargs.get("mode", "constant") == "constant":
            found = function(self._of(args[0]), args[1] if args[1:] else kwargs["pad"])
        elif name in _MOVES and args and isinstance(args[0], Tensor) and self._kind(args[0]) is not False:
            found = function(self._of(args[0]), *args[1:], **kwargs)
        elif name not in _MIXES and len(outputs) == 1:
            given = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor) and one.dtype != torch.bool]
            kinds = [self._of(one) for one in given if self._kind(one) is not False]
            if kinds and all(one.shape == outputs[0].shape for one in kinds):
                found = torch.stack(kinds).any(0)
        marks = list(found) if isinstance(found, (tuple, list)) else [found]
        fits = len(marks) == len(outputs) and all(
            isinstance(mark, Tensor) and mark.shape == one.shape for mark, one in zip(marks, outputs, strict=True)
        )
        return marks if fits else [True] * len(outputs)

    def _of(self, tensor: Tensor) -> Tensor:
        kind = self._kind(tensor)
        if isinstance(kind, Tensor):
            return kind
        return torch.full(tensor.shape, kind is not False, dtype=torch.bool, device=tensor.device)
