"""What a model stumbled over in a batch's inputs: too long a text, none, ids of another kind or shape, an entry too many."""

from __future__ import annotations

import re
from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

__all__ = ["ids_of", "odd_input", "other_arguments", "positions_of", "too_long"]


def ids_of(batch: Any) -> Any:
    """What a batch has for token ids: its ``input_ids``, or the first of a tuple."""
    return batch.get("input_ids") if isinstance(batch, Mapping) else batch[0]


# ---------------------------------------------------------------------------------------------------------- too long


def too_long(model: Module, batch: Any, error: Exception) -> str | None:
    """More tokens than positions, of a config, a table or a parameter; or a row that another table does not have."""
    ids, said = ids_of(batch), str(error)
    tokens = ids.shape[-1] if isinstance(ids, Tensor) and ids.dim() > 1 else 0
    limit = positions_of(getattr(model, "config", None))
    if limit is not None and tokens > limit and re.search("index|size|shape|expand|device-side", said):
        return _cut(tokens, f"the model has {limit} positions", limit)
    asked = _look_up_in(error)
    return _beyond_table(model, batch, tokens, *asked) if asked else _beyond_parameter(model, tokens, said)


def positions_of(config: Any) -> int | None:
    """For how many tokens a model of transformers has positions, by its config; None where that is not known."""
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if not isinstance(limit, int) or limit < 1:
        return None
    padding = getattr(config, "pad_token_id", None)
    of_roberta = "roberta" in str(getattr(config, "model_type", "")) and isinstance(padding, int)
    return limit - padding - 1 if of_roberta else limit  # type: ignore[operator]  # it counts from padding + 1


def _cut(tokens: int, fact: str, limit: int) -> str:
    return (
        f"A text of {tokens} tokens, and {fact}: expected texts of at most that length. Cut them as in training: "
        f"tokenizer(..., truncation=True, max_length={limit}), or TokenizeTexts(tokenizer, max_length={limit})."
    )


def _look_up_in(error: Exception) -> tuple[Tensor, Tensor] | None:
    """The table and the rows asked for, of the last look-up on the way to an error: torch's own words name neither."""
    found, trace = None, error.__traceback__
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        if frame.f_code.co_name == "embedding" and frame.f_globals.get("__name__") == "torch.nn.functional":
            found = frame.f_locals.get("weight"), frame.f_locals.get("input")
    return found if found and all(isinstance(one, Tensor) for one in found) else None  # type: ignore[return-value]


def _beyond_table(model: Module, batch: Any, tokens: int, table: Tensor, asked: Tensor) -> str | None:
    if asked.dtype not in (torch.int64, torch.int32) or asked.layout is not torch.strided or not asked.numel():
        return None
    rows, least, most = len(table), int(asked.min()), int(asked.max())
    if least >= 0 and most < rows:
        return None
    name = next((name for name, one in model.named_parameters() if one is table), "an embedding")
    entries = batch.items() if isinstance(batch, Mapping) else ()
    same = (
        key
        for key, one in entries
        if isinstance(one, Tensor) and one.shape == asked.shape and bool((one == asked).all())
    )
    entry = next(same, None)
    row = asked.reshape(-1, asked.shape[-1])[0] if asked.dim() else asked
    if entry is None and tokens > 1 and row.numel() == tokens and bool((row.diff() > 0).all()) and least >= 0:
        return _cut(
            tokens, f"the model's {name!r} has {rows - least} rows, one for each position from {least}", rows - least
        )
    where = "" if entry is None else f" by the batch's {entry!r}"
    return (
        f"The model's {name!r}, a table of {rows} rows, is asked for row {least if least < 0 else most}{where}: expected numbers "
        f"from 0 to {rows - 1}. Make the batch as in training."
    )


def _beyond_parameter(model: Module, tokens: int, said: str) -> str | None:
    """Positions that are no table: torch says only that T tokens and L of something cannot be added up."""
    sizes = {int(size) for size in re.findall(r"size of tensor [ab] \((\d+)\)", said)}
    if tokens not in sizes or len(sizes) != 2 or min(sizes) == tokens:
        return None
    limit = min(sizes)
    tensors = (*model.named_parameters(), *model.named_buffers())
    name = next((name for name, one in tensors if limit in one.shape and "pos" in name.lower()), None)
    return None if name is None else _cut(tokens, f"the model's {name!r} is for {limit} positions", limit)


# -------------------------------------------------------------------------------------------------------- other kinds


def odd_input(model: Module, batch: Any, said: str) -> str | None:
    """Inputs that are no tensor of token ids ``(N, T)``."""
    return (
        _mapping_in_tuple(batch, said)
        or _no_tensor(batch, said)
        or _no_ids(batch, said)
        or _no_tokens(batch)
        or _nothing_to_read(batch, said)
        or _nothing_to_write(model, batch, said)
        or _shape(batch, said)
    )


def _mapping_in_tuple(batch: Any, said: str) -> str | None:
    taken_for_tensor = "dict" in said or "slice" in said  # {...}.size(), {...}[:, 0]
    if isinstance(batch, Mapping) or not isinstance(batch[0], Mapping) or not taken_for_tensor:
        return None
    return (
        f"The first element of the batch is a mapping ({', '.join(map(str, batch[0]))}), and the model does not take one. "
        f"Expected a mapping that holds the labels too, {{**inputs, 'labels': labels}}, or a tuple of tensors "
        f"(inputs..., labels)."
    )


