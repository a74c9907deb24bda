"""What is asked about comes as the user has it, and what cannot be asked is refused by name: texts, labels, lengths."""

import inspect
import json

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, tiny_bert, tiny_gpt2, toy_texts
from captum_tracinwe.app.training import words_tokenizer
from captum_tracinwe.batches.collate import Collate, TokenizeTexts

LOSS = nn.CrossEntropyLoss(reduction="none")
TEXTS = ["a dog runs", "the cat sleeps well", "a b c d", "the dog sleeps"]
TOKENIZER = words_tokenizer(TEXTS)


def rows(**changes):
    return [
        {"input_ids": TOKENIZER(text)["input_ids"], "labels": i % 2} | {key: make(i) for key, make in changes.items()}
        for i, text in enumerate(TEXTS)
    ]


def raw(**changes):
    return [{"text": t, "label": i % 2} | {key: make(i) for key, make in changes.items()} for i, t in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    model = tiny_bert(vocab_size=len(TOKENIZER), max_position_embeddings=12)
    checkpoints = scatter_checkpoints(model, tmp_path_factory.mktemp("run"))

    def influence(data, inputs=None, loss_fn=LOSS, **options):
        tracin = TracInWE(model, data, checkpoints, loss_fn=loss_fn, batch_size=4, **options)
        return tracin.influence(data if inputs is None else inputs)

    influence.model, influence.checkpoints = model, checkpoints
    return influence


def test_columns_are_examples_too(ask):
    expected = ask(rows())
    columns = {name: [row[name] for row in rows()] for name in ("input_ids", "labels")}
    torch.testing.assert_close(ask(rows(), columns), expected)
    torch.testing.assert_close(
        ask(raw(), {"text": TEXTS, "label": [0, 1, 0, 1]}, collate_fn=TokenizeTexts(TOKENIZER)), expected
    )
    pairs = list(zip(TEXTS, [0, 1, 0, 1], strict=True))
    torch.testing.assert_close(ask(pairs, pairs, collate_fn=TokenizeTexts(TOKENIZER)), expected)


def test_a_slice_of_a_dataset_is_examples(ask):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(raw())
    collate = TokenizeTexts(TOKENIZER)
    torch.testing.assert_close(ask(data, data[1:3], collate_fn=collate), ask(rows())[1:3])
    with pytest.raises(ValueError, match="`inputs` is empty"):
        ask(data, data[0:0], collate_fn=collate)
    with pytest.raises(TypeError, match=r"columns \('text', 'label'\) are not lists.*pass \[example\]"):
        ask(data, data[0], collate_fn=collate)


@pytest.mark.parametrize(
    ("inputs", "error", "match"),
    [
        ([], ValueError, "`inputs` is empty"),
        ((), ValueError, "`inputs` is empty"),
        ({}, ValueError, "`inputs` is empty"),
        ({"input_ids": [], "labels": []}, ValueError, "`inputs` is empty.*got columns without any"),
        ({"input_ids": [], "labels": [1]}, ValueError, "0 in 'input_ids', 1 in 'labels'"),
        (rows()[0], TypeError, r"For a single example pass \[example\]"),
        ({"input_ids": [1, 2, 3]}, TypeError, r"For a single example pass \[example\]"),
        ({"input_ids": [[1], [2]], "labels": [0]}, ValueError, "2 in 'input_ids', 1 in 'labels'"),
        (["a dog"], TypeError, r"raw text \('a dog'\).*TokenizeTexts"),
        ([("a dog", 1)], TypeError, r"raw text.*TokenizeTexts"),
        ("a dog", TypeError, "Expected a batch"),
        ([{"input_ids": [2] * 20, "labels": 0}], ValueError, "A text of 20 tokens.*12 positions.*max_length=12"),
        ([{"input_ids": [2, 3], "labels": None}], TypeError, "'labels' of an example holds None for a label"),
        ([{"input_ids": [2, 3], "labels": "pos"}], TypeError, "holds 'pos' for a label.*label2id"),
        ([{"input_ids": None, "labels": 0}], TypeError, "'input_ids' holds None"),
        ([{"input_ids": [2, 3], "labels": 7}], ValueError, "The label 7 of an example.*3 classes.*from 0 to 2"),
        ([{"input_ids": [2, 3], "labels": -1}], ValueError, "The label -1 of an example.*from 0 to 2"),
    ],
)
def test_what_cannot_be_asked_is_said(ask, inputs, error, match):
    with pytest.raises(error, match=match):
        ask(rows(), inputs)


ODD = {
    "float": (lambda y: y.float(), r"of type torch.float32.*torch.int64. Take labels.long\(\)"),
    "fractions": (lambda y: y / 4, "of type torch.float32.*0.25 is no class number"),
    "bool": (lambda y: y > 0, r"of type torch.bool.*Take labels.long\(\)"),
    "int32": (lambda y: y.int(), r"of type torch.int32.*Take labels.long\(\)"),
    "one-hot": (
        lambda y: nn.functional.one_hot(y, 3),
        r"one number for each class, shape \(4, 3\).*labels.argmax\(1\)",
    ),
    "too few": (lambda y: y[:3], r"shape \(3,\) for a batch of 4: expected one class number"),
    "column": (lambda y: y[:, None], r"shape \(4, 1\): expected.*labels.squeeze\(1\)"),
    "wrong width": (lambda y: y[:, None].repeat(1, 5), r"shape \(4, 5\) where the prediction has \(4, 3\)"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("loss", [LOSS, nn.CrossEntropyLoss(), None], ids=["none", "mean", "the model's own"])
def test_labels_of_another_kind_are_named_with_the_way_out(ask, kind, loss):
    make, match = ODD[kind]
    batch = Collate(ask.model)(rows())
    expected = ask(rows(), batch, loss_fn=loss)
    if kind == "column" and loss is None:  # which transformers' loss takes
        match = r"labels \(4, 1\)\)\. An example's part of it depends"
    with pytest.raises(ValueError, match=match):
        ask(rows(), {**batch, "labels": make(batch["labels"])}, loss_fn=loss)
    # transformers keeps the kind of problem that it guesses from the first labels: another try would fail for that
    torch.testing.assert_close(ask(rows(), batch, loss_fn=loss), expected)
    assert ask.model.config.problem_type is None


def test_labels_that_are_no_tensor_or_not_of_the_predictions_shape(tmp_path):
    model = TinyCNN()
    ids, _, y = toy_texts(4)
    data, paths = list(zip(ids, y, strict=True)), scatter_checkpoints(model, tmp_path)
    tracin = TracInWE(model, data, paths, loss_fn=LOSS, batch_size=4)
    for labels, match in ((y.tolist(), r"of type list \(\[.*torch.tensor\(labels\)"), (1, r"of type int \(1\)")):
        with pytest.raises(ValueError, match=f"The labels are {match}"):
            tracin.influence((ids, labels))
    several = nn.BCEWithLogitsLoss(reduction="none")
    tracin = TracInWE(model, data, paths, loss_fn=LOSS, test_loss_fn=several, batch_size=4)
    assert tracin.influence((ids, torch.ones(4, 3))).shape == (4, 4)
    with pytest.raises(ValueError, match=r"shape \(4,\) where the prediction has \(4, 3\).*the prediction's shape"):
        tracin.influence((ids, y.float()))


def test_inputs_of_another_kind_are_named_with_the_way_out(tmp_path, ask):
    model = TinyCNN()
    ids, mask, y = toy_texts(4)
    paths = scatter_checkpoints(model, tmp_path)
    tracin = TracInWE(model, list(zip(ids, y, strict=True)), paths, loss_fn=LOSS, batch_size=4)
    bert = TracInWE(ask.model, rows(), ask.checkpoints, loss_fn=LOSS, batch_size=4)
    few = ids % len(TOKENIZER)
    for asked, batch, match in (
        (tracin, (ids.float(), y), r"ids are of type torch.float32.*ids.long\(\)"),
        (bert, {"input_ids": few.float(), "labels": y}, r"ids are of type torch.float32.*ids.long\(\)"),
        (tracin, (ids[0], y[:1]), r"ids have shape \(9,\): expected \(N, T\).*ids\[None\]"),
        (bert, {"input_ids": few[0], "attention_mask": mask[0], "labels": y[0]}, r"ids have shape \(9,\)"),
        (tracin, ({"input_ids": ids}, y), r"is a mapping \(input_ids\).*\{\*\*inputs, 'labels': labels\}"),
        (bert, ({"input_ids": few, "attention_mask": mask}, y), r"is a mapping \(input_ids, attention_mask\)"),
    ):
        with pytest.raises(ValueError, match=match):
            asked.influence(batch)


@pytest.mark.parametrize("loss", [LOSS, nn.CrossEntropyLoss()], ids=["none", "mean"])
def test_a_loss_over_classes_of_a_language_model_is_told_the_loss_that_is_meant(tmp_path, loss):
    model = tiny_gpt2(vocab_size=len(TOKENIZER))
    paths, collate = scatter_checkpoints(model, tmp_path), TokenizeTexts(TOKENIZER, label=None)
    with pytest.raises(ValueError, match=r"shape \(2, 6, \d+\) and the labels \(2, 6\).*losses.TokenLoss\(\) for"):
        TracInWE(model, TEXTS[:2], paths, loss_fn=loss, collate_fn=collate, batch_size=2).self_influence()


class Broken(TinyCNN):
    def forward(self, ids):
        raise ValueError("an error of the model's own, of no target")


def test_an_error_that_is_none_of_these_stays_as_it_is(tmp_path):
    ids, _, y = toy_texts(4)
    model = Broken()
    paths = scatter_checkpoints(model, tmp_path)
    with pytest.raises(ValueError, match=r"^an error of the model's own"):
        TracInWE(model, list(zip(ids, y.float(), strict=True)), paths, loss_fn=LOSS).self_influence()


def test_the_models_own_loss_has_no_such_class_either(ask):
    with pytest.raises(ValueError, match="The label 7 of an example.*from 0 to 2"):
        ask(rows(), [{"input_ids": [2, 3], "labels": 7}], loss_fn=None)


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        (raw(label=lambda i: "pos"), "'label' of an example holds 'pos' for a label"),
        (raw(label=lambda i: None), "'label' of an example holds None.*pass label=None"),
        (["a dog"], "holds None for a label"),
        (raw(text=lambda i: None), r"an example has \[None\] for its text"),
        (raw(text=lambda i: 5), r"an example has \[5\] for its text"),
    ],
)
def test_raw_texts_that_are_none(ask, inputs, match):
    with pytest.raises(TypeError, match=match):
        ask(raw(), inputs, collate_fn=TokenizeTexts(TOKENIZER))


def test_an_example_without_a_label_is_left_out_of_the_models_own_mean(ask):
    """transformers' loss is a mean over the labels that are not −100: those that are have no part in it, nor a score."""
    data = rows(labels=lambda i: -100 if i == 1 else i % 2)
    with pytest.warns(UserWarning, match=r"Training examples \[1\] have no target"):
        found = ask(data, loss_fn=None)
    assert found[1].abs().max() == 0
    assert found[:, 1].abs().max() == 0
    expected = ask(rows())
    others = torch.tensor([0, 2, 3])
    torch.testing.assert_close(found[others][:, others], expected[others][:, others])


def test_a_key_that_the_model_does_not_take_is_named_once(ask, recwarn):
    batch = Collate(ask.model)(rows())
    expected = ask(rows(), batch)
    assert not [w for w in recwarn if "does not take" in str(w.message)]
    mask = batch.pop("attention_mask")
    if "kwargs" not in inspect.signature(ask.model.forward).parameters:  # transformers 4 names the key in an error
        with pytest.raises(TypeError, match="attention_masks"):
            ask(rows(), {**batch, "attention_masks": mask})
        return
    with pytest.warns(UserWarning, match="has 'attention_masks', which BertFor.* does not take") as caught:
        wrong = ask(rows(), {**batch, "attention_masks": mask})
    said = [str(w.message) for w in caught if "does not take" in str(w.message)]
    assert len(said) == 1
    assert "Is 'attention_mask' meant?" in said[0]
    assert (wrong - expected).abs().max() > 1e-4 * expected.abs().max()  # why it has to be said
    recwarn.clear()
    ask(rows(), {**batch, "attention_masks": mask})
    names = {"attention_mask": mask, "topic": batch["labels"], "num_items_in_batch": torch.tensor(4), "text": TEXTS}
    ask([{**row, "topic": row["labels"]} for row in rows()], {**batch, **names}, label_names="topic")

    class HandsOn(type(ask.model)):
        def forward(self, input_ids, **others):
            return super().forward(input_ids, **others)

    own = HandsOn(ask.model.config)
    TracInWE(own, rows(), ask.checkpoints, loss_fn=LOSS, batch_size=4).influence({**batch, "attention_mask": mask})
    assert not [w for w in recwarn if "does not take" in str(w.message)]


class Dropping:
    """A collator that drops words at random."""

    def __call__(self, examples):
        batch = Collate(tiny_bert())(examples)
        return {**batch, "input_ids": batch["input_ids"] * torch.randint(2, batch["input_ids"].shape)}


def test_a_collator_that_is_random_is_said(ask, recwarn):
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match="another batch of the same examples each time"):
        TracInWE(ask.model, rows(), ask.checkpoints, loss_fn=LOSS, collate_fn=Dropping())
    with pytest.warns(UserWarning, match="another batch of the same examples each time"):
        TracInWE(ask.model, DataLoader(rows(), 2, collate_fn=Dropping()), ask.checkpoints, loss_fn=LOSS)
    assert torch.equal(state, torch.get_rng_state())
    recwarn.clear()
    TracInWE(ask.model, DataLoader(rows(), 2, collate_fn=Collate(ask.model)), ask.checkpoints, loss_fn=LOSS)
    assert not recwarn.list


def test_half_a_config_is_named(tmp_path, ask):
    folder = tmp_path / "checkpoint-1"
    ask.model.save_pretrained(folder)
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": [{"step": 2, "learning_rate": 0.1}]}))
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match=r"config.json.*cannot be read.*pass the model as model="):
        TracInWE.from_pretrained_run(tmp_path, rows())
