"""What steers a model beside its weights: attributes, kinds of layers, buffers, hooks; and what does not."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cases import CASES
from test_models import MODELS, batch_of, made
from torch import nn

from captum_tracinwe import IndexMismatch, TracInWE
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, toy_texts
from captum_tracinwe.index.files.differences import _other_settings
from captum_tracinwe.index.identity.settings import Settings

LOSS = nn.CrossEntropyLoss(reduction="none")
FACTOR = 2.0
GATHERED = []


def twice(hidden):
    return 2 * hidden


def thrice(hidden):
    return 3 * hidden


class Model(nn.Module):
    """A classifier with settings of every kind, and with what changes by use."""

    def __init__(self):
        super().__init__()
        self.words, self.mix, self.out = nn.Embedding(30, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 3)
        self.heads = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm, self.drop = nn.LayerNorm(4), nn.Dropout(0.1)
        self.scale, self.flag, self.mode, self.steps = 1.0, True, "mean", [1, (2, None)]
        self.shift = torch.ones(4)
        self.act = twice
        self.where, self._private, self.dropout = "cuda:0", 0, 0.1
        self.calls, self.seen, self.last, self.sizes = 0, [], None, {}
        self.total = torch.zeros(1)
        self.register_buffer("table", torch.arange(4.0), persistent=False)
        self.register_buffer("kept", torch.zeros(1))
        self.register_buffer("count", torch.zeros(1), persistent=False)

    def forward(self, ids):
        self.calls += 1
        self.seen.append(len(ids))
        self.total.add_(1)
        self.count.add_(1)
        self.sizes[len(ids)] = 1
        self._keep(ids)
        if not self.flag or self.mode != "mean" or self.steps[0] != 1:
            raise NotImplementedError
        hidden = self.norm(self.drop(self.mix(self.words(ids)))) * self.scale + self.shift + self.table
        return self.out(self.act(self.heads(hidden, hidden, hidden)[0]).mean(1))

    def _keep(self, ids):
        self.last = ids.float()
        self.register_buffer("cache", torch.zeros(ids.shape), persistent=False)


@dataclass
class Options:
    t: float
    names: tuple = ("a",)


CONTAINERS = {
    "dict": lambda t: {"t": t, "deep": {"x": [1, None]}},
    "list of dicts": lambda t: [{"t": t}],
    "set": lambda t: {t, "a"},
    "namespace": lambda t: SimpleNamespace(t=t),
    "dataclass": lambda t: Options(t),
    "tensors": lambda t: {"t": torch.tensor([t])},
    "list of tensors": lambda t: [torch.tensor([t])],
    "dict of what has fields": lambda t: {"t": SimpleNamespace(o=Options(t))},
}


class Held(nn.Module):
    """Reads a container, and changes others by use, in each way there is."""

    def __init__(self, value):
        super().__init__()
        self.words, self.held = nn.Embedding(5, 2), value
        self.a, self.b, self.c, self.d, self.e, self.f, self.g = {}, {"n": 0}, [0], set(), {}, {}, {"x": []}
        self.space, self.inner = SimpleNamespace(last=0, calls=0), {"x": {}}

    def forward(self, ids):
        self.a[len(ids)] = 1
        self.b["n"] += 1
        self.c[0] = self.c[0] + 1
        self.d.add(len(self.d))
        seen = self.e
        seen[len(seen)] = 1
        self.f.update({len(self.f): 1})
        self.g["x"].append(1)
        self.inner["x"][len(self.inner["x"])] = 2
        self.space.last = len(ids)
        self.space.calls += 1
        return self.words(ids) * str(self.held).count("1")


class Child(Model):
    def forward(self, ids):
        return super().forward(ids)


def settings_of(model):
    found = Settings()
    found.add(model)
    return str(found)


def differing(one, two):
    one, two = (dict(part.split("=") for part in settings.split()) for settings in (one, two))
    return [kind for kind in ("attributes", "buffers", "hooks") if one[kind] != two[kind]]


def hook_by(factor):
    def hook(module, inputs, output):
        return output * factor

    return hook


def in_place(module, inputs, output):
    return output + FACTOR


class Steering:
    def __init__(self, by):
        self.by, self.calls, self.all = by, 0, []

    def __call__(self, module, inputs, output):
        self.calls += 1
        self.all.append(output)
        return output * self.by


def set_to(name, value):
    def change(model):
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, value)

    return change


CHANGES = [
    ("scale", set_to("scale", 2.0), "attributes"),
    ("flag", set_to("flag", False), "attributes"),
    ("mode", set_to("mode", "max"), "attributes"),
    ("steps", set_to("steps", [1, (2, 3)]), "attributes"),
    ("shift", set_to("shift", torch.zeros(4)), "attributes"),
    ("activation", set_to("act", thrice), "attributes"),
    ("torch's activation", set_to("act", torch.relu), "attributes"),
    ("eps", set_to("norm.eps", 1e-3), "attributes"),
    ("heads", set_to("heads.num_heads", 1), "attributes"),
    ("kind of layer", lambda model: model.mix.__setitem__(1, nn.ReLU()), "attributes"),
    ("forward", lambda model: setattr(model.mix, "forward", lambda hidden: hidden), "attributes"),
    ("buffer", lambda model: model.table.add_(1), "buffers"),
    ("forward hook", lambda model: model.mix.register_forward_hook(hook_by(2)), "hooks"),
    ("pre-hook", lambda model: model.mix.register_forward_pre_hook(lambda module, args: None), "hooks"),
    ("backward hook", lambda model: model.mix.register_full_backward_hook(lambda module, a, b: None), "hooks"),
]
SAME = [
    ("a dropout's rate", set_to("drop.p", 0.7)),
    ("a rate of dropout", set_to("dropout", 0.7)),
    ("training", lambda model: model.train()),
    ("a layer of the same kind", lambda model: model.mix.__setitem__(1, nn.Tanh())),
    ("a device", set_to("where", "cpu")),
    ("a private name", set_to("_private", 7)),
    ("an object", lambda model: setattr(model, "thing", object())),
    ("a list that nothing reads", lambda model: setattr(model, "history", [0.1])),
    ("what nothing reads", lambda model: [setattr(model, name, "run2") for name in ("name", "log_dir", "epoch")]),
    ("a dict of objects", lambda model: setattr(model, "notes", {"a": object()})),
    ("a forward pass", lambda model: model(torch.ones(2, 3, dtype=torch.long))),
]


@pytest.mark.parametrize(("change", "kind"), [(c, k) for _, c, k in CHANGES], ids=[name for name, _, _ in CHANGES])
def test_what_steers_the_computation_counts(change, kind):
    model = Model()
    before = settings_of(model)
    assert before == settings_of(Model())
    with torch.no_grad():
        change(model)
    assert differing(before, settings_of(model)) == [kind]


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_of_plain_values_count_by_value_unless_a_pass_changes_them(name):
    make = CONTAINERS[name]
    model = Held(make(1.0))
    before = settings_of(model)
    for _ in range(2):
        model(torch.ones(2, 3, dtype=torch.long))
    assert settings_of(model) == before == settings_of(Held(make(1.0)))
    assert differing(before, settings_of(Held(make(2.0)))) == ["attributes"]


def test_whole_numbers_in_buffers_of_transformers_count_and_floats_do_not():
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(vocab_size=9, hidden_size=4, num_attention_heads=1, num_hidden_layers=1))
    model.register_buffer("frequencies", torch.ones(2), persistent=False)
    before = settings_of(model)
    model.frequencies += 1e-7
    assert settings_of(model) == before
    model.embeddings.position_ids[0, 0] = 1
    assert differing(before, settings_of(model)) == ["buffers"]


@pytest.mark.parametrize("make", [Model, Child])
@pytest.mark.parametrize("change", [change for _, change in SAME], ids=[name for name, _ in SAME])
def test_what_does_not_steer_it_or_changes_by_use_does_not_count(change, make):
    model = make()
    before = settings_of(model)
    change(model)
    assert settings_of(model) == before


def test_hooks_count_by_what_they_do():
    def of(*hooks):
        model = Model()
        for hook in hooks:
            model.mix.register_forward_hook(hook)
        found = settings_of(model)
        model(torch.ones(2, 3, dtype=torch.long))
        assert settings_of(model) == found
        return found

    def gather(module, inputs, output):
        GATHERED.append(output)

    def capture(into):
        return lambda module, inputs, output: into.append(output)

    for same in (lambda: hook_by(2), lambda: Steering(2), lambda: gather, lambda: capture([]), lambda: in_place):
        assert of(same()) == of(same()) != of()
    assert of(hook_by(2)) != of(hook_by(3))
    assert of(hook_by(torch.ones(4))) != of(hook_by(torch.zeros(4)))
    assert of(Steering(2)) != of(Steering(3))
    assert of(hook_by(2), in_place) != of(in_place, hook_by(2))


def test_hooks_of_libraries_do_not_count():
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(vocab_size=9, hidden_size=4, num_attention_heads=1, num_hidden_layers=1))
    before = settings_of(model)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    assert settings_of(model) == before


READING = """
from torch import nn
import operator
NAMES = ("read", "other")
def apply(module, x): return x * module.read
def training_loop(model): model.read = model.other
class Options:
    def of(self, module): return module.read
