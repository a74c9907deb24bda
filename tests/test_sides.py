"""One side of an encoder-decoder with a shared table: equal to the gradient in the inputs' embeddings, example by example."""

import pytest
import torch
from test_models import batch_of, made, rows
from torch import nn
from torch.utils.data import DataLoader

from captum_tracinwe import TracInWE, load_checkpoint
from captum_tracinwe.app.testing import scatter_checkpoints, tiny_bert, tiny_t5
from captum_tracinwe.gradients.token_losses import TokenLoss

LOSS = TokenLoss(shift=False)
MODELS = {
    "t5, untied head": lambda: tiny_t5(False),
    "t5, tied head": lambda: tiny_t5(True),
    "bart": lambda: made("bart")[0],
}


def rows_by_embeds(model, one, sides):
    """Token → gradient of one example, from leaves passed as ``inputs_embeds``: no hook, no look-up of ours."""
    table = model.get_input_embeddings()
    targets = one["labels"].masked_fill(one["labels"] == -100, model.config.pad_token_id)
    start = torch.full_like(targets[:, :1], model.config.decoder_start_token_id)
    ids = {"encoder": one["input_ids"], "decoder": torch.cat([start, targets[:, :-1]], 1)}
    leaves = {side: table.weight[ids[side]].detach().requires_grad_() for side in ids}
    logits = model(
        inputs_embeds=leaves["encoder"], attention_mask=one["attention_mask"], decoder_inputs_embeds=leaves["decoder"]
    ).logits
    LOSS(logits, one["labels"]).sum().backward()
    found = {}
    for side in sides:
        for token, gradient in zip(ids[side][0].tolist(), leaves[side].grad[0], strict=True):
            if token != table.padding_idx:
                found[token] = found.get(token, 0) + gradient
    return found


def scores_by_embeds(model, checkpoints, test, train, sides):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scores = torch.zeros(len(test["labels"]), len(train["labels"]), dtype=torch.float64)
    for path in checkpoints:
        rate = load_checkpoint(model, path)
        found = [
            [
                rows_by_embeds(model, {k: v[i : i + 1] for k, v in batch.items()}, sides)
                for i in range(len(batch["labels"]))
            ]
            for batch in (test, train)
        ]
        for i, a in enumerate(found[0]):
            for j, b in enumerate(found[1]):
                scores[i, j] += rate * sum(float(a[w] @ b[w]) for w in a.keys() & b.keys())
    model.load_state_dict(before)
    return scores


@pytest.mark.parametrize("side", ["encoder", "decoder", None])
@pytest.mark.parametrize("name", MODELS)
def test_a_side_is_the_gradient_in_its_own_inputs(name, side, tmp_path):
    model = MODELS[name]().double()
    checkpoints = scatter_checkpoints(model, tmp_path, rates=(0.3, 1.7))
    test, train = batch_of(3, 2, "target"), batch_of(5, 1, "target")
    expected = scores_by_embeds(model, checkpoints, test, train, [side] if side else ["encoder", "decoder"])
    for size in (1, 2, 5):
        tracin = TracInWE(model, DataLoader(rows(train), size), checkpoints, loss_fn=LOSS, side=side)
        torch.testing.assert_close(tracin.influence(test), expected, rtol=1e-8, atol=1e-10)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_side_that_is_not_there_is_refused(tmp_path):
    bert, t5 = tiny_bert(), tiny_t5()
    data = rows(batch_of(5, 1, "class"))
    for model, side, message in (
        (t5, "left", "should be 'encoder', 'decoder' or None for both, got 'left'"),
        (bert, "encoder", "needs an encoder-decoder with get_encoder.*got a BertForSequenceClassification"),
        (bert, "decoder", "needs an encoder-decoder with get_decoder"),
        (nn.Sequential(nn.Embedding(3, 2)), "encoder", "an attribute `encoder`, got a Sequential"),
    ):
        with pytest.raises(ValueError, match=message):
            TracInWE(model, data, [tmp_path / "step-1.pt"], side=side)


def test_a_side_that_looks_nothing_up_is_said(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.encoder, self.decoder = nn.Embedding(30, 4), nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, input_ids, attention_mask):
            return self.decoder(self.encoder(self.words(input_ids)).mean(1))

    model = Own()
    tracin = TracInWE(
        model,
        rows(batch_of(5, 1, "class")),
        scatter_checkpoints(model, tmp_path),
        loss_fn=nn.CrossEntropyLoss(),
        side="encoder",
    )
    with pytest.raises(ValueError, match="not used in the forward pass of the Linear that `side` names"):
        tracin.self_influence()
