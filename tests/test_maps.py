"""Each preconditioner on its own, against dense float64 tables ``(N, V, D)``, which share nothing with it; bad input.

How one goes with a TracInWE stands in test_preconditioners.py.
"""

import copy
import pickle
import statistics
from dataclasses import replace

import pytest
import torch

from captum_tracinwe import RowGradients
from captum_tracinwe.checkpoints.moments import adam_of
from captum_tracinwe.preconditioners import (
    Adam,
    Cooccurrence,
    Ekfac,
    GaussNewton,
    Idf,
    Kfac,
    Length,
    RowFisher,
    leads_from_word_to_word,
)

V, D, C = 14, 3, 2
LEARNED = {
    "idf": Idf(power=1.5),
    "fisher": RowFisher(damping=0.3),
    "kfac": Kfac(damping=0.2),
    "ekfac": Ekfac(damping=0.2),
    "cooccurrence": Cooccurrence(power=1.5, damping=0.05, tolerance=1e-13),
    "exact, by the Gram matrix": GaussNewton(damping=0.5),
    "exact, by conjugate gradients": GaussNewton(damping=0.5, gram_up_to=0, tolerance=1e-14),
}


def rows_of(seed, examples, dtype=torch.float64, vocabulary=V, columns=C * D):
    """Texts of two to five words, frequent ones first; the words 12 and 13 are in no training text."""
    generator = torch.Generator().manual_seed(seed)
    often = 1 / torch.arange(1.0, vocabulary + 1)
    often[12:] = 0 if seed == 0 else 1
    ids = [torch.multinomial(often, 2 + i % 4, generator=generator) for i in range(examples)]
    owners = torch.arange(examples).repeat_interleave(torch.tensor([len(one) for one in ids]))
    values = torch.randn(len(owners), columns, generator=generator, dtype=torch.float64)
    return RowGradients.from_positions(owners, torch.cat(ids), values * torch.linspace(0.1, 2, columns), examples).to(
        dtype=dtype
    )


def dense_map(name, given, train, test):
    """Of one checkpoint, dense ``(M, V, D)`` and ``(N, V, D)`` → ``(N, V, D)``, by the formula as it is printed."""
    examples = len(train)
    has = (train != 0).any(2)  # no row of a test here is all zero
    count, seen = has.sum(0).double(), has.any(0)
    squares, cov = train.square().sum((0, 2)), torch.einsum("jwd,jwe->de", train, train)
    if name == "idf":
        weight = torch.tensor(
            [float(torch.log(examples / n)) ** given.power if n else 0.0 for n in count], dtype=torch.float64
        )
        return test * weight[:, None]
    if name == "cooccurrence":
        weight = torch.where(seen, (examples / count.clamp_min(1)).log() ** given.power, 0.0)
        texts = has * weight.sqrt()
        texts = texts / texts.norm(dim=1, keepdim=True).clamp_min(1e-300)
        inverse = (texts.T @ texts / (given.damping * examples) + torch.eye(V, dtype=torch.float64)).inverse()
        return torch.einsum("vw,nwd->nvd", weight.sqrt()[:, None] * inverse * weight.sqrt(), test)
    if name == "fisher":
        return test / (squares + given.damping * squares[seen].mean())[:, None]
    if name == "kfac":
        factor = cov / has.sum() + given.damping * (cov / has.sum()).trace() / D * torch.eye(D, dtype=torch.float64)
        frequency = count / examples
        return torch.linalg.solve(factor, test.mT).mT / (frequency + given.damping * frequency[seen].mean())[:, None]
    if name == "ekfac":
        vectors = torch.linalg.svd(cov)[0]
        moments = torch.einsum("jwd,de->jwe", train, vectors).square().sum(0) / examples  # (V, D)
        margins = moments.sum(1, keepdim=True) * moments.sum(0) / moments.sum()
        return (test @ vectors) / (margins + given.damping * moments[seen].mean()) @ vectors.T
    flat = train.flatten(1)
    fisher = flat.T @ flat / examples
    fisher += given.damping * fisher.trace() / (int(seen.sum()) * D) * torch.eye(V * D, dtype=torch.float64)
    return torch.linalg.solve(fisher, test.flatten(1).T).T.view_as(test)


