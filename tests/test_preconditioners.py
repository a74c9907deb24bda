"""What multiplies a question's rows: the seam between question and training rows, live and stored, and what is learned there."""

import threading
from dataclasses import dataclass

import pytest
import torch
from cases import CASES

from captum_tracinwe import RowGradients, TracInWE, word_report
from captum_tracinwe.app.testing import scatter_checkpoints
from captum_tracinwe.preconditioners import Adam, Cooccurrence, Identity, Idf, Length, RowFisher, named


@dataclass(frozen=True)
class Weights:
    """A weight per token, and a factor for each checkpoint."""

    tokens: torch.Tensor
    checkpoints: torch.Tensor

    def apply(self, rows):
        factors = self.checkpoints.repeat_interleave(rows.width // len(self.checkpoints))
        return RowGradients(rows.ptr, rows.ids, rows.values * self.tokens[rows.ids][:, None] * factors)

    def at(self, checkpoint):
        return Weights(self.tokens, self.checkpoints[checkpoint : checkpoint + 1])


@pytest.fixture(params=["cnn", "bert, tuples"])
def asked(request, tmp_path):
    case = CASES[request.param]()
    paths = scatter_checkpoints(case.model, tmp_path)
    options = {"loss_fn": case.loss, "batch_size": 3, **case.options}

    def make(**given):
        return TracInWE(case.model, case.dataset(), paths, **{**options, **given})

    size = make().embedding.weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    weights = Weights(torch.rand(size, generator=generator), torch.tensor([2.0, -0.5, 3.0][: len(paths)]))
    return case, make, weights


def test_none_is_the_identity_to_the_bit(asked):
    case, make, _ = asked
    assert torch.equal(make().influence(case.test), make(preconditioner=Identity()).influence(case.test))


def test_scores_are_products_of_the_mapped_question(asked):
    case, make, weights = asked
    plain, tracin = make(), make(preconditioner=weights)
    expected = weights.apply(plain.row_gradients(case.test)).dot(plain.row_gradients())
    torch.testing.assert_close(tracin.influence(case.test), expected)
    assert not torch.allclose(expected, plain.influence(case.test))
    best = tracin.influence(case.test, k=2)
    torch.testing.assert_close(best.influence_scores, expected.topk(2).values)
    torch.testing.assert_close(best.influence_scores, expected.gather(1, best.indices))


def test_shares_by_word_add_up_to_the_mapped_score(asked):
    case, make, weights = asked
    tracin = make(preconditioner=weights)
    best = tracin.influence(case.test, k=3)
    pairs = tracin.word_influence(case.test, best.indices, per_checkpoint=True)
    for own, scores in zip(pairs, best.influence_scores.tolist(), strict=True):
        for pair, score in zip(own, scores, strict=True):
            assert pair.score == pytest.approx(score, rel=1e-4, abs=1e-7)
            assert float(pair.token_shares.sum()) == pytest.approx(pair.score, rel=1e-9, abs=1e-12)


def test_the_question_alone_is_mapped_so_that_an_index_stays_as_it_is(asked, tmp_path):
    case, make, weights = asked
    index = make().build_index(tmp_path / "index", rank=3)
    files = {path.name: path.read_bytes() for path in index.path.iterdir()}
    live, stored = make(preconditioner=weights), make(preconditioner=weights, index=index)
    torch.testing.assert_close(stored.influence(case.test), live.influence(case.test))
    assert torch.equal(stored.influence(case.test, k=2).indices, live.influence(case.test, k=2).indices)
    labels = [str(index % 2) for index in range(len(case.dataset()))]
    totals = [word_report(tracin, case.test, labels, draws=20).score for tracin in (live, stored)]
    assert totals[0] == pytest.approx(totals[1], rel=1e-4)
    assert totals[0] == pytest.approx(float(live.influence(case.test).sum()), rel=1e-4)
    assert {path.name: path.read_bytes() for path in index.path.iterdir()} == files


def test_what_is_none_is_refused(asked):
    _, make, _ = asked
    with pytest.raises(
        TypeError,
        match=r"`preconditioner` should be .*'idf', an object with apply\(rows\) and at\(checkpoint\).* got 3",
    ):
        make(preconditioner=3)
    with pytest.raises(
        ValueError,
        match="no preconditioner 'tfidf': expected one of 'idf', 'fisher', 'kfac', 'ekfac', 'cooccurrence', 'exact'",
    ):
        make(preconditioner="tfidf")


# -------------------------------------------------------------------------------------------------------- in a TracInWE

NAMED = ["idf", "fisher", "kfac", "ekfac", "cooccurrence", "exact"]
EACH = pytest.mark.parametrize(
    ("asked", "name"),
    [*(("cnn", name) for name in NAMED), ("bert, tuples", "kfac"), ("bert, tuples", "cooccurrence")],
    indirect=["asked"],
)


@EACH
def test_a_name_is_fitted_on_the_training_rows_live_and_from_an_index(asked, tmp_path, name):
    case, make, _ = asked
    plain = make()
    train, test = plain.row_gradients(), plain.row_gradients(case.test)
    expected = named(name).fit(train, len(plain.checkpoints)).apply(test).dot(train)
    index = plain.build_index(tmp_path / "index", rank=3, segment_examples=4)
    close = {"rtol": 1e-5, "atol": 1e-6 * float(expected.abs().max())}
    found = []
    for tracin in (
        make(preconditioner=name),
        make(preconditioner=name, memory_limit=1),
        make(preconditioner=name, index=index),
    ):
        found.append(tracin.influence(case.test))
        torch.testing.assert_close(found[-1], expected, **close)
        best = tracin.influence(case.test, k=3)
        torch.testing.assert_close(best.influence_scores, expected.topk(3).values, **close)
        pairs = tracin.word_influence(case.test, best.indices, per_checkpoint=True)
        for own, scores in zip(pairs, best.influence_scores.tolist(), strict=True):
            for pair, score in zip(own, scores, strict=True):
                assert float(pair.token_shares.sum()) == pytest.approx(score, rel=1e-6, abs=close["atol"])
        together = tracin.influence(case.test, aggregate=True)
        torch.testing.assert_close(together, expected.sum(0, keepdim=True), rtol=1e-5, atol=3 * close["atol"])
    torch.testing.assert_close(found[0], found[2], rtol=1e-6, atol=1e-6 * float(expected.abs().max()))
    assert not torch.allclose(expected, plain.influence(case.test), rtol=1e-2)


@EACH
def test_a_report_on_words_adds_up_to_the_preconditioned_scores(asked, tmp_path, name):
    case, make, _ = asked
    index = make().build_index(tmp_path / "index", rank=3)
    labels = [str(number % 2) for number in range(len(case.dataset()))]
    for tracin in (make(preconditioner=name), make(preconditioner=name, index=index)):
        score = word_report(tracin, case.test, labels, draws=20).score
        assert score == pytest.approx(float(tracin.influence(case.test).sum()), rel=1e-4)


@EACH
def test_strongest_words_may_be_all_that_training_rows_have(asked, name):
    case, make, _ = asked
    tracin = make(preconditioner=name, top_k_words=2)
    scores = tracin.influence(case.test)
    train, test = (make(top_k_words=2).row_gradients(given) for given in (None, case.test))
    expected = named(name).fit(train, len(tracin.checkpoints)).apply(test).dot(train)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


class Counting(torch.nn.CrossEntropyLoss):
    """A loss that counts its calls."""

    calls = 0

    def forward(self, *given):
        type(self).calls += 1
        return super().forward(*given)


def test_the_training_rows_are_read_once_and_what_they_taught_is_kept(tmp_path):
    case = CASES["cnn"]()
    loss, paths = Counting(reduction="none"), scatter_checkpoints(case.model, tmp_path)
    tracin = TracInWE(case.model, case.dataset(), paths, loss_fn=loss, batch_size=3, preconditioner="fisher")

    def calls():
        Counting.calls = 0
        tracin.influence(case.test)
        return Counting.calls

    first, second = calls(), calls()
    assert first - second >= 3 * len(paths)
    assert second == calls()
    tracin.preconditioner = RowFisher(damping=3)
    assert calls() > second
    assert calls() == second
    tracin.checkpoints = paths[:1]
    torch.testing.assert_close(
        tracin.influence(case.test),
        RowFisher(damping=3)
        .fit(tracin.row_gradients())
        .apply(tracin.row_gradients(case.test))
        .dot(tracin.row_gradients()),
    )


def test_idf_reads_no_values_and_computes_no_loss(tmp_path):
    case = CASES["cnn"]()
    loss, paths = Counting(reduction="none"), scatter_checkpoints(case.model, tmp_path)
    tracin = TracInWE(case.model, case.dataset(), paths, loss_fn=loss, batch_size=3, preconditioner="idf", probe=False)
    Counting.calls = 0
    expected = tracin.influence(case.test)
    first, Counting.calls = Counting.calls, 0
    assert torch.equal(tracin.influence(case.test), expected)
    assert first == Counting.calls > 0
    given = {"loss_fn": case.loss, "batch_size": 3}
    index = TracInWE(case.model, case.dataset(), paths, **given).build_index(tmp_path / "index", rank=3)
    kept = [rows for _, rows in index.blocks(values=False)]
    assert sum(rows.values.numel() for rows in kept) == 0
    assert torch.equal(RowGradients.cat(kept).ids, index.rows().ids)
    stored = TracInWE(case.model, None, paths, **given, preconditioner="idf", index=index)
    torch.testing.assert_close(stored.influence(case.test), expected)


def test_threads_that_ask_at_once_wait_for_one_fit(asked):
    case, make, _ = asked
    fits = []

    @dataclass(frozen=True)
    class Slow(Weights):
        fitted = False

        def fit(self, blocks, checkpoints=1):
            fits.append(sum(len(block) for block in blocks))
            return Weights(self.tokens, self.checkpoints)

    _, _, weights = asked
    tracin = make(preconditioner=Slow(weights.tokens, weights.checkpoints))
    found = []
    threads = [threading.Thread(target=lambda: found.append(tracin.influence(case.test))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    expected = make(preconditioner=weights).influence(case.test)
    assert len(found) == 3
    assert all(torch.equal(scores, expected) for scores in found)
    assert fits == [len(case.dataset())]


def test_an_index_of_projections_says_which_preconditioners_it_can_have(asked, tmp_path):
    case, make, _ = asked
    index = make().build_index(tmp_path / "index", rank=2, project=3)
    with pytest.raises(ValueError, match=r"an index built with project=.* has no rows of full width.*'idf'"):
        make(preconditioner="kfac", index=index).influence(case.test)
    scores = make(preconditioner="idf", index=index).influence(case.test)
    plain = make(index=index)
    mapped = named("idf").fit(plain.row_gradients(), len(plain.checkpoints)).apply(plain.row_gradients(case.test))
    torch.testing.assert_close(scores, index.scores(mapped))


# ---------------------------------------------------------------------------------------------- what does not belong here


def other_rows(columns, vocabulary):
    """Rows of another model: six texts with one word each, the last its largest."""
    ids = torch.tensor([1, 2, 1, 2, 1, vocabulary - 1])
    return RowGradients(torch.arange(7), ids, torch.rand(6, columns, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("name", NAMED)
def test_what_was_fitted_on_rows_of_another_model_is_refused(name, tmp_path):
    case = CASES["cnn"]()
    paths = scatter_checkpoints(case.model, tmp_path)
    options = {"loss_fn": case.loss, "batch_size": 3}
    plain = TracInWE(case.model, case.dataset(), paths, **options)
    index = plain.build_index(tmp_path / "index", rank=3)
    size, width = plain.embedding.weight.shape
    kind, count = type(named(name)).__name__, len(paths)
    wrong = [
        (
            other_rows(count * width, size + 30),
            count,
            rf"a {kind} that was fitted on rows of token {size + 29}.* has {size} words",
        ),
        (
            other_rows(width, size),
            1,
            rf"a {kind} that was fitted on rows of 1 checkpoint\(s\), and there are {count} here",
        ),
        (
            other_rows(count * (width + 2), size),
            count,
            rf"a {kind} that was fitted on rows of {width + 2} columns .* have {width}",
        ),
    ]
    for rows, checkpoints, match in wrong:
        fitted = named(name).fit(rows, checkpoints)
        for source in ({}, {"index": index}):
            tracin = TracInWE(case.model, case.dataset(), paths, **options, **source, preconditioner=fitted)
            with pytest.raises(ValueError, match=match + ".*Or pass it before fit"):
                tracin.influence(case.test)
    # A sample of the training set, merged or not, is as good as all of it.
    half = [named(name).fit(plain.source.rows(part), count) for part in (range(3), range(3, 6))]
    for fitted in (half[0], half[0].merge(half[1])):
        assert TracInWE(case.model, case.dataset(), paths, **options, preconditioner=fitted).influence(case.test).any()


def test_a_length_and_moments_of_another_model_are_refused(asked):
    case, make, _ = asked
    size, width = make().embedding.weight.shape
    length = Length().fit([other_rows(width, size + 30)])
    with pytest.raises(ValueError, match=rf"`normalize` is a Length that was fitted on rows of token {size + 29}"):
        make(normalize=length).influence(case.test)
    for moments in ([torch.rand(size, width)] * 7, [torch.rand(size + 1, width)] * len(make().checkpoints)):
        with pytest.raises(ValueError, match=r"an Adam with second moments of .* expected those of this model, "):
            make(preconditioner=Adam(moments)).influence(case.test)


def test_idf_may_come_from_the_word_table_where_other_rows_stand_beside_it(tmp_path):
    case = CASES["cnn"]()
    paths, options = scatter_checkpoints(case.model, tmp_path), {"loss_fn": case.loss, "batch_size": 3}
    rows = TracInWE(case.model, case.dataset(), paths, **options).row_gradients()
    both = {"table": ("input", "bag"), **options}
    found, expected = (
        TracInWE(case.model, case.dataset(), paths, preconditioner=given, **both).influence(case.test)
        for given in (Idf(power=2.0).fit(rows, len(paths)), "idf")
    )
    assert torch.equal(found, expected)


def test_what_is_set_later_is_checked_as_what_is_given(asked):
    case, make, _ = asked
    tracin = make()
    tracin.preconditioner = "idf"
    tracin.normalize = "words"
    assert torch.equal(tracin.influence(case.test), make(preconditioner="idf", normalize="words").influence(case.test))
    tracin.preconditioner = tracin.normalize = None
    assert torch.equal(tracin.influence(case.test), make().influence(case.test))
    for given in (Idf, Cooccurrence):
        for act in (lambda g=given: setattr(tracin, "preconditioner", g), lambda g=given: make(preconditioner=g)):
            with pytest.raises(
                TypeError, match=rf"is the class {given.__name__}: expected an object.* {given.__name__}\("
            ):
                act()
    with pytest.raises(
        ValueError, match=r"[Ee]xpected it where a TracInWE is made, TracInWE\(..., preconditioner='auto'\)"
    ):
        tracin.preconditioner = "auto"
    with pytest.raises(ValueError, match="no preconditioner 'tfidf'"):
        tracin.preconditioner = "tfidf"
    with pytest.raises(ValueError, match="`normalize` names 'cosine'"):
        tracin.normalize = "cosine"
    with pytest.raises(TypeError, match="`normalize` should be"):
        tracin.normalize = Length


class Odd:
    """An own preconditioner that gives something else than it should."""

    def __init__(self, give, part=None):
        self.give, self.part = give, part

    def apply(self, rows):
        return self.give(rows)

    def at(self, checkpoint):
        return self if self.part is None else self.part[0]


@pytest.mark.parametrize("stored", [False, True])
def test_an_own_preconditioner_that_gives_no_rows_is_named(asked, tmp_path, stored):
    case, make, _ = asked
    source = {"index": make().build_index(tmp_path / "index", rank=3)} if stored else {}
    for give, match in (
        (lambda rows: rows.values, r"Odd.apply\(rows\) returned Tensor: expected captum_tracinwe.RowGradients"),
        (lambda rows: None, r"Odd.apply\(rows\) returned NoneType"),
        (lambda rows: rows.select([0]), r"Odd.apply\(rows\) returned 1 examples of \d+ columns: expected those given"),
    ):
        with pytest.raises((TypeError, ValueError), match=match):
            make(preconditioner=Odd(give), **source).influence(case.test)
    if not stored:
        with pytest.raises(
            TypeError, match=r"at\(checkpoint\) returned NoneType: expected the part for one checkpoint"
        ):
            make(preconditioner=Odd(lambda rows: rows, [None])).influence(case.test)


@pytest.mark.parametrize(
    "given", [{}, {"preconditioner": "idf"}, {"normalize": "words"}, {"preconditioner": "cooccurrence"}]
)
def test_the_questions_rows_meet_training_rows_as_scores_do(asked, tmp_path, given):
    case, make, _ = asked
    index = make().build_index(tmp_path / "index", rank=3)
    for tracin in (make(**given), make(**given, index=index)):
        rows, length = tracin.question_rows(case.test), tracin.question(case.test).length
        factors = 1 if length is None else length.factors(tracin.row_gradients())
        expected = tracin.influence(case.test)
        close = {"rtol": 1e-5, "atol": 1e-6 * float(expected.abs().max())}
        torch.testing.assert_close((rows.dot(tracin.row_gradients()) * factors).to(expected), expected, **close)
    found, best = index.search(rows.to(dtype=torch.float32), 3, length=length), tracin.influence(case.test, k=3)
    assert torch.equal(found.indices, best.indices)


def test_rates_of_0_at_all_checkpoints_are_said_once(tmp_path):
    case = CASES["cnn"]()
    paths = scatter_checkpoints(case.model, tmp_path, rates=(0.0, 0.0))
    tracin = TracInWE(case.model, case.dataset(), paths, loss_fn=case.loss)
    with pytest.warns(
        UserWarning, match=r"The learning rate is 0 at each of the 2 checkpoint\(s\).*all scores are 0"
    ) as seen:
        scores = tracin.influence(case.test)
    assert len(seen) == 1
    assert not scores.any()
    assert not tracin.self_influence().any()  # a second warning would be an error
    paths = scatter_checkpoints(case.model, tmp_path, rates=(0.0, 0.1))
    assert TracInWE(case.model, case.dataset(), paths, loss_fn=case.loss).influence(case.test).any()
