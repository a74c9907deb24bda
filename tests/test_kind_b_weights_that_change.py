"""Kind B: weights that change between loading and forward. The checkpoint's numbers are those of the forward."""

import copy

import pytest
import torch
from one_by_one import (
    LOSS,
    as_mapping,
    assert_near,
    checkpoints,
    everything,
    explained,
    load,
    scores_one_by_one,
    texts,
)
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize

from captum_tracinwe import load_checkpoint
from captum_tracinwe.app.testing import TinyCNN, tiny_bert, tiny_gpt2

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*tokenizer.*:UserWarning")
TRAIN, TEST = texts(7, 1), texts(3, 2)


class LoRALinear(nn.Linear):
    """As loralib's: ``eval()`` merges, ``train()`` takes it back."""

    def __init__(self, inside, outside):
        super().__init__(inside, outside)
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(2, inside)), nn.Parameter(torch.randn(outside, 2))
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * self.lora_B @ self.lora_A
            self.merged = not mode
        return self

    def forward(self, x):
        plain = functional.linear(x, self.weight, self.bias)
        return plain if self.merged else plain + x @ self.lora_A.T @ self.lora_B.T


class LoRAEmbedding(nn.Embedding):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(2, sizes[0])), nn.Parameter(torch.randn(sizes[1], 2))
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * (self.lora_B @ self.lora_A).T
            self.merged = not mode
        return self

    def forward(self, ids):
        result = super().forward(ids)
        if not self.merged:
            result += functional.embedding(ids, self.lora_A.T) @ self.lora_B.T
        return result