def dense_columns(rows, c):
    return rows.columns(c * D, (c + 1) * D).to_dense(V)


@pytest.mark.parametrize("name", LEARNED)
def test_each_map_is_its_formula_on_the_dense_table(name):
    train, test = rows_of(0, 40), rows_of(1, 6)
    assert set(test.ids.tolist()) - set(train.ids.tolist())
    assert set(train.ids.tolist()) - set(test.ids.tolist())
    fitted = LEARNED[name].fit([train.select(range(7)), train.select(range(7, 40))], checkpoints=C)
    mapped = fitted.apply(test)
    if not leads_from_word_to_word(fitted):
        assert torch.equal(mapped.ptr, test.ptr)
        assert torch.equal(mapped.ids, test.ids)
    for c in range(C):
        expected = dense_map(name.split(",")[0], LEARNED[name], dense_columns(train, c), dense_columns(test, c))
        torch.testing.assert_close(
            dense_columns(mapped, c), expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max())
        )
    assert not LEARNED[name].fitted


@pytest.mark.parametrize("name", LEARNED)
def test_at_a_checkpoint_the_map_is_that_part_of_the_whole(name):
    train, test = rows_of(0, 40), rows_of(1, 6)
    fitted = LEARNED[name].fit(train, C)
    mapped = fitted.apply(test)
    for c in range(C):
        part, columns = fitted.at(c).apply(test.columns(c * D, (c + 1) * D)), mapped.columns(c * D, (c + 1) * D)
        assert torch.equal(part.ptr, columns.ptr)
        assert torch.equal(part.ids, columns.ids)
        assert torch.equal(part.values, columns.values)
        alone = LEARNED[name].fit(train.columns(c * D, (c + 1) * D)).apply(test.columns(c * D, (c + 1) * D))
        torch.testing.assert_close(part.values, alone.values, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LEARNED)
def test_parts_that_are_merged_know_what_the_whole_knows(name):
    train, test = rows_of(0, 40), rows_of(1, 6)
    whole = LEARNED[name].fit(train, C).apply(test)
    parts = [LEARNED[name].fit(train.select(some), C) for some in (range(3), range(3, 20), range(20, 40))]
    for merged in (parts[0].merge(parts[1]).merge(parts[2]), parts[2].merge(parts[1].merge(parts[0]))):
        found = merged.apply(test)
        assert torch.equal(found.ids, whole.ids)
        torch.testing.assert_close(found.values, whole.values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LEARNED)
def test_what_was_fitted_survives_a_copy_and_a_pickle_and_does_not_change(name):
    train, test = rows_of(0, 40), rows_of(1, 6)
    fitted = LEARNED[name].fit(train, C)
    expected = fitted.apply(test).values
    assert fitted.merge(LEARNED[name].fit(rows_of(2, 9), C)).fitted
    for one in (fitted, copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted))):
        assert torch.equal(one.apply(test).values, expected)
    with pytest.raises(AttributeError, match="cannot assign"):
        fitted.statistics = None


