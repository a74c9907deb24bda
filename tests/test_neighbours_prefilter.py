"""The prefilter against a search of everything, the sampled solve against a dense one, and what both refuse."""

import json
import math
import sys
import types
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from captum_tracinwe.evaluation import bootstrap
from captum_tracinwe.methods import Examples, Explained
from captum_tracinwe.retraining import TextCNN

from captum_tracinwe import RowGradients, methods, save_checkpoint
from captum_tracinwe.neighbours import Candidates, last_features, prefilter, s_test
from captum_tracinwe.preconditioners import GaussNewton

FOLDER = Path(__file__).parents[1] / "benchmarks" / "evidence"
DATA = Path(__file__).parents[2] / "shared" / "data"


def texts(count, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Examples(
        (torch.randn(count, width, generator=generator), torch.zeros(count)), [[str(i)] for i in range(count)]
    )


def product(test, train):
    return test.batch[0] @ train.batch[0].T


# -------------------------------------------------------------------------------------------------------- the search


@pytest.mark.parametrize("measure", ["cosine", "l2", "dot"])
def test_the_nearest_are_those_of_a_plain_loop(measure, monkeypatch):
    monkeypatch.setattr("captum_tracinwe.neighbours.prefiltering.AT_ONCE", 50)  # a few questions at a time
    train, test = torch.randn(40, 6), torch.randn(7, 6)
    far = {
        "cosine": lambda a, b: (
            -sum(x * y for x, y in zip(a, b, strict=True)) / math.dist(a, [0] * 6) / math.dist(b, [0] * 6)
        ),
        "l2": math.dist,
        "dot": lambda a, b: -sum(x * y for x, y in zip(a, b, strict=True)),
    }[measure]
    expected = [sorted(range(40), key=lambda j, q=q: far(q, train[j].tolist()))[:9] for q in test.tolist()]
    assert prefilter(train, test, 9, measure=measure, engine="torch").indices.tolist() == expected


def test_faiss_is_asked_where_it_is_installed(monkeypatch):
    """A stand-in with the calls of faiss' flat indices, which answers in int64 arrays."""

    class Flat:
        def __init__(self, width):
            self.width = width

        def add(self, train):
            assert train.dtype == np.float32
            assert train.shape[1] == self.width
            self.train = train

    class L2(Flat):
        def search(self, test, count):
            far = ((test[:, None] - self.train[None]) ** 2).sum(2)
            return None, far.argsort(1)[:, :count]

    class Ip(Flat):
        def search(self, test, count):
            return None, (-test @ self.train.T).argsort(1)[:, :count]

    fake = types.ModuleType("faiss")
    fake.IndexFlatL2, fake.IndexFlatIP = L2, Ip
    fake.__spec__ = types.SimpleNamespace(name="faiss")
    monkeypatch.setitem(sys.modules, "faiss", fake)
    train, test = torch.randn(40, 6), torch.randn(7, 6)
    for measure in ("cosine", "l2", "dot"):
        plain = prefilter(train, test, 5, measure=measure, engine="torch").indices
        for engine in ("auto", "faiss"):
            assert torch.equal(prefilter(train, test, 5, measure=measure, engine=engine).indices, plain)


def test_equal_features_come_in_the_order_of_the_texts():
    found = prefilter(torch.ones(6, 2), torch.ones(1, 2), 4, engine="torch")
    assert found.indices.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("proponents", [True, False])
def test_the_best_candidates_are_those_of_all_scores_without_the_others(proponents):
    train, test = texts(30), texts(4, seed=1)
    near = prefilter(*(texts(n, seed=s).batch[0] for n, s in ((30, 2), (4, 3))), 8)  # features that say nothing
    found = near.score(product, test, train, 3, proponents=proponents)
    exact = product(test, train)
    for i in range(4):
        own = sorted(near.indices[i].tolist(), key=lambda j, i=i: float(exact[i, j]), reverse=proponents)[:3]
        assert found.indices[i].tolist() == own
        assert torch.allclose(found.scores[i], exact[i, own])
    assert found.scored == len({j for row in near.indices.tolist() for j in row})
    alone = Candidates(near.indices[2:3], 30).score(product, Examples((test.batch[0][2:3], torch.zeros(1))), train, 3,
                                                    proponents=proponents)  # fmt: skip
    assert torch.equal(alone.indices[0], found.indices[2])  # who else is asked does not matter
    assert len(found.to_table()) == 12


@pytest.mark.parametrize("timed", [True, False])
def test_recall_is_the_share_of_the_exact_best_among_the_candidates(timed):
    train, test = texts(30), texts(4, seed=1)
    near = prefilter(*(texts(n, seed=s).batch[0] for n, s in ((30, 2), (4, 3))), 20)
    report = near.recall(product, test, train, 5, counts=(5, 10, 20), timed=timed)
    exact = product(test, train)
    for i in range(4):
        best = set(sorted(range(30), key=lambda j, i=i: -float(exact[i, j]))[:5])
        for place, count in enumerate((5, 10, 20)):
            assert report.recall[i, place] == pytest.approx(len(best & set(near.indices[i, :count].tolist())) / 5)
    interval = report.interval(10, draws=200)
    assert interval.low <= interval.estimate == pytest.approx(float(report.recall[:, 1].mean()))
    assert ("s against" in str(report)) == timed
    assert len(report.to_table(draws=100)) == 3
    given = near.recall(product, test, train, 5, counts=(5, 10, 20), exact=exact, timed=False)
    assert torch.equal(given.recall, report.recall)


def test_all_texts_as_candidates_miss_nothing():
    train, test = texts(12), texts(3, seed=1)
    report = prefilter(train.batch[0], test.batch[0], 12).recall(product, test, train, 4)
    assert report.counts == (4, 6, 12)
    assert report.recall[:, -1].eq(1).all()
    assert report.changed < 1e-6


def test_a_scorer_that_learns_from_its_training_texts_is_told():
    def centred(test, train):
        scores = product(test, train)
        return scores - scores.mean(1, keepdim=True)

    train, test = texts(30), texts(4, seed=1)
    near = prefilter(train.batch[0], test.batch[0], 6, measure="dot")
    with pytest.warns(UserWarning, match="gives other scores on the candidates than on all texts"):
        assert near.recall(centred, test, train, 3).changed > 0.1


def test_words_and_captums_all_layers_go_through(tmp_path):
    model, file = TextCNN(30, 2, width=4, filters=3), str(tmp_path / "step-1.pt")
    save_checkpoint(file, model, learning_rate=0.1)
    explained = Explained(model, [file], torch.nn.CrossEntropyLoss(reduction="none"))
    sides = []
    for count in (3, 14):
        ids = torch.randint(1, 30, (count, 9))
        sides.append(Examples((ids, torch.arange(count) % 2), [[str(i) for i in row] for row in ids.tolist()]))
    test, train = sides
    features = [last_features(explained, side) for side in (train, test)]
    assert [tuple(side.shape) for side in features] == [(14, 3), (3, 3)]
    assert torch.allclose(features[1], _pooled(model, test.batch[0]), atol=1e-6)
    near = prefilter(*features, 14)
    for scorer in (methods.tracin_layers(explained, None), methods.bm25):
        found = near.score(scorer, test, train, 2)
        assert torch.allclose(found.scores, scorer(test, train).topk(2).values, rtol=1e-4)


def _pooled(model, ids):
    inputs = []
    handle = model.out.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    model.eval()(ids)
    handle.remove()
    return inputs[0]


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda: prefilter([[1.0]], torch.ones(1, 1), 1),
            TypeError,
            "`features_train` as a tensor, dense and of real numbers, got list",
        ),
        (lambda: prefilter(torch.ones(3), torch.ones(1, 1), 1), ValueError, r"shape \(texts, H\), got \(3,\)"),
        (lambda: prefilter(torch.ones(3, 2), torch.ones(1, 1), 1), ValueError, "one width, got 2 .* and 1"),
        (lambda: prefilter(torch.ones(3, 2), torch.ones(1, 2) / 0, 1), ValueError, "`features_test` holds NaN"),
        (lambda: prefilter(torch.ones(3, 2), torch.ones(1, 2), 4), ValueError, "from 1 to the 3 training texts, got 4"),
        (lambda: prefilter(torch.ones(3, 2), torch.ones(1, 2), 0), ValueError, "got 0"),
        (lambda: prefilter(torch.ones(3, 2), torch.ones(1, 2), 1, measure="l1"), ValueError, "'cosine', 'l2', 'dot'"),
        (lambda: prefilter(torch.ones(3, 2), torch.ones(1, 2), 1, engine="annoy"), ValueError, "`engine` as one of"),
        (lambda: Candidates(torch.ones(2, 2), 4), TypeError, "int64 tensor"),
        (lambda: Candidates(torch.tensor([[0, 4]]), 4), ValueError, "below the 4 training texts, got 0 to 4"),
        (lambda: Candidates(torch.tensor([[0, 1], [2, 2]]), 4), ValueError, "got one twice for question 1"),
        (lambda: NEAR.score(product, texts(3), texts(9), 1), ValueError, "expected the 2 test texts"),
        (lambda: NEAR.score(product, texts(2), texts(8), 1), ValueError, "expected the 9 train texts"),
        (lambda: NEAR.score(product, texts(2), texts(9), 4), ValueError, "k from 1 to the 3 candidates"),
        (lambda: NEAR.score("WE", texts(2), texts(9), 1), TypeError, "expected a scorer"),
        (lambda: NEAR.score(product, texts(2).batch, texts(9), 1), TypeError, "`test` as methods.Examples, got tuple"),
        (
            lambda: NEAR.score(lambda a, b: torch.ones(9), texts(2), texts(9), 1),
            ValueError,
            "The scorer gave scores of shape",
        ),
        (lambda: NEAR.score(lambda a, b: product(a, b) / 0, texts(2), texts(9), 1), ValueError, "NaN or infinite"),
        (lambda: NEAR.recall(product, texts(2), texts(9), 4), ValueError, "k from 1 to the 3 candidates"),
        (lambda: NEAR.recall(product, texts(2), texts(9), 2, counts=(1, 3)), ValueError, "counts from k = 2 to the 3"),
        (lambda: NEAR.recall(product, texts(2), texts(9), 2, exact=torch.ones(2, 3)), ValueError, r"shape \(2, 9\)"),
        (lambda: NEAR.recall(product, texts(2), texts(9), 2).interval(7), ValueError, "one of the counts"),
    ],
)
def test_what_cannot_be_searched_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()


