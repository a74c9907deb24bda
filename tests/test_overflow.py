"""Products of finite gradients that are beyond their type: every way to a score says so, and names the example."""

import math

import pytest
import torch
from torch import nn

from captum_tracinwe import RowGradients, TracInWE, synonym_influence, synonym_scores, word_report
from captum_tracinwe.app.testing import toy_tracin

WAYS = {
    "influence": lambda t, batch: t.influence(batch),
    "influence, k": lambda t, batch: t.influence(batch, k=1).influence_scores,
    "influence, aggregate": lambda t, batch: t.influence(batch, aggregate=True),
    "self_influence": lambda t, batch: t.self_influence(),
    "self_influence by checkpoints": lambda t, batch: t.self_influence(outer_loop_by_checkpoints=True),
    "word_influence": lambda t, batch: [one.token_shares for row in t.word_influence(batch, all_of(t)) for one in row],
    "word_influence per checkpoint": lambda t, batch: [
        one.checkpoint_shares for row in t.word_influence(batch, all_of(t), per_checkpoint=True) for one in row
    ],
    "word_report": lambda t, batch: torch.tensor(
        [word.total for word in word_report(t, batch, [0] * M, draws=2).words], dtype=torch.float64
    ),
    "synonym_scores": lambda t, batch: synonym_scores(t, batch, k=9),
    "synonym_influence": lambda t, batch: torch.tensor(
        [one.score for row in synonym_influence(t, batch, all_of(t), k=9) for one in row], dtype=torch.float64
    ),
    "rows": lambda t, batch: t.row_gradients(batch).dot(t.row_gradients()),
    "rows by token": lambda t, batch: t.row_gradients(batch).dot(t.row_gradients().by_token()),
}
M = 12


def all_of(tracin):
    return [list(range(M))] * 2


def scaled(factor, dtype=torch.float32, **options):
    losses = nn.CrossEntropyLoss(reduction="none")
    tracin, batch = toy_tracin(loss_fn=lambda logits, labels: losses(logits, labels) * factor, **options)
    tracin.model.to(dtype)
    return tracin, batch


def finite(found):
    return all(bool(one.isfinite().all()) for one in (found if isinstance(found, list) else [found]))


@pytest.mark.parametrize("top_k", [None, 3])
@pytest.mark.parametrize("way", WAYS)
def test_a_score_beyond_float32_is_refused_by_name(way, top_k):
    tracin, batch = scaled(1e21, top_k_words=top_k)
    assert finite(tracin.row_gradients().values)
    with pytest.raises(
        ValueError, match=r"example \d+.* is beyond float32, which ends at 3.4e\+38: .*model.double\(\)"
    ):
        WAYS[way](tracin, batch)


@pytest.mark.parametrize("way", WAYS)
def test_float64_holds_what_float32_does_not(way):
    assert finite(WAYS[way](*scaled(1e21, torch.float64)))
    with pytest.raises(ValueError, match=r"example \d+.* is beyond float64, which ends at 1.8e\+308"):
        WAYS[way](*scaled(1e160, torch.float64))


def test_large_finite_scores_are_given():
    plain, large = (WAYS["influence"](*scaled(factor, torch.float64)) for factor in (1, 1e15))
    assert torch.allclose(
        WAYS["influence"](*scaled(1e15)).double(), large, rtol=1e-4, atol=float(large.abs().max()) * 1e-6
    )
    assert torch.allclose(plain * 1e30, large)


def test_the_strongest_words_are_the_same_however_large_the_gradients():
    small, large = (scaled(factor, top_k_words=2)[0].row_gradients() for factor in (1.0, 1e21))
    assert torch.equal(small.ids, large.ids)


def test_gradients_that_a_rate_or_a_sum_takes_beyond_float32_are_refused():
    tracin, batch = scaled(1e38)
    for checkpoint, (_, weights) in enumerate(tracin.checkpoints):
        tracin.checkpoints[checkpoint] = (1e12, weights)
    with pytest.raises(
        ValueError,
        match=r"gradient of given example \d+ times the root of the learning rate .* checkpoint 1 of 2 .* float32",
    ):
        tracin.row_gradients(batch)
    alike = batch[0][:1].repeat(4000, 1), batch[1][:1].repeat(4000)
    with pytest.raises(ValueError, match="sum of the gradients of `inputs` is beyond float32"):
        scaled(1e37, batch_size=4000)[0].compute_intermediate_quantities(alike, aggregate=True)


class Wild(nn.Module):
    """A model that answers 1e25 times too loud to one text."""

    def __init__(self, model, text):
        super().__init__()
        self.model, self.text = model, text

    def forward(self, ids):
        return self.model(ids) * torch.where((ids == self.text).all(1), 1e25, 1.0)[:, None]


def test_the_example_is_named_by_its_index_in_the_training_set():
    plain, _ = toy_tracin()
    train = plain.train_dataloader.dataset
    tracin = TracInWE(
        Wild(plain.model, train[10][0]),
        train,
        plain.checkpoints,
        lambda model, checkpoint: plain.checkpoints_load_func(model.model, checkpoint),
        loss_fn=plain.loss_fn,
        batch_size=4,
        memory_limit=1,
    )
    with pytest.raises(ValueError, match="self-influence of training example 10 is beyond"):
        tracin.self_influence()
    with pytest.raises(ValueError, match=r"score of training example 10 for test example 0, at checkpoint [12] of 2,"):
        tracin.influence((train[10][0][None], torch.tensor([0])))


def test_sums_that_overflow_where_no_score_does_are_no_error():
    rows = RowGradients(torch.tensor([0, 1, 2]), torch.tensor([3, 3]), torch.full((2, 1), 1.8e19))
    scores = rows.dot(rows)
    assert math.isinf(float(scores.sum()))
    assert finite(scores)
