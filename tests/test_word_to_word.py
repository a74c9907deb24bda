"""Preconditioners that lead from word to word: made where rows meet, split over the words of either text, and shown."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from captum_tracinwe.texts import from_ids
from cases import Examples
from torch import nn

from captum_tracinwe import RowGradients, TracInWE, synonym_scores, word_report
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, toy_texts
from captum_tracinwe.preconditioners import Cooccurrence, GaussNewton, text_gram
from captum_tracinwe.preconditioners.text_gram import InverseGram
from captum_tracinwe.visualization import to_captum_records, word_influence_html, word_influence_text

LOSS = nn.CrossEntropyLoss(reduction="none")
NAMES = ["cooccurrence", "exact"]


def texts(count, seed):
    ids, _, labels = toy_texts(count, seed=seed)
    return ids, labels


@pytest.fixture
def asked(tmp_path):
    model = TinyCNN(padding_idx=0).double()
    paths, train, test = scatter_checkpoints(model, tmp_path), texts(30, 1), texts(4, 2)

    def make(**options):
        return TracInWE(model, Examples(train), paths, loss_fn=LOSS, batch_size=7, **options)

    return make, train, test, tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_some_words_are_those_of_all_words_there(asked, name):
    make, _, test, _ = asked
    plain = make()
    rows = plain.row_gradients(test)
    kind = {"cooccurrence": Cooccurrence(), "exact": GaussNewton()}[name]
    fitted = kind.fit([plain.row_gradients()], 2)
    whole, tokens = fitted.apply(rows), torch.tensor([3, 5, 9, 29, 700])
    some = fitted.apply(rows, tokens)
    assert set(some.ids.tolist()) <= set(tokens.tolist())
    torch.testing.assert_close(some.to_dense(30), whole.of_tokens(tokens).to_dense(30), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("table", ["input", ("input", "bag")])
@pytest.mark.parametrize("name", NAMES)
def test_a_score_is_split_over_the_words_of_either_text(asked, name, table):
    make, train, test, _ = asked
    tracin = make(preconditioner=name, table=table, shares="equal", normalize="words")
    scores = tracin.influence(test)
    chosen = [list(range(30))] * 4
    for i, row in enumerate(tracin.word_influence(test, chosen)):
        for j, pair in enumerate(row):
            score = float(scores[i, j])
            assert pair.score == pytest.approx(score, rel=1e-6, abs=1e-9 * float(scores.abs().max()))
            assert float(pair.asked_shares.sum()) == pytest.approx(pair.score, rel=1e-6, abs=1e-9)
            assert set(pair.token_ids.tolist()) <= set(train[0][j].tolist())
            assert set(pair.asked_ids.tolist()) <= set(test[0][i].tolist())
    report = word_report(tracin, test, train[1], draws=20)
    assert report.score == pytest.approx(float(scores.sum()), rel=1e-6)


def test_a_text_that_shares_no_word_speaks_through_the_words_between(asked):
    """3 stands with 7, 7 with 9: that 9 is taught otherwise says something of 3."""
    make, _, _, folder = asked
    ids = torch.tensor([[3, 7, 0, 0], [7, 9, 0, 0], [3, 7, 0, 0], [5, 6, 0, 0], [8, 9, 0, 0]])
    train, test = (ids, torch.tensor([0, 1, 0, 1, 0])), (torch.tensor([[3, 0, 0, 0]]), torch.tensor([0]))
    model = TinyCNN(padding_idx=0).double()
    paths = scatter_checkpoints(model, folder)
    plain = TracInWE(model, Examples(train), paths, loss_fn=LOSS).influence(test)[0]
    found = TracInWE(model, Examples(train), paths, loss_fn=LOSS, preconditioner=Cooccurrence(damping=0.01))
    scores = found.influence(test)[0]
    assert plain[1] == plain[4] == 0
    assert scores[1] != 0
    assert scores[3] == pytest.approx(0, abs=1e-9 * float(scores.abs().max()))


def test_pairs_are_shown_each_text_by_its_own_words(asked):
    make, train, test, _ = asked
    names = [f"w{i}" for i in range(30)]
    tests, trains = ([from_ids(one[one != 0], names) for one in side[0]] for side in (test, train))
    tracin = make(preconditioner="cooccurrence", normalize="words")
    best = tracin.influence(test, k=3)
    pairs = tracin.word_influence(test, best.indices)
    other = next(pair for row in pairs for pair in row if set(pair.token_ids.tolist()) - set(pair.asked_ids.tolist()))
    shown = other.with_texts(tests[other.test_index], trains[other.train_index])
    words = {word.text: word.share for word in shown.words()}
    assert set(words) == {names[i] for i in other.token_ids.tolist()}
    assert sum(words.values()) == pytest.approx(other.score)
    for draw in (word_influence_html, word_influence_text):
        assert f"w{other.token_ids[0]}" in draw(pairs, test_texts=tests, train_texts=trains)
    page = word_influence_html(pairs, test_texts=tests, train_texts=trains)
    assert "through words that it stands with in other training texts" in page
    assert "The same score by the words of the test text" in page
    records = to_captum_records(pairs, test_texts=tests, train_texts=trains)
    assert len(records) == 12
    # Without the texts, by the vocabulary.
    assert {word.text for word in other.words(names)} == set(words)


def test_words_that_meet_by_their_sense_need_a_map_that_keeps_them_apart(asked):
    make, _, test, _ = asked
    with pytest.raises(ValueError, match="a preconditioner that keeps words apart, such as 'idf', got Cooccurrence"):
        synonym_scores(make(preconditioner="cooccurrence"), test, k=3)


def test_an_index_with_deletions_answers_as_the_model_does(asked):
    make, _, test, folder = asked
    index = make().build_index(folder / "index", segment_examples=8)
    expected = make(preconditioner="cooccurrence", normalize="words").influence(test)
    stored = make(preconditioner="cooccurrence", normalize="words", index=index)
    close = {"rtol": 1e-5, "atol": 1e-6 * float(expected.abs().max())}
    torch.testing.assert_close(stored.influence(test).double(), expected, **close)
    for proponents in (True, False):
        found = stored.influence(test, k=4, proponents=proponents)
        wanted = expected.topk(4, largest=proponents)
        torch.testing.assert_close(found.influence_scores.double(), wanted.values, **close)
        assert torch.equal(found.indices, wanted.indices)
    index.delete([2, 11])
    stored = make(preconditioner="cooccurrence", normalize="words", index=folder / "index")
    left = stored.influence(test)
    assert torch.isinf(left[:, [2, 11]]).all()
    assert stored.influence(test, k=40).indices.shape == (4, 28)


@pytest.mark.parametrize("limit", [1, 5000])
def test_blocks_of_an_index_are_cut_to_the_memory_limit_and_answers_stay(asked, limit):
    make, _, test, folder = asked
    index = make().build_index(folder / "index", segment_examples=8)
    options = {"preconditioner": "cooccurrence", "normalize": "words", "index": index}
    whole, cut = make(**options), make(memory_limit=limit, **options)
    assert len(list(cut.source.score_blocks(cut.question(test)))) > len(
        list(whole.source.score_blocks(whole.question(test)))
    )
    torch.testing.assert_close(cut.influence(test), whole.influence(test), rtol=1e-6, atol=1e-9)
    for proponents in (True, False):
        found, expected = (one.influence(test, k=6, proponents=proponents) for one in (cut, whole))
        assert torch.equal(found.indices, expected.indices)
    assert word_report(cut, test, list(range(30)), draws=20).score == pytest.approx(
        float(whole.influence(test).sum()), rel=1e-5
    )


def test_an_index_that_says_more_than_memory_holds_is_refused_by_any_score(asked, monkeypatch):
    make, _, test, folder = asked
    index = make().build_index(folder / "index")
    tracin = make(preconditioner="cooccurrence", index=index)
    monkeypatch.setattr(type(index), "total", property(lambda self: 1 << 36))
    with pytest.raises(ValueError, match=r"scores take .* bytes, this machine has"):
        tracin.influence(test)


def test_threads_that_ask_at_once_get_the_answers_of_one(monkeypatch):
    """Also where columns that one has solved for are thrown away by another."""
    monkeypatch.setattr("captum_tracinwe.preconditioners.text_gram.KEPT_BYTES", 8 * 30 * 6)
    generator = torch.Generator().manual_seed(0)
    ids = torch.cat([torch.randperm(30, generator=generator)[:5].sort().values for _ in range(60)])
    rows = RowGradients(torch.arange(0, 301, 5), ids, torch.randn(300, 3, generator=generator, dtype=torch.float64))
    fitted = Cooccurrence().fit(rows)
    expected = [fitted.apply(rows.select([j])).values for j in range(60)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda j: fitted.apply(rows.select([j])).values, list(range(60)) * 5))
    for j, values in enumerate(found):
        torch.testing.assert_close(values, expected[j % 60], rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------- each word is solved for once


@pytest.fixture
def solved(monkeypatch):
    """How many columns were solved for, one number for each time; nothing is kept, so that none is had for nothing."""
    monkeypatch.setattr(text_gram, "KEPT_BYTES", 0)
    counts, solve = [], InverseGram._solved_for
    monkeypatch.setattr(
        InverseGram, "_solved_for", lambda self, asked: (counts.append(asked.shape[1]), solve(self, asked))[1]
    )
    return counts


def test_a_question_is_mapped_once_however_many_batches_and_segments_it_meets(asked, solved):
    make, _, test, folder = asked
    live = make(preconditioner="cooccurrence")
    few, expected = make(preconditioner="cooccurrence", memory_limit=2000), live.influence(test)
    once = sum(solved)
    index = live.build_index(folder / "index", segment_examples=4)
    stored = make(preconditioner="cooccurrence", index=index)
    for tracin in (live, stored):
        solved.clear()
        torch.testing.assert_close(tracin.influence(test).double(), expected, rtol=1e-5, atol=1e-9)
        assert 0 < sum(solved) <= once
    solved.clear()
    torch.testing.assert_close(few.influence(test), expected, rtol=1e-6, atol=1e-9)
    assert sum(solved) > 2 * once  # what does not fit is mapped to the words of each batch


def test_questions_of_an_index_that_do_not_fit_are_mapped_one_after_the_other(asked, solved):
    make, _, test, folder = asked
    index = make().build_index(folder / "index", segment_examples=4)
    whole = make(preconditioner="cooccurrence", index=index)
    expected, best = whole.influence(test), whole.influence(test, k=5)
    mapped = whole.question_rows(test)
    of_one = mapped.values.nbytes // len(mapped)
    some = make(preconditioner="cooccurrence", index=index, memory_limit=2 * of_one)
    assert [len(part) for part in some.source._parts(some.question(test), False)] == [2, 2]
    solved.clear()
    torch.testing.assert_close(some.influence(test), expected, rtol=1e-6, atol=1e-9)
    assert sum(solved) <= len(test[0]) * 30
    found = some.influence(test, k=5)
    assert torch.equal(found.indices, best.indices)
    torch.testing.assert_close(found.influence_scores, best.influence_scores, rtol=1e-6, atol=1e-9)


def test_of_a_sum_of_many_texts_the_columns_are_solved_for_where_they_are_fewer_than_its_words(solved):
    generator = torch.Generator().manual_seed(0)
    ids = torch.cat([torch.randperm(40, generator=generator)[:6].sort().values for _ in range(50)])
    train = RowGradients(torch.arange(0, 301, 6), ids, torch.randn(300, 2, generator=generator).double())
    fitted = Cooccurrence().fit(train)
    text = train.sum()
    words = train.to_dense(40).ne(0).any(2).double()
    weights = (50 / words.sum(0)).log() ** 2
    lengths = (words * weights).sum(1, keepdim=True).sqrt()
    scaled = words * weights.sqrt() / lengths
    inverse = torch.linalg.inv(scaled.T @ scaled / (0.005 * 50) + torch.eye(40).double())
    expected = weights.sqrt()[:, None] * (inverse @ (weights.sqrt()[:, None] * text.to_dense(40)[0]))
    solved.clear()
    found = fitted.apply(text)
    assert sum(solved) == 2
    torch.testing.assert_close(found.to_dense(40)[0], expected, rtol=1e-7, atol=1e-9 * float(expected.abs().max()))


def test_a_question_that_was_solved_for_is_met_without_solving_for_the_words_of_the_training_texts(asked):
    make, _, test, _ = asked
    plain = make()
    rows, train = plain.row_gradients(test), plain.row_gradients()
    fitted = Cooccurrence().fit([train], 2)
    fitted.apply(rows)
    tokens = torch.unique(rows.ids)
    expected = fitted.apply(train, tokens)
    inverse = fitted._inverse
    inverse.forget()
    fitted.apply(rows)
    known = len(inverse._solved)
    found = fitted.back(train, tokens)
    assert len(inverse._solved) == known
    assert torch.equal(found.ids, expected.ids)
    torch.testing.assert_close(found.values, expected.values, rtol=1e-6, atol=1e-9)
