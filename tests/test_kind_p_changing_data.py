"""Kind P: a data set that gives another example at each reading is told once, and what is always alike is not."""

import random
import warnings

import numpy as np
import pytest
import torch
from cases import Examples, bert_mapping
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset
from transformers import Trainer, TrainingArguments

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import scatter_checkpoints

datasets = pytest.importorskip("datasets")
SAID = "gives another example for the same index each time it is read"


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    case = bert_mapping()
    return case, scatter_checkpoints(case.model, tmp_path_factory.mktemp("bert"))


def rows(batch):
    return [{key: batch[key][i].tolist() for key in batch} for i in range(len(batch["labels"]))]


class Augmented(Examples):
    """A word of each text is another one each time."""

    def __getitem__(self, index):
        example = super().__getitem__(index)
        ids = example["input_ids"].clone()
        ids[int(torch.randint(3, (1,)))] = int(torch.randint(1, 30, (1,)))
        return {**example, "input_ids": ids}


class ByPython(Examples):
    """Words in another order each time, as text augmentation shuffles them."""

    def __getitem__(self, index):
        example = super().__getitem__(index)
        return {**example, "input_ids": torch.tensor(random.sample(example["input_ids"].tolist(), 9))}


class ByNumpy(Examples):
    """Words dropped at random."""

    def __getitem__(self, index):
        example = super().__getitem__(index)
        drop = torch.from_numpy(np.random.rand(9) < 0.3)  # noqa: NPY002 - as augmentation does
        return {**example, "input_ids": example["input_ids"].masked_fill(drop, 3)}


class Counting(Dataset):
    """No dice: each reading is the next one of a list of paraphrases."""

    def __init__(self, batch):
        self.examples, self.reading = Examples(batch), 0

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        self.reading += 1
        return {**self.examples[index], "labels": torch.tensor(self.reading % 3)}


def transformed(batch):
    data = datasets.Dataset.from_list(rows(batch))

    def noise(columns):
        return {**columns, "input_ids": [[random.randint(1, 29) for _ in ids] for ids in columns["input_ids"]]}

    data.set_transform(noise)
    return data


CHANGING = {
    "augmentation by torch": Augmented,
    "by python": ByPython,
    "by numpy": ByNumpy,
    "by a counter": Counting,
    "set_transform": transformed,
    "a part of one": lambda batch: Subset(Augmented(batch), [0, 3, 5]),
    "beside one that is not": lambda batch: ConcatDataset([Examples(batch), Augmented(batch)]),
    "in a loader": lambda batch: DataLoader(ByNumpy(batch), 2),
    "batches": lambda batch: DataLoader(Subset(Whole(batch), range(3)), batch_size=None),
}


class Whole(Dataset):
    """Batches, with words dropped at random."""

    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return 3

    def __getitem__(self, index):
        part = {key: value[2 * index : 2 * index + 2] for key, value in self.batch.items()}
        return {**part, "input_ids": part["input_ids"].masked_fill(torch.rand(part["input_ids"].shape) < 0.5, 3)}


@pytest.mark.parametrize("name", CHANGING)
def test_data_that_change_are_told_once(bert, name):
    case, paths = bert
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tracin = TracInWE(case.model, CHANGING[name](case.train), paths, loss_fn=case.loss)
    assert [SAID in str(one.message) for one in said] == [True]
    assert not said[0].filename.endswith(("tracin_we.py", "repeats.py"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tracin.influence(case.test)


def test_a_trainers_changing_data_are_told(bert, tmp_path):
    case, paths = bert
    arguments = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    trainer = Trainer(case.model, arguments, train_dataset=Augmented(case.train))
    with pytest.warns(UserWarning, match=SAID):
        TracInWE.from_trainer(trainer, checkpoints=paths, loss_fn=case.loss)


class Seeded(Examples):
    """Augmented, but always alike."""

    def __getitem__(self, index):
        example = super().__getitem__(index)
        generator = torch.Generator().manual_seed(index)
        return {**example, "input_ids": example["input_ids"] * (torch.rand(9, generator=generator) > 0.2)}


def of_format(style):
    return lambda batch: datasets.Dataset.from_list(rows(batch)).with_format(style)


STEADY = {
    "plain": Examples,
    "augmented, but always alike": Seeded,
    "of datasets, lists": of_format(None),
    "of datasets, tensors": of_format("torch"),
    "of datasets, arrays": of_format("numpy"),
    "not a number": lambda batch: Examples({**batch, "labels": torch.full((7,), float("nan"))}),
    "batches": lambda batch: DataLoader([batch], batch_size=None),
}


@pytest.mark.parametrize("name", STEADY)
def test_data_that_are_always_alike_are_taken_without_a_word(bert, name):
    case, paths = bert
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tracin = TracInWE(case.model, STEADY[name](case.train), paths, loss_fn=case.loss)
        if name == "plain":
            expected = case.by_loop(paths)
            found = tracin.influence(case.test).double()
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_the_look_draws_nothing_from_the_users_generators(bert):
    case, paths = bert
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    for kind in (Augmented, ByPython, ByNumpy):
        with pytest.warns(UserWarning, match=SAID):
            TracInWE(case.model, kind(case.train), paths, loss_fn=case.loss)
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]
    assert (np.random.get_state()[1] == generators[2]).all()  # noqa: NPY002


class Reads(Examples):
    count = 0

    def __getitem__(self, index):
        self.count += 1
        return super().__getitem__(index)


def test_a_few_examples_are_read_however_many_there_are(bert):
    case, paths = bert
    many = {key: value.repeat_interleave(500, 0) for key, value in case.train.items()}
    data = Reads(many)
    TracInWE(case.model, data, paths, loss_fn=case.loss)
    assert data.count <= 32


def stacking(examples):
    """A collator at random that takes texts of one length only."""
    batch = {key: torch.stack([example[key] for example in examples]) for key in examples[0]}
    return {**batch, "input_ids": batch["input_ids"].masked_fill(torch.rand(batch["input_ids"].shape) < 0.4, 3)}


def test_a_collator_at_random_is_told_also_where_it_takes_only_texts_of_one_length_or_a_stream(bert):
    case, paths = bert
    data = [{k: v[: 9 - i % 2] if v.dim() else v for k, v in case.dataset()[i].items()} for i in range(7)]

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(data[::2])

    for given in (data, Stream(), DataLoader(data, batch_sampler=[[0, 2], [1, 3], [4, 6], [5]], collate_fn=stacking)):
        options = {} if isinstance(given, DataLoader) else {"collate_fn": stacking}
        with pytest.warns(UserWarning, match="collator makes another batch of the same examples each time"):
            TracInWE(case.model, given, paths, loss_fn=case.loss, **options)


class Settling(Examples):
    """Another text at each of the first readings, and then the same ones."""

    def __init__(self, batch, changes):
        super().__init__(batch)
        self.reading, self.changes = 0, changes

    def __getitem__(self, index):
        example = super().__getitem__(index)
        self.reading += 1
        turned = example["input_ids"].roll(self.reading) if self.reading <= self.changes else example["input_ids"]
        return {**example, "input_ids": turned}


def test_a_model_is_not_blamed_for_a_text_that_was_read_anew(bert):
    case, paths = bert
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for changes in range(20, 60):
            data = Settling(case.train, changes)
            assert TracInWE(case.model, data, paths[:1], loss_fn=case.loss).influence(case.test).isfinite().all()
