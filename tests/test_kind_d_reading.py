"""Kind D: data that were read otherwise in training are read as in training, in a fixed order, or it is said what differs."""

import random
import warnings

import pytest
import torch
from cases import bert_mapping
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.datapipes.iter import IterableWrapper
from transformers import Trainer, TrainingArguments

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, scores_by_loop

datasets = pytest.importorskip("datasets")
pytest.importorskip("accelerate")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    case = bert_mapping()
    paths = scatter_checkpoints(case.model, tmp_path_factory.mktemp("bert"))
    return case, paths, case.by_loop(paths)


def close(found, expected):
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


# ---------------------------------------------------------------------------------------------------------- streams


class Stream(IterableDataset):
    """Examples one after the other; by ``order`` at each pass."""

    def __init__(self, data, order=lambda n: range(n)):
        self.data, self.order = data, order

    def __iter__(self):
        return (self.data[i] for i in self.order(len(self.data)))


class Epochs(Stream):
    """Another order in each epoch, counted by itself."""

    epoch = 0

    def __iter__(self):
        self.epoch += 1
        return (self.data[i] for i in random.Random(self.epoch).sample(range(len(self.data)), len(self.data)))


class Once(Stream):
    """What is read is gone."""

    def __init__(self, data):
        super().__init__(data)
        self.left = (data[i] for i in range(len(data)))

    def __iter__(self):
        yield from self.left


def pipe(data):
    return IterableWrapper([data[i] for i in range(len(data))], deepcopy=False)


SHUFFLING = {
    "by torch": lambda data: Stream(data, lambda n: torch.randperm(n).tolist()),
    "by python": lambda data: Stream(data, lambda n: random.sample(range(n), n)),
    "by epochs": Epochs,
    "read once": Once,
    "data pipes": lambda data: pipe(data).shuffle(),
    "data pipes behind": lambda data: pipe(data).shuffle().map(dict),
}


@pytest.mark.parametrize("in_loader", [False, True])
@pytest.mark.parametrize("name", SHUFFLING)
def test_a_stream_in_another_order_each_time_is_refused_as_a_shuffling_loader_is(bert, name, in_loader):
    case, paths, _ = bert
    stream = SHUFFLING[name](case.dataset())
    given = DataLoader(stream, 3) if in_loader else stream
    with pytest.raises(
        ValueError, match=r"stream that gives other examples, or another order, each time.*list\(stream\)"
    ):
        TracInWE(case.model, given, paths, loss_fn=case.loss, batch_size=3)


def test_a_collator_that_sorts_does_not_hide_that_a_stream_shuffles(tmp_path):
    model = TinyCNN()
    paths = scatter_checkpoints(model, tmp_path)
    rows = [(torch.randint(1, 20, (5,)), torch.tensor(i % 3)) for i in range(7)]

    def by_first_word(examples):
        return torch.utils.data.default_collate(sorted(examples, key=lambda one: one[0].tolist()))

    given = DataLoader(SHUFFLING["by torch"](rows), 2, collate_fn=by_first_word)
    with pytest.raises(ValueError, match="stream that gives other examples, or another order, each time"):
        TracInWE(model, given, paths, loss_fn=torch.nn.CrossEntropyLoss(reduction="none"))


def of_datasets(case):
    rows = [{k: v.tolist() for k, v in case.dataset()[i].items()} for i in range(7)]
    return datasets.Dataset.from_list(rows).to_iterable_dataset()


