"""Labels that are missing, and examples without any target: said in words, and worth nothing."""

import pytest
import torch
from cases import Examples
from test_collate import tensors
from torch import nn

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import scatter_checkpoints, tiny_bert, tiny_gpt2
from captum_tracinwe.gradients.token_losses import TokenLoss


def language(count, seed, empty=()):
    batch = tensors(count, seed)
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    for index in empty:
        batch["labels"][index] = -100
    return batch


@pytest.mark.parametrize("order_by_length", [False, True])
@pytest.mark.parametrize("size", [1, 2, 6])
def test_a_text_without_targets_scores_nothing_and_is_named(tmp_path, size, order_by_length):
    model = tiny_gpt2()
    checkpoints = scatter_checkpoints(model, tmp_path)
    options = {"loss_fn": TokenLoss(), "batch_size": size, "order_by_length": order_by_length}
    whole = TracInWE(model, Examples(language(6, 1)), checkpoints, **options).influence(language(3, 2))
    tracin = TracInWE(model, Examples(language(6, 1, empty=[4])), checkpoints, **options)
    with pytest.warns(UserWarning, match=r"Training examples \[4\] have no target"):
        scores = tracin.influence(language(3, 2))
    assert (scores[:, 4] == 0).all()
    kept = [0, 1, 2, 3, 5]
    torch.testing.assert_close(scores[:, kept], whole[:, kept], rtol=1e-4, atol=1e-5 * float(whole.abs().max()))


def test_a_part_that_a_text_does_not_have_is_named_too(tmp_path):
    model = tiny_gpt2()
    test = language(3, 2)
    test["labels"][1, 2:] = -100
    loss = TokenLoss(start=1)
    tracin = TracInWE(
        model, Examples(language(3, 2)), scatter_checkpoints(model, tmp_path), loss_fn=TokenLoss(), test_loss_fn=loss
    )
    with pytest.warns(UserWarning, match=r"Test examples \[1\] have no target"):
        scores = tracin.influence(test)
    assert (scores[1] == 0).all()
    assert scores[0, 0] != 0


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_class_of_minus_100_is_none(tmp_path, reduction):
    """The mean over no target is 0 / 0."""
    model = tiny_bert()
    train = tensors(5, 1)
    train["labels"][2] = -100
    for size in (1, 5):
        loss = nn.CrossEntropyLoss(reduction=reduction)
        checkpoints = scatter_checkpoints(model, tmp_path)
        tracin = TracInWE(model, Examples(train), checkpoints, loss_fn=loss, batch_size=size)
        with pytest.warns(UserWarning, match=r"Training examples \[2\] have no target"):
            own = tracin.self_influence()
        assert own[2] == 0
        assert (own[[0, 1, 3, 4]] > 0).all()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.CrossEntropyLoss(), "no labels for the loss: expected a key `labels`.*label_names="),
        (None, "model's output has no `loss` .*[Ee]xpected labels in the batch"),
    ],
)
def test_missing_labels_are_said(tmp_path, loss, message):
    model, train = tiny_bert(), tensors(5, 1)
    del train["labels"]
    tracin = TracInWE(model, Examples(train), scatter_checkpoints(model, tmp_path), loss_fn=loss, batch_size=2)
    with pytest.raises(ValueError, match=message):
        tracin.self_influence()
