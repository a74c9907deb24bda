"""The voice of the words alone against dense algebra, and texts of nearly the same words against all pairs."""

import pytest
import torch

from captum_tracinwe.labels import words_alone
from captum_tracinwe.labels.words_alone import FOLDS, RIDGE, WordsAlone
from captum_tracinwe.preconditioners.text_gram import Occurrences
from captum_tracinwe.words.near import ALIKE, doubles_of, same_words

SIZE, WORDS, CLASSES = 90, 40, 3


def occurrences(texts):
    """Of sets of words."""
    ids = [torch.tensor(sorted(words), dtype=torch.int32) for words in texts]
    return Occurrences(torch.tensor([len(one) for one in ids], dtype=torch.int32), torch.cat(ids), 1, 0)


def told_texts(size=SIZE, classes=CLASSES, seed=0):
    """Sets of words, half of each of its class; some words are in every text, a text may have none but these."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (size,), generator=generator)
    own = torch.randint(0, 8, (size, 4), generator=generator) + 8 * labels[:, None]
    any_class = torch.randint(8 * classes, WORDS, (size, 4), generator=generator)
    texts = [{99, *a, *b} for a, b in zip(own.tolist(), any_class.tolist(), strict=True)]
    texts[5] = {99}
    return texts, labels


def dense(texts, labels, classes, fold):
    """(X Xᵀ + ridge)⁻¹ of the other folds' texts, in float64, by torch's solver; before the scale."""
    words = sorted(set().union(*texts))
    held = torch.tensor([[word in text for word in words] for text in texts]).double()
    vectors = held * (len(texts) / held.sum(0)).log()
    vectors = vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-300)
    wanted = torch.nn.functional.one_hot(labels, classes).double()
    found = torch.zeros(len(texts), classes, dtype=torch.float64)
    for one in fold.unique():
        taught, asked = fold != one, fold == one
        mean = wanted[taught].mean(0)
        kernel = vectors[taught] @ vectors[taught].T + RIDGE * torch.eye(int(taught.sum()), dtype=torch.float64)
        found[asked] = mean + vectors[asked] @ vectors[taught].T @ torch.linalg.solve(kernel, wanted[taught] - mean)
    return found


def folds_of(size, seed):
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed)) % FOLDS


def best_scale(found, labels):
    """By trying 20,000 of them."""
    scales = torch.logspace(-2, 3, 20_000, dtype=torch.float64)
    own = torch.arange(len(labels))
    likelihood = [(found * scale).log_softmax(1)[own, labels].mean() for scale in scales]
    return scales[int(torch.stack(likelihood).argmax())]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("seed", [0, 7])
def test_the_words_say_what_dense_algebra_says(classes, seed):
    texts, labels = told_texts(classes=classes)
    voice = WordsAlone(occurrences(texts), labels, classes, seed)
    raw = dense(texts, labels, classes, folds_of(SIZE, seed))
    torch.testing.assert_close(voice._regression, raw, rtol=0, atol=1e-3)
    expected = (raw * best_scale(raw, labels)).log_softmax(1)
    torch.testing.assert_close(voice.log_probabilities.exp(), expected.exp(), rtol=0, atol=2e-3)


def test_the_words_of_many_classes_are_solved_for_in_several_turns(monkeypatch):
    texts, labels = told_texts()
    together = WordsAlone(occurrences(texts), labels, CLASSES)._regression
    monkeypatch.setattr(words_alone, "COLUMNS", 2 * CLASSES)
    apart = WordsAlone(occurrences(texts), labels, CLASSES)._regression
    torch.testing.assert_close(apart, together, rtol=0, atol=1e-6)


def test_a_texts_own_label_never_changes_its_own_voice():
    texts, labels = told_texts(seed=1)
    before = WordsAlone(occurrences(texts), labels, CLASSES)._regression
    moved = []
    for index in range(0, SIZE, 7):
        flipped = labels.clone()
        flipped[index] = (labels[index] + 1) % CLASSES
        after = WordsAlone(occurrences(texts), flipped, CLASSES)._regression
        assert torch.equal(after[index], before[index])
        moved.append(float((after - before).abs().max()))
    assert min(moved) > 1e-3  # and that of others it does


def test_fewer_texts_than_folds_leave_out_one_each():
    texts, labels = told_texts(size=7)
    found = WordsAlone(occurrences(texts), labels, CLASSES)._regression
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0)) % 7
    torch.testing.assert_close(found, dense(texts, labels, CLASSES, order), rtol=0, atol=1e-3)


# ---------------------------------------------------------------------------------------------------------- doubles


def all_pairs(texts):
    words = sorted(set().union(*texts))
    held = torch.tensor([[word in text for word in words] for text in texts]).double()
    vectors = held * (len(texts) / held.sum(0)).log()
    vectors = vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-300)
    cosines = vectors @ vectors.T
    return {
        (i, j): float(cosines[i, j])
        for i in range(len(texts))
        for j in range(i + 1, len(texts))
        if cosines[i, j] >= ALIKE and texts[i] != texts[j]
    }


def near_texts(size, seed):
    """Every third text is another one with a word more or less, or the very same."""
    generator = torch.Generator().manual_seed(seed)

    def draw(below, count):
        return set(torch.randint(0, below, (count,), generator=generator).tolist())

    texts = []
    for index in range(size):
        if index % 3 < 2 or index < 3:
            texts.append(draw(12, 7) | {word + 100 for word in draw(200, 3)})
        else:
            texts.append(texts[int(torch.randint(0, index, (), generator=generator))] ^ draw(12, index % 4))
    return texts


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_doubles_are_those_of_all_pairs(seed):
    texts = near_texts(60, seed)
    expected = all_pairs(texts)
    assert len(expected) > 5
    found = doubles_of(occurrences(texts))
    groups = [
        [i for i, other in enumerate(texts) if other == text] for text in map(set, {frozenset(one) for one in texts})
    ]
    assert sorted(same_words(occurrences(texts))) == sorted(group for group in groups if len(group) > 1)
    assert found.keys() == expected.keys()
    assert all(found[pair] == pytest.approx(expected[pair], abs=1e-9) for pair in expected)
    assert list(found) == sorted(found)


def test_doubles_among_texts_whose_words_are_mostly_common():
    """A word of more than 64 texts leads to no pair, and counts in the cosine."""
    texts = [words | {500} for words in near_texts(200, 3)]
    expected = all_pairs(texts)
    found = doubles_of(occurrences(texts))
    rare = {word for word in set().union(*texts) if sum(word in text for text in texts) <= 64}
    meet = {pair for pair in expected if texts[pair[0]] & texts[pair[1]] & rare}
    assert found.keys() == meet
    assert len(meet) > 20


def test_two_rare_words_outweigh_many_common_ones():
    texts = [{word for word in range(6) if (index >> word) % 2} | {10} for index in range(64)]
    texts += [{0, 1, 2, 100, 101}, {3, 4, 5, 100, 101}]
    expected = all_pairs(texts)
    assert expected[64, 65] > ALIKE
    assert (64, 65) in doubles_of(occurrences(texts))


def test_of_many_texts_of_the_same_words_no_pairs_are_made():
    texts = occurrences([{1, 2}] * 300 + [{1}, {2}, {3}])
    assert doubles_of(texts) == {}
    assert same_words(texts) == [list(range(300))]


def test_texts_without_a_word_in_common_are_no_doubles():
    assert doubles_of(occurrences([{1, 2}, {3, 4}, {5}])) == {}
    assert doubles_of(occurrences([set(), set(), {5}])) == {}
