"""Retraining any module, one job after the other: the plain way, and the yardstick of the fast one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_tracinwe.evidence.retraining.recipe import Recipe, check_classes, check_jobs, check_sets, hidden_positions
from captum_tracinwe.evidence.retraining.retrainer import Retrainer
from captum_tracinwe.gradients.seen import shows_bars

__all__ = ["OneByOne"]


class OneByOne(Retrainer):
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
        >>> from captum_tracinwe.evidence.retraining import OneByOne, Recipe, TextCNN
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

    def logits(
        self,
        keep: Tensor,
        seeds: Sequence[int],
        hidden: Sequence[Sequence[tuple[int, int]]] | None = None,
        *,
        show_progress: bool = False,
    ) -> Tensor:
        """The logits of the test set, ``(J, N, classes)``; arguments as in :class:`Retrainer`."""
        found = []
        for model in self.models(keep, seeds, hidden, show_progress=show_progress):
            model.eval()
            with torch.no_grad():
                found.append(torch.cat([_logits(model, ids) for ids in torch.split(self.test[0], 256)]))
            check_classes(found[-1], self.train, self.test)
        return torch.stack(found)

    def models(
        self,
        keep: Tensor,
        seeds: Sequence[int],
        hidden: Sequence[Sequence[tuple[int, int]]] | None = None,
        *,
        show_progress: bool = False,
    ) -> list[nn.Module]:
        """The trained models."""
        from tqdm.auto import tqdm

        ids, _ = self.train
        keep, seeds = check_jobs(keep, seeds, len(ids))
        masks = hidden_positions(hidden, len(seeds), (ids.shape[0], ids.shape[1]))
        found: list[nn.Module] = []
        jobs = list(zip(keep, seeds, masks, strict=True))
        for kept, seed, mask in tqdm(jobs, desc="Retraining", leave=False, disable=not shows_bars(show_progress)):
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
