"""Evaluation against definitions written out by hand: noise, aggregation, ranks, LDS, cancellation, words, mistakes, plots."""

import math

import matplotlib.figure
import matplotlib.pyplot
import pytest
import torch
from captum_tracinwe.evaluation import plots
from captum_tracinwe.evaluation.agreement import ranks

from captum_tracinwe import evaluation as ev
from captum_tracinwe.app.testing import TinyCNN, toy_texts

SCORES = torch.tensor([0.1, 0.2, 0.2, 0.9, 1.0, 1.5])
WRONG = torch.tensor([True, True, False, False, True, False])

# ---------------------------------------------------------------------------------------------------------------- noise


def test_the_recall_curve_meets_equal_scores_in_no_order():
    curve = ev.noise_detection_curve(SCORES, WRONG)
    assert curve.found.tolist() == pytest.approx([0, 1 / 3, 1 / 2, 2 / 3, 2 / 3, 1, 1])
    assert curve.inspected.tolist() == pytest.approx([i / 6 for i in range(7)])
    flipped = torch.tensor([0, 2, 1, 3, 4, 5])
    again = ev.noise_detection_curve(SCORES[flipped], WRONG[flipped])
    assert torch.equal(curve.found, again.found)
    assert len(curve.to_table()) == 7


def test_ndr_is_the_share_found_among_the_lowest():
    curve = ev.noise_detection_curve(SCORES, WRONG)
    assert ev.ndr(curve, 50) == pytest.approx(2 / 3)
    assert ev.ndr(curve, 25) == pytest.approx((1 / 3 + 1 / 2) / 2)  # half way between one and two examples
    assert ev.ndr(curve, 0) == 0
    assert ev.ndr(curve, 100) == 1
    with pytest.raises(ValueError, match="from 0 to 100"):
        ev.ndr(curve, 101)


def test_auc_ndr_is_one_for_the_ideal_and_half_over_it_for_chance():
    wrong = torch.arange(100) < 20
    assert ev.auc_ndr(ev.noise_detection_curve(torch.arange(100), wrong)) == pytest.approx(1)
    assert ev.auc_ndr(ev.noise_detection_curve(torch.zeros(100), wrong)) == pytest.approx(0.5 / 0.9)
    assert ev.auc_ndr(ev.noise_detection_curve(-torch.arange(100), wrong)) == pytest.approx(0.1 / 0.9)


def test_roc_auc_counts_pairs():
    pairs = [
        float(SCORES[i] < SCORES[j]) + 0.5 * float(SCORES[i] == SCORES[j])
        for i in range(6)
        if WRONG[i]
        for j in range(6)
        if not WRONG[j]
    ]
    assert ev.roc_auc(SCORES, WRONG) == pytest.approx(sum(pairs) / 9)
    assert ev.roc_auc(torch.zeros(6), WRONG) == 0.5


def test_the_area_under_the_roc_curve_is_its_auc():
    scores = torch.randint(0, 9, (80,), generator=torch.Generator().manual_seed(0))
    for values, wrong in ((SCORES, WRONG), (torch.zeros(6), WRONG), (scores, torch.arange(80) % 3 == 0)):
        curve = ev.roc_curve(values, wrong)
        assert (curve.right[0], curve.wrong[0], curve.right[-1], curve.wrong[-1]) == (0, 0, 1, 1)
        assert len(curve.right) == len(values.unique()) + 1
        assert float(torch.trapezoid(curve.wrong, curve.right)) == pytest.approx(ev.roc_auc(values, wrong))


def test_noise_intervals_hold_their_estimates():
    generator = torch.Generator().manual_seed(0)
    wrong = torch.rand(200, generator=generator) < 0.2
    scores = torch.randn(200, generator=generator) - wrong.float()
    found = ev.noise_intervals(scores, wrong, draws=200)
    assert found["ROC AUC"].estimate == pytest.approx(ev.roc_auc(scores, wrong))
    assert found["NDR@30"].estimate == pytest.approx(ev.ndr(ev.noise_detection_curve(scores, wrong), 30))
    assert found["AUC_NDR"].estimate == pytest.approx(ev.auc_ndr(ev.noise_detection_curve(scores, wrong)))
    for interval in found.values():
        assert interval.low < interval.estimate < interval.high
        assert interval.high - interval.low < 0.35


