"""TracIn-WE-Syn: the best one-to-one matching, by brute force; shares that add up; who met whom, seen."""

import itertools
import re
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from captum_tracinwe import TracInWE, synonym_influence, synonym_scores
from captum_tracinwe import visualization as viz
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, toy_texts
from captum_tracinwe.checkpoints.weights import load_checkpoint
from captum_tracinwe.installing import install
from captum_tracinwe.words.synonyms import _assignment
from captum_tracinwe.words.texts import from_ids

pytest.importorskip("scipy")
LOSS = torch.nn.CrossEntropyLoss(reduction="none")
EVIL = "<script>alert(1)</script>"


@pytest.fixture
def explained(tmp_path):
    (ids, _, labels), (test_ids, _, test_labels) = toy_texts(9, seed=1), toy_texts(3, seed=2)
    model = TinyCNN(padding_idx=0, width=3).double()  # so narrow that many words are alike
    paths = scatter_checkpoints(model, tmp_path)
    tracin = TracInWE(model, TensorDataset(ids, labels), paths, loss_fn=LOSS, batch_size=4)
    return tracin, (test_ids, test_labels), ids


def best_by_brute_force(products, allowed):
    """Σ|product| of the best of all partial matchings."""
    rows, columns = products.shape
    if rows > columns:
        return best_by_brute_force(products.T, allowed.T)
    weights = np.abs(products) * allowed
    return max(weights[range(rows), list(p)].sum() for p in itertools.permutations(range(columns), rows))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_matching_is_the_best_of_all_permutations(data):
    rows, columns = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    products = generator.standard_normal((rows, columns))
    allowed = generator.random((rows, columns)) < data.draw(st.sampled_from([0.0, 0.2, 0.5, 1.0]))
    chosen_rows, chosen_columns = _assignment()(products, allowed)
    assert allowed[chosen_rows, chosen_columns].all()
    assert len(set(chosen_rows.tolist())) == len(chosen_rows) == len(set(chosen_columns.tolist()))
    total = np.abs(products[chosen_rows, chosen_columns]).sum()
    assert total == pytest.approx(best_by_brute_force(products, allowed), abs=1e-12)


def scores_by_brute_force(tracin, test, k, min_cosine):
    finder = TracInWE(tracin.model, tracin.train_dataloader, tracin.checkpoints, loss_fn=LOSS, top_k_words=k)
    scores = 0
    for path in tracin.checkpoints:
        finder.checkpoints = [path]
        a, b = finder.row_gradients(test), finder.row_gradients()
        before = {name: tensor.clone() for name, tensor in tracin.model.state_dict().items()}
        load_checkpoint(tracin.model, path)
        table = tracin.model.embedding.weight.detach().clone()
        tracin.model.load_state_dict(before)
        part = torch.zeros(len(a), len(b), dtype=torch.float64)
        for i, j in itertools.product(range(len(a)), range(len(b))):
            (ids, values), (others, other_values) = a[i], b[j]
            products = (values @ other_values.T).numpy()
            allowed = np.array(
                [
                    [
                        bool(w == v) or float(torch.cosine_similarity(table[w], table[v], dim=0)) > min_cosine
                        for v in others
                    ]
                    for w in ids
                ]
            )
            weights = np.abs(products) * allowed
            n, m = weights.shape
            flip = n > m
            weights, signed = (weights.T, (products * allowed).T) if flip else (weights, products * allowed)
            best = max(
                itertools.permutations(range(weights.shape[1]), weights.shape[0]),
                key=lambda p: weights[range(weights.shape[0]), list(p)].sum(),
            )
            part[i, j] = signed[range(weights.shape[0]), list(best)].sum()
        scores = scores + part
    return scores


@pytest.mark.parametrize("min_cosine", [0.7, 0.2])
def test_scores_are_those_of_brute_force(explained, min_cosine):
    tracin, test, _ = explained
    expected = scores_by_brute_force(tracin, test, 5, min_cosine)
    found = synonym_scores(tracin, test, k=5, min_cosine=min_cosine)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=str)
