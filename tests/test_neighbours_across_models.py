"""Agreement of rankings over models: against SciPy and sets, with what is refused."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from captum_tracinwe.evaluation import bootstrap

from captum_tracinwe.neighbours import RankAgreement, rank_agreement

FOLDER = Path(__file__).parents[1] / "benchmarks" / "evidence"
DATA = Path(__file__).parents[2] / "shared" / "data"


def scores(models=3, questions=4, texts=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(questions, texts, generator=generator)
    return {f"m{m}": common + torch.randn(questions, texts, generator=generator) for m in range(models)}


@pytest.mark.parametrize("masked", [False, True])
def test_each_pair_is_what_scipy_and_sets_say(masked):
    stats = pytest.importorskip("scipy.stats")
    given, k = scores(), 5
    where = torch.rand(4, 30, generator=torch.Generator().manual_seed(1)) < 0.6 if masked else None
    found = rank_agreement(given, k, where=where)
    assert [(pair.first, pair.second) for pair in found.pairs] == list(itertools.combinations(given, 2))
    for pair in found.pairs:
        for i in range(4):
            kept = [j for j in range(30) if where is None or where[i, j]]
            a, b = ([float(given[name][i, j]) for j in kept] for name in (pair.first, pair.second))
            assert pair.correlation[i] == pytest.approx(stats.spearmanr(a, b).statistic)
            for values, sign in ((pair.proponents, -1), (pair.opponents, 1)):
                first, second = (
                    set(sorted(range(len(kept)), key=lambda j, one=one: sign * one[j])[:k]) for one in (a, b)
                )
                assert values[i] == pytest.approx(len(first & second) / k)
            assert found.by_chance[i] == pytest.approx(k / len(kept))


def test_units_do_not_count_and_a_turned_ranking_agrees_in_nothing():
    one = scores(1)["m0"]
    found = rank_agreement({"a": one, "b": 1000 * one, "turned": -one}, 10)
    same, turned = found.pair("b", "a"), found.pair("a", "turned")
    assert torch.allclose(same.correlation, torch.ones(4).double())
    assert same.proponents.eq(1).all()
    assert same.opponents.eq(1).all()
    assert torch.allclose(turned.correlation, -torch.ones(4).double())
    assert turned.proponents.eq(0).all()


def test_figures_come_with_intervals_and_differences_are_paired():
    found = rank_agreement(scores(), 5)
    own = found.interval("m0", "m1", draws=500)
    assert own.low <= own.estimate <= own.high
    assert own.estimate == pytest.approx(float(found.pair("m0", "m1").correlation.mean()))
    apart = found.difference(("m0", "m1"), ("m0", "m1"), "proponents", draws=100)
    assert (apart.low, apart.high) == (0, 0)
    rows = found.to_table(draws=100)
    assert len(rows) == 9
    assert "m0 and m1: correlation +0." in str(found)
    assert isinstance(found, RankAgreement)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda s: ([s["m0"], s["m1"]], 5, None), TypeError, "expected a mapping, {name of the model: scores"),
        (lambda s: ({"m0": s["m0"]}, 5, None), ValueError, "two models or more, got 1"),
        (lambda s: ({0: s["m0"], 1: s["m1"]}, 5, None), TypeError, "expected names of models, got 0"),
        (lambda s: ({**s, "x": s["m0"][:, 1:]}, 5, None), ValueError, r"got 'm0' \(4, 30\).*'x' \(4, 29\)"),
        (lambda s: ({**s, "x": s["m0"] / 0}, 5, None), ValueError, "'x': .* NaN or infinite"),
        (lambda s: ({n: m[:1] for n, m in s.items()}, 5, None), ValueError, "two questions or more, got 1"),
        (lambda s: (s, 30, None), ValueError, "expected k from 1 to below the 30 training texts, got 30"),
        (lambda s: (s, 0, None), ValueError, "got 0"),
        (lambda s: (s, True, None), ValueError, "got True"),
        (lambda s: ({**s, "flat": torch.ones(4, 30)}, 5, None), ValueError, "'flat' gives all 30 texts of question 0"),
        (lambda s: (s, 5, torch.ones(4, 30)), ValueError, "`where` as a bool tensor"),
        (lambda s: (s, 5, torch.arange(30).lt(5).expand(4, 30)), ValueError, "the 5 texts that `where` leaves"),
    ],
)
def test_what_is_no_ranking_of_the_same_texts_is_refused(change, error, match):
    given, k, where = change(scores())
    with pytest.raises(error, match=match):
        rank_agreement(given, k, where=where)


def test_an_unknown_pair_or_measure_is_told():
    found = rank_agreement(scores(), 5)
    with pytest.raises(KeyError, match="[Ee]xpected two of m0, m1, m2"):
        found.pair("m0", "m0")
    with pytest.raises(ValueError, match="[Ee]xpected a measure of correlation, proponents, opponents, got 'kendall'"):
        found.interval("m0", "m1", "kendall")
    for odd in (None, "ab", 3, ("a", 1)):
        with pytest.raises(TypeError, match=r"RankAgreement.difference: expected `one` as the names of two models"):
            found.difference(odd, ("m0", "m1"))
    with pytest.raises(ValueError, match=r"RankAgreement.difference: `other` names 3 models"):
        found.difference(("m0", "m1"), ("m0", "m1", "m2"))


@pytest.mark.skipif(
    not (FOLDER.is_dir() and (DATA / "ag_news").is_dir()), reason="the benchmarks or the data are not here"
)
@pytest.mark.slow
def test_the_experiment_runs_and_its_result_becomes_a_table(script, tmp_path, monkeypatch):
    monkeypatch.setitem(bootstrap.__kwdefaults__, "draws", 200)
    common = ["--preset", "smoke", "--seeds", "1", "--tests", "4", "--data", str(DATA), "--out", str(tmp_path)]
    script("sizes").main([*common, "--also", "cnn"])
    content = json.loads((tmp_path / "sizes-ag_news-bert-smoke.json").read_text())
    assert "/" not in json.dumps(content)
    table = script("sizes").table(content)
    assert "| the CNN's names |" in table
    assert "nan" not in table
    with pytest.raises(SystemExit, match="Expected a --model larger than the CNN"):
        script("sizes").main([*common, "--model", "cnn"])


def test_scores_that_do_not_count_need_not_be_finite():
    given, where = scores(), torch.ones(4, 30, dtype=torch.bool)
    where[:, 7] = where[2, 9] = False
    expected = rank_agreement(given, 5, where=where)
    for odd in (-torch.inf, torch.inf, torch.nan):
        lost = {name: matrix.masked_fill(~where, odd) for name, matrix in given.items()}
        found = rank_agreement(lost, 5, where=where)
        for one, other in zip(found.pairs, expected.pairs, strict=True):
            assert torch.equal(one.correlation, other.correlation)
            assert torch.equal(one.opponents, other.opponents)
    deleted = {name: matrix.index_fill(1, torch.tensor([7]), -torch.inf) for name, matrix in given.items()}
    with pytest.raises(ValueError, match=r"'m0': 4 scores are −inf.*: where=scores > -torch\.inf"):
        rank_agreement(deleted, 5)


def test_other_kinds_of_tensors_are_refused():
    given = scores()
    for odd in (given["m0"].to_sparse(), given["m0"] + 0j):
        with pytest.raises(
            TypeError, match="'x': expected scores as a tensor, dense and of real numbers, got Tensor of torch"
        ):
            rank_agreement({**given, "x": odd}, 5)
    with pytest.raises(ValueError, match="`where` as a bool tensor of shape"):
        rank_agreement(given, 5, where=torch.ones(4, 30, dtype=torch.bool).to_sparse())
    with pytest.raises(KeyError, match="[Ee]xpected two of m0, m1, m2"):
        rank_agreement(given, 5).pair("m0", ["m1"])
