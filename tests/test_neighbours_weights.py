"""Weights of examples: the step and its projection by brute force, what is refused, the evidence at its smallest."""

import gzip
import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, toy_texts, toy_tracin
from captum_tracinwe.neighbours import example_weights

FOLDER = Path(__file__).parents[1] / "benchmarks" / "evidence"
DATA = Path(__file__).parents[2] / "shared" / "data"
LOSS = nn.CrossEntropyLoss(reduction="none")


def toy(folder, size=12, **options):
    ids, _, labels = toy_texts(size + 3)
    model = TinyCNN()
    scatter_checkpoints(model, folder, [0.1, 0.3])
    tracin = TracInWE(
        model, TensorDataset(ids[:size], labels[:size]), str(folder), loss_fn=LOSS, batch_size=5, **options
    )
    return tracin, model, (ids[size:], labels[size:])


def nearest_by_search(wanted):
    """max(wanted − t, 0) of mean 1, t by bisection: the sum falls as t rises."""
    low, high = float(wanted.min()) - 2, float(wanted.max())
    for _ in range(200):
        middle = (low + high) / 2
        if float((wanted - middle).clamp_min(0).mean()) > 1:
            low = middle
        else:
            high = middle
    return (wanted - low).clamp_min(0)


@pytest.mark.parametrize("step", [0.0, 0.2, 1.0, 30.0])
@pytest.mark.parametrize("options", [{}, {"preconditioner": "auto"}])
def test_weights_are_a_projected_step_along_the_summed_influence(tmp_path, step, options):
    tracin, _, trusted = toy(tmp_path, **options)
    influence = tracin.influence(trusted).double().sum(0)
    found = example_weights(tracin, trusted, step=step)
    wanted = nearest_by_search(1 + step * influence / influence.square().mean().sqrt())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert bool((found >= 0).all())
    assert float(found.mean()) == pytest.approx(1)
    assert found.dtype == torch.float64


def test_no_feasible_weights_are_nearer(tmp_path):
    tracin, _, trusted = toy(tmp_path)
    influence = tracin.influence(trusted).double().sum(0)
    wanted = 1 + 2 * influence / influence.square().mean().sqrt()
    distance = float((example_weights(tracin, trusted, step=2.0) - wanted).norm())
    others = torch.distributions.Dirichlet(torch.full((12,), 0.4, dtype=torch.float64)).sample((5000,)) * 12
    assert bool(((others - wanted).norm(dim=1) >= distance).all())


def test_a_small_step_lowers_the_trusted_loss_as_foretold(tmp_path):
    """One step of training on the weighted texts, table alone: the trusted loss falls by more than with equal weights."""
    ids, _, labels = toy_texts(15)
    model = TinyCNN()
    scatter_checkpoints(model, tmp_path, [1e-3])
    tracin = TracInWE(model, TensorDataset(ids[:12], labels[:12]), str(tmp_path), loss_fn=LOSS)
    trusted = ids[12:], labels[12:]
    weights = example_weights(tracin, trusted)
    model.load_state_dict(torch.load(tracin.checkpoints[0], weights_only=True)["model_state_dict"])
    model.eval()

    def fall(given):
        (gradient,) = torch.autograd.grad((given * LOSS(model(ids[:12]), labels[:12])).sum(), model.embedding.weight)
        with torch.no_grad():
            before = LOSS(model(trusted[0]), trusted[1]).sum()
            model.embedding.weight -= 1e-3 * gradient
            after = LOSS(model(trusted[0]), trusted[1]).sum()
            model.embedding.weight += 1e-3 * gradient
        return float(before - after)

    assert fall(weights.float()) > fall(torch.ones(12))
    influence = tracin.influence(trusted).double().sum(0)
    foretold = float(((weights - 1) * influence).sum())
    assert fall(weights.float()) - fall(torch.ones(12)) == pytest.approx(foretold, rel=0.05)


def test_rounds_start_where_the_last_one_ended(tmp_path):
    tracin, _, trusted = toy(tmp_path)
    first = example_weights(tracin, trusted, step=0.3)
    second = example_weights(tracin, trusted, step=0.3, start=first)
    once = example_weights(tracin, trusted, step=0.6)
    if bool((second > 0).all()):  # nothing was cut off: two half steps are a whole one
        torch.testing.assert_close(second, once)
    assert float((second - 1).norm()) > float((first - 1).norm())


