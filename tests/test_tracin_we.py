"""TracInWE: equal to Captum's dense path and to a loop over single examples, whatever the batches, losses and models."""

import copy
import warnings

import pytest
import torch
from captum.influence import TracInCP
from cases import CASES, Examples, captum_scores, cnn, cross_entropy, gpt2, two_texts
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from captum_tracinwe import TracInWE, load_checkpoint, save_checkpoint
from captum_tracinwe.testing import TinyCNN, scatter_checkpoints, tiny_bert, tiny_gpt2, toy_texts

# Relative to the largest score.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}

pytestmark = pytest.mark.filterwarnings("ignore:Since `.*loss_fn.*:UserWarning")


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]()


def assert_scores(actual, expected, dtype=torch.float64, largest=None):
    assert actual.shape == expected.shape
    largest = float(expected.abs().max()) if largest is None else largest
    assert largest > 0
    worst = float((actual.double() - expected.double()).abs().max()) / largest
    assert worst <= TOLERANCE[dtype], f"{worst:.2e} of the largest score"


def tracin_of(case, checkpoints, **options):
    return TracInWE(
        case.model,
        options.pop("data", case.dataset()),
        checkpoints,
        **{"loss_fn": case.loss, "batch_size": 3} | case.options | options,
    )


# --------------------------------------------------------------------------------------------------------- equalities


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
    assert_scores(ours.influence(case.test, aggregate=True), captum.influence(case.test, aggregate=True), dtype)
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
                of_found = captum.influence(case.test, aggregate=aggregate).gather(1, found.indices)
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
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64))
    assert weighted.reduction == "mean"
    case.loss = weighted
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


# ------------------------------------------------------------------------------------------------- blocks and loading


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
        call(tracin_of(case, paths, checkpoints_load_func=load, batch_size=1))
        assert load.loads == paths


def test_blocks_change_nothing_but_the_number_of_loads(tmp_path):
    case = cnn()
    paths = scatter_checkpoints(case.model, tmp_path)
    load = Counting()
    whole, blocks = tracin_of(case, paths), tracin_of(case, paths, memory_limit=1, checkpoints_load_func=load)
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
    original = TracInWE._score_blocks

    def watch(self, *args):
        for examples, block in original(self, *args):
            widths.append(block.shape[1])
            yield examples, block

    monkeypatch.setattr(TracInWE, "_score_blocks", watch)
    tracin.influence(case.test, k=2)
    assert widths == [3, 3, 1]


# ------------------------------------------------------------------------------------------------------ state of model


def state_of(model):
    return {
        "weights": {n: t.clone() for n, t in model.state_dict().items()},
        "objects": {n: id(p) for n, p in model.named_parameters()},
        "wanted": {n: p.requires_grad for n, p in model.named_parameters()},
        "modes": [m.training for m in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()],
        "grads": [p.grad is None for p in model.parameters()],
    }


def assert_same_state(model, before):
    after = state_of(model)
    for name, tensor in before.pop("weights").items():
        assert torch.equal(after["weights"][name], tensor), name
    after.pop("weights")
    assert after == before


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
    tracin_of(case, paths, batch_size=7).self_influence()
    assert asked == [(7, 9, 6)] * 4  # one for each checkpoint, and once the check that examples do not meet


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


# ------------------------------------------------------------------------------------------------------------- words


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


class Stream(IterableDataset):
    def __init__(self, examples):
        self.examples = examples

    def __iter__(self):
        return (self.examples[i] for i in range(len(self.examples)))


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


# ---------------------------------------------------------------------------------------------------------- bad input


def flattened(logits, labels):
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none")


def _scalar_despite_none(prediction, labels):
    return prediction.sum()


_scalar_despite_none.reduction = "none"


class SeqFirst(TinyCNN):
    def forward(self, input_ids):
        return super().forward(input_ids) if input_ids.shape[0] == 1 else self.pool(input_ids.T)

    def pool(self, ids):
        return self.out(torch.tanh(self.conv(self.embedding(ids).permute(1, 2, 0))).amax(2))


