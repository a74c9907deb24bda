"""Many text CNNs trained at once: stacked weights, examples left out by weight 0, one order of texts for all.

What they share is done once: looking up the batch's distinct tokens, the places they go to, and the optimiser's catching up of
rows that a step does not touch. The first convolution is taken over the distinct tokens of the batch, not over its positions
(537 of 1,024 for 32 news texts), and only their rows of the embedding are read and written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from captum_tracinwe.evidence.retraining.recipe import Recipe, check_classes, check_jobs, check_sets, hidden_positions
from captum_tracinwe.evidence.retraining.retrainer import Retrainer
from captum_tracinwe.evidence.retraining.text_cnn import TAPS, TextCNN
from captum_tracinwe.gradients.seen import shows_bars

__all__ = ["ManyCNNs"]

LOST = TAPS - 1  # positions that an unpadded convolution takes off a text


class ManyCNNs(Retrainer):
    """As :class:`OneByOne` with ``TextCNN``, for many jobs at once; equal to it up to rounding.

    Args:
        make_model (callable): ``() -> TextCNN`` with fresh weights, called under the job's seed.
        train, test, recipe: as in :class:`OneByOne`. Hidden words become padding.
        at_once (int): jobs trained together. Their stacked weights and activations should stay in the cache: 4 is best on
            2 MB of L2 and 32 MB of L3 (see ``benchmarks/evidence/README.md``); a GPU takes hundreds.

    Example:
        >>> import torch
        >>> from captum_tracinwe.evidence.retraining import ManyCNNs, Recipe, TextCNN
        >>> texts = torch.randint(1, 30, (8, 12)), torch.arange(8) % 2
        >>> retrain = ManyCNNs(lambda: TextCNN(30, 2, width=4, filters=3), texts, texts, Recipe(1, 4, 0.1))
        >>> retrain(torch.ones(3, 8, dtype=torch.bool), [0, 0, 1]).shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        make_model: Callable[[], TextCNN],
        train: tuple[Tensor, Tensor],
        test: tuple[Tensor, Tensor],
        recipe: Recipe,
        *,
        at_once: int = 4,
    ) -> None:
        check_sets(train, test)
        for ids, _ in (train, test):
            if ids.shape[1] <= 2 * LOST:
                raise ValueError(f"texts of {ids.shape[1]} positions: expected at least {2 * LOST + 1}, by padding.")
        if recipe.optimizer != "sgd":
            raise ValueError(
                f"ManyCNNs: expected a recipe with optimizer='sgd', got {recipe.optimizer!r}: use OneByOne."
            )
        if at_once < 1:
            raise ValueError(f"ManyCNNs: expected `at_once` of at least 1, got {at_once!r}.")
        self.make_model, self.train, self.test, self.recipe, self.at_once = make_model, train, test, recipe, at_once

    def logits(
        self,
        keep: Tensor,
        seeds: Sequence[int],
        hidden: Sequence[Sequence[tuple[int, int]]] | None = None,
        *,
        show_progress: bool = False,
    ) -> Tensor:
        """The logits of the test set, ``(J, N, classes)``; arguments as in :class:`Retrainer`."""
        from tqdm.auto import tqdm

        ids, _ = self.train
        keep, seeds = check_jobs(keep, seeds, len(ids))
        masks = hidden_positions(hidden, len(seeds), (ids.shape[0], ids.shape[1]))
        of_seed: dict[int, list[int]] = {}
        for job, seed in enumerate(seeds):
            of_seed.setdefault(seed, []).append(job)
        groups = [
            jobs[start : start + self.at_once]
            for jobs in of_seed.values()
            for start in range(0, len(jobs), self.at_once)
        ]
        found: list[Tensor | None] = [None] * len(seeds)
        for jobs in tqdm(groups, desc="Retraining", leave=False, disable=not shows_bars(show_progress)):
            stack = _Stack(self, keep[jobs], seeds[jobs[0]], [masks[job] for job in jobs])
            for job, answer in zip(jobs, stack.train(), strict=True):
                found[job] = answer
        return torch.stack([answer for answer in found if answer is not None])


