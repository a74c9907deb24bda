"""TracInWE: equal to Captum's dense path and to a loop over single examples, whatever the batches, losses and models."""

import copy

import pytest
import torch
from captum.influence import TracInCP
from cases import (
    CASES,
    TOLERANCE,
    Examples,
    assert_scores,
    captum_scores,
    cnn,
    cross_entropy,
    gpt2,
    tracin_of,
    two_texts,
)
from torch import nn
from torch.utils.data import DataLoader

from captum_tracinwe import TracInWE, load_checkpoint, save_checkpoint
from captum_tracinwe.app.testing import scatter_checkpoints, tiny_bert, toy_texts

pytestmark = pytest.mark.filterwarnings("ignore:Since `.*loss_fn.*:UserWarning")


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_influence_equals_a_loop_over_single_examples(case, dtype, tmp_path):
    case.to(dtype)
    checkpoints = scatter_checkpoints(case.model, tmp_path)
    expected = case.by_loop(checkpoints)
    assert_scores(tracin_of(case, str(tmp_path)).influence(case.test), expected, dtype)
    self_expected = torch.diagonal(on(case, case.train).by_loop(checkpoints))
    for by_checkpoints in (False, True):
        found = tracin_of(case, checkpoints).self_influence(outer_loop_by_checkpoints=by_checkpoints)
        assert_scores(found, self_expected, dtype)


def on(case, test):
    """The same case with other test texts."""
    other = copy.copy(case)
    other.test = test
    return other


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_all_modes_equal_captum(case, dtype, tmp_path):
    if not case.captum:
        pytest.skip("Captum's dense path does not take this model")
    case.to(dtype)
    checkpoints = scatter_checkpoints(case.model, tmp_path)
    ours, captum = tracin_of(case, checkpoints), captum_scores(case, checkpoints)
    scores = captum.influence(case.test)
    assert_scores(ours.influence(case.test), scores, dtype)
    scores_of = {False: scores, True: captum.influence(case.test, aggregate=True)}
    assert_scores(ours.influence(case.test, aggregate=True), scores_of[True], dtype)
    test_loader = DataLoader(Examples(case.test), 2)
    assert_scores(ours.influence(test_loader), captum.influence(test_loader), dtype)
    for by_checkpoints in (False, True):
        expected = captum.self_influence(outer_loop_by_checkpoints=by_checkpoints)
        assert_scores(ours.self_influence(outer_loop_by_checkpoints=by_checkpoints), expected, dtype)
    assert_scores(ours.self_influence(case.test), captum.self_influence(case.test), dtype)
    for proponents in (True, False):
        for aggregate in (False, True):
            for k in (1, 4, 100):
                found = ours.influence(case.test, k=k, proponents=proponents, aggregate=aggregate)
                expected = captum.influence(case.test, k=k, proponents=proponents, aggregate=aggregate)
                # Which of several equal scores comes first is left to chance in Captum.
                of_found = scores_of[aggregate].gather(1, found.indices)
                largest = float(scores.abs().max())
                assert_scores(of_found, expected.influence_scores, dtype, largest)
                assert_scores(found.influence_scores, expected.influence_scores, dtype, largest)


def test_intermediate_quantities_and_row_gradients_multiply_to_influence(case, tmp_path):
    case.to(torch.float64)
    scatter_checkpoints(case.model, tmp_path)
    tracin = tracin_of(case, tmp_path)
    scores = tracin.influence(case.test)
    test = tracin.compute_intermediate_quantities(case.test, test=True)
    train = tracin.compute_intermediate_quantities(case.train)
    assert test.shape == (scores.shape[0], 3 * tracin.embedding.weight.numel())
    assert_scores(test @ train.T, scores)
    summed = tracin.compute_intermediate_quantities(case.test, aggregate=True, test=True)
    assert_scores(summed @ train.T, tracin.influence(case.test, aggregate=True))
    assert_scores(tracin.row_gradients(case.test).dot(tracin.row_gradients()), scores)


