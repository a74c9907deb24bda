"""Kind F: a forward that hands on all it gets takes by name what its base takes; a model that answers with tuples is read."""

import pytest
import torch
from one_by_one import LOSS, assert_near, checkpoints, explained, texts
from torch import nn

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import tiny_bert, tiny_t5
from captum_tracinwe.batches import Collate
from captum_tracinwe.gradients.live import Asked

TRAIN, TEST = texts(7, 1), texts(3, 2)


def ragged(batch, **more):
    """Examples as lists of their own lengths."""
    return [
        {"input_ids": ids[: 4 + i % 5].tolist(), "labels": int(label), "text": "left out", **more}
        for i, (ids, label) in enumerate(zip(*batch, strict=True))
    ]


def expected_of(make, paths, table_of):
    """(N, M) of examples that are each a batch of its own."""
    total = 0
    for path in paths:
        model = make()
        content = torch.load(path, weights_only=True)
        model.load_state_dict(content["model_state_dict"])
        table, sides = table_of(model.eval()), []
        for batch in (TEST, TRAIN):
            rows = []
            for one in ragged(batch):
                loss = LOSS(answer(model, torch.tensor([one["input_ids"]])), torch.tensor([one["labels"]])).sum()
                rows.append(torch.autograd.grad(loss, table)[0].flatten().double())
            sides.append(torch.stack(rows))
        total = total + content["learning_rate"] * sides[0] @ sides[1].T
    return total


def answer(model, ids):
    found = model(ids)
    return found if isinstance(found, torch.Tensor) else found[0]


def handing_on(base, **named):
    """A class of which nobody sees what its forward takes."""

    class Both(base):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    class ByName(base):
        def forward(self, **kwargs):
            return super().forward(**kwargs)

    class Twice(Both):
        def forward(self, *a, **k):
            return super().forward(*a, **k)

    return {"both": Both, "by name": ByName, "twice": Twice}


@pytest.mark.parametrize("kind", ["both", "by name", "twice"])
@pytest.mark.parametrize("loss", [None, LOSS], ids=["own loss", "given"])
def test_a_transformers_class_that_hands_on_all_it_gets_is_given_the_columns_of_its_base(kind, loss, tmp_path):
    def make():
        torch.manual_seed(0)
        model = tiny_bert()
        model.__class__ = handing_on(type(model))[kind]
        return model

    paths = checkpoints(make, tmp_path)
    plain = lambda: (torch.manual_seed(0), tiny_bert())[1]  # noqa: E731
    expected = expected_of(plain, paths, lambda m: m.bert.embeddings.word_embeddings.weight)
    found = TracInWE(make(), ragged(TRAIN), paths, loss_fn=loss, batch_size=3).influence(ragged(TEST))
    assert_near(found, expected)


def test_a_model_of_ones_own_that_hands_on_all_it_gets_still_gets_columns_of_any_name():
    class Base(nn.Module):
        def forward(self, input_ids, labels=None):
            return input_ids

    class Taking(Base):
        def forward(self, *args, **kwargs):
            kwargs.pop("user")
            return super().forward(*args, **kwargs)

    batch = Collate(Taking(), padding_idx=0)([{"input_ids": [1], "user": 2, "text": "a"}])
    assert set(batch) == {"input_ids", "user"}


# ------------------------------------------------------------------------------------------------------ answers in tuples


def of_tuples(model):
    model.config.return_dict = False
    return model


def old_style(model):
    """As classes of one's own were written for years, whatever ``return_dict`` says."""

    class Old(type(model)):
        def forward(self, input_ids, attention_mask=None, labels=None):
            logits = self.classifier(self.bert(input_ids, attention_mask)[1])
            return (logits,) if labels is None else (nn.functional.cross_entropy(logits, labels), logits)

    model.__class__ = Old
    return model


LOSSES = {
    "own": None,
    "a module": LOSS,
    "a function": nn.functional.cross_entropy,
    "by number": lambda o, y: LOSS(o[0], y),
}


@pytest.mark.parametrize("kind", [of_tuples, old_style])
@pytest.mark.parametrize("given", LOSSES)
def test_a_transformers_model_that_answers_with_a_tuple_has_its_loss_and_logits(kind, given, tmp_path):
    make = lambda: (torch.manual_seed(0), kind(tiny_bert()))[1]  # noqa: E731
    paths = checkpoints(make, tmp_path)
    expected = expected_of(make, paths, lambda m: m.bert.embeddings.word_embeddings.weight)
    loss = LOSSES[given]
    tracin = TracInWE(make(), ragged(TRAIN), paths, loss_fn=loss, batch_size=3)
    assert_near(tracin.influence(ragged(TEST)), expected)
    (tokens,) = tracin.live.token_blocks(tracin.batches_of(ragged(TEST)), Asked(loss))
    assert torch.equal(tokens.ids, tracin.row_gradients(ragged(TEST)).ids)


def test_the_tuples_of_answers_in_texts_and_of_encoder_decoders_are_read(tmp_path):
    from captum_tracinwe.losses import TokenLoss, span_loss
    from transformers import BertForQuestionAnswering

    span = {"start_positions": torch.tensor([1, 2, 0]), "end_positions": torch.tensor([3, 3, 5])}
    asked = {
        "spans": (
            lambda: BertForQuestionAnswering(tiny_bert(classes=2).config),
            {"input_ids": TEST[0], **span},
            span_loss,
        ),
        "words": (tiny_t5, {"input_ids": TEST[0], "labels": TEST[0].flip(1)}, TokenLoss(shift=False)),
    }
    for name, (of, batch, loss) in asked.items():
        options = {"label_names": [*span]} if name == "spans" else {}
        found = []
        for kind in (lambda m: m, of_tuples):
            make = lambda kind=kind: (torch.manual_seed(0), kind(of()))[1]  # noqa: B023, E731
            (tmp_path / name).mkdir(exist_ok=True)
            paths = checkpoints(make, tmp_path / name)
            found.append(explained(make(), paths, batch, loss, **options).influence(batch))
        assert_near(found[1], found[0])


def test_a_tuple_without_a_loss_is_told_of_as_other_answers_are(tmp_path):
    make = lambda: of_tuples(tiny_bert())  # noqa: E731
    batch = {"input_ids": TEST[0]}
    with pytest.raises(ValueError, match=r"the model's output has no `loss` \(it has logits\)"):
        explained(make(), checkpoints(make, tmp_path), batch, None).influence(batch)
