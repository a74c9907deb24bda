"""Kind C: rows that are no examples. Several in a row are taken apart, several rows of one are refused, everywhere alike."""

import warnings

import pytest
import torch
import transformers
from captum_tracinwe.collate import Collate
from cases import Stream
from loops import alone, assert_close, looped, ragged
from torch import nn
from torch.utils.data import DataLoader

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import language_model_loss, scatter_checkpoints, tiny_gpt2
from captum_tracinwe.batches.packed import unpacked
from captum_tracinwe.gradients.token_losses import TokenLoss


def texts(count, seed):
    return [{"input_ids": one["input_ids"], "labels": one["input_ids"]} for one in ragged(count, seed=seed)]


def flattened(examples):
    """As `DataCollatorWithFlattening`, whose names differ by the version of transformers."""
    return transformers.DataCollatorWithFlattening()(examples)


def with_bounds(examples):
    """As collators for variable-length attention: no positions, but where texts begin."""
    ids = [torch.tensor(one["input_ids"]) for one in examples]
    bounds = torch.tensor([0, *(len(one) for one in ids)]).cumsum(0).to(torch.int32)
    row = torch.cat(ids)[None]
    return {"input_ids": row, "labels": row, "cu_seq_lens_q": bounds, "max_length_q": max(map(len, ids))}


class Varlen(nn.Module):
    """A language model of two words' memory that takes several texts in a row, told where they begin."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(30, 6)
        self.out = nn.Linear(6, 30)

    def forward(self, input_ids, cu_seq_lens_q=None, max_length_q=None):
        return self.out(torch.tanh(self.words(input_ids)))


def right(model, table, checkpoints, test, train):
    def loss(model, one):
        output = model(input_ids=one["input_ids"])
        return language_model_loss(output["logits"] if isinstance(output, dict) else output, one["labels"]).sum()

    return looped(model, table, checkpoints, loss, *([alone(one) for one in side] for side in (test, train)))


@pytest.mark.parametrize("kind", ["data set", "loader", "stream"])
def test_packed_examples_are_scored_one_by_one(kind, tmp_path):
    torch.manual_seed(0)
    model = tiny_gpt2()
    checkpoints = scatter_checkpoints(model, tmp_path)
    train, test = texts(7, 1), texts(3, 2)
    options = {"loss_fn": TokenLoss(), "batch_size": 3}
    if kind == "data set":
        data, options["collate_fn"] = train, flattened
    else:
        data = DataLoader(train if kind == "loader" else Stream(train), 3, collate_fn=flattened)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tracin = TracInWE(model, data, checkpoints, **options)
    assert any("packs several examples into one row" in str(one.message) for one in said) == (kind != "stream")
    expected = right(model, model.transformer.wte, checkpoints, test, train)
    plain = TracInWE(model, train, checkpoints, loss_fn=TokenLoss(), collate_fn=Collate(model))
    batch = plain._collate(test)
    assert_close(tracin.influence(batch), expected)
    assert_close(tracin.influence(flattened(test)), expected)  # asked about in one row
    if kind != "stream":
        index = tracin.build_index(tmp_path / "index")
        assert_close(TracInWE(model, None, checkpoints, loss_fn=TokenLoss(), index=index).influence(batch), expected)


def test_bounds_say_where_texts_begin(tmp_path):
    torch.manual_seed(0)
    model = Varlen()
    checkpoints = scatter_checkpoints(model, tmp_path)
    train, test = texts(7, 1), texts(3, 2)
    expected = right(model, model.words, checkpoints, test, train)
    data = DataLoader(Stream(train), 3, collate_fn=with_bounds)
    tracin = TracInWE(model, data, checkpoints, loss_fn=TokenLoss())
    assert_close(tracin.influence(with_bounds(test)), expected)


def test_a_row_that_says_nothing_of_several_texts_stays_one():
    row = torch.arange(6)[None]
    for batch in ({"input_ids": row}, {"input_ids": row, "position_ids": row}, {"input_ids": row.expand(2, 6)}):
        assert unpacked(batch) == [batch]
    parts = unpacked({"input_ids": row, "position_ids": torch.tensor([[0, 1, 0, 1, 2, 0]]), "labels": row})
    assert [part["labels"].tolist() for part in parts] == [[[0, 1]], [[2, 3, 4]], [[5]]]
    assert [part["position_ids"].tolist() for part in parts] == [[[0, 1]], [[0, 1, 2]], [[0]]]


def doubled(examples):
    return Collate(tiny_gpt2())([one for one in examples for _ in range(2)])


def in_pairs(examples):
    return Collate(tiny_gpt2())([*examples, *examples])


def with_negatives(examples):
    return Collate(tiny_gpt2())([*examples, examples[0]])


@pytest.mark.parametrize("collator", [doubled, in_pairs, with_negatives])
@pytest.mark.parametrize("kind", ["data set", "loader", "stream"])
def test_several_rows_of_one_example_are_refused_in_training_and_in_questions(collator, kind, tmp_path):
    torch.manual_seed(0)
    model = tiny_gpt2()
    checkpoints = scatter_checkpoints(model, tmp_path)
    train = texts(7, 1)
    asked = Collate(model)(texts(2, 2))

    def influence():
        if kind == "data set":
            made = TracInWE(model, train, checkpoints, loss_fn=TokenLoss(), batch_size=3, collate_fn=collator)
        else:
            data = DataLoader(train if kind == "loader" else Stream(train), 3, collate_fn=collator)
            made = TracInWE(model, data, checkpoints, loss_fn=TokenLoss())
        return made.influence(asked)

    with pytest.raises(ValueError, match=r"makes \d+ rows of \d+ examples?: expected one row for each"):
        influence()
    plain = TracInWE(model, train, checkpoints, loss_fn=TokenLoss(), collate_fn=Collate(model))
    with pytest.raises(ValueError, match=r"`inputs` makes \d+ rows of"):
        plain.influence(DataLoader(train, 3, collate_fn=collator))
