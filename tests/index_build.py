"""A TracInWE that several processes make alike, for the tests that kill or multiply them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from captum_tracinwe import TracInWE, save_checkpoint
from captum_tracinwe.app.testing import TinyCNN, toy_texts

EXAMPLES = 150


def tracin_of(folder, wrapped=lambda data: data, **options):
    """A tiny CNN with two checkpoints in ``folder`` and 150 texts, in a data set or what ``wrapped`` makes of it."""
    torch.manual_seed(0)
    model = TinyCNN(padding_idx=0)
    checkpoints = [Path(folder) / f"step-{i}.pt" for i in range(2)]
    for i, path in enumerate(checkpoints):
        if not path.exists():
            save_checkpoint(path, model, 0.1 + i)
    ids, _, labels = toy_texts(EXAMPLES, seed=1)
    loss = nn.CrossEntropyLoss(reduction="none")
    return TracInWE(model, wrapped(TensorDataset(ids, labels)), checkpoints, loss_fn=loss, batch_size=3, **options)


BUILD = """
import sys, torch
sys.path[:0] = [{tests!r}]
torch.set_num_threads(1)
from index_build import tracin_of
tracin = tracin_of({folder!r})
print("ready", flush=True)
tracin.build_index({path!r}, resume={resume}, segment_examples=4, rank=3)
print("done", flush=True)
"""


def build_script(folder, path, resume=True):
    """A program that builds the index of :func:`tracin_of`."""
    return BUILD.format(tests=str(Path(__file__).parent), folder=str(folder), path=str(path), resume=resume)


def same_files(a, b):
    """Two indexes are the same, byte for byte."""
    contents = [
        {path.name: path.read_bytes() for path in folder.iterdir() if path.name.endswith((".json", ".safetensors"))}
        for folder in (a, b)
    ]
    assert contents[0] == contents[1]
