"""An oracle of scores that shares nothing with the package: single examples, unpadded, dense gradients by plain autograd.

Embedding modules read a leaf in place of the word table: a tied output layer, which keeps the model's own, does not count.
Weights come by ``load_state_dict``, from what training itself had in memory.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

Loss = Callable[[Any, Any], Tensor]


class Moment(NamedTuple):
    """What training had when it saved a checkpoint."""

    weights: dict[str, Tensor]
    rate: float


def moment(model: nn.Module, rate: float) -> Moment:
    """A copy of the weights as they are now."""
    return Moment({name: tensor.detach().clone() for name, tensor in model.state_dict().items()}, float(rate))


def own_loss(output: Any, labels: Any) -> Tensor:
    """The model's own."""
    return output["loss"]


def readers(model: nn.Module, table: Tensor) -> list[str]:
    """The names of the weights by which the model reads its word table."""
    modules = model.named_modules(remove_duplicate=False)
    return [f"{name}.weight" for name, m in modules if isinstance(m, nn.Embedding) and m.weight is table]


def takes_labels(model: nn.Module) -> bool:
    """Whether they go into its forward, by name or with whatever else is given."""
    return bool({"labels", "kwargs"} & inspect.signature(model.forward).parameters.keys())


def dense_gradient(model: nn.Module, table: Tensor, example: Mapping[str, Tensor], loss: Loss) -> Tensor:
    """∂loss/∂table ``(V, D)`` by way of look-ups, of a batch of one."""
    leaf = table.detach().clone().requires_grad_()
    given = {name: value for name, value in example.items() if name != "labels" or takes_labels(model)}
    if "token_type_ids" in given and hasattr(model, "transformer"):  # of GPT-2 they are looked up in the word table too
        given["inputs_embeds"] = torch.nn.functional.embedding(given.pop("input_ids"), leaf)
        output = model(**given)
    else:
        output = functional_call(model, dict.fromkeys(readers(model, table), leaf), (), given, tie_weights=False)
    (gradient,) = torch.autograd.grad(loss(output, example.get("labels")).sum(), leaf)
    return gradient.double().flatten()


def scores_alone(
    model: nn.Module,
    moments: Iterable[Moment],
    test: Sequence[Mapping[str, Tensor]],
    train: Sequence[Mapping[str, Tensor]],
    loss: Loss = own_loss,
    table: Callable[[nn.Module], Tensor] = lambda model: model.get_input_embeddings().weight,
) -> Tensor:
    """Influence ``(N, M)`` of single examples, each a batch of one without padding."""
    model = copy.deepcopy(model)
    total = torch.zeros(len(test), len(train), dtype=torch.float64)
    for weights, rate in moments:
        model.train()  # what was saved in training is loaded in training: some models change their weights in eval()
        model.load_state_dict(weights)
        model.eval()
        of_test, of_train = (
            torch.stack([dense_gradient(model, table(model), one, loss) for one in examples])
            for examples in (test, train)
        )
        total += rate * of_test @ of_train.T
    return total


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, in parts of the largest score."""
    assert found.shape == expected.shape, (tuple(found.shape), tuple(expected.shape))
    return float((found.double() - expected).abs().max() / expected.abs().max())


def quietly(run: Callable[[], Any]) -> Any:
    """The result of ``run``, whose libraries warn of themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run()