@pytest.mark.parametrize(
    "further",
    [
        lambda stream: stream,
        lambda stream: stream.map(lambda row: row).with_format("torch"),
        lambda stream: stream.take(5),
        lambda stream: datasets.concatenate_datasets([stream, stream]),
    ],
    ids=["shuffled", "mapped behind", "cut behind", "two in one"],
)
def test_a_stream_of_datasets_that_was_shuffled_is_said_and_counted_in_its_order(bert, further):
    case, paths, _ = bert
    stream = further(of_datasets(case).shuffle(seed=3, buffer_size=4))
    with pytest.warns(UserWarning, match=r"stream that shuffles itself.*from before \.shuffle"):
        tracin = TracInWE(case.model, stream, paths, loss_fn=case.loss, batch_size=3)
    listed = [{k: torch.as_tensor(v) for k, v in row.items()} for row in stream]
    close(
        tracin.influence(case.test),
        TracInWE(case.model, listed, paths, loss_fn=case.loss).influence(case.test).double(),
    )


@pytest.mark.parametrize(
    "kind", [Stream, lambda data: pipe(data).map(dict), None], ids=["of torch", "data pipes", "of datasets"]
)
def test_a_stream_in_a_fixed_order_is_taken_without_a_word(bert, kind):
    case, paths, expected = bert
    stream = of_datasets(case) if kind is None else kind(case.dataset())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "Unable to determine the number of batches")  # Captum's, of any stream
        tracin = TracInWE(case.model, stream, paths, loss_fn=case.loss, batch_size=3)
    close(tracin.influence(case.test), expected)


def test_a_stream_that_is_its_own_iterator_loses_nothing_to_our_look(bert):
    case, paths, expected = bert

    class Lines(Stream):
        def __init__(self, data):
            super().__init__(data)
            self.left = (data[i] for i in range(len(data)))

        def __iter__(self):
            return self.left

    tracin = TracInWE(case.model, Lines(case.dataset()), paths, loss_fn=case.loss, batch_size=3)
    close(tracin.influence(case.test), expected)


# --------------------------------------------------------------------------------------------------------- Trainers


def rows_of(batch):
    """Each text as lists of its own length, as a tokenizer leaves them."""
    sizes = batch["attention_mask"].sum(1).tolist()
    return [
        {"input_ids": batch["input_ids"][i, :n].tolist(), "attention_mask": [1] * n, "labels": int(batch["labels"][i])}
        for i, n in enumerate(sizes)
    ]


def padded(examples):
    width = max(len(example["input_ids"]) for example in examples)
    batch = {
        key: torch.tensor([example[key] + [0] * (width - len(example[key])) for example in examples])
        for key in ("input_ids", "attention_mask")
    }
    return {**batch, "labels": torch.tensor([example["labels"] for example in examples])}


def marking(examples):
    """The collator of training: a sign before each text."""
    return padded(
        [{**e, "input_ids": [7, *e["input_ids"]], "attention_mask": [1, *e["attention_mask"]]} for e in examples]
    )


def cutting(examples):
    """That of evaluation."""
    return padded([{**e, "input_ids": e["input_ids"][:2], "attention_mask": [1, 1]} for e in examples])


def trainer_of(kind, case, folder, data=None, **options):
    changes = {key: options.pop(key) for key in ("data_collator", "eval_dataset") if key in options}
    arguments = TrainingArguments(str(folder), report_to=[], use_cpu=True, disable_tqdm=True, **options)
    data = rows_of(case.train) if data is None else data
    return kind(case.model, arguments, train_dataset=data, **{"data_collator": padded, **changes})


def scores(case, paths, data, collate):
    """By the loop over single examples, as a collator makes them."""
    case.model.eval()

    def run(batch):
        return case.loss(case.model(**batch).logits, batch["labels"]).sum()

    tests = case.losses(case.test)
    return scores_by_loop(case.model, case.embeddings, paths, tests, [lambda e=e: run(collate([e])) for e in data], 0)


class OwnLoader(Trainer):
    def get_train_dataloader(self):
        return DataLoader(self.train_dataset, 2, shuffle=True, collate_fn=marking)


class OwnParts(Trainer):
    """A step further in, as transformers 5 has it."""

    def _get_dataloader(
        self, dataset, description, batch_size, sampler_fn=None, is_training=False, dataloader_key=None
    ):
        return DataLoader(dataset, batch_size, collate_fn=marking if is_training else cutting, shuffle=is_training)


