"""Promises of `report.py`: totals that add up, labels that stick shown as such, p-values that mean what they say."""

import dataclasses
import itertools
import math
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from captum_tracinwe import ReportedWord, TracInWE, WordReport, word_report
from captum_tracinwe import visualization as viz
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, tiny_bert, toy_texts, toy_tracin
from captum_tracinwe.gradients.live_source import LiveSource
from captum_tracinwe.words.association import _excess, _tail_bound, association, benjamini_hochberg
from captum_tracinwe.words.report import order
from captum_tracinwe.words.texts import from_ids

EVIL = "<script>alert(1)</script>"
VOCABULARY = [f"word{i}" for i in range(30)]


@pytest.fixture
def explained(tmp_path):
    """A CNN with three checkpoints, its training texts and three test texts."""
    (ids, _, labels), (test_ids, _, test_labels) = toy_texts(40, seed=1), toy_texts(3, seed=2)
    model = TinyCNN(padding_idx=0)
    paths = scatter_checkpoints(model, tmp_path)
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    tracin = TracInWE(model, TensorDataset(ids, labels), paths, loss_fn=loss, batch_size=7)
    texts = [from_ids([i for i in row if i], VOCABULARY) for row in ids.tolist()]
    return tracin, (test_ids, test_labels), labels, texts


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=str)
@pytest.mark.parametrize("limit", [1 << 30, 1])
def test_totals_add_up_to_all_scores(explained, dtype, bound, limit):
    tracin, test, labels, texts = explained
    tracin.model.to(dtype)
    tracin.memory_limit = limit
    scores = tracin.influence(test).double()
    for report in (
        word_report(tracin, test, labels, train_texts=texts),
        word_report(tracin, test, labels, vocabulary=VOCABULARY),
        word_report(tracin, test, labels),
    ):
        size = sum(abs(share) for word in report.words for _, share in word.examples)
        assert abs(report.score - float(scores.sum())) <= bound * max(size, float(scores.abs().sum()))
        assert math.isclose(sum(word.total for word in report.words), report.score, rel_tol=1e-9)
        assert (report.tests, report.trains) == (3, 40)
        for word in report.words:
            assert math.isclose(word.proponent + word.opponent, word.total, abs_tol=1e-9)


def test_a_printed_report_is_short(explained):
    tracin, test, labels, texts = explained
    report = word_report(tracin, test, labels, train_texts=texts, draws=10)
    few = report.words
    report = dataclasses.replace(report, words=few * 3)
    lines = str(report).splitlines()
    assert "\n".join(lines[:-1]) == viz.word_report_text(report, top=12)
    assert lines[-1] == f"  ... and {len(few) * 3 - 12} more: see to_table()"
    assert repr(report) == f"WordReport(words=<{len(few) * 3} words>, score={report.score:.6g}, tests=3, trains=40)"
    report = dataclasses.replace(report, words=few)
    assert str(report) == viz.word_report_text(report)


def test_a_words_numbers_are_those_of_word_influence(explained):
    tracin, test, labels, texts = explained
    report = word_report(tracin, test, labels, train_texts=texts, examples=40)
    expected: dict[str, dict[int, float]] = {}
    for pairs in tracin.word_influence(test, [list(range(40))] * 3):
        for pair in pairs:
            for word in pair.with_texts(None, texts[pair.train_index]).words():
                by_text = expected.setdefault(word.text, {})
                by_text[pair.train_index] = by_text.get(pair.train_index, 0.0) + word.share
    assert {word.word for word in report.words} == set(expected)
    for word in report.words:
        by_text = expected[word.word]
        assert word.count == len(by_text)
        torch.testing.assert_close(dict(word.examples), by_text, rtol=1e-4, atol=1e-6)
        own = [int(labels[i]) for i in by_text]
        assert word.label_share == pytest.approx(own.count(int(word.label)) / len(own))
        assert word.base_share == pytest.approx(float((labels == int(word.label)).double().mean()))


def test_texts_taken_by_length_keep_their_indices(tmp_path):
    ids, mask, labels = toy_texts(20, seed=1)
    rows = [{"input_ids": i, "attention_mask": m, "labels": y} for i, m, y in zip(ids, mask, labels, strict=True)]
    model = tiny_bert()
    paths = scatter_checkpoints(model, tmp_path)
    test = torch.utils.data.default_collate(rows[:2])
    found = [
        word_report(TracInWE(model, rows, paths, loss_fn=torch.nn.CrossEntropyLoss(), batch_size=4, order_by_length=by),
                    test, labels, examples=20)
        for by in (False, True)
    ]  # fmt: skip
    for plain, ordered in zip(found[0].words, found[1].words, strict=True):
        assert plain.word == ordered.word
        torch.testing.assert_close(dict(plain.examples), dict(ordered.examples), rtol=1e-3, atol=1e-6)