@pytest.mark.parametrize("name", LEARNED)
def test_the_rows_given_keep_their_type_whatever_the_map_was_fitted_on(name):
    fitted = LEARNED[name].fit(rows_of(0, 40, torch.float32), C)
    exact = LEARNED[name].fit(rows_of(0, 40), C).apply(rows_of(1, 6))
    for dtype in (torch.float32, torch.float64):
        found = fitted.apply(rows_of(1, 6, dtype))
        assert found.values.dtype == dtype
        torch.testing.assert_close(found.values.double(), exact.values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("size", [1e-18, 1e15])
def test_gradients_of_any_size_make_scores_without_a_unit(name, size):
    """Squares of such gradients are beyond float32."""
    train, test = rows_of(0, 40, torch.float32), rows_of(1, 6, torch.float32)
    expected = LEARNED[name].fit(train, C).apply(test)
    found = LEARNED[name].fit(train.scale(size), C).apply(test.scale(size))
    power = 1 if name in ("idf", "cooccurrence") else -1
    torch.testing.assert_close(found.values / size**power, expected.values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LEARNED)
def test_a_checkpoint_of_zero_gradients_adds_nothing(name):
    train, test = rows_of(0, 40), rows_of(1, 6)
    train.values[:, :D] = 0
    mapped = LEARNED[name].fit(train, C).apply(test)
    scores = [mapped.columns(c * D, (c + 1) * D).dot(train.columns(c * D, (c + 1) * D)) for c in range(C)]
    assert not scores[0].any()
    assert scores[1].any()
    torch.testing.assert_close(mapped.dot(train), scores[1])


@pytest.mark.parametrize("name", LEARNED)
def test_texts_without_a_word_are_nobodys_cause(name):
    train, none = rows_of(0, 40), rows_of(1, 2).exclude(range(V))
    fitted = LEARNED[name].fit(RowGradients.cat([train, none]), C)
    assert len(fitted.apply(none)) == 2
    assert not fitted.apply(none).dot(train).any()
    alone = LEARNED[name].fit(none, C)  # no word at all
    assert not alone.apply(rows_of(1, 2)).dot(train).any()


def test_adam_divides_by_the_root_of_the_second_moment():
    test, moments = rows_of(1, 6), [torch.rand(V, D, dtype=torch.float64), torch.rand(V, D, dtype=torch.float64)]
    moments[0][3, 1] = 0  # never trained there
    adam = Adam(moments, eps=1e-3)
    mapped = adam.apply(test)
    for c in range(C):
        expected = dense_columns(test, c) / (moments[c].sqrt() + 1e-3)
        expected[:, moments[c] == 0] = 0
        torch.testing.assert_close(dense_columns(mapped, c), expected, rtol=1e-12, atol=1e-12)
        own = adam.at(c).apply(test.columns(c * D, (c + 1) * D))
        assert torch.equal(own.values, mapped.values[:, c * D : (c + 1) * D])


def trained_by(optimizer, folder, table, other, steps=3):
    """A checkpoint of two parameters after some steps, and the gradients of the table at each."""
    given, seen = optimizer([other, table]), []
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        for parameter in (other, table):
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        seen.append(table.grad.clone())
        given.step()
    folder.mkdir(exist_ok=True)
    torch.save(given.state_dict(), folder / "optimizer.pt")
    return seen


def test_adams_moments_are_read_from_the_files_of_a_trainer(tmp_path):
    table, other = torch.nn.Parameter(torch.rand(V, D)), torch.nn.Parameter(torch.rand(4, 4))
    paths, expected = [tmp_path / f"checkpoint-{steps}" for steps in (1, 3)], []
    for path, steps in zip(paths, (1, 3), strict=True):
        seen = trained_by(lambda given: torch.optim.AdamW(given, betas=(0.9, 0.8), eps=1e-4), path, table, other, steps)
        mean = sum(0.2 * 0.8 ** (steps - 1 - at) * grad.double().square() for at, grad in enumerate(seen))
        expected.append(mean / (1 - 0.8**steps))
    adam = adam_of(paths, table)
    assert adam.eps == 1e-4
    for found, moment in zip(adam.second_moments, expected, strict=True):
        torch.testing.assert_close(found.double(), moment, rtol=1e-5, atol=1e-7)


def test_optimiser_files_that_have_no_moment_of_the_table_are_refused(tmp_path):
    table, other = torch.nn.Parameter(torch.rand(V, D)), torch.nn.Parameter(torch.rand(4, 4))
    with pytest.raises(ValueError, match=r"no optimizer.pt \(SaveCheckpoints leaves it out"):
        adam_of([tmp_path], table)
    for optimizer, what in (
        (lambda given: torch.optim.SGD(given, momentum=0.9, lr=0.1), "is no Adam's.*momentum_buffer"),
        (lambda given: torch.optim.Adam(given[:1]), r"has no parameter\(s\) of the word embedding's shape \(14, 3\)"),
    ):
        trained_by(optimizer, tmp_path, table, other)
        with pytest.raises(ValueError, match=what):
            adam_of([tmp_path], table)
    trained_by(torch.optim.Adam, tmp_path, table, torch.nn.Parameter(torch.rand(V, D)))
    with pytest.raises(ValueError, match=r"has 2 parameter\(s\) of the word embedding's shape"):
        adam_of([tmp_path], table)
    for content in ([1], {"state": 1}, {"state": {}, "param_groups": [3]}):
        torch.save(content, tmp_path / "optimizer.pt")
        with pytest.raises(ValueError, match="is no state of an optimiser"):
            adam_of([tmp_path], table)
    for group in ({}, {"betas": (0.9,), "eps": 1e-8}, {"betas": (0.9, None), "eps": 1e-8}, {"betas": 1, "eps": 1}):
        state = {"exp_avg_sq": torch.ones(V, D), "step": 1}
        torch.save({"state": {0: state}, "param_groups": [{"params": [0], **group}]}, tmp_path / "optimizer.pt")
        with pytest.raises(ValueError, match="is no Adam's"):
            adam_of([tmp_path], table)
    groups = [{"params": [0], "betas": (0.9, 0.999), "eps": 1e-8}]
    for wrong in ({"exp_avg_sq": 3}, {"exp_avg_sq": torch.ones(2)}, {"step": "many"}):
        held = {**state, "exp_avg": torch.ones(V, D), **wrong}
        torch.save({"state": {0: held}, "param_groups": groups}, tmp_path / "optimizer.pt")
        with pytest.raises(ValueError, match="is no Adam's"):
            adam_of([tmp_path], table)
    state["step"] = 0
    torch.save({"state": {0: state}, "param_groups": groups}, tmp_path / "optimizer.pt")
    with pytest.raises(ValueError, match="[Ee]xpected a step that was made"):
        adam_of([tmp_path], table)
    (tmp_path / "optimizer.pt").write_bytes((tmp_path / "optimizer.pt").read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"optimizer.pt' cannot be read: it is truncated"):
        adam_of([tmp_path], table)
    with pytest.raises(ValueError, match="of one shape .*got none"):
        adam_of([], table)


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "1", None, True])
def test_settings_that_make_no_sense_are_refused(value):
    for kind, setting in (
        *((kind, "damping") for kind in (Cooccurrence, RowFisher, Kfac, Ekfac, GaussNewton)),
        (Idf, "power"),
        (GaussNewton, "tolerance"),
        (Cooccurrence, "tolerance"),
        (Cooccurrence, "power"),
    ):
        with pytest.raises(ValueError, match=f"`{setting}` should be a finite number above 0, got"):
            kind(**{setting: value})
    for setting, least in (("gram_up_to", 0), ("most_iterations", 1)):
        for wrong in (least - 1, 2.5, value):
            if wrong is not True and wrong != 0:
                with pytest.raises(ValueError, match=f"`{setting}` should be a whole number of at least {least}, got"):
                    GaussNewton(**{setting: wrong})


