"""The regression on words equals a dense oracle and what fitting without a text shows; what does not fit is refused."""

import math
import os
import random
import re
import sys

import pytest
import torch
from captum_tracinwe.evaluation import spearman

from captum_tracinwe import methods
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints
from captum_tracinwe.installing import install

pytest.importorskip("sklearn")
CLASSES = 3


def corpus(count, seed, classes=CLASSES):
    """Texts of a few words, each class with words it likes."""
    draw = random.Random(seed)
    labels = torch.tensor([i % classes for i in range(count)])
    words = [
        [f"w{draw.choice([label, label, label + 3, *range(9)])}" for _ in range(draw.randint(1, 7))]
        for label in labels.tolist()
    ]
    return methods.Examples((torch.ones(count, 4, dtype=torch.int64), labels), words)


def without(train, j):
    keep = [i for i in range(len(train)) if i != j]
    return methods.Examples(tuple(field[keep] for field in train.batch), [train.words[i] for i in keep])


class Dense:
    """The same regression in float64 by its definition: features by hand, Newton's steps with the Hessian of autograd."""

    def __init__(self, train, penalty, pairs=False, min_count=1):
        self.pairs = pairs
        cut = [self.cut(words) for words in train.words]
        holders = {word: sum(word in words for words in cut) for words in cut for word in words}
        self.idf = {w: 1 + math.log((1 + len(cut)) / (1 + n)) for w, n in sorted(holders.items()) if n >= min_count}
        self.x, self.y, self.total = self.features(train.words), train.labels, len(train) * penalty
        self.keep = torch.ones(len(train), dtype=torch.bool)
        self.weights = self.fit()

    def cut(self, words):
        return [*words, *(" ".join(words[i : i + 2]) for i in range(len(words) - 1) if self.pairs)]

    def features(self, texts):
        rows = torch.tensor(
            [[self.cut(words).count(w) * idf for w, idf in self.idf.items()] for words in texts], dtype=torch.float64
        )
        rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-300)
        return torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], 1)

    def loss(self, flat, x, y):
        return torch.nn.functional.cross_entropy(x @ flat.view(x.shape[1], -1), y, reduction="sum")

    def objective(self, flat):
        words = flat.view(self.x.shape[1], -1)[:-1]
        return self.loss(flat, self.x[self.keep], self.y[self.keep]) + self.total / 2 * words.square().sum()

    def hessian(self, flat):
        return torch.autograd.functional.hessian(self.objective, flat)

    def inverse(self, flat):
        """Of H; what all classes share of the intercept moves nothing."""
        return torch.linalg.pinv(self.hessian(flat), hermitian=True, rtol=1e-9)

    def fit(self, start=None):
        flat = torch.zeros(self.x.shape[1] * (int(self.y.max()) + 1), dtype=torch.float64) if start is None else start
        for _ in range(30):
            gradient = torch.autograd.functional.jacobian(self.objective, flat)
            if gradient.norm() < 1e-13:
                return flat
            flat = flat - self.inverse(flat) @ gradient
        raise AssertionError(f"not fitted: {gradient.norm()}")

    def gradients(self, x, y):
        one = torch.autograd.functional.jacobian
        return torch.stack(
            [one(lambda f, i=i: self.loss(f, x[i : i + 1], y[i : i + 1]), self.weights) for i in range(len(y))]
        )

    def influence(self, test):
        asked = self.gradients(self.features(test.words), test.labels)
        return asked @ self.inverse(self.weights) @ self.gradients(self.x, self.y).T


def assert_close(found, expected, part=1e-6):
    assert float((found - expected).abs().max()) <= part * float(expected.abs().max())


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    "options", [{}, {"penalty": 1e-1}, {"pairs": True}, {"min_count": 4, "penalty": 1e-2}], ids=str
)
def test_it_is_the_influence_function_of_a_dense_oracle(options, classes):
    train, test = corpus(24, 1, classes), corpus(5, 2, classes)
    test.words[0].append("a word no training text holds")
    found = methods.bag_regression(**options)(test, train)
    assert found.dtype == torch.float64
    assert_close(found, Dense(train, **{"penalty": 1e-3, **options}).influence(test))


def test_it_is_what_fitting_without_a_text_shows():
    train, test, penalty = corpus(40, 3), corpus(6, 4), 3e-2
    scores = methods.bag_regression(penalty=penalty)(test, train)
    dense = Dense(train, penalty)
    x = dense.features(test.words)
    whole, rises = dense.weights, torch.empty(6, 40, dtype=torch.float64)
    for j in range(40):
        dense.keep[:] = True
        dense.keep[j] = False
        fitted = dense.fit(whole)
        for i in range(6):
            asked = x[i : i + 1], test.labels[i : i + 1]
            rises[i, j] = dense.loss(fitted, *asked) - dense.loss(whole, *asked)
    assert float(spearman(scores, rises).min()) >= 0.95
    clear = rises.abs() > rises.abs().max() / 100
    assert clear.sum() > 60
    assert torch.equal(scores[clear].sign(), rises[clear].sign())


