"""Kind U: what the caller has switched on in torch, checkpointed activations, classifiers without a padding token."""

import contextlib
import threading

import pytest
import torch
from one_by_one import LOSS, OneByOne, as_mapping, assert_near, checkpoints, explained, scores_one_by_one, texts
from torch import nn
from torch.utils import checkpoint as checkpointing
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from captum_tracinwe.app.testing import TinyCNN
from captum_tracinwe.words.synonyms import synonym_scores

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*not been tuned:UserWarning")
TRAIN, TEST = texts(7, 1), texts(3, 2)


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SWITCHES = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast, half": lambda: torch.autocast("cpu", torch.float16),
    "autocast, no cache": lambda: torch.autocast("cpu", torch.bfloat16, cache_enabled=False),
    "a default device": lambda: torch.device("meta"),
    "flop counter": lambda: FlopCounterMode(display=False),
}


def make():
    torch.manual_seed(0)
    return TinyCNN()


ASKS = {
    "influence": lambda tracin, folder: tracin.influence(TEST),
    "self_influence": lambda tracin, folder: tracin.self_influence(),
    "cooccurrence": lambda tracin, folder: explained_again(tracin, preconditioner="cooccurrence").influence(TEST),
    "exact": lambda tracin, folder: explained_again(tracin, preconditioner="exact").influence(TEST),
    "auto": lambda tracin, folder: explained_again(tracin, preconditioner="auto").influence(TEST),
    "synonyms": lambda tracin, folder: synonym_scores(tracin, TEST, min_cosine=0.1),
    "index": lambda tracin, folder: indexed(tracin, folder).influence(TEST),
    "a projected index": lambda tracin, folder: indexed(tracin, folder, project=4).influence(TEST),
    "found in an index": lambda tracin, folder: indexed(tracin, folder).influence(TEST, k=3).influence_scores,
}
OF_AN_INDEX = ("index", "a projected index", "found in an index")


def explained_again(tracin, **options):
    return explained(tracin.model, tracin.checkpoints, TRAIN, **options)


def indexed(tracin, folder, **options):
    index = tracin.build_index(folder / "index", rank=3, **options)
    return explained_again(tracin, index=index)


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("switch", SWITCHES)
def test_numbers_are_those_without_the_switch(switch, ask, tmp_path):
    compare(SWITCHES[switch], ask, tmp_path)


@pytest.mark.parametrize("ask", OF_AN_INDEX)
def test_an_index_is_the_same_whatever_the_default_dtype(ask, tmp_path):
    compare(lambda: default_dtype(torch.float64), ask, tmp_path)


def compare(switch, ask, tmp_path):
    tracin = explained(make(), checkpoints(make, tmp_path), TRAIN)
    (tmp_path / "plain").mkdir()
    expected = ASKS[ask](tracin, tmp_path / "plain")
    with switch():
        found = ASKS[ask](tracin, tmp_path)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)
    if ask == "influence":
        assert_near(found, scores_one_by_one(make, tracin.checkpoints, lambda m: m.embedding, TRAIN, TEST))


@pytest.mark.parametrize("transform", ["vmap", "grad", "jvp"])
def test_functions_that_torch_transforms_may_ask(transform, tmp_path):
    tracin = explained(make(), checkpoints(make, tmp_path), TRAIN)
    expected, found = tracin.influence(TEST), []

    def function(x):
        found.append(tracin.influence(TEST))
        return (x * x).sum()

    x = torch.ones(2)
    answer = {
        "vmap": lambda: torch.func.vmap(function)(x[:, None]),
        "grad": lambda: torch.func.grad(function)(x),
        "jvp": lambda: torch.func.jvp(function, (x,), (x,))[1],
    }[transform]()
    assert torch.equal(found[0], expected)
    assert answer.flatten()[0] == {"vmap": 1, "grad": 2, "jvp": 4}[transform]


def test_a_gradient_that_is_no_number_is_named_in_anomaly_mode(tmp_path):
    def loss(prediction, labels):
        given = zip(prediction, labels, strict=True)
        return torch.stack([(one * 0).sum().sqrt() if label == 2 else LOSS(one, label) for one, label in given])

    tracin = explained(make(), checkpoints(make, tmp_path), TRAIN, loss)
    first = int((TRAIN[1] == 2).nonzero()[0])
    with (
        torch.autograd.set_detect_anomaly(True),
        pytest.raises(ValueError, match=rf"gradient of training example {first} is NaN"),
    ):
        tracin.self_influence()


class OnDefault(nn.Module):
    """Makes a state where torch makes tensors now: what the caller has chosen holds for what is the caller's."""

    def __init__(self):
        super().__init__()
        self.words, self.cell, self.out = nn.Embedding(30, 4), nn.GRUCell(4, 5), nn.Linear(5, 3)
        self.where = []

    def forward(self, ids):
        self.where.append(torch.get_default_device().type)
        state = torch.zeros(len(ids), 5, device="cpu")
        for word in self.words(ids).unbind(1):
            state = self.cell(word, state)
        return self.out(state)


def test_the_models_own_tensors_are_on_the_callers_default_device(tmp_path):
    seen = []

    class Noting(OnDefault):
        def forward(self, ids):
            seen.append(torch.get_default_device().type)
            return super().forward(ids)

    paths = checkpoints(Noting, tmp_path)
    tracin = explained(Noting(), paths, TRAIN)
    with torch.device("meta"):
        tracin.influence(TEST)
    assert set(seen) == {"meta"}
    assert torch.get_default_device().type == "cpu"


