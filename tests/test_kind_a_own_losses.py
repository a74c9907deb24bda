"""Kind A: a model's own loss that is no mean over its examples is taken as what it is, or refused."""

import pytest
import torch
from cases import cross_entropy
from loops import alone, assert_close, looped, ragged
from torch import nn
from torch.nn.functional import cross_entropy as entropy

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import scatter_checkpoints


class Own(nn.Module):
    """A classifier that makes its loss itself; what it makes it of is told by its name."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.words = nn.Embedding(30, 6)
        self.out = nn.Linear(6, 3)
        self.router = nn.Linear(6, 4)

    def forward(self, input_ids, labels=None, attention_mask=None):
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden = (torch.tanh(self.words(input_ids)) * mask[..., None]).sum(1) / mask.sum(1)[:, None]
        logits = self.out(hidden)
        weights = torch.tensor([1.0, 4.0, 0.5])
        if self.kind == "class weights":
            loss = entropy(logits, labels, weight=weights)
        elif self.kind == "weights by hand":
            loss = (entropy(logits, labels, reduction="none") * weights[labels]).sum() / weights[labels].sum()
        elif self.kind == "sum":
            loss = entropy(logits, labels, reduction="sum")
        else:
            loss = entropy(logits, labels, label_smoothing=0.1 * (self.kind == "smoothed"))
        if self.kind == "contrastive":
            near = nn.functional.normalize(hidden, dim=1) @ nn.functional.normalize(hidden, dim=1).T
            loss = loss + entropy(near / 0.1, torch.arange(len(near)))
        if self.kind == "balance of experts":
            used = self.router(hidden).softmax(1).mean(0)
            loss = loss + 4 * used.square().sum()
        return {"loss": loss, "logits": logits}


def run(kind, tmp_path, batch_size=4, data=None, **options):
    torch.manual_seed(0)
    model = Own(kind)
    checkpoints = scatter_checkpoints(model, tmp_path, scale=1.0)
    train, test = ragged(9, seed=1) if data is None else data, ragged(5, seed=2)
    tracin = TracInWE(model, train, checkpoints, batch_size=batch_size, **options)

    def expected():
        sides = [[alone(one) for one in side] for side in (test, train)]
        return looped(model, model.words, checkpoints, lambda model, one: model(**one)["loss"], *sides)

    return tracin, test, expected


@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("kind", ["mean", "smoothed", "sum"])
def test_a_mean_and_a_sum_are_told_apart(kind, batch_size, tmp_path):
    tracin, test, expected = run(kind, tmp_path, batch_size)
    assert_close(tracin.influence(test), expected())
    assert_close(tracin.influence(test, k=9).influence_scores, expected().sort(1, descending=True).values)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("kind", ["class weights", "weights by hand", "contrastive", "balance of experts"])
def test_a_loss_that_belongs_to_the_batch_is_refused_with_the_way_out(kind, batch_size, tmp_path):
    tracin, test, _ = run(kind, tmp_path, batch_size)
    with pytest.raises(ValueError, match=r"model's own loss.* Pass loss_fn="):
        tracin.influence(test)
    with pytest.raises(ValueError, match="model's own loss"):
        tracin.self_influence()
    with pytest.raises(ValueError, match="model's own loss"):
        tracin.build_index(tmp_path / "index")
    assert not (tmp_path / "index" / "manifest.json").exists()


def test_class_weights_are_seen_where_data_are_sorted_by_their_label(tmp_path):
    data = sorted(ragged(40, seed=1), key=lambda one: one["labels"])
    tracin, test, _ = run("class weights", tmp_path, 4, data)
    with pytest.raises(ValueError, match="has class weights"):
        tracin.influence(test)


def test_with_a_loss_of_each_example_the_same_model_is_right(tmp_path):
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 4.0, 0.5]), reduction="none")
    torch.manual_seed(0)
    model = Own("class weights")
    checkpoints = scatter_checkpoints(model, tmp_path, scale=1.0)
    train, test = ragged(9, seed=1), ragged(5, seed=2)
    sides = [[alone(one) for one in side] for side in (test, train)]
    expected = looped(
        model,
        model.words,
        checkpoints,
        lambda model, one: weighted(model(**one)["logits"], one["labels"]).sum(),
        *sides,
    )
    assert_close(TracInWE(model, train, checkpoints, loss_fn=weighted, batch_size=4).influence(test), expected)


def test_a_batch_as_it_is_wins_where_that_is_asked_for(tmp_path):
    tracin, test, _ = run("class weights", tmp_path, probe=False)
    assert tracin.influence(test).shape == (5, 9)
    assert tracin.probes.found == {}


def test_a_loss_that_is_given_is_never_held_against_the_models_own(tmp_path):
    tracin, test, _ = run("contrastive", tmp_path, loss_fn=cross_entropy())
    assert tracin.influence(test).isfinite().all()