NEAR = Candidates(torch.tensor([[0, 1, 2], [3, 4, 5]]), 9)


def test_a_faiss_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr("captum_tracinwe.neighbours.prefiltering.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install faiss-cpu, or engine='torch'"):
        prefilter(torch.ones(3, 2), torch.ones(1, 2), 1, engine="faiss")


@pytest.mark.parametrize("measure", ["cosine", "l2", "dot"])
@pytest.mark.parametrize(
    ("size", "middle"), [(1.0, 1e4), (1e19, 0.0), (1e-12, 0.0), (1e-30, 0.0), (1e37, 0.0), (1.0, 0.0)]
)
def test_neighbours_are_exact_whatever_the_size_of_features_and_wherever_they_lie(measure, size, middle):
    generator = torch.Generator().manual_seed(1)
    train, test = (torch.randn(count, 40, generator=generator) * size + middle for count in (60, 7))

    def far(a, b):  # in fractions, exactly
        a, b = ([Fraction(value) for value in side.tolist()] for side in (a, b))
        product = sum(x * y for x, y in zip(a, b, strict=True))
        if measure == "l2":
            return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
        sign = -1 if product > 0 else 1
        return -product if measure == "dot" else sign * product**2 / sum(x * x for x in a) / sum(y * y for y in b)

    found = prefilter(train, test, 9, measure=measure, engine="torch").indices
    for question, own in zip(test, found.tolist(), strict=True):
        assert own == sorted(range(60), key=lambda j, q=question: far(q, train[j]))[:9]


