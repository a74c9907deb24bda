"""For tests and examples, here and in code that builds on this: tiny models, toy texts, a for-loop oracle of the scores.

The oracle shares nothing with the package: one example at a time, the gradient by a hook at the embedding's output,
rows in a dict, products in two Python loops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import Module

from captum_tracinwe.checkpoints.weights import load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from captum_tracinwe.tracin_we import TracInWE

__all__ = [
    "TinyCNN",
    "language_model_loss",
    "scatter_checkpoints",
    "scores_by_loop",
    "tiny_bert",
    "tiny_gpt2",
    "tiny_t5",
    "toy_texts",
    "toy_tracin",
]

VOCABULARY = 30
Rows = dict[int, Tensor]


class TinyCNN(nn.Module):
    """The paper's kind of text CNN, small: embedding → convolution → max over positions → linear."""

    def __init__(
        self, vocabulary: int = VOCABULARY, width: int = 6, classes: int = 3, padding_idx: int | None = None
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=padding_idx)
        self.conv = nn.Conv1d(width, 5, 3, padding=1)
        self.dropout = nn.Dropout(0.5)
        self.out = nn.Linear(5, classes)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of ids ``(N, T)``."""
        hidden = torch.tanh(self.conv(self.embedding(input_ids).transpose(1, 2)))
        logits: Tensor = self.out(self.dropout(hidden.amax(2)))
        return logits


def tiny_bert(classes: int = 3, **changes: Any) -> Module:
    """A random BERT classifier of 2 layers x 8, in eval mode; ``padding_idx`` is 0."""
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 32,
        "num_labels": classes,
    }
    return _eager(BertForSequenceClassification(BertConfig(**(sizes | changes))))


def tiny_gpt2(tied: bool = True, **changes: Any) -> Module:
    """A random GPT-2 language model of 2 layers x 8, in eval mode."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {
        "vocab_size": VOCABULARY,
        "n_positions": 32,
        "n_embd": 8,
        "n_layer": 2,
        "n_head": 2,
        "tie_word_embeddings": tied,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }
    return _eager(GPT2LMHeadModel(GPT2Config(**(sizes | changes))))


def tiny_t5(tied: bool = False, **changes: Any) -> Module:
    """A random T5 of one encoder and one decoder layer, in eval mode: its table is read by both."""
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {
        "vocab_size": VOCABULARY,
        "d_model": 8,
        "d_kv": 4,
        "d_ff": 16,
        "num_layers": 1,
        "num_heads": 2,
        "tie_word_embeddings": tied,
        "decoder_start_token_id": 0,
    }
    return _eager(T5ForConditionalGeneration(T5Config(**(sizes | changes))))


def _eager(model: Any) -> Module:
    result: Module = model.eval()
    return result


def toy_texts(
    count: int, length: int = 9, vocabulary: int = VOCABULARY, classes: int = 3, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids ``(N, T)``, attention mask and labels ``(N,)``: ragged, padded with 0 on the right, tokens repeated within a text.

    Example:
        >>> ids, mask, labels = toy_texts(4)
        >>> ids.shape, mask.shape, labels.shape
        (torch.Size([4, 9]), torch.Size([4, 9]), torch.Size([4]))
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, vocabulary, (count, length), generator=generator)
    ids[:, 2] = ids[:, 0]
    lengths = torch.randint(3, length + 1, (count,), generator=generator)
    mask = (torch.arange(length) < lengths[:, None]).long()
    return ids * mask, mask, torch.randint(0, classes, (count,), generator=generator)


