"""What stands in `adapter_config.json` beside an adapter's weights, held against the adapter that the model has."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from weakref import WeakSet

from torch.nn import Module

from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.checkpoints.adapters import active_adapter
from captum_tracinwe.checkpoints.metadata import read_json, shown

__all__ = ["CONFIG", "check_config"]

#: The file in which PEFT keeps how an adapter is put on.
CONFIG = "adapter_config.json"
# The weights' names and shapes tell the rest. These change the numbers that are made of the same weights.
DECIDING = (
    *("r", "lora_alpha", "use_rslora", "use_dora", "use_qalora", "fan_in_fan_out", "alpha_pattern", "rank_pattern"),
    *(
        "alpha",
        "decompose_both",
        "feedforward_modules",
        "scaling",
        "projection_prng_key",
    ),  # LoHa, LoKr, IA3, FourierFT, VeRA
    *("coft", "eps", "block_share", "use_cayley_neumann", "num_cayley_neumann_terms"),  # OFT
)
# AdaLoRA has other ranks at each checkpoint.
CHANGING = {"ADALORA": ("r", "rank_pattern")}

_told_of_the_base: WeakSet[Module] = WeakSet()


def check_config(model: Module, directory: Path) -> None:
    """See that an adapter in ``directory`` is put on the model as it was in training; of another base model a warning, once.

    Raises:
        ValueError: what decides its numbers is another than the model's, or the file cannot be read.
    """
    name, inner = active_adapter(model), unwrap(model)
    ours = getattr(inner, "peft_config", {}).get(name)
    if ours is None or not (directory / CONFIG).is_file():
        return
    try:
        theirs = read_json(directory / CONFIG, dict[str, Any])
    except ValueError as error:
        raise ValueError(
            f"The file {str(directory / CONFIG)!r} cannot be read ({error}): expected what PEFT writes. Restore it, or remove it "
            f"if the model has the adapter's very settings."
        ) from error
    kind = _plain(ours.peft_type)
    usual = {one.name: _usual(one) for one in dataclasses.fields(ours)}
    names = [one for one in DECIDING if one in usual and one not in CHANGING.get(kind, ())]
    pairs = {one: (_plain(theirs.get(one, usual[one])), _plain(getattr(ours, one, None))) for one in names}
    pairs["peft_type"] = (_plain(theirs.get("peft_type", kind)), kind)
    other = [f"{one} {shown(then)}, the model's {shown(now)}" for one, (then, now) in pairs.items() if then != now]
    if other:
        raise ValueError(
            f"The adapter in {str(directory)!r} was trained with {'; '.join(other)}: expected a model with the same settings, "
            f"for with others the same weights give other gradients. Make it with peft.PeftModel.from_pretrained(base model, "
            f"{str(directory)!r}), or remove {CONFIG} there if it is wrong."
        )
    base = getattr(getattr(inner, "get_base_model", lambda: inner)(), "name_or_path", None)
    then, now = theirs.get("base_model_name_or_path"), ours.base_model_name_or_path or base
    if _last(then) and _last(now) and _last(then) != _last(now) and model not in _told_of_the_base:
        _told_of_the_base.add(model)
        warnings.warn(
            f"The adapter in {str(directory)!r} was trained on the base model {shown(then)}, and the model's is {shown(now)}. "
            f"Where they are two, gradients are not those of training. Pass a model that is made of the first; if the same one "
            f"was moved or renamed all is well.",
            stacklevel=5,
        )


def _plain(value: Any) -> Any:
    """A setting as JSON has it, in one form: nothing for what is empty, no order where there is none."""
    value = getattr(value, "value", value)
    if isinstance(value, (set, frozenset, list, tuple)):
        return sorted(map(str, value)) or None
    if isinstance(value, Mapping):
        return {str(key): inner for key, inner in value.items()} or None
    return value


def _usual(field: dataclasses.Field[Any]) -> Any:
    """What a setting is where a file of an older PEFT does not have it."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _last(name: Any) -> str:
    """The last part of a model's name or path."""
    return PurePosixPath(name.replace("\\", "/")).name.lower() if isinstance(name, str) else ""