def test_shares_of_who_met_whom_add_up_to_the_score(explained, dtype, bound):
    tracin, test, ids = explained
    tracin.model.to(dtype)
    scores = synonym_scores(tracin, test, k=5)
    texts = [from_ids([i for i in row if i]) for row in torch.cat([test[0], ids]).tolist()]
    different = 0
    for i, row in enumerate(synonym_influence(tracin, test, [list(range(9))] * 3, k=5)):
        for j, pair in enumerate(row):
            shown = pair.with_texts(texts[i], texts[3 + j])
            size = float(pair.shares.abs().sum())
            assert abs(pair.score - float(scores[i, j])) <= 2 * bound * size
            for parts in (pair.shares.tolist(), [w.share for w in pair.words()], [w.share for w in shown.words()]):
                assert abs(sum(parts) - pair.score) <= bound * size
            different += int((pair.test_ids != pair.train_ids).sum())
            assert bool((pair.cosines > 0.7).all())
    assert different > 0


def test_with_no_word_like_another_it_is_top_k(explained):
    tracin, test, _ = explained
    plain = TracInWE(tracin.model, tracin.train_dataloader, tracin.checkpoints, loss_fn=LOSS, top_k_words=4)
    torch.testing.assert_close(synonym_scores(tracin, test, k=4, min_cosine=2.0), plain.influence(test))
    assert tracin.top_k_words is None  # the user's object is as it was


def test_zero_vectors_are_like_no_other(explained):
    tracin, test, _ = explained
    zeros = TinyCNN(padding_idx=0, width=3).double()
    torch.nn.init.zeros_(zeros.embedding.weight)
    paths = [f"{tracin.checkpoints[0]}.zero.pt"]
    from captum_tracinwe import save_checkpoint

    save_checkpoint(paths[0], zeros, 1.0)
    tracin.checkpoints = paths
    plain = TracInWE(tracin.model, tracin.train_dataloader, paths, loss_fn=LOSS, top_k_words=4)
    torch.testing.assert_close(synonym_scores(tracin, test, k=4, min_cosine=-0.5), plain.influence(test))


def test_a_page_shows_who_met_whom_and_escapes_it(explained):
    tracin, test, ids = explained
    names = [EVIL if i % 2 else f"w{i}" for i in range(30)]
    found = synonym_influence(tracin, test, [[0, 1]] * 3, k=5)
    texts = [from_ids([i for i in row if i], names, label=EVIL) for row in torch.cat([test[0], ids]).tolist()]
    shown = [pair.with_texts(texts[i], texts[3 + pair.train_index]) for i, row in enumerate(found) for pair in row]
    for page in (viz.synonym_influence_html([shown], title=EVIL), shown[0]._repr_html_(), found[0][0]._repr_html_()):
        assert "<script" not in page
        assert "↔" in page
    assert "&lt;script&gt;" in viz.synonym_influence_html(shown, top_words=1)
    assert "more" in viz.synonym_influence_html(shown, top_words=1)
    assert "no pair" in viz.synonym_influence_html([])
    text = viz.synonym_influence_text(shown, top_words=1)
    assert "w2" in text or "<script" in text
    assert text.count("↔") == len(shown)
    assert viz.synonym_influence_html(shown[0]) == viz.synonym_influence_html([shown[0]])
    assert "no pair" in viz.synonym_influence_text([])


def test_what_does_not_fit_is_refused(explained, monkeypatch):
    tracin, test, ids = explained
    for k in (0, 1.5, True):
        with pytest.raises(ValueError, match="`k` as a whole number of at least 1"):
            synonym_scores(tracin, test, k=k)
    for cosine in (float("nan"), -1, "0.7"):
        with pytest.raises(ValueError, match="`min_cosine` as a number above -1"):
            synonym_scores(tracin, test, min_cosine=cosine)
    with pytest.raises(ValueError, match="names training example 9"):
        synonym_influence(tracin, test, [[9], [0], [0]])
    assert synonym_influence(tracin, test, [[], [], []]) == [[], [], []]
    pair = synonym_influence(tracin, test, [[0], [0], [0]])[0][0]
    with pytest.raises(ValueError, match="does not hold the shared token"):
        pair.with_texts(from_ids([29]), None)
    with pytest.raises(TypeError, match="[Ee]xpected SynonymInfluence, .* got int"):
        viz.synonym_influence_html([[3]])
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=re.escape(install("scipy", "synonyms"))):
        synonym_scores(tracin, test)
