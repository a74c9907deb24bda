"""`influence_stability`: which training examples keep their influence, against a computation with SciPy and NumPy alone."""

import json
import math
import statistics
from pathlib import Path

import pytest
import torch
from captum_tracinwe.evaluation import bootstrap
from captum_tracinwe.testing import TinyCNN, toy_tracin

from captum_tracinwe import TracInWE
from captum_tracinwe.neighbours import influence_stability
from captum_tracinwe.neighbours.stability import compressed, stability_of

FOLDER = Path(__file__).parents[1] / "benchmarks" / "evidence"
DATA = Path(__file__).parents[2] / "shared" / "data"


def scores(versions=3, questions=6, examples=50, seed=0):
    return list(torch.randn(versions, questions, examples, generator=torch.Generator().manual_seed(seed)).double())


def middle(values):
    return sorted(values)[(len(values) - 1) // 2]


def by_hand(versions):
    """z before, z and p of each example, with Python's own mathematics."""
    by_version = []
    for version in versions:
        rows = version.tolist()
        strength = [0.0] * len(rows[0])
        for row in rows:
            centre = middle(row)
            spread = middle([abs(value - centre) for value in row])
            for j, value in enumerate(row):
                strength[j] += math.asinh((value - centre) / spread) / len(rows)
        centre = middle(strength)
        spread = middle([abs(value - centre) for value in strength]) / statistics.NormalDist().inv_cdf(0.75)
        by_version.append([(value - centre) / spread for value in strength])
    z = [min(column) for column in zip(*by_version, strict=True)]
    return by_version[0], z, [math.erfc(value / math.sqrt(2)) / 2 for value in z]


def tracin_and_questions(seed=0):
    torch.manual_seed(seed)
    ids, labels = torch.randint(1, 28, (40, 8)), torch.arange(40) % 2
    train, loss = torch.utils.data.TensorDataset(ids, labels), torch.nn.CrossEntropyLoss()
    tracin = TracInWE(TinyCNN(), train, ["now"], lambda model, checkpoint: 0.1, loss_fn=loss, batch_size=20)
    asked, other = torch.randint(1, 28, (2, 4, 8))
    return tracin, (asked, torch.zeros(4).long()), (other, torch.zeros(4).long())


def test_figures_are_those_computed_by_hand():
    versions = scores()
    versions[1][:, :10] = versions[1][:, :1]  # ties
    before, z, p_values = by_hand(versions)
    found = {one.index: one for one in stability_of(versions).examples}
    for j in range(50):
        assert found[j].z_before == pytest.approx(before[j], abs=1e-9)
        assert found[j].z == pytest.approx(z[j], abs=1e-9)
        assert found[j].p_value == pytest.approx(p_values[j], abs=1e-12)
        assert found[j].before == pytest.approx(float(versions[0][:, j].mean()))
        assert found[j].after == pytest.approx(float((versions[1][:, j] + versions[2][:, j]).mean() / 2))


def test_a_question_that_half_of_the_examples_share_no_word_with_counts_all_the_same():
    row = torch.zeros(1, 40).double()
    row[0, :4] = torch.tensor([1.0, -1.0, 2.0, 4.0])
    assert compressed(row)[0, :4].tolist() == pytest.approx([math.asinh(v / (8 / 40)) for v in (1, -1, 2, 4)])
    assert not compressed(torch.zeros(1, 40).double()).any()


def test_what_stays_is_found_and_what_is_only_strong_before_is_not():
    versions = scores(versions=2, questions=12, examples=200)
    versions[0][:, 7] += 6
    versions[1][:, 7] += 6  # stays
    versions[0][:, 8] += 6  # goes
    versions[1][:, 9] += 6  # comes
    found = stability_of(versions)
    assert [one.index for one in found.suspects] == [7]
    assert found.order[0] == 7
    assert not {8, 9} & set(found.order[:3])


def test_by_chance_few_are_suspects():
    counts = [len(stability_of(scores(3, 10, 400, seed)).suspects) for seed in range(20)]
    assert sum(count > 0 for count in counts) <= 4  # of 20 sets; a level of 0.05 allows one, a heavier spread a few


def test_scores_of_any_unit_give_the_same():
    versions = scores()
    louder = [
        version * torch.logspace(-9, 9, 6).double()[:, None] for version in versions
    ]  # each question has its own unit
    assert stability_of(louder).order == stability_of(versions).order


def test_it_asks_tracin_with_each_version():
    tracin, questions, other = tracin_and_questions()
    third = (other[0].flip(1), other[1])
    found = influence_stability(tracin, questions, other, third, level=0.2)
    expected = stability_of([tracin.influence(one) for one in (questions, other, third)], level=0.2)
    assert found == expected
    assert (found.questions, found.transformations, len(found.examples)) == (4, 2, 40)


def test_what_is_strong_on_ordinary_questions_too_is_taken_off():
    versions, ordinary = scores(versions=2, questions=12, examples=200), scores(1, 15, 200, seed=9)[0]
    for some in (*versions, ordinary):
        some[:, 7] += 6  # loud on all questions
    for some in versions:
        some[:, 8] += 6
    assert {7, 8} <= {one.index for one in stability_of(versions).suspects}
    found = stability_of(versions, ordinary)
    assert [one.index for one in found.suspects] == [8]
    lower = compressed(versions[0]).mean(0) - compressed(ordinary).mean(0)
    middle_of_all = middle(lower.tolist())
    spread = middle((lower - middle_of_all).abs().tolist()) / statistics.NormalDist().inv_cdf(0.75)
    before = {one.index: one.z_before for one in found.examples}
    assert before[8] == pytest.approx((float(lower[8]) - middle_of_all) / spread)


def test_ordinary_questions_are_asked_with_the_others():
    tracin, questions, other = tracin_and_questions()
    third = (other[0].flip(1), other[1])
    scores_of = [tracin.influence(one) for one in (questions, other, third)]
    assert influence_stability(tracin, questions, other, ordinary=third) == stability_of(scores_of[:2], scores_of[2])


def test_adjusted_values_rise_with_the_order_and_suspects_come_first():
    found = stability_of(scores(), level=0.9)
    adjusted = [one.adjusted_p for one in found.examples]
    assert adjusted == sorted(adjusted)
    assert found.suspects == found.examples[: len(found.suspects)]
    assert sorted(found.order) == list(range(50))


def test_it_is_a_table_and_a_text():
    found = stability_of(scores())
    assert len(found.rows()) == 50
    assert next(iter(found.rows()[0])) == "index"
    assert "0 of 50 training examples keep more influence" in str(found)
    assert len(str(found).splitlines()) == 12
    assert "\n" not in repr(found)
    pandas = pytest.importorskip("pandas")
    assert isinstance(found.to_table(), pandas.DataFrame)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda v: [v[0], v[1][:5]], "6 questions, and 5 in transformation 1: expected the same questions"),
        (lambda v: [v[0], v[1], v[0].clone()], "transformation 2 changes no score: expected questions in other words"),
        (lambda v: [one[:, :19] for one in v], "19 training examples: expected at least 20"),
        (
            lambda v: [torch.cat([torch.zeros(6, 40), one[:, :10]], 1) for one in v],
            "more than half of the training examples",
        ),
    ],
)
def test_scores_that_tell_nothing_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        stability_of(change(scores()))


