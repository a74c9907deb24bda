"""Where the word embedding is in a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import Module
from torch.nn.utils import parametrize

from captum_tracinwe.batches.wrapped import unwrap

__all__ = ["EmbeddingTable", "find_embedding", "input_embeddings", "stack"]


@dataclass(frozen=True, eq=False)
class EmbeddingTable:
    """The word embedding: its module and the name the model has for it."""

    name: str
    module: nn.Embedding | nn.EmbeddingBag

    @property
    def weight(self) -> Tensor:
        """The table, ``(V, D)``. Asked anew each time, because a checkpoint loader may replace the parameter."""
        if not parametrize.is_parametrized(self.module, "weight"):
            return self.module.weight
        # In training mode a spectral norm takes a step at each look, and the model would not be as it was.
        parts = list(self.module.get_submodule("parametrizations").modules())
        modes = [part.training for part in parts]
        try:
            for part in parts:
                part.training = False
            return self.module.weight
        finally:
            for part, mode in zip(parts, modes, strict=True):
                part.training = mode


def find_embedding(model: Module, layers: Sequence[str] | None = None) -> EmbeddingTable:
    """Find the word embedding: the one named in ``layers``, else ``get_input_embeddings()``, else the only one there is.

    Args:
        model (Module): any model.
        layers (list[str] or None): a list with one name, as ``model.named_modules()`` gives it.

    Raises:
        ValueError: no embedding, several, or one whose gradients cannot be told by example; the candidates are listed.
        TypeError: ``layers`` is not a list of names.
    """
    modules = dict(model.named_modules())
    candidates = {name: m for name, m in modules.items() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
    listing = ", ".join(f"{name!r} ({m.num_embeddings} x {m.embedding_dim})" for name, m in candidates.items())
    listing = f"The model's nn.Embedding layers: {listing or 'none'}."

    if layers is not None:
        if not isinstance(layers, (list, tuple)) or not all(isinstance(name, str) for name in layers):
            raise TypeError(f"`layers` should be a list with one layer name, got {layers!r}. {listing}")
        if len(layers) != 1:
            raise ValueError(f"`layers` should name one layer, the word embedding; got {list(layers)!r}. {listing}")
        name = layers[0]
        if name not in modules:
            raise ValueError(f"`layers` names {name!r}, which the model does not have. {listing}")
        module = modules[name]
        if not isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            raise ValueError(
                f"`layers` names {name!r}, which is a {type(module).__name__}: expected an nn.Embedding or nn.EmbeddingBag. "
                f"{listing}"
            )
        return _checked(EmbeddingTable(name, module))

    given = input_embeddings(model)
    if given is not None:
        if not isinstance(given, nn.Embedding):
            raise ValueError(
                f"The model's get_input_embeddings() is a {type(given).__name__}: expected an nn.Embedding. {listing}"
            )
        return _checked(
            EmbeddingTable(next((n for n, m in modules.items() if m is given), "get_input_embeddings()"), given)
        )

    tables = {id(_made_of(module)): name for name, module in reversed(candidates.items())}
    if not candidates:
        raise ValueError(
            "The model has no nn.Embedding or nn.EmbeddingBag: TracIn-WE needs a layer that looks words up."
        )
    if len(tables) > 1:
        raise ValueError(f"The model has several embeddings: name the word embedding in `layers=[...]`. {listing}")
    name = next(iter(tables.values()))
    return _checked(EmbeddingTable(name, candidates[name]))


def input_embeddings(model: Module) -> Module | None:
    """What a transformers model says is its word embedding; None for other models.

    Of one that PEFT has wrapped, the embedding within that does the look-up: what an adapter adds to its output has the
    same gradient as the output.
    """
    try:
        found = unwrap(model).get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError, TypeError):
        return None
    while not isinstance(found, nn.Embedding):
        copies = getattr(found, "modules_to_save", None)
        if isinstance(copies, nn.ModuleDict) and len(copies):  # PEFT's trained copy of the whole table
            active = [name for name in getattr(found, "active_adapters", ()) if name in copies]
            inner = copies[active[0]] if active else getattr(found, "original_module", None)
        else:
            inner = getattr(found, "token_adapter", None) or getattr(found, "base_layer", None)  # of some rows; of all
        if not isinstance(inner, Module):
            break
        found = inner
    return found if isinstance(found, Module) else None


def stack(model: Module, side: str | None) -> Module | None:
    """The encoder or decoder of ``model``; None for ``side=None``, which means both.

    Raises:
        ValueError: another side, or a model that has no such part.
    """
    if side is None:
        return None
    if side not in ("encoder", "decoder"):
        raise ValueError(f"`side` should be 'encoder', 'decoder' or None for both, got {side!r}.")
    inner = unwrap(model)
    given = getattr(inner, f"get_{side}", None)
    # transformers gives every model a get_encoder(), which may be the model itself.
    two_stacks = getattr(getattr(inner, "config", None), "is_encoder_decoder", given is None)
    found = (given() if given is not None else getattr(inner, side, None)) if two_stacks else None
    if not isinstance(found, Module) or found is inner:
        raise ValueError(
            f"`side={side!r}` needs an encoder-decoder with get_{side}() or an attribute `{side}`, got a "
            f"{type(inner).__name__}: leave `side` out to count all look-ups."
        )
    return found


def _made_of(module: Module) -> Any:
    """What stands for a table's weight where one that is made of others is another tensor at each look."""
    return module.parametrizations if parametrize.is_parametrized(module, "weight") else module.weight


def _checked(table: EmbeddingTable) -> EmbeddingTable:
    if table.module.scale_grad_by_freq:
        raise ValueError(
            f"The embedding {table.name!r} has scale_grad_by_freq=True, which makes an example's gradient depend on its "
            f"batch. Set {table.name}.scale_grad_by_freq = False."
        )
    if table.module.max_norm is not None:
        raise ValueError(
            f"The embedding {table.name!r} has max_norm={table.module.max_norm}, which changes the weights at each look-up. "
            f"Renormalise the weights once and set {table.name}.max_norm = None."
        )
    if getattr(table.module, "mode", None) == "max":
        raise ValueError(
            f"The nn.EmbeddingBag {table.name!r} has mode='max', of which no word has a share of its own: expected 'sum' or "
            f"'mean'."
        )
    return table
