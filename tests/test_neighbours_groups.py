"""Groups of training texts: sums of scores, unlearning by a loop of its own, what is refused, the evidence at its smallest."""

import copy
import gzip
import itertools
import json
from pathlib import Path

import pytest
import torch
from captum_tracinwe.evaluation import bootstrap
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_tracinwe import TracInWE, save_checkpoint
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, tiny_bert, tiny_gpt2, toy_texts, toy_tracin
from captum_tracinwe.neighbours import GroupInfluence, group_influence, unlearn, unlearn_inverse

FOLDER = Path(__file__).parents[1] / "benchmarks" / "evidence"
DATA = Path(__file__).parents[2] / "shared" / "data"
LOSS = nn.CrossEntropyLoss(reduction="none")
GROUPS = {"first": [0, 1, 2], "odd": [1, 3, 5], "one": [7]}


def toy(folder, size=12, **options):
    """A CNN with two checkpoints, its training texts and three questions."""
    ids, _, labels = toy_texts(size + 3)
    model = TinyCNN()
    scatter_checkpoints(model, folder, [0.1, 0.3])
    train, test = (ids[:size], labels[:size]), (ids[size:], labels[size:])
    data = options.pop("data", None) or TensorDataset(*train)
    return TracInWE(model, data, str(folder), loss_fn=LOSS, batch_size=5, **options), model, train, test


def sums_by_loop(tracin, model, train, test, groups):
    """One text at a time, dense gradients of the word table."""
    model, total = copy.deepcopy(model), 0

    def gradient(ids, labels, place):
        loss = LOSS(model(ids[place : place + 1]), labels[place : place + 1])
        return torch.autograd.grad(loss.sum(), model.embedding.weight)[0].double().flatten()

    for path in tracin.checkpoints:
        held = torch.load(path, weights_only=True)
        model.load_state_dict(held["model_state_dict"])
        model.eval()
        asked = torch.stack([gradient(*test, place) for place in range(len(test[0]))])
        of_groups = torch.stack([sum(gradient(*train, place) for place in members) for members in groups.values()])
        total = total + held["learning_rate"] * asked @ of_groups.T
    return total


# ------------------------------------------------------------------------------------------------------ summed scores


def test_the_sums_are_those_of_a_loop_over_single_texts(tmp_path):
    tracin, model, train, test = toy(tmp_path)
    found = group_influence(tracin, test, GROUPS)
    assert found.names == ("first", "odd", "one")
    assert found.sizes == (3, 3, 1)
    torch.testing.assert_close(found.scores, sums_by_loop(tracin, model, train, test, GROUPS), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.total, found.scores[0] + found.scores[1] + found.scores[2])
    torch.testing.assert_close(found.per_text, found.total / torch.tensor([3.0, 3.0, 1.0]).double())


@pytest.mark.parametrize("options", [{"preconditioner": "auto"}, {"normalize": "words"}, {"normalize": "gradient"}])
def test_whatever_the_score_live_and_from_an_index_it_is_summed(tmp_path, options):
    tracin, model, train, test = toy(tmp_path / "steps", **options)
    wanted = tracin.influence(test).double()
    index = tracin.build_index(tmp_path / "index", segment_examples=5)
    stored = TracInWE(model, None, tracin.checkpoints, loss_fn=LOSS, index=index, **options)
    for one in (tracin, stored):
        found = group_influence(one, test, GROUPS)
        for place, members in enumerate(GROUPS.values()):
            torch.testing.assert_close(found.scores[:, place], wanted[:, members].sum(1), rtol=1e-4, atol=1e-7)