def test_a_word_that_always_comes_with_one_label_comes_first():
    generator = np.random.default_rng(0)
    labels = ["b"] * 12 + list(generator.choice(["a", "b", "c"], 188))
    found = association(labels, {(False, "planted"): range(12), (False, "every"): range(200)}, 10_000, 0)
    planted, every = found[False, "planted"], found[False, "every"]
    assert (planted["label"], planted["label_share"]) == ("b", 1.0)
    assert 0 < planted["p_value"] < 1 / 10_001  # no deal was as extreme: a bound
    assert every["p_value"] == 1.0  # a word of every text sticks to nothing


def test_p_values_of_words_dealt_at_random_are_uniform():
    generator = np.random.default_rng(1)
    labels = list(generator.choice(["a", "b", "c", "d"], 1000))
    words = {(False, str(i)): generator.choice(1000, 40, replace=False) for i in range(2000)}
    p = np.sort([row["p_value"] for row in association(labels, words, 5000, 0).values()])
    for level in (0.01, 0.05, 0.2, 0.5):  # discrete: never too small, and not far above
        assert np.mean(p <= level) <= level + 3 * math.sqrt(level / 2000)
        assert np.mean(p <= level) >= 0.5 * level


def test_a_p_value_is_that_of_permuted_labels():
    labels = ["a"] * 6 + ["b"] * 14
    holders = [0, 1, 2, 3, 6]
    p = association(labels, {(False, "w"): holders}, 50_000, 0)[False, "w"]["p_value"]
    # By Fisher's exact test, both ways: P(4 or 5 "a" of 5) + P(as far the other way, which no count is).
    exact = sum(math.comb(6, a) * math.comb(14, 5 - a) for a in (4, 5)) / math.comb(20, 5)
    assert p == pytest.approx(exact, rel=0.15)  # four standard errors of 50,000 draws


def test_one_planted_word_among_thousands_sticks_to_its_label():
    generator = np.random.default_rng(0)
    labels = ["b"] * 24 + list(generator.choice(["a", "b", "c", "d"], 976))
    words = {(False, str(i)): generator.choice(1000, generator.integers(2, 60), replace=False) for i in range(5000)}
    found = association(labels, words | {(False, "planted"): range(24)}, 10_000, 0)
    assert [name for (_, name), row in found.items() if row["adjusted_p"] <= 0.05] == ["planted"]


@pytest.mark.parametrize("totals", [[6, 14], [5, 7, 8], [2, 3, 15], [1, 19], [4, 4, 6, 6]])
def test_the_bound_of_a_p_value_is_never_below_the_exact_one(totals):
    totals = np.array(totals)
    for n in (1, 2, 5, 9, 19):
        counts = [c for c in itertools.product(*(range(t + 1) for t in totals)) if sum(c) == n]
        ways = np.array([math.prod(math.comb(t, x) for t, x in zip(totals, c, strict=True)) for c in counts])
        most = _excess(np.array(counts), totals).max(1)
        for value in np.unique(most.round(9)):
            exact = ways[most >= value - 1e-8].sum() / ways.sum()
            bound = _tail_bound(float(value), n, totals)
            assert bound >= exact * (1 - 1e-9)
            if exact < 1e-3:
                assert bound <= 2 * exact


def test_a_word_counts_in_texts_that_spell_it_with_other_tokens():
    names = [f"word{i}" for i in range(30)]
    names[5:7] = ["crimson", "Crimson"]
    ids = torch.randint(10, 20, (20, 6), generator=torch.Generator().manual_seed(0))
    ids[:5, 0], ids[5:10, 0] = 5, 6
    test = torch.full((1, 6), 5)  # in lower case only
    labels = torch.tensor([1] * 5 + [0] * 15)
    model = TinyCNN(padding_idx=0)
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    tracin = TracInWE(model, TensorDataset(ids, labels), [model.state_dict()], lambda m, c: 1.0, loss_fn=loss)
    texts = [from_ids(row, names) for row in ids]
    report = word_report(
        tracin, (test, labels[:1]), labels, train_texts=texts, groups=()
    )  # two of them are nearly the same
    (word,) = report.words
    assert (word.word, word.count, word.label_share) == ("crimson", 10, 0.5)
    assert {index for index, _ in word.examples} <= set(range(5))  # those that act


