"""The user's model: left as it was found, in whatever mode, wrapper, precision or autograd state it comes."""

import pytest
import torch
from cases import Examples, assert_same_state, assert_scores, cnn, cross_entropy, state_of, tracin_of
from torch import nn

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, tiny_bert, toy_texts

pytestmark = pytest.mark.filterwarnings("ignore:Since `.*loss_fn.*:UserWarning")


class Normed(TinyCNN):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, input_ids):
        return self.norm(super().forward(input_ids))


@pytest.fixture
def used(tmp_path):
    """A model in the middle of somebody's work: parts in training mode, parts frozen, BatchNorm's buffers in use."""
    model = Normed()
    model(torch.randint(0, 30, (4, 9)))
    paths = scatter_checkpoints(model, tmp_path)
    model.train()
    model.conv.eval()
    model.out.requires_grad_(False)
    ids, _, labels = toy_texts(5)
    return TracInWE(model, Examples((ids, labels)), paths, loss_fn=cross_entropy(), batch_size=2), (
        ids,
        labels,
    )


def test_the_model_is_left_as_it_was_found(used):
    tracin, batch = used
    for call in (
        lambda: tracin.influence(batch),
        lambda: tracin.influence(batch, k=2),
        lambda: tracin.self_influence(),
        lambda: tracin.self_influence(outer_loop_by_checkpoints=True),
        lambda: tracin.compute_intermediate_quantities(batch),
        lambda: tracin.row_gradients(),
        lambda: tracin.word_influence(batch, [[0]] * 5),
    ):
        before = state_of(tracin.model)
        call()
        assert_same_state(tracin.model, before)


def test_the_model_is_left_as_it_was_found_after_an_exception(used):
    tracin, batch = used
    before = state_of(tracin.model)
    seen = []

    def fail_at_second_checkpoint(prediction, labels):
        seen.append(1)
        if len(seen) > 6:
            raise RuntimeError("stop here")
        return cross_entropy()(prediction, labels)

    tracin.loss_fn = fail_at_second_checkpoint
    for call in (lambda: tracin.influence(batch, k=1), tracin.self_influence):
        with pytest.raises(RuntimeError, match="stop here"):
            call()
        assert_same_state(tracin.model, state_of(tracin.model) | before | {"weights": dict(before["weights"])})


def test_a_loader_that_replaces_parameters_does_not_tear_the_users_optimizer_off(used):
    tracin, batch = used
    expected = tracin.influence(batch)
    before = state_of(tracin.model)

    def assign(model, path):
        content = torch.load(path, weights_only=True)
        model.load_state_dict(content["model_state_dict"], assign=True)
        model.train()
        return content["learning_rate"]

    tracin.checkpoints_load_func = assign
    assert torch.equal(tracin.influence(batch), expected)
    assert_same_state(tracin.model, before)


def test_dropout_and_batchnorm_do_not_touch_the_scores(used):
    tracin, (ids, labels) = used
    whole = tracin.influence((ids, labels))
    assert torch.equal(whole, tracin.influence((ids, labels)))
    one_by_one = torch.cat([tracin.influence((ids[i : i + 1], labels[i : i + 1])) for i in range(5)])
    assert_scores(one_by_one, whole, torch.float32)


def test_callers_no_grad_and_inference_mode_do_not_matter(tmp_path):
    case = cnn()
    paths = scatter_checkpoints(case.model, tmp_path)
    tracin = tracin_of(case, paths)
    expected = tracin.influence(case.test)
    with torch.no_grad():
        assert torch.equal(tracin.influence(case.test), expected)
    with torch.inference_mode():
        assert torch.equal(tracin.influence(case.test), expected)


def test_no_weight_gradient_is_computed(tmp_path, monkeypatch):
    case = cnn()
    paths = scatter_checkpoints(case.model, tmp_path)
    asked = []
    original = torch.autograd.grad

    def watch(outputs, inputs, **options):
        asked.extend(tuple(i.shape) for i in inputs)
        assert not any(p.requires_grad for p in case.model.parameters())
        return original(outputs, inputs, **options)

    monkeypatch.setattr(torch.autograd, "grad", watch)
    tracin_of(case, paths, batch_size=7, probe=False).self_influence()
    assert asked == [(7, 9, 6)] * 3  # one for each checkpoint
    asked.clear()
    tracin_of(case, paths, batch_size=7).self_influence()
    assert asked.count((7, 9, 6)) == 3
    # The probe at each checkpoint: four texts together, and whether they meet; in reverse; each alone.
    assert len(asked) == 3 + 3 * 7


def test_wrapped_models_give_the_same_scores(tmp_path):
    case = cnn()
    paths = scatter_checkpoints(case.model, tmp_path)
    expected = tracin_of(case, paths).influence(case.test)
    for wrap in (nn.DataParallel, torch.compile):
        found = TracInWE(wrap(case.model), case.dataset(), paths, loss_fn=case.loss, batch_size=3).influence(case.test)
        assert torch.equal(found, expected)


def test_half_precision_models_are_summed_in_float32(tmp_path):
    model = tiny_bert().bfloat16()
    ids, mask, labels = toy_texts(4)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    scatter_checkpoints(model, tmp_path)
    tracin = TracInWE(model, Examples(batch), tmp_path, loss_fn=cross_entropy(), batch_size=2)
    rows = tracin.row_gradients()
    assert rows.values.dtype == torch.float32
    exact = TracInWE(tiny_bert().float(), Examples(batch), tmp_path, loss_fn=cross_entropy(), batch_size=2).influence(
        batch
    )
    assert float((tracin.influence(batch) - exact).abs().max() / exact.abs().max()) < 0.1