def test_its_weights_are_scikit_learns():
    from sklearn.linear_model import LogisticRegression

    train = corpus(60, 5)
    fitted = methods.BagRegression.fit(train, penalty=1e-2)
    theirs = LogisticRegression(C=1 / (60 * 1e-2), tol=1e-10, max_iter=10_000).fit(fitted.train[:, :-1], train.labels)
    assert_close(torch.from_numpy(fitted.weights[:-1].T), torch.from_numpy(theirs.coef_))
    probabilities = fitted.probabilities(fitted.features(train.words))
    assert_close(torch.from_numpy(probabilities), torch.from_numpy(theirs.predict_proba(fitted.train[:, :-1])))


def test_its_hessian_is_solved_for_any_columns():
    """The block form of the dense inverse, whatever the columns: those that only some classes' rows fill too."""
    train = corpus(24, 6)
    fitted, dense = methods.BagRegression.fit(train), Dense(train, 1e-3)
    words, classes = fitted.weights.shape
    columns = torch.randn(words, classes, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    columns[-1] -= columns[-1].mean(0)  # of the intercept what all classes share has no inverse
    columns[..., 3] = 0
    before = columns.clone()
    found = torch.from_numpy(fitted.hessian_solve(columns.numpy()))
    expected = dense.inverse(dense.weights) @ columns.reshape(-1, 4)
    assert_close(found.reshape(-1, 4), expected)
    in_float32 = torch.from_numpy(fitted.hessian_solve(columns.float().numpy()))
    assert_close(in_float32.reshape(-1, 4), expected, 1e-4)
    assert torch.equal(columns, before)
    assert list(fitted.vectorizer.get_feature_names_out()) == list(dense.idf)


def test_it_is_repeatable_and_knows_no_order():
    """Neither of classes nor of texts nor of questions asked together."""
    train, test = corpus(24, 7), corpus(5, 8)
    method = methods.bag_regression()
    found = method(test, train)
    assert torch.equal(method(test, train), found)
    other = torch.tensor([7, 0, 3])  # other numbers for the classes, in another order
    renamed = [methods.Examples((side.batch[0], other[side.labels]), side.words) for side in (test, train)]
    assert_close(method(*renamed), found, 1e-8)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    mixed = methods.Examples(tuple(f[order] for f in train.batch), [train.words[i] for i in order.tolist()])
    assert_close(method(test, mixed), found[:, order], 1e-8)
    assert_close(method(without(test, 0), train), found[1:], 1e-8)


def test_questions_in_blocks_are_those_asked_at_once(monkeypatch):
    from captum_tracinwe.evidence.methods import fitted_bag

    train, test = corpus(24, 7), corpus(5, 8)
    found = methods.bag_regression()(test, train)
    monkeypatch.setattr(fitted_bag, "BLOCK", 80)  # two questions of 10 rows and 3 classes
    assert_close(methods.bag_regression()(test, train), found, 1e-8)


def test_a_text_without_words_has_the_intercept_alone():
    train, test = corpus(24, 9), corpus(3, 10)
    train.words[5].clear()
    test.words[0].clear()
    assert_close(methods.bag_regression()(test, train), Dense(train, 1e-3).influence(test))


def test_errors_of_a_model_take_the_place_of_its_own(tmp_path):
    model = TinyCNN(padding_idx=0).double()
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    explained = methods.Explained(model, scatter_checkpoints(model, tmp_path), loss)
    classes = model.out.out_features
    train, test = corpus(24, 11, min(classes, 3)), corpus(4, 12, min(classes, 3))
    found = methods.bag_regression(errors_of=explained)(test, train)
    explained.load(model, explained.checkpoints[-1])
    errors = model.eval()(test.batch[0]).softmax(1).detach() - torch.nn.functional.one_hot(test.labels, classes)
    fitted = methods.BagRegression.fit(train)
    expected = fitted.influence(fitted.features(test.words), errors[:, fitted.classes].numpy())
    assert_close(found, torch.from_numpy(expected))
    assert not torch.allclose(found, methods.bag_regression()(test, train))
    many = methods.Examples((train.batch[0], train.labels * classes), train.words)
    zeros = methods.Examples((test.batch[0], test.labels * 0), test.words)
    with pytest.raises(ValueError, match=r"`errors_of` a model with logits \(N, classes\) for the labels"):
        methods.bag_regression(errors_of=explained)(zeros, many)
    with torch.no_grad():
        model.out.bias.fill_(math.nan)
    broken = methods.Explained(model, [None], loss, load=lambda model, checkpoint: 1.0)
    with pytest.raises(ValueError, match="answers with NaN or infinity"):
        methods.bag_regression(errors_of=broken)(test, train)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        *(
            ({"penalty": p}, ValueError, "expected a penalty from 1e-08 to 1e.08 .*, got")
            for p in (0, -1.0, 1e-12, 1e12, math.nan, None, "1")
        ),
        *(({"min_count": c}, ValueError, "expected a min_count of at least 1, got") for c in (0, 1.5, None)),
        ({"errors_of": TinyCNN()}, TypeError, r"`errors_of` as methods.Explained\(model, ...\), got TinyCNN"),
    ],
    ids=str,
)
def test_options_that_mean_nothing_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        methods.bag_regression(**options)
    if "errors_of" not in options:
        with pytest.raises(error, match=match):
            methods.BagRegression.fit(corpus(6, 0), **options)