def test_aggregations_are_their_formulas():
    scores = torch.tensor([[3.0, -1.0, 0.0, 5.0, 2.0], [0.0, 0.0, 7.0, -2.0, 1.0]])
    by_hand = [[3.0, 0.0, 1.0, 4.0, 2.0], [1.5, 1.5, 4.0, 0.0, 3.0]]
    assert ev.aggregate(scores).tolist() == pytest.approx(scores.mean(0).tolist())
    assert ev.aggregate(scores, "rank").tolist() == pytest.approx([sum(r) / 2 for r in zip(*by_hand, strict=True)])
    k = 0.4 * 5
    votes = [-sum(max(k - r, 0) for r in column) for column in zip(*by_hand, strict=True)]
    assert ev.aggregate(scores, "vote", vote_share=0.4).tolist() == pytest.approx(votes)
    second = torch.tensor([False, True])
    for how in ("mean", "rank", "vote"):
        assert torch.equal(ev.aggregate(scores, how, correct=second), ev.aggregate(scores[1:], how))
    for wrong, match in (
        ({"how": "median"}, "'mean', 'rank' or 'vote'"),
        ({"how": "vote", "vote_share": 0}, "vote_share"),
    ):
        with pytest.raises(ValueError, match=match):
            ev.aggregate(scores, **wrong)
    with pytest.raises(ValueError, match="no test example is left"):
        ev.aggregate(scores, correct=torch.tensor([False, False]))
    with pytest.raises(ValueError, match=r"scores \(N, M\)"):
        ev.aggregate(scores[0])


def test_the_harmful_are_met_first_by_every_aggregation():
    generator = torch.Generator().manual_seed(0)
    wrong = torch.arange(50) < 10
    scores = torch.randn(8, 50, generator=generator) - 2.0 * wrong
    for how in ("mean", "rank", "vote"):
        assert ev.roc_auc(ev.aggregate(scores, how), wrong) > 0.95


def test_noise_that_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="some labels right and some wrong"):
        ev.roc_auc(SCORES, torch.zeros(6, dtype=torch.bool))
    with pytest.raises(ValueError, match="by `aggregate`"):
        ev.noise_detection_curve(torch.randn(2, 6), WRONG)


# ----------------------------------------------------------------------------------------------------- ranks, agreement


NAN = torch.tensor([[1.0, float("nan"), 0.0], [2.0, 1.0, 0.0]])
GOOD = torch.tensor([[1.0, 3.0, 0.0], [2.0, 1.0, 0.0]])


@pytest.mark.parametrize(
    "run",
    [
        lambda: ev.deletion_curve(NAN, lambda keep, seeds: keep[:, :2].double(), ks=[0, 1], seeds=[1]),
        lambda: ev.without_opponents(NAN, 1),
        lambda: ev.aggregate(NAN, "rank"),
        lambda: ev.aggregate(NAN / 0, "vote"),
        lambda: ev.spearman(NAN, GOOD),
        lambda: ev.top_k_agreement(GOOD, NAN, 1),
        lambda: ev.lds(NAN, torch.ones(3, 3).bool(), torch.rand(3, 2)),
        lambda: ev.roc_auc(NAN[0], torch.tensor([True, False, True])),
        lambda: ev.noise_detection_curve(NAN[0], torch.tensor([True, False, True])),
        lambda: ev.deletion_curve(GOOD, lambda keep, seeds: NAN[:1, :2].repeat(len(seeds), 1), ks=[0, 1], seeds=[1]),
        lambda: ev.bootstrap(lambda i: NAN[0][i % 3].mean(), 3),
    ],
)
def test_nan_has_no_rank(run):
    with pytest.raises(ValueError, match="NaN"):
        run()


