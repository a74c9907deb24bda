"""Quantised weights: those that are turned into floats where they are used work, int8 kernels without gradient are refused."""

import copy
import warnings

import pytest
import torch
from cases import Examples
from test_collate import tensors
from torch import nn

from captum_tracinwe import TracInWE, load_checkpoint, save_checkpoint
from captum_tracinwe.app.testing import scatter_checkpoints, scores_by_loop, tiny_bert

LOSS = nn.CrossEntropyLoss(reduction="none")


class Int8(torch.Tensor):
    """A weight of 8 bits and a scale per row that passes for one of floats: torchao's weight-only kind, in small.

    torchao itself is no dependency of the tests: where it is installed, transformers imports it and prints what it lacks.
    """

    @staticmethod
    def __new__(cls, values, scale):
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=scale.dtype)

    def __init__(self, values, scale):
        self.values8, self.scale8 = values, scale

    def __tensor_flatten__(self):
        return ["values8", "scale8"], None

    @staticmethod
    def __tensor_unflatten__(parts, context, size, stride):
        return Int8(parts["values8"], parts["scale8"])

    def dequantize(self):
        return self.values8 * self.scale8

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is nn.functional.linear:
            x, weight, *rest = args
            return func(x, weight.dequantize(), *rest, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.detach.default, torch.ops.aten.clone.default, torch.ops.aten._to_copy.default):
            return cls(func(args[0].values8), func(args[0].scale8))
        raise NotImplementedError(func)


def int8_weights(model):
    quantised = copy.deepcopy(model)
    for layer in quantised.bert.encoder.modules():
        if isinstance(layer, nn.Linear):
            scale = layer.weight.detach().abs().amax(1, keepdim=True) / 127
            values = (layer.weight.detach() / scale).round().to(torch.int8)
            layer.weight = nn.Parameter(Int8(values, scale), requires_grad=False)
    return quantised


@pytest.fixture(autouse=True)
def _safe_to_load():
    with torch.serialization.safe_globals([Int8]):
        yield


def test_weights_of_8_bits_are_read_and_put_back(tmp_path):
    model = tiny_bert(hidden_size=32, intermediate_size=64)
    floats = scatter_checkpoints(model, tmp_path / "float", rates=(0.3, 1.7), scale=0.1)
    paths = []
    for i, path in enumerate(floats):  # each checkpoint has quantised weights of its own
        trained = copy.deepcopy(model)
        rate = load_checkpoint(trained, path)
        paths.append(tmp_path / "int8" / f"step-{i}.pt")
        save_checkpoint(paths[-1], int8_weights(trained), rate)
    quantised = int8_weights(model)
    before = quantised.bert.encoder.layer[0].output.dense.weight
    values = before.dequantize().clone()
    train, test = tensors(5, 1), tensors(3, 2)
    found = TracInWE(quantised, Examples(train), paths, loss_fn=LOSS, batch_size=3).influence(test)
    assert quantised.bert.encoder.layer[0].output.dense.weight is before
    assert torch.equal(before.dequantize(), values)

    def losses(batch):
        def run(i):
            one = {key: value[i : i + 1] for key, value in batch.items()}
            return LOSS(oracle(**one).logits, one["labels"]).sum()

        return [lambda i=i: run(i) for i in range(len(batch["labels"]))]

    expected = 0
    for path in paths:  # the loop runs on models of float weights with the quantised values in them
        oracle = copy.deepcopy(model)
        state = torch.load(path, weights_only=True)
        rate = state["learning_rate"]
        values = {
            key: value.dequantize() if isinstance(value, Int8) else value
            for key, value in state["model_state_dict"].items()
        }
        oracle.load_state_dict(values)
        save_checkpoint(tmp_path / "one.pt", oracle, rate)
        table = oracle.bert.embeddings.word_embeddings
        expected = expected + scores_by_loop(oracle, [table], [tmp_path / "one.pt"], losses(test), losses(train), 0)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_floats_are_not_put_under_quantised_weights(tmp_path):
    model = tiny_bert(hidden_size=32, intermediate_size=64)
    quantised = int8_weights(model)
    (path,) = scatter_checkpoints(model, tmp_path, rates=(0.3,))
    with pytest.raises(ValueError, match=r"weight is a Tensor, expected a quantised Int8"):
        TracInWE(quantised, Examples(tensors(5, 1)), [path], loss_fn=LOSS).self_influence()


@pytest.mark.parametrize("layers", [{nn.Linear}, {"bert.encoder.layer.0.intermediate.dense"}], ids=["all", "one"])
def test_int8_kernels_are_refused_wherever_they_are(layers, tmp_path):
    """Also one of them beside a residual connection, where the loss still has a gradient, and a wrong one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(tiny_bert(), layers, dtype=torch.qint8)
    with pytest.raises(
        ValueError, match="layer 'bert.* of torch.ao's int8 kernels, through which there is no gradient"
    ):
        TracInWE(model, Examples(tensors(5, 1)), [tmp_path / "step-1.pt"], loss_fn=LOSS)
