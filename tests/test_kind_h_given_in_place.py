"""Kind H: models that write into the batch they are given, and losses that write into labels or predictions."""

import pytest
import torch
from one_by_one import LOSS, OneByOne, assert_near, checkpoints, explained, scores_one_by_one, texts
from torch import nn

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import TinyCNN

TRAIN, TEST = texts(7, 1), texts(3, 2)


def shifted(ids):
    ids -= 1


def masked(ids):
    ids[ids < 9] = 2


def by_out(ids):
    torch.sub(ids, 1, out=ids)


def through_a_row(ids):
    ids[:, 0].fill_(4)


BEFORE = [shifted, masked, by_out, through_a_row]


class Given(TinyCNN):
    """Writes into its ids, before it looks them up or afterwards."""

    before = after = staticmethod(lambda ids: None)

    def forward(self, ids):
        self.before(ids)
        hidden = self.embedding(ids)
        self.after(ids)
        return self.out(torch.tanh(self.conv(hidden.transpose(1, 2))).amax(2))


def maker(**writes):
    def make():
        torch.manual_seed(0)
        model = Given()
        for name, write in writes.items():
            setattr(model, name, write)
        return model

    return make


def fresh(batch):
    """Copies: the loop over single examples would let the model write into what it is given."""
    return tuple(part.clone() for part in batch)


@pytest.mark.parametrize("way", BEFORE, ids=[way.__name__ for way in BEFORE])
def test_a_model_may_write_into_its_ids_and_they_stay_the_callers(way, tmp_path):
    make, question = maker(before=way), fresh(TEST)
    paths, train = checkpoints(make, tmp_path), fresh(TRAIN)
    found = explained(make(), paths, train).influence(question)

    def make_alone():  # of a copy each time, as a batch that was just collated
        model = make()
        forward = model.forward
        model.forward = lambda ids: forward(ids.clone())
        return model

    # The words are those that are looked up: the loop's hook sees them.
    assert_near(found, scores_one_by_one(make_alone, paths, lambda m: m.embedding, TRAIN, TEST))
    for given, before in ((question, TEST), (train, TRAIN)):
        assert all(map(torch.equal, given, before))


def test_ids_that_are_overwritten_after_the_look_up_count_as_they_were_looked_up(tmp_path):
    make, plain = maker(after=lambda ids: ids.fill_(1)), maker()
    paths = checkpoints(make, tmp_path)
    tracin = explained(make(), paths, TRAIN)
    expected = scores_one_by_one(plain, paths, lambda m: m.embedding, TRAIN, TEST)
    assert_near(tracin.influence(TEST), expected)
    index = tracin.build_index(tmp_path / "index")
    found = explained(make(), paths, TRAIN, index=index).influence(TEST)
    assert_near(found, expected)


def test_idf_counts_the_words_that_were_looked_up(tmp_path):
    """The pass that only counts words takes the same ones."""
    make, plain = maker(after=lambda ids: ids.fill_(1)), maker()
    paths = checkpoints(make, tmp_path)
    found, expected = (
        explained(model(), paths, TRAIN, preconditioner="idf").influence(TEST) for model in (make, plain)
    )
    assert_near(found, expected)


def merged(prediction, labels):
    labels[labels == 2] = 0
    return LOSS(prediction, labels)


def from_one(prediction, labels):
    labels -= 1
    return LOSS(prediction, labels)


def mean_from_one(prediction, labels):
    return from_one(prediction, labels).mean()


LOSSES = {merged: 0, from_one: 1, mean_from_one: 1}


@pytest.mark.parametrize("loss", LOSSES, ids=[loss.__name__ for loss in LOSSES])
def test_a_loss_may_write_into_its_labels_and_they_stay_the_callers(loss, tmp_path):
    paths, added = checkpoints(maker(), tmp_path), LOSSES[loss]
    train, test = ((ids, labels + added) for ids, labels in (TRAIN, TEST))
    question = fresh(test)
    found = TracInWE(maker()(), OneByOne(train), paths, loss_fn=loss, batch_size=3).influence(question)

    def plain(prediction, labels):
        labels = labels - added
        return LOSS(prediction, torch.where(labels == 2, 0, labels) if loss is merged else labels)

    assert_near(found, scores_one_by_one(maker(), paths, lambda m: m.embedding, train, test, plain))
    assert torch.equal(question[1], test[1])


def test_a_loss_that_divides_the_prediction_in_place_is_right_with_one_loss_per_example(tmp_path):
    def cooled(prediction, labels):
        prediction /= 2
        return LOSS(prediction, labels)

    paths = checkpoints(maker(), tmp_path)
    found = TracInWE(maker()(), OneByOne(TRAIN), paths, loss_fn=cooled, batch_size=3).influence(TEST)
    expected = scores_one_by_one(maker(), paths, lambda m: m.embedding, TRAIN, TEST, lambda p, y: LOSS(p / 2, y))
    assert_near(found, expected)


@pytest.mark.parametrize("probe", [True, False])
def test_a_loss_that_divides_the_prediction_in_place_and_takes_a_mean_is_told(probe, tmp_path):
    def cooled(prediction, labels):
        prediction /= 2
        return nn.functional.cross_entropy(prediction, labels)

    paths = checkpoints(maker(), tmp_path)
    tracin = TracInWE(maker()(), OneByOne(TRAIN), paths, loss_fn=cooled, batch_size=3, probe=probe)
    with pytest.raises(ValueError, match=r"'cooled' gives one number.*writes into the prediction.*logits = logits / 2"):
        tracin.influence(TEST)