def test_features_of_zeros_and_of_whole_numbers_keep_the_order_of_equals():
    train = torch.tensor([[0, 0], [3, 0], [-3, 0], [0, 3], [5, 5]])
    assert prefilter(train, torch.tensor([[0, 0]]), 4, measure="l2", engine="torch").indices.tolist() == [[0, 1, 2, 3]]
    with pytest.warns(UserWarning, match="`features_test` is 0 throughout for 1 of 1 questions"):
        assert prefilter(train, torch.zeros(1, 2), 5, engine="torch").indices.tolist() == [[0, 1, 2, 3, 4]]
    for measure in ("cosine", "dot", "l2"):
        with pytest.warns(UserWarning, match="`features_train` holds the same vector for every text"):
            prefilter(torch.zeros(3, 2), torch.ones(1, 2), 2, measure=measure, engine="torch")
    assert prefilter(train, torch.tensor([[1, 0]]), 2, measure="dot", engine="torch").indices.tolist() == [[4, 1]]


def test_faiss_is_given_features_near_to_zero(monkeypatch):
    class Flat:
        def __init__(self, width):
            pass

        def add(self, train):
            self.train = train

        def search(self, test, count):  # as faiss has it: by products, in float32
            far = (test**2).sum(1)[:, None] + (self.train**2).sum(1)[None] - 2 * test @ self.train.T
            return None, far.argsort(1, kind="stable")[:, :count]

    fake = types.ModuleType("faiss")
    fake.IndexFlatL2 = fake.IndexFlatIP = Flat
    fake.__spec__ = types.SimpleNamespace(name="faiss")
    monkeypatch.setitem(sys.modules, "faiss", fake)
    train, test = (torch.randn(n, 6, generator=torch.Generator().manual_seed(n)) + 3e4 for n in (40, 7))
    plain = prefilter(train, test, 5, measure="l2", engine="torch").indices
    assert torch.equal(prefilter(train, test, 5, measure="l2", engine="faiss").indices, plain)


