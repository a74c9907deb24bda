"""`lexical_bias`, `taken_up` and `independence_weights`, against closed forms and a solver that shares nothing with them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from captum_tracinwe.evaluation import bootstrap
from captum_tracinwe.testing import toy_tracin

from captum_tracinwe import word_report
from captum_tracinwe.neighbours import independence_weights, lexical_bias, taken_up

FOLDER = Path(__file__).parents[1] / "benchmarks" / "evidence"
DATA = Path(__file__).parents[2] / "shared" / "data"


def drawn(size=400, words=12, classes=3, seed=0):
    """Texts whose words lean to labels, each word in another way."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, size)
    lean = draw.uniform(0.1, 0.5, (words, classes))
    texts = [[f"w{k}" for k in range(words) if draw.random() < lean[k, y]] for y in labels]
    return texts, labels.tolist()


def shares(texts, labels, weights, word):
    """Label → share of the weight of the texts that hold a word."""
    holders = [i for i, text in enumerate(texts) if word in text]
    whole = sum(weights[i] for i in holders)
    return {y: sum(weights[i] for i in holders if labels[i] == y) / whole for y in set(labels)}


# ------------------------------------------------------------------------------------------------------- lexical_bias


def test_z_is_that_of_the_formula():
    texts = ["Nobody sleeps, nobody.", "a man sleeps"] * 30 + ["nobody runs"] * 20
    labels = ["no", "yes"] * 30 + ["yes"] * 20
    rows = {(one.word, one.label): one for one in lexical_bias(texts, labels).words}
    one, base = rows["nobody", "no"], 30 / 80
    z = (30 / 50 - base) / math.sqrt(base * (1 - base) / 50)
    assert (one.count, one.with_label) == (50, 30)  # a text holds a word or not
    assert (one.label_share, one.base_share) == (0.6, base)
    assert one.z == pytest.approx(z)
    assert one.p_value == pytest.approx(math.erfc(z / math.sqrt(2)) / 2)
    assert one.adjusted_p == pytest.approx(min(1.0, one.p_value * len(rows)))
    assert rows["nobody", "yes"].z == pytest.approx(-z)  # of two labels the other mirrors it
    sure = lexical_bias(["x"] * 300 + ["o"] * 300, [0] * 300 + [1] * 300).words[0]
    assert 0 < sure.p_value < 1e-60  # of z = 17: not rounded to 0
    assert len(rows) == 2 * len({"nobody", "sleeps", "a", "man", "runs"})


def test_weights_count_as_copies_do_in_shares():
    texts, labels = drawn()
    copies = np.random.default_rng(1).integers(0, 3, len(texts))
    repeated = [text for text, n in zip(texts, copies, strict=True) for _ in range(n)]
    of_them = [label for label, n in zip(labels, copies, strict=True) for _ in range(n)]
    weighted = {(one.word, one.label): one for one in lexical_bias(texts, labels, weights=copies.tolist()).words}
    for one in lexical_bias(repeated, of_them).words:
        assert weighted[one.word, one.label].label_share == pytest.approx(one.label_share)
        assert weighted[one.word, one.label].base_share == pytest.approx(one.base_share)
        assert abs(weighted[one.word, one.label].z) <= abs(one.z) + 1e-9  # copies are no new texts: Kish's n is smaller


def test_equal_weights_change_nothing():
    texts, labels = drawn()
    plain, weighted = (lexical_bias(texts, labels, weights=weights) for weights in (None, torch.full((400,), 7.0)))
    assert [one.word for one in plain.words] == [one.word for one in weighted.words]
    assert [one.z for one in weighted.words] == pytest.approx([one.z for one in plain.words])


def test_labels_dealt_at_random_are_no_bias():
    texts, labels = drawn(2000, 40)
    dealt = np.random.default_rng(3).permutation(labels).tolist()
    found = lexical_bias(texts, dealt, level=0.05)
    assert len(found.biased) <= 1
    assert found.mean_z == pytest.approx(math.sqrt(2 / math.pi), abs=0.12)
    assert lexical_bias(texts, labels).biased


