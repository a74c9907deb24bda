"""Kind M: the user's examples are, after whatever we did with them, what they were, whatever the collator does to its own."""

import copy
import time
from collections import UserDict
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from cases import bert_mapping
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import BatchEncoding, Trainer, TrainingArguments

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import scatter_checkpoints
from captum_tracinwe.batches import Collate
from captum_tracinwe.batches.copies import copied


@dataclass
class Text:
    """An example as an object."""

    input_ids: list
    attention_mask: list
    labels: int


def lists(batch):
    """Each text as lists of its own length, as a tokenizer leaves them."""
    sizes = batch["attention_mask"].sum(1).tolist()
    return [
        {"input_ids": batch["input_ids"][i, :n].tolist(), "attention_mask": [1] * n, "labels": int(batch["labels"][i])}
        for i, n in enumerate(sizes)
    ]


def padded(examples, labels):
    """A batch of lists or tensors of different lengths."""
    batch = {
        key: pad_sequence([torch.as_tensor(example[key]) for example in examples], batch_first=True)
        for key in ("input_ids", "attention_mask")
    }
    return {**batch, "labels": torch.as_tensor(labels)}


def popping(examples):
    return padded(examples, [example.pop("labels") for example in examples])


def deleting(examples):
    labels = [int(example["labels"]) for example in examples]
    batch = padded(examples, labels)
    for example in examples:
        del example["labels"], example["input_ids"]
    return batch


def appending(examples):
    width = max(len(example["input_ids"]) for example in examples)
    for example in examples:
        for key in ("input_ids", "attention_mask"):
            example[key] += [0] * (width - len(example[key]))
        example["input_ids"].append(0)  # a separator that counts nothing, each time anew
        example["attention_mask"].append(0)
    return padded(examples, [example["labels"] for example in examples])


def adding(examples):
    for example in examples:
        example["input_ids"] += 1  # a tensor's or array's own storage
    batch = padded(examples, [int(example["labels"]) for example in examples])
    return {**batch, "input_ids": (batch["input_ids"] - 1) * batch["attention_mask"]}


def of_objects(examples):
    batch = padded([vars(example) for example in examples], [example.labels for example in examples])
    for example in examples:
        example.labels = None
        example.input_ids.clear()
    return batch


def emptying(examples):
    batch = popping(examples)
    examples.clear()
    return batch


def tensors(rows):
    return [{key: torch.tensor(value) for key, value in row.items()} for row in rows]


def arrays(rows):
    return [{key: np.array(value) for key, value in row.items()} for row in rows]


COLLATORS = {
    "pops": (popping, list),
    "pops from tensors": (popping, tensors),
    "pops from BatchEncoding": (popping, lambda rows: [BatchEncoding(row) for row in rows]),
    "pops from a mapping of its own": (popping, lambda rows: [UserDict(row) for row in rows]),
    "deletes": (deleting, list),
    "appends": (appending, list),
    "adds to tensors": (adding, tensors),
    "adds to arrays": (adding, arrays),
    "empties objects": (of_objects, lambda rows: [Text(**row) for row in rows]),
    "empties the list": (emptying, list),
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    case = bert_mapping()
    paths = scatter_checkpoints(case.model, tmp_path_factory.mktemp("bert"))
    return case, paths, case.by_loop(paths)


def same(a, b):
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "keys"):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, Text):
        return same(vars(a), vars(b))
    return bool((torch.as_tensor(a) == torch.as_tensor(b)).all())


@pytest.mark.parametrize("name", COLLATORS)
def test_examples_stay_as_they_are_and_scores_are_right(bert, name, tmp_path):
    case, paths, expected = bert
    collate, form = COLLATORS[name]
    data = form(lists(case.train))
    before = copy.deepcopy(data)
    tracin = TracInWE(case.model, data, paths, loss_fn=case.loss, batch_size=3, collate_fn=collate)
    assert same(data, before)
    for _ in range(2):
        found = tracin.influence(case.test)
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
    tracin.word_influence(case.test, tracin.influence(case.test, k=2).indices)
    tracin.build_index(tmp_path / "index")
    assert same(data, before)


@pytest.mark.parametrize("name", ["pops", "appends", "adds to tensors"])
def test_questions_and_a_loader_of_the_users_stay_as_they_are_as_far_as_it_is_ours(bert, name):
    case, paths, _ = bert
    collate, form = COLLATORS[name]
    data, asked = form(lists(case.train)), form(lists(case.test))
    before = copy.deepcopy((data, asked))
    loader = DataLoader(data, 3, collate_fn=collate)
    tracin = TracInWE(case.model, loader, paths, loss_fn=case.loss)
    assert same(data, before[0])  # its checks; a pass of the loader is the user's own way
    if name != "adds to tensors":
        tracin.self_influence(asked)
        assert same(asked, before[1])
    assert len(tracin.live_source.rows([0, 4])) == 2
    assert tracin.training_set.alone(2)["input_ids"].shape[0] == 1
    assert same(data, before[0])


@pytest.mark.parametrize("removes", [True, False])
def test_a_trainers_collator_leaves_its_data(bert, removes, tmp_path):
    case, paths, expected = bert
    data = lists(case.train)
    before = copy.deepcopy(data)
    arguments = TrainingArguments(str(tmp_path), report_to=[], remove_unused_columns=removes, use_cpu=True)
    trainer = Trainer(case.model, arguments, train_dataset=data, data_collator=appending)
    tracin = TracInWE.from_trainer(trainer, checkpoints=paths, loss_fn=case.loss)
    found = tracin.influence(case.test).double()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
    assert same(data, before)


def test_collate_itself_hands_copies_on(bert):
    case, _, _ = bert
    data = lists(case.train)
    before = copy.deepcopy(data)
    for collate in (popping, deleting, appending):
        made = Collate(case.model, collate_fn=collate)(data[:3])
        assert made["labels"].tolist() == case.train["labels"][:3].tolist()
        assert same(data, before)


def test_copies_are_of_the_same_kind_and_share_nothing_that_can_be_written_into():
    shared = torch.nn.Linear(2, 2)  # stands for a tokenizer: an object that examples point to is not theirs

    class Own:
        def __init__(self):
            self.ids, self.tokenizer = [1, [2]], shared

    one = Own()
    two = copied(one)
    two.ids[1].append(3)
    assert (one.ids, two.ids, two.tokenizer is shared) == ([1, [2]], [1, [2, 3]], True)
    value = {"a": [1, "x", None], "b": ([2], torch.ones(2)), "c": np.ones(2)}
    other = copied(value)
    other["a"].append(0)
    other["b"][0].append(0)
    other["b"][1].add_(1)
    other["c"] += 1
    assert value["a"] == [1, "x", None]
    assert value["b"][0] == [2]
    assert float(value["b"][1].sum()) == float(value["c"].sum()) == 2


def test_copying_lists_of_numbers_takes_a_small_part_of_collating_them():
    rows = [{key: list(range(128)) for key in ("input_ids", "attention_mask", "token_type_ids")} for _ in range(64)]

    def took(work):
        times = []
        for _ in range(5):
            start = time.process_time()
            work(rows)
            times.append(time.process_time() - start)
        return min(times)

    assert took(copied) < 0.3 * took(copy.deepcopy)