def test_a_small_memory_limit_and_an_order_of_the_loader_change_nothing(tmp_path):
    tracin, model, train, test = toy(tmp_path)
    wanted = group_influence(tracin, test, GROUPS).scores
    small = TracInWE(model, TensorDataset(*train), str(tmp_path), loss_fn=LOSS, batch_size=5, memory_limit=1)
    torch.testing.assert_close(group_influence(small, test, GROUPS).scores, wanted)
    backwards = DataLoader(TensorDataset(*train), 4, sampler=list(range(11, -1, -1)))
    other = TracInWE(model, backwards, str(tmp_path), loss_fn=LOSS)
    torch.testing.assert_close(group_influence(other, test, GROUPS).scores, wanted)


def test_labels_make_groups_and_none_is_in_no_group(tmp_path):
    tracin, _, _, test = toy(tmp_path)
    labels = ["a", "b", None, "a", None, "b", "b", "a", "c", "c", "a", "a"]
    found = group_influence(tracin, test, labels)
    assert found.names == ("a", "b", "c")
    assert found.sizes == (5, 3, 2)
    same = {name: [i for i, one in enumerate(labels) if one == name] for name in "abc"}
    torch.testing.assert_close(found.scores, group_influence(tracin, test, same).scores)
    numbers = group_influence(tracin, test, torch.arange(12) % 2)
    assert numbers.names == ("0", "1")
    assert numbers.sizes == (6, 6)
    missing = group_influence(tracin, test, [float("nan") if one is None else one for one in labels])
    torch.testing.assert_close(missing.scores, found.scores)
    everything = tracin.influence(test).double().sum(1)
    torch.testing.assert_close(numbers.scores.sum(1), everything, rtol=1e-4, atol=1e-7)


def test_texts_that_an_index_lost_are_in_no_group_of_labels_and_are_told_where_they_are_named(tmp_path):
    tracin, model, _, test = toy(tmp_path / "steps")
    index = tracin.build_index(tmp_path / "index")
    index.delete([1, 7])
    stored = TracInWE(model, None, tracin.checkpoints, loss_fn=LOSS, index=str(tmp_path / "index"))
    wanted = tracin.influence(test).double()
    found = group_influence(stored, test, ["x", "x"] + ["y"] * 10)
    assert found.sizes == (1, 9)
    torch.testing.assert_close(found.scores[:, 0], wanted[:, 0], rtol=1e-4, atol=1e-7)
    with pytest.raises(ValueError, match=r"group 'first' names training example 1, which is not in the index any more"):
        group_influence(stored, test, GROUPS)
    with pytest.raises(ValueError, match="no text of the group 'x' any more"):
        group_influence(stored, test, ["y", "x"] + ["y"] * 10)


