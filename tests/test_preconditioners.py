"""What multiplies a question's rows: the seam between question and training rows, live and stored."""

from dataclasses import dataclass

import pytest
import torch
from cases import CASES

from captum_tracinwe import RowGradients, TracInWE, word_report
from captum_tracinwe.app.testing import scatter_checkpoints
from captum_tracinwe.preconditioners import Identity


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
        TypeError, match=r"`preconditioner` should be an object with apply\(rows\) and at\(checkpoint\).*'idf'"
    ):
        make(preconditioner="idf")