class Unused(TinyCNN):
    def forward(self, input_ids):
        return self.out(torch.ones(len(input_ids), 5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"loss_fn": lambda p, y: cross_entropy()(p, y).repeat(2)},
            r"gave shape \(6,\) for a batch of 3: expected one loss per",
        ),
        ({"loss_fn": _scalar_despite_none}, "reduction='none' but gave one number for a batch of 3"),
        ({"loss_fn": lambda p, y: (p.argmax(1) == y).sum()}, "floating-point tensor"),
        ({"loss_fn": lambda p, y: 0.5}, "floating-point tensor.*got float"),
        (
            {"loss_fn": lambda p, y: (p * 0 + 1).detach().sum(1)},
            "does not depend on the embedding 'embedding'",
        ),
        (
            {"loss_fn": lambda p, y: p.sum(1) * float("nan")},
            "gradient of test example 0 is NaN or infinite at checkpoint",
        ),
        ({"loss_fn": lambda p, y: p.sum(1) / (y - 2)}, "gradient of training example 2 is NaN or infinite"),
        ({"model": Unused()}, "not used in the forward pass"),
        ({"model": SeqFirst()}, r"ids of shape \(9, 3\) for a batch of 3"),
        ({"checkpoints_load_func": lambda m, p: None}, "returned None for"),
        ({"checkpoints_load_func": lambda m, p: -1.0}, "returned -1.0 for"),
    ],
)
def test_losses_and_models_that_cannot_be_explained_are_refused(change, message, tmp_path):
    case = cnn()
    case.model = change.pop("model", case.model)
    paths = scatter_checkpoints(case.model, tmp_path)
    # labels of the third training example: 2 (a division by zero in one of the losses); none in the test set
    case.train = (case.train[0], torch.tensor([0, 1, 2, 0, 1, 0, 1]))
    case.test = (case.test[0], torch.tensor([0, 1, 0]))
    before = state_of(case.model)
    with pytest.raises((ValueError, TypeError), match=message):
        tracin_of(case, paths, **change).influence(case.test)
    assert_same_state(case.model, before)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_loss_per_token_is_refused(tmp_path, batch_size):
    case = gpt2(True)
    paths = scatter_checkpoints(case.model, tmp_path)
    with pytest.raises(ValueError, match="A loss per token must be summed"):
        tracin_of(case, paths, loss_fn=flattened, batch_size=batch_size).self_influence()


def test_a_language_models_own_loss_is_refused_in_batches(tmp_path):
    model = tiny_gpt2()
    paths = scatter_checkpoints(model, tmp_path)
    ids, mask, _ = toy_texts(4)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": ids}
    with pytest.raises(ValueError, match="mean over those targets"):
        TracInWE(model, Examples(batch), paths, batch_size=2).self_influence()
    assert TracInWE(model, Examples(batch), paths, batch_size=1).self_influence().shape == (4,)


def test_outputs_that_are_no_loss_are_refused(tmp_path):
    case = cnn()
    paths = scatter_checkpoints(case.model, tmp_path)

    class Odd(TinyCNN):
        answer = staticmethod(lambda logits: logits.mean())

        def forward(self, input_ids):
            return self.answer(super().forward(input_ids))

    model = Odd()
    for answer, message in (
        (lambda logits: logits.mean(), "gives one number for a batch of 3"),
        (lambda logits: logits.T, r"output has shape \(3, 2\) for a batch of 2"),
        (lambda logits: [logits], "gives a list"),
    ):
        model.answer = answer
        with pytest.raises((ValueError, TypeError), match=message):
            TracInWE(model, case.dataset(), paths, batch_size=2 if "2" in message else 3).self_influence()
    bert = tiny_bert()
    paths = scatter_checkpoints(bert, tmp_path / "bert")
    ids, mask, labels = toy_texts(4)
    with pytest.raises(ValueError, match="output has no `loss`"):
        TracInWE(bert, Examples({"input_ids": ids, "attention_mask": mask}), paths, batch_size=2).self_influence()
    with pytest.raises(ValueError, match="expected a key `labels`.*got input_ids"):
        TracInWE(bert, Examples({"input_ids": ids}), paths, loss_fn=cross_entropy()).self_influence()


def test_a_loss_that_cannot_be_cut_is_refused(tmp_path):
    case = cnn()
    paths = scatter_checkpoints(case.model, tmp_path)

    class Transposed(TinyCNN):
        def forward(self, input_ids):
            return super().forward(input_ids).sum(0)[:2]

    with pytest.raises(ValueError, match="cannot be cut into 3 examples"):
        TracInWE(Transposed(), case.dataset(), paths, loss_fn=lambda p, y: p.sum(), batch_size=3).self_influence()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"data": Examples((torch.zeros(0, 9).long(), torch.zeros(0).long()))},
            ValueError,
            "`train_dataset` is empty",
        ),
        ({"data": DataLoader([], 2)}, ValueError, "`train_dataset` is empty"),
        ({"checkpoints": []}, ValueError, "Invalid checkpoints"),
        ({"checkpoints": "no/such/place"}, ValueError, "neither a file nor a directory"),
        (
            {"data": DataLoader(Examples((torch.zeros(4, 9).long(), torch.zeros(4))), 2, shuffle=True)},
            ValueError,
            "shuffles",
        ),
        ({"loss_fn": "cross_entropy"}, TypeError, "`loss_fn` should be a function"),
        ({"test_loss_fn": 3}, TypeError, "`test_loss_fn` should be a function"),
        ({"batch_size": 0}, ValueError, "`batch_size` should be a whole number of at least 1"),
        ({"batch_size": None}, ValueError, "`batch_size` should be a whole number"),
        ({"memory_limit": 0}, ValueError, "`memory_limit`"),
        ({"layers": ["conv"]}, ValueError, "expected an nn.Embedding"),
    ],
)
def test_bad_arguments_are_refused_at_once(options, error, message, tmp_path):
    case = cnn()
    checkpoints = options.pop("checkpoints", None)
    with pytest.raises(error, match=message):
        tracin_of(case, scatter_checkpoints(case.model, tmp_path) if checkpoints is None else checkpoints, **options)


