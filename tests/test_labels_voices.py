"""How voices are put together, and how many labels they say are wrong, on made-up scores whose truth is known."""

import pytest
import torch

from captum_tracinwe.labels.chances import Chances, rising
from captum_tracinwe.labels.highest import highest
from captum_tracinwe.labels.voices import FEW, Voices, _in_the_labels_place, by_class, margins, without

SIZE, CLASSES = 3000, 4


def told(truth, strength, classes=CLASSES, seed=1):
    """Log-probabilities of somebody who has seen no label."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(truth), classes, generator=generator, dtype=torch.float64)
    return (noise + strength * torch.nn.functional.one_hot(truth, classes)).log_softmax(1)


def mislabelled(share, size=SIZE, classes=CLASSES, seed=0, own_class=False):
    """Truth, labels and which of them are wrong; with ``own_class`` to the next class, else to any other."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, classes, (size,), generator=generator)
    wrong = torch.rand(size, generator=generator) < share
    step = torch.ones(size, dtype=torch.long)
    if not own_class:
        step = torch.randint(1, classes, (size,), generator=generator)
    return truth, torch.where(wrong, (truth + step) % classes, truth), wrong


# ------------------------------------------------------------------------------------------------------------ rising


@pytest.mark.parametrize("weighted", [False, True])
def test_the_rising_mean_is_that_of_scikit_learn(weighted):
    isotonic = pytest.importorskip("sklearn.isotonic")
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 40, (300,), generator=generator).double() / 7  # many are equal
    values = (torch.rand(300, generator=generator) < scores / 6).double()
    weights = torch.rand(300, generator=generator, dtype=torch.float64) + 0.1 if weighted else None
    given = None if weights is None else weights.numpy()
    expected = isotonic.IsotonicRegression().fit(scores.numpy(), values.numpy(), given).predict(scores.numpy())
    found = rising(scores, values, weights)
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=0, atol=1e-12)
    assert (found[torch.argsort(scores)].diff() >= 0).all()


def test_what_rises_already_stays_and_what_falls_is_one_mean():
    scores = torch.arange(5).double()
    assert rising(scores, scores).tolist() == scores.tolist()
    assert rising(scores, -scores).tolist() == [-2.0] * 5


def test_the_highest_place_of_one_hump_is_found():
    assert highest(lambda x: -((x - 0.37) ** 2), 0.01, 100) == pytest.approx(0.37, rel=2e-3)
    assert highest(lambda x: x, 0.01, 100) == pytest.approx(100, rel=2e-3)


# ----------------------------------------------------------------------------------------------------------- chances


@pytest.mark.parametrize("own_class", [False, True])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.4])
def test_the_share_of_wrong_labels_is_found_within_a_quarter(share, own_class):
    truth, labels, wrong = mislabelled(share, own_class=own_class)
    found = Chances.of(told(truth, 5), labels)
    count = int(wrong.sum())
    assert found.share * SIZE == pytest.approx(count, rel=0.25)
    assert float(found.wrong.sum()) == pytest.approx(count, rel=0.25)


@pytest.mark.parametrize("share", [0.1, 0.2])
def test_the_expected_number_among_the_first_n_is_kept(share):
    truth, labels, wrong = mislabelled(share)
    chances = Chances.of(told(truth, 5), labels).wrong
    order = torch.argsort(-chances, stable=True)
    for first in (100, 200, SIZE):
        there = int(wrong[order[:first]].sum())
        assert float(chances[order[:first]].sum()) == pytest.approx(there, rel=0.25)


def test_where_no_label_is_wrong_hardly_any_is_promised():
    truth, labels, _ = mislabelled(0.0)
    found = Chances.of(told(truth, 6), labels)
    assert 0 <= found.share < 0.02
    assert float(found.wrong.sum()) < 0.02 * SIZE


def test_a_chance_is_one_and_rises_with_the_score():
    truth, labels, _ = mislabelled(0.2)
    voice = told(truth, 2)
    found = Chances.of(voice, labels).wrong
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert (found[torch.argsort(margins(voice, labels))].diff() >= 0).all()


def test_a_voice_that_knows_nothing_gives_an_upper_bound():
    truth, labels, wrong = mislabelled(0.1)
    assert Chances.of(told(truth, 0), labels).share > float(wrong.double().mean())


# ------------------------------------------------------------------------------------------------------------ voices


def test_by_class_takes_off_what_a_class_has_on_the_mean():
    truth, labels, _ = mislabelled(0.2, size=60)
    voice = told(truth, 2)
    found = by_class(voice, labels)
    own = [float(voice[i, y]) for i, y in enumerate(labels.tolist())]
    for k in range(CLASSES):
        of_class = [value for value, y in zip(own, labels.tolist(), strict=True) if y == k]
        mean = (sum(of_class) + FEW * sum(own) / len(own)) / (len(of_class) + FEW)
        torch.testing.assert_close(found[:, k], voice[:, k] - mean)