def test_adjusted_values_are_those_of_benjamini_and_hochberg():
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 4 / 75, 4 / 75, 0.5])


def test_the_same_seed_gives_the_same_report(explained):
    tracin, test, labels, texts = explained
    first, second = (word_report(tracin, test, labels, train_texts=texts, seed=3) for _ in range(2))
    assert first == second


def test_a_report_is_a_table_with_and_without_pandas(explained, monkeypatch):
    tracin, test, labels, texts = explained
    report = word_report(tracin, test, labels, train_texts=texts)
    monkeypatch.setitem(sys.modules, "pandas", None)
    rows = report.to_table()
    assert isinstance(rows, list)
    assert rows == list(report.words)
    monkeypatch.undo()
    pandas = pytest.importorskip("pandas")
    table = report.to_table()
    assert isinstance(table, pandas.DataFrame)
    assert list(table["total"]) == [word.total for word in report.words]
    assert list(table["sticks"]) == [word.sticks for word in report.words]


def test_pictures_escape_what_they_show(explained):
    tracin, test, labels, _ = explained
    names = [EVIL] * 30
    report = word_report(tracin, test, [EVIL] * 20 + ["\x1b[31mred"] * 20, vocabulary=names)
    for page in (viz.word_report_html(report, title=EVIL), viz.word_report_fragment(report), report._repr_html_()):
        assert "<script" not in page
        assert "&lt;script&gt;" in page
        assert "proponent" in page
    assert "\x1b" not in viz.word_report_text(report)
    turned = word_report(tracin, test, ["\u202ertl"] * 20 + ["ltr"] * 20, vocabulary=names)
    for picture in (viz.word_report_html, viz.word_report_text):
        assert "\u202e" not in picture(turned)
    fig, ax = viz.plot_word_report(report)
    assert len(ax.get_yticklabels()) == len(report.words[:15])
    fig.canvas.draw()


def test_a_plot_goes_into_given_axes_and_nothing_is_drawn_of_nothing():
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    empty = WordReport((), 0.0, 1, 1)
    assert viz.plot_word_report(empty, ax=axes, title="t")[1] is axes
    assert "No test text shares a word" in viz.word_report_html(empty)
    assert viz.word_report_text(empty) == "No test text shares a word with a training text."


def test_a_long_report_says_what_it_leaves_out(explained):
    tracin, test, labels, texts = explained
    report = word_report(tracin, test, labels, train_texts=texts)
    assert f"{len(report.words) - 3} more" in viz.word_report_html(report, top=3)


def test_what_does_not_fit_is_refused(explained):
    tracin, test, labels, texts = explained
    with pytest.raises(ValueError, match=r"one of `train_labels` for each of the 40 training examples, got 39"):
        word_report(tracin, test, labels[1:])
    with pytest.raises(ValueError, match=r"one of `train_texts` for each of the 40 training examples, got 3"):
        word_report(tracin, test, labels, train_texts=texts[:3])
    with pytest.raises(
        ValueError, match=r"has the token 'word\d+' \(id \d+\), which the model did not get in training"
    ):
        word_report(tracin, test, labels, train_texts=texts[::-1])
    with pytest.raises(ValueError, match=r"does not hold the shared token"):
        word_report(tracin, test, labels, train_texts=[from_ids(text.token_ids[:1], VOCABULARY) for text in texts])
    with pytest.raises(ValueError, match=r"the vocabulary \(2 entries\) has no name for token id"):
        word_report(tracin, test, labels, vocabulary=["a", "b"])
    for name, value in (("draws", 0), ("draws", 1.5), ("examples", -1), ("seed", "x")):
        with pytest.raises(ValueError, match=rf"`{name}` as a whole number of at least [01], got"):
            word_report(tracin, test, labels, **{name: value})
    with pytest.raises(ValueError, match="`draws` of at most 10,000,000, got 100,000,000"):
        word_report(tracin, test, labels, draws=10**8)
    for wrong, error, message in (
        (None, ValueError, "expected a label for every training example, got None for example 3"),
        (float("nan"), ValueError, "got nan for example 3"),
        ({"a": 1}, TypeError, "as a name or a number, got {'a': 1} for example 3"),
        ("1", TypeError, "as names or as numbers, got both"),
    ):
        with pytest.raises(error, match=message):
            word_report(tracin, test, [*labels[:3], wrong, *labels[4:]])
    for wrong in (None, "a" * 40, torch.zeros(40, 2)):
        with pytest.raises(TypeError, match=r"`train_labels` as a list or a tensor \(M,\)"):
            word_report(tracin, test, wrong)
    with pytest.raises(TypeError, match=r"`train_texts` as TokenizedText, got str"):
        word_report(tracin, test, labels, train_texts=["a"] * 40)
    with pytest.raises(TypeError, match="[Ee]xpected a TracInWE first, got TinyCNN"):
        word_report(tracin.model, test, labels)
    for picture in (viz.word_report_html, viz.word_report_text, viz.plot_word_report):
        with pytest.raises(TypeError, match="[Ee]xpected a WordReport"):
            picture([])
        with pytest.raises(ValueError, match="`top` as a whole number of at least 0, got -1"):
            picture(WordReport((), 0.0, 1, 1), top=-1)


