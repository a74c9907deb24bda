"""`label` and `labels` in one example: the collator would choose, so that they must say the same, or be named."""

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import default_data_collator

from captum_tracinwe import TracInWE, save_checkpoint
from captum_tracinwe.app.testing import tiny_bert, toy_texts
from captum_tracinwe.app.training import words_tokenizer
from captum_tracinwe.batches.collate import TokenizeTexts

EACH = torch.nn.CrossEntropyLoss(reduction="none")
DIFFER = r"An example has .* as 'labels' and .* as 'label', between which collators choose differently: expected one of"


def by_label(examples):
    """As transformers' DataCollatorWithPadding has it: `label` in place of `labels`."""
    batch = default_data_collator([{k: v for k, v in one.items() if k != "label"} for one in examples])
    if "label" in examples[0]:
        batch["labels"] = torch.stack([one["label"] for one in examples])
    return batch


COLLATORS = [None, by_label, default_data_collator]


@pytest.fixture
def made(tmp_path):
    """A function that makes a TracInWE of a training set, and one that makes examples whose labels differ in some."""
    model, path = tiny_bert(), str(tmp_path / "step.pt")
    save_checkpoint(path, model, 0.1)
    ids, mask, labels = toy_texts(40)

    def examples(*differ, both=True):
        rows = [{"input_ids": i, "attention_mask": m, "labels": y} for i, m, y in zip(ids, mask, labels, strict=True)]
        if both:
            rows = [{**row, "label": (row["labels"] + (at in differ)) % 3} for at, row in enumerate(rows)]
        return rows

    def tracin(data, **options):
        options = options if isinstance(data, DataLoader) else {"batch_size": 5, **options}
        return TracInWE(model, data, [path], loss_fn=EACH, **options)

    return tracin, examples


def options_of(collate_fn):
    return {} if collate_fn is None else {"collate_fn": collate_fn}


@pytest.mark.parametrize("collate_fn", COLLATORS)
@pytest.mark.parametrize("at", [0, 23])
def test_training_examples_whose_two_labels_differ_are_refused(made, collate_fn, at):
    tracin, examples = made
    asked = examples(both=False)[:2]
    with pytest.raises(ValueError, match=DIFFER):
        tracin(examples(at), **options_of(collate_fn)).influence(asked)
    loader = DataLoader(examples(at), 5, collate_fn=collate_fn)
    with pytest.raises(ValueError, match=DIFFER):
        tracin(loader).influence(asked)


@pytest.mark.parametrize("collate_fn", COLLATORS)
def test_questions_whose_two_labels_differ_are_refused(made, collate_fn):
    tracin, examples = made
    plain = tracin(examples(both=False), **options_of(collate_fn))
    asked = examples(1)[:2]
    batch = {name: torch.stack([row[name] for row in asked]) for name in asked[0]}
    for given in (asked, DataLoader(asked, 2, collate_fn=collate_fn), batch):
        with pytest.raises(ValueError, match=DIFFER):
            plain.influence(given)


@pytest.mark.parametrize("collate_fn", COLLATORS)
def test_two_labels_that_say_the_same_are_one(made, collate_fn):
    tracin, examples = made
    expected = tracin(examples(both=False)).influence(examples(both=False)[:2])
    found = tracin(examples(), **options_of(collate_fn)).influence(examples()[:2])
    torch.testing.assert_close(found, expected)


def test_label_names_say_which_of_the_two(made):
    tracin, examples = made
    plain = [{k: v for k, v in one.items() if k != "labels"} | {"labels": one["label"]} for one in examples(0, 3)]
    expected = tracin(plain).influence(plain[:2])
    with pytest.raises(ValueError, match=r"Or say which by label_names=\['labels'\]"):
        tracin(examples(0, 3)).influence(plain[:2])
    named = tracin(examples(0, 3), label_names=["label"])
    torch.testing.assert_close(named.influence(examples(0, 3)[:2]), expected)


def test_texts_with_two_labels_are_refused_unless_the_column_is_named():
    tokenizer = words_tokenizer(["a dog runs"])
    texts = [{"text": "a dog", "label": 0, "labels": 0}, {"text": "a dog runs", "label": 2, "labels": 1}]
    with pytest.raises(
        ValueError, match=r"has 1 as 'labels' and 2 as 'label'.*TokenizeTexts\(tokenizer, label='labels'\)"
    ):
        TokenizeTexts(tokenizer)(texts)
    for name, expected in (("label", [0, 2]), ("labels", [0, 1])):
        assert TokenizeTexts(tokenizer, label=name)(texts)["labels"].tolist() == expected
    assert TokenizeTexts(tokenizer)(texts[:1])["labels"].tolist() == [0]


def test_a_name_beside_a_number_differs(made):
    tracin, examples = made
    data = [{**one, "label": "sports"} for one in examples(both=False)]
    with pytest.raises(ValueError, match="as 'labels' and 'sports' as 'label'"):
        tracin(data).influence(examples(both=False)[:2])