def test_a_stream_is_counted_as_it_comes(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __init__(self, batch):
            self.batch = batch

        def __iter__(self):
            return iter(zip(*self.batch, strict=True))

    plain, model, train, test = toy(tmp_path)
    tracin = TracInWE(model, DataLoader(Stream(train), 5), str(tmp_path), loss_fn=LOSS)
    torch.testing.assert_close(
        group_influence(tracin, test, GROUPS).scores, group_influence(plain, test, GROUPS).scores
    )
    with pytest.raises(ValueError, match="names training example 12, and the training set has 12 examples"):
        group_influence(tracin, test, {"far": [3, 12]})
    with pytest.raises(ValueError, match="`groups` has 3 labels, and there are 12 training examples"):
        group_influence(tracin, test, ["a", "a", "b"])
    with pytest.raises(ValueError, match="unlearn: this `train_dataset` is a stream"):
        unlearn(tracin, test, GROUPS)


@pytest.mark.parametrize("ask", [group_influence, unlearn, unlearn_inverse])
@pytest.mark.parametrize(
    ("groups", "kind", "match"),
    [
        ({}, ValueError, "`groups` is empty"),
        ([None] * 12, ValueError, "all 12 labels in `groups` are None"),
        ({"a": []}, ValueError, "the group 'a' is empty"),
        ({"a": [0, 12]}, ValueError, "the group 'a' names training example 12: expected 0 to 11"),
        ({"a": [-1]}, ValueError, "names training example -1"),
        ({"a": [3, 1, 3]}, ValueError, "has training example 3 twice"),
        ({"a": [1.5]}, TypeError, "holds 1.5: expected whole numbers"),
        ({"a": torch.ones(12, dtype=torch.bool)}, TypeError, r"of a mask pass mask.nonzero\(\).flatten\(\)"),
        ({"a": "012"}, TypeError, "the group 'a' is a str"),
        ({"a": 3}, TypeError, "the group 'a' is a int"),
        ({1: [0], "1": [2]}, ValueError, "two of `groups` are called '1'"),
        ("abc", TypeError, "`groups` is a str"),
        (7, TypeError, "`groups` is a int"),
        (["a"] * 11, ValueError, "`groups` has 11 labels, and there are 12 training examples"),
        ([[0, 1]] * 12, TypeError, "`groups` has .* for training example 0"),
        (list(range(12)), ValueError, "a label of its own"),
    ],
)
def test_groups_that_make_no_sense_are_refused_by_all(tmp_path, ask, groups, kind, match):
    tracin, _, _, test = toy(tmp_path)
    with pytest.raises(kind, match=match):
        ask(tracin, test, groups)
    with pytest.raises(TypeError, match="[Ee]xpected a TracInWE first, got Tensor"):
        ask(test[0], test, GROUPS)


def test_a_result_shows_itself_sorted_and_sends_nothing_to_a_terminal():
    found = GroupInfluence(("bad\x1b[2J", "good", "none"), (3, 1, 2), torch.tensor([[-1.0, 2.0, 0.0]]).double())
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines] == ["group", "good", "none", "bad"]
    assert "\x1b" not in str(found)
    assert [row["per_text"] for row in found.rows()] == [2.0, 0.0, pytest.approx(-1 / 3)]
    assert list(found.to_table().columns) == ["group", "texts", "influence", "per_text"]
    many = GroupInfluence(tuple(map(str, range(14))), (1,) * 14, torch.arange(14.0).double()[None])
    assert "... 4 more" in str(many)
    assert repr(found) == "GroupInfluence(<3 groups>, method='TracIn', questions=1)"


# --------------------------------------------------------------------------------------------------------- unlearning


def climbed(model, batches, rate):
    """Adam written out (arXiv 1412.6980), upwards: the weights after a step for each batch."""
    model = copy.deepcopy(model).eval()
    weights = [weight.requires_grad_() for weight in model.parameters()]
    first, second = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    for number, (ids, labels) in enumerate(batches, 1):
        gradients = torch.autograd.grad(LOSS(model(ids), labels).mean(), weights)
        with torch.no_grad():
            for place, gradient in enumerate(gradients):
                first[place] = 0.9 * first[place] + 0.1 * gradient
                second[place] = 0.999 * second[place] + 0.001 * gradient**2
                along = first[place] / (1 - 0.9**number)
                weights[place] += rate * along / ((second[place] / (1 - 0.999**number)).sqrt() + 1e-8)
    return model


def losses(model, batch):
    with torch.no_grad():
        return LOSS(model.eval()(batch[0]), batch[1]).double()


def last(tracin, model):
    at_end = copy.deepcopy(model)
    at_end.load_state_dict(torch.load(tracin.checkpoints[-1], weights_only=True)["model_state_dict"])
    return at_end


@pytest.mark.parametrize(("batch_size", "epochs"), [(1, 1), (2, 3)])
def test_unlearning_is_adam_upwards_from_the_last_checkpoint(tmp_path, batch_size, epochs):
    tracin, model, train, test = toy(tmp_path)
    options = {"learning_rate": 0.01, "batch_size": batch_size, "epochs": epochs, "seed": 3}
    found = unlearn(tracin, test, GROUPS, **options)
    before = losses(last(tracin, model), test)
    for group, members in enumerate(GROUPS.values()):
        generator = torch.Generator().manual_seed(3)
        order = [torch.tensor(members)[torch.randperm(len(members), generator=generator)] for _ in range(epochs)]
        batches = [(train[0][part], train[1][part]) for epoch in order for part in epoch.split(batch_size)]
        wanted = losses(climbed(last(tracin, model), batches, 0.01), test) - before
        torch.testing.assert_close(found.scores[:, group], wanted, rtol=1e-3, atol=1e-5)
    assert found.method == "UnTrac"
    assert float(found.scores.abs().max()) > 0.01


