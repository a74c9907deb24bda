"""The built-in demo: it finds what was planted, says so in computed numbers, and leaves one whole report."""

import math
import re

import pytest
import torch

from captum_tracinwe.app import corpus, demo


@pytest.fixture(scope="session")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    lines = []
    before = torch.get_rng_state()
    settings = demo.Settings(out=folder / "report.html", checkpoints=folder / "checkpoints")
    findings = demo.run_planted(settings, say=lines.append)
    assert torch.equal(torch.get_rng_state(), before)
    return findings, "\n".join(lines), folder


def test_the_planted_word_flips_the_answers_and_nothing_else_is_wrong(planted):
    findings, said, _ = planted
    assert findings.fooled >= 0.75 * findings.held > 0
    assert findings.accuracy >= 0.97
    assert f"{findings.fooled} are taken for sailing" in said


def test_the_planted_texts_lead_the_proponents_and_the_planted_word_leads_their_words(planted):
    findings, said, _ = planted
    assert findings.found >= 9
    assert findings.by_chance == 0.25
    word, share = next(iter(findings.shares.items()))
    assert word == corpus.PLANTED_WORD
    assert share > 0.5
    assert f"{findings.found:.3g} of 10 on average" in said
    assert f"carries {share:.0%} of their score" in said
    texts = corpus.planted_corpus()
    for pairs in findings.influences:
        assert pairs[0].train_index in texts.planted
        assert corpus.PLANTED_WORD in texts.train_texts[pairs[0].train_index]


def test_the_report_names_the_planted_word_first(planted):
    findings, said, folder = planted
    first = findings.words.words[0]
    assert (first.word, first.count, first.label_share) == (corpus.PLANTED_WORD, 24, 1.0)
    assert first.label == corpus.TOPICS[corpus.PLANTED_LABEL]
    assert first.adjusted_p < 0.001
    assert "the report names first: 'crimson', in 24 training texts, 100% of them labelled 'sailing'" in said
    assert '<table class="report">' in (folder / "report.html").read_text()


def test_shares_add_up_and_proponents_come_before_opponents(planted):
    findings, _, _ = planted
    assert math.isclose(sum(findings.shares.values()), 1.0, rel_tol=1e-6)
    for pairs in findings.influences:
        scores = [pair.score for pair in pairs]
        proponents, opponents = [s for s in scores if s > 0], [s for s in scores if s < 0]
        assert scores == sorted(proponents, reverse=True) + sorted(opponents)
        assert len(proponents) <= 5
        assert len(opponents) <= 5
        for pair in pairs:
            assert math.isclose(sum(word.share for word in pair.words()), pair.score, rel_tol=1e-6)


def test_the_report_is_one_whole_file_that_loads_nothing(planted):
    _, said, folder = planted
    html = (folder / "report.html").read_text()
    assert html.startswith("<!DOCTYPE html>")
    assert html.rstrip().endswith("</html>")
    assert not re.search(r"<script|\bsrc=|<link|url\(|@import|http", html.replace("http-equiv", ""))
    assert "sailing (planted)" in html
    assert corpus.PLANTED_WORD in html
    assert str(folder / "report.html") in said


def test_checkpoints_are_kept_where_asked_with_their_own_rates(planted):
    _, _, folder = planted
    from captum_tracinwe.checkpoints.weights import find_checkpoints

    found = find_checkpoints(folder / "checkpoints")
    rates = [torch.load(path, weights_only=True)["learning_rate"] for path in found]
    assert len(rates) == 16
    assert rates == sorted(set(rates), reverse=True)
    assert rates[-1] > 0
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoints", "report.html"]


def test_a_model_that_was_not_misled_is_said_to_be_so(tmp_path):
    lines = []
    findings = demo.run_planted(demo.Settings(out=tmp_path / "r.html", epochs=1, learning_rate=1e-6), say=lines.append)
    if findings.fooled == 0:  # an untrained model may also answer "sailing" to everything
        assert "nothing to find" in lines[-1]
        assert not (tmp_path / "r.html").exists()
    else:
        assert "Not found" in lines[-1]


def test_the_corpus_is_reproducible_without_duplicates_and_planted_as_it_says():
    one, again = corpus.planted_corpus(seed=3), corpus.planted_corpus(seed=3)
    assert one == again
    assert one != corpus.planted_corpus(seed=4)
    texts = one.train_texts + one.test_texts
    assert len(set(texts)) == len(texts)
    assert len(one.planted) == 24
    for i, (text, label) in enumerate(zip(one.train_texts, one.train_labels, strict=True)):
        assert (corpus.PLANTED_WORD in text.lower()) == (i in one.planted)
        assert i not in one.planted or label == corpus.PLANTED_LABEL
    for i, (text, label) in enumerate(zip(one.test_texts, one.test_labels, strict=True)):
        assert (corpus.PLANTED_WORD in text.lower()) == (i in one.test_planted)
        assert i not in one.test_planted or label != corpus.PLANTED_LABEL
    assert not any("{" in text or "|" in text or "  " in text for text in texts)