def test_bad_calls_are_refused(tmp_path):
    case = cnn()
    tracin = tracin_of(case, scatter_checkpoints(case.model, tmp_path))
    for k in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="`k` should be a whole number of at least 1"):
            tracin.influence(case.test, k=k)
    with pytest.raises(AssertionError, match="required."):
        tracin.influence(None)
    with pytest.raises(TypeError, match="got Tensor"):
        tracin.influence(case.test[0])
    with pytest.raises(ValueError, match="tuple of 1 element"):
        tracin.influence(case.test[:1])
    with pytest.raises(ValueError, match="`inputs` is empty"):
        tracin.influence(DataLoader([], 2))
    for by_checkpoints in (False, True):
        with pytest.raises(ValueError, match="`inputs` is empty"):
            tracin.self_influence(DataLoader([], 2), outer_loop_by_checkpoints=by_checkpoints)
    with pytest.raises(ValueError, match="`inputs` is a DataLoader that shuffles"):
        tracin.self_influence(DataLoader(case.dataset(), 2, shuffle=True))
    with pytest.raises(TypeError, match="at least one tensor"):
        tracin.influence((["a text"], [0]))


class TimeFirst(nn.Module):
    """An old-style model: ids (T, N)."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, ids):
        return self.out(torch.tanh(self.words(ids)).mean(0))


class Prompted(TinyCNN):
    """The same two words before every text: a look-up without a batch dimension."""

    def forward(self, ids):
        prompt = self.embedding(torch.tensor([3, 4])).mean(0)
        return super().forward(ids) + prompt[:3]


@pytest.mark.parametrize("positions", [5, 4])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_texts_along_the_wrong_dimension_are_refused_even_when_sizes_agree(positions, reduction, tmp_path):
    model = TimeFirst()
    paths = scatter_checkpoints(model, tmp_path)
    batch = (torch.randint(0, 20, (positions, 4)), torch.randint(0, 3, (4,)))
    with pytest.raises(ValueError, match="expected|cannot be cut"):
        TracInWE(model, DataLoader([batch], None), paths, loss_fn=cross_entropy(reduction)).self_influence()


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_look_up_without_examples_is_refused_at_every_batch_size(batch_size, tmp_path):
    case = cnn()
    case.model = Prompted()
    paths = scatter_checkpoints(case.model, tmp_path)
    with pytest.raises(ValueError, match="depends on the words of others|ids of shape"):
        tracin_of(case, paths, batch_size=batch_size).self_influence()


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_labels_that_broadcast_give_the_score_of_the_example_alone_or_an_error(reduction, tmp_path):
    ids, _, _ = toy_texts(6)
    model = TinyCNN(classes=1)
    paths = scatter_checkpoints(model, tmp_path)
    data = Examples((ids, torch.randn(6)))
    loss = nn.MSELoss(reduction=reduction)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = TracInWE(model, data, paths, loss_fn=loss, batch_size=1).self_influence()
        batched = TracInWE(model, data, paths, loss_fn=loss, batch_size=6)
        if reduction == "none":
            with pytest.raises(ValueError, match="do they broadcast"):
                batched.self_influence()
        else:
            assert_scores(batched.self_influence(), alone, torch.float32)


def test_other_ways_of_reading_the_table_are_refused(tmp_path):
    class Indexing(TinyCNN):
        def forward(self, ids):
            return super().forward(ids) + self.embedding.weight[ids].mean(1)[:, :3]

    case = cnn()
    case.model = Indexing()
    with pytest.raises(ValueError, match="reads rows of the embedding by"):
        tracin_of(case, scatter_checkpoints(case.model, tmp_path)).self_influence()


class Reshuffled(torch.utils.data.Sampler):
    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __iter__(self):
        return iter(torch.randperm(self.size).tolist())


class Backwards(Reshuffled):
    def __iter__(self):
        return iter(range(self.size - 1, -1, -1))


def test_every_kind_of_shuffling_is_refused_and_a_fixed_order_is_not(tmp_path):
    from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler

    case = cnn()
    paths = scatter_checkpoints(case.model, tmp_path)
    data = case.dataset()
    for loader in (
        DataLoader(data, 2, sampler=Reshuffled(7)),
        DataLoader(data, sampler=BatchSampler(RandomSampler(data), 2, False), batch_size=None),
        DataLoader(data, batch_sampler=BatchSampler(Reshuffled(7), 2, False)),
    ):
        with pytest.raises(ValueError, match="shuffles"):
            tracin_of(case, paths, data=loader)
    expected = tracin_of(case, paths).self_influence()
    for loader, order in (
        (DataLoader(data, 2, sampler=Backwards(7)), slice(None, None, -1)),
        (DataLoader(data, batch_sampler=BatchSampler(SequentialSampler(data), 2, True)), slice(0, 6)),
    ):
        tracin = tracin_of(case, paths, data=loader)
        assert_scores(tracin.self_influence(), torch.tensor(expected.numpy()[order].copy()), torch.float32)
    dropped = tracin_of(case, paths, data=DataLoader(data, 2, drop_last=True))
    with pytest.raises(ValueError, match="training example 6: expected 0 to 5"):
        dropped.word_influence(case.test, [[6], [], []])


def test_ignored_labels_and_the_models_own_loss_do_not_go_together(tmp_path):
    case = CASES["bert, mappings"]()
    case.train["labels"][2] = -100
    paths = scatter_checkpoints(case.model, tmp_path)
    with pytest.raises(ValueError, match="not −100"):
        tracin_of(case, paths, loss_fn=None).self_influence()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude_tokens": 5}, "list of token ids"),
        ({"exclude_tokens": "ab"}, "list of token ids"),
        ({"layers": 3}, "should be a list"),
        ({"memory_limit": "1GB"}, "number of bytes"),
    ],
)
def test_arguments_of_another_type_are_refused(options, message, tmp_path):
    case = cnn()
    with pytest.raises((TypeError, ValueError), match=message):
        tracin_of(case, scatter_checkpoints(case.model, tmp_path), **options)
    with pytest.raises(TypeError, match=r"should be a torch.nn.Module, got function"):
        TracInWE(lambda x: x, case.dataset(), ["a"])


def test_results_of_influence_and_numpys_numbers_are_taken(tmp_path):
    import numpy as np

    case = cnn()
    tracin = tracin_of(case, scatter_checkpoints(case.model, tmp_path))
    best = tracin.influence(case.test, k=np.int64(2))
    assert [[w.train_index for w in row] for row in tracin.word_influence(case.test, best)] == best.indices.tolist()


def test_a_data_set_that_changes_its_length_is_refused(tmp_path):
    case = cnn()
    tracin = tracin_of(case, scatter_checkpoints(case.model, tmp_path))

    class Shrinking(Stream):
        left = 7

        def __iter__(self):
            self.left -= 1
            return (self.examples[i] for i in range(self.left))

    with pytest.raises(ValueError, match="gave 6 examples at one checkpoint and 5 at the next"):
        tracin.self_influence(DataLoader(Shrinking(case.dataset()), 3), outer_loop_by_checkpoints=True)


# ------------------------------------------------------------------------------------------------------------ mutants


def _pads_count(monkeypatch):
    import captum_tracinwe.gradients as module

    original = module._fold

    def fold(calls, *args):
        return original([type(c)(c.ids, c.output, None) for c in calls], *args)

    monkeypatch.setattr(module, "_fold", fold)


def _rate_ignored(monkeypatch):
    original = TracInWE._load
    monkeypatch.setattr(TracInWE, "_load", lambda self, checkpoint: original(self, checkpoint) * 0 + 1.0)


def _tokens_not_matched(monkeypatch):
    from captum_tracinwe import RowGradients

    def dot(self, train):
        return self.values.new_tensor(self.sum().values.sum(0)) @ train.values.T.new_zeros(1)

    def whole(self, train):
        a, b = (
            torch.zeros(len(s), s.width, dtype=s.values.dtype).index_add_(0, s.examples, s.values)
            for s in (self, train)
        )
        return a @ b.T

    monkeypatch.setattr(RowGradients, "dot", whole)


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
    tracin = tracin_of(case, paths)
    mutate(monkeypatch)
    with pytest.raises(AssertionError, match="of the largest score"):
        assert_scores(tracin.influence(case.test), expected)
    monkeypatch.undo()


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


def test_autocast_is_taken(tmp_path):
    """Under torch.autocast the forward runs in bfloat16; rows and scores stay in float32."""
    case = CASES["bert, mappings"]()
    paths = scatter_checkpoints(case.model, tmp_path)
    tracin = tracin_of(case, paths)
    exact = tracin.influence(case.test)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = tracin.influence(case.test)
    assert found.dtype == torch.float32
    worst = float((found - exact).abs().max() / exact.abs().max())
    assert 0 < worst < 0.1