class _Stack:
    """J models of one seed under training. Weights carry the job first: ``w1 (J, D, 5F)``, ``w2 (J, 5, F, F)``, ..."""

    def __init__(self, owner: ManyCNNs, keep: Tensor, seed: int, hidden: Sequence[Tensor | None]) -> None:
        self.owner, self.seed = owner, seed
        ids = owner.train[0]
        self.jobs = len(keep)
        with torch.random.fork_rng(devices=[ids.device] if ids.is_cuda else []):
            torch.manual_seed(seed)
            model = owner.make_model().to(ids.device)
        if type(model) is not TextCNN or model.embedding.padding_idx != 0:
            raise TypeError(
                f"ManyCNNs trains retraining.TextCNN with its padding 0 and nothing else, got {type(model).__name__}: use "
                f"OneByOne."
            )
        frozen = [name for name, weight in model.named_parameters() if not weight.requires_grad]
        if frozen or bool(model.embedding.weight[0].any()):
            what = f"{frozen[0]} frozen" if frozen else "a vector of padding that is not zero"
            raise ValueError(
                f"ManyCNNs trains all weights of a TextCNN, and its padding is zero; got one with {what}: use OneByOne."
            )
        check_classes(model.out.weight.T, owner.train, owner.test)

        def stacked(weights: Tensor) -> Tensor:
            return weights.detach().unsqueeze(0).repeat(self.jobs, *(1,) * weights.dim())

        dtype = model.embedding.weight.dtype
        self.keep = keep.to(ids.device, dtype)
        self.filters = model.conv1.out_channels
        self.table = stacked(model.embedding.weight)
        self.dense = {
            "w1": stacked(model.conv1.weight.permute(1, 2, 0).flatten(1)),
            "w2": stacked(model.conv2.weight.permute(2, 1, 0)),
            "w3": stacked(model.conv3.weight[:, :, 0].T),
            "w4": stacked(model.out.weight.T),
        }
        for number, bias in enumerate((model.conv1.bias, model.conv2.bias, model.conv3.bias, model.out.bias), 1):
            assert bias is not None
            self.dense[f"b{number}"] = stacked(bias.unsqueeze(0))
        self.velocity = {name: torch.zeros_like(tensor) for name, tensor in self.dense.items()}
        self.table_velocity = torch.zeros_like(self.table)
        self.seen = torch.zeros(self.table.shape[1], dtype=torch.int64, device=ids.device)
        self.visible = None
        if any(mask is not None for mask in hidden):
            masks = [torch.zeros(ids.shape, dtype=torch.bool) if mask is None else mask for mask in hidden]
            self.visible = (~torch.stack(masks)).to(ids.device, dtype)

    def train(self) -> Tensor:
        """All steps of the recipe; the logits of the test set, ``(J, N, classes)``."""
        owner = self.owner
        ids, labels = owner.train
        with torch.no_grad():
            for step, (_, indices) in enumerate(owner.recipe.batches(len(ids), self.seed)):
                indices = indices.to(ids.device)
                weights = self.keep[:, indices]
                weights = weights / weights.sum(1, keepdim=True).clamp_min(1)
                visible = None if self.visible is None else self.visible[:, indices]
                self._step(step, ids[indices], labels[indices], weights, visible)
            self._catch_up(torch.arange(len(self.seen), device=ids.device), step + 1)
            return torch.cat([self._forward(part)[0] for part in torch.split(owner.test[0], 256)], 1)

    def _forward(self, ids: Tensor, visible: Tensor | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Logits ``(J, B, classes)``, and what the backward pass needs."""
        jobs, filters, dense = self.jobs, self.filters, self.dense
        size, long = ids.shape[0], ids.shape[1] - LOST
        tokens, inverse = torch.unique(ids, return_inverse=True)
        rows = self.table.index_select(1, tokens)  # (J, U, D)
        products = torch.bmm(rows, dense["w1"])  # (J, U, 5F): each distinct token under each tap
        # Position p of a text sums, over taps t, row (token at p + t, tap t) of the products.
        places = (inverse.unfold(1, TAPS, 1) * TAPS + torch.arange(TAPS, device=ids.device)).reshape(-1, TAPS)
        shift = (torch.arange(jobs, device=ids.device) * (len(tokens) * TAPS))[:, None, None]
        shown = None if visible is None else visible.unfold(2, TAPS, 1).reshape(-1, TAPS)
        summed = embedding_bag(
            (places + shift).reshape(-1, TAPS), products.view(-1, filters), mode="sum", per_sample_weights=shown
        )
        first = summed.view(jobs, -1, filters).add_(dense["b1"]).relu_()  # (J, B·long, F)
        # The second convolution on all texts in one row; where a window runs into the next text, nobody looks.
        inner = size * long - LOST
        second = first.new_zeros(first.shape)
        torch.bmm(first[:, :inner], dense["w2"][:, 0], out=second[:, :inner])
        for tap in range(1, TAPS):
            second[:, :inner].baddbmm_(first[:, tap : tap + inner], dense["w2"][:, tap])
        second.add_(dense["b2"]).relu_()
        third = torch.baddbmm(dense["b3"], second, dense["w3"]).relu_()
        best, at = third.view(jobs, size, long, filters)[:, :, : long - LOST].max(2)
        logits = torch.baddbmm(dense["b4"], best, dense["w4"])
        kept = {"tokens": tokens, "places": places, "shown": shown, "rows": rows, "first": first, "second": second}
        return logits, kept | {"best": best, "at": at, "size": size, "long": long, "inner": inner}

    def _step(self, step: int, ids: Tensor, labels: Tensor, weights: Tensor, visible: Tensor | None) -> None:
        self._catch_up(torch.unique(ids), step)
        logits, kept = self._forward(ids, visible)
        jobs, filters, dense = self.jobs, self.filters, self.dense
        size, long, inner = kept["size"], kept["long"], kept["inner"]
        error = logits.softmax(-1)
        error[:, torch.arange(size, device=ids.device), labels] -= 1
        error *= weights[..., None]
        best, first, second = kept["best"], kept["first"], kept["second"]
        grads = {"w4": torch.bmm(best.transpose(1, 2), error), "b4": error.sum(1, keepdim=True)}
        to_best = torch.bmm(error, dense["w4"].transpose(1, 2)).mul_(best > 0)
        to_third = first.new_zeros(jobs, size, long, filters)
        to_third.scatter_(2, kept["at"].unsqueeze(2), to_best.unsqueeze(2))
        to_third = to_third.view(jobs, -1, filters)
        grads |= {"w3": torch.bmm(second.transpose(1, 2), to_third), "b3": to_best.sum(1, keepdim=True)}
        to_second = torch.bmm(to_third, dense["w3"].transpose(1, 2)).mul_(second > 0)
        grads |= {"w2": torch.empty_like(dense["w2"]), "b2": to_second.sum(1, keepdim=True)}
        inside = to_second[:, :inner]
        to_first = torch.zeros_like(first)
        for tap in range(TAPS):
            window = slice(tap, tap + inner)
            torch.bmm(first[:, window].transpose(1, 2), inside, out=grads["w2"][:, tap])
            to_first[:, window].baddbmm_(inside, dense["w2"][:, tap].transpose(1, 2))
        to_first.mul_(first > 0)
        grads["b1"] = to_first.sum(1, keepdim=True)
        to_products = self._to_products(to_first, kept)
        grads["w1"] = torch.bmm(kept["rows"].transpose(1, 2), to_products)
        to_rows = torch.bmm(to_products, dense["w1"].transpose(1, 2))
        to_rows.mul_((kept["tokens"] != 0)[:, None])  # padding stays zero
        recipe = self.owner.recipe
        for name, gradient in grads.items():
            velocity = self.velocity[name].mul_(recipe.momentum).add_(gradient)
            dense[name].add_(velocity, alpha=-recipe.learning_rate)
        tokens = kept["tokens"]
        moved = self.table_velocity.index_select(1, tokens).mul_(recipe.momentum).add_(to_rows)
        self.table_velocity.index_copy_(1, tokens, moved)
        self.table.index_copy_(1, tokens, kept["rows"].add_(moved, alpha=-recipe.learning_rate))
        self.seen[tokens] = step + 1

    def _to_products(self, gradient: Tensor, kept: dict[str, Any]) -> Tensor:
        """The transpose of the sum over taps: for each (token, tap) the gradients of the positions it went to."""
        flat = kept["places"].flatten()
        kinds = len(kept["tokens"]) * TAPS
        order = torch.argsort(flat)
        ends = torch.bincount(flat, minlength=kinds).cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        job = torch.arange(self.jobs, device=flat.device)[:, None]
        positions = (order // TAPS + job * len(kept["places"])).flatten()
        shown = None if kept["shown"] is None else kept["shown"].view(self.jobs, -1)[:, order].flatten()
        summed = embedding_bag(
            positions, gradient.reshape(-1, self.filters), (starts + job * len(flat)).flatten(), mode="sum",
            per_sample_weights=shown,
        )  # fmt: skip
        return summed.view(self.jobs, len(kept["tokens"]), -1)

    def _catch_up(self, tokens: Tensor, step: int) -> None:
        """Steps without a gradient, in one: momentum μ carries a row on by lr·v·(μ + … + μᵐ), and v falls to μᵐv."""
        momentum, rate = self.owner.recipe.momentum, self.owner.recipe.learning_rate
        left = torch.pow(momentum, (step - self.seen[tokens]).to(self.table.dtype))[:, None]
        velocity = self.table_velocity.index_select(1, tokens)
        rows = self.table.index_select(1, tokens)
        rows.addcmul_(velocity, (1 - left), value=-rate * momentum / (1 - momentum))
        self.table.index_copy_(1, tokens, rows)
        self.table_velocity.index_copy_(1, tokens, velocity.mul_(left))
        self.seen[tokens] = step
