"""A training set that is asked about itself is asked with its own labels."""

import pytest
import torch
from captum_tracinwe.testing import TinyCNN
from captum_tracinwe.texts import from_ids
from torch.utils.data import TensorDataset

from captum_tracinwe import TracInWE, explain, word_report

LABELS = torch.arange(12) % 3
NAMES = ["a", "b", "c"]


@pytest.fixture(params=["live", "index"])
def tracin(request, tmp_path):
    torch.manual_seed(0)
    ids, loss = torch.randint(1, 20, (12, 6)), torch.nn.CrossEntropyLoss()
    live = TracInWE(TinyCNN(classes=3), TensorDataset(ids, LABELS), ["now"], lambda *_: 0.1, loss_fn=loss, batch_size=5)
    if request.param == "live":
        return live
    live.build_index(tmp_path / "index")
    return TracInWE(live.model, None, ["now"], lambda *_: 0.1, loss_fn=loss, batch_size=5, index=tmp_path / "index")


def test_other_labels_are_refused_and_the_first_is_named(tracin):
    with pytest.raises(
        ValueError, match=r"has '1' for training example 3, and it was taught class 0, as example 0 was, '0'"
    ):
        word_report(tracin, None, [*LABELS[:3].tolist(), 1, *LABELS[4:].tolist()], draws=10)
    with pytest.raises(
        ValueError, match=r"in the order of the training set.*pass word_report the training set as `inputs`"
    ):
        word_report(tracin, None, LABELS.roll(3).flip(0).sort().values, draws=10)


def test_names_of_the_model_are_those_of_their_classes(tracin):
    tracin.model.config = type("Config", (), {"id2label": dict(enumerate(NAMES))})()
    own = [NAMES[label] for label in LABELS]
    swapped = [NAMES[(label + 1) % 3] for label in LABELS]
    with pytest.raises(
        ValueError, match=r"has 'b' for training example 0, and it was taught class 0, whose name is 'a'"
    ):
        word_report(tracin, None, swapped, draws=10)
    for labels in (own, LABELS, ["x" if label == "a" else "y" for label in own]):  # classes may be put together
        assert word_report(tracin, None, labels, draws=10).trains == 12
    # A question about other texts takes any labels: of the training set, too, if it is given.
    asked = torch.randint(1, 20, (12, 6)), LABELS
    assert word_report(tracin, asked, swapped, draws=10).tests == 12


def test_an_explanation_is_of_the_labels_of_training(tracin):
    asked = torch.randint(1, 20, (4, 6)), LABELS[:4]
    texts = [from_ids([1, 2])] * 12
    with pytest.raises(
        ValueError, match="explain: `train_labels` has '2' for training example 0, and it was taught class 0"
    ):
        explain(tracin, asked, test_texts=texts[:4], train_texts=texts, train_labels=LABELS.flip(0), cache=False)