def labelled(labels, words=None):
    return methods.Examples((torch.ones(len(labels), 4), labels), words or [["a", "b"] for _ in labels])


TWO = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("test", "train", "error", "match"),
    [
        (corpus(2, 0), methods.Examples(corpus(6, 0).batch), ValueError, "reads the text: expected Examples"),
        (methods.Examples(corpus(2, 0).batch), corpus(6, 0), ValueError, "reads the text: expected Examples"),
        (labelled(TWO), labelled(torch.ones(2).long()), ValueError, r"texts of 2 classes or more, got \[1\]"),
        (labelled(TWO + 1), labelled(TWO), ValueError, r"that training texts have, \[0, 1\], got 2"),
        (labelled(TWO), labelled(TWO.double()), ValueError, r"whole numbers from 0 of shape \(N,\), got torch.float64"),
        (labelled(TWO.double()), labelled(TWO), ValueError, r"whole numbers from 0 of shape \(N,\), got torch.float64"),
        (labelled(TWO), labelled(TWO - 100), ValueError, "from -100"),
        (labelled(TWO), labelled(TWO[:, None]), ValueError, r"got torch.int64 of shape \(2, 1\)"),
        (labelled(TWO), labelled(TWO, [[], []]), ValueError, "in at least min_count=1 of the training texts, found none in 2"),
        (labelled(TWO), labelled(TWO, [["a"], [3]]), TypeError, r"expected words as str, got 3 \(int\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_examples_that_it_cannot_read_are_refused(test, train, error, match):
    with pytest.raises(error, match=match):
        methods.bag_regression()(test, train)


def test_labels_as_strings_are_refused_with_the_examples():
    with pytest.raises(TypeError, match="[Ee]xpected a tuple of tensors"):
        methods.Examples((torch.ones(2, 4), ["a", "b"]), [["a"], ["b"]])


def test_a_min_count_above_the_number_of_texts_is_refused():
    with pytest.raises(ValueError, match="at least min_count=99 of the training texts, found none in 6"):
        methods.bag_regression(min_count=99)(corpus(2, 0), corpus(6, 0))


def test_words_that_tell_nothing_of_the_labels_have_no_weight():
    texts = [["a", "b"], ["b", "c", "d"], ["a", "d", "e", "e"], ["f", "a"], ["g", "b", "c"]]
    train = labelled(torch.arange(3).repeat_interleave(5), texts * 3)
    fitted = methods.BagRegression.fit(train)
    assert abs(fitted.weights).max() < 1e-12
    assert_close(methods.bag_regression()(train, train), Dense(train, 1e-3).influence(train))


@pytest.mark.parametrize("penalty", [1e-6, 1e-8, 1e3])
def test_a_small_or_large_penalty_is_as_exact(penalty):
    train = labelled(torch.arange(12) % 2, [[f"{i % 2}", f"{i}"] for i in range(12)])
    assert_close(methods.bag_regression(penalty=penalty)(train, train), Dense(train, penalty).influence(train))


def test_every_corpus_is_fitted():
    """Classes as rare as one text, words in all texts or in one: in some of these Newton's whole steps lead away."""
    for seed in range(int(os.environ.get("CORPORA", "25"))):
        draw = random.Random(seed)
        classes = draw.randint(2, 5)
        labels = [
            *range(classes),
            *(draw.randrange(classes) * (draw.random() < 0.2) for _ in range(draw.randint(5, 40))),
        ]
        words = [[f"w{min(int(draw.expovariate(0.4)), 12)}" for _ in range(draw.randint(1, 12))] for _ in labels]
        train, penalty = labelled(torch.tensor(labels), words), 10 ** draw.uniform(-8, -2)
        fitted = methods.BagRegression.fit(train, penalty=penalty)
        errors = torch.from_numpy(fitted.errors(fitted.train, train.labels))
        features, weights = torch.from_numpy(fitted.train.toarray()), torch.from_numpy(fitted.weights)
        pulled = len(labels) * penalty * weights
        pulled[-1] = 0
        assert (features.T @ errors + pulled).norm() <= 1e-7 * pulled.norm(), seed


def test_steps_that_come_to_no_end_give_no_number(monkeypatch):
    from captum_tracinwe.evidence.methods import fitted_bag

    monkeypatch.setattr(fitted_bag, "STEPS", 3)
    with pytest.raises(ValueError, match="[Ee]xpected a penalty large enough to solve the regression for, got 0.001"):
        methods.bag_regression()(corpus(2, 0), corpus(24, 1))


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(ImportError, match=re.escape(install("scikit-learn", "evidence"))):
        methods.bag_regression()(corpus(2, 0), corpus(6, 0))
