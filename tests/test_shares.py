"""shares="equal": the parts of several tables are made equally large, at each checkpoint, on the question's side."""

import pytest
import torch
from cases import Examples
from index_cases import brute_force
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from captum_tracinwe import RowGradients, TracInWE
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, toy_texts
from captum_tracinwe.gradients.source import spread
from captum_tracinwe.preconditioners import Cooccurrence, EqualShares, Identity, cooccurrence, text_gram
from captum_tracinwe.preconditioners.shares import SAMPLE
from captum_tracinwe.preconditioners.text_gram import InverseGram

LOSS = nn.CrossEntropyLoss(reduction="none")
BOTH = "input", "bag"


def texts(count, seed):
    ids, _, labels = toy_texts(count, seed=seed)
    return ids, labels


@pytest.fixture
def model():
    return TinyCNN(padding_idx=0).double()


def test_each_table_counts_as_much_as_the_first_by_hand(model, tmp_path):
    paths, train, test = scatter_checkpoints(model, tmp_path), texts(9, 1), texts(4, 2)
    expected = 0
    for path in paths:
        alone = [TracInWE(model, Examples(train), [path], loss_fn=LOSS, table=table) for table in BOTH]
        words, bag = (one.influence(test) for one in alone)
        sizes = [one.influence(train).diagonal().mean() for one in alone]
        expected = expected + words + sizes[0] / sizes[1] * bag
    tracin = TracInWE(model, Examples(train), paths, loss_fn=LOSS, table=BOTH, shares="equal")
    torch.testing.assert_close(tracin.influence(test), expected, rtol=1e-12, atol=0)
    # The order in which they are named says nothing.
    other = TracInWE(model, Examples(train), paths, loss_fn=LOSS, table=BOTH[::-1], shares="equal")
    assert torch.equal(other.influence(test), tracin.influence(test))


def test_it_is_measured_in_what_the_preconditioner_makes_of_rows(model, tmp_path):
    paths, train, test = scatter_checkpoints(model, tmp_path), texts(9, 1), texts(4, 2)
    expected = 0
    for path in paths:
        alone = [
            TracInWE(model, Examples(train), [path], loss_fn=LOSS, table=table, preconditioner="idf") for table in BOTH
        ]
        words, bag = (one.influence(test) for one in alone)
        sizes = [one.influence(train).diagonal().mean() for one in alone]
        expected = expected + words + sizes[0] / sizes[1] * bag
    options = {"loss_fn": LOSS, "table": BOTH, "shares": "equal", "preconditioner": "idf"}
    tracin = TracInWE(model, Examples(train), paths, **options)
    torch.testing.assert_close(tracin.influence(test), expected, rtol=1e-12, atol=0)
    found = tracin.word_influence(test, [range(9)] * 4)
    shares = torch.tensor([[float(one.token_shares.sum()) for one in row] for row in found], dtype=torch.float64)
    torch.testing.assert_close(shares, expected, rtol=1e-6, atol=1e-12)


