"""The right value for a model of whatever kind: a loop over checkpoints and single examples, in plain torch.

Each checkpoint goes into a model that was just made, in training mode, as torch's own tutorials load it; then ``eval()``. The
gradient is caught at what the embedding's module returns.
"""

from __future__ import annotations

import torch
from torch import nn

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import toy_texts

LOSS = nn.CrossEntropyLoss(reduction="none")
V = 30


def texts(count, seed=0, length=9):
    """Batch of ids without padding and labels."""
    ids, _, labels = toy_texts(count, length=length, seed=seed)
    return ids.clamp_min(1), labels


def as_mapping(batch):
    return {"input_ids": batch[0], "attention_mask": torch.ones_like(batch[0]), "labels": batch[1]}


class OneByOne(torch.utils.data.Dataset):
    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return len(next(iter(self.batch.values())) if isinstance(self.batch, dict) else self.batch[0])

    def __getitem__(self, i):
        if isinstance(self.batch, dict):
            return {key: value[i] for key, value in self.batch.items()}
        return tuple(value[i] for value in self.batch)


def ones(batch):
    """The examples, each a batch of its own."""
    kind = type(batch)
    if kind is dict:
        return [{key: value[i : i + 1] for key, value in batch.items()} for i in range(len(OneByOne(batch)))]
    return [tuple(value[i : i + 1] for value in batch) for i in range(len(OneByOne(batch)))]


def checkpoints(make, folder, rates=(0.3, 1.7), change=None):
    """A file for each rate, saved as most scripts do, of a new model in training mode with other weights."""
    paths = []
    for number, rate in enumerate(rates):
        model = make().train()
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).to(parameter))
        if change is not None:
            change(model)
        paths.append(str(folder / f"step-{number}.pt"))
        torch.save({"model_state_dict": model.state_dict(), "learning_rate": rate}, paths[-1])
    return paths


def load(model, path):
    """As a user writes it."""
    content = torch.load(path, weights_only=True)
    model.load_state_dict(content["model_state_dict"], strict=False)
    return content["learning_rate"]


def answer(model, batch):
    if isinstance(batch, dict):
        output = model(**batch)
        return getattr(output, "logits", output), batch["labels"]
    output = model(*batch[:-1])
    return getattr(output, "logits", output), batch[-1]


def row_of(model, table, batch, loss=LOSS, counts=lambda ids: True):
    """(V, D): of each word the gradient at the outputs of ``table``, a module, added up; of those look-ups that count.

    ``counts`` says of the ids of a look-up whether they do, or which positions.
    """
    calls = []

    def keep(module, args, output):
        leaf = output.detach().clone().requires_grad_()
        calls.append((args[0], leaf))
        return leaf.clone()

    hook = table.register_forward_hook(keep)
    try:
        total = loss(*answer(model, batch)).sum()
    finally:
        hook.remove()
    gradients = torch.autograd.grad(total, [leaf for _, leaf in calls], allow_unused=True)
    row = torch.zeros(V, calls[0][1].shape[-1], dtype=torch.float64)
    for (ids, _), gradient in zip(calls, gradients, strict=True):
        if gradient is not None:
            kept = torch.as_tensor(counts(ids)).expand(ids.shape).double()[..., None]
            row.index_add_(0, ids.flatten(), (gradient.detach().double() * kept).reshape(ids.numel(), -1))
    return row


def scores_one_by_one(make, paths, table_of, train, test, loss=LOSS, load=load, counts=lambda ids: True):
    """(N, M)."""
    total = 0
    for path in paths:
        model = make().train()
        rate = load(model, path)
        model.eval()
        sides = [
            torch.stack([row_of(model, table_of(model), one, loss, counts) for one in ones(b)]) for b in (test, train)
        ]
        total = total + rate * torch.einsum("nvd,mvd->nm", *sides)
    return total


def explained(model, paths, train, loss=LOSS, **options):
    return TracInWE(model, OneByOne(train), paths, loss_fn=loss, **{"batch_size": 3} | options)


def assert_near(found, expected, within=2e-5):
    largest = float(expected.abs().max())
    assert largest > 0
    worst = float((found.double() - expected.double()).abs().max()) / largest
    assert worst <= within, f"{worst:.2e} of the largest score"


def everything(model):
    """All that a model holds, for comparing: the numbers of tensors and whose they are, flags, what containers hold."""

    def seen(value, depth=0):
        if isinstance(value, torch.Tensor):
            numbers = value.detach().clone() if not value.is_meta else None
            bits = None if numbers is None else numbers.contiguous().view(-1).view(torch.uint8).tolist()
            return id(value), value.requires_grad, bits
        if isinstance(value, dict):
            return [(key, seen(one, depth + 1)) for key, one in value.items()]
        if isinstance(value, (list, tuple, set)):
            return [seen(one, depth + 1) for one in value]
        return value if isinstance(value, (int, float, str, bool, type(None))) else id(value)

    return [
        (name, [(key, seen(value)) for key, value in vars(module).items()]) for name, module in model.named_modules()
    ]
