"""`TracInWE.word_influence`: shares that add up to the score, and examples that are not there."""

import warnings

import pytest
import torch
from cases import (
    Stream,
    cnn,
    tracin_of,
)
from torch.utils.data import DataLoader

from captum_tracinwe.app.testing import scatter_checkpoints
from captum_tracinwe.gradients import seen

pytestmark = pytest.mark.filterwarnings("ignore:Since `.*loss_fn.*:UserWarning")


def test_word_shares_add_up_to_the_score(case, tmp_path):
    case.to(torch.float64)
    scatter_checkpoints(case.model, tmp_path)
    tracin = tracin_of(case, tmp_path)
    scores = tracin.influence(case.test)
    best = tracin.influence(case.test, k=3)
    for per_checkpoint in (False, True):
        words = tracin.word_influence(case.test, best.indices, per_checkpoint=per_checkpoint)
        for i, row in enumerate(words):
            assert [w.train_index for w in row] == best.indices[i].tolist()
            for w in row:
                assert w.test_index == i
                assert w.token_ids.tolist() == sorted(set(w.token_ids.tolist()))
                assert abs(float(w.token_shares.sum()) - w.score) <= 1e-12 * float(scores.abs().max())
                assert abs(w.score - float(scores[i, w.train_index])) <= 1e-9 * float(scores.abs().max())
                if per_checkpoint:
                    assert w.checkpoint_shares.shape == (3, len(w.token_ids))
                    torch.testing.assert_close(w.checkpoint_shares.sum(0), w.token_shares)


def test_words_of_a_data_set_without_random_access(tmp_path):
    case = cnn()
    scatter_checkpoints(case.model, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        streamed = tracin_of(case, tmp_path, data=DataLoader(Stream(case.dataset()), 3))
    direct = tracin_of(case, tmp_path)
    wanted = [[6, 0], [], [3]]
    for a, b in zip(streamed.word_influence(case.test, wanted), direct.word_influence(case.test, wanted), strict=True):
        assert [w.train_index for w in a] == [w.train_index for w in b]
        for one, other in zip(a, b, strict=True):
            torch.testing.assert_close(one.token_shares, other.token_shares)
    assert torch.equal(streamed.influence(case.test, show_progress=True), direct.influence(case.test))
    assert direct.word_influence(case.test, [[], [], []]) == [[], [], []]
    with pytest.raises(ValueError, match="training example 7: expected 0 to 6"):
        streamed.word_influence(case.test, [[7], [], []])


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([[0], [1]], "each of the 3 test examples, got"),
        ([[0], [1], [7]], "training example 7: expected 0 to 6"),
        ([[0], [1], [-1]], "training example -1"),
        ([[0], [1], [0.5]], "whole numbers, got 0.5"),
        (torch.tensor([0, 1, 2]), "one list of training indices"),
    ],
)
def test_words_of_examples_that_are_not_there_are_refused(wanted, message, tmp_path):
    case = cnn()
    scatter_checkpoints(case.model, tmp_path)
    with pytest.raises(ValueError, match=message):
        tracin_of(case, tmp_path).word_influence(case.test, wanted)


def test_bars_are_where_a_person_looks_unless_they_are_asked_for(tmp_path, monkeypatch, capsys):
    case = cnn()
    scatter_checkpoints(case.model, tmp_path)
    tracin = tracin_of(case, tmp_path)
    wanted = tracin.influence(case.test, k=2).indices
    questions = (
        lambda **shown: tracin.word_influence(case.test, wanted, **shown),
        lambda **shown: tracin.row_gradients(**shown),
        lambda **shown: tracin.row_gradients(case.test, **shown),
    )
    monkeypatch.setattr(seen, "PATIENCE", 0)
    capsys.readouterr()
    for looks in (False, True):
        monkeypatch.setattr(seen, "is_terminal", lambda stream, looks=looks: looks)
        for ask in questions:
            for asked, shown in ((None, looks), (True, True), (False, False)):
                ask(show_progress=asked)
                assert ("to compute" in capsys.readouterr().err) == shown
            ask()
            assert ("to compute" in capsys.readouterr().err) == looks