def answers(keep, seeds, hidden=None):
    return keep[:, :2].double()


@pytest.mark.parametrize(
    ("run", "match"),
    [
        (lambda: ev.aggregate(GOOD, correct=torch.tensor([1, 0])), r"`correct` as bool \(2,\), got int64"),
        (lambda: ev.roc_auc(GOOD[0], torch.tensor([0, 2, 1])), r"`wrong` as bool \(3,\), got int64"),
        (lambda: ev.deletion_curves({}, None), "an empty one"),
        (lambda: ev.deletion_curves(GOOD, None), r"mapping, \{name: \(N, M\)\}, got Tensor"),
        (lambda: ev.deletion_curves({"a": GOOD}, None, directions=("proponents",)), "`directions` of True"),
        (lambda: ev.deletion_curve(GOOD, None, ks=1), r"a list for `ks`, got 1: \[1\]"),
        (lambda: ev.deletion_curve(GOOD, None, ks=[0, 1], seeds=3), r"a list for `seeds`, got 3: \[3\]"),
        (lambda: ev.deletion_curve(GOOD, lambda keep, seeds: keep[:, :2] / 0.0, ks=[0, 1], seeds=[0]), "answers inf"),
        (lambda: ev.another_word([(0, 4)], [[5, 6]]), "place 4 of text 0, which has 2"),
        (lambda: ev.another_word([(1, 0)], [[5, 6]]), "in 1 texts, got place 0 of text 1"),
        (lambda: ev.word_deletion([[(9, 0)]], [[]], None, 5), r"examples from 0 to 4, got\s+9"),
        (lambda: ev.aggregate(GOOD, correct=torch.ones(2, 3).bool()), r"`correct` as bool \(2,\), got bool \(2, 3\)"),
        (lambda: ev.deletion_curve(GOOD, answers, ks=[0, 1.9], seeds=[1]), r"whole numbers for `ks`, got \[0, 1.9\]"),
        (lambda: ev.deletion_curve(GOOD, answers, ks=[0, 1], seeds=[0.2]), "whole numbers for `seeds`"),
        (lambda: ev.deletion_curve(GOOD, answers, ks=[0, 1], seeds=[1, 1]), "each once"),
        (lambda: ev.deletion_curve(GOOD, lambda k, s: k, ks=[0, 1], seeds=[1]), r"a tensor \(\d, 2\)"),
        (lambda: ev.word_deletion([[]] * 2, [[]] * 2, lambda *a: answers(*a).T, 3, seeds=(1,)), "one answer per job"),
        (lambda: ev.fixing_mistakes(answers, GOOD), "`keep` as bool"),
        (lambda: ev.fixing_mistakes(lambda *a: answers(*a) / 2, GOOD > 0, seeds=(1,)), "read correctly"),
        (lambda: ev.fixing_mistakes(answers, GOOD > 0, seeds=()), "at least one seed"),
        (lambda: ev.without_opponents(GOOD, 3), "k from 0 to below 3"),
        (lambda: ev.lds(GOOD, torch.ones(3, 3), torch.rand(3, 2)), "subsets as bool"),
        (lambda: ev.DeletionCurve.cat([]), "at least one curve"),
    ],
)
def test_what_would_be_a_wrong_number_is_refused(run, match):
    with pytest.raises((ValueError, TypeError), match=match):
        run()


def test_separation_knows_its_sides():
    plus, minus = (
        ev.deletion_curve(GOOD, answers, ks=[0, 1], seeds=[1], proponents=proponents) for proponents in (True, False)
    )
    with pytest.raises(ValueError, match="proponents first"):
        ev.separation(minus, plus)
    other = ev.deletion_curve(GOOD, answers, ks=[0, 2], seeds=[1], proponents=False)
    with pytest.raises(ValueError, match="the same test examples, grid and seeds"):
        ev.separation(plus, other)
    with pytest.raises(ValueError, match=r"a k of the grid, \(0, 1\), got 7"):
        plus.interval(7)


