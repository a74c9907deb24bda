"""Ways of getting the method wrong, each of which the equalities must catch."""

import pytest
import torch
from cases import assert_scores, cnn, tracin_of
from torch import nn

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import scatter_checkpoints
from captum_tracinwe.gradients.checkpointed import CheckpointedModel

pytestmark = pytest.mark.filterwarnings("ignore:Since `.*loss_fn.*:UserWarning")


def _pads_count(monkeypatch):
    import captum_tracinwe.gradients.batch_rows as module

    original = module.fold

    def fold(reads, *args):
        blind = [one._replace(calls=[type(c)(c.ids, c.output, None) for c in one.calls]) for one in reads]
        return original(blind, *args)

    monkeypatch.setattr(module, "fold", fold)


def _rate_ignored(monkeypatch):
    original = CheckpointedModel.at
    monkeypatch.setattr(CheckpointedModel, "at", lambda self, checkpoint: original(self, checkpoint) * 0 + 1.0)


def _tokens_not_matched(monkeypatch):
    from captum_tracinwe import RowGradients, ops

    def whole(*sides):
        a, b = (
            torch.zeros(len(s), s.width, dtype=s.values.dtype).index_add_(0, s.examples, s.values)
            for s in (RowGradients(*sides[:3]), RowGradients(*sides[3:]))
        )
        return a @ b.T

    monkeypatch.setattr(ops, "row_dot", whole)


def _first_checkpoint_only(monkeypatch):
    monkeypatch.setattr(
        TracInWE,
        "checkpoints",
        property(lambda self: self._checkpoints[:1], lambda self, c: setattr(self, "_checkpoints", c)),
    )


def _repeats_not_summed(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "index_add_", lambda self, *args: self)


def _not_in_eval_mode(monkeypatch):
    monkeypatch.setattr(nn.Module, "eval", lambda self: self.train())


@pytest.mark.parametrize(
    "mutate",
    [
        _pads_count,
        _rate_ignored,
        _tokens_not_matched,
        _first_checkpoint_only,
        _repeats_not_summed,
        _not_in_eval_mode,
    ],
)
def test_mutants_are_caught(mutate, tmp_path, monkeypatch):
    """Each way of getting the method wrong moves the scores far beyond the tolerance: the equalities above can fail."""
    case = cnn().to(torch.float64)
    paths = scatter_checkpoints(case.model, tmp_path)
    expected = case.by_loop(paths)
    assert_scores(tracin_of(case, paths).influence(case.test), expected)
    tracin = tracin_of(case, paths, probe=False)  # which would catch some of them
    mutate(monkeypatch)
    with pytest.raises(AssertionError, match="of the largest score"):
        assert_scores(tracin.influence(case.test), expected)
    monkeypatch.undo()
