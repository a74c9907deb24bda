"""Retraining any module, one job after the other: the plain way, and the yardstick of the fast one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_tracinwe.retraining.recipe import Recipe, check_classes, check_jobs, check_sets, hidden_positions

__all__ = ["OneByOne", "true_class_probability"]


def true_class_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """The probability of each example's label: logits ``(..., N, classes)`` and labels ``(N,)`` → ``(..., N)``."""
    index = labels.expand(logits.shape[:-1]).unsqueeze(-1)
    return logits.softmax(-1).gather(-1, index).squeeze(-1)


class OneByOne:
    """Train a classifier from scratch without some of the examples, and ask it about the test set.

    Two jobs of one seed share first weights and the order of the texts, so that their difference is due to what was left
    out. A batch is the mean over the examples that are left of it.

    Args:
        make_model (callable): ``() -> Module`` with fresh weights, called under the job's seed; the module takes ids
            ``(N, T)`` and returns logits (a tensor, or ``.logits``). It is trained in train mode.
        train, test (tuple of Tensor): ids ``(M, T)`` and labels ``(M,)``; N test examples.
        recipe (Recipe): how to train.
        hide_with (int): the token id that stands in for a hidden word; 0 is padding in this package.

    Example:
        >>> import torch
        >>> from captum_tracinwe.retraining import OneByOne, Recipe, TextCNN
        >>> texts = torch.randint(1, 30, (8, 12)), torch.arange(8) % 2
        >>> retrain = OneByOne(lambda: TextCNN(30, 2, width=4, filters=3), texts, texts, Recipe(1, 4, 0.1))
        >>> retrain(torch.ones(2, 8, dtype=torch.bool), [0, 1]).shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        make_model: Callable[[], nn.Module],
        train: tuple[Tensor, Tensor],
        test: tuple[Tensor, Tensor],
        recipe: Recipe,
        *,
        hide_with: int = 0,
    ) -> None:
        check_sets(train, test)
        self.make_model, self.train, self.test, self.recipe, self.hide_with = make_model, train, test, recipe, hide_with

    def __call__(
        self, keep: Tensor, seeds: Sequence[int], hidden: Sequence[Sequence[tuple[int, int]]] | None = None
    ) -> Tensor:
        """The probability of the true class, ``(J, N)``.

        Args:
            keep (Tensor): bool, ``(J, M)``: which training examples job j trains on.
            seeds (sequence of int): of each job.
            hidden (list of lists, optional): for each job (example, position) of the tokens replaced by ``hide_with``.
        """
        return true_class_probability(self.logits(keep, seeds, hidden), self.test[1])

    def correct(
        self, keep: Tensor, seeds: Sequence[int], hidden: Sequence[Sequence[tuple[int, int]]] | None = None
    ) -> Tensor:
        """As a call, but whether the true class is answered: bool ``(J, N)``, as ``fixing_mistakes`` asks."""
        return self.logits(keep, seeds, hidden).argmax(-1) == self.test[1]

    def logits(
        self, keep: Tensor, seeds: Sequence[int], hidden: Sequence[Sequence[tuple[int, int]]] | None = None
    ) -> Tensor:
        """As a call, but the logits ``(J, N, classes)``."""
        found = []
        for model in self.models(keep, seeds, hidden):
            model.eval()
            with torch.no_grad():
                found.append(torch.cat([_logits(model, ids) for ids in torch.split(self.test[0], 256)]))
            check_classes(found[-1], self.train, self.test)
        return torch.stack(found)

    def models(
        self, keep: Tensor, seeds: Sequence[int], hidden: Sequence[Sequence[tuple[int, int]]] | None = None
    ) -> list[nn.Module]:
        """The trained models."""
        ids, _ = self.train
        keep, seeds = check_jobs(keep, seeds, len(ids))
        masks = hidden_positions(hidden, len(seeds), (ids.shape[0], ids.shape[1]))
        found: list[nn.Module] = []
        for kept, seed, mask in zip(keep, seeds, masks, strict=True):
            found.append(self.fit(kept, seed, mask))
            if any(found[-1] is model for model in found[:-1]):
                raise ValueError(
                    "`make_model` gave one model twice, trained already: expected fresh weights at each call, such as "
                    "lambda: Model(...)."
                )
        return found

    def fit(
        self,
        keep: Tensor,
        seed: int,
        hidden: Tensor | None = None,
        after_epoch: Callable[[nn.Module, int], Any] = lambda model, epoch: None,
    ) -> nn.Module:
        """One model, trained; ``after_epoch(model, epochs done)`` may save it on the way."""
        ids, labels = self.train
        ids = ids if hidden is None else ids.masked_fill(hidden.to(ids.device), self.hide_with)
        with torch.random.fork_rng(devices=[ids.device] if ids.is_cuda else []):
            torch.manual_seed(seed)
            model = self.make_model().to(ids.device).train()
            optimizer = self.recipe.optimizer_of(model)
            now = 0
            for epoch, indices in self.recipe.batches(len(ids), seed):
                if epoch > now:
                    after_epoch(model, epoch)
                    now = epoch
                left = indices[keep[indices]].to(ids.device)
                optimizer.zero_grad(set_to_none=False)
                if len(left):
                    nn.functional.cross_entropy(_logits(model, ids[left]), labels[left]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            after_epoch(model, self.recipe.epochs)
        return model


def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    output = model(ids)
    logits: Tensor = getattr(output, "logits", output)
    return logits
