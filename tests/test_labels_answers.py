"""What a classifier answers to its training texts, held against a loop over single examples; what is no classifier is refused."""

import pytest
import torch
from one_by_one import OneByOne, as_mapping, everything
from test_kind_e_padding import Reader
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler, TensorDataset

from captum_tracinwe import TracInWE, save_checkpoint
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, tiny_bert, tiny_gpt2, toy_texts
from captum_tracinwe.gradients.answers import answers_of
from captum_tracinwe.gradients.token_losses import TokenLoss

LOSS = nn.CrossEntropyLoss(reduction="none")
SIZE = 11


def looped(model, checkpoints, logits_of, size=SIZE):
    """Mean over the checkpoints of the log-probabilities, one example at a time, weights by ``load_state_dict``."""
    total = 0
    for path in checkpoints:
        model.load_state_dict(torch.load(path, weights_only=True)["model_state_dict"])
        model.eval()
        with torch.no_grad():
            logits = torch.stack([logits_of(model, i).double().reshape(-1) for i in range(size)])
        if logits.shape[1] == 1:
            p = torch.sigmoid(logits)
            total = total + torch.cat([(1 - p).log(), p.log()], 1)
        else:
            total = total + (logits.exp() / logits.exp().sum(1, keepdim=True)).log()
    return total / len(checkpoints)


def found_by(model, train, checkpoints, **options):
    return answers_of(TracInWE(model, train, checkpoints, **{"loss_fn": LOSS, "batch_size": 4} | options).live_source)


@pytest.fixture
def texts():
    return toy_texts(SIZE, seed=3)


@pytest.mark.parametrize("rates", [(0.3,), (0.3, 0.05, 1.7)])
def test_of_a_bert_at_all_checkpoints(texts, tmp_path, rates):
    ids, mask, labels = texts
    model = tiny_bert()
    paths = scatter_checkpoints(model, tmp_path, rates=rates)
    rows = [{"input_ids": i, "attention_mask": m, "labels": y} for i, m, y in zip(ids, mask, labels, strict=True)]
    found = found_by(model, rows, paths, loss_fn=None)
    expected = looped(tiny_bert(), paths, lambda m, i: m(input_ids=ids[i : i + 1, : int(mask[i].sum())]).logits)
    torch.testing.assert_close(found.log_probabilities, expected, rtol=1e-4, atol=1e-5)
    assert found.log_probabilities.dtype == torch.float64
    assert found.labels.tolist() == labels.tolist()
    assert found.log_probabilities.shape[1] == 3
    at_first = looped(tiny_bert(), paths[:1], lambda m, i: m(input_ids=ids[i : i + 1, : int(mask[i].sum())]).logits)
    assert found.first.tolist() == at_first.argmax(1).tolist()
    assert len(rates) == 1 or found.first.tolist() != expected.argmax(1).tolist()


