"""Weights that transformers saves in another layout than it has in memory: read by its own `from_pretrained`."""

from __future__ import annotations

import copy
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

__all__ = ["converted"]

# transformers called it otherwise before 4.56.
NEW_NAME_OF_DTYPE = (4, 56)


def converted(model: Module, state: Mapping[str, Any]) -> dict[str, Any] | None:
    """A state dict under the names, and in the layout, of a transformers model, or of the one within another module.

    transformers renames weights and puts those of a mixture's experts together as it loads, and undoes that as it saves.

    Returns:
        dict or None: None where the model is none of transformers, or ``from_pretrained`` would leave a weight without a
        value or a value without a weight.
    """
    found = _transformer(model)
    if found is None or not all(isinstance(value, Tensor) for value in state.values()):
        return None
    name, part = found
    own = part.state_dict()
    first = next((value for value in own.values() if value.is_floating_point()), None)
    # Its own choice of type would be the config's, which may be shorter than what was saved.
    dtype = {_name_of_dtype(): torch.float32 if first is None else first.dtype}
    try:
        with _quietly(), torch.random.fork_rng(devices=[]):
            twin, told = type(part).from_pretrained(
                None,
                config=copy.deepcopy(part.config),
                state_dict=dict(state),
                output_loading_info=True,
                **dtype,
            )
    except Exception:  # a model class raises whatever its arguments and these weights happen to lead to
        return None
    if any(told.get(kind) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")):
        return None
    # Names that transformers does not miss it fills with numbers of its own.
    unmissed = [re.compile(pattern) for pattern in getattr(twin, "_keys_to_ignore_on_load_missing", None) or ()]
    if any(p.search(key) and key not in state for key, _ in twin.named_parameters() for p in unmissed):
        return None
    ahead = f"{name}." if name else ""
    return {ahead + key: value for key, value in twin.state_dict().items()}


def _name_of_dtype() -> str:
    import transformers

    release = tuple(int(number) for number in transformers.__version__.split(".")[:2])
    return "dtype" if release >= NEW_NAME_OF_DTYPE else "torch_dtype"


def _transformer(model: Module) -> tuple[str, Any] | None:
    """The transformers model that has all weights of ``model``, and its name there."""
    if "transformers" not in sys.modules:  # whose import takes seconds: then no model is of it
        return None
    from transformers import PreTrainedModel

    for name, part in model.named_modules():
        if isinstance(part, PreTrainedModel):
            ahead = f"{name}." if name else ""
            return (name, part) if all(key.startswith(ahead) for key in model.state_dict()) else None
    return None


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' bar and report: what does not fit is told in our words."""
    from transformers.utils import logging as theirs

    logger, bar = logging.getLogger("transformers"), theirs.is_progress_bar_enabled()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bar:
            theirs.enable_progress_bar()
