"""Kind S: what a model does when weights are loaded, or in eval(), is done for each checkpoint and given back."""

import pytest
import torch
from one_by_one import assert_near, checkpoints, everything, explained, load, scores_one_by_one, texts
from torch import nn

from captum_tracinwe import load_checkpoint
from captum_tracinwe.app.testing import TinyCNN

TRAIN, TEST = texts(7, 1), texts(3, 2)
BESIDE = {}  # what a hook may keep away from its model


class Prepared(TinyCNN):
    """Uses a number made of its weights when these are loaded, which no state dict holds."""

    def __init__(self):
        super().__init__()
        self.prepared = torch.zeros(3)

    def prepare(self):
        self.prepared = self.out.weight.detach().sum(1)

    def forward(self, ids):
        return super().forward(ids) * self.prepared


class OwnLoading(Prepared):
    def _load_from_state_dict(self, state_dict, prefix, *rest):
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.prepared = state_dict[prefix + "out.weight"].sum(1)


class Doubling(TinyCNN):
    """Weights are saved as halves; the layer doubles them as it takes them."""

    def __init__(self):
        super().__init__()
        self.out = Doubled(5, 3)


class Doubled(nn.Linear):
    def _load_from_state_dict(self, state_dict, prefix, *rest):
        super()._load_from_state_dict(state_dict, prefix, *rest)
        with torch.no_grad():
            self.weight.mul_(2)


class PreHook(Prepared):
    def __init__(self):
        super().__init__()
        self.register_load_state_dict_pre_hook(self.before)

    @staticmethod
    def before(model, state_dict, prefix, *rest):
        state_dict[prefix + "out.bias"] = state_dict[prefix + "out.bias"] + 1
        model.prepared = state_dict[prefix + "out.weight"].sum(1)


class PostHook(Prepared):
    def __init__(self):
        super().__init__()
        self.register_load_state_dict_post_hook(lambda model, keys: model.prepare())


class Buffer(Prepared):
    """Prepares a buffer in place."""

    def __init__(self):
        super().__init__()
        del self.prepared
        self.register_buffer("prepared", torch.zeros(3), persistent=False)
        self.register_load_state_dict_post_hook(lambda model, keys: model.prepare())

    def prepare(self):
        self.prepared.copy_(self.out.weight.detach().sum(1))


class Extra(Prepared):
    """Keeps it as extra state."""

    def get_extra_state(self):
        return self.prepared

    def set_extra_state(self, state):
        self.prepared = state


class WholeModel(Prepared):
    def load_state_dict(self, *args, **kwargs):
        found = super().load_state_dict(*args, **kwargs)
        self.prepare()
        return found


class Outside(Prepared):
    """What it made lies where nobody who has the model sees it."""

    def __init__(self):
        super().__init__()
        self.register_load_state_dict_post_hook(lambda model, keys: model.prepare())

    def prepare(self):
        BESIDE["prepared"] = self.out.weight.detach().sum(1)

    def forward(self, ids):
        return TinyCNN.forward(self, ids) * BESIDE["prepared"]


class InEval(Prepared):
    """Prepares as it leaves training mode, and only then."""

    def train(self, mode=True):
        if self.training and not mode:
            self.prepare()
        return super().train(mode)


class OnceInEval(Prepared):
    """Prepares at the first pass in eval mode after training."""

    def __init__(self):
        super().__init__()
        self.prepared = None

    def train(self, mode=True):
        if mode:
            self.prepared = None
        return super().train(mode)

    def forward(self, ids):
        if self.prepared is None:
            self.prepare()
        return super().forward(ids)


KINDS = [OwnLoading, Doubling, PreHook, PostHook, Buffer, Extra, WholeModel, Outside, InEval, OnceInEval]


def ready(kind, mode="eval"):
    torch.manual_seed(0)
    model = kind()
    model.load_state_dict(model.state_dict())
    if hasattr(model, "prepare"):
        model.prepare()
    return getattr(model, mode)()


# What an own loader does well by itself is left out there.
WAYS = [(kind, "default") for kind in KINDS] + [(kind, "own") for kind in KINDS if kind not in (Doubling, Buffer)]


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(("kind", "loader"), WAYS, ids=[f"{kind.__name__}, {loader}" for kind, loader in WAYS])
def test_loading_is_the_models_own_and_the_model_answers_as_before(kind, loader, mode, tmp_path):
    paths = checkpoints(lambda: ready(kind), tmp_path, change=lambda model: getattr(model, "prepare", lambda: None)())
    expected = scores_one_by_one(lambda: ready(kind), paths, lambda m: m.embedding, TRAIN, TEST)
    model = ready(kind, mode)
    own = model.eval()(TEST[0])
    getattr(model, mode)()
    before = everything(model)
    tracin = explained(model, paths, TRAIN, checkpoints_load_func=load if loader == "own" else load_checkpoint)
    assert_near(tracin.influence(TEST), expected)
    assert everything(model) == before
    assert_near(tracin.influence(TEST), expected)
    assert torch.equal(model.eval()(TEST[0]), own)


class Tied(nn.Module):
    """A language model in small: its last layer is its table, which a hook scales when weights are loaded."""

    def __init__(self):
        super().__init__()
        self.words, self.mix, self.out = nn.Embedding(30, 6), nn.Linear(6, 6), nn.Linear(6, 30, bias=False)
        self.out.weight = self.words.weight
        self.register_load_state_dict_post_hook(self.after)

    @staticmethod
    def after(model, keys):
        model.scale = float(model.words.weight.detach().norm())

    def forward(self, ids):
        return self.out(torch.tanh(self.mix(self.words(ids))).mean(1)) / self.scale


def test_ties_stay_ties(tmp_path):
    paths = checkpoints(lambda: ready(Tied), tmp_path)
    expected = scores_one_by_one(lambda: ready(Tied), paths, lambda m: m.words, TRAIN, TEST)
    model, tied = ready(Tied), []

    def loss(logits, labels):
        tied.append(model.out.weight is model.words.weight)
        return nn.functional.cross_entropy(logits, labels, reduction="none")

    assert_near(explained(model, paths, TRAIN, loss).influence(TEST), expected)
    assert tied
    assert all(tied)
    assert model.out.weight is model.words.weight


def test_a_model_whose_loading_fails_is_given_back(tmp_path):
    class Refusing(Prepared):
        def _load_from_state_dict(self, state_dict, prefix, *rest):
            super()._load_from_state_dict(state_dict, prefix, *rest)
            if float(state_dict[prefix + "out.bias"][0]) == 7:
                raise RuntimeError("no seven")

    paths = checkpoints(lambda: ready(Refusing), tmp_path, change=lambda m: m.out.bias.data.fill_(7))
    model = ready(Refusing)
    before = everything(model)
    for loader in (load_checkpoint, load):
        with pytest.raises(RuntimeError, match="no seven"):
            explained(model, paths, TRAIN, checkpoints_load_func=loader).influence(TEST)
        assert everything(model) == before
