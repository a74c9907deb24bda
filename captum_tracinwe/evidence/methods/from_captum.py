"""Captum's own methods behind the same call: TracIn by layers and on the last one, influence functions, similarity."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_tracinwe.evidence.methods.asking import (
    LossPerExample,
    SummedLoss,
    asked,
    existing_layers,
    last_layer_gives_logits,
)
from captum_tracinwe.evidence.methods.examples import Examples, Explained, Method, checked, checked_global
from captum_tracinwe.gradients.interrupts import unbroken

__all__ = [
    "influence_last",
    "last_self_influence",
    "similarity",
    "tracin_last",
    "tracin_last_projected",
    "tracin_layers",
]


def tracin_last(explained: Explained) -> Method:
    """TracIn-Last: ⟨a(x), a(x')⟩·⟨∂ℓ/∂f(x), ∂ℓ/∂f(x')⟩ (Captum's ``TracInCPFast``, which leaves the bias out)."""

    def scores(test: Examples, train: Examples) -> Tensor:
        with asked(explained), last_layer_gives_logits(explained, "TracIn-Last"):
            found = _fast(explained, train).influence(test.batch)
        return checked(found, test, train, "TracIn-Last")

    return scores


def tracin_last_projected(explained: Explained, projection_dim: int | None = None, *, seed: int = 0) -> Method:
    """TracIn-Last by random projections, dot products of short vectors (Captum's ``TracInCPFastRandProj``).

    Args:
        projection_dim (int, optional): numbers kept of each example and checkpoint; None, or more than there are: all (exact).
        seed (int): of the projection; torch's generator is put back.
    """

    def scores(test: Examples, train: Examples) -> Tensor:
        from captum.influence import TracInCPFastRandProj

        name = "TracIn-Last, projected"
        with asked(explained, random=True), last_layer_gives_logits(explained, name):
            tracin = TracInCPFastRandProj(
                explained.model, explained.last, train.dataset(), list(explained.checkpoints),
                _in_eval(explained.load), SummedLoss(explained), explained.batch_size,
                nearest_neighbors=_no_search(), projection_dim=projection_dim, seed=seed,
            )  # fmt: skip
            found = tracin.compute_intermediate_quantities(test.batch) @ tracin.src_intermediate_quantities.T
        return checked(found, test, train, name)

    return scores


def _no_search() -> Any:
    """In place of Captum's default, an approximate search that needs the package annoy: all scores are wanted."""
    from captum.influence._utils.nearest_neighbors import NearestNeighbors

    class NoSearch(NearestNeighbors):
        def setup(self, data: Tensor) -> None:
            """Nothing to prepare."""

        def get_nearest_neighbors(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
            raise NotImplementedError

    return NoSearch()


def last_self_influence(explained: Explained, train: Examples) -> Tensor:
    """Self-influence on the last linear layer, ``(M,)``."""
    name = "Self-influence on the last layer"
    with asked(explained), last_layer_gives_logits(explained, name):
        found: Tensor = _fast(explained, train).self_influence()
    return checked_global(found, train, name)


def tracin_layers(explained: Explained, layers: Sequence[str] | None) -> Method:
    """TracIn on any group of layers, by name; None: on all parameters (TracIn-All). Captum's ``TracInCP``.

    TracIn-Second is the layer after the embedding. Costs a backward per example and dense gradients.
    """
    if layers is not None:
        existing_layers(explained, layers, "tracin_layers")

    def scores(test: Examples, train: Examples) -> Tensor:
        from captum.influence import TracInCP

        with asked(explained):
            tracin = TracInCP(
                explained.model, train.dataset(), list(explained.checkpoints), explained.load,
                list(layers) if layers is not None else None, LossPerExample(explained), explained.batch_size,
            )  # fmt: skip
            found = tracin.influence(test.batch)
        return checked(found, test, train, f"TracIn on {', '.join(layers) if layers else 'all layers'}")

    return scores


def influence_last(explained: Explained, *, exact: bool = False, damping: float = 1e-3, **options: Any) -> Method:
    """Influence functions ∇ℓ(x)ᵀ H⁻¹ ∇ℓ(x') on the last layer at the last checkpoint; positive = proponent.

    Args:
        exact (bool): form the Hessian (Captum's ``NaiveInfluenceFunction``): the one to take up to some thousand parameters of
            the last layer. Else Captum's Arnoldi iteration, which with its defaults is a coarse approximation: of the 10
            strongest proponents it named 4 of the exact ten on a text CNN, of the opponents 2. ``arnoldi_dim`` and
            ``projection_dim`` near the number of parameters and ``arnoldi_tol=1e-6`` bring it to the exact ones.
        damping (float): added to the diagonal of the Hessian, which is a sum over the training set: 1e-3 of each example is
            ``1e-3 * len(train)``.
        options: of the Captum class, such as ``projection_dim``. Their seed is theirs; torch's generator is put back.
    """

    if not damping >= 0:
        raise ValueError(f"influence_last: expected a damping of at least 0, got {damping!r}.")

    def scores(test: Examples, train: Examples) -> Tensor:
        from captum.influence._core.arnoldi_influence_function import ArnoldiInfluenceFunction  # not exported in 0.9.0
        from captum.influence._core.influence_function import NaiveInfluenceFunction

        kind = NaiveInfluenceFunction if exact else ArnoldiInfluenceFunction
        existing_layers(explained, [explained.last], "`last`")
        with asked(explained, random=True):
            function = kind(
                explained.model, train.dataset(), explained.checkpoints[-1], explained.load, [explained.last],
                LossPerExample(explained), explained.batch_size, hessian_reg=damping, **options,
            )  # fmt: skip
            found = function.influence(test.batch)
        return checked(found, test, train, "Influence-Last")

    return scores


def similarity(explained: Explained, layers: Sequence[str]) -> Method:
    """Cosine similarity of the activations of ``layers[0]`` at the last checkpoint (Captum's ``SimilarityInfluence``).

    Args:
        layers (sequence of str): at least two names; only the first is used, but with a single one Captum 0.9.0 fails.
    """
    existing_layers(explained, layers, "similarity")
    if len(layers) < 2:
        raise ValueError(f"similarity: expected two or more layers (Captum 0.9.0 fails with one), got {list(layers)}.")

    def scores(test: Examples, train: Examples) -> Tensor:
        from captum.influence import SimilarityInfluence
        from captum.influence._core.similarity_influence import cosine_similarity

        with (
            tempfile.TemporaryDirectory() as folder,
            asked(explained, parameters=False, quiet=True),
            _by_number(explained.model, test, train),
        ):
            explained.load(explained.model, explained.checkpoints[-1])
            explained.model.eval()
            method = SimilarityInfluence(
                explained.model, list(layers), torch.arange(len(train)), folder, "model", cosine_similarity,
                batch_size=_divisor(len(train), explained.batch_size),
            )  # fmt: skip
            found = method.influence(-1 - torch.arange(len(test)), top_k=len(train))
        indices, values = found[layers[0]]
        return checked(values.new_zeros(len(test), len(train)).scatter_(1, indices, values), test, train, "Similarity")

    return scores


@unbroken
def _by_number(model: nn.Module, test: Examples, train: Examples) -> Iterator[None]:
    """Within, the model takes numbers of examples, of training examples from 0 up and of test examples from −1 down.

    Captum 0.9.0 hands on the first input of several, in silence.
    """

    def inputs(module: nn.Module, args: Any) -> tuple[Tensor, ...]:
        (numbers,) = args
        side, places = (train, numbers) if int(numbers[0]) >= 0 else (test, -1 - numbers)
        return tuple(field[places.to(field.device)] for field in side.batch[:-1])

    hook = model.register_forward_pre_hook(inputs)
    try:
        yield
    finally:
        hook.remove()


def _divisor(size: int, most: int) -> int:
    """The largest batch that divides the set: Captum 0.9.0 takes the k best of each batch, and fails on a shorter last one."""
    return max(batch for batch in range(1, min(size, most) + 1) if size % batch == 0)


def _fast(explained: Explained, train: Examples) -> Any:
    from captum.influence import TracInCPFast

    return TracInCPFast(
        explained.model, explained.last, train.dataset(), list(explained.checkpoints), _in_eval(explained.load),
        SummedLoss(explained), explained.batch_size,
    )  # fmt: skip


def _in_eval(load: Callable[[nn.Module, Any], float]) -> Callable[[nn.Module, Any], float]:
    def loaded(model: nn.Module, checkpoint: Any) -> float:
        rate = load(model, checkpoint)
        model.eval()
        return rate

    return loaded
