"""Kind S: what a model's own `load_state_dict` takes is taken; what it does not take leaves the model as it was."""

import pytest
import torch
from one_by_one import assert_near, everything, explained, scores_one_by_one, texts
from torch import nn

from captum_tracinwe import load_checkpoint, save_checkpoint
from captum_tracinwe.app.testing import TinyCNN
from captum_tracinwe.checkpoints.weights import assign_checkpoint

TRAIN, TEST = texts(7, 1), texts(3, 2)


class Normed(TinyCNN):
    """torch itself renames what the older `weight_norm` saved."""

    def __init__(self):
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.out)

    @staticmethod
    def saved(state):
        ahead = "out.parametrizations.weight.original"
        names = {f"{ahead}0": "out.weight_g", f"{ahead}1": "out.weight_v"}
        return {names.get(name, name): value for name, value in state.items()}


class Counting(TinyCNN):
    """A BatchNorm fills in the count that torch 0.3 did not save."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, ids):
        return self.norm(super().forward(ids))

    @staticmethod
    def saved(state):
        return {name: value for name, value in state.items() if "num_batches" not in name}


class Renaming(TinyCNN):
    def __init__(self):
        super().__init__()
        self.register_load_state_dict_pre_hook(self.before)

    @staticmethod
    def before(model, state_dict, prefix, *rest):
        for name in [name for name in state_dict if name.startswith(prefix + "head.")]:
            state_dict[name.replace("head.", "out.")] = state_dict.pop(name)

    @staticmethod
    def saved(state):
        return {name.replace("out.", "head."): value for name, value in state.items()}


class Wrapped(Renaming):
    """The same, saved by DDP."""

    @staticmethod
    def saved(state):
        return {f"module.{name}": value for name, value in Renaming.saved(state).items()}


class Splitting(TinyCNN):
    def _load_from_state_dict(self, state_dict, prefix, *rest):
        both = state_dict.pop(prefix + "both", None)
        if both is not None:
            state_dict[prefix + "out.weight"], state_dict[prefix + "out.bias"] = both[:-3].view(3, 5), both[-3:]
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @staticmethod
    def saved(state):
        rest = {name: value for name, value in state.items() if not name.startswith("out.")}
        return rest | {"both": torch.cat([state["out.weight"].flatten(), state["out.bias"]])}


class Turning(TinyCNN):
    """Takes another shape under the same name."""

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        state_dict[prefix + "out.weight"] = state_dict[prefix + "out.weight"].view(3, 5)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @staticmethod
    def saved(state):
        return {**state, "out.weight": state["out.weight"].flatten()}


class Leaving(TinyCNN):
    def load_state_dict(self, state_dict, strict=True, assign=False):
        kept = {name: value for name, value in state_dict.items() if not name.startswith("helper.")}
        return super().load_state_dict(kept, strict, assign)

    @staticmethod
    def saved(state):
        return {**state, "helper.weight": torch.ones(2)}


class Silent(Leaving):
    def load_state_dict(self, state_dict, strict=True, assign=False):
        super().load_state_dict(state_dict, strict, assign)


class Doubled(nn.Linear):
    """Its first version saved halves: torch keeps the version beside the weights."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        if local_metadata.get("version", 1) < 2:
            state_dict[prefix + "weight"] = 2 * state_dict[prefix + "weight"]
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


class Versioned(TinyCNN):
    def __init__(self):
        super().__init__()
        self.out = Doubled(5, 3)

    @staticmethod
    def saved(state):
        return state


KINDS = [Normed, Counting, Renaming, Wrapped, Splitting, Turning, Leaving, Silent, Versioned]


def ready(kind):
    torch.manual_seed(0)
    return kind().eval()


def files(kind, folder):
    paths = []
    for number, rate in enumerate((0.3, 1.7)):
        model = ready(kind)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
        paths.append(str(folder / f"step-{number}.pt"))
        torch.save({"model_state_dict": kind.saved(model.state_dict()), "learning_rate": rate}, paths[-1])
    return paths