def test_intermediate_quantities_lie_as_captums_do(tmp_path):
    case = cnn().to(torch.float64)
    checkpoints = scatter_checkpoints(case.model, tmp_path, rates=(1.0, 1.0))  # √η = η
    ours = tracin_of(case, checkpoints).compute_intermediate_quantities(case.test)
    assert_scores(ours, captum_scores(case, checkpoints).compute_intermediate_quantities(case.test))


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("sample_wise", [False, True])
def test_reductions_and_batch_sizes_give_the_same_scores(reduction, sample_wise, tmp_path):
    case = cnn().to(torch.float64)
    scatter_checkpoints(case.model, tmp_path)
    expected = tracin_of(case, tmp_path, batch_size=1).influence(case.test)
    for batch_size in (1, 2, 3, 4, 7, 50):
        tracin = tracin_of(
            case,
            tmp_path,
            loss_fn=cross_entropy(reduction),
            batch_size=batch_size,
            sample_wise_grads_per_batch=sample_wise,
        )
        assert_scores(tracin.influence(case.test), expected)
        assert_scores(tracin.influence(DataLoader(Examples(case.test), 2)), expected)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_reduced_losses_equal_captums_sample_wise_path(reduction, tmp_path):
    """Captum's trick knows Linear layers only: both are given the pre-embedded model's last layer, ours the embedding."""
    case = cnn().to(torch.float64)
    checkpoints = scatter_checkpoints(case.model, tmp_path)
    ours = tracin_of(case, checkpoints, loss_fn=cross_entropy(reduction), sample_wise_grads_per_batch=True)
    assert_scores(ours.influence(case.test), captum_scores(case, checkpoints).influence(case.test))


def test_a_weighted_or_token_mean_is_that_of_each_example_alone(tmp_path):
    case = cnn().to(torch.float64)
    checkpoints = scatter_checkpoints(case.model, tmp_path)
    weights = torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)
    case.loss = lambda prediction, labels: nn.functional.cross_entropy(prediction, labels, weight=weights)
    assert_scores(tracin_of(case, checkpoints).influence(case.test), case.by_loop(checkpoints))
    language = gpt2(True).to(torch.float64)
    checkpoints = scatter_checkpoints(language.model, tmp_path / "gpt2")

    def token_mean(logits, labels):
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    language.loss = token_mean
    assert_scores(tracin_of(language, checkpoints).influence(language.test), language.by_loop(checkpoints))


def test_the_test_loss_is_used_for_test_examples_only(case, tmp_path):
    case.to(torch.float64)
    checkpoints = scatter_checkpoints(case.model, tmp_path)

    def margin(prediction, labels):
        return prediction.flatten(1)[:, 0] * 3 - prediction.flatten(1)[:, 1]

    expected = case.by_loop(checkpoints, test_loss=margin)
    tracin = tracin_of(case, checkpoints, test_loss_fn=margin)
    assert_scores(tracin.influence(case.test), expected)
    assert_scores(tracin.row_gradients(case.test).dot(tracin.row_gradients()), expected)
    if case.captum:
        captum = captum_scores(case, checkpoints, test_loss_fn=margin)
        assert_scores(tracin.influence(case.test), captum.influence(case.test))


def test_without_a_loss_the_output_is_explained_as_in_captum(tmp_path):
    case = cnn().to(torch.float64)
    checkpoints = scatter_checkpoints(case.model, tmp_path)
    assert_scores(
        tracin_of(case, checkpoints, loss_fn=None).influence(case.test),
        captum_scores(case, checkpoints, loss_fn=None).influence(case.test),
    )
    tracin = tracin_of(case, checkpoints)  # labels None: Captum then takes the output too
    expected = tracin_of(case, checkpoints, loss_fn=None).row_gradients(case.test).values
    torch.testing.assert_close(tracin.row_gradients((case.test[0], None)).values, expected)


def test_a_transformers_model_explains_its_own_loss(tmp_path):
    case = CASES["bert, mappings"]().to(torch.float64)
    scatter_checkpoints(case.model, tmp_path)
    expected = tracin_of(case, tmp_path).influence(case.test)
    assert_scores(tracin_of(case, tmp_path, loss_fn=None).influence(case.test), expected)