def test_an_index_gives_the_same_and_no_weight_to_what_it_lost(tmp_path):
    tracin, model, trusted = toy(tmp_path / "steps")
    wanted = example_weights(tracin, trusted)
    index = tracin.build_index(tmp_path / "index")
    stored = TracInWE(model, None, tracin.checkpoints, loss_fn=LOSS, index=index)
    torch.testing.assert_close(example_weights(stored, trusted), wanted, rtol=1e-4, atol=1e-5)
    index.delete([2, 5])
    left = TracInWE(model, None, tracin.checkpoints, loss_fn=LOSS, index=str(tmp_path / "index"))
    found = example_weights(left, trusted)
    assert found[[2, 5]].tolist() == [0, 0]
    assert float(found.sum()) == pytest.approx(10)


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"step": -1}, ValueError, "expected `step` as a finite number of at least 0, got -1"),
        ({"step": float("inf")}, ValueError, "got inf"),
        ({"step": "far"}, ValueError, "got 'far'"),
        ({"start": [1.0] * 12}, TypeError, "expected `start` as a torch.Tensor, got list"),
        ({"start": torch.ones(11)}, ValueError, r"expected one weight for each of 12 training examples, \(12,\)"),
        ({"start": torch.full((12,), 2.0)}, ValueError, "has the mean 2 .*Divide them by their mean"),
        ({"start": torch.tensor([-1.0, 3.0] + [1.0] * 10)}, ValueError, "the least -1"),
        ({"start": torch.full((12,), float("nan"))}, ValueError, "has the mean nan"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, options, kind, match):
    tracin, _, trusted = toy(tmp_path)
    with pytest.raises(kind, match=match):
        example_weights(tracin, trusted, **options)


def test_trusted_texts_without_influence_are_refused(tmp_path):
    tracin, _, trusted = toy(tmp_path)
    tracin.checkpoints_load_func = lambda model, path: 0.0
    with (
        pytest.warns(UserWarning, match="learning rate is 0"),
        pytest.raises(ValueError, match="none of the 12 training examples"),
    ):
        example_weights(tracin, trusted)
    with pytest.raises(TypeError, match="[Ee]xpected a TracInWE first, got str"):
        example_weights("tracin", trusted)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:What judges labels")  # of so few texts nobody tells the labels
@pytest.mark.skipif(not (DATA / "ag_news").is_dir() or not FOLDER.is_dir(), reason="the data sets are not here")
def test_the_evidence_runs_and_becomes_a_table(script, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    for name in ("ag_news/train_20k", "ag_news/test_2k", "ag_news_noisy/train"):
        path = folder / f"{name}.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(DATA / f"{name}.jsonl.gz", "rt") as whole, gzip.open(path, "wt") as part:
            part.writelines(itertools.islice(whole, 800))
    module = script("weights")
    monkeypatch.setattr(module, "DRAWS", 100)
    common = ["--preset", "smoke", "--seeds", "1", "--workers", "1", "--data", str(folder), "--out", str(tmp_path)]
    module.main(common)
    content = json.loads((tmp_path / "weights-cnn-smoke.json").read_text())
    assert "/" not in json.dumps(content)
    table = module.table(content)
    assert "| suspects removed |" in table
    assert "nan" not in table


def test_trusted_texts_are_asked_for():
    tracin, _ = toy_tracin()
    with pytest.raises(TypeError, match="`trusted` is None: expected test examples whose labels are right"):
        example_weights(tracin, None)
    with pytest.raises(ValueError, match="example_weights: `trusted` is empty: expected at least one test example"):
        example_weights(tracin, [])


def test_a_huge_step_gives_all_weight_to_the_best(tmp_path):
    tracin, _, trusted = toy(tmp_path)
    best = int(tracin.influence(trusted).sum(0).argmax())
    for step in (1e9, 1e18, 1e300):
        weights = example_weights(tracin, trusted, step=step)
        assert weights[best] == len(weights)
        assert int((weights > 0).sum()) == 1
    for step in (1.7e308, 10**400, torch.ones(2), torch.tensor(1j)):
        with pytest.raises(ValueError, match="`step`"):
            example_weights(tracin, trusted, step=step)


def test_influence_of_any_size_gives_the_same_weights(tmp_path):
    tracin, _, trusted = toy(tmp_path)
    tracin.live.weights.model.double()
    found = []
    for rate in (1.0, 1e-180, 1e160):
        tracin.checkpoints_load_func = lambda model, path, rate=rate: rate
        found.append(example_weights(tracin, trusted))
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


@pytest.mark.parametrize("start", [torch.ones(12).to_sparse(), torch.ones(12) + 0j])
def test_a_start_of_another_kind_of_tensor_is_refused(tmp_path, start):
    tracin, _, trusted = toy(tmp_path)
    with pytest.raises(TypeError, match=r"expected `start` as a dense tensor of real numbers, got Tensor of torch\."):
        example_weights(tracin, trusted, start=start)


def test_a_bar_is_shown_or_not_or_left_open(tmp_path):
    tracin, _, trusted = toy(tmp_path)
    assert torch.equal(example_weights(tracin, trusted, show_progress=None), example_weights(tracin, trusted))
    with pytest.raises(TypeError, match="expected `show_progress` as True, False or None, got 'no'"):
        example_weights(tracin, trusted, show_progress="no")
