"""`TracInWE(normalize=)`: scores divided by the lengths of texts, wherever scores are made.

Held against loops over single texts, and Captum, which share nothing with the package.
"""

import math
import os
import random
from collections import Counter

import pytest
import torch
from captum_tracinwe.synonyms import synonym_influence, synonym_scores
from cases import CASES, Examples, captum_scores, tracin_of
from index_cases import random_rows
from torch.utils.data import DataLoader

from captum_tracinwe import GradientIndex, RowGradients, load_checkpoint, word_report
from captum_tracinwe.app.testing import rows_by_loop, scatter_checkpoints, toy_tracin
from captum_tracinwe.preconditioners import Idf, Length, RowFisher
from captum_tracinwe.preconditioners.moments import Moments

pytestmark = pytest.mark.filterwarnings("ignore:Since `.*loss_fn.*:UserWarning")

# More of them in a long run.
QUESTIONS = int(os.environ.get("CAPTUM_TRACINWE_QUESTIONS", "6"))
LENGTHS = {
    "words": "words",
    "gradient": "gradient",
    "root of words, train": Length(by="words", power=0.5, sides="train", idf_power=1),
    "gradient, test": Length(by="gradient", power=0.3, sides="test"),
    "gradient, train": Length(by="gradient", sides="train"),
}


@pytest.fixture(params=LENGTHS)
def length(request):
    return LENGTHS[request.param]


@pytest.fixture
def asked(tmp_path):
    """A CNN in float64, three checkpoints, and what makes a TracInWE of it."""
    case = CASES["cnn"]().to(torch.float64)
    paths = scatter_checkpoints(case.model, tmp_path)
    return case, lambda **options: tracin_of(case, paths, **options)


def by_loop(case, paths):
    """Σ_c η_c‖g_c(x)‖² and the distinct tokens of each test and training text, one text at a time."""
    before = {name: tensor.clone() for name, tensor in case.model.state_dict().items()}
    case.model.eval()
    sides = [
        ([0.0] * len(losses), [set() for _ in losses]) for losses in (case.losses(case.test), case.losses(case.train))
    ]
    for path in paths:
        rate = load_checkpoint(case.model, path)
        for (squares, words), losses in zip(sides, (case.losses(case.test), case.losses(case.train)), strict=True):
            for i, loss in enumerate(losses):
                rows = rows_by_loop(case.model, case.embeddings, loss, case.padding_idx)
                squares[i] += rate * sum(float(row.double().square().sum()) for row in rows.values())
                words[i] |= set(rows)
    case.model.load_state_dict(before)
    return sides


def divided(raw, length, sides):
    """``raw`` scores divided one after the other."""
    length = Length(by=length) if isinstance(length, str) else length
    if length.by == "gradient":
        lengths = [[square**0.5 for square in squares] for squares, _ in sides]
    else:
        texts = sides[1][1]
        counts = Counter(word for text in texts for word in text)
        idf = {word: math.log(len(texts) / count) for word, count in counts.items()}
        lengths = [
            [sum(idf[word] ** length.idf_power for word in text if idf.get(word)) ** 0.5 for text in words]
            for _, words in sides
        ]
    result = raw.clone()
    for i in range(len(result)):
        for j in range(result.shape[1]):
            if length.sides != "train":
                result[i, j] *= lengths[0][i] ** -length.power if lengths[0][i] else 0
            if length.sides != "test":
                result[i, j] *= lengths[1][j] ** -length.power if lengths[1][j] else 0
    return result


@pytest.mark.parametrize("name", CASES)
def test_scores_equal_those_of_plain_loops_divided_one_by_one(name, tmp_path):
    case = CASES[name]().to(torch.float64)
    paths = scatter_checkpoints(case.model, tmp_path)
    raw, sides = case.by_loop(paths), by_loop(case, paths)
    for number, length in enumerate(LENGTHS.values()):
        expected = divided(raw, length, sides)
        assert float(expected.abs().max()) > 0
        close = {"rtol": 1e-9, "atol": 1e-12 * float(expected.abs().max())}
        tracin = tracin_of(case, paths, normalize=length, memory_limit=1 if number % 2 else 1 << 30)
        torch.testing.assert_close(tracin.influence(case.test), expected, **close)
        best = tracin.influence(case.test, k=3, proponents=bool(number % 2))
        torch.testing.assert_close(best.influence_scores, expected.gather(1, best.indices), **close)
        torch.testing.assert_close(best.influence_scores, expected.topk(3, largest=bool(number % 2)).values, **close)


def test_by_gradient_scores_are_captums_over_the_roots_of_captums_self_influence(asked, tmp_path):
    case, make = asked
    captum = captum_scores(case, make().checkpoints)
    own = captum_scores(case, make().checkpoints).self_influence(DataLoader(Examples(case.test), 3))
    lengths = own.sqrt()[:, None] * captum.self_influence().sqrt()
    torch.testing.assert_close(make(normalize="gradient").influence(case.test), captum.influence(case.test) / lengths)


