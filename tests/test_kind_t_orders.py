"""Kind T: loaders with an order of their own. What a result calls example j is what the user's data set has at j."""

import torch
from cases import bert_mapping
from torch.utils.data import DataLoader, IterableDataset

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import scatter_checkpoints


class Stream(IterableDataset):
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return (self.data[i] for i in range(len(self.data)))


def test_an_example_is_read_alone_by_its_place_where_there_is_random_access(tmp_path):
    case = bert_mapping()
    paths = scatter_checkpoints(case.model, tmp_path)
    data = case.dataset()
    plain = TracInWE(case.model, data, paths, loss_fn=case.loss, batch_size=3).training_set
    by_length = TracInWE(case.model, data, paths, loss_fn=case.loss, batch_size=3, order_by_length=True).training_set
    for found in (plain, by_length):
        for place in range(7):
            batch, index = found.alone(place), found.index_of(place)
            width = batch["input_ids"].shape[1]
            assert torch.equal(batch["input_ids"][0], data[index]["input_ids"][:width])
            assert batch["labels"].tolist() == [data[index]["labels"].item()]
    of_stream = TracInWE(case.model, DataLoader(Stream(data), 3), paths, loss_fn=case.loss).training_set
    assert of_stream.alone(0) is None
