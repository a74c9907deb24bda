"""`explain`: what it finds against single computations, and that gradients are computed once, whatever is asked of them."""

import math
from fractions import Fraction

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from captum_tracinwe import TracInWE, explain, word_report
from captum_tracinwe.app.testing import TinyCNN
from captum_tracinwe.explanation.asking import Answers
from captum_tracinwe.explanation.performance import performance_of, sign_test
from captum_tracinwe.gradients import live
from captum_tracinwe.visualization.explanation_words import how_good
from captum_tracinwe.words.texts import from_ids

NAMES = ["pets", "boats", "cars"]
LOSS = torch.nn.CrossEntropyLoss(reduction="none")


def drawn(size, seed):
    """Texts of two classes with words of their own, some of which say the other one's."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % 2
    ids = 1 + 9 * labels[:, None] + torch.randint(9, (size, 8), generator=generator)
    ids[::7] = 1 + torch.randint(18, (len(ids[::7]), 8), generator=generator)
    return ids, labels


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained CNN at two checkpoints, sixty training texts of which five are nearly one, and twenty test texts."""
    ids, labels = drawn(60, 1)
    ids[50:55], labels[50:55] = ids[50].clone(), 1
    labels[54] = 0
    torch.manual_seed(0)
    model, states = TinyCNN(), []
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(30):
        optimizer.zero_grad()
        LOSS(model(ids), labels).mean().backward()
        optimizer.step()
        if step in (9, 29):
            states.append({key: value.clone() for key, value in model.state_dict().items()})
    model.eval()

    def load(model, state):
        model.load_state_dict(state)
        return 0.1

    def made(**options):
        data = TensorDataset(ids, labels)
        return TracInWE(model, data, states, load, loss_fn=LOSS, batch_size=20, **options)

    tests = drawn(20, 2)
    texts = {"train_texts": [from_ids(row) for row in ids], "test_texts": [from_ids(row) for row in tests[0]]}
    return made, tests, {**texts, "train_labels": labels, "names": NAMES}


@pytest.fixture
def passes(monkeypatch):
    """What is computed, in order: ("training-set" | "sample" | "test" | "training", examples)."""
    seen = []
    before = live.LiveRows.rows_at

    def rows_at(self, checkpoint, batches, asked, *rest, **options):
        for rows in before(self, checkpoint, batches, asked, *rest, **options):
            seen.append((asked.what, len(rows)))
            yield rows

    monkeypatch.setattr(live.LiveRows, "rows_at", rows_at)

    def told():
        found = {}
        for what, size in seen:
            found[what] = found.get(what, 0) + size
        seen.clear()
        return found

    return told


# ---------------------------------------------------------------------------------------------------------- what is found


@pytest.mark.parametrize("options", [{}, {"preconditioner": "auto"}])
def test_pairs_and_both_reports_are_those_of_single_questions(run, options):
    made, (ids, labels), given = run
    tracin = made(**options)
    found = explain(tracin, DataLoader(TensorDataset(ids, labels), 6), k=2, explained=8, cache=False, **given)
    with torch.no_grad():
        predicted = tracin.model(ids).argmax(1)
        chances = tracin.model(ids).softmax(1).amax(1)
    wrong = [answer.index for answer in found.answers if answer.wrong]
    assert 1 <= len(wrong) < 8
    for answer in found.answers:
        assert (answer.label, answer.prediction) == (NAMES[labels[answer.index]], NAMES[predicted[answer.index]])
        assert answer.probability == pytest.approx(float(chances[answer.index]), abs=1e-5)
        scores = tracin.influence((ids[answer.index][None], predicted[answer.index][None]))[0]
        of = {pair.train_index: pair.score for pair in answer.pairs}
        assert of == pytest.approx({index: float(scores[index]) for index in of}, rel=1e-3, abs=1e-6)
        assert sum(1 for score in of.values() if score > 0) == 2
        strongest = int(scores.argmax())
        assert answer.pairs[0].train_index in (strongest, *found.alike(strongest))
    texts = given["train_texts"]
    causes = word_report(
        tracin, (ids[wrong], predicted[wrong]), [NAMES[label] for label in given["train_labels"]], train_texts=texts
    )
    totals = {word.word: word.total for word in causes.words}
    assert {word.word: word.total for word in found.causes.words} == pytest.approx(totals, rel=1e-3, abs=1e-6)
    itself = word_report(tracin, None, given["train_labels"], train_texts=texts)
    assert found.habits.score == pytest.approx(itself.score, rel=1e-4)
    assert found.habits.tests == 60