def test_a_loss_may_take_the_whole_output(tmp_path):
    """A ModelOutput without logits is given to the loss as it is, and cut example by example where the loss is a mean."""
    from transformers import BertModel

    model = tiny_bert().bert.double()
    assert isinstance(model, BertModel)
    ids, mask, labels = toy_texts(4)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    scatter_checkpoints(model, tmp_path)

    def per_example(output, labels):
        return output.pooler_output[:, 0] * (labels + 1)

    def mean(output, labels):
        return per_example(output, labels).mean()

    one, other = (
        TracInWE(model, Examples(batch), tmp_path, loss_fn=loss, batch_size=3) for loss in (per_example, mean)
    )
    assert_scores(other.influence(batch), one.influence(batch))


def test_rates_matter(tmp_path):
    case = cnn().to(torch.float64)
    paths = scatter_checkpoints(case.model, tmp_path, rates=(0.5, 2.0))
    alone = [tracin_of(case, [path]).influence(case.test) for path in paths]
    assert_scores(tracin_of(case, paths).influence(case.test), alone[0] + alone[1])
    save_checkpoint(paths[0], case.model, 0.0)
    assert_scores(tracin_of(case, paths).influence(case.test), alone[1])


def test_a_tied_table_counts_its_input_side_only(tmp_path):
    """The full gradient of a tied table has a dense part from the output head: Captum has it, we do not."""
    case = gpt2(True).to(torch.float64)
    paths = scatter_checkpoints(case.model, tmp_path, rates=(1.0,))
    ours = tracin_of(case, paths).influence(case.test)
    captum = captum_scores(case, paths).influence(case.test)
    untied = gpt2(False).to(torch.float64)
    load_checkpoint(case.model, paths[0])
    model = untied.model.model
    model.transformer.load_state_dict(case.model.model.transformer.state_dict())
    model.lm_head.load_state_dict(case.model.model.lm_head.state_dict())
    save_checkpoint(tmp_path / "untied" / "a.pt", untied.model, 1.0)
    assert_scores(ours, tracin_of(untied, tmp_path / "untied").influence(case.test))
    assert float((captum - ours).abs().max()) > 0.1 * float(captum.abs().max())


def test_excluded_tokens_do_not_count(tmp_path):
    case = cnn().to(torch.float64)
    scatter_checkpoints(case.model, tmp_path)
    shared = sorted(set(case.train[0].flatten().tolist()) & set(case.test[0].flatten().tolist()) - {0})
    tracin = tracin_of(case, tmp_path)
    excluded = tracin_of(case, tmp_path, exclude_tokens=shared[:1])
    expected = tracin.row_gradients(case.test).exclude(shared[:1]).dot(tracin.row_gradients())
    assert_scores(excluded.influence(case.test), expected)
    assert float((expected - tracin.influence(case.test)).abs().max()) > 0


def test_captums_own_defaults_are_kept():
    """Same names, same order, same defaults as TracInCP; what is new comes last and by keyword only."""
    import inspect

    for method in ("__init__", "influence", "self_influence", "compute_intermediate_quantities"):
        ours = list(inspect.signature(getattr(TracInWE, method)).parameters.values())
        theirs = list(inspect.signature(getattr(TracInCP, method)).parameters.values())
        assert [p.name for p in ours[: len(theirs)]] == [p.name for p in theirs]
        assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])
        for p, q in zip(ours, theirs, strict=False):
            assert p.name == "checkpoints_load_func" or p.default == q.default


def test_two_texts_with_a_sparse_table_and_an_unused_call(tmp_path):
    case = two_texts()
    paths = scatter_checkpoints(case.model, tmp_path)
    assert_scores(tracin_of(case, paths).influence(case.test), case.by_loop(paths), torch.float32)


def test_autocast_around_a_question_has_no_part_in_it(tmp_path):
    case = CASES["bert, mappings"]()
    paths = scatter_checkpoints(case.model, tmp_path)
    tracin = tracin_of(case, paths)
    exact = tracin.influence(case.test)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(tracin.influence(case.test), exact)