def test_one_label_only_sticks_to_nothing(explained):
    tracin, test, _, texts = explained
    report = word_report(tracin, test, ["x"] * 40, train_texts=texts)
    assert {word.p_value for word in report.words} == {1.0}
    assert {(word.label, word.certainty, word.sticks) for word in report.words} == {("", 0.0, False)}
    assert "x 100%" not in viz.word_report_text(report)
    assert "–" in viz.word_report_text(report)
    viz.plot_word_report(report)[0].canvas.draw()


def test_labels_of_all_kinds_of_numbers_read_alike(explained):
    tracin, test, labels, texts = explained
    expected = word_report(tracin, test, labels, train_texts=texts)
    for kind in (labels.tolist(), list(labels), labels.numpy(), list(labels.numpy()), labels.double(), labels * 1.0):
        assert word_report(tracin, test, kind, train_texts=texts) == expected


def test_words_that_stick_stand_by_total_steadiness_and_certainty(explained):
    tracin, test, labels, texts = explained
    seen = [{text.text[start:end].lower() for start, end in text.word_spans().values()} for text in texts]
    halves = [w.word for w in word_report(tracin, test, labels, train_texts=texts).words if 8 <= w.count <= 25][:2]
    by_word = ["".join(str(word in words) for word in halves) for words in seen]
    report = word_report(tracin, test, by_word, train_texts=texts)
    assert sum(word.sticks for word in report.words) >= 2
    assert list(report.words) == sorted(report.words, key=order)

    def word(name, total, away, share):
        """``total`` is left of what pulls one way, ``away`` the other; ``share`` of its texts have the label that half have."""
        return ReportedWord(name, total, total + away, -away, 30, "b", share, 0.5, 1e-6, 1e-6, ())

    steady, large, certain = (
        word("steady", 5.0, 0.0, 1.0),
        word("large", 9.0, 41.0, 1.0),
        word("certain", 6.0, 0.0, 1.0),
    )
    unsure, other = word("unsure", 9.0, 0.0, 0.8), word("other", 99.0, 0.0, 0.6)
    found = sorted([other, large, steady, unsure, certain], key=order)
    assert [word.word for word in found] == ["certain", "unsure", "steady", "large", "other"]
    assert large.steadiness == pytest.approx(9 / 91)
    nothing = ReportedWord("the", 0.0, 0.0, 0.0, 3, "", 0.0, 0.0, 1.0, 1.0, ())
    assert nothing.steadiness == 0.0


def test_a_slight_preference_is_beyond_chance_and_yet_does_not_stick(explained):
    word = ReportedWord("the", 9.0, 9.0, 0.0, 3000, "b", 0.30, 0.25, 1e-9, 1e-6, ())
    assert not word.sticks
    assert word.certainty == pytest.approx(0.05 / 0.75)
    assert not dataclasses.replace(word, label_share=0.62).sticks  # not half of the way from 25 % to all
    assert dataclasses.replace(word, label_share=0.63).sticks
    strong = dataclasses.replace(word, word="crimson", label_share=0.9, total=1.0)
    assert strong.sticks
    assert not dataclasses.replace(strong, special=True).sticks
    assert not dataclasses.replace(strong, adjusted_p=0.06).sticks
    report = WordReport((strong, word), 10.0, 1, 4000)
    assert viz.word_report_html(report).count("<b><bdi>") == 2  # crimson, and its label
    _, ax = viz.plot_word_report(report)
    assert [label.get_fontweight() for label in ax.get_yticklabels()] == ["bold", "normal"]


