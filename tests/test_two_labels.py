"""`label` and `labels` in one example: the collator would choose, so that they must say the same, or be named."""

import warnings

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import default_data_collator

from captum_tracinwe import TracInWE, save_checkpoint
from captum_tracinwe.app.testing import tiny_bert, toy_texts
from captum_tracinwe.app.training import words_tokenizer
from captum_tracinwe.batches.collate import TokenizeTexts
from captum_tracinwe.batches.copies import OnCopies

EACH = torch.nn.CrossEntropyLoss(reduction="none")
DIFFER = r"An example has .* as 'labels' and .* as 'label', between which collators choose differently: expected one of"


def by_label(examples):
    """As transformers' DataCollatorWithPadding has it: `label` in place of `labels`."""
    batch = default_data_collator([{k: v for k, v in one.items() if k != "label"} for one in examples])
    if "label" in examples[0]:
        batch["labels"] = torch.stack([one["label"] for one in examples])
    return batch


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

    def tracin(data, loss_fn=EACH, **options):
        options = options if isinstance(data, DataLoader) else {"batch_size": 5, **options}
        return TracInWE(model, data, [path], loss_fn=loss_fn, **options)

    return tracin, examples


def options_of(collate_fn):
    return {} if collate_fn is None else {"collate_fn": collate_fn}


@pytest.mark.parametrize("at", [0, 23])
def test_training_examples_whose_two_labels_differ_are_refused(made, at):
    tracin, examples = made
    asked = examples(both=False)[:2]
    with pytest.raises(ValueError, match=DIFFER):
        tracin(examples(at)).influence(asked)
    # A batch that has both is asked by `labels`, as a model of transformers takes it.
    plain = tracin(examples(both=False)).influence(asked)
    torch.testing.assert_close(tracin(DataLoader(examples(at), 5)).influence(asked), plain)


def test_questions_whose_two_labels_differ_are_refused(made):
    tracin, examples = made
    plain = tracin(examples(both=False))
    with pytest.raises(ValueError, match=DIFFER):
        plain.influence(examples(1)[:2])


def test_a_collator_that_takes_label_says_so_once(made):
    tracin, examples = made
    asked = examples(both=False)[:2]
    by = [{**one, "labels": one["label"]} for one in examples(3, 7)]
    expected = tracin([{k: v for k, v in one.items() if k != "label"} for one in by]).influence(asked)
    with pytest.warns(UserWarning, match="as 'labels' and .* as 'label', and its collator takes 'label'") as said:
        found = tracin(examples(3, 7), collate_fn=by_label).influence(asked)
    assert len(said) == 1
    torch.testing.assert_close(found, expected)


def labels_alone(examples):
    return default_data_collator([{k: v for k, v in one.items() if k != "label"} for one in examples])


@pytest.mark.parametrize("other", ["art", torch.tensor(2), None])
def test_a_collator_that_leaves_nothing_to_choose_is_left_alone(made, other):
    tracin, examples = made
    plain = examples(both=False)
    expected = tracin(plain).influence(plain[:2])
    both = [{**one, "label": other} for one in plain]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given in (both, DataLoader(both, 5, collate_fn=labels_alone)):
            options = {} if isinstance(given, DataLoader) else {"collate_fn": labels_alone}
            torch.testing.assert_close(tracin(given, **options).influence(plain[:2]), expected)


def test_a_model_of_two_tasks_is_asked_by_both_columns(made):
    tracin, examples = made

    def both(output, labels):
        logits = output["logits"] if isinstance(output, dict) else output
        return EACH(logits, labels["labels"]) + EACH(logits, labels["label"])

    data = examples(0, 4)
    found = [
        tracin(data, loss_fn=both, label_names=["labels", "label"], **options).influence(data[:2])
        for options in ({}, {"collate_fn": torch.utils.data.default_collate})
    ]
    torch.testing.assert_close(*found)


def test_a_language_models_own_labels_beside_a_class_are_taken(made):
    """As of texts with a class, through transformers' DataCollatorForLanguageModeling."""
    tracin, examples = made
    plain = examples(both=False)

    def of_words(rows):
        batch = default_data_collator([{k: v for k, v in one.items() if k != "labels"} for one in rows])
        return {
            **batch,
            "label": torch.zeros(len(rows), dtype=torch.long),
            "labels": torch.ones(len(rows), dtype=torch.long),
        }

    found = tracin(plain, collate_fn=of_words).influence(plain[:2])
    ones = [{**one, "labels": torch.tensor(1)} for one in plain]
    torch.testing.assert_close(found, tracin(ones).influence(ones[:2]))


@pytest.mark.parametrize("collate_fn", [None, by_label, default_data_collator])
def test_two_labels_that_say_the_same_are_one(made, collate_fn):
    tracin, examples = made
    expected = tracin(examples(both=False)).influence(examples(both=False)[:2])
    found = tracin(examples(), **options_of(collate_fn)).influence(examples()[:2])
    torch.testing.assert_close(found, expected)
    numbers = [{**one, "label": int(one["label"])} for one in examples()]
    torch.testing.assert_close(tracin(numbers).influence(numbers[:2]), expected)


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


def test_a_name_beside_a_number_differs_unless_the_number_is_named(made):
    tracin, examples = made
    plain = examples(both=False)
    data = [{**one, "label": "sports"} for one in plain]
    with pytest.raises(ValueError, match="as 'labels' and 'sports' as 'label'"):
        tracin(data).influence(plain[:2])
    named = tracin(data, label_names=["labels"]).influence(plain[:2])
    torch.testing.assert_close(named, tracin(plain).influence(plain[:2]))


def test_examples_of_other_kinds_are_the_collators_to_judge(made):
    tracin, examples = made
    rows = examples(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OnCopies(lambda some: some[0])([rows[0], None, (1, 2)])
        OnCopies(lambda some: None)([])
        OnCopies(lambda some: {"labels": torch.zeros(3)})([rows[0], None, rows[1]])
