"""Models with texts to explain: what `test_tracin_we.py` and others run everything on."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import (
    TinyCNN,
    language_model_loss,
    scores_by_loop,
    tiny_bert,
    tiny_gpt2,
    tiny_t5,
    toy_texts,
)


class Examples(Dataset):
    """A batch cut into single examples."""

    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return len(next(iter(self.batch.values())) if isinstance(self.batch, dict) else self.batch[0])

    def __getitem__(self, index):
        if isinstance(self.batch, dict):
            return {key: value[index] for key, value in self.batch.items()}
        return tuple(value[index] for value in self.batch)


class TwoTexts(nn.Module):
    """A classifier of text pairs: one embedding called twice, and a third time only to be thrown away."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(30, 5, sparse=True)
        self.out = nn.Linear(10, 3)

    def forward(self, first, second):
        self.words(first)
        return self.out(torch.tanh(torch.cat([self.words(first).mean(1), self.words(second).mean(1)], 1)))


@dataclass
class Case:
    """A model, training and test batch, and its loss per example (``(prediction, labels) -> (N,)``)."""

    model: nn.Module
    train: Any
    test: Any
    loss: Any
    embeddings: list[nn.Module]
    layer: str
    padding_idx: int | None = None
    # Captum's dense path takes tuples and tensors only, and sees the whole of a tied table.
    captum: bool = True
    captum_model: nn.Module | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def to(self, dtype):
        self.model.to(dtype)
        return self

    def dataset(self):
        return Examples(self.train)

    def loader(self, batch_size):
        return DataLoader(self.dataset(), batch_size)

    def losses(self, batch, loss=None):
        """For each example a function that gives its loss, run alone."""
        examples = Examples(batch)

        def run(i):
            one = torch.utils.data.default_collate([examples[i]])
            if isinstance(one, dict):
                return (loss or self.loss)(self.model(**one).logits, one["labels"]).sum()
            out = self.model(*one[:-1])
            return (loss or self.loss)(getattr(out, "logits", out), one[-1]).sum()

        return [lambda i=i: run(i) for i in range(len(examples))]

    def by_loop(self, checkpoints, test_loss=None):
        self.model.eval()
        return scores_by_loop(
            self.model,
            self.embeddings,
            checkpoints,
            self.losses(self.test, test_loss),
            self.losses(self.train),
            self.padding_idx,
        )


class LogitsOnly(nn.Module):
    """A transformers model as Captum wants it: positional tensors in, a tensor out."""

    def __init__(self, model, names):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *args):
        return self.model(**dict(zip(self.names, args, strict=True))).logits


def cross_entropy(reduction="none"):
    return nn.CrossEntropyLoss(reduction=reduction)


def cnn():
    (a, _, la), (b, _, lb) = toy_texts(7, seed=1), toy_texts(3, seed=2)
    model = TinyCNN(padding_idx=0)
    return Case(model, (a, la), (b, lb), cross_entropy(), [model.embedding], "embedding", 0)


def cnn_without_padding_idx():
    (a, _, la), (b, _, lb) = toy_texts(7, seed=1), toy_texts(3, seed=2)
    model = TinyCNN()
    return Case(model, (a, la), (b, lb), cross_entropy(), [model.embedding], "embedding")


def two_texts():
    (a, _, la), (b, _, lb) = toy_texts(6, seed=1), toy_texts(3, seed=2)
    model = TwoTexts()
    case = Case(model, (a[:, :4], a[:, 4:], la), (b[:, :4], b[:, 4:], lb), cross_entropy(), [model.words], "words")
    case.captum = False  # Captum cannot differentiate a sparse embedding
    return case


def bert_tuple():
    (a, am, la), (b, bm, lb) = toy_texts(7, seed=1), toy_texts(3, seed=2)
    model = LogitsOnly(tiny_bert(), ["input_ids", "attention_mask"])
    words = model.model.bert.embeddings.word_embeddings
    case = Case(model, (a, am, la), (b, bm, lb), cross_entropy(), [words], "model.bert.embeddings.word_embeddings", 0)
    case.options["layers"] = [case.layer]
    return case