def test_unlearning_the_questions_is_one_run_for_all_groups(tmp_path):
    tracin, model, train, test = toy(tmp_path)
    found = unlearn_inverse(tracin, test, GROUPS, learning_rate=0.01, steps=3)
    start = last(tracin, model)
    risen = losses(climbed(start, [test] * 3, 0.01), train) - losses(start, train)
    wanted = torch.stack([risen[members].sum() for members in GROUPS.values()])
    torch.testing.assert_close(found.scores, wanted[None], rtol=1e-3, atol=1e-5)
    assert found.method == "UnTrac-Inv"


def test_a_small_step_up_a_text_moves_a_question_as_the_whole_gradient_says(tmp_path):
    """The first step of Adam is the sign of the gradient: to first order the loss rises by rate · ⟨sign g, g'⟩."""
    tracin, model, train, test = toy(tmp_path)
    found = unlearn(tracin, test, {"one": [7]}, learning_rate=1e-5)
    at = last(tracin, model).eval().double()
    weights = list(at.parameters())

    def gradient(ids, labels):
        parts = torch.autograd.grad(LOSS(at(ids), labels).sum(), weights)
        return torch.cat([part.flatten() for part in parts])

    up = gradient(train[0][7:8], train[1][7:8]).sign()
    wanted = torch.stack([1e-5 * up @ gradient(test[0][i : i + 1], test[1][i : i + 1]) for i in range(3)])
    torch.testing.assert_close(found.scores[:, 0], wanted, rtol=0.02, atol=2e-7)


class Failing(nn.Module):
    """A loss that gives up after some calls."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def forward(self, prediction, labels):
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return LOSS(prediction, labels)


@pytest.mark.parametrize("ask", [unlearn, unlearn_inverse])
@pytest.mark.parametrize("calls", [1, 4, 7, 1000])
def test_the_model_is_left_as_it_was_found_also_after_an_exception(tmp_path, ask, calls):
    tracin, model, *_, test = toy(tmp_path)
    model.train()
    model.embedding.weight.requires_grad_(False)
    model.conv.weight.grad = None
    before = copy.deepcopy(model.state_dict())
    homes = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    tracin.loss_fn = tracin.test_loss_fn = Failing(calls)
    options = {"learning_rate": 0.1} | ({"steps": 4} if ask is unlearn_inverse else {})
    if calls < 1000:
        with pytest.raises(KeyboardInterrupt):
            ask(tracin, test, GROUPS, **options)
    else:
        ask(tracin, test, GROUPS, **options)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert homes == {name: weight.data_ptr() for name, weight in model.named_parameters()}
    assert model.training
    assert [weight.requires_grad for weight in model.parameters()] == [False] + [True] * 4
    assert all(weight.grad is None for weight in model.parameters())


def test_weights_that_no_checkpoint_holds_are_given_back_too(tmp_path):
    """Of an adapter's checkpoint the base model's weights stay the user's own, and the optimiser writes into them."""
    peft = pytest.importorskip("peft")
    task = peft.TaskType.SEQ_CLS
    model = peft.get_peft_model(tiny_bert(), peft.LoraConfig(task_type=task, r=2, target_modules=["query"]))
    model.save_pretrained(tmp_path / "checkpoint-1")
    model.requires_grad_(True)
    ids = torch.randint(1, 30, (6, 7))
    data = [{"input_ids": one, "labels": place % 3} for place, one in enumerate(ids)]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tracin = TracInWE(model, data, [str(tmp_path / "checkpoint-1")], loss_fn=LOSS, batch_size=2)
    with pytest.warns(UserWarning, match="no learning rate"):
        found = unlearn(tracin, data[:2], {"a": [2, 3]}, learning_rate=0.1)
    assert float(found.scores.abs().max()) > 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_frozen_weights_stay_and_all_frozen_is_refused(tmp_path):
    tracin, model, train, test = toy(tmp_path)
    wanted = unlearn(tracin, test, GROUPS, learning_rate=0.01).scores
    model.embedding.weight.requires_grad_(False)
    assert not torch.allclose(unlearn(tracin, test, GROUPS, learning_rate=0.01).scores, wanted, rtol=1e-2)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"all weights of the TinyCNN are frozen .* model.requires_grad_\(\)"):
        unlearn(tracin, test, GROUPS)


