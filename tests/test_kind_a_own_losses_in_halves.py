"""Kind A, further: models' own losses in half precision, with labels left out, and with one number for each word."""

import pytest
import torch
import transformers
from loops import alone, assert_close, looped
from test_kind_a_what_the_probe_missed import Mean, Weighing, asked, expected_of, texts
from test_models import SMALL
from torch import nn
from torch.nn.functional import cross_entropy as entropy

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import scatter_checkpoints


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_mean_in_half_precision_is_one(dtype, seed, tmp_path):
    torch.manual_seed(seed)
    config = transformers.BertConfig(**SMALL)
    model = transformers.BertForSequenceClassification(config).eval().to(dtype)
    train, checkpoints = texts(12, seed), scatter_checkpoints(model, tmp_path)
    found = asked(model, train, train[:3], checkpoints, None)
    sides = ([alone(one) for one in side] for side in (train[:3], train))
    expected = looped(
        model, model.get_input_embeddings(), checkpoints, lambda model, one: model(**one).loss.float(), *sides
    )
    assert_close(found, expected.float(), 0.1)


def test_class_weights_in_half_precision_are_refused(tmp_path):
    torch.manual_seed(0)
    model = Weighing().eval()
    model.weights.copy_(torch.tensor([0.2, 1.0, 4.0]))

    def halved(input_ids, labels=None):
        return {key: value.bfloat16() for key, value in Weighing.forward(model, input_ids, labels).items()}

    model.forward = halved
    train = texts(12, 0)
    with pytest.raises(ValueError, match=r"model's own loss.*has class weights"):
        TracInWE(model, train, scatter_checkpoints(model, tmp_path), batch_size=4).influence(train[:4])


class Leaving(Mean):
    """Its loss leaves examples of one label out."""

    left_out = -1

    def forward(self, input_ids, labels=None):
        logits = super().forward(input_ids)
        return {"loss": entropy(logits, labels, ignore_index=self.left_out), "logits": logits}


@pytest.mark.parametrize(("left_out", "rare", "batch_size"), [(-1, False, 4), (-1, True, 8), (-2, False, 4)])
def test_a_label_that_the_models_own_loss_leaves_out_is_named(left_out, rare, batch_size, tmp_path):
    torch.manual_seed(0)
    model, train = Leaving().eval(), texts(64, 0)
    model.left_out = left_out
    for place in (37,) if rare else range(0, 64, 3):
        train[place]["labels"] = left_out
    checkpoints = scatter_checkpoints(model, tmp_path)
    with pytest.raises(ValueError, match=rf"the label {left_out} alone is NaN.*ignore_index={left_out}, reduction"):
        TracInWE(model, train, checkpoints, batch_size=batch_size).influence([train[1], train[2], train[4]])
    loss = nn.CrossEntropyLoss(ignore_index=left_out, reduction="none")  # as it is told
    found = asked(model, train, [train[1], train[2], train[4]], checkpoints, loss, batch_size)
    expected = expected_of(
        model,
        checkpoints,
        [train[1], train[2], train[4]],
        train,
        lambda model, one: loss(model(**one)["logits"], one["labels"]).sum(),
    )
    assert_close(found, expected)


def test_for_a_loss_of_one_number_a_word_the_way_out_is_batches_of_one(tmp_path):
    torch.manual_seed(0)
    config = transformers.ElectraConfig(**{**SMALL, "embedding_size": 8})
    model = transformers.ElectraForPreTraining(config).eval()
    train = [{"input_ids": one["input_ids"], "labels": [i % 2 for i in one["input_ids"]]} for one in texts(10, 0)]
    checkpoints = scatter_checkpoints(model, tmp_path)
    with pytest.raises(ValueError, match="Pass batch_size=1.*the model's own loss stays as it is") as told:
        TracInWE(model, train, checkpoints, batch_size=4).influence(train[:3])
    assert "TokenLoss" not in str(told.value)
    found = asked(model, train, train[:3], checkpoints, None, 1)
    assert_close(found, expected_of(model, checkpoints, train[:3], train, lambda model, one: model(**one).loss))


class Added(transformers.GPT2LMHeadModel):
    """A language model with a z-loss."""

    def forward(self, input_ids=None, attention_mask=None, labels=None, **rest):
        output = super().forward(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
        if labels is not None:
            output["loss"] = output.loss + 0.5 * output.logits.logsumexp(-1).square().mean()
        return output


def test_a_language_model_that_adds_to_its_loss_is_told_what_keeps_it(tmp_path):
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2}
    model = Added(transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=1, tie_word_embeddings=False)).eval()
    train = [{"input_ids": one["input_ids"], "labels": one["input_ids"]} for one in texts(8, 0)]
    checkpoints = scatter_checkpoints(model, tmp_path)
    with pytest.raises(
        ValueError, match=r"Pass batch_size=1.*TokenLoss\(\).*cross-entropy alone, without what the model adds"
    ):
        TracInWE(model, train, checkpoints, batch_size=4).influence(train[:3])
    found = asked(model, train, train[:3], checkpoints, None, 1)
    assert_close(found, expected_of(model, checkpoints, train[:3], train, lambda model, one: model(**one).loss))
