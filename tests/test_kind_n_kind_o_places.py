"""Kinds N and O: examples along another dimension than the first, or in another order than the collator was given them."""

import warnings

import pytest
import torch
import transformers
from cases import Stream, cross_entropy
from loops import alone, assert_close, looped, ragged
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader, TensorDataset

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import scatter_checkpoints


class Turned(nn.Module):
    """A recurrent model of the old kind, that turns its batch to (T, N) before it looks words up."""

    def __init__(self, cell="GRU"):
        super().__init__()
        self.words = nn.Embedding(30, 6)
        self.cell = getattr(nn, cell)(6, 5)
        self.out = nn.Linear(5, 3)

    def forward(self, ids):
        state = self.cell(self.words(ids.T))[1]
        return self.out((state[0] if isinstance(state, tuple) else state)[-1])


def xlnet():
    config = transformers.XLNetConfig(vocab_size=30, d_model=8, n_layer=1, n_head=2, d_inner=16, num_labels=3)
    return transformers.XLNetForSequenceClassification(config).eval()


@pytest.mark.parametrize("batch_size", [1, 4, 6])  # of texts of 6 tokens: the last cannot be told by its shape
@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
def test_a_model_that_turns_its_batch_is_right_on_every_batch_size(cell, batch_size, tmp_path):
    torch.manual_seed(0)
    model = Turned(cell)
    checkpoints = scatter_checkpoints(model, tmp_path, scale=0.5)
    ids, labels = torch.randint(0, 30, (15, 6)), torch.randint(0, 3, (15,))
    one = [(ids[i : i + 1], labels[i : i + 1]) for i in range(15)]
    expected = looped(
        model, model.words, checkpoints, lambda model, x: cross_entropy()(model(x[0]), x[1]).sum(), one[:6], one[6:]
    )
    tracin = TracInWE(
        model, TensorDataset(ids[6:], labels[6:]), checkpoints, loss_fn=cross_entropy(), batch_size=batch_size
    )
    assert_close(tracin.influence((ids[:6], labels[:6])), expected)
    both = TracInWE(
        *(model, TensorDataset(ids[6:], labels[6:]), checkpoints),
        **{"loss_fn": cross_entropy(), "batch_size": batch_size, "table": ("input", "bag")},
    )
    singly = TracInWE(
        model, TensorDataset(ids[6:], labels[6:]), checkpoints, loss_fn=cross_entropy(), table=("input", "bag")
    )
    torch.testing.assert_close(both.influence((ids[:6], labels[:6])), singly.influence((ids[:6], labels[:6])))


@pytest.mark.parametrize("batch_size", [4, 6])
@pytest.mark.parametrize("own", [True, False])
def test_xlnet_which_turns_its_batch_is_right_with_its_own_loss_and_with_a_given_one(own, batch_size, tmp_path):
    torch.manual_seed(0)
    model = xlnet()
    checkpoints = scatter_checkpoints(model, tmp_path)
    data = [{"input_ids": torch.randint(0, 30, (6,)), "labels": i % 3} for i in range(18)]
    sides = [[alone(one) for one in side] for side in (data[:6], data[6:])]
    expected = looped(
        model, model.transformer.word_embedding, checkpoints, lambda model, one: model(**one).loss, *sides
    )
    tracin = TracInWE(model, data[6:], checkpoints, loss_fn=None if own else cross_entropy(), batch_size=batch_size)
    assert_close(tracin.influence(data[:6]), expected, 1e-3)