class Merging(TinyCNN):
    """With LoRA in its last layer, its table, or folded by the model's own eval()."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.folded = kind, False
        if kind == "linear":
            self.out = LoRALinear(5, 3)
        if kind == "embedding":
            self.embedding = LoRAEmbedding(30, 6)
        if kind == "whole model":
            self.gain = nn.Parameter(torch.full((3, 1), 1.5))

    def eval(self):
        if self.kind == "whole model" and not self.folded:
            self.out.weight.data.mul_(self.gain.data)
            self.folded = True
        return super().eval()

    def train(self, mode=True):
        if mode and self.folded:
            self.out.weight.data.div_(self.gain.data)
            self.folded = False
        return super().train(mode)

    def forward(self, ids):
        if self.kind == "whole model" and not self.folded:
            return super().forward(ids) * self.gain.squeeze(1) + (1 - self.gain.squeeze(1)) * self.out.bias
        return super().forward(ids)


def merging(kind):
    def make():
        torch.manual_seed(0)
        return Merging(kind)

    return make


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("loader", [load_checkpoint, load], ids=["default", "own"])
@pytest.mark.parametrize("kind", ["linear", "embedding", "whole model"])
def test_weights_that_eval_merges_are_merged_once_and_given_back(kind, loader, mode, tmp_path):
    make = merging(kind)
    paths = checkpoints(make, tmp_path)
    model = getattr(make(), mode)()
    before = everything(model)
    tracin = explained(model, paths, TRAIN, checkpoints_load_func=loader)
    found = tracin.influence(TEST)
    assert everything(model) == before
    assert_near(found, scores_one_by_one(make, paths, lambda m: m.embedding, TRAIN, TEST))
    assert torch.equal(tracin.influence(TEST), found)


def test_checkpoints_of_the_adapter_alone_go_into_weights_that_are_not_merged(tmp_path):
    make = merging("linear")
    paths = checkpoints(make, tmp_path)
    for path in paths:
        content = torch.load(path, weights_only=True)
        state = {key: value for key, value in content["model_state_dict"].items() if "lora_" in key}
        torch.save({**content, "model_state_dict": state}, path)
    model = make().eval()
    before = everything(model)
    found = explained(model, paths, TRAIN, checkpoints_load_func=load).influence(TEST)
    assert everything(model) == before
    assert_near(found, scores_one_by_one(make, paths, lambda m: m.embedding, TRAIN, TEST))


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_an_adapter_that_peft_has_merged_is_taken_out_first(dora, tmp_path):
    peft = pytest.importorskip("peft")

    def make():
        torch.manual_seed(0)
        config = peft.LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False, use_dora=dora)
        return peft.get_peft_model(tiny_bert(), config)

    paths = checkpoints(make, tmp_path)
    train, test = as_mapping(TRAIN), as_mapping(TEST)
    expected = scores_one_by_one(make, paths, lambda m: m.base_model.model.bert.embeddings.word_embeddings, train, test)
    model = make()
    model.merge_adapter()
    before = everything(model)
    assert_near(explained(model, paths, train).influence(test), expected, 1e-4)
    assert everything(model) == before


def test_what_peft_keeps_of_dora_in_eval_mode_is_of_the_checkpoint(tmp_path):
    peft = pytest.importorskip("peft")
    helpers = pytest.importorskip("peft.helpers")

    def make():
        torch.manual_seed(0)
        config = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False, use_dora=True)
        return peft.get_peft_model(tiny_bert(), config)

    paths = checkpoints(make, tmp_path)
    train, test = as_mapping(TRAIN), as_mapping(TEST)
    expected = scores_one_by_one(make, paths, lambda m: m.base_model.model.bert.embeddings.word_embeddings, train, test)
    model = make().eval()
    with helpers.DoraCaching():
        model(**test)
        assert_near(explained(model, paths, train).influence(test), expected)


# ------------------------------------------------------------------------------------------------ weights made of others


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


PARAMETRISED = {
    "weight norm": lambda m: parametrizations.weight_norm(m.embedding),
    "spectral norm": lambda m: parametrizations.spectral_norm(m.embedding),
    "own": lambda m: parametrize.register_parametrization(m.embedding, "weight", Twice()),
    "orthogonal": lambda m: parametrizations.orthogonal(m.embedding),
    "weight norm by hooks": lambda m: nn.utils.weight_norm(m.embedding),
    "spectral norm by hooks": lambda m: nn.utils.spectral_norm(m.embedding),
    "by hooks, elsewhere": lambda m: nn.utils.weight_norm(m.conv),
}


@pytest.mark.parametrize("kind", PARAMETRISED)
def test_a_table_that_is_made_of_other_weights_is_the_table(kind, tmp_path):
    def make():
        torch.manual_seed(0)
        model = TinyCNN()
        PARAMETRISED[kind](model)
        return model

    paths = checkpoints(make, tmp_path)
    model = make()
    model(TEST[0])
    before = everything(model)
    expected = scores_one_by_one(make, paths, lambda m: m.embedding, TRAIN, TEST)
    tracin = explained(model, paths, TRAIN)
    assert_near(tracin.influence(TEST), expected)
    assert everything(model) == before
    assert len(explained(model, paths, TRAIN, preconditioner="idf").influence(TEST)) == 3


def test_parametrised_weights_that_the_caller_keeps_are_not_those_of_the_checkpoint(tmp_path):
    def make():
        torch.manual_seed(0)
        model = TinyCNN()
        parametrizations.weight_norm(model.embedding)
        parametrizations.weight_norm(model.out)
        return model

    paths = checkpoints(make, tmp_path)
    expected = scores_one_by_one(make, paths, lambda m: m.embedding, TRAIN, TEST)
    model = make().eval()
    with parametrize.cached():
        own = model(TEST[0])
        assert_near(explained(model, paths, TRAIN).influence(TEST), expected)
        assert torch.equal(model(TEST[0]), own)


def test_of_two_parametrised_embeddings_none_is_chosen():
    model = nn.ModuleDict({"words": nn.Embedding(5, 2), "places": nn.Embedding(7, 2)})
    for module in model.values():
        parametrize.register_parametrization(module, "weight", Twice())
    with pytest.raises(ValueError, match=r"several embeddings.*'words' \(5 x 2\), 'places' \(7 x 2\)"):
        explained(model, ["x"], TRAIN)


class Derived(TinyCNN):
    """Makes a table of its table on the way, and looks words up in that."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.rows = nn.Parameter(torch.randn(2, 6))
        self.seen = nn.Identity()

    def forward(self, ids):
        table = self.way(self, self.embedding.weight)
        hidden = functional.embedding(ids, table)
        return self.out(torch.tanh(self.conv(hidden.transpose(1, 2))).amax(2))


WAYS = {
    "rows of unit length": lambda m, table: functional.normalize(table, dim=1),
    "some rows replaced": lambda m, table: table.index_copy(0, torch.tensor([3, 5]), m.rows),
    "embedding dropout": lambda m, table: table * functional.dropout(torch.ones(30, 1), 0.5, m.training).expand(30, 6),
    "two steps": lambda m, table: torch.tanh(table) * 2,
}


@pytest.mark.parametrize("way", WAYS)
def test_words_looked_up_in_what_was_made_of_the_table_count(way, tmp_path):
    def make():
        torch.manual_seed(0)
        return Derived(WAYS[way])

    paths = checkpoints(make, tmp_path)

    class Module(nn.Module):
        """The same look-up by a module, where the loop's hook can be."""

        def forward(self, ids, table):
            return functional.embedding(ids, table)

    def hooked():
        model, looked = make(), Module()
        model.looked = looked

        def forward(ids):
            hidden = looked(ids, model.way(model, model.embedding.weight))
            return model.out(torch.tanh(model.conv(hidden.transpose(1, 2))).amax(2))

        model.forward = forward
        return model

    expected = scores_one_by_one(hooked, paths, lambda m: m.looked, TRAIN, TEST)
    assert_near(explained(make(), paths, TRAIN).influence(TEST), expected)