def test_none_leaves_scores_as_they_are_to_the_bit(asked, tmp_path):
    case, make = asked
    plain, none = make(), make(normalize=None)
    assert torch.equal(plain.influence(case.test), none.influence(case.test))
    assert none.question(case.test).length is None
    index = plain.build_index(tmp_path / "index", rank=3)
    rows = plain.row_gradients(case.test)
    assert torch.equal(make(index=index, normalize=None).influence(case.test), index.scores(rows))
    torch.testing.assert_close(plain.influence(case.test), rows.dot(plain.row_gradients()))


def test_by_gradient_the_score_of_a_text_with_itself_is_1(asked):
    case, make = asked
    scores = make(normalize="gradient").influence(case.train)
    torch.testing.assert_close(scores.diagonal(), torch.ones(len(scores), dtype=torch.float64))
    assert float(scores.abs().max()) <= 1 + 1e-12


@pytest.mark.parametrize("preconditioner", [None, "idf"])
def test_an_index_answers_as_the_model_does(asked, length, preconditioner, tmp_path):
    case, make = asked
    case.to(torch.float32)
    index = make().build_index(tmp_path / "index", rank=3, segment_examples=3)
    live = make(normalize=length, preconditioner=preconditioner)
    stored = make(normalize=length, preconditioner=preconditioner, index=index)
    scores = live.influence(case.test)
    close = {"rtol": 0, "atol": 1e-6 * float(scores.abs().max())}
    torch.testing.assert_close(stored.influence(case.test), scores, **close)
    best = stored.influence(case.test, k=4, proponents=False)
    torch.testing.assert_close(best.influence_scores, scores.topk(4, largest=False).values, **close)
    for tracin in (live, stored):
        together = tracin.influence(case.test, aggregate=True)
        if not isinstance(length, str) and length.sides == "train":
            torch.testing.assert_close(together, scores.sum(0, keepdim=True), rtol=0, atol=5 * close["atol"])
        report = word_report(tracin, case.test, list(range(scores.shape[1])), draws=20)
        assert report.score == pytest.approx(float(scores.sum()), rel=1e-5)
        assert torch.equal(tracin.self_influence(), make(index=tracin.index).self_influence())
    torch.testing.assert_close(live.influence(case.test, aggregate=True), together, rtol=0, atol=5 * close["atol"])


def test_an_aggregate_is_one_text_with_a_length_of_its_own(asked, length):
    case, make = asked
    tracin = make(normalize=length)
    known = tracin.question(case.test).length
    rows, train = tracin.row_gradients(case.test).sum(), tracin.row_gradients()
    expected = rows.dot(train)
    if known.sides != "train":
        expected = expected * known.factors(rows)[:, None]
    if known.sides != "test":
        expected = expected * known.factors(train)
    torch.testing.assert_close(tracin.influence(case.test, aggregate=True), expected)


@pytest.mark.parametrize("options", [{}, {"top_k_words": 3}, {"preconditioner": "fisher"}, {"table": ("input", "bag")}])
def test_shares_add_up_to_the_divided_score(length, options, tmp_path):
    tracin, test = toy_tracin(normalize=length, **options)
    plain, _ = toy_tracin(**options)
    index = plain.build_index(tmp_path / "index", rank=3, segment_examples=5)
    stored, _ = toy_tracin(normalize=length, index=index, **options)
    scores = tracin.influence(test)
    largest = float(scores.abs().max())
    assert not torch.allclose(scores, plain.influence(test), rtol=1e-2, atol=1e-2 * largest)
    torch.testing.assert_close(stored.influence(test), scores, rtol=0, atol=1e-6 * largest)
    for one in (tracin, stored):
        best = one.influence(test, k=4)
        torch.testing.assert_close(best.influence_scores, scores.topk(4).values, rtol=0, atol=1e-6 * largest)
        pairs = one.word_influence(test, best, per_checkpoint=True)
        for own, of_text in zip(pairs, best.influence_scores.tolist(), strict=True):
            for pair, score in zip(own, of_text, strict=True):
                assert float(pair.token_shares.sum()) == pytest.approx(score, rel=0, abs=1e-6 * largest)
        report = word_report(one, test, list(range(12)), draws=20)
        assert report.score == pytest.approx(float(scores.sum()), rel=1e-5, abs=1e-6 * largest)


