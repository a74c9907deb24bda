"""`suspects` from end to end: what is found, what is promised, what it depends on, what it refuses."""

import csv
import dataclasses
import io

import pytest
import torch
from label_cases import LOSS, asked, average_precision, cnn, mislabelled, trained
from one_by_one import everything
from torch import nn
from torch.utils.data import TensorDataset

from captum_tracinwe import TracInWE, suspects
from captum_tracinwe.app.testing import tiny_bert
from captum_tracinwe.labels.found import COLUMNS
from captum_tracinwe.labels.voices import Voices

# Texts, how they were trained on: loss and words alone each miss some.
CASES = [{}, {"share": 0.2}, {"own": 2}, {"own": 3, "size": 400, "epochs": (5, 10, 15, 20)}]


def losses(ids, labels, path):
    model = cnn(int(labels.max()) + 1)
    model.load_state_dict(torch.load(path, weights_only=True)["model_state_dict"])
    with torch.no_grad():
        return LOSS(model.eval()(ids), labels)


@pytest.fixture(scope="module")
def case():
    return trained(**CASES[-1])


@pytest.fixture(scope="module")
def found(case):
    ids, _, labels, _, paths = case
    return suspects(asked(ids, labels, paths), limit=6)


def test_of_several_checkpoints_the_first_is_looked_at_and_a_single_one_is_no_beginning(case, monkeypatch):
    ids, _, labels, _, paths = case
    given = []
    kept = Voices.__init__
    monkeypatch.setattr(Voices, "__init__", lambda self, *args: (given.append(args[4]), kept(self, *args))[1])
    suspects(asked(ids, labels, paths), limit=0)
    suspects(asked(ids, labels, paths[-1:]), limit=0)
    model = cnn(int(labels.max()) + 1)
    model.load_state_dict(torch.load(paths[0], weights_only=True)["model_state_dict"])
    with torch.no_grad():
        assert given[0].tolist() == model.eval()(ids).argmax(1).tolist()
    assert given[1] is None


@pytest.mark.parametrize("made", CASES, ids=str)
def test_planted_wrong_labels_are_found_as_well_as_by_the_loss_of_a_model_that_has_not_learned_them(made):
    ids, truth, labels, wrong, paths = trained(**made)
    found = suspects(asked(ids, labels, paths), limit=0)
    by_loss = torch.argsort(-losses(ids, labels, paths[-1]), stable=True)
    assert average_precision(found.order, wrong) > average_precision(by_loss, wrong) - 0.02
    assert average_precision(found.order, wrong) > 0.95
    first = [i for i in found.order[: int(wrong.sum())] if wrong[i]]
    suggested = dict(zip(found.order, found.suggested, strict=True))
    assert sum(suggested[i] == str(int(truth[i])) for i in first) >= 0.9 * len(first)


def test_wrong_labels_that_the_model_has_learned_are_found_much_better_than_by_its_loss():
    ids, _, labels, wrong, paths = trained(epochs=(10, 20, 40))
    found = suspects(asked(ids, labels, paths), limit=0)
    by_loss = torch.argsort(-losses(ids, labels, paths[-1]), stable=True)
    assert average_precision(found.order, wrong) > average_precision(by_loss, wrong) + 0.1


def test_the_expected_number_of_wrong_ones_is_near(case, found):
    _, _, _, wrong, _ = case
    count = int(wrong.sum())
    assert found.expected() == pytest.approx(count, rel=0.25)
    assert found.expected(count) == pytest.approx(int(wrong[list(found.order[:count])].sum()), rel=0.25)
    assert found.expected(0) == 0
    with pytest.raises(ValueError, match="`count` should be at least 0, how many of the first texts, got -1"):
        found.expected(-1)
    with pytest.raises(TypeError, match="`count` should be a whole number, got 1.5"):
        found.expected(1.5)
    assert found.tells


