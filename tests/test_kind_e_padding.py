"""Kind E: padding that changes the gradient. Scores are those of each text alone, and that is said; batches don't matter."""

import warnings

import pytest
import torch
import transformers
from captum_tracinwe.collate import Collate
from cases import Stream, cross_entropy
from loops import alone, assert_close, looped, ragged
from test_models import SMALL
from torch import nn
from torch.utils.data import DataLoader

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints


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


@pytest.mark.parametrize("made", [fnet, cnn, reader])
def test_a_stream_which_cannot_be_read_text_by_text_is_refused(made, tmp_path):
    torch.manual_seed(0)
    model, _ = made()
    model.eval()
    train = [{**one, "labels": max(0, one["labels"])} for one in ragged(9, seed=1)]
    checkpoints = scatter_checkpoints(model, tmp_path)
    loader = DataLoader(Stream(train), 3, collate_fn=right_filled(model))
    tracin = TracInWE(model, loader, checkpoints, loss_fn=cross_entropy())
    with pytest.raises(ValueError, match="a stream cannot be read text by text"):
        tracin.self_influence()
    singly = TracInWE(
        model, DataLoader(Stream(train), 1, collate_fn=right_filled(model)), checkpoints, loss_fn=cross_entropy()
    )
    plain = TracInWE(model, train, checkpoints, loss_fn=cross_entropy())
    torch.testing.assert_close(singly.self_influence(), plain.self_influence())