def test_a_text_that_was_cut_in_training_is_refused_whole():
    ids = torch.randint(1, 30, (12, 6), generator=torch.Generator().manual_seed(0))
    tracin = TracInWE(
        TinyCNN(padding_idx=0), TensorDataset(ids[:, :4], ids[:, 0] % 3), ["now"], lambda model, path: 1.0,
        loss_fn=torch.nn.CrossEntropyLoss(reduction="none"), batch_size=4,
    )  # fmt: skip
    test, labels = (ids[:2, :4], ids[:2, 0] % 3), (ids[:, 0] % 3).tolist()
    with pytest.raises(ValueError, match="tokenized as in training, with the same max_length"):
        word_report(tracin, test, labels, train_texts=[from_ids(row, VOCABULARY) for row in ids])
    word_report(tracin, test, labels, train_texts=[from_ids(row[:4], VOCABULARY) for row in ids])


def test_few_texts_and_many_labels_are_dealt_as_many_texts_and_few_labels_are():
    generator = np.random.default_rng(0)
    labels = [f"label{i}" for i in generator.integers(0, 12, 400)]
    words = {(False, str(n)): generator.choice(400, n, replace=False) for n in (2, 5, 11)}  # fewer than labels: by text
    by_text = association(labels, words, 20_000, 0)
    totals = np.bincount(np.searchsorted(sorted(set(labels)), labels))
    for (_, name), row in by_text.items():
        dealt = np.random.default_rng(1).multivariate_hypergeometric(totals, int(name), size=20_000, method="marginals")
        counts = np.bincount(
            np.searchsorted(sorted(set(labels)), [labels[i] for i in words[False, name]]), minlength=12
        )
        most = _excess(counts[None], totals).max()
        assert row["p_value"] == pytest.approx(np.mean(_excess(dealt, totals).max(1) >= most - 1e-9), abs=0.02)


def test_thousands_of_labels_are_dealt_in_bounded_memory(monkeypatch):
    labels = [f"label{i}" for i in range(300)] * 2
    words = {(False, "w"): range(0, 600, 60)}
    expected = association(labels, words, 500, 0)
    monkeypatch.setattr("captum_tracinwe.association._DEALT_AT_ONCE", 1000)
    found = association(labels, words, 500, 0)
    assert found[False, "w"]["p_value"] == pytest.approx(expected[False, "w"]["p_value"], abs=0.05)


def test_accents_written_in_two_ways_are_one_word():
    names = [f"word{i}" for i in range(30)]
    names[5:7] = ["caf\u00e9", "Cafe\u0301"]
    ids = torch.randint(10, 20, (20, 6), generator=torch.Generator().manual_seed(0))
    ids[:3, 0], ids[3:6, 0] = 5, 6
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    data = TensorDataset(ids, torch.arange(20) % 2)
    tracin = TracInWE(TinyCNN(padding_idx=0), data, ["now"], lambda model, path: 1.0, loss_fn=loss)
    texts = [from_ids(row, names) for row in ids]
    report = word_report(tracin, (torch.tensor([[5, 6]]), torch.tensor([1])), [0, 1] * 10, train_texts=texts)
    assert [(word.word, word.count) for word in report.words] == [("caf\u00e9", 6)]


@pytest.mark.parametrize("top_k_words", [None, 2])
def test_from_an_index_deleted_examples_have_no_part_and_the_others_keep_their_numbers(
    tmp_path, monkeypatch, top_k_words
):
    whole, inputs = toy_tracin(trains=12, top_k_words=top_k_words)
    labels = torch.cat([labels for _, labels in whole.train_dataloader])
    whole.build_index(tmp_path / "index").delete([0, 3])
    tracin, _ = toy_tracin(trains=12, top_k_words=top_k_words, index=tmp_path / "index")
    monkeypatch.setattr(LiveSource, "_by_place", None)  # nothing is computed of the training set
    report = word_report(tracin, inputs, labels, draws=50)
    assert report.trains == 10
    monkeypatch.undo()
    scores = whole.influence(inputs).sum(0)
    scores[[0, 3]] = 0
    assert report.score == pytest.approx(float(scores.sum()), rel=1e-4)
    shares = torch.zeros(12, dtype=torch.float64)
    for word in word_report(tracin, inputs, labels, draws=50, examples=12).words:
        for index, share in word.examples:
            shares[index] += share
    torch.testing.assert_close(shares, scores.double(), rtol=1e-4, atol=1e-8)
    with pytest.raises(ValueError, match="`train_labels` for each of the 12 training examples, got 10"):
        word_report(tracin, inputs, labels[2:], draws=50)