def test_synonym_scores_are_divided_by_the_lengths_of_the_words_they_are_made_of(length):
    tracin, test = toy_tracin(normalize=length)
    plain, _ = toy_tracin()
    strongest, _ = toy_tracin(top_k_words=3)
    known = tracin.question(test).length
    expected = synonym_scores(plain, test, k=3)
    if known.sides != "train":
        expected = expected * known.factors(strongest.row_gradients(test)).float()[:, None]
    if known.sides != "test":
        expected = expected * known.factors(strongest.row_gradients()).float()
    scores = synonym_scores(tracin, test, k=3)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    best = scores.topk(3)
    for own, of_text in zip(synonym_influence(tracin, test, best.indices, k=3), best.values.tolist(), strict=True):
        for pair, score in zip(own, of_text, strict=True):
            assert pair.score == pytest.approx(score, rel=1e-4, abs=1e-6)


# --------------------------------------------------------------------------------------------------- search of an index


def brute_force(index, rows, k, proponents, length, kept):
    scores = (rows.dot(index.rows(kept)) * length.factors(index.rows(kept)).float()).double()
    exact = index.scores(rows, length)[:, kept]
    torch.testing.assert_close(exact.double(), scores, rtol=1e-6, atol=1e-7 * float(scores.abs().max() + 1e-30))
    order = torch.sort(exact, dim=1, descending=proponents, stable=True)
    return torch.tensor(kept)[order.indices[:, :k]], order.values[:, :k]


@pytest.mark.parametrize("by", ["words", "gradient"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_best_of_an_index_are_those_of_scoring_everything(by, dtype, tmp_path):
    dice = random.Random(0)
    rows = random_rows(300, seed=1)
    # Equal texts, whose scores tie, and texts without rows.
    rows = rows.select([dice.randrange(300) for _ in range(250)]).exclude([0])
    rows = RowGradients.cat([rows, random_rows(20, tokens=1, seed=2).exclude([0]), random_rows(30, seed=3)])
    index = GradientIndex.from_rows(
        tmp_path / "index", rows, dtype=dtype, segment_examples=64, rank=3, metadata={"n": [i % 3 for i in range(300)]}
    )
    for change in ("none", "delete", "append", "compact"):
        if change == "delete":
            index = index.delete([*range(0, 300, 7), *range(64, 128)])
        elif change == "append":
            index = index.append(random_rows(40, seed=4), {"n": [0] * 40})
        elif change == "compact":
            index = index.compact()
        for number in range(QUESTIONS):
            power, k, proponents = dice.uniform(0.1, 1), dice.choice([1, 3, 10, 400]), dice.random() < 0.5
            length = Length(by=by, power=power).fit(part for _, part in index.blocks(values=False))
            test = random_rows(3, seed=100 + number)
            where, kept = None, index.numbers.tolist()
            if number % 3 == 0:
                where, kept = {"n": [0, 2]}, [i for i in kept if i >= 300 or i % 3 != 1]
            expected = brute_force(index, test, k, proponents, length, kept)
            found = index.search(test, k, proponents, where=where, length=length)
            assert torch.equal(found.indices, expected[0])
            assert torch.equal(found.influence_scores, expected[1])
            near = index.search(test, k, proponents, where=where, length=length, approximate=5)
            true = index.scores(test, length).gather(1, near.indices)
            assert bool((near.stats.intervals[..., 0] <= true).all() and (true <= near.stats.intervals[..., 1]).all())
    assert len(index.search(test, 1, length=length).indices) == 3


def test_a_search_divided_by_lengths_still_leaves_most_of_an_index_unread(tmp_path):
    rows = random_rows(4000, vocabulary=400, seed=1)
    index = GradientIndex.from_rows(tmp_path / "index", rows, rank=7)
    found = index.search(random_rows(5, vocabulary=400, seed=2), 5, length=Length(by="gradient"))
    assert found.stats.verified < 2000


def test_counts_and_lengths_are_of_what_an_index_holds_now(tmp_path):
    plain, test = toy_tracin()
    index = plain.build_index(tmp_path / "index", rank=3)
    tracin, _ = toy_tracin(normalize="words", preconditioner="idf", index=index)
    before = tracin.influence(test)
    tracin.index = index.delete([0, 3, 4, 8])
    after, kept = tracin.influence(test), tracin.index.numbers
    fresh, _ = toy_tracin(normalize="words", preconditioner="idf", index=index.refresh())
    assert torch.equal(after, fresh.influence(test))
    assert not torch.equal(after[:, kept], before[:, kept])
    idf = Idf().fit([index.rows(kept)])
    known = tracin.question(test).length
    assert known.statistics.examples == 8
    expected = idf.apply(plain.row_gradients(test)).dot(index.rows(kept))
    expected = expected * known.factors(plain.row_gradients(test))[:, None] * known.factors(index.rows(kept))
    torch.testing.assert_close(after[:, kept].double(), expected, rtol=1e-5, atol=1e-7 * float(expected.abs().max()))


def test_norms_too_small_for_the_index_are_read_from_its_rows(tmp_path):
    rows = random_rows(20, seed=1)
    small = rows.scale(torch.where(torch.arange(20) % 2 == 0, 1e-22, 1.0))
    index = GradientIndex.from_rows(tmp_path / "index", small, rank=3)
    length = Length(by="gradient")
    scores, expected = (
        i.scores(random_rows(2, seed=2), length)
        for i in (index, GradientIndex.from_rows(tmp_path / "large", rows, rank=3))
    )
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-7 * float(expected.abs().max()))


# ------------------------------------------------------------------------------------------------------ what it is made of


def test_a_text_of_no_length_has_scores_of_0_and_never_nan():
    nothing = RowGradients(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 5]), torch.tensor([[1.0], [0.0]]))
    everywhere = nothing.select([1, 1])
    assert Length().fit([everywhere]).factors(nothing).tolist() == [0, 0, 0]  # of no row, of all texts, of none
    assert Length(by="gradient").factors(nothing).tolist() == [0, 1, 0]
    tracin, (ids, labels) = toy_tracin(normalize="words")
    tracin.normalize = Length().fit([RowGradients(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1, 1))])
    assert torch.equal(tracin.influence((ids, labels)), torch.zeros(2, 12))