class OwnCollator(Trainer):
    """A collator for evaluation beside that of training."""

    def get_eval_dataloader(self, eval_dataset=None):
        return DataLoader(self.eval_dataset if eval_dataset is None else eval_dataset, 2, collate_fn=cutting)


class OtherEval(Trainer):
    """An evaluation that has its own data, whatever it is asked for."""

    def get_eval_dataloader(self, eval_dataset=None):
        return DataLoader(rows_of(self.held_out), 2, collate_fn=padded)


class InOrder(Trainer):
    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(self.train_dataset)


class OwnPrepared(OwnLoader):
    def get_train_dataloader(self):
        return self.accelerator.prepare(super().get_train_dataloader())


READING = {
    "a training loader": (OwnLoader, {}, marking),
    "a training loader of accelerate": (OwnPrepared, {}, marking),
    "parts of both loaders": (OwnParts, {}, marking),
    "a collator for evaluation": (OwnCollator, {"data_collator": marking}, marking),
    "an evaluation of its own": (OtherEval, {}, padded),
    "an order": (InOrder, {}, padded),
    "texts of one length together": (Trainer, {"train_sampling_strategy": "group_by_length"}, padded),
}


@pytest.mark.parametrize("name", READING)
def test_a_trainers_own_way_to_its_data_is_taken_in_order(bert, name, tmp_path):
    case, paths, _ = bert
    kind, options, collate = READING[name]
    if "train_sampling_strategy" in options and not hasattr(TrainingArguments, "train_sampling_strategy"):
        options = {"group_by_length": True}  # before transformers 5
    trainer = trainer_of(kind, case, tmp_path, **options)
    trainer.held_out = case.test
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tracin = TracInWE.from_trainer(trainer, checkpoints=paths, loss_fn=case.loss, batch_size=3)
    close(tracin.influence(case.test), scores(case, paths, rows_of(case.train), collate))


def test_an_evaluation_loader_that_is_kept_is_neither_taken_for_the_training_set_nor_replaced_by_it(bert, tmp_path):
    case, paths, expected = bert
    options = {"eval_dataset": rows_of(case.test), "dataloader_persistent_workers": True, "dataloader_num_workers": 1}
    trainer = trainer_of(Trainer, case, tmp_path, **options)
    trainer.get_eval_dataloader()  # as evaluate() does
    close(TracInWE.from_trainer(trainer, checkpoints=paths, loss_fn=case.loss).influence(case.test), expected)
    trainer = trainer_of(Trainer, case, tmp_path, **options)
    TracInWE.from_trainer(trainer, checkpoints=paths, loss_fn=case.loss)
    assert len(trainer.get_eval_dataloader().dataset) == 3


class Fewer(Trainer):
    def get_train_dataloader(self):
        return DataLoader([self.train_dataset[i] for i in (5, 1, 2)], 2, shuffle=True, collate_fn=padded)


class Backwards(Trainer):
    def get_train_dataloader(self):
        return DataLoader(Subset(self.train_dataset, range(6, -1, -1)), 2, collate_fn=padded)


class OwnStream(Trainer):
    def get_train_dataloader(self):
        return DataLoader(Stream(self.train_dataset, lambda n: range(n - 1, -1, -1)), 2, collate_fn=padded)


class OwnBatches(Trainer):
    def get_train_dataloader(self):
        data = self.train_dataset
        return DataLoader([padded(data[4:7]), padded(data[:4])], batch_size=None)


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        (Fewer, [5, 1, 2]),
        (Backwards, range(6, -1, -1)),
        (OwnStream, range(6, -1, -1)),
        (OwnBatches, [4, 5, 6, 0, 1, 2, 3]),
    ],
)
def test_another_data_set_of_a_training_loader_is_said_and_counts(bert, kind, order, tmp_path):
    case, paths, expected = bert
    with pytest.warns(UserWarning, match=r"get_train_dataloader reads another data set \(\w+\) than its train_dataset"):
        tracin = TracInWE.from_trainer(trainer_of(kind, case, tmp_path), checkpoints=paths, loss_fn=case.loss)
    close(tracin.influence(case.test), expected[:, list(order)])