def strictly(model, path):
    content = torch.load(path, weights_only=True)
    state = content["model_state_dict"]
    nn.modules.utils.consume_prefix_in_state_dict_if_present(state, "module.")
    model.load_state_dict(state)
    return content["learning_rate"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_models_own_loading_takes_has_the_scores_of_plain_torch(kind, tmp_path):
    paths = files(kind, tmp_path)
    expected = scores_one_by_one(lambda: ready(kind), paths, lambda m: m.embedding, TRAIN, TEST, load=strictly)
    model = ready(kind)
    before = everything(model)
    for _ in range(2):
        assert_near(explained(model, paths, TRAIN).influence(TEST), expected)
        assert everything(model) == before


@pytest.mark.parametrize("kind", KINDS)
def test_loading_leaves_what_plain_torch_leaves(kind, tmp_path):
    path = files(kind, tmp_path)[1]
    plain = ready(kind)
    strictly(plain, path)
    for loader in (load_checkpoint, assign_checkpoint):
        model = ready(kind)
        kept = {name: (value, value.clone()) for name, value in model.state_dict().items()}
        assert loader(model, path) == 1.7
        assert all(torch.equal(value, plain.state_dict()[name]) for name, value in model.state_dict().items())
        if loader is assign_checkpoint:  # the storage there was is not written to
            assert all(torch.equal(value, then) for value, then in kept.values())


def test_versions_are_those_of_the_weights_under_a_prefix_too(tmp_path):
    model, other = ready(Versioned), Versioned()
    wrapped = nn.Module()
    wrapped.module = model
    torch.save({"model": wrapped.state_dict(), "lr": 0.5}, tmp_path / "a.pt")
    save_checkpoint(tmp_path / "b.pt", model, 0.5)
    torch.save({"model": dict(model.state_dict()), "lr": 0.5}, tmp_path / "old.pt")
    for name, factor in (("a.pt", 1), ("b.pt", 1), ("old.pt", 2)):
        load_checkpoint(other, tmp_path / name)
        assert torch.equal(other.out.weight, factor * model.out.weight), name


class Writing(Renaming):
    """Notes what it was asked to load, and writes before it complains."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        self.asked.append(len(state_dict))
        with torch.no_grad():
            self.out.bias.add_(1)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Lenient(TinyCNN):
    """Takes what fits, and tells of the rest to nobody."""

    def load_state_dict(self, state_dict, strict=True, assign=False):
        super().load_state_dict(state_dict, strict=False)


class Telling(TinyCNN):
    def load_state_dict(self, state_dict, strict=True, assign=False):
        return super().load_state_dict(state_dict, strict=False)


ODD = {
    "a name too many": lambda state: {**Renaming.saved(state), "more.weight": torch.ones(2)},
    "a name too few": lambda state: {
        name: value for name, value in Renaming.saved(state).items() if name != "conv.bias"
    },
    "another shape": lambda state: {**Renaming.saved(state), "conv.bias": torch.ones(9)},
    "cut numbers": lambda state: {**Renaming.saved(state), "conv.bias": torch.ones(5, dtype=torch.cfloat)},
    "no numbers": lambda state: {**Renaming.saved(state), "conv.bias": torch.ones(5, device="meta")},
}


@pytest.mark.parametrize("loader", [load_checkpoint, assign_checkpoint])
@pytest.mark.parametrize("kind", [Writing, Lenient, Telling])
@pytest.mark.parametrize("odd", ODD)
def test_what_it_does_not_take_is_refused_in_our_words_and_the_model_is_as_it_was(odd, kind, loader, tmp_path):
    model = kind()
    torch.save({"model": ODD[odd](TinyCNN().state_dict()), "lr": 0.5}, tmp_path / "a.pt")
    before = everything(model)
    with pytest.raises(ValueError, match=f"does not fit the model {kind.__name__}: .*save this model's state_dict"):
        loader(model, tmp_path / "a.pt")
    assert everything(model) == before