def test_bad_arguments_are_refused():
    tracin, questions, other = tracin_and_questions()
    with pytest.raises(TypeError, match="[Ee]xpected a TracInWE first, got str"):
        influence_stability("model", questions, other)
    with pytest.raises(ValueError, match="[Ee]xpected at least one transformation of the questions"):
        influence_stability(tracin, questions)
    for level in (0, 1, True, "0.05", math.nan):
        with pytest.raises(ValueError, match="[Ee]xpected `level` between 0 and 1"):
            influence_stability(tracin, questions, other, level=level)


@pytest.mark.slow  # a language model, and gradients of two scores
@pytest.mark.skipif(
    not FOLDER.is_dir() or not (DATA / "alpaca_5k").is_dir(), reason="the benchmarks or data are not here"
)
def test_the_evidence_runs_and_becomes_a_table(script, tmp_path, monkeypatch):
    monkeypatch.setitem(bootstrap.__kwdefaults__, "draws", 200)
    poison = script("poison")
    poison.main(["--preset", "smoke", "--data", str(DATA), "--out", str(tmp_path)])
    content = json.loads((tmp_path / "poison-alpaca-smoke.json").read_text())
    assert "/" not in json.dumps(content).replace("T/", "")
    table = poison.table(content)
    assert "| influence_stability |" in table
    assert "nan" not in table


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the benchmarks are not here")
def test_data_that_are_not_there_are_asked_for(script):
    with pytest.raises(SystemExit, match=r"--data nowhere: expected alpaca_5k/train.jsonl.gz there"):
        script("poison").main(["--data", "nowhere"])