def test_of_tuple_batches_of_a_model_that_sees_its_padding(texts, tmp_path):
    """A TinyCNN reads 0 as a word: each text as it stands in the data set, with its padding."""
    ids, _, labels = texts
    model = TinyCNN()
    paths = scatter_checkpoints(model, tmp_path, rates=(0.1, 0.2))
    found = found_by(model, TensorDataset(ids, labels), paths)
    expected = looped(TinyCNN(), paths, lambda m, i: m(ids[i : i + 1]))
    torch.testing.assert_close(found.log_probabilities, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*padding:UserWarning")
def test_padding_that_a_model_sees_is_not_that_of_the_texts_beside_it(tmp_path):
    ids, mask, labels = toy_texts(SIZE, seed=5)
    lists = [row[: int(m.sum())].tolist() for row, m in zip(ids, mask, strict=True)]
    paths = scatter_checkpoints(Reader(), tmp_path, rates=(0.1,), scale=1.0)
    rows = [{"input_ids": own, "labels": int(y)} for own, y in zip(lists, labels, strict=True)]
    found = found_by(Reader(), rows, paths)
    expected = looped(Reader(), paths, lambda m, i: m(torch.tensor([lists[i]])))
    torch.testing.assert_close(found.log_probabilities, expected, rtol=1e-4, atol=1e-5)


def test_one_logit_is_of_class_1(texts, tmp_path):
    ids, _, labels = texts
    labels = (labels > 0).float()
    model = TinyCNN(classes=1)
    paths = scatter_checkpoints(model, tmp_path, rates=(0.1, 0.2))
    found = found_by(model, TensorDataset(ids, labels[:, None]), paths, loss_fn=nn.BCEWithLogitsLoss(reduction="none"))
    expected = looped(TinyCNN(classes=1), paths, lambda m, i: m(ids[i : i + 1]))
    torch.testing.assert_close(found.log_probabilities, expected, rtol=1e-4, atol=1e-5)
    assert found.labels.tolist() == labels.long().tolist()
    assert found.log_probabilities.shape[1] == 2


class Softmax(TinyCNN):
    def forward(self, input_ids):
        logits = super().forward(input_ids)
        return logits.softmax(1) if logits.shape[1] > 1 else logits.sigmoid()


@pytest.mark.parametrize("classes", [3, 1])
def test_a_model_that_ends_in_probabilities_is_taken_at_its_word(texts, tmp_path, classes):
    ids, _, labels = texts
    model = Softmax(classes=classes)
    paths = scatter_checkpoints(model, tmp_path, rates=(0.1,))
    labels = labels if classes > 1 else (labels > 0).float()[:, None]

    def nll(p, y):
        return nn.functional.nll_loss(p.log(), y, reduction="none")

    loss = nll if classes > 1 else nn.BCELoss(reduction="none")
    found = found_by(model, TensorDataset(ids, labels), paths, loss_fn=loss)
    expected = looped(TinyCNN(classes=classes), paths, lambda m, i: m(ids[i : i + 1]))
    torch.testing.assert_close(found.log_probabilities, expected, rtol=1e-4, atol=1e-5)


def test_sorted_by_length_they_are_by_training_index_all_the_same(texts, tmp_path):
    ids, mask, labels = texts
    model = tiny_bert()
    paths = scatter_checkpoints(model, tmp_path, rates=(0.1, 0.2))
    rows = OneByOne({"input_ids": ids, "attention_mask": mask, "labels": labels})
    plain = found_by(model, rows, paths, loss_fn=None)
    by_length = found_by(model, rows, paths, loss_fn=None, order_by_length=True, batch_size=2)
    torch.testing.assert_close(by_length.log_probabilities, plain.log_probabilities, rtol=1e-4, atol=1e-5)
    assert by_length.labels.tolist() == labels.tolist()
    assert by_length.first.tolist() == plain.first.tolist()


class Stream(IterableDataset):
    def __init__(self, batch):
        self.batch = batch

    def __iter__(self):
        yield from OneByOne(self.batch)


class Backwards(SequentialSampler):
    def __iter__(self):
        return reversed(range(len(self.data_source)))


@pytest.mark.parametrize("how", ["stream", "own order"])
def test_streams_and_loaders_with_an_order_of_their_own(texts, tmp_path, how):
    ids, _, labels = texts
    model = TinyCNN()
    paths = scatter_checkpoints(model, tmp_path, rates=(0.1, 0.2))
    data = TensorDataset(ids, labels)
    if how == "stream":
        train, options = Stream((ids, labels)), {}
    else:
        train, options = DataLoader(data, 4, sampler=Backwards(data)), {"batch_size": None}
    found = found_by(model, train, paths, **options)
    expected = looped(TinyCNN(), paths, lambda m, i: m(ids[i : i + 1]))
    torch.testing.assert_close(found.log_probabilities, expected, rtol=1e-4, atol=1e-5)
    assert found.labels.tolist() == labels.tolist()


def test_the_same_whatever_the_batch_and_block_size_and_the_model_is_left_as_it_was(texts, tmp_path):
    ids, _, labels = texts
    model = TinyCNN().train()
    paths = scatter_checkpoints(model, tmp_path, rates=(0.1, 0.2))
    before = everything(model)
    found = [
        found_by(model, TensorDataset(ids, labels), paths, batch_size=size, memory_limit=limit).log_probabilities
        for size, limit in ((1, 1 << 30), (4, 2000), (11, 1 << 30))
    ]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-6)
    assert everything(model) == before


# ------------------------------------------------------------------------------------------------------- what is refused


def refused(model, train, match, tmp_path, **options):
    save_checkpoint(tmp_path / "step-1.pt", model, 0.1)
    with pytest.raises(ValueError, match=match):
        found_by(model, train, [str(tmp_path / "step-1.pt")], **options)


