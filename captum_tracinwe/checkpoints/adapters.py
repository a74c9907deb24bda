"""Adapters of PEFT (LoRA and its kin): which weights of a model are the adapter's, and what its files call them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import Module

from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.checkpoints.reading import first_line

__all__ = ["ADAPTER_FILES", "active_adapter", "adapter_state", "adapter_weights", "only_adapter_trains", "with_adapter"]

#: What PEFT writes into a checkpoint directory, preferred first; the base model's weights are not in it.
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")


def active_adapter(model: Module) -> str | None:
    """The name of the adapter in use; None for a model without one."""
    inner: Any = unwrap(model)
    if hasattr(inner, "peft_config") and hasattr(inner, "get_base_model"):
        active = inner.active_adapter
    elif getattr(inner, "_hf_peft_config_loaded", False):  # transformers' own model.add_adapter
        active = inner.active_adapters()
    else:
        return None
    return active if isinstance(active, str) else str(active[0])


def adapter_state(model: Module) -> dict[str, Tensor] | None:
    """Name in the adapter's file → the model's own tensor; None for a model without an adapter."""
    name, model = active_adapter(model), unwrap(model)
    if name is None:
        return None
    if not hasattr(model, "get_base_model"):
        return {f"base_model.model.{key}": value for key, value in model.get_adapter_state_dict(name).items()}  # type: ignore[operator]
    from peft import get_peft_model_state_dict

    # Left to itself it asks a hub whether the vocabulary has grown; a grown table stands under its own name.
    found: dict[str, Tensor] = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    return found


def only_adapter_trains(model: Module) -> bool:
    """Whether the model has an adapter and no weight outside it asks for a gradient."""
    state = adapter_state(model)
    own = {tensor.data_ptr() for tensor in (state or {}).values()}
    return state is not None and all(p.data_ptr() in own for p in model.parameters() if p.requires_grad)


def adapter_weights(model: Module, state: dict[str, Any], path: Path) -> tuple[dict[str, Any], Collection[str]] | None:
    """The content of an adapter's file under the model's own names, and which of these it has to hold.

    Returns:
        tuple or None: None where ``state`` is no adapter's, or the model has none.

    Raises:
        ValueError: the adapter's file is not made of weights of the model (prompt tuning and its kin).
    """
    adapter, inner = adapter_state(model), unwrap(model)
    if adapter is None or not state:
        return None
    own = inner.state_dict()
    if own.keys() <= state.keys():  # a checkpoint of the whole model
        return None
    places: dict[int, list[str]] = {}
    for key, tensor in own.items():
        if isinstance(tensor, Tensor) and tensor.numel():
            places.setdefault(tensor.data_ptr(), []).append(key)
    homeless = [key for key, tensor in adapter.items() if tensor.data_ptr() not in places]
    if homeless:
        kind = getattr(getattr(inner, "active_peft_config", None), "peft_type", "unknown")
        raise ValueError(
            f"The adapter in {str(path)!r} is of the kind {getattr(kind, 'value', kind)}, whose file holds what the model does "
            f"not ({homeless[0]}): expected weights as in LoRA. Pass a checkpoints_load_func that calls "
            f"peft.set_peft_model_state_dict and returns the learning rate."
        )
    names = {key: places[tensor.data_ptr()] for key, tensor in adapter.items()}
    renamed = {name: value for key, value in state.items() for name in names.get(key, [key])}
    return renamed, [name for key in adapter for name in names[key]]


def with_adapter(model: Module, directory: Path) -> Module:
    """``model``, wrapped for the adapter in ``directory`` unless it has one already.

    Raises:
        ValueError: PEFT cannot do so; the model is as it was.
    """
    if active_adapter(model) is not None:
        return model
    from peft import PeftModel

    # PEFT puts its layers into the model before it reads their weights.
    parts = [(part, dict(vars(part)), dict(part._modules)) for part in model.modules()]
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        wrapped: Module = PeftModel.from_pretrained(model, directory)
    except Exception as error:  # raises whatever the config and the weights happen to lead to
        for part, fields, modules in parts:
            vars(part).clear()
            vars(part).update(fields)
            part._modules.clear()
            part._modules.update(modules)
        for parameter, wanted in trained:
            parameter.requires_grad_(wanted)
        raise ValueError(
            f"The adapter in {str(directory)!r} cannot be put on the model {type(model).__name__} ({first_line(error)}): "
            f"expected an adapter_config.json and weights of PEFT for it. Restore them, or pass the PEFT model as model=..."
        ) from error
    return wrapped
