"""Every public way to ask a live model, for tests that interrupt them or run them side by side."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import sys
import tempfile
from collections.abc import Mapping
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import torch
from captum_tracinwe.evaluation import example_gradients
from cases import LogitsOnly, cross_entropy
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from captum_tracinwe import (
    TracInWE,
    load_checkpoint,
    methods,
    save_checkpoint,
    synonym_influence,
    synonym_scores,
    word_report,
)
from captum_tracinwe.app.testing import scatter_checkpoints, tiny_bert, toy_texts


class Bag(nn.Module):
    """A bag of words, with dropout and BatchNorm's buffers: both show who forgets the mode."""

    def __init__(self):
        super().__init__()
        self.words = nn.EmbeddingBag(30, 6, mode="mean", padding_idx=0)
        self.norm = nn.BatchNorm1d(6)
        self.dropout = nn.Dropout(0.5)
        self.out = nn.Linear(6, 3)

    def forward(self, ids):
        return self.out(self.dropout(torch.tanh(self.norm(self.words(ids)))))


def bag():
    return Bag(), "out", "words"


def bert():
    return LogitsOnly(tiny_bert(), ["input_ids"]), "model.classifier", "model.bert.embeddings.word_embeddings"


MODELS = {"bag": bag, "bert": bert}


def _copying(model, path):
    """A loader of the user's own, that writes into the weights and leaves the mode and requires_grad as it likes."""
    rate = load_checkpoint(model, path)
    model.train()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return rate


class Live:
    """A model in the middle of somebody's work, and all that can be asked of it."""

    def __init__(self, kind, folder, tests=2, trains=5):
        self.folder = Path(folder)
        self.model, last, words = MODELS[kind]()
        self.paths = scatter_checkpoints(self.model, self.folder, rates=(0.3, 0.1))
        self.model.train()
        next(self.model.parameters()).requires_grad_(False)
        list(self.model.modules())[-1].eval()
        ids, _, labels = toy_texts(tests + trains, length=6, seed=3)
        self.batch = ids[:tests], labels[:tests]
        self.train = TensorDataset(ids[tests:], labels[tests:])
        self.labels = labels[tests:]
        options = {"layers": [words], "loss_fn": cross_entropy(), "batch_size": 2}
        self.options = options
        self.tracin = TracInWE(self.model, self.train, self.paths, **options)
        self.blockwise = TracInWE(self.model, self.train, self.paths, memory_limit=1, **options)
        self.copying = TracInWE(self.model, self.train, self.paths, _copying, **options)
        text = [["a", "b"]]
        self.test_set = methods.Examples(self.batch, text * tests)
        self.train_set = methods.Examples((ids[tests:], labels[tests:]), text * trains)
        self.explained = methods.Explained(self.model, self.paths, cross_entropy(), last, words, batch_size=4)
        self.layers = [last, words]

    def ways(self):
        """Name → a function without arguments whose answer is always the same."""
        t, batch = self.tracin, self.batch
        side = self.test_set, self.train_set
        explained = self.explained

        def bars():
            with redirect_stderr(StringIO()):
                return t.influence(batch, show_progress=True), t.self_influence(None, True, True)

        return {
            "influence": lambda: t.influence(batch),
            "influence, copying loader": lambda: self.copying.influence(batch),
            "influence, blocks": lambda: self.blockwise.influence(batch),
            "influence, k": lambda: self.blockwise.influence(batch, k=2),
            "influence, aggregate": lambda: self.copying.influence(batch, aggregate=True),
            "progress bars": bars,
            "self_influence": lambda: t.self_influence(),
            "self_influence by checkpoints": lambda: self.copying.self_influence(outer_loop_by_checkpoints=True),
            "compute_intermediate_quantities": lambda: t.compute_intermediate_quantities(batch),
            "row_gradients": lambda: self.blockwise.row_gradients(),
            "word_influence": lambda: t.word_influence(batch, [[0, 2]] * len(batch[0])),
            "word_report": lambda: word_report(t, batch, self.labels, draws=20),
            "synonym_scores": lambda: synonym_scores(self.copying, batch, k=3),
            "synonym_influence": lambda: synonym_influence(t, batch, [[1]] * len(batch[0]), k=3),
            "build_index": self.build_index,
            "estimate_index": lambda: self.copying.estimate_index().payload_bytes,
            "example_gradients": self.example_gradients,
            "save_checkpoint": self.save_checkpoint,
            "tracin_we": lambda: methods.tracin_we(explained)(*side),
            "tracin_we_syn": lambda: methods.tracin_we_syn(explained)(*side),
            "we_self_influence": lambda: methods.we_self_influence(explained, self.train_set),
            "tracin_last": lambda: methods.tracin_last(explained)(*side),
            "tracin_last_projected": lambda: methods.tracin_last_projected(explained, 2)(*side),
            "last_self_influence": lambda: methods.last_self_influence(explained, self.train_set),
            "tracin_layers": lambda: methods.tracin_layers(explained, [self.layers[0]])(*side),
            "influence_last": lambda: methods.influence_last(explained, arnoldi_dim=4, projection_dim=2)(*side),
            "influence_last, exact": lambda: methods.influence_last(explained, exact=True)(*side),
            "similarity": lambda: methods.similarity(explained, self.layers)(*side),
            "representer_last": lambda: methods.representer_last(explained)(*side),
            "tr_tfidf": lambda: methods.tr_tfidf(explained)(*side),
            "training_loss": lambda: methods.training_loss(explained, self.train_set),
        }

    def build_index(self):
        with tempfile.TemporaryDirectory() as folder:
            index = self.tracin.build_index(f"{folder}/index", rank=2)
            asked = TracInWE(self.model, None, self.paths, index=index, **self.options)
            return index.self_influence(), asked.influence(self.batch, k=2)

    def example_gradients(self):
        ids, labels = self.batch
        first = next(example_gradients(self.model, [(ids[:1], labels[:1])] * 2, cross_entropy()))
        return list(first.items())

    def save_checkpoint(self):
        with tempfile.TemporaryDirectory() as folder:
            save_checkpoint(f"{folder}/now.pt", self.model, 0.1)
            return list(torch.load(f"{folder}/now.pt", weights_only=True)["model_state_dict"].items())


def bits(value):
    """An answer as what is compared: bit for bit."""
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().contiguous().numpy().tobytes()
    if dataclasses.is_dataclass(value):
        return [bits(getattr(value, one.name)) for one in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        return [(key, bits(one)) for key, one in value.items()]
    if isinstance(value, (list, tuple)):
        return [bits(one) for one in value]
    return repr(value)


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def whole_state(model):
    """All of a model, and of the process, that an ask might leave otherwise than it found it."""
    return {
        "weights": bits(model.state_dict()),
        "objects": [id(tensor) for tensor in (*model.parameters(), *model.buffers())],
        "storages": [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "hooks": [[list(getattr(module, name)) for name in HOOKS] for module in model.modules()],
        "grads": [parameter.grad is None for parameter in model.parameters()],
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "function modes": torch.overrides._get_current_function_mode_stack(),
        "handler": signal.getsignal(signal.SIGINT),
        "stdout": sys.stdout,
    }


def chosen(ways, variable, default, share=1.0):
    """Names of ways, as many as the environment says (a ``share`` of it): each once, in random order, then over again."""
    many = max(1, round(share * int(os.environ.get(variable, default))))
    generator = random.Random(many)
    names = []
    while len(names) < many:
        names += generator.sample(list(ways), len(ways))
    return names[:many]