def test_all_are_there_most_suspicious_first(case, found):
    ids, _, labels, _, _ = case
    assert sorted(found.order) == list(range(len(ids)))
    assert len(found) == len(ids)
    assert list(found.suspicions) == sorted(found.suspicions, reverse=True)
    assert all(0 <= one <= 1 for one in found.suspicions)
    assert list(found.labels) == [str(int(labels[i])) for i in found.order]
    assert all(a != b for a, b in zip(found.labels, found.suggested, strict=True))
    for place, one in enumerate(found.first):
        assert (one.index, one.label, one.suggested, one.suspicion) == (
            found.order[place],
            found.labels[place],
            found.suggested[place],
            found.suspicions[place],
        )


def test_the_table_and_the_file_say_the_same(found):
    table = found.to_table()
    assert tuple(table.columns) == COLUMNS
    assert len(table) == len(found)
    rows = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert [int(row["index"]) for row in rows] == list(found.order)
    assert [float(row["suspicion"]) for row in rows] == pytest.approx(list(found.suspicions))
    assert [float(row["certainty"]) for row in rows] == pytest.approx(list(found.certainties))
    assert [one.certainty for one in found.first] == list(found.certainties[: len(found.first)])
    assert all(0 <= one <= 1 for one in found.certainties)
    first = found.first[0]
    against = " ".join(str(pair.train_index) for pair in first.reasons.speaks_against)
    assert against
    assert rows[0]["against"] == table["against"][0] == against