@pytest.mark.parametrize("odd", [torch.ones(9, 3).to_sparse(), torch.ones(9, 3) + 0j, torch.ones(9, 3, device="meta")])
def test_tensors_whose_numbers_cannot_be_read_are_refused(odd):
    with pytest.raises(TypeError, match="`features_test` as a tensor, dense and of real numbers, got Tensor of torch"):
        prefilter(torch.ones(9, 3), odd, 2)
    with pytest.raises(TypeError, match="Candidates: expected indices as an int64 tensor"):
        Candidates(odd, 9)
    if not odd.is_meta:
        with pytest.raises(TypeError, match="The scorer gave no scores but Tensor of torch.*expected a tensor"):
            NEAR.score(lambda a, b: odd, texts(2), texts(9), 1)
        with pytest.raises(TypeError, match=r"Candidates\.recall: expected scores as a tensor, dense"):
            NEAR.recall(product, texts(2), texts(9), 1, exact=odd)


def test_scores_that_are_no_tensor_are_refused_and_whole_numbers_are_scores():
    for odd in (None, np.ones((2, 9)), [[1.0] * 9] * 2):
        with pytest.raises(TypeError, match=f"The scorer gave no scores but {type(odd).__name__}: expected a tensor"):
            NEAR.score(lambda a, b, odd=odd: odd, texts(2), texts(9), 1)
    found = NEAR.score(lambda a, b: product(a, b).mul(100).long(), texts(2), texts(9), 1)
    assert found.indices.shape == (2, 1)


def test_other_arguments_are_refused_by_name():
    for proponents in (None, "opponents"):
        with pytest.raises(TypeError, match="`proponents` should be True or False"):
            NEAR.score(product, texts(2), texts(9), 1, proponents=proponents)
    with pytest.raises(
        TypeError, match=r"last_features: expected methods\.Explained and methods\.Examples, got NoneType"
    ):
        last_features(None, texts(2))
    assert NEAR.recall(product, texts(2), texts(9), 1, counts=torch.tensor([2, 3])).counts == (2, 3)


def test_a_report_of_one_question_can_be_read():
    near = Candidates(torch.tensor([[0, 1, 2]]), 9)
    report = near.recall(product, texts(1), texts(9), 2)
    assert "(one question, no interval)" in str(report)
    table = report.to_table()
    assert math.isnan(table[0]["low"] if isinstance(table, list) else table["low"][0])
    with pytest.raises(ValueError, match=r"of one question.*expected two or more\. report\.recall has its figures"):
        report.interval(3)