OPTIONS = {{"a": [Options()]}}
class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.read, self.note = nn.Embedding(5, 2), 1.0, ""
    def helper(self, x, name="read"):
        return x
class Model(Base):
    def forward(self, ids):
        return {}
"""
FROM_READING = [
    ("self.words(ids) * self.read", True, False),
    ("self.words(ids) * getattr(self, 'read')", True, False),
    ("self.words(ids) * (lambda: self.read)()", True, False),
    ("[self.words(ids) * self.read for _ in ids][0]", True, False),
    ("apply(self, self.words(ids))", True, False),
    ("self.words(ids) * operator.itemgetter('read')(vars(self))", True, True),
    ("OPTIONS['a'][0].of(self)", True, False),
    ("self.words(ids) * getattr(self, NAMES[0])", True, True),
    ("self.words(ids) * getattr(self, ids, 'read')", True, True),
    ("self.words(ids) * self.__dict__['read']", True, True),
    ("self.helper(self.words(ids))", False, False),
    ("self.words(ids) * len(getattr(self, 'rea' 'd_'))", False, False),
]


@pytest.mark.parametrize(("code", "read", "note"), FROM_READING, ids=[code for code, *_ in FROM_READING])
def test_an_attribute_counts_if_code_that_a_pass_could_reach_could_read_it(code, read, note):
    space = {"__name__": "a_users_module"}
    exec(READING.format(code), space)
    model = space["Model"]()
    before = settings_of(model)
    model.note = "another"
    assert (settings_of(model) != before) is note
    before = settings_of(model)
    model.read = 2.0
    assert (settings_of(model) != before) is read


def test_what_the_loss_a_hook_or_a_librarys_forward_reads_counts():
    class Norm(nn.LayerNorm):
        pass

    def counts(name, model, *beside):
        found = []
        for value in (1.0, 2.0):
            setattr(model, name, value)
            settings = Settings(*beside)
            settings.add(model)
            found.append(str(settings))
        return found[0] != found[1]

    model = TinyCNN()
    assert not counts("heat", model)
    assert counts("heat", model, lambda out, labels: LOSS(out / model.heat, labels))
    assert not counts("warmth", model)
    model.register_forward_hook(lambda module, inputs, output: output * module.warmth)
    assert counts("warmth", model)
    assert counts("eps", Norm(2))
    assert not counts("epsilon", Norm(2))


ZOO = """
import sys, warnings
import torch
warnings.simplefilter("ignore")
sys.path.insert(0, {folder!r})
from test_index_settings import zoo
print(zoo())
"""


def zoo():
    """The settings of all models of these tests; none is changed by a pass."""
    found = {}
    for name, make in CASES.items():
        torch.manual_seed(0)
        case = make()
        case.model.eval()
        found[name] = settings_of(case.model)
        [run() for run in case.losses(case.train)]
        assert settings_of(case.model) == found[name], name
    for name in MODELS:
        model, kind = made(name)
        found[name] = settings_of(model)
        model.train()
        model(**batch_of(3, 1, kind))
        assert settings_of(model) == found[name], name
    found["own"] = settings_of(Model())
    return found


@pytest.mark.filterwarnings("ignore")
def test_settings_are_the_same_after_a_pass_and_in_another_process():
    code = ZOO.format(folder=str(Path(__file__).parent))
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip().splitlines()[-1] == str(zoo())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            set_to("scale", 2.0),
            "its attributes or kinds of layers here are not those there: model.scale is another[.;]",
        ),
        (set_to("norm.eps", 2.0), "attributes .* there: model.norm.eps is another[.;]"),
        (lambda model: delattr(model, "shift"), "attributes .* there: model.shift is only here[.;]"),
        (lambda model: model.mix.__setitem__(1, nn.ReLU()), "there: the kind of model.mix.1 is another[.;]"),
        (
            lambda model: model.table.add_(1),
            "its buffers that no checkpoint holds here .* there: model.table is another[.;]",
        ),
        (
            lambda model: model.mix.register_forward_hook(hook_by(2)),
            "its hooks here .*model.mix._forward_hooks is only there",
        ),
    ],
)
def test_an_index_of_other_settings_is_refused_by_name(change, message, tmp_path):
    (ids, _, labels), model = toy_texts(6), Model()
    checkpoints = scatter_checkpoints(model, tmp_path)

    def tracin(model, **options):
        data = torch.utils.data.TensorDataset(ids, labels)
        return TracInWE(model, data, checkpoints, loss_fn=LOSS, batch_size=3, **options)

    tracin(model).build_index(tmp_path / "i", rank=3)
    tracin(model, index=tmp_path / "i").influence((ids, labels))
    tracin(Model(), index=tmp_path / "i")
    changed = Model()
    change(changed)
    for use in (
        lambda: tracin(changed, index=tmp_path / "i"),
        lambda: tracin(changed).build_index(tmp_path / "i", resume=True, rank=3),
    ):
        with pytest.raises(IndexMismatch, match=message):
            use()


def test_a_large_model_names_modules_or_nothing_and_a_foreign_index_only_text():
    def of(layers, eps):
        return settings_of(nn.Sequential(*(nn.LayerNorm(2, eps=eps) for _ in range(layers))))

    def said(here, there):
        return [one.partition("there")[2] for one in _other_settings(here, there)]

    assert said(of(2, 1.0), of(2, 2.0)) == [": model.0.eps is another, model.1.eps is another"]
    assert said(of(100, 1.0), of(100, 2.0)) == [
        ": model.0 is another, model.1 is another, model.2 is another, and 97 more"
    ]
    assert said(of(400, 1.0), of(400, 2.0)) == said(of(2, 1.0), of(100, 2.0)) == [""]
    assert len(of(400, 1.0)) < 200
    foreign = (
        of(1, 1.0).replace("attributes=", "attributes=0") + " attributes:%1b[2J:x=1 attributes::=2 buffers:a:b:c=1 ="
    )
    assert "\x1b" not in "".join(said(foreign, of(1, 1.0)))


class Reading(TinyCNN):
    scale = 1.0

    def forward(self, *inputs):
        self.read = super().forward(*inputs) * self.scale
        return self.read

    def values(self):
        return self.sparse_one, self.empty, self.ring, self.conjugate, self.small


@pytest.mark.filterwarnings("ignore")
def test_no_kind_of_model_or_value_is_too_odd():
    def odd():
        model = nn.Sequential(Reading(), torch.jit.script(TinyCNN()), torch.fx.symbolic_trace(TinyCNN()))
        nn.utils.parametrizations.weight_norm(model[0].out)
        model[0].register_buffer("nowhere", torch.ones(3, device="meta"), persistent=False)
        model[0].sparse_one, model[0].empty, model[0].ring = torch.eye(3).to_sparse(), torch.zeros(0), []
        model[0].ring.append(model[0].ring)
        model[0].conjugate = torch.ones(2, dtype=torch.complex64).conj()
        model[0].small = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
        return model

    one, two = odd(), odd()
    assert settings_of(one) == settings_of(two)
    two[0].sparse_one = torch.zeros(3, 3).to_sparse()
    assert differing(settings_of(one), settings_of(two)) == ["attributes"]


def test_settings_that_come_with_a_checkpoint_count(tmp_path):
    (ids, _, labels), model = toy_texts(6), Reading()
    data = torch.utils.data.TensorDataset(ids, labels)

    def tracin(scale, **options):
        def load(model, checkpoint):
            model.scale = scale if checkpoint else 1.0
            return 0.1

        return TracInWE(model, data, [0, 1], load, loss_fn=LOSS, batch_size=3, **options)

    tracin(2.0).build_index(tmp_path / "i", rank=3)
    tracin(2.0, index=tmp_path / "i")
    with pytest.raises(IndexMismatch, match="attributes"):
        tracin(3.0, index=tmp_path / "i")