def test_settings_beyond_reason_are_refused():
    for kind, setting in ((Idf, "power"), (Cooccurrence, "power"), (Length, "idf_power")):
        with pytest.raises(
            ValueError, match=rf"`{setting}` should be a number above 0 and at most 64, got 1000000000\.0"
        ):
            kind(**{setting: 1e9})
        assert kind(**{setting: 64})
    for wrong in ("yes", None, 1):
        with pytest.raises(TypeError, match=f"`by_moved` should be True or False, got {wrong!r}"):
            Cooccurrence(by_moved=wrong)
    with pytest.raises(TypeError, match=r"with_moved: expected a torch.Tensor \(V,\).*, got list"):
        Cooccurrence().fit(rows_of(0, 40), C).with_moved([1.0, 2.0])


@pytest.mark.parametrize("name", LEARNED)
def test_what_cannot_be_fitted_merged_or_applied_is_refused_in_words(name):
    given, train = LEARNED[name], rows_of(0, 40)
    kind = type(given).__name__
    with pytest.raises(ValueError, match=f"This {kind} has not seen the training rows yet"):
        given.apply(train)
    with pytest.raises(ValueError, match=f"This {kind} has not seen the training rows yet"):
        given.at(0)
    for nothing in ([], rows_of(0, 2).select([])):
        with pytest.raises(ValueError, match=f"{kind}.fit: there are no training texts"):
            given.fit(nothing, C)
    with pytest.raises(TypeError, match=f"{kind}.fit: expected RowGradients, got Tensor"):
        given.fit([train.values])
    for checkpoints in (4, 0, "2"):
        with pytest.raises(ValueError, match="columns that divide by the number of checkpoints"):
            given.fit(train, checkpoints)
    with pytest.raises(ValueError, match="[Ee]xpected training rows of one form"):
        given.fit([train, rows_of(0, 5, columns=C * D + 2)], C)
    bad = rows_of(1, 6)
    bad.values[2, 1] = torch.nan
    fitted = given.fit(train, C)
    for act in (lambda: given.fit(bad, C), lambda: fitted.apply(bad)):
        with pytest.raises(ValueError, match=f"the row of token {int(bad.ids[2])} is NaN or infinite"):
            act()
    with pytest.raises(
        ValueError, match=r"got rows of 5 columns: it was fitted on rows of 6 \(2 checkpoint\(s\) of width 3\)"
    ):
        fitted.apply(rows_of(1, 6, columns=5))
    with pytest.raises(IndexError, match="fitted at 2 checkpoint"):
        fitted.at(2)
    with pytest.raises(TypeError, match=f"[Ee]xpected another {kind}"):
        fitted.merge(Adam([torch.rand(V, D)]))
    with pytest.raises(ValueError, match="has not seen"):
        fitted.merge(given)
    setting = "power" if name == "idf" else "damping"
    with pytest.raises(ValueError, match="[Ee]xpected the same settings"):
        fitted.merge(replace(given, **{setting: 7.0}).fit(train, C))