def test_new_tokens_that_peft_trains_are_looked_up_in_the_table(tmp_path):
    peft = pytest.importorskip("peft")

    def make():
        torch.manual_seed(0)
        config = peft.LoraConfig(r=2, target_modules=["query"], trainable_token_indices={"word_embeddings": [3, 5]})
        return peft.get_peft_model(tiny_bert(), config)

    paths = checkpoints(make, tmp_path)
    train, test = as_mapping(TRAIN), as_mapping(TEST)
    wrapper = "base_model.model.bert.embeddings.word_embeddings"
    expected = scores_one_by_one(make, paths, lambda m: m.get_submodule(wrapper), train, test)
    assert_near(explained(make(), paths, train).influence(test), expected)


# ------------------------------------------------------------------------------------------------- seen by others, too


class Viewing(TinyCNN):
    def __init__(self, way):
        super().__init__()
        if way == "an attribute":
            self.first = self.out.weight.detach()[:2]
        elif way == "in a list":
            self.views = [self.out.weight.detach().t()]
        else:
            self.register_buffer("first", self.out.weight.detach()[:2], persistent=False)

    def forward(self, ids):
        logits = super().forward(ids)
        first = self.first if hasattr(self, "first") else self.views[0].t()[:2]
        return logits + torch.tanh(self.conv(self.embedding(ids).transpose(1, 2))).mean(2) @ first[[0, 1, 0]].T


@pytest.mark.parametrize("way", ["an attribute", "in a list", "a buffer"])
def test_what_looks_at_a_weight_sees_that_of_the_checkpoint(way, tmp_path):
    def make():
        torch.manual_seed(0)
        return Viewing(way)

    paths = checkpoints(make, tmp_path)
    model = make()
    before = everything(model)
    found = explained(model, paths, TRAIN).influence(TEST)
    assert_near(found, scores_one_by_one(make, paths, lambda m: m.embedding, TRAIN, TEST))
    assert everything(model) == before
    with torch.no_grad():
        model.out.weight.fill_(2)
    assert (model.views[0] if way == "in a list" else model.first).eq(2).all()