def test_gradients_of_two_shapes_have_no_sum():
    with pytest.raises(ValueError, match="one shape for all examples"):
        ev.cancellation([{"w": torch.ones(2)}, {"w": torch.ones(1)}])


def test_spearman_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    a, b = torch.randint(0, 5, (4, 30)).float(), torch.randn(4, 30)
    for i, found in enumerate(ev.spearman(a, b).tolist()):
        assert found == pytest.approx(stats.spearmanr(a[i], b[i]).statistic)
    assert ranks(a[0]).tolist() == pytest.approx((stats.rankdata(a[0]) - 1).tolist())
    assert math.isnan(float(ev.spearman(torch.zeros(3), torch.arange(3))))


def test_top_k_agreement_is_the_overlap():
    a, b = torch.randn(5, 40), torch.randn(5, 40)
    for proponents in (True, False):
        sign = 1 if proponents else -1
        for i, found in enumerate(ev.top_k_agreement(a, b, 7, proponents).tolist()):
            sets = [set((sign * s[i]).topk(7).indices.tolist()) for s in (a, b)]
            assert found == pytest.approx(len(sets[0] & sets[1]) / 7)
    table = ev.agreement_table({"a": a, "b": b, "c": a}, k=7)
    assert list(zip(table["first"], table["second"], strict=True)) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert table.spearman[1] == pytest.approx(1)
    assert table.opponents[1] == 1
    with pytest.raises(ValueError, match="k from 1 to M"):
        ev.top_k_agreement(a, b, 41)
    with pytest.raises(ValueError, match="one shape"):
        ev.spearman(a, b[:2])


def test_lds_is_one_where_scores_add_up_to_the_answer():
    effects = torch.randn(3, 20)
    subsets = ev.random_subsets(12, 20, share=0.25)
    assert subsets.sum(1).tolist() == [5] * 12
    answers = (subsets.float() @ effects.T) ** 3  # any rising function
    assert ev.lds(effects, subsets, answers).tolist() == pytest.approx([1.0] * 3)
    assert ev.lds(-effects, subsets, list(answers)).tolist() == pytest.approx([-1.0] * 3)
    assert abs(float(ev.lds(torch.randn(200, 20), subsets, torch.randn(12, 200)).mean())) < 0.1
    with pytest.raises(ValueError, match=r"outputs \(S, N\)"):
        ev.lds(effects, subsets, answers.T)
    with pytest.raises(ValueError, match="1 subset of 1 to 20"):
        ev.random_subsets(3, 20, share=0)


# --------------------------------------------------------------------------------------------------------- cancellation


def test_cancellation_is_its_definition_on_a_model():
    ids, _, labels = toy_texts(6)
    model = TinyCNN(padding_idx=0).double()
    batches = [(ids[i : i + 1], labels[i : i + 1]) for i in range(6)]
    loss = torch.nn.CrossEntropyLoss()
    model.train()
    found = ev.cancellation(ev.example_gradients(model, batches, loss))
    assert model.training
    model.eval()
    singles = []
    for a, b in batches:
        model.zero_grad()
        loss(model(a), b).backward()
        singles.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name in found:
        above = sum(float(g[name].abs().sum()) for g in singles)
        assert found[name] == pytest.approx(above / float(sum(g[name] for g in singles).abs().sum()))
        assert found[name] >= 1
    with pytest.raises(ValueError, match="batches of one example, got one of 6"):
        next(ev.example_gradients(model, [(ids, labels)], loss))
    moved = {"out.weight": torch.full_like(model.out.weight, 0.5)}
    older = ev.step_cancellation(ev.example_gradients(model, batches, loss, ["out.weight"]), 0.1, moved)
    expected = 0.1 * sum(float(g["out.weight"].norm()) for g in singles) / float(moved["out.weight"].norm())
    assert older["out.weight"] == pytest.approx(expected)


