"""What a model or a loss stumbled over, in the user's terms: its cause where one is found, else torch's words and the batch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_tracinwe.gradients.odd_labels import no_such_class, odd_labels
from captum_tracinwe.gradients.odd_texts import odd_input, other_arguments, positions_of, too_long

__all__ = ["diagnosed", "positions_of", "reported"]

ERRORS = (LookupError, RuntimeError, ValueError, TypeError, AttributeError, AssertionError, MemoryError)
# What torch says where there is no room left: on a GPU, on a CPU of Linux and of Windows, in a library of NVIDIA's.
NO_ROOM = "out of memory|can't allocate memory|not enough memory|ALLOC_FAILED"
DEVICES = "on the same device|not on the expected device|Tensor on device|meta tensor"
TYPES = "the same dtype|scalar type|type .* should be the same|mismatched types|have dtype"


@contextmanager
def diagnosed(model: Module, batch: Any, labels: Any, prediction: Any = None) -> Iterator[None]:
    """Turn an error of the model, or of the loss of its ``prediction``, into one that names its cause, where one is found.

    Only looked for once there is an error, whose own words have to fit: a model that goes on where positions or classes run
    out is taken at its word. Of what is left a ValueError stays as it is, for its words are meant for a reader; of all else it
    is told what happened, and with what batch. The first error is the ``__cause__`` of the one that is raised.

    Raises:
        ValueError: more tokens than positions, or none; labels outside the classes, of another type or shape than the loss
            takes; ids that are no whole numbers or not ``(N, T)``; inputs that are a mapping within a tuple.
        TypeError: entries of the batch that the model's forward does not take.
        RuntimeError, MemoryError: all else, memory that ran out among it.
    """
    try:
        yield
    except ERRORS as error:
        if _is_ours(error):
            raise
        if not _no_room(error):
            said = str(error)
            call = other_arguments(model, batch, said) if prediction is None else None
            if call is not None:
                raise TypeError(call) from error
            cause = too_long(model, batch, error) if isinstance(error, (IndexError, RuntimeError)) else None
            cause = cause or no_such_class(model, labels, prediction, said)
            if prediction is None:
                cause = cause or odd_input(model, batch, said)
            cause = cause or odd_labels(model, batch, labels, prediction, said)
            if cause is not None:
                raise ValueError(cause) from error
            if isinstance(error, ValueError) and "values to unpack" not in said:
                raise
        if prediction is None:
            raise _told("The model's forward pass", model, _shown(batch), error) from error
        given = f"a prediction {_shown(prediction)} and labels {_shown(labels)}"
        raise _told("The loss", model, given, error) from error


@contextmanager
def reported(model: Module, batch: Any) -> Iterator[None]:
    """Around all of a batch, its backward pass above all: torch's errors with the batch that they happened with.

    Raises:
        RuntimeError, MemoryError: as in :func:`diagnosed`.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if _is_ours(error):
            raise
        raise _told("The gradient pass", model, _shown(batch), error) from error


def _is_ours(error: BaseException) -> bool:
    """Whether an error says what is to be said: it was told here, or raised in this package, of its own kinds."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    home = "" if last is None else str(last.tb_frame.f_globals.get("__name__"))
    # What torch itself raises of a call in `__torch_function__`, which each call of a pass goes through, seems to be from there.
    through = last is not None and last.tb_frame.f_code.co_name == "__torch_function__"
    of_package = home.partition(".")[0] == "captum_tracinwe" and not through
    return home == __name__ or (of_package and isinstance(error, (ValueError, TypeError)))


def _no_room(error: BaseException) -> bool:
    said = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or bool(re.search(NO_ROOM, said))


def _told(what: str, model: Module, given: str, error: Exception) -> Exception:
    """What happened, with what, in torch's words, and the way out; of a kind that is caught where the first one was."""
    said = str(error).strip()[:1000] or type(error).__name__  # torch may list sixty backends; the first error has them
    if _no_room(error):
        kind = next((kind for kind in (torch.OutOfMemoryError, MemoryError) if isinstance(error, kind)), RuntimeError)
        return kind(
            f"There is not enough memory. {what} on {given} needs more than there is: expected room for one batch. Pass a "
            f"smaller batch_size, `inputs` in smaller batches, or shorter texts (max_length); a smaller memory_limit leaves "
            f"more of it to the pass. It was said: {said}"
        )
    if re.search(DEVICES, said):
        return RuntimeError(
            f"Tensors lie on several devices. {what} on {given} met them; the model's weights are on {_kinds(model, 'device')}. "
            f"Expected one device, that of the word embedding, to which each batch is moved. Move the model, model.to(device), "
            f"and what its forward makes itself. It was said: {said}"
        )
    if re.search(TYPES, said):
        return RuntimeError(
            f"Numbers are of several types. {what} on {given} met them; the model's weights are {_kinds(model, 'dtype')}: "
            f"expected types that go together. Take model.float(), or make what the batch holds of the model's type. It was "
            f"said: {said}"
        )
    return (TypeError if isinstance(error, TypeError) else RuntimeError)(
        f"{what} on {given} ended in {type(error).__name__}: {said}. Expected a batch that the model takes as it is, and labels "
        f"that the loss takes. Call them with it yourself, or read the first of the two errors here."
    )


def _kinds(model: Module, name: str) -> str:
    """Devices or types of the model's weights, and how many are of each."""
    found = Counter(str(getattr(one, name)) for one in model.parameters() if one.is_floating_point())
    return ", ".join(f"{kind} ({count})" for kind, count in found.most_common())


def _shown(value: Any) -> str:
    """Shapes and types of what a batch or a prediction holds."""
    if isinstance(value, Tensor):
        device = "" if value.device.type == "cpu" else f" on {value.device}"
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}{device}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_shown(one)}' for key, one in value.items())}}}"
    if isinstance(value, (tuple, list)) and any(isinstance(one, Tensor) for one in value):
        return f"({', '.join(map(_shown, value))})"
    return "None" if value is None else f"a {type(value).__name__}"