def test_benjamini_and_hochberg_find_more_than_bonferroni():
    texts, labels = drawn()
    strict, loose = (lexical_bias(texts, labels, correction=name) for name in ("bonferroni", "benjamini-hochberg"))
    assert set(strict.biased)
    assert len(loose.biased) > len(strict.biased)
    assert [one.z for one in strict.words] == [one.z for one in loose.words]


def test_rare_words_are_left_out_and_numbers_are_names():
    found = lexical_bias(["a b", "a"] * 19 + ["a"], torch.tensor([1.0, 0.0] * 19 + [1.0]))
    assert {one.word for one in found.words} == {"a"}
    assert found.labels == ("0", "1")
    assert all(one.z == 0 for one in found.words)  # a word of all texts goes with no label
    assert math.isnan(lexical_bias(["x", "y"], [0, 1]).mean_z)


def test_it_is_a_table_and_a_text():
    found = lexical_bias(*drawn())
    assert len(found.rows()) == len(found.words) == 36
    assert "pairs of a word and a label go together beyond chance" in str(found)
    assert "'w" in str(found)
    assert "\n" not in repr(found)
    hostile = lexical_bias([["\x1b[2J"], ["b"]] * 30, [0, 1] * 30)
    assert "\x1b" not in str(hostile)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        (("a text", [0]), {}, TypeError, "expected `texts` as a list of str, or of lists of words, got str"),
        ((["a", 3], [0, 1]), {}, TypeError, "expected text 1 as a str or a list of str, got 3"),
        ((["a", "b"], [0]), {}, ValueError, "2 texts and 1 labels"),
        ((["a", "b"], [0, 0]), {}, ValueError, "at least two different labels, got 0"),
        (([], []), {}, ValueError, "at least two different labels, got no text"),
        ((["a", "b"], [0, None]), {}, TypeError, "expected label 1 as a name or a number, got None"),
        ((["a", "b"], [0, math.nan]), {}, TypeError, "expected label 1 as a name or a number, got nan"),
        ((["a", "b"], [1, "1"]), {}, TypeError, "as names or as numbers, got both"),
        ((["a", "b"], "01"), {}, TypeError, "expected `labels` as a list or a tensor, got str"),
        ((["a", "b"], [0, 1]), {"weights": [1]}, ValueError, "expected `weights` as 2 numbers, one a text"),
        (
            (["a", "b"], [0, 1]),
            {"weights": [1, -1]},
            ValueError,
            "finite `weights` of at least 0, not all 0, got -1 to 1",
        ),
        ((["a", "b"], [0, 1]), {"weights": [0, 0]}, ValueError, "not all 0"),
        ((["a", "b"], [0, 1]), {"correction": "holm"}, ValueError, "expected `correction` as one of 'bonferroni'"),
        ((["a", "b"], [0, 1]), {"level": 1}, ValueError, "expected `level` between 0 and 1, got 1"),
        ((["a", "b"], [0, 1]), {"least_texts": 0}, ValueError, "`least_texts` as a whole number of at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, options, error, match):
    with pytest.raises(error, match=match):
        lexical_bias(*arguments, **options)


# ----------------------------------------------------------------------------------------------------------- taken_up


def test_totals_are_those_of_the_report():
    tracin, inputs = toy_tracin()
    ids, labels = map(torch.cat, zip(*tracin.train_dataloader, strict=True))
    texts = [[f"#{token}" for token in row] for row in ids.tolist()]
    bias = lexical_bias(texts, labels, least_texts=1, level=0.999, correction="benjamini-hochberg")
    report = word_report(tracin, inputs, labels, draws=10)
    totals = {word.word: word.total for word in report.words}
    found = taken_up(bias, report)
    assert {one.word for one in found} == {one for one in bias.biased if one.word in totals}
    assert [one.total for one in found] == sorted((totals[one.word.word] for one in found), reverse=True)
    size = sum(map(abs, totals.values()))
    assert all(one.part == pytest.approx(abs(one.total) / size) for one in found)
    label = bias.labels[0]
    assert taken_up(bias, report, label=label) == tuple(one for one in found if one.word.label == label)
    with pytest.raises(ValueError, match="[Ee]xpected `label` as one of 0, 1"):
        taken_up(bias, report, label="x")
    with pytest.raises(TypeError, match="[Ee]xpected a LexicalBias and a WordReport, got WordReport and LexicalBias"):
        taken_up(report, bias)


# ------------------------------------------------------------------------------------------------ independence_weights


def test_shares_are_independent_under_the_weights():
    texts, labels = drawn()
    found = independence_weights(texts, labels, words=[f"w{k}" for k in range(12)], tolerance=1e-6)
    weights = found.weights.tolist()
    assert found.converged
    assert found.weights.mean() == pytest.approx(1)
    assert min(weights) >= 0
    assert max(weights) <= found.max_weight + 1e-9
    base = {y: labels.count(y) / len(labels) for y in set(labels)}
    whole = {y: sum(w for w, one in zip(weights, labels, strict=True) if one == y) / len(labels) for y in base}
    assert whole == pytest.approx(base, abs=1e-5)  # labels stay as frequent as they are
    distances = []
    for word in found.words:
        own = shares(texts, labels, weights, word)
        assert own == pytest.approx(base, abs=2e-6)
        distances += [abs(own[y] - base[y]) for y in base]
    assert found.residual == pytest.approx(max(distances), abs=1e-9)
    assert found.effective == pytest.approx(sum(weights) ** 2 / sum(w * w for w in weights))
    assert not lexical_bias(texts, labels, weights=weights).biased
    assert found.before == pytest.approx(
        max(abs(shares(texts, labels, [1] * 400, w)[y] - base[y]) for w in found.words for y in base)
    )


def test_of_one_word_the_weights_are_those_of_the_table():
    """One word and two labels: each cell of the table weighs what it would hold under independence, over what it holds."""
    counts = {(True, 0): 30, (True, 1): 10, (False, 0): 20, (False, 1): 60}
    texts, labels = [], []
    for (held, label), n in counts.items():
        texts += [["x"] if held else ["o"]] * n
        labels += [label] * n
    weights = independence_weights(texts, labels, words=["x"], tolerance=1e-8).weights
    # Of Σ w log w the least with both margins of labels as they are; the share of holders is free, and found by a search.
    part = np.linspace(0.05, 0.95, 180_001)
    entropy = 0
    for (held, label), n in counts.items():
        cell = (part if held else 1 - part) * (50 / 120 if label == 0 else 70 / 120)
        entropy = entropy + cell * np.log(cell / (n / 120))
    best = part[entropy.argmin()]
    for (held, label), n in counts.items():
        cell = (best if held else 1 - best) * (50 / 120 if label == 0 else 70 / 120)
        own = {
            round(float(w), 9)
            for w, t, y in zip(weights, texts, labels, strict=True)
            if (t == ["x"]) == held and y == label
        }
        assert len(own) == 1
        assert own.pop() == pytest.approx(cell / (n / 120), abs=1e-4)


def test_they_are_the_nearest_weights_within_the_bound():
    """Against SciPy's constrained minimiser of the entropy itself, bound and all."""
    optimize = pytest.importorskip("scipy.optimize")
    texts, labels = drawn(40, 3, 2, seed=5)
    rows = [[(word in text) * ((y == 0) - labels.count(0) / 40) for text, y in zip(texts, labels, strict=True)]
            for word in ("w0", "w1", "w2")]  # fmt: skip
    rows += [[(y == 0) - labels.count(0) / 40 for y in labels], [1 / 40] * 40]
    matrix, right = np.array(rows), np.array([0, 0, 0, 0, 1])
    free = independence_weights(texts, labels, words=["w0", "w1", "w2"], tolerance=1e-8, max_weight=50)
    bound = (1 + float(free.weights.max())) / 2
    for limit in (50, bound):
        found = independence_weights(texts, labels, words=["w0", "w1", "w2"], tolerance=1e-8, max_weight=limit)
        best = optimize.minimize(
            lambda w: (w * np.log(w)).sum(), np.ones(40), jac=lambda w: np.log(w) + 1, bounds=[(1e-9, limit)] * 40,
            constraints={"type": "eq", "fun": lambda w: matrix @ w - right, "jac": lambda w: matrix}, method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )  # fmt: skip
        assert best.success
        assert found.weights.numpy() == pytest.approx(best.x, abs=1e-4)
    assert float(found.weights.max()) == pytest.approx(bound, abs=1e-6)


def test_the_words_are_those_that_are_biased():
    texts, labels = drawn()
    found = independence_weights(texts, labels)
    assert set(found.words) == {one.word for one in lexical_bias(texts, labels).biased}
    assert "independent within the tolerance" in str(found)
    assert "\n" not in repr(found)
    again = independence_weights(texts, labels)
    assert torch.equal(found.weights, again.weights)


def test_what_cannot_be_reached_is_told():
    texts = [["x", "y"], ["x"], ["y"], ["x", "y"]] * 10
    labels = [0, 0, 0, 1] * 10
    with pytest.warns(
        UserWarning, match=r"a word's label share is 0\.\d+ from that of all texts, more than the tolerance of 0.01"
    ):
        found = independence_weights(texts, labels, words=["x", "y"], max_weight=1.01)
    assert not found.converged
    assert found.residual > 0.01
    assert found.weights.mean() == pytest.approx(1)
    assert float(found.weights.max()) <= 1.01 + 1e-9
    assert "not within the tolerance" in str(found)


def test_a_word_that_a_label_never_has_is_left_out():
    texts, labels = drawn()
    texts = [[*text, "only"] if y == 1 else text for text, y in zip(texts, labels, strict=True)]
    found = independence_weights(texts, labels)
    assert found.left_out == ("only",)
    assert "only" not in found.words
    assert found.converged
    with pytest.raises(ValueError, match="each word lacks a label, such as 'only'"):
        independence_weights(texts, labels, words=["Only"])


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"words": ["nowhere"]}, ValueError, "no text has the word 'nowhere'"),
        ({"words": []}, ValueError, "`words` is empty, so that nothing is to be done"),
        ({"words": "w0"}, TypeError, "expected `words` as a list of words, got the text 'w0'"),
        ({"max_weight": 1}, ValueError, "`max_weight` as a number above 1, got 1"),
        ({"max_weight": math.inf}, ValueError, "`max_weight` as a number above 1, got inf"),
        ({"tolerance": 0}, ValueError, "`tolerance` as a number above 0, got 0"),
        ({"max_steps": 0}, ValueError, "`max_steps` as a whole number of at least 1, got 0"),
    ],
)
def test_bad_options_of_weights_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        independence_weights(*drawn(60), **options)


