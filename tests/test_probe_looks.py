"""The look at each batch: all in one go where batches are there, the same as one by one, and each batch once."""

import pytest
import torch
from cases import cross_entropy
from torch import nn

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints
from captum_tracinwe.batches.collate import Collate
from captum_tracinwe.batches.training_set import TrainingSet
from captum_tracinwe.gradients import forms, probe

FILLS = frozenset({0})
ROWS = [{"input_ids": [3 + i, 5, 9, 7 + i], "labels": i % 2} for i in range(8)]


def noted(monkeypatch):
    """The places in time of looks and of passes, as they come."""
    came, look_at, looks_at = [], probe.look_at, probe.looks_at

    def looked(batch, fills):
        came.append("look")
        return look_at(batch, fills)

    def looked_at_all(batches, fills):
        came.extend(["look"] * len(batches))
        return looks_at(batches, fills)

    def before_pass(module, args):
        came.append("pass")

    monkeypatch.setattr(probe, "look_at", looked)
    monkeypatch.setattr(probe, "looks_at", looked_at_all)
    model = TinyCNN(classes=2).eval()
    model.register_forward_pre_hook(before_pass)
    return came, model


@pytest.mark.parametrize("by_checkpoints", [False, True])
def test_batches_that_are_there_are_looked_at_before_any_goes_through_the_model(by_checkpoints, monkeypatch, tmp_path):
    came, model = noted(monkeypatch)
    paths = scatter_checkpoints(model, tmp_path)[:1]
    tracin = TracInWE(model, ROWS, paths, loss_fn=cross_entropy(), batch_size=2)
    tracin.self_influence(outer_loop_by_checkpoints=by_checkpoints)
    first = came.index("look")
    in_a_row = next(number for number, one in enumerate(came[first:]) if one != "look")
    assert in_a_row == (1 if by_checkpoints else 4)  # read anew at each checkpoint they are made one after the other
    assert came.count("look") == 4 + 1  # and those put together to be tried


def seen(batch):
    return forms.look_at(batch, FILLS)


@pytest.mark.parametrize(
    ("ids", "padded"),
    [
        ([[1, 2, 3], [4, 5, 6]], (None, None)),
        ([[1, 2, 3], [4, 5, 0]], (None, 1)),
        ([[0, 2, 3], [4, 5, 6]], (0, None)),
        ([[1, 2, 2], [4, 4, 4]], (1, 1)),
        ([[4, 4, 3], [1, 5, 5]], (0, 1)),
        ([[[1, 2], [3, 4]], [[5, 6], [7, 0]]], (None, 1)),
    ],
)
def test_a_look_tells_size_and_form_and_which_text_may_be_filled_up(ids, padded):
    batch = {"input_ids": torch.tensor(ids), "labels": torch.tensor([0, 1])}
    look = seen(batch)
    assert (look.size, look.padded) == (2, padded)
    assert look.form == forms.form_of(batch, (False, False), 2)
    assert seen((batch["input_ids"], batch["labels"])).padded == padded


@pytest.mark.parametrize("seed", range(8))
def test_looks_at_all_batches_are_the_looks_at_each(seed):
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape, least=0):
        return torch.randint(least, 12, shape, generator=generator)

    batches = []
    for _ in range(200):  # with ends that repeat or are 0, odd classes, other kinds of columns and of labels
        size, length = (int(numbers(1)) % 3 + 1 for _ in range(2))
        ids, labels = numbers(size, length), numbers(size, least=-1 if seed % 2 else 0)
        kinds = [
            {"input_ids": ids, "labels": labels},
            {"input_ids": ids, "labels": labels},
            {"labels": labels, "input_ids": ids},
            {"input_ids": ids, "labels": labels, "attention_mask": numbers(size, length) % 2},
            {"input_ids": ids, "labels": ids},
            {"input_ids": ids[None].repeat(size, 1, 1), "labels": labels},
            {"input_ids": ids.int(), "labels": labels},
            {"input_ids": ids, "labels": labels.double()},
            {"input_ids": ids, "labels": labels[0]},
            (ids, labels),
        ]
        batches.append(kinds[int(numbers(1)) % len(kinds)])
    looks = forms.looks_at(batches, FILLS)
    assert looks == [seen(batch) for batch in batches]
    assert len(set(map(id, looks))) == len(set(looks))


@pytest.mark.parametrize("empty", [{}, ()])
def test_an_empty_batch_among_others_is_refused_as_it_is_alone(empty):
    told = []
    for look in (seen, lambda batch: forms.looks_at([batch], FILLS)):
        with pytest.raises((ValueError, TypeError)) as error:
            look(empty)
        told.append(str(error.value))
    assert told[0] == told[1]


def test_a_mask_tells_in_place_of_the_ids():
    ids = torch.tensor([[1, 2, 2], [4, 5, 6]])
    look = seen({"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])})
    assert look.padded == (None, None)
    assert look.form[-1] == (False, True, False)


@pytest.mark.parametrize("labels", [[0, -1], [-100, -7]])
def test_a_label_that_some_loss_leaves_out_makes_a_form_of_its_own(labels):
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    plain = [seen((ids, torch.tensor(given))).form for given in ([0, 1], [-100, 1], [])]
    assert plain[0] == plain[1]
    assert seen((ids, torch.tensor(labels))).form != plain[0]


@pytest.mark.parametrize("by_length", [False, True])
def test_examples_read_by_one_loader_are_those_read_one_by_one(by_length):
    rows = [{"input_ids": [3 + i] * (4 - i), "attention_mask": [1] * (4 - i), "labels": i} for i in range(4)]
    model = nn.Module()
    model.forward = lambda input_ids, attention_mask: None
    examples = TrainingSet.of(rows, 2, Collate(model), by_length=by_length)
    for place, one in zip((2, 0, 3), examples.each_alone([2, 0, 3]), strict=True):
        alone = examples.alone(place)
        assert one.keys() == alone.keys()
        assert all(torch.equal(one[key], alone[key]) for key in alone)


def test_an_example_of_which_a_collator_makes_two_rows_is_named_there_too():
    def doubled(some):
        return torch.cat([ids.repeat(1 + (int(label) == 2), 1) for ids, label in some]), torch.zeros(len(some))

    examples = TrainingSet.of([(torch.tensor([[1, 2]]), torch.tensor(i)) for i in range(4)], 2, doubled)
    with pytest.raises(ValueError, match=r"makes 2 rows of 1 example.*given example 2"):
        examples.each_alone([0, 2])