def test_of_near_duplicates_the_strongest_is_named_and_the_others_can_be_reached(run):
    made, test, given = run
    found = explain(made(), test, k=5, explained=20, cache=False, **given)
    group = next(group for group in found.near if 50 in group.indices)
    assert set(group.indices) >= {50, 51, 52, 53, 54}
    assert group.at_odds
    assert found.alike(50) == tuple(index for index in group.indices if index != 50)
    assert found.alike(0) == () or 0 in {index for one in found.near for index in one.indices}
    for answer in found.answers:
        for sign in (1, -1):
            named = [pair.train_index for pair in answer.pairs if sign * pair.score > 0]
            assert not any(set(found.alike(one)) & set(named) for one in named)
    assert all(index in found.training for answer in found.answers for index in [p.train_index for p in answer.pairs])
    assert found.training[54].label == "pets"


def test_mistakes_come_first_the_surest_of_them_before_the_others_and_right_answers_last():
    answers = Answers(None, NAMES, [0, 0, 1, 1, 0], [0, 1, 0, 1, 1], [0.9, 0.6, 0.8, 0.7, 0.8])
    assert answers.chosen(9) == [2, 4, 1, 3, 0]
    assert answers.chosen(2) == [2, 4]


def test_without_a_mistake_there_are_no_causes(run):
    made, (ids, _), given = run
    with torch.no_grad():
        right = made().model(ids).argmax(1)
    found = explain(made(), (ids, right), explained=3, cache=False, **given)
    assert found.causes is None
    assert found.performance.accuracy == 1.0
    assert not any(answer.wrong for answer in found.answers)


# -------------------------------------------------------------------------------------------------------------- how good


@pytest.mark.parametrize(("ahead", "behind"), [(0, 0), (1, 0), (0, 5), (3, 3), (9, 1), (40, 20)])
def test_the_sign_test_is_the_tail_of_a_fair_coin(ahead, behind):
    throws = ahead + behind
    exact = sum(Fraction(math.comb(throws, heads), 2**throws) for heads in range(ahead, throws + 1))
    assert sign_test(ahead, behind) == pytest.approx(float(exact), rel=1e-9)


def test_a_model_is_held_against_the_most_frequent_class_of_training():
    found = performance_of([0, 1, 1, 1, 2], [1, 1, 0, 0, 2, 1], [1, 0, 0, 0, 1, 1], ["a", "b", "c"])
    assert (found.tests, found.right, found.majority, found.majority_right) == (6, 4, "b", 3)
    assert found.p_value == sign_test(2, 1)  # right where b is wrong: two; wrong where b is right: one
    assert not found.learned
    assert found.untold
    assert [(one.train, one.test, one.right, one.named) for one in found.classes] == [
        (1, 2, 2, 3),
        (3, 3, 2, 3),
        (1, 1, 0, 0),
    ]
    assert performance_of([0, 1], [0, 1] * 20, [0, 1] * 20, ["a", "b"]).learned


def test_a_model_that_always_says_the_same_has_learned_nothing_whatever_training_had_more_of():
    found = performance_of([0] * 9 + [1] * 8, [1] * 21 + [0] * 19, [1] * 40, ["a", "b"])
    assert (found.majority, found.majority_right, found.right) == ("b", 21, 21)
    assert not found.learned
    assert not found.untold


def test_three_right_of_three_are_few_and_not_nothing():
    found = performance_of([0, 1, 2], [0, 1, 2], [0, 1, 2], ["a", "b", "c"])
    assert found.untold
    said = " ".join(how_good(found))
    assert said.startswith("TOO FEW TEST TEXTS")
    assert "NOTHING" not in said
    assert "guess" not in said