def test_without_bias_nothing_is_to_be_done():
    with pytest.raises(ValueError, match="no word is biased"):
        independence_weights(["a", "a"] * 30, [0, 1] * 30)


@pytest.mark.parametrize("factor", [1e-200, 1e200, 1e308, 5e-324])
def test_weights_of_any_size_give_the_same(factor):
    texts, labels = drawn()
    weights = np.ones(len(texts))
    expected = lexical_bias(texts, labels, weights=weights)
    assert lexical_bias(texts, labels, weights=weights * factor) == expected
    # Those of one word alone are small: its share among its own texts stays.
    light = [factor if "w0" in text else 1.0 for text in texts] if factor < 1 else weights
    found = {(one.word, one.label): one for one in lexical_bias(texts, labels, weights=light).words}
    for one in expected.words:
        if one.word == "w0":
            assert found["w0", one.label].label_share == pytest.approx(one.label_share)


@pytest.mark.parametrize(
    "weights",
    [
        "abc",
        ["1"] * 60,
        [1j] * 60,
        [10**400] * 60,
        {0: 1},
        torch.ones(60).to_sparse(),
        torch.ones(60) + 0j,
        3,
        [{}] * 60,
    ],
)
def test_weights_that_are_no_numbers_are_refused(weights):
    with pytest.raises(TypeError, match="lexical_bias: expected `weights` as a list of 60 numbers or a tensor, got"):
        lexical_bias(*drawn(60), weights=weights)


