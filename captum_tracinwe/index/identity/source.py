"""What makes two gradients comparable: weights at each checkpoint, rates, the loss, the embedding, the choice of words."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.gradients.live_source import LiveSource
from captum_tracinwe.index.files.differences import differences
from captum_tracinwe.index.files.disk import IndexMismatch
from captum_tracinwe.index.files.manifest import CheckpointEntry, Source
from captum_tracinwe.index.identity.loss import describe_loss
from captum_tracinwe.index.identity.same_examples import FEW, check_examples
from captum_tracinwe.index.identity.settings import Settings
from captum_tracinwe.index.snapshot import Snapshot
from captum_tracinwe.index.stored_source import StandIn, holds_more

__all__ = ["check_match", "source_of"]

# What a transformers config says beside the computation: names, versions, the form of the output. `problem_type` is written
# there by the first forward pass with labels, so that a model asked twice would not be itself.
BESIDE = {
    *("transformers_version", "torch_dtype", "dtype", "architectures", "id2label", "label2id", "problem_type"),
    *("return_dict", "output_hidden_states", "output_attentions", "use_cache", "torchscript", "finetuning_task"),
    *("task_specific_params",),
}


OTHER_TABLE = (
    " (build_index of a TracInWE with this `table`; `captum-tracinwe index --plain` for 'input', the words read alone)"
)


def source_of(training: LiveSource, width: int | None = None) -> Source:
    """The source of training gradients; every checkpoint is loaded and hashed once (0.05 s per 90 MB).

    ``width`` is that of its rows, for where it would take an answer of the model to tell; the weights tell it too.

    Raises:
        ValueError: the loss holds something that cannot be recognised again.
    """
    live, weights = training.live, training.live.weights
    model = unwrap(weights.model)
    loss = describe_loss(training.loss_fn, model)
    checkpoints = []
    settings = Settings(training.loss_fn)
    with weights.untouched():
        for checkpoint in weights.checkpoints:
            rate = weights.at(checkpoint)
            settings.add(model)
            name = Path(checkpoint).name if isinstance(checkpoint, (str, Path)) else f"{checkpoint!r:.80}"
            checkpoints.append(CheckpointEntry(name, rate, _weights_hash(model)))
    width = live.width or width or training.width
    words = live.table.module
    return Source(
        type(model).__qualname__,
        loss,
        live.vocabulary,
        width,
        tuple(checkpoints),
        tuple(sorted(set(live.exclude_tokens))),
        live.top_k_words,
        live.side,
        next((name for name, module in model.named_modules() if module is words), live.table.name),
        words.padding_idx,
        _config_hash(model),
        str(settings),
        str(live.tables),
    )


def _config_hash(model: nn.Module) -> str:
    """The start of the SHA-256 of what a model's config says about the computation; empty without a config."""
    to_dict = getattr(getattr(model, "config", None), "to_dict", None)
    if to_dict is None:
        return ""

    def kept(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(k): kept(v) for k, v in value.items() if not str(k).startswith("_") and k not in BESIDE}
        return value

    return hashlib.sha256(json.dumps(kept(to_dict()), sort_keys=True, default=str).encode()).hexdigest()[:16]


def check_match(training: LiveSource, index: Snapshot) -> None:
    """Raise IndexMismatch, by name, unless ``index`` holds the gradients that a live source would compute.

    Of a training set that is at hand a few examples are read.
    """
    here, live = index.manifest.source, training.live
    if holds_more(index, live.tables):
        here = replace(here, table=str(live.tables), width=live.width or here.width)
    wrong = differences(here, source_of(training, here.width))
    if not index.complete:
        wrong.append("it is not complete: go on with tracin.build_index(path, resume=True)")
    classes = index.manifest.source.width - int(live.table.weight.shape[1])
    if index.manifest.whole not in (0, classes):
        wrong.append(f"whole columns: {index.manifest.whole} here, a bag of words of {classes} classes there")
    size = _dataset_size(training)
    if size is not None and size != index.total:
        wrong.append(f"train_dataset: {index.total} examples here, {size} there")
    if wrong:
        raise IndexMismatch(
            f"The index {str(index.path)!r} does not fit this TracInWE (here: the index; there: the arguments): "
            f"{'; '.join(wrong)}. Pass what it was built with, or build another"
            f"{'' if here.table == str(live.tables) else OTHER_TABLE}."
        )
    if not isinstance(training.examples.loader.dataset, StandIn):
        check_examples(training, index.segments, FEW)


def _dataset_size(training: LiveSource) -> int | None:
    dataset = training.examples.loader.dataset
    if training.examples.loader.batch_size is None or not hasattr(dataset, "__len__"):
        return None  # a data set of batches, or a stream
    return len(dataset)


def _weights_hash(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(memoryview(raw.numpy()))  # type: ignore[arg-type]
    return digest.hexdigest()