def test_a_language_model_has_no_label_of_a_text(tmp_path):
    ids, mask, _ = toy_texts(4)
    train = OneByOne({"input_ids": ids, "attention_mask": mask, "labels": ids})
    refused(tiny_gpt2(), train, "expected a classifier, whose answer to 4 texts", tmp_path, loss_fn=TokenLoss())
    refused(tiny_gpt2(), train, "expected a classifier, whose answer to 1 texts", tmp_path, loss_fn=None, batch_size=1)


@pytest.mark.parametrize("problem", [None, "regression"])
def test_a_regression_of_transformers_has_no_right_and_wrong(tmp_path, problem):
    ids, mask, labels = toy_texts(4)
    model = tiny_bert(classes=1)
    model.config.problem_type = problem
    train = OneByOne({"input_ids": ids, "attention_mask": mask, "labels": (labels > 0).float()})
    refused(model, train, "trained as a regression", tmp_path, loss_fn=None)


def test_a_regression_of_another_loss_has_no_class_numbers(tmp_path):
    ids, _, _ = toy_texts(4)
    train = TensorDataset(ids, torch.tensor([0.0, 1.0, 0.5, 1.0])[:, None])

    def loss(prediction, y):
        return (prediction - y).square().sum(1)

    refused(TinyCNN(classes=1), train, "label of training example 2 is 0.5", tmp_path, loss_fn=loss)


def test_soft_and_several_labels_are_refused(tmp_path):
    ids, _, labels = toy_texts(4)
    train = TensorDataset(ids, nn.functional.one_hot(labels, 3).float())
    for loss in (LOSS, nn.BCEWithLogitsLoss(reduction="none")):
        refused(TinyCNN(), train, r"of shape \(4, 3\): expected one class number for each", tmp_path, loss_fn=loss)


@pytest.mark.parametrize(("label", "said"), [(-100, "-100"), (3, "3"), (float("nan"), "nan")])
def test_a_label_that_is_no_class_is_named(tmp_path, label, said):
    ids, _, labels = toy_texts(6)
    labels = labels.double()
    labels[4] = label
    train = TensorDataset(ids, labels)

    def loss(prediction, y):
        return nn.functional.cross_entropy(prediction, y.nan_to_num(0).clamp(0, 2).long(), reduction="none")

    refused(TinyCNN(), train, f"label of training example 4 is {said}: expected a class", tmp_path, loss_fn=loss)


def test_without_labels_it_says_how_to_give_them(tmp_path):
    ids, _, _ = toy_texts(4)
    save_checkpoint(tmp_path / "step-1.pt", TinyCNN(), 0.1)
    train = DataLoader(ids, 2, collate_fn=lambda rows: (torch.stack(rows), None))
    with pytest.raises(ValueError, match="no labels that say which class"):
        found_by(Summed(), train, [str(tmp_path / "step-1.pt")], loss_fn=None, batch_size=None)


class Summed(TinyCNN):
    """Its answer is taken for its loss, as in Captum."""

    def forward(self, input_ids):
        return super().forward(input_ids).sum(1)


class Overflowing(TinyCNN):
    def forward(self, input_ids):
        logits = super().forward(input_ids)
        return torch.where((input_ids[:, :1] == 29), torch.inf, logits)


def test_an_answer_that_is_not_finite_is_named(tmp_path):
    ids, _, labels = toy_texts(6)
    ids = ids.clamp_max(28)
    ids[4, 0] = 29
    train = TensorDataset(ids, labels)
    save_checkpoint(tmp_path / "step-1.pt", TinyCNN(), 0.1)
    with pytest.raises(
        ValueError, match=r"answer to training example 4 is NaN or infinite at checkpoint '.*step-1.pt'"
    ):
        found_by(Overflowing(), train, [str(tmp_path / "step-1.pt")], loss_fn=lambda p, y: p.nan_to_num(0, 0, 0).sum(1))


def test_mappings_with_labels_of_another_name(texts, tmp_path):
    ids, _, labels = texts
    batch = as_mapping((ids, labels))
    batch["topic"] = batch.pop("labels")
    model = tiny_bert()
    paths = scatter_checkpoints(model, tmp_path, rates=(0.1,))
    assert (
        found_by(model, OneByOne(batch), paths, loss_fn=LOSS, label_names=["topic"]).labels.tolist() == labels.tolist()
    )