def test_a_margin_is_above_zero_where_another_class_is_ahead():
    voice = torch.tensor([[0.0, 3.0, 1.0], [0.0, 3.0, 1.0]], dtype=torch.float64)
    assert margins(voice, torch.tensor([1, 2])).tolist() == [-2.0, 2.0]


def voices(share=0.1, model=2.0, words=3.0, **options):
    truth, labels, wrong = mislabelled(share)
    return Voices(told(truth, model, seed=2), told(truth, words, seed=3), labels, **options), truth, wrong


def average_precision(scores, wrong):
    hits = wrong[torch.argsort(-scores, stable=True)].double()
    return float((hits.cumsum(0) / torch.arange(1, len(hits) + 1))[hits == 1].mean())


def test_both_voices_together_find_more_than_each():
    both, truth, wrong = voices()
    assert 0 <= both.weight <= 1
    alone = [average_precision(margins(by_class(v, both.labels), both.labels), wrong) for v in (both.model, both.words)]
    assert average_precision(both.scores, wrong) > max(alone)


def test_suspicions_rise_with_the_scores_and_promise_what_is_there():
    both, _, wrong = voices(words=5.0)
    order = torch.argsort(both.scores)
    assert (both.suspicions[order].diff() >= 0).all()
    assert 0 <= float(both.suspicions.min()) <= float(both.suspicions.max()) <= 1
    assert float(both.suspicions.sum()) == pytest.approx(int(wrong.sum()), rel=0.25)


def test_the_suggested_class_is_the_best_other_one():
    both, truth, wrong = voices(words=5.0)
    assert (both.suggested != both.labels).all()
    assert float((both.suggested[wrong] == truth[wrong]).double().mean()) > 0.95
    looped = [
        max((k for k in range(CLASSES) if k != y), key=lambda k, row=row: row[k])
        for row, y in zip(both.told.tolist(), both.labels.tolist(), strict=True)
    ]
    assert both.suggested.tolist() == looped


@pytest.mark.parametrize(
    ("words", "share"), [(2.0, 0.05), (2.0, 0.1), (3.0, 0.05), (3.0, 0.1), (3.0, 0.3), (5.0, 0.1), (5.0, 0.3)]
)
def test_the_suggested_class_is_right_as_often_as_is_said(words, share):
    """Of wrong labels, which nobody knows: here the judge decides alone, for the model has learned the labels by heart."""
    truth, labels, wrong = mislabelled(share, size=20_000)
    found = Voices(told(labels, 9.0), told(truth, words, seed=3), labels)
    right, said = (found.suggested == truth)[wrong].double(), found.certainties[wrong]
    assert float(said.mean()) == pytest.approx(float(right.mean()), abs=0.03)
    for low, high in ((0.0, 0.6), (0.6, 0.8), (0.8, 0.95), (0.95, 1.0)):
        within = (said >= low) & (said < high)
        if within.sum() > 100:
            assert float(said[within].mean()) == pytest.approx(float(right[within].mean()), abs=0.08)


def test_two_voices_that_agree_are_right_more_often_than_is_said():
    both, truth, wrong = voices()
    sure = wrong & (both.certainties >= 0.9)
    assert sure.sum() > 30
    assert float((both.suggested == truth)[sure].double().mean()) > 0.9
    judged = without(by_class(both.judge, both.labels), both.labels).argmax(1)
    assert float(both.certainties[judged != both.suggested].max()) <= 0.5


def test_who_cannot_tell_says_no_certainty_and_of_two_classes_there_is_one_other():
    truth, labels, _ = mislabelled(0.1)
    assert Voices(told(truth, 2.0), told(truth, 0.5), labels).certainties is None
    truth, labels, _ = mislabelled(0.1, classes=2)
    for words in (0.0, 6.0):
        assert Voices(told(truth, 2.0, 2), told(truth, words, 2), labels).certainties.tolist() == [1.0] * SIZE


def test_each_other_class_in_the_labels_place_is_counted_by_its_part():
    truth, labels, _ = mislabelled(0.2, size=50, classes=5)
    judged = told(truth, 1.0, 5)
    aheads, right, parts = _in_the_labels_place(judged, labels)
    looped = []
    for row, label in zip(judged, labels.tolist(), strict=True):
        for other in set(range(5)) - {label}:
            best, second = sorted((k for k in range(5) if k != other), key=lambda k, row=row: -row[k])[:2]
            looped.append((float(row[best] - row[second]), float(best == label)))
    for at in torch.linspace(0, 3, 13).tolist():
        above = aheads > at
        expected = [hit for ahead, hit in looped if ahead > at]
        assert 4 * float(parts[above].sum()) == pytest.approx(len(expected))
        assert 4 * float((parts * right)[above].sum()) == pytest.approx(sum(expected))