def test_columns_of_pandas_are_lists_and_what_they_lack_is_named():
    pandas = pytest.importorskip("pandas")
    texts, labels = drawn(60)
    plain = lexical_bias(texts, labels, least_texts=2)
    joined = [" ".join(text) for text in texts]
    assert lexical_bias(pandas.Series(joined), pandas.Series(labels), least_texts=np.int64(2)) == plain
    assert lexical_bias(np.array(joined), np.array(labels)[::1], weights=np.ones(60)[::-1], least_texts=2) == plain
    lacking = [pandas.NA, *labels[1:]]
    for column in (
        pandas.Series(lacking),
        pandas.Series(lacking, dtype="Int64"),
        pandas.Series(map(str, lacking[1:]), dtype="string"),
    ):
        column.iloc[0] = pandas.NA
        with pytest.raises(TypeError, match="expected label 0 as a name or a number, got .*Leave its text out"):
            lexical_bias(texts[: len(column)], column)
    with pytest.raises(TypeError, match="expected `weights` as a list of 60 numbers"):
        lexical_bias(texts, labels, weights=pandas.Series([pandas.NA] * 60))


def test_labels_of_other_kinds_are_refused():
    texts, labels = drawn(60)
    for odd in (torch.tensor(labels).to_sparse(), b"01" * 30, {0: 1}):
        with pytest.raises(TypeError, match="expected `labels` as a list or a tensor, got"):
            lexical_bias(texts, odd)
    for odd in ([torch.ones(2)] * 60, [1j] * 60, torch.ones(60) + 0j, np.eye(60)):
        with pytest.raises(
            TypeError, match="expected (label 0 as a name or a number|`labels` as a list or a tensor), got"
        ):
            lexical_bias(texts, odd)


