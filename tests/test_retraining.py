"""Retraining: many at once is one by one, what is left out has no effect, what is hidden is padding, pairs share the noise."""

import pytest
import torch
from captum_tracinwe.retraining import ManyCNNs, OneByOne, Recipe, TextCNN, true_class_probability

RECIPE = Recipe(epochs=3, batch_size=5, learning_rate=0.2)


def texts(count, seed, length=13, vocabulary=40):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, vocabulary, (count, length), generator=generator)
    lengths = torch.randint(4, length + 1, (count,), generator=generator)
    labels = torch.randint(0, 3, (count,), generator=generator)
    return ids * (torch.arange(length) < lengths[:, None]), labels


def make():
    return TextCNN(40, 3, width=8, filters=6, scale=0.5)


@pytest.fixture
def both():
    train, test = texts(23, 1), texts(7, 2)
    return OneByOne(make, train, test, RECIPE), ManyCNNs(make, train, test, RECIPE, at_once=3)


def jobs(count, seed=0):
    keep = torch.rand(count, 23, generator=torch.Generator().manual_seed(seed)) < 0.7
    keep[0] = True
    return keep, [0, 0, 0, 0, 1, 1, 2][:count]


def test_many_at_once_is_one_by_one(both):
    one, many = both
    keep, seeds = jobs(7)
    expected = one.logits(keep, seeds)
    assert float((expected[0] - expected[1]).abs().max()) > 1e-3  # leaving something out does something
    torch.testing.assert_close(many.logits(keep, seeds), expected, rtol=1e-4, atol=1e-5)


def test_a_batch_that_lost_all_its_examples_moves_on_momentum_alone(both):
    one, many = both
    keep = torch.ones(2, 23, dtype=torch.bool)
    first = next(iter(RECIPE.batches(23, 0)))[1]
    later = list(RECIPE.batches(23, 0))[6][1]
    keep[0, first] = False
    keep[1, later] = False
    torch.testing.assert_close(many.logits(keep, [0, 0]), one.logits(keep, [0, 0]), rtol=1e-4, atol=1e-5)