def test_scores_that_are_all_the_same_rank_nothing():
    exact = torch.stack([torch.arange(9.0), torch.zeros(9)])
    with pytest.raises(
        ValueError, match="all 9 exact scores of question 1 are 0, which ranks nothing: expected different"
    ):
        NEAR.recall(product, texts(2), texts(9), 2, exact=exact)
    with pytest.raises(ValueError, match="all 9 exact scores of question 0 are 0"):
        NEAR.recall(lambda a, b: product(a, b) * 0, texts(2), texts(9), 2)


def test_of_equal_scores_any_will_do():
    exact = torch.tensor([[3.0, 1, 1, 1, 0, 0, 0, 0, 0]]).double()
    near = Candidates(torch.tensor([[3, 2, 8, 0]]), 9)
    report = near.recall(
        lambda a, b: exact[:, -len(b) :], texts(1), texts(9), 2, counts=(2, 3, 4), exact=exact, timed=False
    )
    assert report.recall.tolist() == [[0.5, 0.5, 1.0]]  # one of the three that are second best is enough


# --------------------------------------------------------------------------------------------------------- the solve


def rows(count, seed, words=9, width=3, low=0):
    generator = torch.Generator().manual_seed(seed)
    examples, ids = (
        torch.arange(count).repeat_interleave(4),
        torch.randint(low, words, (4 * count,), generator=generator),
    )
    return RowGradients.from_positions(
        examples, ids, torch.randn(4 * count, width, generator=generator).double(), count
    )


def dense(train, questions, damping, words=12):
    """(F + λ I)⁻¹ q as one long vector each, λ in units of the mean of the diagonal over the words that occur."""
    g, q = (side.to_dense(words).flatten(1) for side in (train, questions))
    fisher = g.T @ g / len(g)
    known = len(torch.unique(train.ids)) * train.width
    solved = torch.linalg.solve(fisher + damping * fisher.trace() / known * torch.eye(g.shape[1]).double(), q.T)
    return solved.T.reshape(len(q), words, train.width)


@pytest.mark.parametrize("damping", [0.5, 5.0])
def test_with_all_texts_in_each_step_it_is_the_dense_solution(damping):
    train, questions = rows(10, 0), rows(3, 1, words=12)  # with words that no training text holds
    found = s_test(train, questions, damping=damping, depth=4000, batch_size=10)
    assert torch.allclose(found.rows.to_dense(12), dense(train, questions, damping), atol=1e-8)
    assert float(found.residual.max()) < 1e-8
    exact = GaussNewton(damping=damping).fit(train).apply(questions)
    assert torch.allclose(found.rows.dot(train), exact.dot(train))


def test_batches_come_nearer_with_more_runs_and_the_residual_is_that_of_the_dense_matrix():
    train, questions = rows(10, 0), rows(3, 1, words=12)
    exact = dense(train, questions, 10.0)
    errors = []
    for repeats in (1, 32):
        found = s_test(train, questions, damping=10.0, depth=100, batch_size=2, repeats=repeats, seed=3)
        errors.append(float((found.rows.to_dense(12) - exact).norm()))
    assert errors[1] < errors[0] / 3
    g = train.to_dense(12).flatten(1)
    matrix = g.T @ g / 10 + found.dampings[0] * torch.eye(36).double()
    q = questions.to_dense(12).flatten(1)
    expected = (found.rows.to_dense(12).flatten(1) @ matrix - q).norm(dim=1) / q.norm(dim=1)
    assert torch.allclose(found.residual[:, 0], expected)


def test_a_block_of_questions_is_as_each_alone_and_a_long_run_does_not_underflow(monkeypatch):
    train, questions = rows(10, 0), rows(5, 1)
    # The factor that an estimate's parts share falls below 1e-300 on the way.
    together = s_test(train, questions, damping=100, depth=800, batch_size=3)
    monkeypatch.setattr("captum_tracinwe.neighbours.sampled_inverse.MEMORY", 1)
    alone = s_test(train, questions, damping=100, depth=800, batch_size=3)
    assert torch.allclose(together.rows.values, alone.rows.values)
    assert torch.isfinite(alone.rows.values).all()


