"""Finding the word embedding, and every way of not finding it."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from captum_tracinwe.app.testing import TinyCNN, tiny_bert, tiny_gpt2, tiny_t5
from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.gradients.embedding import find_embedding
from captum_tracinwe.gradients.look_ups import RecordLookUps


def two_embeddings():
    return nn.ModuleDict({"words": nn.Embedding(5, 2), "positions": nn.Embedding(7, 2), "out": nn.Linear(2, 2)})


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (TinyCNN, "embedding"),
        (tiny_bert, "bert.embeddings.word_embeddings"),
        (tiny_gpt2, "transformer.wte"),
        (tiny_t5, "shared"),
        (lambda: nn.DataParallel(tiny_gpt2()), "module.transformer.wte"),
    ],
)
def test_the_word_embedding_is_found(make, name):
    model = make()
    table = find_embedding(model)
    assert table.name == name
    assert table.module is dict(model.named_modules())[name]
    assert find_embedding(model, [name]).module is table.module


def test_the_only_embedding_is_found_even_under_two_names():
    model = nn.ModuleDict({"a": nn.Embedding(5, 2)})
    model["b"] = model["a"]
    assert find_embedding(model).name == "a"


@pytest.mark.parametrize(
    ("make", "layers", "error", "message"),
    [
        (lambda: nn.Linear(2, 2), None, ValueError, "no nn.Embedding"),
        (
            lambda: nn.Sequential(nn.EmbeddingBag(5, 2, mode="max")),
            None,
            ValueError,
            "mode='max'.*[Ee]xpected 'sum' or",
        ),
        (two_embeddings, None, ValueError, r"several embeddings.*'words' \(5 x 2\), 'positions' \(7 x 2\)"),
        (two_embeddings, ["out"], ValueError, "'out', which is a Linear: expected an nn.Embedding"),
        (two_embeddings, ["wrods"], ValueError, "'wrods', which the model does not have.*'words'"),
        (two_embeddings, ["words", "positions"], ValueError, "one layer"),
        (two_embeddings, [], ValueError, "one layer"),
        (two_embeddings, "words", TypeError, "should be a list"),
        (lambda: nn.ModuleDict({"bag": nn.EmbeddingBag(5, 2, max_norm=1.0)}), ["bag"], ValueError, "max_norm=1.0"),
        (lambda: nn.Sequential(nn.Embedding(5, 2, max_norm=1.0)), None, ValueError, "max_norm=1.0"),
        (
            lambda: nn.Sequential(nn.Embedding(5, 2, scale_grad_by_freq=True)),
            None,
            ValueError,
            "scale_grad_by_freq",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(make, layers, error, message):
    with pytest.raises(error, match=message):
        find_embedding(make(), layers)


def test_input_embeddings_that_are_no_embedding_are_refused():
    class Odd(nn.Module):
        def get_input_embeddings(self):
            return nn.Linear(2, 2)

    with pytest.raises(ValueError, match="get_input_embeddings.. is a Linear"):
        find_embedding(Odd())


def test_a_model_without_input_embeddings_falls_back_to_the_only_embedding():
    class Abstract(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(5, 2)

        def get_input_embeddings(self):
            raise NotImplementedError

    assert find_embedding(Abstract()).name == "words"


def test_only_look_ups_in_the_table_are_recorded():
    table, other = torch.randn(5, 2), torch.randn(5, 2)
    ids = torch.tensor([[1, 2]])
    with RecordLookUps(table) as record:
        kept = functional.embedding(ids, table, -1)
        functional.embedding(ids, other)
    functional.embedding(ids, table)
    assert len(record.calls) == 1
    assert kept.requires_grad
    assert record.calls[0].padding_idx == 4
    torch.testing.assert_close(kept, table[ids])


def test_a_look_up_that_renormalises_is_refused():
    table = torch.randn(5, 2)
    with pytest.raises(ValueError, match=r"max_norm=1\.0"), RecordLookUps(table):
        functional.embedding(torch.tensor([1]), table, max_norm=1.0)


@pytest.mark.parametrize("bad", [30, -100])
def test_a_token_without_a_row_is_named(bad):
    model = TinyCNN(vocabulary=30)
    with (
        RecordLookUps(model.embedding.weight),
        pytest.raises(ValueError, match=rf"of 30 rows, is asked for token id {bad}"),
    ):
        model(torch.tensor([[1, bad, 2]]))


def test_wrappers_are_looked_through():
    model = TinyCNN()
    assert unwrap(nn.DataParallel(model)) is model
    assert unwrap(torch.compile(model)) is model