def test_hidden_words_are_hidden_in_both(both):
    one, many = both
    keep, seeds = torch.ones(3, 23, dtype=torch.bool), [0, 0, 0]
    hidden = [[(0, 1), (5, 0), (5, 3)], [], [(j, 2) for j in range(23)]]
    expected = one.logits(keep, seeds, hidden)
    torch.testing.assert_close(many.logits(keep, seeds, hidden), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(expected[1], one.logits(keep[:1], [0])[0])
    assert float((expected[2] - expected[1]).abs().max()) > 1e-3


def test_what_is_left_out_cannot_be_seen(both):
    one, _ = both
    keep = torch.ones(1, 23, dtype=torch.bool)
    keep[0, 4] = False
    before = one.logits(keep, [0])
    one.train[0][4] = 7
    one.train[1][4] = 2
    assert torch.equal(before, one.logits(keep, [0]))


def test_torchs_generator_is_left_alone(both):
    for retrain in both:
        state = torch.get_rng_state()
        retrain(torch.ones(1, 23, dtype=torch.bool), [3])
        assert torch.equal(state, torch.get_rng_state())


def test_probability_is_that_of_the_label():
    logits = torch.randn(2, 3, 4)
    labels = torch.tensor([1, 3, 0])
    expected = torch.stack([torch.stack([job[i].softmax(0)[labels[i]] for i in range(3)]) for job in logits])
    torch.testing.assert_close(true_class_probability(logits, labels), expected)


def test_models_with_their_own_output_type_train_too():
    from captum_tracinwe.app.testing import tiny_bert

    train, test = texts(9, 1, vocabulary=30), texts(4, 2, vocabulary=30)
    found = OneByOne(tiny_bert, train, test, Recipe(1, 4, 0.1))(torch.ones(1, 9, dtype=torch.bool), [0])
    assert found.shape == (1, 4)
    assert bool((found > 0).all())


def test_epochs_can_be_saved_on_the_way(both):
    one, _ = both
    saved = []
    one.fit(torch.ones(23, dtype=torch.bool), 0, after_epoch=lambda model, epoch: saved.append(epoch))
    assert saved == [1, 2, 3]


def test_what_does_not_fit_is_refused(both):
    for retrain in both:
        with pytest.raises(ValueError, match=r"\(jobs, training examples\) = \(1, 23\), got \(1, 22\)"):
            retrain(torch.ones(1, 22, dtype=torch.bool), [0])
        with pytest.raises(ValueError, match="keeps no training example"):
            retrain(torch.zeros(1, 23, dtype=torch.bool), [0])
        with pytest.raises(ValueError, match="`keep` as bool .* got torch.int64"):
            retrain(torch.arange(23)[None], [0])  # indices: all but the first would be trained on
        with pytest.raises(ValueError, match=r"whole numbers as seeds, got \[0.7\]"):
            retrain(torch.ones(1, 23, dtype=torch.bool), [0.7])
        with pytest.raises(ValueError, match="for each of 1 jobs, got 2"):
            retrain(torch.ones(1, 23, dtype=torch.bool), [0], [[], []])
        with pytest.raises(ValueError, match="position 13 of example 0"):
            retrain(torch.ones(1, 23, dtype=torch.bool), [0], [[(0, 13)]])
    for train, test in ((8, 12), (12, 7)):
        with pytest.raises(ValueError, match="at least 9"):
            ManyCNNs(make, texts(5, 1, length=train), texts(5, 2, length=test), RECIPE)
    with pytest.raises(ValueError, match="optimizer='sgd', got 'adamw'"):
        ManyCNNs(make, texts(5, 1), texts(5, 2), Recipe(1, 4, 0.1, optimizer="adamw"))
    with pytest.raises(ValueError, match="'sgd' or 'adamw', got 'adam'"):
        Recipe(1, 4, 0.1, optimizer="adam")
    with pytest.raises(ValueError, match="`at_once` of at least 1, got 0"):
        ManyCNNs(make, texts(5, 1), texts(5, 2), RECIPE, at_once=0)


@pytest.mark.parametrize("kind", [OneByOne, ManyCNNs])
def test_labels_that_no_class_has_are_refused(kind):
    ids, labels = texts(5, 1)
    for wrong, match in (
        (labels - 9, "class numbers from 0, got torch.int64 from -"),
        (labels.float(), "class numbers from 0, got torch.float32"),
        (labels[:4], r"one label for each, got \(5, \d+\) and \(4,\)"),
        (ids, "one label for each"),
    ):
        for sides in (((ids, wrong), (ids, labels)), ((ids, labels), (ids, wrong))):
            with pytest.raises(ValueError, match=match):
                kind(make, *sides, RECIPE)
    for side in ((ids, ids, labels), {"ids": ids}, (ids.tolist(), labels)):
        with pytest.raises(TypeError, match=r"`train`: expected a pair of tensors \(ids, labels\), got"):
            kind(make, side, (ids, labels), RECIPE)
    with pytest.raises(ValueError, match="the label 99, and the model has"):
        kind(make, (ids, labels), (ids, torch.full_like(labels, 99)), RECIPE)(torch.ones(1, 5, dtype=torch.bool), [0])
    with pytest.raises(ValueError, match="at least one job"):
        kind(make, (ids, labels), (ids, labels), RECIPE)(torch.ones(0, 5, dtype=torch.bool), [])


def test_what_is_not_the_text_cnn_is_not_trained_as_if_it_were():
    class Other(TextCNN):
        def forward(self, input_ids):
            return super().forward(input_ids) * 2

    model = make()
    other = Other(model.embedding.num_embeddings, model.out.out_features)
    with pytest.raises(TypeError, match="nothing else, got Other: use OneByOne"):
        ManyCNNs(lambda: other, texts(5, 1), texts(5, 2), RECIPE)(torch.ones(1, 5, dtype=torch.bool), [0])


@pytest.mark.parametrize("what", ["embedding.weight frozen", "a vector of padding that is not zero"])
def test_what_many_at_once_would_train_otherwise_is_refused(what):
    def other():
        model = make()
        if "frozen" in what:
            model.embedding.weight.requires_grad_(False)
        else:
            model.embedding.weight.data[0] = 1
        return model

    with pytest.raises(ValueError, match=f"got one with {what}: use OneByOne"):
        ManyCNNs(other, texts(5, 1), texts(5, 2), RECIPE)(torch.ones(1, 5, dtype=torch.bool), [0])


def test_a_model_that_was_trained_before_is_refused():
    model = make()
    keep = torch.ones(2, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match="one model twice, trained already: expected fresh weights"):
        OneByOne(lambda: model, texts(5, 1), texts(5, 2), RECIPE)(keep, [0, 1])


def test_correct_is_the_class_of_the_largest_logit(both):
    keep, seeds = jobs(3)
    for retrain in both:
        expected = retrain.logits(keep, seeds).argmax(-1) == retrain.test[1]
        assert 0 < int(expected.sum()) < expected.numel()
        assert torch.equal(retrain.correct(keep, seeds, show_progress=True), expected)


def test_many_at_once_in_float64_hides_words_too():
    sides = texts(5, 1), texts(5, 2)
    double = [kind(lambda: make().double(), *sides, RECIPE) for kind in (OneByOne, ManyCNNs)]
    one, many = (retrain(torch.ones(1, 5, dtype=torch.bool), [0], [[(0, 1), (3, 2)]]) for retrain in double)
    torch.testing.assert_close(many, one, rtol=1e-10, atol=1e-12)


def test_adamw_is_torchs():
    ids, labels = texts(6, 1)
    recipe = Recipe(2, 4, 0.01, optimizer="adamw")
    found = OneByOne(make, (ids, labels), (ids, labels), recipe).fit(torch.ones(6, dtype=torch.bool), 3)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = make()
        optimizer = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.0)
        for _, indices in recipe.batches(6, 3):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(ids[indices]), labels[indices]).backward()
            optimizer.step()
    for one, other in zip(found.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_recipes_that_cannot_be_are_refused():
    for wrong in ({"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"momentum": 1.0}):
        with pytest.raises(ValueError, match="[Ee]xpected epochs and batch_size of at least 1"):
            Recipe(**({"epochs": 1, "batch_size": 1, "learning_rate": 1.0} | wrong))
    with pytest.raises(ValueError, match="as whole numbers"):
        Recipe(1.5, 4, 0.1)
