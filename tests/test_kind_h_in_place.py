"""Kind H: models that write into what the embedding gives them, or into states of their own."""

import pytest
import torch
from one_by_one import LOSS, assert_near, checkpoints, everything, explained, scores_one_by_one, texts
from torch import nn
from torch.nn import functional

from captum_tracinwe.app.testing import TinyCNN

TRAIN, TEST = texts(7, 1), texts(3, 2)


def scaled(x, model):
    x *= 3
    return x


def with_places(x, model):
    x.add_(model.places.weight[: x.shape[1]])
    return x


def masked(x, model):
    x[:, 2] = 0
    return x.masked_fill_(x > 1, 0.5)


def twice(x, model):
    kept = x * 2
    x.mul_(kept)
    return x


def through_a_view(x, model):
    x.transpose(1, 2)[:, 0].mul_(2)
    return x


def by_functional(x, model):
    return functional.relu(functional.dropout(x, 0.5, model.training, inplace=True), inplace=True)


def into(x, model):
    torch.mul(x.detach(), 1, out=torch.empty_like(x))
    return x.div_(x.detach().norm(dim=-1, keepdim=True))


class Writing(TinyCNN):
    def __init__(self, way):
        super().__init__()
        self.way, self.places = way, nn.Embedding(9, 6)

    def forward(self, ids):
        hidden = self.way(self.embedding(ids), self)
        return self.out(torch.tanh(self.conv(hidden.transpose(1, 2))).amax(2))


WAYS = [scaled, with_places, masked, twice, through_a_view, by_functional, into]


@pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])
def test_the_embeddings_output_may_be_written_into(way, tmp_path):
    def make():
        torch.manual_seed(0)
        return Writing(way)

    paths, options = checkpoints(make, tmp_path), {"layers": ["embedding"]}
    model = make()
    before = everything(model)
    found = explained(model, paths, TRAIN, **options).influence(TEST)
    assert_near(found, scores_one_by_one(make, paths, lambda m: m.embedding, TRAIN, TEST))
    assert everything(model) == before


def test_words_whose_output_is_written_into_can_be_looked_up_twice(tmp_path):
    """Two look-ups of one text, the first of which is changed."""

    class Two(TinyCNN):
        def forward(self, ids):
            first, second = self.embedding(ids), self.embedding(ids.flip(1))
            first += 2 * second
            return self.out(torch.tanh(self.conv(first.transpose(1, 2))).amax(2)) + second.mean((1, 2))[:, None]

    def make():
        torch.manual_seed(0)
        return Two()

    paths = checkpoints(make, tmp_path)
    found = explained(make(), paths, TRAIN).influence(TEST)
    assert_near(found, scores_one_by_one(make, paths, lambda m: m.embedding, TRAIN, TEST))


def test_rwkv_which_writes_into_its_states_is_explained(tmp_path):
    """In eval mode it keeps states for tokens to come, and writes them over those that its gradient needs."""
    transformers = pytest.importorskip("transformers")

    def make():
        torch.manual_seed(0)
        config = transformers.RwkvConfig(
            vocab_size=30, hidden_size=8, num_hidden_layers=2, attention_hidden_size=8, context_length=16
        )
        return transformers.RwkvForCausalLM(config)

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make()

        def load_state_dict(self, state, strict=True):
            return self.inner.load_state_dict(state, strict)

        def forward(self, input_ids, labels):
            return self.inner(input_ids=input_ids, use_cache=False).logits

    def loss(logits, labels):
        return LOSS(logits[:, -1, :3], labels)

    train, test = ({"input_ids": ids, "labels": labels} for ids, labels in (TRAIN, TEST))
    paths = checkpoints(make, tmp_path)
    expected = scores_one_by_one(Plain, paths, lambda m: m.inner.rwkv.embeddings, train, test, loss)
    assert_near(explained(make(), paths, train, loss).influence(test), expected, 1e-4)