def test_a_sparse_embedding_unlearns_as_a_dense_one(tmp_path):
    tracin, model, _, test = toy(tmp_path)
    wanted = unlearn(tracin, test, GROUPS, learning_rate=0.01).scores
    model.embedding.sparse = True
    torch.testing.assert_close(unlearn(tracin, test, GROUPS, learning_rate=0.01).scores, wanted)
    assert model.embedding.sparse


def test_order_by_length_and_samplers_name_the_same_texts(tmp_path):
    tracin, model, train, test = toy(tmp_path)
    wanted = unlearn(tracin, test, GROUPS, learning_rate=0.01).scores
    inverse = unlearn_inverse(tracin, test, GROUPS, learning_rate=0.01, steps=2).scores
    backwards = DataLoader(TensorDataset(*train), 4, sampler=list(range(11, -1, -1)))
    other = TracInWE(model, backwards, str(tmp_path), loss_fn=LOSS)
    torch.testing.assert_close(unlearn(other, test, GROUPS, learning_rate=0.01).scores, wanted)
    torch.testing.assert_close(unlearn_inverse(other, test, GROUPS, learning_rate=0.01, steps=2).scores, inverse)


def test_a_language_model_with_its_own_loss_is_asked_text_by_text(tmp_path):
    model = tiny_gpt2()
    ids = torch.randint(2, 30, (6, 7))
    data = [{"input_ids": one, "labels": one} for one in ids]
    save_checkpoint(tmp_path / "step-1.pt", model, 0.1)
    tracin = TracInWE(model, data, str(tmp_path), batch_size=1)
    batch = {"input_ids": ids[:2], "labels": ids[:2]}
    found = unlearn(tracin, [data[0], data[1]], {"a": [2, 3], "b": [4]}, learning_rate=0.01)
    together = unlearn(tracin, batch, {"a": [2, 3], "b": [4]}, learning_rate=0.01)
    torch.testing.assert_close(found.scores, together.scores, rtol=1e-4, atol=1e-6)
    assert float(found.scores.abs().min()) > 0