class Recurrent(nn.Module):
    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.words, self.layer, self.out = nn.Embedding(30, 4), kind(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, ids):
        return self.out(self.layer(self.words(ids))[0][:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_answers_as_before_when_a_loader_put_other_parameters_in(kind, tmp_path):
    def make():
        torch.manual_seed(0)
        return Recurrent(kind)

    def assign(model, path):
        content = torch.load(path, weights_only=True)
        model.load_state_dict(content["model_state_dict"], assign=True)
        return content["learning_rate"]

    paths = checkpoints(make, tmp_path)
    model = make().eval()
    before, own = everything(model), model(TEST[0])
    found = explained(model, paths, TRAIN, checkpoints_load_func=assign).influence(TEST)
    assert_near(found, scores_one_by_one(make, paths, lambda m: m.words, TRAIN, TEST))
    assert torch.equal(model(TEST[0]), own)
    assert everything(model) == before


# ------------------------------------------------------------------------------------------------------- brought in later


def offloads():
    accelerate = pytest.importorskip("accelerate")

    def some(model, folder):
        parts = {"bert.embeddings": "cpu", "bert.encoder": "disk", "bert.pooler": "cpu", "classifier": "disk"}
        return accelerate.dispatch_model(model, parts | {"dropout": "cpu"}, "cpu", offload_dir=folder)

    return {
        "cpu_offload": lambda model, folder: accelerate.cpu_offload(model, "cpu"),
        "disk_offload": lambda model, folder: accelerate.disk_offload(model, folder, "cpu"),
        "dispatch_model": some,
    }


@pytest.mark.parametrize("loader", [load_checkpoint, load], ids=["default", "own"])
@pytest.mark.parametrize("way", ["cpu_offload", "disk_offload", "dispatch_model"])
@pytest.mark.filterwarnings("ignore:for .*meta:UserWarning")
def test_weights_that_accelerate_brings_in_at_each_pass_are_refused(way, loader, tmp_path):
    paths = checkpoints(tiny_bert, tmp_path)
    train, test = as_mapping(TRAIN), as_mapping(TEST)
    model = tiny_bert()
    offloads()[way](model, str(tmp_path / "offloaded"))
    own = model(**test).logits
    tracin = explained(model, paths, train, checkpoints_load_func=loader)
    with pytest.raises(ValueError, match=r"is on the meta device, .*accelerate.*remove_hook_from_submodules\(model\)"):
        tracin.influence(test)
    assert torch.equal(model(**test).logits, own)
    if way != "dispatch_model":
        from accelerate.hooks import remove_hook_from_submodules

        remove_hook_from_submodules(model)
        expected = scores_one_by_one(tiny_bert, paths, lambda m: m.bert.embeddings.word_embeddings, train, test)
        assert_near(explained(model, paths, train).influence(test), expected)


# ---------------------------------------------------------------------------------------------- divided by the model itself


class Dividing(TinyCNN):
    """Divides its own weights at the first pass in eval mode, as RWKV does for half precision."""

    def __init__(self):
        super().__init__()
        self.divided = False

    def forward(self, ids):
        if not self.training and not self.divided:
            with torch.no_grad():
                self.out.weight.div_(2)
            self.divided = True
        return super().forward(ids) * (2 if self.divided else 1)


@pytest.mark.parametrize("loader", [load_checkpoint, load], ids=["default", "own"])
def test_a_model_that_divides_its_weights_at_a_pass_does_so_at_each_checkpoint(loader, tmp_path):
    def make():
        torch.manual_seed(0)
        return Dividing()

    paths = checkpoints(make, tmp_path)
    model = make()
    before = everything(model)
    found = explained(model, paths, TRAIN, checkpoints_load_func=loader).influence(TEST)
    assert_near(found, scores_one_by_one(make, paths, lambda m: m.embedding, TRAIN, TEST))
    assert everything(model) == before


@pytest.mark.parametrize("used", [False, True], ids=["new", "after a pass in eval mode"])
@pytest.mark.parametrize("loader", [load_checkpoint, load], ids=["default", "own"])
def test_rwkv_is_divided_once_at_each_checkpoint(loader, used, tmp_path):
    transformers = pytest.importorskip("transformers")

    def make():
        torch.manual_seed(0)
        config = transformers.RwkvConfig(
            vocab_size=30,
            hidden_size=8,
            num_hidden_layers=3,
            attention_hidden_size=8,
            context_length=16,
            rescale_every=1,
        )
        return transformers.RwkvForCausalLM(config)

    def loss(logits, labels):
        return LOSS(logits[:, -1, :3], labels)

    train, test = ({"input_ids": ids, "labels": labels} for ids, labels in (TRAIN, TEST))
    plain = [{"input_ids": b["input_ids"], "labels": b["labels"]} for b in (train, test)]

    class NoLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make()

        def forward(self, input_ids, labels=None):
            return self.inner(input_ids=input_ids, use_cache=False).logits

    paths = checkpoints(NoLoss, tmp_path)
    model = NoLoss()
    if used:
        model.eval()
        model(test["input_ids"])
        assert model.inner.rwkv.layers_are_rescaled
    before = everything(model)
    options = {"layers": ["inner.rwkv.embeddings"], "checkpoints_load_func": loader}
    found = explained(model, paths, plain[0], loss, **options).influence(plain[1])
    expected = scores_one_by_one(NoLoss, paths, lambda m: m.inner.rwkv.embeddings, plain[0], plain[1], loss)
    assert_near(found, expected, 1e-4)
    assert everything(model) == before


# -------------------------------------------------------------------------------------------------------- what models keep


class Keeping(TinyCNN):
    """Counts, keeps and grows in each pass."""

    def __init__(self):
        super().__init__()
        self.passes, self.seen, self.sizes, self.last = 0, [], {}, None
        self.total = torch.zeros(2)
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, ids):
        self.passes += 1
        self.seen.append(len(ids))
        self.sizes[len(ids)] = self.sizes.get(len(ids), 0) + 1
        self.last = ids
        self.total.add_(1)
        self.total.data.mul_(1.5)
        self.mean.add_(1)
        if not hasattr(self, "grown"):
            self.grown = nn.Identity()
            self.register_buffer("late", torch.ones(1), persistent=False)
        return super().forward(ids)


def test_what_a_model_writes_down_in_its_passes_is_given_back(tmp_path):
    torch.manual_seed(0)
    model = Keeping()
    paths = checkpoints(lambda: copy.deepcopy(model), tmp_path)
    before = everything(model)
    tracin = explained(model, paths, TRAIN)
    for call in (lambda: tracin.influence(TEST), tracin.self_influence, lambda: tracin.word_influence(TEST, [[0]] * 3)):
        call()
        assert everything(model) == before


def test_hooks_that_a_pass_leaves_behind_are_taken_away(tmp_path):
    model = tiny_gpt2()
    ids = TRAIN[0]
    batch = {"input_ids": ids, "labels": ids}
    paths = checkpoints(tiny_gpt2, tmp_path)

    def loader(model, path):
        model.transformer.wte.register_forward_hook(lambda module, args, output: output * 2)
        return load_checkpoint(model, path)

    from captum_tracinwe.losses import TokenLoss

    before = everything(model)
    explained(model, paths, batch, TokenLoss(), checkpoints_load_func=loader).self_influence()
    assert everything(model) == before