def test_without_pandas_the_table_is_a_list(found, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    rows = found.to_table()
    assert [row["index"] for row in rows] == list(found.order)
    assert found.to_csv().startswith(",".join(COLUMNS) + "\n")


# ------------------------------------------------------------------------------------------------- what it depends on


def test_the_same_each_time_and_whatever_the_batch_size(case, found):
    ids, _, labels, _, paths = case
    again = suspects(asked(ids, labels, paths), limit=6)
    assert (again.order, again.suspicions, again.suggested) == (found.order, found.suspicions, found.suggested)
    alone = suspects(asked(ids, labels, paths, batch_size=7, memory_limit=30_000), limit=6)
    assert alone.order[:60] == found.order[:60]
    assert alone.suspicions == pytest.approx(found.suspicions, abs=1e-3)


def test_nothing_is_left_behind(case):
    ids, _, labels, _, paths = case
    model = cnn().train()
    before, drawn = everything(model), torch.get_rng_state()
    suspects(asked(ids, labels, paths, model=model), limit=2)
    assert everything(model) == before
    assert torch.equal(torch.get_rng_state(), drawn)


def test_the_options_of_scores_do_not_change_the_order(case, found):
    """Words and answers are those of the texts; reasons alone are by the score that was chosen."""
    ids, _, labels, _, paths = case
    for options in ({"preconditioner": "auto"}, {"top_k_words": 2}):
        other = suspects(asked(ids, labels, paths, **options), limit=1)
        assert other.order == found.order


def test_labels_known_to_be_right_are_not_suspected_and_help_to_judge(case, found):
    ids, truth, labels, wrong, paths = case
    known = {i: int(truth[i]) for i in [*found.order[:5], *range(0, 400, 3)]}
    other = suspects(asked(ids, labels, paths), right=known, limit=6)
    assert not known.keys() & set(other.order)
    assert len(other) == 400 - len(known)
    before = [i for i in found.order if i not in known]
    assert average_precision(other.order, wrong) >= average_precision(before, wrong) - 0.01
    assert other.expected() == pytest.approx(int(wrong[list(other.order)].sum()), rel=0.35)
    assert {pair.label for pair in other.mixed_up} <= {"0", "1", "2"}


def test_right_takes_back_a_double_of_two_labels():
    ids, truth, labels, _, paths = trained(size=80, share=0.0)
    ids, labels = torch.cat([ids, ids[:1]]), torch.cat([labels, (labels[:1] + 1) % 3])
    conflict = suspects(asked(ids, labels, paths), limit=1)
    assert [(pair.indices, pair.labels) for pair in conflict.doubles] == [
        ((0, 80), (str(int(labels[0])), str(int(labels[80]))))
    ]
    assert conflict.doubles[0].cosine == pytest.approx(1.0)
    assert suspects(asked(ids, labels, paths), limit=1, right={80: int(truth[0])}).doubles == ()


def test_classes_mixed_up_are_named_with_how_many():
    ids, truth, labels, _, paths = trained(size=300, share=0.0)
    labels = labels.clone()
    labels[(truth == 1).nonzero().flatten()[:25]] = 2
    found = suspects(asked(ids, labels, paths), limit=1, class_names=["a", "b", "c"])
    first = found.mixed_up[0]
    assert (first.label, first.suggested) == ("c", "b")
    assert 5 < first.wrong < 30  # 25 are there: fewer are promised, for the judge doubts that class
    assert all(first.wrong > 3 * other.wrong for other in found.mixed_up[1:])
    assert first.texts == int((labels == 2).sum())
    assert sum(pair.wrong for pair in found.mixed_up) <= found.expected() + 1e-6


def test_a_better_voice_out_of_folds_finds_more():
    ids, truth, labels, wrong, paths = trained(size=240, own=1, epochs=(6,), share=0.15)
    tracin = asked(ids, labels, paths)
    generator = torch.Generator().manual_seed(0)
    voice = torch.randn(240, 3, generator=generator) + 5 * nn.functional.one_hot(truth, 3)
    alone, helped = suspects(tracin, limit=0), suspects(tracin, limit=0, out_of_fold=voice.log_softmax(1))
    assert average_precision(helped.order, wrong) > average_precision(alone.order, wrong) + 0.05
    assert helped.accuracy > alone.accuracy


def test_names_of_classes_are_those_given_those_of_the_config_or_numbers(case):
    ids, _, labels, _, paths = case
    named = suspects(asked(ids, labels, paths), limit=0, class_names={0: "art", 1: "war", 2: "sea"})
    assert set(named.labels) == {"art", "war", "sea"}
    model = tiny_bert(vocab_size=90, id2label={0: "art", 1: "war", 2: "sea"})
    rows = [{"input_ids": row, "labels": int(y)} for row, y in zip(ids, labels, strict=True)]
    of_config = suspects(TracInWE(model, rows, ["now"], lambda model, _: 0.1, batch_size=64), limit=0)
    assert set(of_config.labels) == {"art", "war", "sea"}


def test_where_words_tell_little_it_is_said():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 90, (120, 8), generator=generator)
    labels = torch.randint(0, 3, (120,), generator=generator)
    tracin = TracInWE(cnn(), TensorDataset(ids, labels), ["now"], lambda model, _: 0.1, loss_fn=LOSS, batch_size=64)
    with pytest.warns(UserWarning, match=r"suspicions are upper bounds.*Give it a better voice, out_of_fold=\.\.\."):
        found = suspects(tracin, limit=0)
    assert not found.tells
    folds = torch.randn((120, 3), generator=generator).log_softmax(1)
    with pytest.warns(UserWarning, match="suspicions are upper bounds.*Models trained in folds say no more"):
        assert not suspects(tracin, limit=0, out_of_fold=folds).tells


# --------------------------------------------------------------------------------------------------------- what is refused


def plain(labels, classes=3, **options):
    ids, *_ = mislabelled(size=len(labels))
    data = TensorDataset(ids, torch.as_tensor(labels))
    return TracInWE(cnn(classes), data, ["now"], lambda model, _: 0.1, **{"loss_fn": LOSS, "batch_size": 8} | options)