@pytest.mark.parametrize(
    ("ask", "options", "match"),
    [
        (unlearn, {"learning_rate": 0}, "expected `learning_rate` as a finite number above 0, got 0"),
        (unlearn, {"learning_rate": float("nan")}, "got nan"),
        (unlearn, {"epochs": 0}, "expected `epochs` as a whole number of at least 1, got 0"),
        (unlearn, {"batch_size": 1.5}, "expected `batch_size`"),
        (unlearn, {"seed": -1}, "expected `seed`"),
        (unlearn_inverse, {"steps": 0}, "expected `steps`"),
        (unlearn_inverse, {"learning_rate": "high"}, "got 'high'"),
        (unlearn, {"learning_rate": 3e38, "epochs": 3}, "after unlearning the group 'first' is NaN or infinite"),
        (unlearn_inverse, {"learning_rate": 3e38}, "is NaN or infinite: expected finite numbers. Unlearn less"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, ask, options, match):
    tracin, _, _, test = toy(tmp_path)
    with pytest.raises(ValueError, match=match):
        ask(tracin, test, GROUPS, **options)


def test_an_index_alone_sums_and_does_not_unlearn(tmp_path):
    tracin, model, _, test = toy(tmp_path / "steps")
    tracin.build_index(tmp_path / "index")
    alone = TracInWE(model, None, tracin.checkpoints, loss_fn=LOSS, index=str(tmp_path / "index"))
    with pytest.raises(ValueError, match="train_dataset is None"):
        unlearn(alone, test, GROUPS)
    with pytest.raises(ValueError, match="train_dataset is None"):
        unlearn_inverse(alone, test, GROUPS)


def test_the_example_of_the_package_works():
    tracin, inputs = toy_tracin()
    assert len(group_influence(tracin, inputs, {"a": range(3), "b": torch.tensor([4, 2])})) == 2


# ------------------------------------------------------------------------------------------------------------ evidence


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "ag_news").is_dir() or not FOLDER.is_dir(), reason="the data sets are not here")
def test_the_evidence_runs_and_becomes_a_table(script, tmp_path, monkeypatch):
    monkeypatch.setitem(bootstrap.__kwdefaults__, "draws", 200)
    folder = tmp_path / "data"
    for name in ("ag_news/train_20k", "ag_news/test_2k", "jigsaw_toxicity/train_10k", "jigsaw_toxicity/test_2k"):
        path = folder / f"{name}.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(DATA / f"{name}.jsonl.gz", "rt") as whole, gzip.open(path, "wt") as part:
            part.writelines(itertools.islice(whole, 800))
    common = ["--preset", "smoke", "--seeds", "1", "--workers", "1", "--data", str(folder), "--out", str(tmp_path)]
    script("groups").main(common)
    content = json.loads((tmp_path / "groups-cnn-smoke.json").read_text())
    assert "/" not in json.dumps(content)
    table = script("groups").table(content)
    assert "place of the poison" in table
    assert "nan" not in table


@pytest.mark.parametrize("call", [unlearn, unlearn_inverse])
@pytest.mark.parametrize("fails", [False, True])
def test_gradients_between_backward_and_step_are_the_users(call, fails):
    tracin, inputs = toy_tracin()
    model = tracin.live.weights.model
    given = [torch.full_like(weight, 0.5) for weight in model.parameters()]
    for weight, gradient in zip(model.parameters(), given, strict=True):
        weight.grad = gradient
    if fails:
        with pytest.raises(ValueError, match="after unlearning"):
            call(tracin, inputs, {"a": [0, 1]}, learning_rate=1e38)
    else:
        call(tracin, inputs, {"a": [0, 1]})
    assert all(weight.grad is gradient for weight, gradient in zip(model.parameters(), given, strict=True))
    assert all(bool((gradient == 0.5).all()) for gradient in given)


@pytest.mark.parametrize("call", [group_influence, unlearn, unlearn_inverse])
def test_no_questions_are_refused(call):
    tracin, _ = toy_tracin()
    with pytest.raises(TypeError, match="`inputs` is None: expected test examples"):
        call(tracin, None, {"a": [0, 1]})
    with pytest.raises(ValueError, match="`inputs` is empty: expected at least one test example"):
        call(tracin, torch.utils.data.DataLoader([]), {"a": [0, 1]})


