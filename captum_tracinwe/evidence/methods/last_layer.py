"""Closed forms on the last linear layer: Representer-Last, and TF-IDF similarity weighted by the loss gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.evidence.methods.asking import LossPerExample, asked, existing_layers, last_layer_gives_logits
from captum_tracinwe.evidence.methods.examples import Examples, Explained, Method, checked, checked_global
from captum_tracinwe.evidence.methods.retrieval import tfidf
from captum_tracinwe.gradients.diagnosis import diagnosed

__all__ = ["last_pass", "representer_last", "tr_tfidf", "training_loss"]


def representer_last(explained: Explained, *, weight_decay: float = 3e-3) -> Method:
    """Representer points: −1/(2λn) · ∂ℓ/∂f_y(x) · ⟨a(x), a(x')⟩, y the label of x', at the last checkpoint.

    a is the input of the last layer and f its output. The theorem holds where the last layer is stationary under an L2
    penalty λ; as in the TracIn-WE paper it is used as it stands. λ scales all scores alike. Positive = proponent.
    """

    if not weight_decay > 0:
        raise ValueError(f"representer_last: expected a weight_decay above 0, got {weight_decay!r}.")

    def scores(test: Examples, train: Examples) -> Tensor:
        with last_layer_gives_logits(explained, "Representer-Last"):
            (a, _, _), (b, errors, _) = (
                last_pass(explained, explained.checkpoints[-1], side)[1] for side in (test, train)
            )
        if bool((test.labels < 0).any()):
            raise ValueError(
                f"Representer-Last: expected a class from 0 to {errors.shape[1] - 1} as label of each test example, got "
                f"{int(test.labels.min())}."
            )
        weights = -errors[:, test.labels.cpu()].T / (2 * weight_decay * len(train))  # (N, M)
        return checked(weights * (a @ b.T), test, train, "Representer-Last")

    return scores


def tr_tfidf(explained: Explained) -> Method:
    """TR-TFIDF: TfIdf(x, x') · Σ_c η_c ⟨∂ℓ_c/∂f(x), ∂ℓ_c/∂f(x')⟩, f the logits. Positive = proponent."""

    def scores(test: Examples, train: Examples) -> Tensor:
        alike = tfidf(test, train)
        errors = torch.zeros_like(alike)
        for checkpoint in explained.checkpoints:
            (rate, (_, a, _)), (_, (_, b, _)) = (last_pass(explained, checkpoint, side) for side in (test, train))
            errors += rate * (a @ b.T)
        return checked(alike * errors, test, train, "TR-TFIDF")

    return scores


def training_loss(explained: Explained, train: Examples) -> Tensor:
    """The mean loss of each training example over the checkpoints, ``(M,)``: the plainest sign of a wrong label."""
    losses = torch.stack([last_pass(explained, c, train)[1][2] for c in explained.checkpoints]).mean(0)
    return checked_global(losses, train, "The training loss")


def last_pass(explained: Explained, checkpoint: Any, examples: Examples) -> tuple[float, tuple[Tensor, Tensor, Tensor]]:
    """(rate, (inputs of the last layer ``(N, H)``, ∂ℓ/∂logits ``(N, K)``, losses ``(N,)``)) at a checkpoint."""
    existing_layers(explained, [explained.last], "`last`")
    inputs: list[Tensor] = []
    layer, loss_fn = explained.model.get_submodule(explained.last), LossPerExample(explained)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    with asked(explained, parameters=False):  # which takes the hook off again
        layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
        rate = explained.load(explained.model, checkpoint)
        explained.model.eval()
        for part in zip(*(torch.split(field, explained.batch_size) for field in examples.batch), strict=True):
            with torch.no_grad(), diagnosed(explained.model, part, part[-1]):
                logits = explained.model(*part[:-1])
            with torch.enable_grad():
                losses = loss_fn(logits.requires_grad_(), part[-1])
                (errors,) = torch.autograd.grad(losses.sum(), logits)
            found.append((inputs.pop(), errors, losses.detach()))
    a, errors, losses = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    return float(rate), (a, errors, losses)
