"""A record of what a table looks up in one forward pass.

The gradient is caught where autograd would catch it: at the output of `torch.nn.functional.embedding` on the table.
That covers every module that reads the table (encoder and decoder, scaled embeddings, calls without a module) and
leaves out what is not an embedding look-up: with tied input and output embeddings the output head's dense part of the
table's gradient is *not* counted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import embedding as look_up
from torch.nn.functional import embedding_bag
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _push_mode
from torch.utils.hooks import RemovableHandle

from captum_tracinwe.batches.batch import tensors_in
from captum_tracinwe.gradients.bounds import Bounds, refuse_beyond
from captum_tracinwe.gradients.embedding import EmbeddingTable
from captum_tracinwe.gradients.interrupts import unbroken
from captum_tracinwe.gradients.model_state import memory_of
from captum_tracinwe.gradients.recomputed import recomputed_within
from captum_tracinwe.gradients.text_words import TextWords
from captum_tracinwe.waiting import waits

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["AllSeen", "LookUp", "RecordLookUps", "recorded"]


@dataclass(frozen=True, eq=False)
class LookUp:
    """One call of the embedding: ``ids`` of shape (N, ...), ``output`` (N, ..., D), a leaf whose gradient is wanted.

    Of bags that are told by offsets, ``ids`` are ``(P,)``, and ``bags`` says which of the ``count`` bags each position is in.
    ``across``: the examples are along the second dimension, ``(T, N, ...)``, as a model has them that turns its batch.
    ``counted``: which positions are of the texts, where the model joined them to ids of its own; None: all.
    ``given``: the tensor of which ``ids`` are a copy, where nobody had written into it.
    """

    ids: Tensor
    output: Tensor
    padding_idx: int | None
    bags: Tensor | None = None
    count: int = 0
    across: bool = False
    counted: Tensor | None = None
    given: Tensor | None = None

    def of_batch(self, given: Iterable[Tensor], size: int) -> LookUp:
        """As the call of a pass of ``size`` examples, of which the tensors ``given`` tell whether the model turned them."""
        if self.bags is not None or self.ids.dim() != 2 or self.ids.shape[1] != size:
            return self
        known = [one for one in given if one.dim() == 2 and not one.is_floating_point()]
        for one in (
            known if self.given is not None else ()
        ):  # told without a look at the ids, which a GPU has yet to compute
            if _is_view(self.given, one):
                return self
            if _is_view(self.given, one.T):
                return replace(self, across=True)
        if any(one.shape == self.ids.shape and torch.equal(one, self.ids) for one in known):
            return self
        turned = self.ids.T
        found = any(one.shape == turned.shape and torch.equal(one, turned) for one in known)
        return replace(self, across=True) if found else self


def _is_view(one: Tensor | None, other: Tensor) -> bool:
    """Whether both are the same numbers, as they lie."""
    if one is None or one.dtype != other.dtype or one.shape != other.shape or one.stride() != other.stride():
        return False
    return memory_of(one) == memory_of(other) != 0 and one.storage_offset() == other.storage_offset()


class AllSeen(BaseException):
    """Raised out of a forward pass whose look-ups are all recorded; no Exception, which a model might take for its own."""


# By names, for torch has each as a function and as a method. Products read rows where one side is a one-hot form of words.
_OTHER_LOOK_UPS = ("__getitem__", "index_select", "embedding", "embedding_bag", "gather", "take", "take_along_dim")
_PRODUCTS = ("matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "einsum", "linear", "tensordot", "inner")
# What these make has no gradient to the table, or the model's own says so.
_NO_TABLE = (torch.Tensor.detach, *(vars(torch._C.TensorBase)[name].__get__ for name in ("data", "grad")))

# Of each embedding the columns that its user was told of, and "" where it was told of look-ups that do not count.
_told: WeakKeyDictionary[Module, set[str]] = WeakKeyDictionary()


class RecordLookUps(TorchFunctionMode):
    """While active, look-ups in ``table`` are recorded, and their outputs are leaves of the autograd graph.

    A mode rather than a forward hook, because a hook sees only what a module returns: Bart's embedding multiplies by
    √D after the look-up, and a tied decoder reads the table through a second module. A table that the model makes of this one
    on its way (a norm of its rows, some rows replaced) counts as this one.

    Args:
        table (Tensor): ``(V, D)``.
        within (Module, optional): only look-ups made while this module runs count.
        enough (callable, optional): told of each look-up that counts; by True the pass ends there, with :class:`AllSeen`.
        module (Module, optional): whose ``weight`` the table is, also where it is made anew at each pass, as by weight norm.
        words (TextWords, optional): look-ups of anything else do not count, unless there are no others; they are ``beside``.
        first (RecordLookUps, optional): of the pass whose look-ups run again, to be handed out and not counted.
        bounds (list, optional): where they have to be waited for, the bounds of the ids are put here, for whoever reads them
            later and calls :func:`refuse_beyond`; until then an id without a row gets the next one.
    """

    def __init__(
        self,
        table: Tensor,
        within: Module | None = None,
        enough: Callable[[LookUp], bool] | None = None,
        module: Module | None = None,
        words: TextWords | None = None,
        first: RecordLookUps | None = None,
        bounds: list[Bounds] | None = None,
    ) -> None:
        super().__init__()
        self.table, self.within, self._enough = table, within, enough
        self.calls: list[LookUp] = []
        self.beside: list[LookUp] = []
        self.others: set[str] = set()  # columns beside ``input_ids`` that are looked up here
        self._module, self._words, self._first, self._bounds = module, words, first, bounds
        self._made: dict[int, Tensor] = {} if first is None else first._made
        self._counts = within is None
        self._unlikely: list[LookUp] = []  # of those beside, the ones of which nobody knows
        self._hooks: list[RemovableHandle] = []
        self._around: list[TorchFunctionMode] = []
        self._over = False
        self._place = memory_of(table), table.storage_offset() if memory_of(table) else 0

    def __enter__(self) -> Self:
        def switch(counts: bool) -> Callable[..., None]:
            def hook(*_: Any) -> None:
                self._counts = counts

            return hook

        if self.within is not None:
            self._hooks = [
                self.within.register_forward_pre_hook(switch(True)),
                self.within.register_forward_hook(switch(False)),
            ]
        self._around = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        self._over = True
        for hook in self._hooks:
            hook.remove()
        # torch takes a mode off while it runs, and Ctrl-C at that moment keeps it from putting it on again: one pop would
        # fail then, in place of KeyboardInterrupt, or take off the caller's.
        while torch._C._len_torch_function_stack():
            _pop_mode()  # type: ignore[no-untyped-call]
        for mode in self._around:
            _push_mode(mode)  # type: ignore[no-untyped-call]
        if not self.calls:
            self.calls = self._unlikely or self.beside
            self.beside = [call for call in self.beside if call not in self.calls]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self._over:  # left active by torch itself
            return func(*args, **kwargs)
        if func is look_up or func is embedding_bag:
            before = len(self.calls)
            found = (self._look_up if func is look_up else self._bag)(*args, **kwargs)
            if self._enough is not None and len(self.calls) > before and self._enough(self.calls[-1]):
                raise AllSeen
            return found
        name = getattr(func, "__name__", "")
        if (name in _OTHER_LOOK_UPS or name in _PRODUCTS) and self._reads_otherwise(name, args, kwargs):
            raise ValueError(
                f"The model reads rows of the embedding by {name}: expected look-ups by the nn.Embedding module or "
                f"torch.nn.functional.embedding, which are all that is counted."
            )
        output: Any = func(*args, **kwargs)
        if func is torch.Tensor.__iter__:
            output = list(output)
        if isinstance(output, Tensor) and output.dim() == 2 and output.shape == self.table.shape:
            if func not in _NO_TABLE and any(self._is_table(one) for one in tensors_in([args, kwargs])):
                self._made[id(output)] = output
        elif self._words is not None:
            self._words.follow(func, args, kwargs, output)
        return iter(output) if func is torch.Tensor.__iter__ else output

    def _is_table(self, weight: Any) -> bool:
        return weight is self.table or id(weight) in self._made or weight is getattr(self._module, "weight", self.table)

    def _reads_otherwise(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a step reads rows of the table by ids of the texts: not by fixed ones, nor all in a row."""
        if name in _PRODUCTS:
            given = list(tensors_in([args, kwargs]))
            of_words = self._words is not None and any(self._words.made_of(one) for one in given)
            return of_words and any(self._looks_at_table(one) for one in given)
        weight, *rest = args or (kwargs.get("input"),)
        if not self._looks_at_table(weight):
            return False
        if self._words is None:
            return True
        at = [one for one in tensors_in([rest, kwargs]) if one is not weight and not one.is_floating_point()]
        return any(self._words.made_of(one, by_ids=True) for one in at) if at else bool(rest) and not _is_fixed(rest)

    def _looks_at_table(self, weight: Any) -> bool:
        """Whether it is the table, or lies where it lies, as it turned or flattened does."""
        if self._is_table(weight) or not isinstance(weight, Tensor):
            return self._is_table(weight)
        return memory_of(weight) == self._place[0] != 0 and weight.storage_offset() == self._place[1]

    def _taken(self, weight: Tensor, input: Tensor) -> bool:
        """Whether a look-up's output is handed out as a leaf."""
        if not self._is_table(weight):
            return False
        if self._first is None:
            return self._counts
        known = [*self._first.calls, *self._first.beside]
        return any(call.ids.shape == input.shape and torch.equal(call.ids, input) for call in known)

    def _noted(self, call: LookUp, input: Tensor) -> None:
        if self._first is not None:
            return
        held = True if self._words is None else self._words.hold(input)
        if held is None:
            self._unlikely.append(call)
        elif held is not False and self._words is not None:
            self.others.update(filter(None, [self._words.column_of(input)]))
        call = replace(call, counted=held) if isinstance(held, Tensor) else call
        (self.calls if held is True or isinstance(held, Tensor) else self.beside).append(call)

    def _call(
        self, input: Tensor, weight: Tensor, padding_idx: int | None, max_norm: float | None, scale_grad_by_freq: bool
    ) -> LookUp:
        if max_norm is not None or scale_grad_by_freq:
            raise ValueError(
                f"The embedding is looked up with max_norm={max_norm}, scale_grad_by_freq={scale_grad_by_freq}: expected "
                f"neither, because the first changes the weights and the second ties an example's gradient to its batch."
            )
        ids = input.detach()
        if ids.numel():
            found = torch.stack(torch.aminmax(ids))
            if self._bounds is not None and waits(ids.device):
                self._bounds.append(Bounds(found, weight.shape[0]))
                ids = ids.clamp(0, weight.shape[0] - 1)
            else:
                refuse_beyond(found.tolist(), weight.shape[0])
        output = look_up(ids, weight.detach()).requires_grad_()
        if padding_idx is not None and padding_idx < 0:
            padding_idx += weight.shape[0]
        written = torch.compiler.is_compiling() or input.is_inference() or input._version  # or nobody can tell
        given = None if written else input
        # A copy: a model may write into its ids afterwards.
        return LookUp(input.detach().clone(), output, padding_idx, given=given)

    def _look_up(
        self,
        input: Tensor,
        weight: Tensor,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Tensor:
        if not self._taken(weight, input):
            return look_up(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
        call = self._call(input, weight, padding_idx, max_norm, scale_grad_by_freq)
        self._noted(call, input)
        return call.output.clone()  # a leaf cannot be written into, and models do: x *= scale

    def _bag(
        self,
        input: Tensor,
        weight: Tensor,
        offsets: Tensor | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        per_sample_weights: Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> Tensor:
        """A bag as look-ups that are added up, so that each word has a gradient of its own."""
        if not self._taken(weight, input):
            rest = (max_norm, norm_type, scale_grad_by_freq, mode, sparse, per_sample_weights, include_last_offset)
            return embedding_bag(input, weight, offsets, *rest, padding_idx)
        if offsets is not None and input.dim() == 1:
            starts = offsets[:-1] if include_last_offset else offsets
            _check_offsets(starts, len(input))
            positions = torch.arange(len(input), device=input.device)
            bags = torch.searchsorted(starts.contiguous(), positions.to(starts.dtype), right=True) - 1
            count = len(starts)
        elif input.dim() == 2:
            bags = torch.arange(len(input), device=input.device).repeat_interleave(input.shape[1])
            count = len(input)
        else:
            raise ValueError(
                f"The embedding is an nn.EmbeddingBag that is called with ids of shape {tuple(input.shape)}. Expected ids "
                f"(N, T), a text in each row, padded, with padding_idx set; or all ids (P,) and the offsets (N,) of the texts."
            )
        call = self._call(input, weight, padding_idx, max_norm, scale_grad_by_freq)
        self._noted(replace(call, bags=bags, count=count) if input.dim() == 1 else call, input)
        words = call.output
        counted = torch.ones_like(input, dtype=words.dtype)
        if call.padding_idx is not None:  # there counted from the front
            counted = torch.ne(input, call.padding_idx).to(words.dtype)
        factors = counted if per_sample_weights is None else counted * per_sample_weights
        total = words.new_zeros(count, words.shape[-1]).index_add(0, bags, (words * factors[..., None]).flatten(0, -2))
        if mode == "sum":
            return total
        return total / counted.new_zeros(count).index_add(0, bags, counted.flatten())[:, None].clamp_min(1)


def _check_offsets(starts: Tensor, words: int) -> None:
    """Raise ValueError unless bags begin one behind the other, the first with the first word."""
    bounds = starts.tolist()
    if bounds[:1] != [0] or bounds != sorted(bounds) or bounds[-1] > words:
        some = ", ".join(map(str, bounds[:6])) + ", ..." * (len(bounds) > 6)
        raise ValueError(
            f"The embedding is an nn.EmbeddingBag that is called with {words} ids and the offsets {some}: expected offsets that "
            f"begin with 0 and rise to {words} at most. In a tuple the labels come last, (ids, offsets, labels), whatever their "
            f"order in a tutorial: let collate_fn give them so."
        )


def _is_fixed(index: Any) -> bool:
    """Whether an index that holds no tensor is of whole ranges or one row, and no list of ids."""
    return not any(isinstance(one, (list, np.ndarray)) for one in (index[0] if isinstance(index[0], tuple) else index))


@unbroken
def recorded(
    table: EmbeddingTable,
    within: Module | None = None,
    enough: Callable[[LookUp], bool] | None = None,
    words: TextWords | None = None,
    bounds: list[Bounds] | None = None,
) -> Iterator[RecordLookUps]:
    """`RecordLookUps` that Ctrl-C cannot leave active. Weights that are made of others are made once."""
    with ExitStack() as stack:
        stack.enter_context(parametrize.cached())
        record = RecordLookUps(table.weight, within, enough, table.module, words, bounds=bounds)
        stack.enter_context(recomputed_within(lambda: _handed_out_again(record)))
        with record:
            yield record
        _say_what_is_beside(table, record)


@unbroken
def _handed_out_again(record: RecordLookUps) -> Iterator[None]:
    """Parts of the model that run again in the backward pass get of the embedding what they got before."""
    again = RecordLookUps(record.table, module=record._module, first=record, bounds=record._bounds)
    with parametrize.cached(), again:
        yield


def _say_what_is_beside(table: EmbeddingTable, record: RecordLookUps) -> None:
    """Warn, once of each embedding, of ids that do not count, and of columns that nobody said are words."""
    told = _told.setdefault(table.module, set())
    found = [call.ids for call in record.beside]
    for call in record.calls if not found and "" not in told else ():
        if call.counted is not None:
            joined = call.ids[~call.counted]
            filled = (joined == 0) | (joined == (0 if call.padding_idx is None else call.padding_idx))
            found += [] if bool(filled.all()) else [joined]
    if found and "" not in told:
        told.add("")
        ids = found[0]
        some = ", ".join(map(str, ids.flatten()[:3].tolist())) + ", ..." * (ids.numel() > 3)
        warnings.warn(
            f"The model looks up {tuple(ids.shape)} ids ({some}) in the embedding {table.name!r} that are no words of its texts, "
            f"such as token_type_ids or words that stand for classes. They have no part in any score.",
            stacklevel=5,
        )
    for name in sorted(record.others - told):
        told.add(name)
        warnings.warn(
            f"The model looks up the column {name!r} in the embedding {table.name!r}, beside input_ids: it counts as words of "
            f"the text. Where it holds none, give it a name that ends in type_ids, as token_type_ids does, or an embedding of "
            f"its own.",
            stacklevel=5,
        )