@pytest.mark.parametrize(
    ("labels", "classes", "match"),
    [
        ([0] * 12, 1, "all 12 training examples have the label 0"),  # one column is one logit of two classes
        ([1] * 12, 3, "all 12 training examples have the label 1"),
        ([0, 1, 2, 0], 7, "4 training examples and 7 classes"),
    ],
)
def test_labels_that_cannot_be_told_apart(labels, classes, match):
    with pytest.raises(ValueError, match=match):
        suspects(plain(labels, classes, loss_fn=lambda p, y: p.logsumexp(1)))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"limit": -1}, ValueError, "`limit` as a whole number of at least 0, got -1"),
        ({"witnesses": 1.5}, ValueError, "`witnesses` as a whole number"),
        ({"seed": None}, ValueError, "`seed` as a whole number"),
        ({"texts": ["a text"] * 12}, TypeError, "`texts` as a list of TokenizedText, got str"),
        ({"texts": [None] * 12}, TypeError, "`texts` as a list of TokenizedText, got NoneType"),
        ({"texts": 3}, TypeError, "`texts` as a list of TokenizedText, got int"),
        ({"class_names": "abc"}, TypeError, "`class_names` as a list or a mapping, got str"),
        ({"class_names": ["a", "b"]}, ValueError, "`class_names` lacks a name of class 2"),
        ({"class_names": list("abcd")}, ValueError, "`class_names` names 4 classes: expected one name for each of 3"),
        ({"class_names": {0: "a", 2: "c"}}, ValueError, "`class_names` lacks a name of class 1"),
        ({"right": [1, 2]}, TypeError, "`right` as a mapping of training index to class number, got list"),
        ({"right": {12: 0}}, ValueError, "`right` names training example 12: expected 0 to 11"),
        ({"right": {3: 3}}, ValueError, "gives training example 3 the class 3: expected a class number from 0 to 2"),
        ({"out_of_fold": [[0.0] * 3] * 12}, TypeError, "`out_of_fold` as a torch.Tensor, got list"),
        ({"out_of_fold": torch.zeros(11, 3)}, ValueError, r"of shape \(11, 3\).*[Ee]xpected log-probabilities of 12"),
        ({"out_of_fold": torch.zeros(12, 3).long()}, ValueError, "torch.int64: expected log-probabilities"),
        ({"out_of_fold": torch.full((12, 3), torch.nan)}, ValueError, "holds NaN or infinite numbers"),
        ({"out_of_fold": torch.full((12, 3), 1 / 3)}, ValueError, "holds probabilities"),
        ({"folds": 5}, ValueError, "`folds` is given and `recipe` is not"),
        ({"recipe": print}, ValueError, "`recipe` is given and `folds` is not"),
        ({"folds": 1, "recipe": print}, ValueError, "`folds` as a whole number of at least 2, got 1"),
        ({"folds": 5, "recipe": 7}, TypeError, "expected a recipe.*got int"),
        ({"folds": 5, "recipe": print, "out_of_fold": torch.zeros(12, 3)}, ValueError, "expected one of the two"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_said(options, error, match):
    with pytest.raises(error, match=match):
        suspects(plain([0, 1, 2] * 4), **options)


def test_texts_of_another_number_and_something_else_than_a_tracin():
    with pytest.raises(ValueError, match="[Ee]xpected one of `texts` for each of the 12 training examples, got 0"):
        suspects(plain([0, 1, 2] * 4), texts=[])
    with pytest.raises(TypeError, match="[Ee]xpected a TracInWE first, got str"):
        suspects("run/")


def test_texts_with_line_breaks_of_any_kind_are_rows_of_the_file(found):
    odd = ["a\rb", "a\nb", "a\r\nb", '"', "a\x0bb\u2028c"]
    told = dataclasses.replace(found, first=(), texts=tuple((odd * len(found))[: len(found)]))
    read = list(csv.reader(io.StringIO(told.to_csv(), newline="")))
    assert [row[COLUMNS.index("text")] for row in read[1:]] == list(told.texts)
    assert [row["text"] for row in told.rows()] == list(told.texts)