def test_words_count_by_how_far_training_moved_them():
    train, test = rows_of(0, 40), rows_of(1, 6)
    moved = torch.rand(V, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    given = Cooccurrence(power=1.5, damping=0.05, tolerance=1e-13, by_moved=True)
    found = given.fit(train, C).with_moved(moved).apply(test)
    has = (train.to_dense(V) != 0).any(2)
    count, seen = has.sum(0).double(), has.any(0)
    weight = torch.where(seen, (40 / count.clamp_min(1)).log() ** 1.5, 0.0)
    for word in range(
        V
    ):  # of words of about as many texts the median; what training moved as far, or further, counts in full
        alike = [
            float(moved[v]) for v in range(V) if seen[v] and len(f"{int(count[v]):b}") == len(f"{int(count[word]):b}")
        ]
        if seen[word]:
            weight[word] *= min(1.0, float(moved[word]) / statistics.median_low(alike))
    texts = has * weight.sqrt()
    texts = texts / texts.norm(dim=1, keepdim=True).clamp_min(1e-300)
    inverse = (texts.T @ texts / (0.05 * 40) + torch.eye(V, dtype=torch.float64)).inverse()
    expected = torch.einsum("vw,nwd->nvd", weight.sqrt()[:, None] * inverse * weight.sqrt(), test.to_dense(V))
    torch.testing.assert_close(found.to_dense(V), expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    alike = replace(given, by_moved=False).fit(train, C).apply(test)
    for still in (torch.zeros(V), torch.full((V,), 3.0)):  # a frozen table tells nothing, nor one that moved as a whole
        torch.testing.assert_close(given.fit(train, C).with_moved(still).apply(test).values, alike.values)
    with pytest.raises(ValueError, match="was not told how far training moved each word: expected with_moved"):
        given.fit(train, C).apply(test)
    for wrong in (moved[:5], -moved, moved[None], moved * torch.nan):
        with pytest.raises(ValueError, match=r"[Ee]xpected how far each of the vocabulary's vectors moved.*, got"):
            given.fit(train, C).with_moved(wrong)


@pytest.mark.parametrize("damping", [0.05, 1e-4, 1e-9])
def test_words_are_solved_for_to_the_tolerance_whatever_the_damping(damping):
    """Rounds in float32 leave little to float64, or, with a very small damping, all of it."""
    train = rows_of(0, 40)
    fitted = Cooccurrence(damping=damping, tolerance=1e-11, most_iterations=5000).fit(train, C)
    inverse = fitted._inverse
    found = inverse.columns(range(len(inverse.words)), torch.arange(len(inverse.words)))
    texts = torch.zeros(40, len(inverse.words), dtype=torch.float64)
    places = inverse.places(train.ids)[0]
    texts[train.examples, places] = inverse.weights[places].sqrt()
    texts = texts / texts.norm(dim=1, keepdim=True).clamp_min(1e-300)
    matrix = texts.T @ texts / (damping * 40) + torch.eye(len(inverse.words), dtype=torch.float64)
    assert float((found @ matrix - torch.eye(len(matrix))).norm(dim=1).max()) < 1e-10
    torch.testing.assert_close(found, matrix.inverse(), rtol=0, atol=1e-9)


def test_a_map_that_is_beyond_its_type_is_an_error():
    train, test = rows_of(0, 40, torch.float32), rows_of(1, 6, torch.float32)
    with pytest.raises(ValueError, match="What RowFisher makes of the gradient of a test example is beyond float32"):
        RowFisher(damping=0.1).fit(train.scale(1e-30), C).apply(test)


def test_conjugate_gradients_that_do_not_arrive_say_so():
    train, test = rows_of(0, 40), rows_of(1, 6)
    with pytest.raises(ValueError, match=r"after 2 iterations.*larger damping"):
        GaussNewton(damping=1e-6, gram_up_to=0, most_iterations=2).fit(train, C).apply(test)


def test_moments_that_adam_cannot_have_are_refused():
    good = torch.rand(V, D)
    for moments in (good, [good.tolist()], "adam"):
        with pytest.raises(TypeError, match="as a list of tensors"):
            Adam(moments)
    for moments in ([], [good, good[:, :2]], [good[0]]):
        with pytest.raises(ValueError, match="of one shape"):
            Adam(moments)
    for value in (-1.0, torch.nan, torch.inf):
        with pytest.raises(ValueError, match="at checkpoint 1 is NaN, infinite or below 0"):
            Adam([good, good.masked_fill(good == good.max(), value)])
    with pytest.raises(ValueError, match="`eps` should be"):
        Adam([good], eps=0)
    with pytest.raises(ValueError, match=r"rows of 6 columns: the second moments are of 1 checkpoint\(s\) of width 3"):
        Adam([good]).apply(rows_of(1, 6))
    with pytest.raises(ValueError, match=r"row of token 13: the second moments are of a table of 5 words"):
        Adam([good[:5]] * C).apply(
            RowGradients.from_positions(*(torch.tensor([0]), torch.tensor([13])), torch.ones(1, 6), 1)
        )
    with pytest.raises(IndexError, match="[Ee]xpected a number from 0 to 0"):
        Adam([good]).at(1)