def test_a_model_that_has_learned_its_labels_by_heart_hardly_counts():
    both, truth, wrong = voices(words=4.0)
    by_heart = Voices(told(both.labels, 8.0), both.words, both.labels)
    assert by_heart.weight < 0.05 < both.weight
    assert average_precision(by_heart.scores, wrong) > 0.5


def plausible(share=0.1):
    """Wrong labels of texts whose words hardly tell two classes apart; the words, a model that knows better, the truth."""
    truth, labels, wrong = mislabelled(share)
    words = told(truth, 3.0, seed=3)
    words[wrong] += 2.2 * torch.nn.functional.one_hot(labels, CLASSES)[wrong]
    return labels, words.log_softmax(1), told(truth, 7.0, seed=2), truth, wrong


def test_a_model_that_sees_wrong_labels_where_words_are_blind_is_heard():
    labels, words, model, _, wrong = plausible()
    blind = Voices(torch.zeros_like(words), words, labels).chances.share
    assert blind < 0.03 < float(wrong.double().mean())
    alone = average_precision(margins(by_class(model, labels), labels), wrong)
    sees = Voices(model, words, labels, first=model.argmax(1))
    assert sees.foresight > 0.8
    assert average_precision(sees.scores, wrong) > alone - 0.02
    assert average_precision(Voices(model, words, labels, first=labels).scores, wrong) < alone - 0.05


def test_by_heart_too_weak_or_no_better_than_the_judge_a_model_has_no_foresight():
    labels, words, model, truth, _ = plausible()
    assert Voices(model, words, labels, first=labels).foresight == 0  # it contests nothing
    weak = told(truth, 1.0, seed=5).argmax(1)
    assert Voices(model, words, labels, first=weak).foresight < 1e-6  # it names fewer labels than the words do
    both, truth, wrong = voices(share=0.2, model=7.0, words=5.0)
    assert both.chances.share == pytest.approx(float(wrong.double().mean()), rel=0.25)
    assert both.foresight < 0.1  # the words see them, too


def test_without_answers_from_the_beginning_there_is_no_foresight():
    labels, words, model, _, _ = plausible()
    assert Voices(model, words, labels).foresight == 0 < Voices(model, words, labels, first=model.argmax(1)).foresight


def test_where_words_hardly_tell_the_classes_the_model_is_heard_alone():
    truth, labels, wrong = mislabelled(0.1)
    model = told(truth, 2.0, seed=2)
    nothing = Voices(model, told(truth, 0.2, seed=3), labels)
    assert not nothing.tells
    assert nothing.weight > 0.9
    alone = average_precision(margins(by_class(model, labels), labels), wrong)
    assert average_precision(nothing.scores, wrong) > alone - 0.01
    words = average_precision(margins(by_class(nothing.words, labels), labels), wrong)
    assert alone > 2 * words
    by_chance = Voices(model, torch.full_like(model, 1 / CLASSES).log(), labels)
    assert by_chance.weight == 1


def test_a_voice_out_of_folds_judges_as_far_as_it_tells_the_labels():
    truth, labels, wrong = mislabelled(0.1)
    weak, strong = told(truth, 1.0, seed=3), told(truth, 5.0, seed=4)
    alone = Voices(told(truth, 2.0), weak, labels)
    better = Voices(told(truth, 2.0), weak, labels, strong)
    worse = Voices(told(truth, 2.0), strong, labels, told(truth, 0.0, seed=5))
    assert better.accuracy > alone.accuracy + 0.2
    assert average_precision(better.scores, wrong) > average_precision(alone.scores, wrong) + 0.1
    torch.testing.assert_close(worse.judge.argmax(1), strong.argmax(1))  # a voice that tells nothing has no part


def test_a_judge_that_names_little_more_than_the_largest_class_does_not_tell():
    truth, labels, _ = mislabelled(0.1)
    assert Voices(told(truth, 2.0), told(truth, 4.0), labels).tells
    assert not Voices(told(truth, 2.0), told(truth, 0.5), labels).tells


def test_two_classes_are_enough():
    truth, labels, wrong = mislabelled(0.1, classes=2)
    both = Voices(told(truth, 2.0, 2), told(truth, 6.0, 2, seed=3), labels)
    assert both.suggested.tolist() == (1 - labels).tolist()
    assert float(both.suspicions.sum()) == pytest.approx(int(wrong.sum()), rel=0.25)
