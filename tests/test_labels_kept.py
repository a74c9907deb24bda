"""Answers that an index keeps; what is not read batch by batch; a collator that sorts; the very same texts."""

import pytest
import torch
from captum_tracinwe.texts import from_ids
from label_cases import LOSS, asked, cnn, trained
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_tracinwe import TracInWE, suspects
from captum_tracinwe.gradients.answers import answers_of
from captum_tracinwe.gradients.kept_answers import kept_answers


@pytest.fixture(scope="module")
def case():
    ids, _, labels, _, paths = trained(size=120)
    return ids, labels, paths


def beside(case, tmp_path, loss=LOSS, model=None, **options):
    """A TracInWE of the run, and one that reads an index of it."""
    ids, labels, paths = case
    given = {"loss_fn": loss, "batch_size": 16, "preconditioner": "auto", **options}
    live = TracInWE(model or cnn(3), TensorDataset(ids, labels), paths, **given)
    live.build_index(tmp_path / "index")
    return live, TracInWE(model or cnn(3), TensorDataset(ids, labels), paths, index=tmp_path / "index", **given)


def same(one, other):
    assert one.order == other.order
    assert one.suspicions == pytest.approx(other.suspicions, abs=1e-5)
    assert one.weight == pytest.approx(other.weight, abs=1e-4)


def test_an_index_tells_the_answers_without_a_pass(case, tmp_path):
    live, stored = beside(case, tmp_path)
    kept, answers = kept_answers(stored.source, stored.live_source), answers_of(live.live_source)
    assert kept is not None
    torch.testing.assert_close(kept.log_probabilities, answers.log_probabilities, rtol=0, atol=1e-5)
    assert torch.equal(kept.labels, answers.labels)
    assert torch.equal(kept.first, answers.first)
    assert kept_answers(live.source, live.live_source) is None  # a run holds no rows
    same(suspects(live, limit=3), suspects(stored, limit=3))


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(ignore_index=1),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]), reduction="sum"),
        nn.MultiMarginLoss(),
    ],
    ids=["a class is left out", "smoothing", "weights", "margins"],
)
@pytest.mark.filterwarnings("ignore")
def test_rows_of_another_loss_do_not_tell_them(case, tmp_path, loss):
    live, stored = beside(case, tmp_path, loss)
    assert kept_answers(stored.source, stored.live_source) is None
    same(suspects(live, limit=0), suspects(stored, limit=0))


class EndsInSoftmax(nn.Module):
    """As is often done by mistake, with a loss that takes logits."""

    def __init__(self):
        super().__init__()
        self.inner = cnn(3)

    def forward(self, ids):
        return self.inner(ids).softmax(1)

    def load_state_dict(self, state, *args, **kwargs):
        return self.inner.load_state_dict({name.removeprefix("inner."): value for name, value in state.items()})


def test_rows_of_a_model_that_ends_in_a_softmax_do_not_tell_them(case, tmp_path):
    from captum_tracinwe import save_checkpoint

    ids, labels, paths = case
    model = EndsInSoftmax()
    model.load_state_dict(torch.load(paths[-1], weights_only=True)["model_state_dict"])
    save_checkpoint(tmp_path / "step-1.pt", model, 0.1)
    live, stored = beside((ids, labels, [str(tmp_path / "step-1.pt")]), tmp_path, model=model)
    assert kept_answers(stored.source, stored.live_source) is None
    same(suspects(live, limit=0), suspects(stored, limit=0))


def by_length(examples):
    """A collator with an order of its own."""
    examples = sorted(examples, key=lambda example: -int((example[0] != 0).sum()))
    return torch.stack([ids for ids, _ in examples]), torch.stack([label for _, label in examples])


@pytest.mark.filterwarnings("ignore:The collator of the .* examples sorts:UserWarning")
def test_a_collator_that_sorts_gives_no_label_and_no_word_to_another_text(case):
    ids, labels, paths = case
    ids = ids.clone()
    for row, length in enumerate(torch.randint(3, 9, (len(ids),), generator=torch.Generator().manual_seed(1)).tolist()):
        ids[row, length:] = 0
    data = TensorDataset(ids, labels)
    plain = TracInWE(cnn(3), data, paths, loss_fn=LOSS, batch_size=16)
    loader = DataLoader(data, batch_size=16, collate_fn=by_length)
    sorting = TracInWE(cnn(3), loader, paths, loss_fn=LOSS, batch_size=None)
    found, expected = suspects(sorting, limit=3), suspects(plain, limit=3)
    assert found.all_labels == tuple(str(int(label)) for label in labels)
    assert found.order == expected.order
    assert found.suspicions == pytest.approx(expected.suspicions, abs=1e-6)


def test_a_text_that_stands_there_a_hundred_times_is_no_witness_of_itself(case):
    ids, labels, paths = case
    ids, labels = torch.cat([ids, ids[:1].repeat(90, 1)]), torch.cat([labels, labels[:1].repeat(90)])
    labels[0] = (labels[0] + 1) % 3
    found = suspects(asked(ids, labels, paths), limit=20)
    copies = {0, *range(120, 210)}
    suspect = next(one for one in found.first if one.index == 0)
    said = [pair.train_index for side in (suspect.reasons.speaks_for, suspect.reasons.speaks_against) for pair in side]
    assert said
    assert not copies & set(said)
    assert [double.indices for double in found.doubles if 0 in double.indices] == [
        (0, other) for other in range(120, 210)
    ]


def test_texts_in_another_order_are_refused_before_they_judge_anything(case):
    ids, labels, paths = case
    texts = [from_ids(row, [f"w{i}" for i in range(90)]) for row in ids.tolist()]
    tracin = asked(ids, labels, paths)
    assert len(suspects(tracin, texts=texts, limit=0)) == len(ids)
    with pytest.raises(
        ValueError, match="training example 0 has the token .* expected `texts` in the training set's order"
    ):
        suspects(tracin, texts=texts[::-1], limit=0)


def test_two_classes_of_one_name_are_refused(case):
    with pytest.raises(ValueError, match="`class_names` has 'a' twice"):
        suspects(asked(*case), class_names=["a", "b", "a"])
