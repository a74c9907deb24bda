"""Losses, models, batches and arguments that would give a wrong number: refused by name."""

import warnings

import pytest
import torch
from cases import (
    Examples,
    Stream,
    assert_same_state,
    assert_scores,
    cnn,
    cross_entropy,
    gpt2,
    state_of,
    t5,
    tracin_of,
)
from torch import nn
from torch.utils.data import DataLoader

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, tiny_bert, tiny_gpt2, toy_texts
from captum_tracinwe.gradients.token_losses import TokenLoss

pytestmark = pytest.mark.filterwarnings("ignore:Since `.*loss_fn.*:UserWarning")


def flattened(logits, labels):
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none")


def _scalar_despite_none(prediction, labels):
    return prediction.sum()


_scalar_despite_none.reduction = "none"


class InARow(TinyCNN):
    """Looks its texts up in reverse, all in a row, so that no tensor tells whose words they are."""

    def forward(self, input_ids):
        words = self.embedding(input_ids.flip(1).flatten()).view(*input_ids.shape, -1)
        return self.out(torch.tanh(self.conv(words.transpose(1, 2))).amax(2))


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
        ({"model": InARow(), "probe": False}, r"ids of shape \(27,\) for a batch of 3"),
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
    with pytest.raises(
        ValueError, match=r"mean over those targets.*captum_tracinwe.losses.TokenLoss\(\) for.*TokenLoss\(shift=False\)"
    ):
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
    with pytest.raises(ValueError, match="[Ee]xpected a key `labels`.*got input_ids"):
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


@pytest.mark.parametrize("positions", [5, 4])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_texts_along_the_wrong_dimension_are_refused_even_when_sizes_agree(positions, reduction, tmp_path):
    model = TimeFirst()
    paths = scatter_checkpoints(model, tmp_path)
    batch = (torch.randint(0, 20, (positions, 4)), torch.randint(0, 3, (4,)))
    with pytest.raises(ValueError, match="[Ee]xpected|cannot be cut"):
        TracInWE(model, DataLoader([batch], None), paths, loss_fn=cross_entropy(reduction)).self_influence()


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
        (DataLoader(data, 2, sampler=Backwards(7)), slice(None)),  # column j is the data set's example j
        (DataLoader(data, batch_sampler=BatchSampler(SequentialSampler(data), 2, True)), slice(0, 6)),
    ):
        tracin = tracin_of(case, paths, data=loader)
        assert_scores(tracin.self_influence(), torch.tensor(expected.numpy()[order].copy()), torch.float32)
    dropped = tracin_of(case, paths, data=DataLoader(data, 2, drop_last=True))
    with pytest.raises(ValueError, match="training example 6: expected 0 to 5"):
        dropped.word_influence(case.test, [[6], [], []])


def test_token_labels_and_the_models_own_loss_do_not_go_together(tmp_path):
    case = t5()
    paths = scatter_checkpoints(case.model, tmp_path)
    with pytest.raises(ValueError, match="mean over those targets of the batch that are not −100"):
        tracin_of(case, paths, loss_fn=None).self_influence()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude_tokens": 5}, "list of token ids"),
        ({"exclude_tokens": "ab"}, "list of token ids"),
        ({"exclude_tokens": ["[CLS]"]}, r"list of token ids, got '\[CLS\]' in it.*convert_tokens_to_ids"),
        ({"exclude_tokens": [1.5]}, "list of token ids, got 1.5 in it"),
        ({"exclude_tokens": [None]}, "list of token ids, got None in it"),
        ({"data": None}, r"`train_dataset` is None: expected a Dataset.*index=\.\.\."),
        (
            {"loss_fn": nn.CrossEntropyLoss},
            r"`loss_fn` is the class CrossEntropyLoss.*CrossEntropyLoss\(reduction='none'\)",
        ),
        ({"test_loss_fn": nn.NLLLoss}, r"`test_loss_fn` is the class NLLLoss.*NLLLoss\(reduction='none'\)"),
        ({"loss_fn": TokenLoss}, r"`loss_fn` is the class TokenLoss.*TokenLoss\(\.\.\.\)"),
        ({"layers": 3}, "should be a list"),
        ({"memory_limit": "1GB"}, "number of bytes"),
    ],
)
def test_arguments_of_another_type_are_refused(options, message, tmp_path):
    case = cnn()
    with pytest.raises((TypeError, ValueError), match=message):
        tracin_of(case, scatter_checkpoints(case.model, tmp_path), **options)
    for tokens in ([0, 2], {2}, torch.tensor([0, 2]), (token for token in (0, 2))):
        assert 2 in tracin_of(case, scatter_checkpoints(case.model, tmp_path), exclude_tokens=tokens).exclude_tokens
    with pytest.raises(TypeError, match=r"should be a torch.nn.Module, got function"):
        TracInWE(lambda x: x, case.dataset(), ["a"])


@pytest.mark.parametrize("name", ["loss_fn", "test_loss_fn"])
@pytest.mark.parametrize("make", [nn.CrossEntropyLoss, nn.NLLLoss])
def test_class_weights_that_would_cancel_are_refused(make, name, tmp_path):
    """A weighted mean divides by the weights: the loss of an example alone knows nothing of its own."""
    case, weights = cnn(), torch.tensor([0.1, 1.0, 5.0])
    paths = scatter_checkpoints(case.model, tmp_path)
    with pytest.raises(ValueError, match=rf"`{name}` is a {make.__name__} with class weights.*reduction='none'\)"):
        tracin_of(case, paths, **{name: make(weight=weights)})
    for loss in (make(), make(weight=weights, reduction="none"), make(weight=weights, reduction="sum")):
        tracin_of(case, paths, **{name: loss})
    one, five = (
        tracin_of(case, paths, loss_fn=make(weight=weights * by, reduction="none")).self_influence() for by in (1, 5)
    )
    assert_scores(five, 25 * one, torch.float32)  # what the way out gives does depend on them


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