def test_a_missing_value_of_pandas_is_in_no_group():
    pandas = pytest.importorskip("pandas")
    tracin, inputs = toy_tracin()
    size = len(tracin.influence(inputs)[0])
    labels = ["a", "b", None] * (size // 3) + ["a"] * (size % 3)
    plain = group_influence(tracin, inputs, labels)
    for kind in ("string", "object"):
        assert torch.equal(group_influence(tracin, inputs, pandas.Series(labels, dtype=kind)).scores, plain.scores)


def test_texts_deleted_from_an_index_are_not_unlearned(tmp_path):
    tracin, model, train, test = toy(tmp_path / "steps")
    tracin.build_index(tmp_path / "index").delete([1, 7])
    stored = TracInWE(
        model, TensorDataset(*train), tracin.checkpoints, loss_fn=LOSS, batch_size=5, index=str(tmp_path / "index")
    )
    labels = ["x"] * 4 + ["y"] * 8
    left = {"x": [0, 2, 3], "y": [4, 5, 6, 8, 9, 10, 11]}
    for ask, options in ((unlearn, {"epochs": 2}), (unlearn_inverse, {"steps": 3})):
        found = ask(stored, test, labels, learning_rate=0.01, **options)
        wanted = ask(tracin, test, left, learning_rate=0.01, **options)
        assert found.sizes == wanted.sizes == (3, 7)
        torch.testing.assert_close(found.scores, wanted.scores)
        with pytest.raises(
            ValueError, match="group 'first' names training example 1, which is not in the index any more"
        ):
            ask(stored, test, GROUPS)
        with pytest.raises(ValueError, match="no text of the group 'x' any more"):
            ask(stored, test, ["y", "x"] + ["y"] * 10)


class NaNFor(nn.Module):
    """A loss that is NaN for the examples of one label."""

    reduction = "none"

    def __init__(self, label):
        super().__init__()
        self.label = label

    def forward(self, logits, labels):
        return LOSS(logits, labels).masked_fill(labels == self.label, float("nan"))


@pytest.mark.parametrize("ask", [unlearn, unlearn_inverse])
def test_a_loss_that_is_lost_from_the_start_is_not_blamed_on_unlearning(tmp_path, ask):
    tracin, model, train, test = toy(tmp_path)
    train[1][:], test[1][:] = 0, 0
    train[1][5], test[1][2] = 1, 2
    message = "is nan at the last checkpoint, before anything is unlearned: expected a finite number"
    for label, what in ((1, "training example 5"), (2, "test example 2")):
        lost = TracInWE(model, TensorDataset(*train), tracin.checkpoints, loss_fn=NaNFor(label), batch_size=5)
        with pytest.raises(ValueError, match=f"the loss of {what} {message}"):
            ask(lost, test, {"odd": [1, 3, 5]})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"seed": 2**64}, r"expected `seed` as a whole number of at least 0 and below 2\*\*63"),
        ({"learning_rate": torch.ones(2)}, "expected `learning_rate` as a finite number above 0"),
        ({"learning_rate": 10**400}, "expected `learning_rate` as a finite number above 0"),
    ],
)
def test_numbers_that_no_training_takes_are_refused(tmp_path, options, match):
    tracin, _, _, test = toy(tmp_path)
    with pytest.raises(ValueError, match=match):
        unlearn(tracin, test, GROUPS, **options)


def test_a_batch_larger_than_its_group_is_the_group(tmp_path):
    tracin, _, _, test = toy(tmp_path)
    found = [unlearn(tracin, test, GROUPS, batch_size=size).scores for size in (3, 10**30)]
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("groups", "match"),
    [
        (torch.zeros(12).to_sparse(), r"`groups` is a Tensor of torch.float32, torch.sparse_coo: expected a mapping"),
        (torch.zeros(12) + 1j, r"`groups` is a Tensor of torch.complex64, torch.strided"),
        (
            {"a": torch.tensor([0, 1]).to_sparse()},
            r"group 'a' is a Tensor of torch.int64, torch.sparse_coo: expected a list",
        ),
        ({"a": [10**30]}, "group 'a' names training example 10+: expected 0 to 11"),
    ],
)
def test_groups_of_tensors_that_cannot_be_read_and_huge_indices_are_refused(tmp_path, groups, match):
    tracin, _, _, test = toy(tmp_path)
    with pytest.raises((TypeError, ValueError), match=match):
        group_influence(tracin, test, groups)
