"""Near-duplicates count once in a report, and the training set is asked about itself as any test set is."""

import pytest
import torch
from torch.utils.data import TensorDataset

from captum_tracinwe import TracInWE, word_report
from captum_tracinwe.app.testing import TinyCNN, tiny_bert
from captum_tracinwe.words.near import near_groups, occurrences_in
from captum_tracinwe.words.report import _counted_once
from captum_tracinwe.words.texts import from_ids


def test_groups_are_of_texts_that_lead_to_each_other_and_the_largest_comes_first():
    others = [f"text{i} about thing{i} and matter{i}" for i in range(20)]
    same = ["Where is my new card?", "where is my new card", "WHERE IS MY NEW CARD!!"]
    long = " ".join(f"rare{i}" for i in range(30))
    chain = [long, f"{long} one", f"{long} two", " ".join(long.split()[:-1])]
    texts = [chain[0], *same[:2], *others, *chain[1:], same[2]]
    found = near_groups(occurrences_in(texts))
    assert found == [(0, 23, 24, 25), (1, 2, 26)]
    assert near_groups(occurrences_in(others)) == []
    assert near_groups(occurrences_in([])) == near_groups(occurrences_in(["", "?", ""])) == []


# ------------------------------------------------------------------------------------------------------ near-duplicates


@pytest.fixture(scope="module")
def copied():
    """Sixty texts of two labels without a word of their own, and twelve copies of a text with a word that no other has."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(10, 30, (72, 8), generator=generator)
    labels = torch.arange(72) % 2
    ids[60:] = torch.randint(10, 30, (8,), generator=generator)
    ids[60:, 0], labels[60:] = 5, 1
    model = TinyCNN(padding_idx=0)
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    tracin = TracInWE(
        model, TensorDataset(ids, labels), [model.state_dict()], lambda m, c: 1.0, loss_fn=loss, batch_size=24
    )
    return tracin, (ids, labels), [from_ids(row, [f"word{i}" for i in range(30)]) for row in ids]


def test_twelve_copies_of_a_text_count_once_where_they_made_a_word_significant(copied):
    tracin, (ids, labels), texts = copied
    asked = (ids[-1:], labels[-1:])
    each, once, given = (
        {word.word: word for word in word_report(tracin, asked, labels, train_texts=texts, **groups).words}
        for groups in ({"groups": ()}, {}, {"groups": [range(60, 72)]})
    )
    assert (each["word5"].count, once["word5"].count) == (12, 1)
    assert each["word5"].texts == once["word5"].texts == 12  # so many a person finds
    assert each["word5"].sticks
    assert once["word5"].adjusted_p > 0.5
    assert (given["word5"].count, given["word5"].sticks) == (1, False)
    assert once["word5"].total == each["word5"].total  # what it adds to the scores stays
    assert [index for index, _ in once["word5"].examples] == [60]
    without = {word.word: word for word in word_report(tracin, asked, labels).words}
    assert without["#5"].count == 12  # nothing is known of texts


@pytest.mark.parametrize(
    ("groups", "said"), [([[0, 72]], "0 to 71"), ([[0, 1], [1, 2]], "example 1 twice"), ([[0.5]], "0.5")]
)
def test_groups_of_examples_that_are_not_there_or_of_two_groups_are_refused(copied, groups, said):
    tracin, asked, texts = copied
    with pytest.raises(ValueError, match=said):
        word_report(tracin, asked, asked[1], train_texts=texts, groups=groups)


def test_a_group_has_the_label_of_most_of_it():
    holders, labels = _counted_once({(False, "a"): [0, 1, 4]}, ["x", "y", "y", "x", "x"], [0, 0, 0, 3, 4])
    assert labels == ["y", "x", "x"]
    assert holders == {(False, "a"): [0, 2]}


# -------------------------------------------------------------------------------------- the training set about itself


@pytest.mark.parametrize("options", [{}, {"preconditioner": "auto"}, {"normalize": "words"}, {"top_k_words": 3}])
def test_the_training_set_asked_about_itself_is_the_training_set_as_a_test_set(copied, options):
    tracin, asked, texts = copied
    tracin = TracInWE(
        tracin.model,
        tracin.train_dataloader.dataset,
        [tracin.model.state_dict()] * 2,
        lambda m, c: 0.5,
        loss_fn=torch.nn.CrossEntropyLoss(reduction="none"),
        batch_size=24,
        **options,
    )
    itself, as_test = (word_report(tracin, inputs, asked[1], train_texts=texts, draws=50) for inputs in (None, asked))
    assert (itself.tests, itself.trains) == (72, 72) == (as_test.tests, as_test.trains)
    largest = max(abs(word.total) for word in as_test.words)
    others = {word.word: word.total for word in as_test.words}
    assert {word.word: word.total for word in itself.words} == pytest.approx(others, abs=1e-4 * largest)
    if "normalize" not in options and "preconditioner" not in options:
        assert itself.score == pytest.approx(float(tracin.influence(asked).sum()), rel=1e-4)


def test_class_numbers_are_shown_by_the_names_of_the_models_config():
    model, named = tiny_bert(classes=2), tiny_bert(classes=2)
    named.config.id2label = {0: "ham", 1: "spam"}
    ids, labels = torch.randint(5, 30, (8, 4)), torch.tensor([0, 1] * 4)
    ids[1::2, 0] = 3
    train = [{"input_ids": one, "labels": label} for one, label in zip(ids, labels, strict=True)]
    found = []
    for one in (model, named):
        tracin = TracInWE(one, train, [one.state_dict()], lambda m, c: 1.0, batch_size=4)
        words = word_report(tracin, None, labels.tolist()).words
        found.append({word.label for word in words} - {""})
    assert found == [{"0", "1"}, {"ham", "spam"}]