def test_an_index_of_rows_as_they_are_answers_alike(tmp_path):
    model = TinyCNN(padding_idx=0)
    paths, train, test = scatter_checkpoints(model, tmp_path), texts(40, 1), texts(5, 2)
    plain = TracInWE(model, Examples(train), paths, loss_fn=LOSS, table=BOTH)
    plain.build_index(tmp_path / "index", segment_examples=16)
    options = {"loss_fn": LOSS, "table": BOTH, "shares": "equal", "preconditioner": "idf"}
    expected = TracInWE(model, Examples(train), paths, **options).influence(test)
    stored = TracInWE(model, None, paths, index=tmp_path / "index", **options)
    torch.testing.assert_close(stored.influence(test), expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    for proponents in (True, False):
        found, rows = (
            stored.influence(test, k=5, proponents=proponents),
            stored.source.of_question(stored.question(test)),
        )
        assert torch.equal(found.indices, brute_force(stored.index, rows, 5, proponents)[0])


def test_a_sample_of_a_large_set_does_and_a_stream_gives_its_first_batches(model, tmp_path):
    paths, train, test = scatter_checkpoints(model, tmp_path), texts(2 * SAMPLE, 1), texts(2, 2)
    chosen = [2 * place for place in range(SAMPLE)]
    assert spread(2 * SAMPLE, SAMPLE) == chosen
    options = {"loss_fn": LOSS, "table": BOTH}
    tracin = TracInWE(model, Examples(train), paths, batch_size=32, shares="equal", **options)
    measured = EqualShares.of(Identity(), tracin.row_gradients().select(chosen), len(paths), tracin.live.widths(9))
    assert torch.equal(tracin.question(test).preconditioner.factors, measured.factors)

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(zip(*train, strict=True))

    stream = TracInWE(model, DataLoader(Stream(), batch_size=32), paths, shares="equal", **options)
    first = EqualShares.of(Identity(), tracin.row_gradients().select(range(SAMPLE)), len(paths), tracin.live.widths(9))
    assert torch.equal(stream.question(test).preconditioner.factors, first.factors)


def test_a_table_without_a_gradient_keeps_its_factor():
    rows = RowGradients(torch.tensor([0, 1]), torch.tensor([3]), torch.tensor([[1.0, 2.0, 0.0, 2.0, 0.0, 3.0]]))
    shares = EqualShares.of(Identity(), rows, 2, (2, 1))
    assert shares.factors.tolist() == [[1.0, 1.0], [1.0, 4 / 9]]
    assert shares.apply(rows).values.tolist() == [[1.0, 2.0, 0.0, 2.0, 0.0, pytest.approx(3 * 4 / 9)]]
    assert shares.at(1).apply(rows.columns(3, 6)).values.tolist() == [[2.0, 0.0, pytest.approx(3 * 4 / 9)]]


def test_what_cannot_be_measured_is_refused_by_name(model, tmp_path):
    paths, train, test = scatter_checkpoints(model, tmp_path), texts(9, 1), texts(4, 2)
    tracin = TracInWE(model, Examples(train), paths, loss_fn=LOSS, table=BOTH)
    tracin.build_index(tmp_path / "index", project=4)
    stored = TracInWE(model, Examples(train), paths, loss_fn=LOSS, table=BOTH, shares="equal", index=tmp_path / "index")
    with pytest.raises(ValueError, match="built with project="):
        stored.influence(test)
    with pytest.raises(ValueError, match='`shares` should be one number above 0 .* "equal"'):
        TracInWE(model, Examples(train), paths, loss_fn=LOSS, table=BOTH, shares="alike")
    with pytest.raises(ValueError, match="[Ee]xpected rows of one training text at least, of 2 checkpoint"):
        EqualShares.of(Identity(), tracin.row_gradients(), 2, (2, 1))
    alone = TracInWE(model, Examples(train), paths, loss_fn=LOSS, table="bag", shares="equal")
    plain = TracInWE(model, Examples(train), paths, loss_fn=LOSS, table="bag")
    assert torch.equal(alone.influence(test), plain.influence(test))


def test_a_word_of_the_measured_texts_is_solved_for_once_for_all_checkpoints(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 60, (40, 6), generator=generator)
    owners = torch.arange(40).repeat_interleave(6)
    rows = RowGradients.from_positions(owners, ids.flatten(), torch.randn(240, 9, generator=generator).double(), 40)
    inner, widths = Cooccurrence().fit(rows, 3), (2, 1)
    sizes = torch.zeros(3, 2, dtype=torch.float64)
    for text in (rows.select([j]) for j in range(40)):
        mapped = inner.apply(text, text.ids)
        products = (mapped.values * text.values).sum(0).view(3, 3)
        sizes += torch.stack([products[:, :2].sum(1), products[:, 2]], dim=1)
    solved, solve = [], InverseGram._solve
    monkeypatch.setattr(text_gram, "KEPT_BYTES", 8 * 60 * 10)  # ten words
    monkeypatch.setattr(text_gram, "WORDS_AT_ONCE", 4)
    monkeypatch.setattr(InverseGram, "_solve", lambda self, words: (solved.extend(words), solve(self, words))[1])
    found = EqualShares.of(Cooccurrence().fit(rows, 3), rows, 3, widths).factors
    torch.testing.assert_close(found, sizes[:, :1] / sizes, rtol=1e-7, atol=0)
    assert sorted(solved) == list(range(len(inner.words)))


def test_texts_of_very_many_words_are_measured_by_fewer(monkeypatch):
    rows = RowGradients(torch.arange(65) * 2, torch.arange(128), torch.rand(128, 3).double())
    given = Cooccurrence().fit(rows)
    monkeypatch.setattr(cooccurrence, "MOST_WORDS", 50)
    half = rows.select(range(0, 64, 4))  # 16 of 64 texts, 32 words
    torch.testing.assert_close(given.with_itself(rows), given.with_itself(half), rtol=0, atol=0)
    monkeypatch.setattr(cooccurrence, "MOST_WORDS", 5)
    torch.testing.assert_close(given.with_itself(rows), given.with_itself(half), rtol=0, atol=0)  # the fewest


def test_self_influence_is_that_of_the_word_table_where_shares_are_equal(tmp_path):
    model = TinyCNN(padding_idx=0)
    paths, train, test = scatter_checkpoints(model, tmp_path), texts(20, 1), texts(4, 2)

    def make(**options):
        return TracInWE(model, Examples(train), paths, loss_fn=LOSS, batch_size=7, **options)

    plain = make()
    make(table=BOTH).build_index(tmp_path / "index", segment_examples=8)
    for options in ({"table": BOTH, "shares": "equal"}, {"preconditioner": "auto"}):
        live, stored = make(**options), make(**options, index=tmp_path / "index")
        assert torch.equal(live.self_influence(), plain.self_influence())
        assert torch.equal(live.self_influence(outer_loop_by_checkpoints=True), plain.self_influence())
        assert torch.equal(live.self_influence(test), plain.self_influence(test))
        torch.testing.assert_close(stored.self_influence(), plain.self_influence(), rtol=1e-6, atol=0)
    stored.index.delete([3])
    left = make(preconditioner="auto", index=tmp_path / "index").self_influence()
    assert left[3] == -torch.inf
    torch.testing.assert_close(left[4:], plain.self_influence()[4:], rtol=1e-6, atol=0)
    both = make(table=BOTH).self_influence()
    assert not torch.allclose(both, plain.self_influence(), rtol=0.1)  # shares of 1 each: of both