def test_cancellation_at_its_ends():
    one, zero = torch.tensor([1.0, -2.0]), torch.zeros(2)
    assert ev.cancellation([{"w": one}, {"w": 3 * one}]) == {"w": 1.0}
    assert ev.cancellation([{"w": one}, {"w": -one}]) == {"w": math.inf}
    assert ev.cancellation([{"w": zero}]) == {"w": 1.0}
    assert ev.cancellation([{"w": one.to_sparse()}, {"w": one.to_sparse()}]) == {"w": 1.0}
    with pytest.raises(ValueError, match="no example"):
        ev.cancellation([])


def test_a_parameter_that_an_example_does_not_touch_has_no_gradient():
    model = torch.nn.ModuleDict({"used": torch.nn.Linear(2, 2), "idle": torch.nn.Linear(2, 2)})
    model.forward = lambda x: model["used"](x)
    gradients = list(ev.example_gradients(model, [(torch.ones(1, 2), torch.tensor([0]))], torch.nn.CrossEntropyLoss()))
    assert float(gradients[0]["idle.weight"].abs().sum()) == 0
    assert float(gradients[0]["used.weight"].abs().sum()) > 0


# ------------------------------------------------------------------------------------------------------ words, mistakes


class Answers:
    """A 'retraining': training example m adds effect[m, i]; hiding position p of m takes share[p] of it away."""

    def __init__(self, trains=6, tests=3):
        self.effects = torch.randn(trains, tests, dtype=torch.float64)
        self.share = torch.tensor([0.6, 0.1, 0.3], dtype=torch.float64)

    def __call__(self, keep, seeds, hidden):
        out = keep.double() @ self.effects + torch.tensor(seeds)[:, None]
        for j, positions in enumerate(hidden):
            for m, p in positions:
                out[j] -= self.share[p] * self.effects[m]
        return out


def test_word_deletion_compares_the_named_word_with_another_one():
    retrain = Answers()
    named = [[(0, 0), (1, 0)], [(2, 0)], [(3, 0), (4, 0)]]
    control = [[(0, 1), (1, 1)], [(2, 1)], [(3, 1), (4, 1)]]
    found = ev.word_deletion(named, control, retrain, 6, seeds=(0, 5))
    for i, positions in enumerate(named):
        total = sum(float(retrain.effects[m, i]) for m, _ in positions)
        assert found.named[:, i].tolist() == pytest.approx([-0.6 * total] * 2)
        assert found.control[:, i].tolist() == pytest.approx([-0.1 * total] * 2)
    first, second = found.intervals(draws=50)
    assert found.difference(draws=50).estimate == pytest.approx(first.estimate - second.estimate)
    assert len(found.to_table()) == 2 * 3 * 2
    with pytest.raises(ValueError, match="on both sides"):
        ev.word_deletion(named, control[:1], retrain, 6)


def test_another_word_is_never_the_named_one():
    texts = [[1, 5, 6, 5, 0], [7, 7, 0, 0, 0], [1, 8, 9, 2, 0]]
    for seed in range(20):
        chosen = ev.another_word([(0, 1), (0, 3), (1, 0), (2, 1)], texts, skip=[0, 1, 2], seed=seed)
        assert chosen == [(0, 2), (2, 2)]  # text 1 has no other word
    # Others of as many positions come first; a word goes with all its positions.
    assert ev.another_word([(0, 2)], texts, skip=[0]) == [(0, 0)]
    assert ev.another_word([(0, 0)], texts, skip=[0, 6]) == [(0, 1), (0, 3)]
    both = {tuple(ev.another_word([(2, 1)], texts, skip=[0, 2], seed=seed)) for seed in range(20)}
    assert both == {((2, 0),), ((2, 2),)}
    assert ev.another_word([(2, 1)], texts, among={1, 5}) == [(2, 0)]
    assert ev.another_word([(2, 1)], texts, among={5}) == []


