"""What makes two gradients comparable: the model's weights at each checkpoint, the rates, the loss, the choice of words."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captum_tracinwe.embedding import unwrap
from captum_tracinwe.index.disk import IndexMismatch
from captum_tracinwe.index.maintenance import differences
from captum_tracinwe.index.manifest import CheckpointEntry, Source

if TYPE_CHECKING:
    from captum_tracinwe.index.gradient_index import GradientIndex
    from captum_tracinwe.tracin_we import TracInWE

__all__ = ["check_match", "describe_loss", "source_of"]


def source_of(tracin: TracInWE) -> Source:
    """The source of a TracInWE's training gradients; every checkpoint is loaded and hashed once (0.05 s per 90 MB)."""
    model = unwrap(tracin.model)
    checkpoints = []
    with tracin._untouched():
        for checkpoint in tracin.checkpoints:
            rate = tracin._load(checkpoint)
            name = Path(checkpoint).name if isinstance(checkpoint, (str, Path)) else f"{checkpoint!r:.80}"
            checkpoints.append(CheckpointEntry(name, rate, _weights_hash(model)))
    size, width = tracin.embedding.weight.shape
    return Source(
        type(model).__qualname__,
        describe_loss(tracin.loss_fn),
        int(size),
        int(width),
        tuple(checkpoints),
        tuple(sorted(set(tracin.exclude_tokens))),
        tracin.top_k_words,
        tracin.side,
    )


def describe_loss(loss: Any) -> str:
    """A loss by its name and settings: the values of its plain attributes, and a hash of its tensors."""
    if loss is None:
        return "the model's own"
    code = getattr(loss, "__code__", None)
    if code is not None:
        plain = [
            value for value in code.co_consts if isinstance(value, (int, float, str, bool)) and value != loss.__doc__
        ]
        return f"{loss.__qualname__}(uses {[*code.co_names, *plain]})"
    kind = type(loss)
    settings = {
        name: value
        for name, value in sorted(vars(loss).items())
        if isinstance(value, (int, float, str, type(None))) and name != "training" and not name.startswith("_")
    }
    text = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    if isinstance(loss, nn.Module) and loss.state_dict():
        text += f", tensors={_weights_hash(loss)[:16]}"
    return f"{kind.__module__}.{kind.__qualname__}({text})"


def check_match(tracin: TracInWE, index: GradientIndex) -> None:
    """Raise IndexMismatch, by name, unless ``index`` holds the gradients that ``tracin`` would compute."""
    wrong = differences(index.manifest.source, source_of(tracin))
    if not index.complete:
        wrong.append("it is not complete: go on with tracin.build_index(path, resume=True)")
    size = _dataset_size(tracin)
    if size is not None and size != index.total:
        wrong.append(f"train_dataset: {index.total} examples here, {size} there")
    if wrong:
        raise IndexMismatch(
            f"The index {str(index.path)!r} does not fit this TracInWE (here: the index; there: the arguments): "
            f"{'; '.join(wrong)}. Pass what it was built with, or build another."
        )


def _dataset_size(tracin: TracInWE) -> int | None:
    dataset = tracin.train_dataloader.dataset
    if tracin.train_dataloader.batch_size is None or not hasattr(dataset, "__len__"):
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