def test_examples_deleted_from_an_index_have_no_part(tmp_path):
    tracin, (ids, labels) = toy_tracin(trains=30)
    turned = ids.flip(1), labels
    kept = [index for index in range(30) if index not in (3, 29)]
    expected = stability_of([tracin.influence(asked)[:, kept] for asked in ((ids, labels), turned)])
    tracin.build_index(tmp_path / "index").delete([3, 29])
    stored, _ = toy_tracin(trains=30, index=tmp_path / "index")
    found = influence_stability(stored, (ids, labels), turned)
    assert found.order == tuple(kept[place] for place in expected.order)
    assert [one.z for one in found.examples] == pytest.approx([one.z for one in expected.examples], rel=1e-4)


def test_questions_that_are_none_are_refused_by_name():
    tracin, questions, other = tracin_and_questions()
    with pytest.raises(TypeError, match="influence_stability: `questions` is None: expected test examples"):
        influence_stability(tracin, None, other)
    with pytest.raises(TypeError, match="influence_stability: `transformation 2` is None"):
        influence_stability(tracin, questions, other, None)


def test_empty_questions_are_refused_by_the_name_that_was_typed():
    tracin, questions, other = tracin_and_questions()
    nothing = {"input_ids": [], "labels": []}
    for name, asked, options in (
        ("questions", ([], other), {}),
        ("transformation 1", (questions, []), {}),
        ("transformation 2", (questions, other, nothing), {}),
        ("ordinary", (questions, other), {"ordinary": torch.utils.data.DataLoader([])}),
    ):
        with pytest.raises(ValueError, match=f"influence_stability: `{name}` is empty: expected at least one"):
            influence_stability(tracin, *asked, **options)


def test_other_answers_are_refused():
    tracin, questions, (ids, labels) = tracin_and_questions()
    turned = labels.clone()
    turned[2] = 1
    message = "question 2 has the label 0, and 1 in transformation 2: expected the same answers"
    with pytest.raises(ValueError, match=message):
        influence_stability(tracin, questions, (ids, labels), (ids, turned))
    for batch_size in (1, 3):  # however they are batched
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(ids, turned), batch_size=batch_size)
        with pytest.raises(ValueError, match="expected the same answers"):
            influence_stability(tracin, questions, loader)


def test_a_bar_is_left_open_where_nobody_says(monkeypatch):
    tracin, questions, other = tracin_and_questions()
    asked, influence = [], TracInWE.influence

    def noted(self, inputs, *args, show_progress=False, **options):
        asked.append(show_progress)
        return influence(self, inputs, *args, **options)

    monkeypatch.setattr(TracInWE, "influence", noted)
    influence_stability(tracin, questions, other)
    influence_stability(tracin, questions, other, show_progress=True)
    assert asked == [None, None, True, True]
    with pytest.raises(TypeError, match="expected `show_progress` as True, False or None, got 3"):
        influence_stability(tracin, questions, other, show_progress=3)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_refused(odd):
    versions = scores()
    versions[1][2, 3] = odd
    with pytest.raises(ValueError, match="version 1 of the questions has scores that are NaN or infinite"):
        stability_of(versions)