def bert_mapping():
    (a, am, la), (b, bm, lb) = toy_texts(7, seed=1), toy_texts(3, seed=2)
    model = tiny_bert()
    words = model.bert.embeddings.word_embeddings
    train = {"input_ids": a, "attention_mask": am, "labels": la}
    test = {"input_ids": b, "attention_mask": bm, "labels": lb}
    return Case(model, train, test, cross_entropy(), [words], "bert.embeddings.word_embeddings", 0, captum=False)


def _targets(ids, mask):
    return ids.masked_fill(mask == 0, -100)


def gpt2(tied):
    (a, am, _), (b, bm, _) = toy_texts(6, seed=1), toy_texts(3, seed=2)
    model = LogitsOnly(tiny_gpt2(tied), ["input_ids", "attention_mask"])
    wte = model.model.transformer.wte
    case = Case(
        model,
        (a, am, _targets(a, am)),
        (b, bm, _targets(b, bm)),
        language_model_loss,
        [wte],
        "model.transformer.wte",
    )
    case.options["layers"] = [case.layer]
    case.captum = not tied
    return case


def t5():
    (a, am, _), (b, bm, _) = toy_texts(5, seed=1), toy_texts(3, seed=2)
    model = tiny_t5()
    names = ["shared", "encoder.embed_tokens", "decoder.embed_tokens"]
    tables = list({id(m): m for m in (model.get_submodule(n) for n in names)}.values())
    train = {"input_ids": a, "attention_mask": am, "labels": _targets(a.flip(1), am.flip(1))}
    test = {"input_ids": b, "attention_mask": bm, "labels": _targets(b.flip(1), bm.flip(1))}
    return Case(model, train, test, sequence_loss, tables, "shared", captum=False)


def sequence_loss(logits, labels):
    """Σ over target tokens, unshifted, as an encoder-decoder needs."""
    return nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1)


CASES = {
    "cnn": cnn,
    "cnn without padding_idx": cnn_without_padding_idx,
    "two texts, sparse": two_texts,
    "bert, tuples": bert_tuple,
    "bert, mappings": bert_mapping,
    "gpt2, untied": lambda: gpt2(False),
    "gpt2, tied": lambda: gpt2(True),
    "t5": t5,
}


def captum_scores(case, checkpoints, **calls):
    """A Captum TracInCP on a copy of the case's model, in eval mode and with true learning rates."""
    from captum.influence import TracInCP

    from captum_tracinwe import load_checkpoint

    model = copy.deepcopy(case.model).eval()
    return TracInCP(
        model,
        case.dataset(),
        checkpoints,
        load_checkpoint,
        layers=[case.layer],
        loss_fn=calls.get("loss_fn", as_captum(case.loss)),
        batch_size=4,
        test_loss_fn=calls.get("test_loss_fn"),
    )


def as_captum(loss):
    return loss


# Relative to the largest score.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


def assert_scores(actual, expected, dtype=torch.float64, largest=None):
    """Equal to the tolerance of ``dtype``, relative to the ``largest`` score."""
    assert actual.shape == expected.shape
    largest = float(expected.abs().max()) if largest is None else largest
    assert largest > 0
    worst = float((actual.double() - expected.double()).abs().max()) / largest
    assert worst <= TOLERANCE[dtype], f"{worst:.2e} of the largest score"


def tracin_of(case, checkpoints, **options):
    """TracInWE on the training texts of a case."""
    return TracInWE(
        case.model,
        options.pop("data", case.dataset()),
        checkpoints,
        **{"loss_fn": case.loss, "batch_size": 3} | case.options | options,
    )


def state_of(model):
    return {
        "weights": {n: t.clone() for n, t in model.state_dict().items()},
        "objects": {n: id(p) for n, p in model.named_parameters()},
        "wanted": {n: p.requires_grad for n, p in model.named_parameters()},
        "modes": [m.training for m in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()],
        "grads": [p.grad is None for p in model.parameters()],
    }


def assert_same_state(model, before):
    after = state_of(model)
    for name, tensor in before.pop("weights").items():
        assert torch.equal(after["weights"][name], tensor), name
    after.pop("weights")
    assert after == before


class Stream(IterableDataset):
    def __init__(self, examples):
        self.examples = examples

    def __iter__(self):
        return (self.examples[i] for i in range(len(self.examples)))