def test_checkpoints_are_solved_one_by_one():
    train, questions = rows(10, 0, width=6), rows(3, 1, width=6)
    both = s_test(train, questions, depth=50, checkpoints=2)
    for c in range(2):
        one = s_test(train.columns(3 * c, 3 * c + 3), questions.columns(3 * c, 3 * c + 3), depth=50)
        assert torch.allclose(both.rows.columns(3 * c, 3 * c + 3).values, one.rows.values)
        assert both.scales[c] == one.scales[0]
    assert both.residual.shape == (3, 2)


def test_gradients_of_zero_answer_zero():
    train = rows(4, 0).scale(0.0)
    found = s_test(train, rows(2, 1))
    assert found.rows.dot(train).eq(0).all()
    assert found.residual.eq(1).all()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"depth": 0}, ValueError, "`depth` as a whole number of at least 1, got 0"),
        ({"batch_size": 11}, ValueError, "at most the 10 training texts, got 11"),
        ({"repeats": 1.5}, ValueError, "`repeats`"),
        ({"checkpoints": 2}, ValueError, "for 2 checkpoint"),
        ({"damping": 0}, ValueError, "`damping` should be a finite number above 0, got 0"),
        ({"scale": 1e-6}, ValueError, "`scale` above the damping"),
        ({"scale": 0.2, "damping": 0.01, "depth": 4000}, ValueError, "the recursion diverged with a scale of 0.2"),
    ],
)
def test_what_cannot_be_solved_is_refused(options, error, match):
    with pytest.raises(error, match=match):
        s_test(rows(10, 0), rows(2, 1), **options)


def test_other_things_than_rows_are_refused():
    with pytest.raises(TypeError, match="s_test, `train`: expected RowGradients, got list"):
        s_test([], rows(2, 1))
    with pytest.raises(ValueError, match="rows of 3 columns and questions of 4"):
        s_test(rows(10, 0), rows(2, 1, width=4))
    with pytest.raises(ValueError, match="there are no training rows"):
        s_test(rows(2, 0).exclude(list(range(9))), rows(2, 1))


# ------------------------------------------------------------------------------------------------------ the experiment


@pytest.mark.skipif(
    not (FOLDER.is_dir() and (DATA / "ag_news").is_dir()), reason="the benchmarks or the data are not here"
)
@pytest.mark.slow
def test_the_experiment_runs_and_its_result_becomes_a_table(script, tmp_path, monkeypatch):
    monkeypatch.setitem(bootstrap.__kwdefaults__, "draws", 200)
    monkeypatch.setattr(script("prefilter"), "SAMPLED", ((100, 1, 1), (100, 1, 2)))
    script("prefilter").main(
        [
            "--preset",
            "smoke",
            "--seeds",
            "1",
            "--texts",
            "80",
            "--no-sentences",
            "--data",
            str(DATA),
            "--out",
            str(tmp_path),
        ]
    )
    content = json.loads((tmp_path / "prefilter-ag_news-cnn-smoke.json").read_text())
    assert "/" not in json.dumps(content)
    table = script("prefilter").table(content)
    assert "| last layer, cosine |" in table
    assert "nan" not in table
    assert min(content["index"][0]["recall"]) == 1  # bound and verify is exact


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"seed": 2**64}, r"`seed` as a whole number of at least 0 and below 2\*\*63, got 18446744073709551616"),
        ({"seed": -1}, "got -1"),
        ({"seed": None}, "got None"),
        ({"seed": 1.5}, "got 1.5"),
        ({"damping": 10**400}, "^s_test: `damping` should be a finite number above 0, got 1000000"),
        ({"damping": 1e-323}, "s_test: `damping` of 1e-323 times the mean of F's diagonal.*is 0: expected"),
        ({"scale": 10**400}, "^s_test: `scale` should be a finite number above 0"),
    ],
)
def test_numbers_that_no_solve_can_take_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        s_test(rows(10, 0).scale(0.1), rows(2, 1), **options)


def test_a_damping_that_is_all_of_the_scale_is_solved():
    train, questions = rows(10, 0), rows(2, 1)
    for damping in (1e10, 1e20, 1e200):
        found = s_test(train, questions, damping=damping, depth=50, batch_size=10)
        assert torch.allclose(found.rows.to_dense(12) * damping, dense(train, questions, damping) * damping, rtol=1e-6)
        assert float(found.residual.max()) < 1e-8