def test_fixing_mistakes_counts_those_that_were_wrong_before():
    effects = torch.tensor([[-3.0, 1.0], [1.0, 1.0], [0.5, -0.5], [-0.2, 1.0]])  # test 0 is misread, test 1 is not

    def correct(keep, seeds, hidden):
        out = keep.float() @ effects
        for j, positions in enumerate(hidden):
            for m, _ in positions:
                out[j] -= effects[m]
        return out > 0

    whole = torch.ones(2, 4, dtype=torch.bool)
    removed = ev.without_opponents(effects.T, 1)
    assert removed.tolist() == [[False, True, True, True], [True, True, False, True]]
    found = ev.fixing_mistakes(correct, removed, seeds=(0, 1))
    assert found.wrong_before.tolist() == [[True, False]] * 2
    assert found.fixed(draws=50).estimate == 1
    assert ev.fixing_mistakes(correct, whole, hidden=[[(0, 0)], []], seeds=(0,)).fixed(draws=50).estimate == 1
    nothing = ev.fixing_mistakes(correct, whole, seeds=(0,))
    assert nothing.fixed(draws=50).estimate == 0
    with pytest.raises(ValueError, match="one list per test example, 2, got 1"):
        ev.fixing_mistakes(correct, whole, hidden=[[]])
    with pytest.raises(ValueError, match="no test example was misread"):
        ev.Mistakes(torch.zeros(1, 2, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)).fixed()


# ---------------------------------------------------------------------------------------------------------------- plots


def test_plots_return_a_figure_and_draw_what_they_are_given(monkeypatch):
    curve = ev.DeletionCurve((0, 10), (0, 1), torch.randn(2, 4, 2, dtype=torch.float64), True)
    other = ev.DeletionCurve((0, 10), (0, 1), torch.randn(2, 4, 2, dtype=torch.float64), False)
    drawn = [
        plots.plot_deletion({("WE", True): curve, ("WE", False): other}),
        plots.plot_noise({"loss": ev.noise_detection_curve(SCORES, WRONG)}),
        plots.plot_cancellation({"embedding": [2.0, 3.0]}, [1, 2]),
        plots.plot_intervals(
            {"WE": ev.Interval(0.2, 0.1, 0.3), "TR-Last": ev.Interval(0.0, -0.1, 0.1)}, label="separation"
        ),
        plots.plot_agreement({"a": torch.randn(2, 9), "b": torch.randn(2, 9)}),
    ]
    for fig, ax in drawn:
        assert isinstance(fig, matplotlib.figure.Figure)
        assert ax.figure is fig
    fig, ax = plots.plot_roc({"loss": ev.roc_curve(SCORES, WRONG)})
    assert ax.figure is fig
    assert ax.get_lines()[0].get_ydata().tolist() == ev.roc_curve(SCORES, WRONG).wrong.tolist()
    lines = drawn[0][1].get_lines()
    assert lines[0].get_ydata().tolist() == pytest.approx(curve.mean().tolist())
    assert lines[1].get_ydata().tolist() == pytest.approx(other.mean().tolist())
    assert lines[0].get_color() == lines[1].get_color()
    assert [text.get_text() for text in drawn[0][1].get_legend().get_texts()] == ["WE"]
    assert drawn[2][1].get_yscale() == "log"
    assert [tick.get_text() for tick in drawn[3][1].get_yticklabels()] == ["WE", "TR-Last"]
    with pytest.raises(ValueError, match="[Ee]xpected 2 values for 'x', got 1"):
        plots.plot_cancellation({"x": [1.0]}, [1, 2])
    shown = []
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: shown.append(True))
    plots.plot_noise({"loss": ev.noise_detection_curve(SCORES, WRONG)}, show=True)
    assert shown == [True]
    fig, _ = plots.plot_agreement({"a": torch.randn(2, 9), "b": torch.randn(2, 9)}, show=True)
    assert fig.number in matplotlib.pyplot.get_fignums()  # pyplot shows no other
    matplotlib.pyplot.close("all")