def _no_tensor(batch: Any, said: str) -> str | None:
    ids = ids_of(batch)
    kind = type(ids).__name__
    if isinstance(ids, Tensor) or ids is None or not re.search(f"'{kind}' object|not {kind}", said):
        return None
    where = "The batch's 'input_ids'" if isinstance(batch, Mapping) else "The first element of the batch"
    return (
        f"{where} is a {kind} ({ids!r:.60}), and the model does not take one: expected a tensor of token ids (N, T), for "
        f"instance torch.tensor(ids). Several examples go in a list of mappings or of tuples, [(ids, label), ...]; several "
        f"batches in a DataLoader(batches, batch_size=None)."
    )


def _no_ids(batch: Any, said: str) -> str | None:
    ids = ids_of(batch)
    if not isinstance(ids, Tensor) or not re.search("indices|not implemented|Could not run", said):
        return None
    if ids.layout is not torch.strided:
        return f"The token ids are a sparse tensor ({ids.layout}): expected a dense one. Take ids.to_dense()."
    if ids.dtype in (torch.int64, torch.int32):
        return None
    return (
        f"The token ids are of type {ids.dtype}: expected whole numbers, torch.int64. Make them by "
        f"torch.tensor(..., dtype=torch.int64), or ids.long() where they are whole."
    )


def _no_tokens(batch: Any) -> str | None:
    ids = ids_of(batch)
    if not isinstance(ids, Tensor) or ids.dim() < 2 or ids.shape[-1]:
        return None
    return f"The token ids have shape {tuple(ids.shape)}: expected texts of at least one token. Leave out empty texts."


def _nothing_to_read(batch: Any, said: str) -> str | None:
    if not isinstance(batch, Mapping) or "input_ids" in batch or "inputs_embeds" in batch or "specify" not in said:
        return None
    return (
        f"The batch has {', '.join(map(repr, batch))}, and the model reads none of it: expected 'input_ids', token ids (N, T). "
        f"Rename the column; of raw texts pass the examples, with "
        f"collate_fn=captum_tracinwe.collate.TokenizeTexts(tokenizer, ...)."
    )


def _nothing_to_write(model: Module, batch: Any, said: str) -> str | None:
    """An encoder-decoder whose decoder has no text: transformers makes its inputs of the labels."""
    written = ("labels", "decoder_input_ids", "decoder_inputs_embeds")
    of_two = getattr(getattr(model, "config", None), "is_encoder_decoder", False) is True
    if not of_two or not isinstance(batch, Mapping) or "specify" not in said or any(key in batch for key in written):
        return None
    return (
        f"The batch has {', '.join(map(repr, batch))}, and the decoder of the {type(model).__name__} reads none of it. Expected "
        f"'labels', the target's token ids (N, T), −100 where it is filled up, of which its inputs are made. Rename the column "
        f"of the target, and make token ids of it."
    )


def other_arguments(model: Module, batch: Any, said: str) -> str | None:
    """Entries that the model's forward does not take, or others than it wants, by Python's words on a call of it."""
    forward = getattr(model.forward, "__qualname__", "forward")
    if f"{forward}()" not in said or "argument" not in said:
        return None
    takes = ", ".join(name for name in signature(model.forward).parameters)
    if not isinstance(batch, Mapping):
        return (
            f"The batch has {len(batch)} entries: the last is taken for the labels, and {forward} gets the {len(batch) - 1} "
            f"before. It takes {takes}: expected (inputs..., labels) of that many inputs, or a mapping."
        )
    extra = re.search(r"unexpected keyword argument '(.*?)'", said)
    fact = f"{extra[1]!r}, which {forward} does not take" if extra else f"{', '.join(map(repr, batch))}"
    told = f"The batch has {fact}: expected {takes}. Leave out what is not for the model, and name labels by label_names=[...]"
    if "input_ids" in batch:
        return f"{told}."
    return f"{told}; of raw texts pass the examples, with collate_fn=captum_tracinwe.collate.TokenizeTexts(tokenizer, ...)."


def _rows_behind(batch: Any) -> tuple[int, ...] | None:
    """The shape of token ids (N, T) that stand behind N numbers in a tuple; None where there are no such."""
    if isinstance(batch, Mapping) or not isinstance(batch[0], Tensor) or batch[0].dim() != 1:
        return None
    behind = (one for one in batch[1:] if isinstance(one, Tensor) and one.dim() == 2 and one.dtype == torch.int64)
    return next((tuple(one.shape) for one in behind if len(one) == len(batch[0])), None)


def _shape(batch: Any, said: str) -> str | None:
    """Of an nn.EmbeddingBag all words stand in a row, with the offsets of the texts."""
    ids = ids_of(batch)
    if not isinstance(ids, Tensor) or ids.dim() == 2 or not re.search("unpack|imension|size|shape", said):
        return None
    behind = _rows_behind(batch)
    if behind is not None:
        return (
            f"The first element of the batch has shape {tuple(ids.shape)}, and a later one {behind}: are the labels "
            f"first? The last element is taken for the labels, and the model gets those before: expected (ids, ..., labels). Let "
            f"collate_fn, or the examples, give labels last."
        )
    fact = f"The token ids have shape {tuple(ids.shape)}: expected (N, T), N texts of T tokens. "
    if ids.dim() > 2:
        return (
            fact + "Take ids.squeeze(1) where each text is in a batch of its own; several batches go in a "
            "DataLoader(batches, batch_size=None)."
        )
    in_a_row = "offsets" in batch if isinstance(batch, Mapping) else len(batch) > 2
    if in_a_row:
        return None
    return (
        fact + "Of a single text pass ids[None], and all else that belongs to it likewise, its label as a tensor of "
        "one number."
    )
