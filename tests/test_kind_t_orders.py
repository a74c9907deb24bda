"""Kind T: loaders with an order of their own. What a result calls example j is what the loader's data set has at j."""

import itertools
import math

import pytest
import torch
from cases import Examples, bert_mapping, cnn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Sampler,
    SequentialSampler,
    Subset,
)
from transformers import DataCollatorWithFlattening
from transformers.trainer_pt_utils import LengthGroupedSampler

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import scatter_checkpoints, scores_by_loop, tiny_gpt2, toy_texts
from captum_tracinwe.gradients.token_losses import TokenLoss

ORDER = [4, 0, 6, 2, 5, 1, 3]


class Listed(Sampler):
    """What curricula and sorted lengths come to: indices in a fixed order."""

    def __init__(self, order):
        self.order = order

    def __len__(self):
        return len(self.order)

    def __iter__(self):
        return iter(self.order)


class Own(SequentialSampler):
    """A SequentialSampler by its class only."""

    def __iter__(self):
        return iter(ORDER)


class SameEachTime(LengthGroupedSampler):
    """Texts of about one length together, drawn with the same seed at each pass."""

    def __iter__(self):
        self.generator = torch.Generator().manual_seed(3)
        return super().__iter__()


LENGTHS = [5, 1, 2, 7, 3, 2, 6]
LOADERS = {
    "a sampler": lambda data: DataLoader(data, 3, sampler=Listed(ORDER)),
    "a subclass of SequentialSampler": lambda data: DataLoader(data, 2, sampler=Own(data)),
    "a BatchSampler over a permutation": lambda data: DataLoader(
        data, batch_sampler=BatchSampler(SequentialSampler(ORDER).data_source, 3, False)
    ),
    "batches of a list": lambda data: DataLoader(data, batch_sampler=[ORDER[:3], ORDER[3:4], ORDER[4:]]),
    "texts of one length together": lambda data: DataLoader(data, 2, sampler=SameEachTime(2, data, LENGTHS)),
    "counted from the end": lambda data: DataLoader(data, 3, sampler=Listed([i - 7 for i in ORDER])),
    "tensors of indices": lambda data: DataLoader(data, batch_sampler=Listed(list(torch.tensor(ORDER).split(3)))),
    "a Subset": lambda data: DataLoader(Subset(data, range(7)), 3, sampler=Listed(ORDER)),
    "two data sets in one": lambda data: DataLoader(
        ConcatDataset([Subset(data, range(2)), Subset(data, range(2, 7))]), 2, sampler=Listed(ORDER)
    ),
    "one of several processes, alone": lambda data: DataLoader(
        data, 3, sampler=DistributedSampler(data, num_replicas=1, rank=0, shuffle=False)
    ),
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    case = bert_mapping().to(torch.float64)
    paths = scatter_checkpoints(case.model, tmp_path_factory.mktemp("bert"))
    return case, paths, case.by_loop(paths)


@pytest.mark.parametrize("name", LOADERS)
def test_an_index_is_that_of_the_data_set_whatever_the_sampler_says(bert, name, tmp_path):
    case, paths, expected = bert
    close = {"rtol": 1e-6, "atol": 1e-9 * float(expected.abs().max())}
    tracin = TracInWE(case.model, LOADERS[name](case.dataset()), paths, loss_fn=case.loss)
    torch.testing.assert_close(tracin.influence(case.test), expected, **close)
    best = torch.sort(expected, dim=1, descending=True, stable=True).indices
    assert torch.equal(tracin.influence(case.test, k=7).indices, best)
    words = tracin.word_influence(case.test, best[:, :2])
    assert [[word.train_index for word in row] for row in words] == best[:, :2].tolist()
    shares = torch.tensor([[float(word.token_shares.sum()) for word in row] for row in words], dtype=torch.float64)
    torch.testing.assert_close(shares, expected.gather(1, best[:, :2]), **close)
    rows = tracin.row_gradients()
    torch.testing.assert_close(tracin.row_gradients(case.test).dot(rows), expected, **close)
    torch.testing.assert_close(tracin.self_influence(), rows.squared_norms(), **close)
    found = tracin.build_index(tmp_path / "index").search(tracin.row_gradients(case.test), 7)
    torch.testing.assert_close(torch.as_tensor(found.indices), best)


def test_an_example_is_read_alone_by_its_place_where_there_is_random_access(bert):
    case, paths, _ = bert
    data = case.dataset()

    def training_set(given, **options):
        return TracInWE(case.model, given, paths, loss_fn=case.loss, **options).training_set

    for found in (
        training_set(data, batch_size=3),
        training_set(data, batch_size=3, order_by_length=True),
        training_set(DataLoader(data, 3, drop_last=True)),
        training_set(DataLoader(data, batch_sampler=BatchSampler(SequentialSampler(data), 2, False))),
        training_set(LOADERS["a sampler"](data)),
        training_set(LOADERS["batches of a list"](data)),
    ):
        for place in range(6):
            batch, index = found.alone(place), found.index_of(place)
            width = batch["input_ids"].shape[1]
            assert torch.equal(batch["input_ids"][0], data[index]["input_ids"][:width])
            assert batch["labels"].tolist() == [data[index]["labels"].item()]
    for given in (Stream(data), DataLoader(Stream(data), 3), DataLoader(Batches(case.train), batch_size=None)):
        assert training_set(given).alone(0) is None


class Stream(IterableDataset):
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return (self.data[i] for i in range(len(self.data)))


class Batches(Dataset):
    """Batches of two, and of one at the end."""

    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return math.ceil(len(self.batch["labels"]) / 2)

    def __getitem__(self, index):
        if index >= len(self):
            raise IndexError
        return {key: value[2 * index : 2 * index + 2] for key, value in self.batch.items()}


def test_texts_that_only_go_together_with_their_like_are_not_mixed(tmp_path):
    case = cnn().to(torch.float64)
    paths = scatter_checkpoints(case.model, tmp_path)
    ids, labels = case.train
    rows = [(ids[i, : 9 - i % 2], labels[i]) for i in range(7)]  # torch's collator stacks, and nothing fills up
    loader = DataLoader(rows, batch_sampler=[[1, 3], [5], [0, 2, 4], [6]])
    loss = case.loss
    runs = [
        [lambda i=i: loss(case.model(case.test[0][i : i + 1]), case.test[1][i : i + 1]).sum() for i in range(3)],
        [lambda row=row: loss(case.model(row[0][None]), row[1][None]).sum() for row in rows],
    ]
    expected = scores_by_loop(case.model.eval(), case.embeddings, paths, *runs, case.padding_idx)
    tracin = TracInWE(case.model, loader, paths, loss_fn=loss)
    close = {"rtol": 1e-6, "atol": 1e-9 * float(expected.abs().max())}
    torch.testing.assert_close(tracin.influence(case.test), expected, **close)
    found = tracin.build_index(tmp_path / "index").search(tracin.row_gradients(case.test), 7)
    torch.testing.assert_close(torch.as_tensor(found.indices), expected.sort(1, descending=True).indices)
    word = tracin.word_influence(case.test, [[2, 5], [], []])[0]
    torch.testing.assert_close(
        torch.tensor([float(w.score) for w in word]).double(), expected[0, [2, 5]], rtol=1e-4, atol=1e-6
    )


PARTS = {
    "leaves out 4 of 7 examples, 0 for one": lambda data: DataLoader(data, 2, sampler=Listed([5, 3, 1])),
    "leaves out 1 of 7 examples, 3 for one": lambda data: DataLoader(data, 2, sampler=Listed(ORDER), drop_last=True),
    r"DistributedSampler\) leaves out 3 of 7 examples, 1": lambda data: DataLoader(
        data, 2, sampler=DistributedSampler(data, 2, 0, shuffle=False)
    ),
    r"DistributedSampler\) leaves out 4 of 7 examples, 0": lambda data: DataLoader(
        data, 2, sampler=DistributedSampler(data, 2, 1, shuffle=False, drop_last=True)
    ),
    "reads example 4 more than once": lambda data: DataLoader(data, 2, sampler=Listed([*ORDER, 4])),
    "reads example 0 more than once": lambda data: DataLoader(data, 2, sampler=Endless([1, 0])),
}


class Endless(Listed):
    def __iter__(self):
        return itertools.cycle(self.order)


@pytest.mark.parametrize("said", PARTS)
def test_examples_that_are_left_out_or_read_twice_are_refused_with_the_way_out(bert, said):
    case, paths, expected = bert
    data = case.dataset()
    with pytest.raises(ValueError, match=rf"{said}.*Expected each example once.*Subset\(dataset, indices\)"):
        TracInWE(case.model, PARTS[said](data), paths, loss_fn=case.loss)
    chosen = [5, 3, 1]
    tracin = TracInWE(case.model, DataLoader(Subset(data, chosen), 2), paths, loss_fn=case.loss)
    torch.testing.assert_close(tracin.influence(case.test), expected[:, chosen], rtol=1e-6, atol=1e-9)


def test_whole_batches_in_an_order_of_their_own_are_refused_with_the_way_out(bert):
    case, paths, expected = bert
    data = Batches(case.train)
    with pytest.raises(ValueError, match=r"whole batches \(batch_size=None\).*Listed.*Subset\(dataset, order\)"):
        TracInWE(case.model, DataLoader(data, batch_size=None, sampler=Listed([2, 0, 1, 3])), paths, loss_fn=case.loss)
    tracin = TracInWE(case.model, DataLoader(Subset(data, [2, 0, 1, 3]), batch_size=None), paths, loss_fn=case.loss)
    order = [4, 5, 0, 1, 2, 3, 6]
    torch.testing.assert_close(tracin.influence(case.test), expected[:, order], rtol=1e-6, atol=1e-9)


class Named(Examples):
    """A data set that is asked by name."""

    def __getitem__(self, name):
        return super().__getitem__(int(name.removeprefix("text-")))


def test_where_the_sampler_tells_no_index_it_is_said_that_places_count(bert):
    case, paths, expected = bert
    names = [f"text-{i}" for i in ORDER]
    with pytest.warns(UserWarning, match="names examples by 'text-4', not by their index.*as this loader gives them"):
        tracin = TracInWE(case.model, DataLoader(Named(case.train), 3, sampler=Listed(names)), paths, loss_fn=case.loss)
    torch.testing.assert_close(tracin.influence(case.test), expected[:, ORDER], rtol=1e-6, atol=1e-9)
    assert tracin.training_set.alone(0) is None


def test_what_workers_do_to_an_order_is_said_or_refused(bert):
    case, paths, _ = bert
    with pytest.raises(ValueError, match="in_order=False, which gives batches as its workers finish"):
        TracInWE(case.model, DataLoader(case.dataset(), 2, num_workers=2, in_order=False), paths, loss_fn=case.loss)
    with pytest.warns(UserWarning, match="2 workers over an IterableDataset: each worker reads all of it"):
        TracInWE(case.model, DataLoader(Stream(case.dataset()), 2, num_workers=2), paths, loss_fn=case.loss)


def test_packed_rows_in_an_order_of_their_own_are_counted_as_the_data_set_does(tmp_path):
    model = tiny_gpt2(tied=False)
    paths = scatter_checkpoints(model, tmp_path)
    ids, mask, _ = toy_texts(5, seed=1)
    rows = [{"input_ids": i[: int(m.sum())].tolist()} for i, m in zip(ids, mask, strict=True)]
    test = {"input_ids": ids[:2, :3], "labels": ids[:2, :3]}
    collate = DataCollatorWithFlattening()
    expected = TracInWE(model, [{**row, "labels": row["input_ids"]} for row in rows], paths, loss_fn=TokenLoss())
    for sampler in ({"sampler": Listed([3, 0, 4, 1, 2]), "batch_size": 2}, {"batch_sampler": [[3, 0], [4, 1, 2]]}):
        with pytest.warns(UserWarning, match="packs several examples into one row"):
            tracin = TracInWE(model, DataLoader(rows, collate_fn=collate, **sampler), paths, loss_fn=TokenLoss())
        torch.testing.assert_close(tracin.influence(test), expected.influence(test), rtol=1e-3, atol=1e-6)
        assert tracin.training_set.alone(0)["input_ids"].tolist() == [rows[3]["input_ids"]]


LEFT_OUT = {
    "drop_last": lambda data: DataLoader(data, 3, drop_last=True),
    "a sampler of the first six": lambda data: DataLoader(data, 3, sampler=Listed(range(6))),
    "torch's own of a part": lambda data: DataLoader(data, 3, sampler=SequentialSampler(range(6))),
    "batches of a list": lambda data: DataLoader(data, batch_sampler=[[0, 1, 2], [3, 4, 5]]),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_examples_at_the_end_that_are_not_read_are_told(bert, name):
    """Column j is example j all the same."""
    case, paths, expected = bert
    close = {"rtol": 1e-6, "atol": 1e-9 * float(expected.abs().max())}
    said = r"`train_dataset` is a DataLoader that leaves out the last 1 of 7 examples .*drop_last=False"
    with pytest.warns(UserWarning, match=said):
        tracin = TracInWE(case.model, LEFT_OUT[name](case.dataset()), paths, loss_fn=case.loss)
    torch.testing.assert_close(tracin.influence(case.test), expected[:, :6], **close)
    with pytest.warns(UserWarning, match="`inputs` is a DataLoader that leaves out the last 1 of 7"):
        tracin.self_influence(LEFT_OUT[name](case.dataset()))


@pytest.mark.parametrize("order", [ORDER, [3, 5]], ids=["all", "some"])
def test_questions_in_an_order_of_their_own_come_as_they_are_read_and_that_is_told(bert, order, recwarn):
    case, paths, _ = bert
    data = case.dataset()
    tracin = TracInWE(case.model, data, paths, loss_fn=case.loss, batch_size=3)
    expected = tracin.influence(data)
    assert not [one for one in recwarn if "DataLoader" in str(one.message)]
    tracin.influence(DataLoader(data, 2, sampler=Listed(range(7))))
    assert not [one for one in recwarn if "DataLoader" in str(one.message)]
    said = rf"`inputs` is a DataLoader with an order of its own\. Row i .* the i-th .*\(the first is {order[0]}\)"
    with pytest.warns(UserWarning, match=said):
        found = tracin.influence(DataLoader(data, 2, sampler=Listed(order)))
    torch.testing.assert_close(found, expected[order])