# --------------------------------------------------------------------------------------------------- gradients, but once


def test_training_gradients_are_computed_once_and_then_never_again(run, passes, tmp_path):
    made, test, given = run
    first = explain(made(preconditioner="auto"), test, explained=5, cache=tmp_path, **given)
    told = passes()
    assert told.pop("training-set") == 60 * 2  # at two checkpoints
    assert told.pop("training") == 20  # one batch at one of them tells how wide rows are
    assert told.pop("test") == 5 * 2
    assert told.pop("sample") <= 16 * 2  # what tells how long it will take
    assert not told
    again = explain(made(preconditioner="auto"), test, explained=5, cache=tmp_path, **given)
    assert passes() == {"test": 5 * 2, "training": 20}
    assert [answer.pairs[0].score for answer in again.answers] == [answer.pairs[0].score for answer in first.answers]


def test_with_an_index_no_training_set_is_needed_and_no_gradient_of_it_is_computed(run, passes, tmp_path):
    made, test, given = run
    tracin = made(preconditioner="auto")
    live = word_report(tracin, test, given["train_labels"], train_texts=given["train_texts"])
    tracin.build_index(tmp_path / "index")
    tracin = TracInWE(
        tracin.model,
        None,
        tracin.checkpoints,
        tracin.checkpoints_load_func,
        loss_fn=LOSS,
        preconditioner="auto",
        index=tmp_path / "index",
    )
    passes()
    stored = word_report(tracin, test, given["train_labels"], train_texts=given["train_texts"])
    assert passes() == {"test": 20 * 2}
    assert stored.score == pytest.approx(live.score, rel=1e-4)
    word_report(tracin, None, given["train_labels"], train_texts=given["train_texts"])
    assert passes() == {}
    found = explain(tracin, test, explained=4, **given)
    assert passes() == {"test": 4 * 2}
    assert len(found.answers) == 4


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"k": 0}, ValueError, "`k` as a whole number of at least 1"),
        ({"test_texts": ["a text"]}, TypeError, "`test_texts` as a list of TokenizedText, got str"),
        ({"names": ["pets"]}, ValueError, "explain: `names` lacks a name of class 1"),
        ({"train_labels": [0] * 59}, ValueError, "`train_labels` for each of 60 training texts, got 59"),
        (
            {"train_labels": ["planes"] * 60},
            ValueError,
            "training text 0 is 'planes'.*or one of the names pets, boats, cars",
        ),
        ({"train_labels": None}, ValueError, "the training texts have no labels"),
        ({"train_places": ["line 1"]}, ValueError, "`train_places` for each of the 60"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(run, changes, kind, said):
    made, test, given = run
    with pytest.raises(kind, match=said):
        explain(made(), test, cache=False, **{**given, **changes})


def test_texts_of_another_number_are_refused(run):
    made, test, given = run
    for name in ("test_texts", "train_texts"):
        fewer = {
            **given,
            name: given[name][:-1],
            "train_labels": given["train_labels"][: 59 if "train" in name else 60],
        }
        with pytest.raises(ValueError, match=f"one of `{name}` for each of the"):
            explain(made(), test, cache=False, **fewer)


# -------------------------------------------------------------------------------------------------------------- its name


def test_a_tracin_says_what_it_is_of(run, tmp_path):
    made, test, _ = run
    tracin = made()
    assert repr(tracin) == (
        "TracInWE(TinyCNN, table='input', 2 checkpoints, rates not read yet, 60 training examples, index=None)"
    )
    tracin.influence(test)
    assert "2 checkpoints at rates 0.1, 0.1, 60 training examples" in repr(tracin)
    kept = tracin.cached(tmp_path)
    assert f"index={str(kept.index.path)!r})" in repr(kept)
    assert "unknown training examples" in repr(
        TracInWE(tracin.model, Stream(), ["now"], lambda m, c: 0.1, loss_fn=LOSS)
    )


class Stream(torch.utils.data.IterableDataset):
    """Of one text."""

    def __iter__(self):
        yield torch.ones(8, dtype=torch.int64), torch.tensor(0)