def test_one_pass_over_the_tokens_serves_words_and_idf(monkeypatch):
    passes = []
    live, test = toy_tracin(normalize="words", preconditioner="idf")
    original = type(live.live_source).row_blocks
    monkeypatch.setattr(
        type(live.live_source),
        "row_blocks",
        lambda self, values=True: (passes.append(values), original(self, values))[1],
    )
    first = live.influence(test)
    assert passes == [False]
    assert torch.equal(live.influence(test), first)
    assert passes == [False]
    # What was fitted elsewhere may know other texts.
    live.preconditioner = Idf().fit([random_rows(5, vocabulary=30).columns(0, 0)], len(live.checkpoints))
    live.normalize = Length()
    assert live.question(test).length.statistics.examples == 12
    assert passes == [False, False]
    live.preconditioner, live.normalize = RowFisher(), Length()
    live.question(test)
    assert passes == [False, False, True]


def test_the_length_of_strongest_words_is_of_what_is_left_at_any_checkpoint():
    tracin, test = toy_tracin(normalize="words", top_k_words=2)
    rows, train = tracin.row_gradients(test), tracin.row_gradients()
    known = Length().fit([train])
    expected = rows.dot(train) * known.factors(rows)[:, None] * known.factors(train)
    torch.testing.assert_close(tracin.influence(test).double(), expected, rtol=1e-5, atol=1e-6)


def test_what_is_no_length_is_refused():
    with pytest.raises(
        ValueError, match="`normalize` names 'cosine': expected 'words', 'gradient', a .*Length, or None"
    ):
        toy_tracin(normalize="cosine")
    for wrong in (0.5, True, ["words"], Length):
        with pytest.raises(TypeError, match="`normalize` should be 'words', 'gradient', .* or None .*; got"):
            toy_tracin(normalize=wrong)
    for power in (0, -1, 1.5, math.nan, math.inf, True, "1", None, torch.ones(1)):
        with pytest.raises(ValueError, match="`power` of a Length should be a number above 0 and at most 1, got"):
            Length(power=power)
    for power in (0, -1, math.nan, math.inf, True, "2"):
        with pytest.raises(ValueError, match="`idf_power` should be a finite number above 0, got"):
            Length(idf_power=power)
    with pytest.raises(ValueError, match="`by` of a Length should be one of 'words', 'gradient', got 'tokens'"):
        Length(by="tokens")
    for sides in ("none", ["both"], None, 1):
        with pytest.raises(ValueError, match="`sides` of a Length should be one of 'both', 'train', 'test', got"):
            Length(sides=sides)
    with pytest.raises(ValueError, match=r"Length has not seen the training texts yet: .*fit\(blocks\)"):
        Length().factors(random_rows(2))


def test_a_score_that_division_takes_beyond_its_type_is_refused(tmp_path):
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    plain, test = toy_tracin(loss_fn=lambda logits, labels: 1e4 * loss(logits, labels))
    ids = torch.arange(30)
    counts = Moments(100_000, 1, ids, torch.full((30,), 99_999.0, dtype=torch.float64), torch.zeros(30, 1))
    plain.normalize = Length(idf_power=14.9, sides="train", statistics=counts)  # lengths of 1e-37
    index = GradientIndex.from_rows(tmp_path / "index", plain.row_gradients(), checkpoints=2, rank=3)
    rows = plain.row_gradients(test)
    for ask in (
        lambda: plain.influence(test),
        lambda: plain.influence(test, k=2),
        lambda: index.scores(rows, plain.normalize),
        lambda: index.search(rows, 2, length=plain.normalize),
    ):
        with pytest.raises(ValueError, match=r"divided by .*length.* beyond float32"):
            ask()
