"""A TracInWE that several processes make alike, for the tests that kill or multiply them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from captum_tracinwe import TracInWE, save_checkpoint
from captum_tracinwe.testing import TinyCNN, toy_texts

EXAMPLES = 150


def tracin_of(folder, **options):
    """A tiny CNN with two checkpoints in ``folder`` and 150 texts."""
    torch.manual_seed(0)
    model = TinyCNN(padding_idx=0)
    checkpoints = [Path(folder) / f"step-{i}.pt" for i in range(2)]
    for i, path in enumerate(checkpoints):
        if not path.exists():
            save_checkpoint(path, model, 0.1 + i)
    ids, _, labels = toy_texts(EXAMPLES, seed=1)
    loss = nn.CrossEntropyLoss(reduction="none")
    return TracInWE(model, TensorDataset(ids, labels), checkpoints, loss_fn=loss, batch_size=3, **options)
