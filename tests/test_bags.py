"""Classifiers on nn.EmbeddingBag, fastText's kind: equal to the dense gradient of the table, example by example."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_tracinwe import TracInWE, load_checkpoint
from captum_tracinwe.app.testing import scatter_checkpoints, toy_texts

LOSS = nn.CrossEntropyLoss(reduction="none")


class Bag(nn.Module):
    def __init__(self, mode="sum", padding_idx=None, weighted=False):
        super().__init__()
        self.words = nn.EmbeddingBag(30, 6, mode=mode, padding_idx=padding_idx)
        self.weighted = weighted
        self.out = nn.Sequential(nn.Tanh(), nn.Linear(6, 3))

    def forward(self, ids):
        weights = (1.0 + ids % 3).to(self.words.weight.dtype) if self.weighted else None
        return self.out(self.words(ids, per_sample_weights=weights))


def dense_scores(model, checkpoints, test, train):
    """Σ_c η_c of the dot products of the whole table's gradients."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scores = 0
    for path in checkpoints:
        rate = load_checkpoint(model, path)
        sides = []
        for ids, labels in (test, train):
            grads = [
                torch.autograd.grad(LOSS(model(ids[i : i + 1]), labels[i : i + 1]).sum(), [model.words.weight])[0]
                for i in range(len(ids))
            ]
            sides.append(torch.stack([g.flatten() for g in grads]))
        scores = scores + rate * sides[0] @ sides[1].T
    model.load_state_dict(before)
    return scores


@pytest.mark.parametrize("padding_idx", [None, 0, -30])
@pytest.mark.parametrize(("mode", "weighted"), [("sum", False), ("mean", False), ("sum", True)])
def test_bags_equal_the_dense_gradient_of_the_table(mode, weighted, padding_idx, tmp_path):
    (ids, _, labels), (test_ids, _, test_labels) = toy_texts(7, seed=1), toy_texts(3, seed=2)
    model = Bag(mode, padding_idx, weighted).double()
    checkpoints = scatter_checkpoints(model, tmp_path)
    expected = dense_scores(model, checkpoints, (test_ids, test_labels), (ids, labels))
    for size in (1, 3, 7):
        tracin = TracInWE(model, TensorDataset(ids, labels), checkpoints, loss_fn=LOSS, batch_size=size)
        torch.testing.assert_close(tracin.influence((test_ids, test_labels)), expected, rtol=1e-9, atol=1e-12)


def test_an_empty_bag_has_no_rows(tmp_path):
    model = Bag("mean", 0)
    ids = torch.tensor([[0, 0, 0], [1, 2, 0]])
    tracin = TracInWE(
        model, TensorDataset(ids, torch.tensor([0, 1])), scatter_checkpoints(model, tmp_path), loss_fn=LOSS
    )
    assert tracin.row_gradients().ptr.tolist() == [0, 0, 2]


def test_another_bag_beside_the_words_is_left_alone(tmp_path):
    class Two(Bag):
        def __init__(self):
            super().__init__()
            self.tags = nn.EmbeddingBag(30, 6)

        def forward(self, ids):
            return self.out(self.words(ids) + self.tags(ids.flatten(), torch.arange(0, ids.numel(), ids.shape[1])))

    (ids, _, labels) = toy_texts(5, seed=1)
    model = Two().double()
    checkpoints = scatter_checkpoints(model, tmp_path)
    tracin = TracInWE(model, TensorDataset(ids, labels), checkpoints, layers=["words"], loss_fn=LOSS, batch_size=2)
    expected = dense_scores(model, checkpoints, (ids, labels), (ids, labels))
    torch.testing.assert_close(tracin.influence((ids, labels)), expected, rtol=1e-9, atol=1e-12)


class Offsets(Bag):
    def __init__(self, mode, padding_idx, weighted, last):
        super().__init__(mode, padding_idx, weighted)
        self.words.include_last_offset, self.last = last, last

    def forward(self, ids, offsets=None):
        if ids.dim() == 2:  # for the dense gradient, one text alone: padding is cut, as in the batches below
            ids = ids[0, : int((ids[0] != 0).sum())]
            offsets = torch.tensor([0, len(ids)] if self.last else [0])
        weights = (1.0 + ids % 3).to(self.words.weight.dtype) if self.weighted else None
        return self.out(self.words(ids, offsets, weights))


def in_a_row(last):
    def collate(examples):
        lengths = [int((ids != 0).sum()) for ids, _ in examples]
        offsets = torch.tensor([0, *lengths]).cumsum(0)
        words = torch.cat([ids[:length] for (ids, _), length in zip(examples, lengths, strict=True)])
        return words, offsets if last else offsets[:-1], torch.stack([label for _, label in examples])

    return collate


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("padding_idx", [None, 3])
@pytest.mark.parametrize(("mode", "weighted"), [("sum", False), ("mean", False), ("sum", True)])
def test_bags_by_offsets_equal_the_dense_gradient_too(mode, weighted, padding_idx, last, tmp_path):
    (ids, _, labels), (test_ids, _, test_labels) = toy_texts(7, seed=1), toy_texts(3, seed=2)
    model = Offsets(mode, padding_idx, weighted, last).double()
    checkpoints = scatter_checkpoints(model, tmp_path)
    expected = dense_scores(model, checkpoints, (test_ids, test_labels), (ids, labels))
    collate = in_a_row(last)
    test = collate(list(zip(test_ids, test_labels, strict=True)))
    for size in (1, 3, 7):
        loader = DataLoader(TensorDataset(ids, labels), size, collate_fn=collate)
        tracin = TracInWE(model, loader, checkpoints, loss_fn=LOSS)
        torch.testing.assert_close(tracin.influence(test), expected, rtol=1e-9, atol=1e-12)
        as_mapping = dict(zip(("ids", "offsets", "label"), test, strict=True))
        torch.testing.assert_close(tracin.influence(as_mapping), expected, rtol=1e-9, atol=1e-12)


def test_bags_that_are_not_one_for_each_example_are_taken_text_by_text(tmp_path):
    class Halves(Bag):
        def forward(self, ids):
            bags = self.words(ids.flatten(), torch.arange(0, ids.numel(), ids.shape[1] // 3))
            return self.out(bags.view(len(ids), 3, -1).sum(1))

    class Single(Bag):
        def forward(self, ids):
            return self.out(self.words(ids[:, 0], torch.arange(len(ids))) + self.words(ids.flatten()[None].long()))

    (ids, _, labels) = toy_texts(5, seed=1)
    for kind in (Halves, Single):
        model = kind()
        data, paths = TensorDataset(ids, labels), scatter_checkpoints(model, tmp_path)
        together, alone = (TracInWE(model, data, paths, loss_fn=LOSS, batch_size=size) for size in (5, 1))
        with pytest.warns(UserWarning, match="Whose words are whose cannot be told.*each text is taken alone"):
            found = together.self_influence()
        torch.testing.assert_close(found, alone.self_influence())


def test_a_bag_of_one_word_alone_is_refused(tmp_path):
    class Odd(Bag):
        def forward(self, ids):
            return self.out(self.words(ids[0, 0]))

    (ids, _, labels) = toy_texts(5, seed=1)
    model = Odd()
    paths = scatter_checkpoints(model, tmp_path)
    tracin = TracInWE(model, TensorDataset(ids, labels), paths, loss_fn=LOSS, batch_size=5)
    with pytest.raises(
        ValueError,
        match=r"ids of shape \(\). Expected ids \(N, T\), a text in each row.*or all ids \(P,\) and the offsets",
    ):
        tracin.self_influence()