@pytest.mark.parametrize("words", [[3], [None], [b"w0"], 3, torch.ones(2).to_sparse(), {"w0": 1}])
def test_words_of_other_types_are_refused(words):
    with pytest.raises(
        TypeError, match="independence_weights: expected (`words` as a list of words|each of `words` as a str)"
    ):
        independence_weights(*drawn(60), words=words)


def test_numbers_of_numpy_are_numbers():
    texts, labels = drawn(60)
    options = {
        "max_steps": np.int64(40),
        "max_weight": np.float32(8),
        "tolerance": np.float64(0.01),
        "least_texts": np.int32(3),
    }
    found = independence_weights(texts, labels, words=np.array(["w0"]), **options)
    assert found.max_weight == 8
    assert lexical_bias(texts, labels, level=np.float32(0.5), least_texts=np.int64(2)).level == 0.5
    with pytest.raises(ValueError, match="`max_weight` as a number above 1, got 1000000"):
        independence_weights(texts, labels, words=["w0"], max_weight=10**400)
    with pytest.raises(ValueError, match="independence_weights: expected `least_texts` as a whole number"):
        independence_weights(texts, labels, least_texts=0)


# ----------------------------------------------------------------------------------------------------------- evidence


@pytest.mark.slow  # six models of two data sets
@pytest.mark.skipif(not FOLDER.is_dir() or not (DATA / "snli").is_dir(), reason="the benchmarks or data are not here")
@pytest.mark.filterwarnings("ignore:independence_weights")  # of 300 texts
def test_the_evidence_runs_and_becomes_a_table(script, tmp_path, monkeypatch):
    monkeypatch.setitem(bootstrap.__kwdefaults__, "draws", 200)
    bias = script("bias")
    bias.main(["--preset", "smoke", "--data", str(DATA), "--out", str(tmp_path)])
    content = json.loads((tmp_path / "bias-cnn-smoke.json").read_text())
    assert "/" not in json.dumps(content)
    table = bias.table(content)
    assert "| models: accuracy, " in table
    assert "nan" not in table


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the benchmarks are not here")
def test_data_that_are_not_there_are_asked_for(script):
    with pytest.raises(SystemExit, match="--data nowhere: expected snli there"):
        script("bias").main(["--data", "nowhere"])
