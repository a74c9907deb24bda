"""Adapters of PEFT (LoRA and its kin): which weights of a model are the adapter's, and what its files call them."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Embedding, Module

from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.checkpoints.reading import first_line, opened, read_safetensors, read_torch
from captum_tracinwe.gradients.embedding import input_embeddings

__all__ = ["ADAPTER_FILES", "active_adapter", "adapter_state", "adapter_weights", "only_adapter_trains", "with_adapter"]

#: What PEFT writes into a checkpoint directory, preferred first; the base model's weights are not in it.
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
# How PEFT names the base model's own weights where it saves them, as it does where the vocabulary grew.
WHOLE = re.compile(
    r"base_model\.model\.(.+?)(\.token_adapter\.base_layer|\.base_layer|\.modules_to_save|\.original_module)?\.(weight|bias)"
)


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
    # A table that grew is saved with all that PEFT put around it, under the model's names less the adapter's.
    inside = f".{active_adapter(model)}"
    for key in own:
        names.setdefault(key.replace(f"{inside}.", ".").removesuffix(inside), [key])
    renamed: dict[str, Any] = {}
    for key, value in state.items():
        for name in names.get(key, [key]):
            if not _equal(renamed.setdefault(name, value), value):
                raise ValueError(
                    f"The adapter in {str(path)!r} holds {name} twice, with different numbers: expected it once."
                )
    homed = {key: value for key, value in state.items() if key in names}
    for key in renamed.keys() - own.keys():  # where layers are tied PEFT saves what they share once for each
        if any(_kind(key) == _kind(other) and _equal(value, renamed[key]) for other, value in homed.items()):
            del renamed[key]
    return renamed, [name for key in adapter for name in names[key]]


def _equal(one: Any, two: Any) -> bool:
    return one is two or (isinstance(one, Tensor) and isinstance(two, Tensor) and torch.equal(one, two))


def _kind(key: str) -> list[str]:
    """What a tensor is to the layer that it belongs to."""
    return key.split(".")[-2:]


def with_adapter(model: Module, directory: Path) -> Module:
    """``model``, wrapped for the adapter in ``directory`` unless it has one already.

    Raises:
        ValueError: PEFT cannot do so; the model is as it was.
    """
    if active_adapter(model) is not None:
        return model
    from peft import PeftModel

    # PEFT puts its layers into the model before it reads their weights.
    parts = [(part, [dict(one) for one in _fields(part)]) for part in model.modules()]
    configs = [(config, dict(vars(config))) for part in model.modules() if (config := getattr(part, "config", None))]
    trained = [(parameter, parameter.data, parameter.requires_grad) for parameter in model.parameters()]
    try:
        _grow(model, directory)
        wrapped: Module = PeftModel.from_pretrained(model, directory)
    except Exception as error:  # raises whatever the config and the weights happen to lead to
        for part, before in parts:
            for fields, then in zip(_fields(part), before, strict=True):
                fields.clear()
                fields.update(then)
        for config, then in configs:
            vars(config).update(then)
        for parameter, data, wanted in trained:
            parameter.data = data  # transformers puts a larger table under the one there was
            parameter.requires_grad_(wanted)
        raise ValueError(
            f"The adapter in {str(directory)!r} cannot be put on the model {type(model).__name__} ({first_line(error)}): "
            f"expected an adapter_config.json and weights of PEFT for it. Restore them, or pass the PEFT model as model=..."
        ) from error
    return wrapped


def _fields(part: Module) -> list[dict[str, Any]]:
    """The dicts that a module is made of."""
    return [vars(part), part._modules, part._parameters]


def _grow(model: Any, directory: Path) -> None:
    """Give a base model the table of an adapter that was trained with more tokens, where its file holds all of that table.

    Raises:
        ValueError: some of what grows with the table is not in the file.
    """
    table = input_embeddings(model)
    path = next((directory / name for name in ADAPTER_FILES if (directory / name).is_file()), None)
    if not isinstance(table, Embedding) or path is None or not hasattr(model, "resize_token_embeddings"):
        return
    name = next(name for name, part in model.named_modules() if part is table)
    with opened([path]) as (file,):
        state = read_safetensors(file, path)[0] if path.suffix == ".safetensors" else read_torch(file, path)
    held = {f"{match[1]}.{match[3]}": value for key, value in state.items() if (match := WHOLE.fullmatch(key))}
    grown = held.get(f"{name}.weight")
    if not isinstance(grown, Tensor) or grown.dim() != 2 or len(grown) == table.num_embeddings:
        return
    before = {key: value.shape for key, value in model.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        model.resize_token_embeddings(len(grown), mean_resizing=False)
    after = model.state_dict()
    told = {after[key].data_ptr() for key in held if key in after}  # of tied weights one name will do
    untold = [key for key, value in after.items() if before.get(key) != value.shape and value.data_ptr() not in told]
    if untold:
        raise ValueError(
            f"it was trained with a table of {len(grown)} rows, and {untold[0]}, which grows with it, is not in it"
        )
