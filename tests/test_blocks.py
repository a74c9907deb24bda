"""Blocks of training examples: each checkpoint loaded once for each, no full matrix held, the same scores."""

import pytest
import torch
from cases import cnn, tracin_of

from captum_tracinwe import load_checkpoint
from captum_tracinwe.app.testing import scatter_checkpoints
from captum_tracinwe.gradients.live_source import LiveSource

pytestmark = pytest.mark.filterwarnings("ignore:Since `.*loss_fn.*:UserWarning")


class Counting:
    """A loader that counts its loads."""

    def __init__(self):
        self.loads = []

    def __call__(self, model, path):
        self.loads.append(path)
        return load_checkpoint(model, path)


def test_each_checkpoint_is_loaded_once_per_call(tmp_path):
    case = cnn()
    paths = scatter_checkpoints(case.model, tmp_path)
    calls = [
        lambda t: t.influence(case.test),
        lambda t: t.influence(case.test, k=2),
        lambda t: t.self_influence(),
        lambda t: t.self_influence(outer_loop_by_checkpoints=True),
        lambda t: t.row_gradients(),
        lambda t: t.compute_intermediate_quantities(case.test),
    ]
    for call in calls:
        load = Counting()
        call(tracin_of(case, paths, checkpoints_load_func=load, batch_size=1, probe=False))
        assert load.loads == paths
    tracin = tracin_of(case, paths, checkpoints_load_func=load, batch_size=1)
    load.loads.clear()
    for _ in range(2):
        tracin.self_influence()
    assert load.loads == [
        paths[-1],
        *paths,
        *paths,
    ]  # once more, before the first call, to see that the model comes back


def test_blocks_change_nothing_but_the_number_of_loads(tmp_path):
    case = cnn()
    paths = scatter_checkpoints(case.model, tmp_path)
    load = Counting()
    whole = tracin_of(case, paths)
    blocks = tracin_of(case, paths, memory_limit=1, checkpoints_load_func=load, probe=False)
    assert torch.equal(whole.influence(case.test), blocks.influence(case.test))
    assert len(load.loads) == 3 * len(paths)  # 7 examples in batches of 3: three blocks
    for proponents in (True, False):
        a, b = (t.influence(case.test, k=4, proponents=proponents) for t in (whole, blocks))
        assert torch.equal(a.indices, b.indices)
        assert torch.equal(a.influence_scores, b.influence_scores)
    assert torch.equal(whole.self_influence(), blocks.self_influence())
    assert torch.equal(whole.row_gradients().values, blocks.row_gradients().values)


def test_with_k_no_full_matrix_is_held(tmp_path, monkeypatch):
    case = cnn()
    paths = scatter_checkpoints(case.model, tmp_path)
    tracin = tracin_of(case, paths, memory_limit=1)
    widths = []
    original = LiveSource._by_place

    def watch(self, *args):
        for examples, block, factors in original(self, *args):
            widths.append(block.shape[1])
            yield examples, block, factors

    monkeypatch.setattr(LiveSource, "_by_place", watch)
    tracin.influence(case.test, k=2)
    assert widths == [3, 3, 1]