def test_a_loader_of_the_very_data_set_without_its_unused_columns_is_the_same(bert, tmp_path):
    class Super(Trainer):
        def get_train_dataloader(self):
            return super().get_train_dataloader()

    case, paths, expected = bert
    data = datasets.Dataset.from_list([{**row, "text": "a b"} for row in rows_of(case.train)])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tracin = TracInWE.from_trainer(trainer_of(Super, case, tmp_path, data), checkpoints=paths, loss_fn=case.loss)
    close(tracin.influence(case.test), expected)


class Weighted(Trainer):
    def _get_train_sampler(self, train_dataset):
        return WeightedRandomSampler([1, 0, 0, 1, 0, 0, 1], 20)


class Part(Trainer):
    def _get_train_sampler(self):  # as before transformers 4.50
        return SubsetRandomSampler([0, 2, 4])


class Oversampled(Trainer):
    def get_train_dataloader(self):
        sampler = RandomSampler(self.train_dataset, replacement=True, num_samples=21)
        return DataLoader(self.train_dataset, batch_sampler=BatchSampler(sampler, 2, False), collate_fn=padded)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Weighted, r"WeightedRandomSampler\) draws 3 of 7 examples in an epoch, 20 times in all"),
        (Part, r"SubsetRandomSampler\) draws 3 of 7 examples in an epoch, 3 times in all"),
        (Oversampled, r"RandomSampler\) draws \d of 7 examples in an epoch, 21 times in all"),
    ],
)
def test_a_sampler_that_draws_unevenly_is_said(bert, kind, said, tmp_path):
    case, paths, expected = bert
    trainer = trainer_of(kind, case, tmp_path)
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match=f"from_trainer: the Trainer's sampler .{said}: here each example counts"):
        tracin = TracInWE.from_trainer(trainer, checkpoints=paths, loss_fn=case.loss)
    assert torch.equal(torch.get_rng_state(), state)
    close(tracin.influence(case.test), expected)


def test_what_a_trainer_does_between_loader_and_model_is_said(bert, tmp_path):
    class Mixing(Trainer):
        def _prepare_inputs(self, inputs):
            return super()._prepare_inputs({**inputs, "input_ids": inputs["input_ids"].flip(0)})

    class Adversarial(Trainer):
        def training_step(self, *args, **options):
            return super().training_step(*args, **options)

    case, paths, _ = bert
    for kind, name in ((Mixing, "_prepare_inputs"), (Adversarial, "training_step")):
        with pytest.warns(UserWarning, match=rf"changes its batches on their way to the model \({name} of its class\)"):
            TracInWE.from_trainer(trainer_of(kind, case, tmp_path), checkpoints=paths, loss_fn=case.loss)


def test_a_training_loader_that_is_none_is_refused_with_the_way_out(bert, tmp_path):
    class Listed(Trainer):
        def get_train_dataloader(self):
            return [padded(self.train_dataset)]

    case, paths, expected = bert
    trainer = trainer_of(Listed, case, tmp_path)
    with pytest.raises(
        TypeError, match=r"get_train_dataloader gives a list: expected a torch DataLoader.*train_dataset=Data"
    ):
        TracInWE.from_trainer(trainer, checkpoints=paths, loss_fn=case.loss)
    given = DataLoader(trainer.train_dataset, 3, collate_fn=padded)
    tracin = TracInWE.from_trainer(trainer, checkpoints=paths, loss_fn=case.loss, train_dataset=given)
    close(tracin.influence(case.test), expected)
