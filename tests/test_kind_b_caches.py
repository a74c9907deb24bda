"""Kind B: what a layer keeps of its weights from the first pass on is not that of the checkpoint before."""

import functools
from collections import UserDict
from types import SimpleNamespace

import pytest
import torch
from one_by_one import assert_near, checkpoints, everything, explained, scores_one_by_one, texts
from torch.nn import functional

from captum_tracinwe.app.testing import TinyCNN
from captum_tracinwe.gradients.model_state import ModelState

TRAIN, TEST = texts(7, 1), texts(3, 2)


class Cache:
    """As people write it."""

    def __init__(self):
        self.doubled = None


class Holder:
    def __init__(self):
        self.inner = {"cache": [Cache()]}


class OfAnObject(TinyCNN):
    def __init__(self):
        super().__init__()
        self.cache = Cache()

    def doubled(self):
        if self.cache.doubled is None:
            self.cache.doubled = (self.out.weight * 2).detach().clone()
        return self.cache.doubled

    def forward(self, ids):
        hidden = torch.tanh(self.conv(self.embedding(ids).transpose(1, 2))).amax(2)
        return functional.linear(hidden, self.doubled(), self.out.bias)


class WithinObjects(OfAnObject):
    def __init__(self):
        super().__init__()
        self.holder = Holder()

    def doubled(self):
        self.cache = self.holder.inner["cache"][0]
        return super().doubled()


class OfUserDict(OfAnObject):
    def __init__(self):
        super().__init__()
        self.kept = UserDict()

    def doubled(self):
        return self.kept.setdefault("doubled", (self.out.weight * 2).detach().clone())


class OfMethods(OfAnObject):
    @functools.lru_cache(maxsize=None)  # noqa: B019, UP033
    def doubled(self):
        return (self.out.weight * 2).detach().clone()


class OfProperties(OfAnObject):
    @property
    @functools.lru_cache  # noqa: B019
    def twice(self):
        return (self.out.weight * 2).detach().clone()

    def doubled(self):
        return self.twice


class WrittenInto(OfAnObject):
    """One tensor for all passes, filled at the first."""

    def __init__(self):
        super().__init__()
        self.cache.doubled, self.cache.filled = torch.zeros_like(self.out.weight.detach()), False

    def doubled(self):
        if not self.cache.filled:
            self.cache.doubled.copy_(self.out.weight.detach() * 2)
            self.cache.filled = True
        return self.cache.doubled.clone()


KINDS = [OfAnObject, WithinObjects, OfUserDict, OfMethods, OfProperties, WrittenInto]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_first_pass_keeps_is_made_anew_at_each_checkpoint(kind, tmp_path):
    make = lambda: (torch.manual_seed(0), kind())[1]  # noqa: E731
    paths = checkpoints(make, tmp_path)
    expected = scores_one_by_one(make, paths, lambda m: m.embedding, TRAIN, TEST)
    model = make().eval()
    tracin = explained(model, paths, TRAIN)
    assert_near(tracin.influence(TEST), expected)
    assert_near(tracin.influence(TEST), expected)
    assert torch.equal(model(TEST[0]), make().eval()(TEST[0]))  # and what it keeps afterwards is of its own weights


def test_methods_that_were_cached_before_are_those_of_the_checkpoint(tmp_path):
    make = lambda: (torch.manual_seed(0), OfMethods())[1]  # noqa: E731
    paths = checkpoints(make, tmp_path)
    expected = scores_one_by_one(make, paths, lambda m: m.embedding, TRAIN, TEST)
    model = make().eval()
    own = model(TEST[0])
    assert_near(explained(model, paths, TRAIN).influence(TEST), expected)
    assert torch.equal(model(TEST[0]), own)


def test_objects_that_hold_much_or_are_of_libraries_are_left_alone():
    class Corpus:
        def __init__(self, count):
            self.texts = [torch.zeros(1) for _ in range(count)]

    class Data(torch.utils.data.Dataset):
        def __init__(self):
            self.texts = [torch.zeros(1)]

    model = TinyCNN()
    model.corpus, model.small, model.data, model.itself = Corpus(2000), Corpus(2), Data(), SimpleNamespace(model=model)
    before = everything(model)
    for held, kept in ((model.corpus, False), (model.small, True), (model.data, False)):
        state = ModelState(model)
        held.texts[0].fill_(1)
        state.give_back()
        assert bool(held.texts[0] == 0) is kept
    assert len(everything(model)) == len(before)
