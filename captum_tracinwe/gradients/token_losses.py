"""Losses of language models, one number per example: of all target tokens, or of the part that is asked about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

__all__ = ["TokenLoss", "span_loss", "with_virtual_tokens"]


class TokenLoss:
    """Cross-entropy of each example over its target tokens, ``(N,)``; a label of −100 is no target.

    Args:
        shift (bool): logits at position t predict label t + 1 (causal language models); False for encoder-decoders and
            token classification.
        reduction (str): "sum" or "mean" over an example's targets. (An attribute of that name would be taken for a
            reduction over examples, so it is kept as ``over_tokens``.)
        start, stop (int, optional): only the targets numbered ``start:stop`` of each example, counted among its targets;
            negative numbers count from its end. ``TokenLoss(start=-1)`` asks about the last token.

    Memory: two blocks of V numbers for each token of a batch, the logits and their gradient, and what the layers keep: about
    4 · N · T · (2 · V + 34 · L · D) bytes in float32 for N texts of T tokens and L layers of width D, where attention keeps no
    T x T weights. One text of 2,048 tokens takes 3.4 GB in GPT-2 (V = 50,257; 12 x 768). ``benchmarks/memory.py`` measures it.

    Raises:
        ValueError: another reduction; shapes that do not fit.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 3, 4), torch.tensor([[1, 2, -100]])
        >>> TokenLoss()(logits, labels)  # one target, the second label: log 4
        tensor([1.3863])
    """

    def __init__(
        self, shift: bool = True, reduction: str = "sum", start: int | None = None, stop: int | None = None
    ) -> None:
        if reduction not in ("sum", "mean"):
            raise ValueError(
                f"TokenLoss: expected reduction 'sum' or 'mean' over the tokens of an example, got {reduction!r}."
            )
        self.shift, self.over_tokens, self.start, self.stop = shift, reduction, start, stop

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Losses ``(N,)`` of logits ``(N, T, V)`` and labels ``(N, T)``."""
        if logits.dim() != 3 or labels.shape != logits.shape[:2]:
            raise ValueError(
                f"TokenLoss: expected logits (N, T, V) and labels (N, T), got {tuple(logits.shape)} and {tuple(labels.shape)}. "
                f"Where the model puts tokens of its own before a text, as soft prompts, pass a loss_fn that leaves them out: "
                f"lambda logits, labels: TokenLoss()(logits[:, -labels.shape[1]:], labels)."
            )
        words = self.target_words(labels)
        losses: Tensor = _TokenCrossEntropy.apply(logits, words)  # type: ignore[no-untyped-call]
        total = losses.sum(1)
        return total / (words != -100).sum(1).clamp_min(1) if self.over_tokens == "mean" else total

    def target_words(self, labels: Tensor) -> Tensor:
        """The word that each position has to predict, ``(N, T)``; −100 where none is, or none that is asked about."""
        if self.shift:  # the labels, not the logits: these stay one block of memory
            labels = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], dim=1)
        return labels.masked_fill(~self._wanted(labels != -100), -100)

    def targets(self, labels: Tensor) -> Tensor:
        """How many targets each example has, ``(N,)``; with none its loss is 0, which `TracInWE` reports."""
        return self._wanted((labels[:, 1:] if self.shift else labels) != -100).sum(1)

    def _wanted(self, targets: Tensor) -> Tensor:
        if self.start is None and self.stop is None:
            return targets
        number = torch.cumsum(targets, 1) - 1
        count = targets.sum(1, keepdim=True)

        def place(index: int) -> Tensor:
            return count + index if index < 0 else torch.full_like(count, index)

        if self.start is not None:
            targets = targets & (number >= place(self.start))
        return targets if self.stop is None else targets & (number < place(self.stop))


def with_virtual_tokens(model: Module, labels: Any, loss_fn: Any) -> Any:
    """Labels for a `TokenLoss` of a model before whose texts PEFT puts virtual tokens: −100 for each, as PEFT's own loss has it.

    The last of them predicts a text's first word. Of prefix tuning, which puts none before the text, and of other models and
    losses, the labels as they are.
    """
    if not isinstance(loss_fn, TokenLoss) or not isinstance(labels, Tensor) or labels.dim() != 2:
        return labels
    configs = getattr(model, "peft_config", None)
    name = getattr(model, "active_adapter", None)
    config = configs.get(name) if isinstance(configs, Mapping) and isinstance(name, str) else None
    kind = str(getattr(getattr(config, "peft_type", None), "value", ""))
    task = str(getattr(config, "task_type", ""))
    if kind not in ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING") or not task.endswith(
        ("CAUSAL_LM", "TOKEN_CLS")
    ):
        return labels
    if getattr(model, "_adapters_disabled", False):
        return labels
    return torch.nn.functional.pad(labels, (int(getattr(config, "num_virtual_tokens", 0)), 0), value=-100)


class _TokenCrossEntropy(torch.autograd.Function):
    """Cross-entropy ``(N, T)`` of logits ``(N, T, V)`` that keeps nothing beside them.

    torch's own keeps the log-probabilities, and with labels in two dimensions copies of the logits: five blocks of V numbers
    per token at its peak, 2.1 GB for 2,048 tokens of GPT-2's vocabulary, where this takes two.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(logits, labels)
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none"
        )
        return losses.view_as(labels)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor, None]:
        logits, labels = ctx.saved_tensors
        gradient = torch.softmax(logits, -1)
        targets = labels.clamp_min(0)[..., None]
        gradient.scatter_add_(-1, targets, torch.full_like(targets, -1, dtype=gradient.dtype))
        return gradient.mul_((given * (labels != -100))[..., None]), None


def span_loss(output: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
    """Loss ``(N,)`` of extractive question answering, that of transformers' models: the mean over start and end of the answer.

    Args:
        output (mapping): ``start_logits`` and ``end_logits``, ``(N, T)``.
        labels (mapping): ``start_positions`` and ``end_positions``, ``(N,)``; a place beyond the text is no target.
    """
    losses = []
    for side in ("start", "end"):
        logits = output[f"{side}_logits"]
        places = labels[f"{side}_positions"].clamp(0, logits.shape[1])
        losses.append(torch.nn.functional.cross_entropy(logits, places, ignore_index=logits.shape[1], reduction="none"))
    return torch.stack(losses).mean(0)
