"""Texts whose class their words tell, some with a wrong label, and a CNN that was trained on them: for tests of labels."""

import functools
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from captum_tracinwe import TracInWE, save_checkpoint
from captum_tracinwe.app.testing import TinyCNN

LOSS = nn.CrossEntropyLoss(reduction="none")
VOCABULARY = 90


def mislabelled(size=240, classes=3, share=0.1, seed=0, own=4, length=8):
    """Ids ``(M, T)``, the true classes, the labels given, which of them are wrong; 20 words to a class, 30 of none."""
    generator = torch.Generator().manual_seed(seed)

    def below(most, shape=(size,)):
        return torch.randint(0, most, shape, generator=generator)

    truth = below(classes)
    of_class = 30 + 20 * truth[:, None] + below(20, (size, own))
    ids = torch.cat([of_class, 1 + below(29, (size, length - own))], dim=1)
    wrong = torch.rand(size, generator=generator) < share
    step = 1 + below(classes - 1)
    return ids, truth, torch.where(wrong, (truth + step) % classes, truth), wrong


def cnn(classes=3):
    return TinyCNN(VOCABULARY, width=12, classes=classes)


@functools.cache
def trained(epochs=(2, 4, 6), seed=0, **made):
    """The texts of :func:`mislabelled`, and checkpoints of a CNN trained on them, one after each of some epochs."""
    ids, truth, labels, wrong = mislabelled(**made)
    folder = Path(tempfile.mkdtemp())
    paths = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = cnn(int(labels.max()) + 1).train()
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        for epoch in range(1, max(epochs) + 1):
            for places in torch.randperm(len(ids)).split(16):
                optimizer.zero_grad()
                LOSS(model(ids[places]), labels[places]).mean().backward()
                optimizer.step()
            if epoch in epochs:
                paths.append(str(folder / f"step-{epoch}.pt"))
                save_checkpoint(paths[-1], model, 0.02, step=epoch)
    return ids, truth, labels, wrong, paths


def asked(ids, labels, paths, **options):
    """A `TracInWE` of a fresh CNN and those checkpoints."""
    model = options.pop("model", None) or cnn(int(labels.max()) + 1)
    defaults = {"loss_fn": LOSS, "batch_size": 32}
    return TracInWE(model, TensorDataset(ids, labels), paths, **{**defaults, **options})


def average_precision(order, wrong):
    """Of indices, most suspicious first."""
    hits = wrong[torch.as_tensor(order)].double()
    return float((hits.cumsum(0) / torch.arange(1, len(hits) + 1))[hits == 1].mean())
