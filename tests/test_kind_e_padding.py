"""Kind E: padding that changes the gradient. Scores are those of each text alone, and that is said; batches don't matter."""

import warnings

import pytest
import torch
import transformers
from captum_tracinwe.collate import Collate
from cases import cross_entropy
from loops import alone, assert_close, looped, ragged
from test_models import CAUSAL, SMALL
from torch import nn

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import TinyCNN, language_model_loss, scatter_checkpoints, tiny_gpt2
from captum_tracinwe.gradients.token_losses import TokenLoss


class Reader(nn.Module):
    """A GRU that ends wherever its batch ends."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(30, 6, padding_idx=0)
        self.gru = nn.GRU(6, 5, batch_first=True)
        self.out = nn.Linear(5, 3)

    def forward(self, input_ids):
        return self.out(self.gru(self.words(input_ids))[1][0])


def fnet():
    sizes = {key: value for key, value in SMALL.items() if key != "num_attention_heads"}
    model = transformers.FNetForSequenceClassification(
        transformers.FNetConfig(**sizes, type_vocab_size=2, pad_token_id=0)
    )
    return model, model.fnet.embeddings.word_embeddings


def conv_bert():
    sizes = {**SMALL, "hidden_size": 16, "embedding_size": 16, "conv_kernel_size": 3, "head_ratio": 1}
    model = transformers.ConvBertForSequenceClassification(transformers.ConvBertConfig(**sizes))
    return model, model.convbert.embeddings.word_embeddings


def cnn():
    model = TinyCNN(padding_idx=0)
    return model, model.embedding


def reader():
    model = Reader()
    return model, model.words


def right_filled(model):
    return Collate(model, 0)


@pytest.mark.parametrize("batch_size", [1, 3, 5])
@pytest.mark.parametrize("made", [fnet, conv_bert, cnn, reader])
def test_what_is_filled_up_on_the_right_does_not_count(made, batch_size, tmp_path):
    torch.manual_seed(0)
    model, table = made()
    model.eval()
    checkpoints = scatter_checkpoints(model, tmp_path)
    train, test = ragged(9, seed=1), ragged(3, seed=2)
    for one in (*train, *test):
        one["labels"] = max(0, one["labels"])

    def loss(model, one):
        output = model(input_ids=one["input_ids"])
        return cross_entropy()(output["logits"] if isinstance(output, dict) else output, one["labels"]).sum()

    expected = looped(
        model, table, checkpoints, loss, *([alone(one) for one in side] for side in (test, train)), padding_idx=0
    )
    options = {"loss_fn": cross_entropy(), "collate_fn": right_filled(model), "batch_size": batch_size}
    tracin = TracInWE(model, train, checkpoints, **options)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = tracin.influence(test)
    assert_close(found, expected, 1e-3)
    assert [("texts of equal length are taken together" in str(one.message)) for one in said] == [True] * 2 * (
        batch_size > 1
    )
    if batch_size > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # said once
            assert_close(tracin.influence(test, k=3).influence_scores, expected.topk(3).values, 1e-3)
            tracin.build_index(tmp_path / "index")
        index = TracInWE(model, train, checkpoints, **options, index=tmp_path / "index")
        with pytest.warns(UserWarning, match="equal length"):
            assert_close(index.influence(test), expected, 1e-3)


def left_filled(examples):
    width = max(len(one["input_ids"]) for one in examples)
    ids = [[1] * (width - len(one["input_ids"])) + one["input_ids"] for one in examples]
    mask = [[0] * (width - len(one["input_ids"])) + [1] * len(one["input_ids"]) for one in examples]
    ids, mask = torch.tensor(ids), torch.tensor(mask)
    labels = (
        torch.tensor([one["labels"] for one in examples])
        if isinstance(examples[0]["labels"], int)
        else (ids.masked_fill(mask == 0, -100))
    )
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def gpt2():
    model = tiny_gpt2()
    return model, model.transformer.wte


def opt():
    sizes = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16}
    model = transformers.OPTForCausalLM(
        transformers.OPTConfig(**sizes, max_position_embeddings=40, word_embed_proj_dim=8, pad_token_id=None)
    )
    return model, model.get_input_embeddings()


def llama():
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**CAUSAL, "pad_token_id": None}))
    return model, model.model.embed_tokens


def bloom():
    sizes = {"vocab_size": 30, "hidden_size": 8, "n_layer": 1, "n_head": 2}
    model = transformers.BloomForCausalLM(transformers.BloomConfig(**sizes, pad_token_id=None))
    return model, model.get_input_embeddings()


def stored(examples):
    """Examples that were padded before they were stored, as tokenizers do with padding='max_length'."""
    batch = left_filled([*examples, {"input_ids": [1] * 12, "labels": [1] * 12}])
    return [{key: value[i] for key, value in batch.items()} for i in range(len(examples))]


@pytest.mark.parametrize("how", ["collated", "stored"])
@pytest.mark.parametrize("made", [gpt2, opt, llama, bloom])
def test_a_language_models_left_padding_neither_moves_nor_predicts_words(made, how, tmp_path):
    torch.manual_seed(0)
    model, table = made()
    model.eval()
    checkpoints = scatter_checkpoints(model, tmp_path)
    train, test = ([{**one, "labels": one["input_ids"]} for one in ragged(count, seed=count)] for count in (7, 3))

    def loss(model, one):
        return language_model_loss(model(input_ids=one["input_ids"]).logits, one["labels"]).sum()

    expected = looped(model, table, checkpoints, loss, *([alone(one) for one in side] for side in (test, train)))
    data, options = (train, {"collate_fn": left_filled}) if how == "collated" else (stored(train), {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for batch_size in (1, 3):
            tracin = TracInWE(model, data, checkpoints, loss_fn=TokenLoss(), batch_size=batch_size, **options)
            assert_close(tracin.influence(left_filled(test)), expected, 1e-3)
        output = TracInWE(model, data, checkpoints, loss_fn=TokenLoss(), batch_size=3, table="output", **options)
        unpadded = TracInWE(model, train, checkpoints, loss_fn=TokenLoss(), table="output", collate_fn=Collate(model))
        assert_close(output.influence(left_filled(test)), unpadded.influence(test), 1e-3)


def test_a_text_too_short_to_be_taken_alone_leaves_batches_as_they_are_and_says_so(tmp_path):
    class Wide(TinyCNN):
        def __init__(self):
            super().__init__(padding_idx=0)
            self.conv = nn.Conv1d(6, 5, 4)

    model = Wide()
    train = [{"input_ids": list(range(1, 2 + length)), "labels": 0} for length in (1, 8, 5)]
    tracin = TracInWE(model, train, scatter_checkpoints(model, tmp_path), loss_fn=cross_entropy(), batch_size=3)
    with pytest.warns(UserWarning, match="some texts cannot be taken alone"):
        assert tracin.influence(train).shape == (3, 3)