class TimeFirst(nn.Module):
    """A model that is given (T, N): its collator turns the batch."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(30, 6)
        self.gru = nn.GRU(6, 5)
        self.out = nn.Linear(5, 3)

    def forward(self, ids):
        return self.out(self.gru(self.words(ids))[1][-1])


@pytest.mark.parametrize("tokens", [4, 6])
def test_a_batch_that_is_given_time_first_is_refused_also_where_it_is_square(tokens, tmp_path):
    model = TimeFirst()
    checkpoints = scatter_checkpoints(model, tmp_path)
    data = TensorDataset(torch.randint(0, 30, (12, tokens)), torch.randint(0, 3, (12,)))

    def turned(examples):
        return torch.stack([ids for ids, _ in examples], 1), torch.stack([label for _, label in examples])

    with pytest.raises(ValueError, match="[Ee]xpected"):
        TracInWE(model, DataLoader(data, 4, collate_fn=turned), checkpoints, loss_fn=cross_entropy()).self_influence()
    ids, labels = turned([data[i] for i in range(4)])
    plain = TracInWE(model, TensorDataset(data.tensors[0], data.tensors[1]), checkpoints, loss_fn=cross_entropy())
    with pytest.raises(ValueError, match="[Ee]xpected"):
        plain.row_gradients((ids, labels))


# ------------------------------------------------------------------------------------------------------------- kind O


class Packed(nn.Module):
    """The tutorial's model for texts from long to short."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(30, 6, padding_idx=0)
        self.gru = nn.GRU(6, 5, batch_first=True)
        self.out = nn.Linear(5, 3)

    def forward(self, input_ids, lengths):
        return self.out(self.gru(pack_padded_sequence(self.words(input_ids), lengths, batch_first=True))[1][-1])


def from_long_to_short(examples):
    return _filled(sorted(examples, key=lambda one: -len(one["input_ids"])))


def from_short_to_long(examples):
    return _filled(sorted(examples, key=lambda one: len(one["input_ids"])))


def by_label(examples):
    return _filled(sorted(examples, key=lambda one: one["labels"]))


def reversed_(examples):
    return _filled(examples[::-1])


def _filled(examples):
    ids = [torch.tensor(one["input_ids"]) for one in examples]
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "lengths": torch.tensor([len(one) for one in ids]),
        "labels": torch.tensor([one["labels"] for one in examples]),
    }


class Unsorted(Packed):
    def forward(self, input_ids, lengths):
        words = pack_padded_sequence(self.words(input_ids), lengths, batch_first=True, enforce_sorted=False)
        return self.out(self.gru(words)[1][-1])


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize(
    ("kind", "collator"),
    [(Packed, from_long_to_short), (Unsorted, from_short_to_long), (Unsorted, by_label), (Unsorted, reversed_)],
)
def test_kind_o_a_collator_that_sorts_its_batch_gives_each_example_its_own_score(kind, collator, batch_size, tmp_path):
    torch.manual_seed(0)
    model = kind()
    checkpoints = scatter_checkpoints(model, tmp_path, scale=0.5)
    train, test = ragged(11, seed=1), ragged(4, seed=2)
    for one in (*train, *test):
        one["labels"] = max(0, one["labels"])
    sides = [[collator([one]) for one in side] for side in (test, train)]

    def loss(model, one):
        return cross_entropy()(model(one["input_ids"], one["lengths"]), one["labels"]).sum()

    expected = looped(model, model.words, checkpoints, loss, *sides, padding_idx=0)
    tracin = TracInWE(model, train, checkpoints, loss_fn=cross_entropy(), collate_fn=collator, batch_size=batch_size)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert_close(tracin.influence(test), expected)
        assert_close(tracin.self_influence(), tracin.self_influence(train))
    assert bool(said) == (batch_size > 1)
    assert all("sorts its batch" in str(one.message) or "changes the order" in str(one.message) for one in said)


def test_kind_o_a_stream_whose_collator_sorts_is_refused(tmp_path):
    model = Packed()
    train = [{**one, "labels": max(0, one["labels"])} for one in ragged(11, seed=1)]
    loader = DataLoader(Stream(train), 4, collate_fn=from_long_to_short)
    tracin = TracInWE(model, loader, scatter_checkpoints(model, tmp_path), loss_fn=cross_entropy())
    with pytest.raises(ValueError, match="sorts its batch.*a stream cannot be read text by text"):
        tracin.self_influence()