def language_model_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Next-token loss of each text, ``(N,)``: the sum over its targets; −100 is none."""
    losses = nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
    return losses.sum(1)


def scatter_checkpoints(
    model: Module,
    folder: str | Path,
    rates: Sequence[float] = (0.3, 0.05, 1.7),
    scale: float = 0.3,
    seed: int = 0,
) -> list[str]:
    """Save one checkpoint per rate, the weights of ``model`` with noise added; the paths. The model keeps its weights.

    Example:
        >>> import tempfile
        >>> [Path(path).name for path in scatter_checkpoints(TinyCNN(), tempfile.mkdtemp(), rates=(0.3, 0.1))]
        ['step-8.pt', 'step-9.pt']
    """
    generator = torch.Generator().manual_seed(seed)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    paths = [str(Path(folder) / f"step-{8 + i}.pt") for i in range(len(rates))]
    for path, rate in zip(paths, rates, strict=True):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator).to(parameter))
        save_checkpoint(path, model, rate)
        model.load_state_dict(before)
    return paths


def toy_tracin(
    tests: int = 2, trains: int = 12, seed: int = 0, **options: Any
) -> tuple[TracInWE, tuple[Tensor, Tensor]]:
    """A `TracInWE` of a :class:`TinyCNN` over toy texts, and test texts to ask it about; its two checkpoints need no file.

    Args:
        tests, trains (int): N and M.
        seed (int): of weights and texts.
        **options: any argument of :class:`captum_tracinwe.TracInWE`.

    Returns:
        tuple: the TracInWE, and a batch ``(ids (N, T), labels (N,))``.

    Example:
        >>> tracin, inputs = toy_tracin()
        >>> tracin.influence(inputs).shape
        torch.Size([2, 12])
    """
    from captum_tracinwe.tracin_we import TracInWE

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        models = [TinyCNN(padding_idx=0), TinyCNN(padding_idx=0)]
    ids, _, labels = toy_texts(tests + trains, seed=seed)
    checkpoints = list(zip((0.3, 0.1), (model.state_dict() for model in models), strict=True))

    def load(model: Module, checkpoint: tuple[float, dict[str, Tensor]]) -> float:
        model.load_state_dict(checkpoint[1])
        return checkpoint[0]

    train = torch.utils.data.TensorDataset(ids[tests:], labels[tests:])
    defaults = {"loss_fn": nn.CrossEntropyLoss(reduction="none"), "batch_size": 4, "checkpoints_load_func": load}
    return TracInWE(TinyCNN(padding_idx=0), train, checkpoints, **{**defaults, **options}), (
        ids[:tests],
        labels[:tests],
    )


# ------------------------------------------------------------------------------------------------------------ oracle


def rows_by_loop(
    model: Module, embeddings: Sequence[Module], run: Callable[[], Tensor], padding_idx: int | None = None
) -> Rows:
    """Token → Σ over its positions of ∂loss/∂e, of one example; ``run`` gives its loss."""
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(module: Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        leaf = output.detach().clone().requires_grad_()
        calls.append((args[0], leaf))
        return leaf

    hooks = [embedding.register_forward_hook(keep) for embedding in embeddings]
    try:
        loss = run()
    finally:
        for hook in hooks:
            hook.remove()
    rows: Rows = {}
    grads = torch.autograd.grad(loss, [leaf for _, leaf in calls], allow_unused=True)
    for (ids, _), grad in zip(calls, grads, strict=True):
        if grad is not None:
            for token, gradient in zip(ids.flatten().tolist(), grad.reshape(-1, grad.shape[-1]), strict=True):
                if token != padding_idx:
                    rows[token] = rows.get(token, torch.zeros_like(gradient)) + gradient
    return rows


def scores_by_loop(
    model: Module,
    embeddings: Sequence[Module],
    checkpoints: Iterable[str],
    test: Sequence[Callable[[], Tensor]],
    train: Sequence[Callable[[], Tensor]],
    padding_idx: int | None = None,
) -> Tensor:
    """Influence ``(N, M)`` in plain loops; each entry of ``test`` and ``train`` gives the loss of one example."""
    scores = torch.zeros(len(test), len(train), dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for checkpoint in checkpoints:
        rate = load_checkpoint(model, checkpoint)
        of_test = [rows_by_loop(model, embeddings, run, padding_idx) for run in test]
        of_train = [rows_by_loop(model, embeddings, run, padding_idx) for run in train]
        for i, a in enumerate(of_test):
            for j, b in enumerate(of_train):
                for token in a:
                    if token in b:
                        scores[i, j] += rate * float(torch.dot(a[token].double(), b[token].double()))
    model.load_state_dict(before)
    return scores
