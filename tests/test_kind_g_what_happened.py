"""Kind G: an error within a pass is told as what it is, with the batch; labels are named only where they are out of range."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, tiny_bert, tiny_gpt2
from captum_tracinwe.gradients.diagnosis import diagnosed, reported
from captum_tracinwe.gradients.token_losses import TokenLoss

LOSS = nn.CrossEntropyLoss(reduction="none")
# Words of a vocabulary of 30 are labels far beyond config.num_labels, which is 2 where nobody set it.
WORDS = [{"input_ids": [4, 9, 11, 28], "labels": [4, 9, 11, 28]}, {"input_ids": [7, 5, 29, 3], "labels": [7, 5, 29, 3]}]
SHAPES = r"\{input_ids: \(2, 4\) int64.*\}"


def too_much():
    return torch.empty(1 << 50, dtype=torch.int8)  # a petabyte


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        too_much()
        return gradient


def broken(model, act):
    """The language model whose forward ends in ``act``."""
    own = model.forward

    def forward(input_ids, attention_mask=None, labels=None):
        output = own(input_ids=input_ids, attention_mask=attention_mask)
        output["logits"] = act(output["logits"])
        return output

    model.forward = forward
    return model


def influence(model, folder, data=WORDS, loss_fn=None):
    paths = scatter_checkpoints(model, folder)
    return TracInWE(model, data, paths, loss_fn=loss_fn or TokenLoss(), batch_size=2).self_influence()


def on_gpu(logits):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB")


MEMORY = {
    "the CPU's": (lambda logits: logits + too_much(), RuntimeError, "forward pass.*can't allocate memory"),
    "a GPU's": (
        on_gpu,
        torch.OutOfMemoryError,
        "forward pass.*It was said: CUDA out of memory. Tried to allocate 2.00",
    ),
    "NumPy's": (lambda logits: np.empty(1 << 55), MemoryError, "forward pass.*It was said: Unable to allocate"),
    "backward": (Backward.apply, RuntimeError, "gradient pass.*can't allocate memory"),
}


@pytest.mark.parametrize("kind", MEMORY)
def test_memory_that_runs_out_is_told_with_the_batch_and_the_way_out(kind, tmp_path):
    act, error, match = MEMORY[kind]
    with pytest.raises(error, match=f"not enough memory.*{match}") as caught:
        influence(broken(tiny_gpt2(), act), tmp_path)
    said = str(caught.value)
    assert re.search(SHAPES, said)
    assert "smaller batch_size" in said
    assert "memory_limit" in said
    assert "label" not in said.replace("labels: (2, 4)", "")
    assert type(caught.value.__cause__).__mro__[-4:] == error.__mro__[-4:]


def test_memory_that_runs_out_in_the_loss_is_told_too(tmp_path):
    def loss(logits, labels):
        return TokenLoss()(logits, labels) + too_much().sum()

    with pytest.raises(
        RuntimeError, match=r"not enough memory.* The loss on a prediction \(2, 4, 30\) float32 and labels"
    ):
        influence(tiny_gpt2(), tmp_path, loss_fn=loss)


OTHER = {
    "sizes": (lambda x: x @ torch.ones(7, 30), "ended in RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
    "views": (
        lambda x: x.view(3, -1, 30),
        r"ended in RuntimeError: shape '\[3, -1, 30\]' is invalid for input of size 240",
    ),
    "types": (
        lambda x: x @ torch.ones(30, 30).half(),
        r"Numbers are of several types.*weights are torch.float32 \(28\).*float",
    ),
    "devices": (
        lambda x: x + torch.ones(30, device="meta"),
        r"Tensors lie on several devices.*are on cpu \(28\).*model.to",
    ),
    "an assertion": (lambda x: _raise(AssertionError("must be even")), "ended in AssertionError: must be even"),
    "an attribute": (
        lambda x: x.no_such_thing,
        "ended in AttributeError: 'Tensor' object has no attribute 'no_such_thing'",
    ),
    "a key": (lambda x: {}["gate"], "ended in KeyError: 'gate'"),
    "an index": (lambda x: [][2], "ended in IndexError: list index out of range"),
    "one of its own from another": (lambda x: _raise_from(), "ended in RuntimeError: no expert is awake"),
    "its own": (lambda x: _raise(RuntimeError("expert 3 is asleep")), "ended in RuntimeError: expert 3 is asleep"),
}


def _raise(error):
    raise error


def _raise_from():
    raise RuntimeError("no expert is awake") from KeyError("gate")


@pytest.mark.parametrize("kind", OTHER)
def test_an_error_of_a_language_models_own_is_told_in_its_words_with_the_batch(kind, tmp_path):
    act, match = OTHER[kind]
    with pytest.raises(RuntimeError, match=match) as caught:
        influence(broken(tiny_gpt2(), act), tmp_path)
    assert re.search(SHAPES, str(caught.value))
    assert "classes" not in str(caught.value)
    assert caught.value.__cause__ is not None
    assert str(caught.value.__cause__).strip("'") in str(caught.value)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
            "several devices",
        ),
        ("expected mat1 and mat2 to have the same dtype, but got: float != c10::Half", "several types"),
        ("Input type (float) and bias type (c10::Half) should be the same", "several types"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "not enough memory"),
        ("MPS backend out of memory (MPS allocated: 8 GB)", "not enough memory"),
    ],
)
@pytest.mark.parametrize("within", ["forward", "loss", "all"])
def test_what_torch_says_on_other_machines_is_told_too(words, match, within):
    model, batch = tiny_gpt2(), {"input_ids": torch.ones(2, 4).long()}
    prediction = torch.zeros(2, 4, 30) if within == "loss" else None
    labels = torch.full((2, 4), 29)
    around = reported(model, batch) if within == "all" else diagnosed(model, batch, labels, prediction)
    with pytest.raises(RuntimeError, match=f"{match}.*{re.escape(words)}"), around:
        raise RuntimeError(words)


def test_an_error_that_was_told_is_not_told_again():
    batch = {"input_ids": torch.ones(2, 4).long()}
    with pytest.raises(RuntimeError) as caught, reported(tiny_gpt2(), batch), diagnosed(tiny_gpt2(), batch, None):
        raise RuntimeError("expert 3 is asleep")
    assert str(caught.value).count("asleep") == 1
    assert str(caught.value).count("ended in") == 1


BEYOND = [{"input_ids": [4, 9, 11], "labels": [4, 31, 11]}, {"input_ids": [7, 5, 29], "labels": [7, 5, 29]}]


def test_a_word_that_a_language_model_does_not_have_is_named_with_the_number_of_its_words(tmp_path):
    model = tiny_gpt2()
    paths = scatter_checkpoints(model, tmp_path)
    with pytest.raises(ValueError, match="The label 31 of an example, and the model has 30 classes.*0 to 29"):
        TracInWE(model, BEYOND, paths).self_influence()


def test_a_label_that_the_loss_ignores_is_not_the_one_that_is_named(tmp_path):
    ids = torch.randint(1, 30, (3, 6))
    data = list(zip(ids, torch.tensor([-1, 7, 1]), strict=True))
    model = TinyCNN()
    paths = scatter_checkpoints(model, tmp_path)
    loss = nn.CrossEntropyLoss(reduction="none", ignore_index=-1)
    with pytest.raises(ValueError, match="The label 7 of an example, and the model has 3 classes"):
        TracInWE(model, data, paths, loss_fn=loss, batch_size=3).self_influence()


def test_labels_along_tokens_are_counted_in_the_dimension_of_the_classes(tmp_path):
    class PerToken(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.out = nn.Embedding(30, 4), nn.Linear(4, 3)

        def forward(self, ids):
            return self.out(self.words(ids)).transpose(1, 2)  # (N, 3, T), as torch's loss takes it

    data = [(torch.tensor([3, 4, 5, 6, 7]), torch.tensor([0, 1, 4, 2, 0]))] * 2
    model = PerToken()
    paths = scatter_checkpoints(model, tmp_path)
    with pytest.raises(ValueError, match="The label 4 of an example, and the model has 3 classes"):
        TracInWE(model, data, paths, loss_fn=lambda p, y: LOSS(p, y).sum(1), batch_size=2).self_influence()


@pytest.mark.parametrize("act", [too_much, lambda: _raise(RuntimeError("expert 3 is asleep"))], ids=["memory", "own"])
def test_labels_out_of_range_are_not_blamed_for_another_error(act, tmp_path):
    model = tiny_bert()
    own = model.forward
    paths = scatter_checkpoints(model, tmp_path)
    model.forward = lambda input_ids, attention_mask=None: (own(input_ids=input_ids), act())[0]
    data = [{"input_ids": [3, 4], "labels": 7}]
    with pytest.raises(RuntimeError, match="not enough memory|expert 3 is asleep"):
        TracInWE(model, data, paths, loss_fn=LOSS).self_influence()