@pytest.mark.parametrize("kind", [TinyCNN, OnDefault])
def test_weights_that_were_made_in_inference_mode_are_explained(kind, tmp_path):
    def new():
        torch.manual_seed(0)
        return kind()

    paths = checkpoints(new, tmp_path)
    expected = explained(new(), paths, TRAIN).influence(TEST)
    with torch.inference_mode():
        model = new()
    before = dict(model.named_parameters())
    assert torch.equal(explained(model, paths, TRAIN).influence(TEST), expected)
    after = dict(model.named_parameters())
    assert all(after[name] is one and one.is_inference() for name, one in before.items())


# ------------------------------------------------------------------------------------------------ activations made anew


class Recomputing(TinyCNN):
    """Parts of it run again in the backward pass."""

    def __init__(self, part, reentrant):
        super().__init__()
        self.part, self.reentrant = part, reentrant

    def again(self, function, *args):
        return checkpoint(function, *args, use_reentrant=self.reentrant)

    def sequence(self, layers, hidden):
        return checkpoint_sequential(layers, 2, hidden, use_reentrant=self.reentrant)

    def encode(self, hidden):
        return torch.tanh(self.conv(hidden.transpose(1, 2))).amax(2)

    def read(self, ids):
        hidden = self.embedding(ids)
        return torch.tanh(hidden) * hidden

    def forward(self, ids):
        if self.part == "the embedding":
            return self.out(self.encode(self.again(self.read, ids)))
        if self.part == "the encoder":
            return self.out(self.again(self.encode, self.read(ids)))
        if self.part == "all of it":
            return self.again(lambda ids: self.out(self.encode(self.read(ids))), ids)
        if self.part == "one within the other":
            return self.again(lambda ids: self.out(self.encode(self.again(self.read, ids))), ids)
        if self.part == "one after the other":
            layers = nn.Sequential(nn.Tanh(), nn.Sigmoid(), nn.Tanh())
            return self.out(self.encode(self.sequence(layers, self.read(ids))))
        if self.part == "written into":

            def scaled(ids):
                hidden = self.embedding(ids)
                hidden *= 2
                return torch.tanh(hidden) * hidden

            return self.out(self.encode(self.again(scaled, ids)))
        raise NotImplementedError


class Straight(Recomputing):
    """The same without."""

    def again(self, function, *args):
        return function(*args)

    def sequence(self, layers, hidden):
        return layers(hidden)


PARTS = ["the embedding", "the encoder", "all of it", "one within the other", "one after the other", "written into"]


@pytest.mark.parametrize(
    ("part", "reentrant"),
    [
        (part, kind)
        for part in PARTS
        for kind in (True, False)
        if kind or part not in ("the encoder", "one after the other")
    ],
)
def test_parts_that_run_again_in_the_backward_pass_are_explained(part, reentrant, tmp_path):
    def new(kind=Recomputing):
        torch.manual_seed(0)
        return kind(part, reentrant)

    paths = checkpoints(new, tmp_path)
    ways = checkpointing.CheckpointFunction.apply, checkpointing._checkpoint_without_reentrant_generator
    expected = scores_one_by_one(lambda: new(Straight), paths, lambda m: m.embedding, TRAIN, TEST)
    assert_near(explained(new(), paths, TRAIN).influence(TEST), expected)
    assert ways == (checkpointing.CheckpointFunction.apply, checkpointing._checkpoint_without_reentrant_generator)


def test_other_threads_have_their_checkpointing_as_ever(tmp_path):
    new = lambda: Recomputing("the embedding", True)  # noqa: E731
    paths = checkpoints(new, tmp_path)
    weight, inside, done, found = torch.ones(3, requires_grad=True), threading.Event(), threading.Event(), []

    def train():
        inside.wait(60)
        out = checkpoint(lambda w: w * w, weight, use_reentrant=True)
        found.append(type(out.grad_fn).__name__)
        out.sum().backward()
        done.set()

    def loss(prediction, labels):
        return LOSS(prediction, labels)

    class Waiting(Recomputing):
        def forward(self, ids):
            if not done.is_set():
                inside.set()
                assert done.wait(60)
            return super().forward(ids)

    other = threading.Thread(target=train)
    other.start()
    explained(Waiting("the embedding", True), paths, TRAIN, loss).self_influence()
    other.join()
    assert found == ["CheckpointFunctionBackward"]
    assert weight.grad.tolist() == [2, 2, 2]


# --------------------------------------------------------------------------------------------------- no padding token


def classifiers():
    import transformers

    sizes = {"vocab_size": 30, "num_labels": 3, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": None}
    llama = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return {
        "gpt2": lambda: transformers.GPT2ForSequenceClassification(
            transformers.GPT2Config(n_embd=8, n_layer=2, n_head=2, n_positions=16, **sizes)
        ),
        "llama": lambda: transformers.LlamaForSequenceClassification(
            transformers.LlamaConfig(num_key_value_heads=2, **llama, **sizes)
        ),
        "gpt-neox": lambda: transformers.GPTNeoXForSequenceClassification(transformers.GPTNeoXConfig(**llama, **sizes)),
    }


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt-neox"])
def test_a_classifier_without_a_padding_token_takes_one_text_at_a_time(name, tmp_path):
    def new():
        torch.manual_seed(0)
        return classifiers()[name]()

    train, test = as_mapping(TRAIN), as_mapping(TEST)
    paths = checkpoints(new, tmp_path)
    with pytest.raises(ValueError, match=r"has no padding token, .*model\.config\.pad_token_id.*batch_size=1"):
        explained(new(), paths, train, probe=False).influence(test)
    expected = scores_one_by_one(new, paths, lambda m: m.get_input_embeddings(), train, test)
    found = explained(new(), paths, train, batch_size=1, probe=False).influence(DataLoader(OneByOne(test), 1))
    assert_near(found, expected)
    with pytest.warns(UserWarning, match="each text is taken alone"):
        assert_near(explained(new(), paths, train).influence(test), expected)
