"""Deletion curves: signs, pairs, grid and intervals, on retrainings whose answer is known."""

import pytest
import torch
from captum_tracinwe.evaluation import (
    DeletionCurve,
    Interval,
    auc_del,
    bootstrap,
    bootstrap_mean,
    deletion_curve,
    deletion_curves,
)

from captum_tracinwe import evaluation

N, M = 4, 30


class Known:
    """A 'retraining' in which each training example adds its effect to a test example, plus noise that belongs to the seed."""

    def __init__(self, noise=5.0):
        self.effects = torch.randn(M, N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        self.noise, self.calls = noise, []

    def __call__(self, keep, seeds):
        self.calls.append((keep, list(seeds)))
        noise = torch.stack([torch.randn(N, generator=torch.Generator().manual_seed(s)) for s in seeds])
        return keep.double() @ self.effects + self.noise * noise


def test_removing_proponents_takes_away_just_what_they_added():
    retrain = Known()
    for proponents in (True, False):
        curve = deletion_curve(retrain.effects.T, retrain, proponents=proponents, ks=[0, 1, 5], seeds=[3, 4])
        ordered = retrain.effects.sort(0, descending=proponents).values
        for c, k in enumerate([0, 1, 5]):
            expected = -ordered[:k].sum(0)
            torch.testing.assert_close(
                curve.by_test()[:, c], expected, rtol=0, atol=1e-9
            )  # the noise of a pair cancels
        assert (curve.mean()[1:] < 0).all() == proponents


def test_auc_is_the_mean_over_the_grid_with_zero_in_it():
    retrain = Known()
    curve = deletion_curve(retrain.effects.T, retrain, ks=[0, 2, 4], seeds=[0])
    by_hand = sum(float(-retrain.effects.sort(0, descending=True).values[:k].sum(0).mean()) for k in (0, 2, 4)) / 3
    assert auc_del(curve).estimate == pytest.approx(by_hand)
    assert evaluation.PAPER_GRID == (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)


def test_what_two_methods_name_alike_is_trained_once():
    retrain = Known()
    scores = retrain.effects.T
    alone = deletion_curves({"a": scores}, retrain, ks=[0, 3], seeds=[0, 1])
    assert len(retrain.calls[0][1]) == 2 * (1 + 2 * N)  # the whole set, and 2 directions for each test example
    both = deletion_curves({"a": scores, "twice": 2 * scores}, retrain, ks=[0, 3], seeds=[0, 1])
    assert len(retrain.calls[1][1]) == len(retrain.calls[0][1])
    for direction in (True, False):
        assert torch.equal(both["a", direction].changes, alone["a", direction].changes)
        assert torch.equal(both["a", direction].changes, both["twice", direction].changes)


def test_separation_is_the_distance_of_the_two_curves():
    retrain = Known()
    curves = deletion_curves({"a": retrain.effects.T}, retrain, ks=[0, 5], seeds=[0])
    plus, minus = curves["a", True], curves["a", False]
    found = evaluation.separation(plus, minus)
    assert found.estimate == pytest.approx(auc_del(minus).estimate - auc_del(plus).estimate)
    assert found.excludes()
    assert not Interval(0.1, -0.1, 0.3).excludes()


def test_seeds_can_be_run_one_after_the_other():
    retrain = Known()
    whole = deletion_curve(retrain.effects.T, retrain, ks=[0, 5], seeds=[0, 1])
    parts = [deletion_curve(retrain.effects.T, retrain, ks=[0, 5], seeds=[s]) for s in (0, 1)]
    joined = DeletionCurve.cat(parts)
    assert joined.seeds == (0, 1)
    assert torch.equal(joined.changes, whole.changes)
    with pytest.raises(ValueError, match="other seeds"):
        DeletionCurve.cat([parts[0], parts[0]])


def test_the_table_has_a_row_per_observation():
    retrain = Known()
    curve = deletion_curve(retrain.effects.T, retrain, ks=[0, 5], seeds=[7, 8])
    table = curve.to_table()
    assert len(table) == 2 * N * 2
    row = table[(table.seed == 8) & (table.test == 2) & (table.k == 5)]
    assert float(row.change.iloc[0]) == float(curve.changes[1, 2, 1])
    assert float(table[table.k == 0].change.abs().max()) == 0


def test_tables_without_pandas(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    curve = DeletionCurve((0,), (1,), torch.zeros(1, 1, 1), True)
    assert curve.to_table() == [{"seed": 1, "test": 0, "k": 0, "change": 0.0}]


def test_intervals_cover_the_truth_as_often_as_they_say():
    generator = torch.Generator().manual_seed(0)
    inside = 0
    for _ in range(200):
        values = torch.randn(30, generator=generator) + 1
        found = bootstrap(lambda i, v=values: v[i].mean(), 30, draws=300, level=0.9)
        inside += not found.excludes(1.0)
    assert 165 <= inside <= 193  # 180 expected; the percentile interval is a little narrow at 30
    assert str(Interval(0.1, -0.2, 0.4)) == "+0.100 [−0.200, +0.400]"


def test_an_interval_at_one_k():
    retrain = Known()
    curve = deletion_curve(retrain.effects.T, retrain, ks=[0, 5], seeds=[7])
    assert curve.interval(5).estimate == pytest.approx(float(curve.mean()[1]))
    assert curve.interval(0) == Interval(0.0, 0.0, 0.0)


@pytest.mark.parametrize("ks", [[0, 30], [5, 0], [], [-1, 2], [1, 1]])
def test_a_grid_that_cannot_be_is_refused(ks):
    with pytest.raises(ValueError, match="ascending grid from 0 to below 30"):
        deletion_curve(torch.randn(N, M), Known(), ks=ks)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="at least one seed"):
        deletion_curve(torch.randn(N, M), Known(), seeds=[])
    with pytest.raises(ValueError, match="of one shape"):
        deletion_curves({"a": torch.randn(N, M), "b": torch.randn(N, 3)}, Known())
    with pytest.raises(ValueError, match="one answer per job"):
        deletion_curve(torch.randn(N + 1, M), Known(), ks=[0, 1])
    for options in ({"draws": 0}, {"level": 1.0}, {"size": 1}):
        with pytest.raises(ValueError, match="at least 2 examples"):
            bootstrap(**({"statistic": len, "size": 3} | options))


def test_the_interval_of_a_mean_is_that_of_all_statistics():
    values = torch.randn(17, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    expected = bootstrap(lambda indices: values[indices].mean(), 17, draws=500, seed=3)
    found = bootstrap_mean(values, draws=500, seed=3)
    assert (found.estimate, found.low, found.high) == pytest.approx((expected.estimate, expected.low, expected.high))
    with pytest.raises(ValueError, match="[Ee]xpected at least 2 examples"):
        bootstrap_mean(values[:1])
    with pytest.raises(ValueError, match="the statistic of the whole sample is NaN"):
        bootstrap_mean(values * torch.nan)
