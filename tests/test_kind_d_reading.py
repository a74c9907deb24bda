"""Kind D: data that were read otherwise in training are read as in training, in a fixed order, or it is said what differs."""

import random
import warnings

import pytest
import torch
from cases import bert_mapping
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data.datapipes.iter import IterableWrapper

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import scatter_checkpoints

datasets = pytest.importorskip("datasets")


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
