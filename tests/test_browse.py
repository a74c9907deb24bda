"""Whom a training text influenced: the same scores as asking the model, read from the index, and a page of them."""

import csv
import json
import re

import pytest
import torch
from browser import BROWSER
from cases_of_texts import pair_of, text_of
from torch import nn

from captum_tracinwe import TracInWE, save_checkpoint
from captum_tracinwe.app import training
from captum_tracinwe.app.cli import main
from captum_tracinwe.app.testing import TinyCNN, toy_texts, toy_tracin
from captum_tracinwe.gradients.live import LiveRows
from captum_tracinwe.index import pushed_by
from captum_tracinwe.visualization import pushed_html, write_html

WORDS = {"pets": "cat dog hamster paw tail fur leash", "boats": "ship sail harbour deck mast anchor keel"}
TEXTS = [
    (" ".join(["the", *(WORDS[label].split()[(i + step) % 7] for step in (0, 2, 3))]), label)
    for i in range(10)
    for label in ("pets", "boats")
]


@pytest.fixture
def asked(tmp_path):
    """TracInWE over a training set, and over its index, of the same options; and its texts as inputs."""

    def make(**options):
        ids, _, labels = toy_texts(30)
        torch.manual_seed(0)
        model = TinyCNN()
        for step in (1, 2):
            save_checkpoint(tmp_path / "steps" / f"step-{step}.pt", model, 0.1 * step)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.05 * torch.randn_like(parameter)
        data = torch.utils.data.TensorDataset(ids, labels)
        given = {"loss_fn": nn.CrossEntropyLoss(reduction="none"), "batch_size": 8, **options}
        live = TracInWE(model, data, tmp_path / "steps", **given)
        index = live.build_index(tmp_path / "index", segment_examples=8)
        return live, TracInWE(model, None, tmp_path / "steps", index=index, **given), (ids, labels)

    return make


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"preconditioner": "idf", "normalize": "words"},
        {"preconditioner": "cooccurrence", "normalize": "gradient"},
        {"preconditioner": "fisher"},
        {"preconditioner": "auto"},
    ],
    ids=lambda options: str(options.get("preconditioner")),
)
def test_the_pushed_are_those_that_asking_about_every_training_text_finds(asked, options):
    live, stored, inputs = asked(**options)
    scores = live.influence(inputs).clone()  # [i, j]: of training text j on training text i
    scores.fill_diagonal_(0)
    found = pushed_by(stored, [11, 3, 11], inputs, k=4)
    assert len(found) == 3
    assert [pair.score for pair in found[0]] == [pair.score for pair in found[2]]
    for by, pairs in zip((11, 3), found, strict=False):
        column = scores[:, by]
        towards = [i for i in column.argsort(descending=True, stable=True).tolist() if column[i] > 0][:4]
        away = [i for i in column.argsort(stable=True).tolist() if column[i] < 0][:4]
        assert [(pair.test_index, pair.train_index) for pair in pairs] == [(i, by) for i in towards + away]
        for pair in pairs:
            assert pair.score == pytest.approx(float(column[pair.test_index]), rel=1e-3, abs=1e-12)


def test_no_gradient_is_computed(asked, monkeypatch):
    _, stored, inputs = asked(preconditioner="auto")

    def computed(*_, **__):
        raise AssertionError("a gradient was computed")

    for name in ("rows", "self_influence"):
        monkeypatch.setattr(LiveRows, name, computed)
    assert all(pushed_by(stored, [0, 1], inputs, k=2))


def test_what_is_not_there_is_refused(asked, tmp_path):
    tracin, inputs = toy_tracin()
    with pytest.raises(ValueError, match="[Ee]xpected a TracInWE over an index"):
        pushed_by(tracin, [0], inputs)
    live, stored, inputs = asked()
    assert pushed_by(stored, [], inputs) == []
    with pytest.raises(ValueError, match="[Ee]xpected `k` as a whole number of at least 1, got 0"):
        pushed_by(stored, [0], inputs, k=0)
    with pytest.raises(ValueError, match="The index has no training example 30"):
        pushed_by(stored, [30], inputs)
    index = live.build_index(tmp_path / "small", project=2)
    projected = TracInWE(live.model, None, tmp_path / "steps", index=index, loss_fn=live.loss_fn)
    with pytest.raises(ValueError, match=r"built with project=\.\.\., and keeps no whole gradients"):
        pushed_by(projected, [0], inputs)


def test_deleted_texts_are_neither_asked_nor_pushed(asked):
    _, stored, inputs = asked()
    index = stored.index.delete([4, 9])
    left = TracInWE(stored.model, None, stored.checkpoints, index=index, loss_fn=stored.loss_fn)
    assert {4, 9}.isdisjoint(pair.test_index for pairs in pushed_by(left, [3], inputs, k=30) for pair in pairs)
    with pytest.raises(ValueError, match="The index has no training example 4"):
        pushed_by(left, [4], inputs)


# --------------------------------------------------------------------------------------------------------------- page


def test_the_page_is_a_list_with_links_between_its_texts():
    texts = {
        1: text_of("x", "y", label="a"),
        2: text_of("y", "z", label="b"),
        3: text_of("<script>alert(1)</script>", "x", label="<b>"),
    }
    pushed = {
        1: [pair_of(texts[2], texts[1], [2.0], 2, 1), pair_of(texts[3], texts[1], [-1.0], 3, 1)],
        2: [pair_of(texts[1], texts[2], [0.5], 1, 2)],
    }
    page = pushed_html(pushed, texts, place=lambda index: f"Line {index + 2}")
    assert re.findall(r'<a href="#(t\d)">([^<]+)</a>', page) == [
        *[("t2", "Line 4"), ("t1", "Line 3")],  # cards of texts that have a line of their own; line 5 has none
    ]
    assert re.findall(r'<section class="test" id="(t\d)">', page) == ["t1", "t2"]
    assert page.count("Pushed towards their label") == 2
    assert page.count("Pushed away from their label") == 1
    assert "<script" not in page
    assert "<b>&lt;b&gt;" not in page
    assert "&lt;script&gt;" in page
    assert "There is no training text to show." in pushed_html({}, {})
    assert "It influenced no other text." in pushed_html({1: []}, texts)
    with pytest.raises(ValueError, match="top_words"):
        pushed_html(pushed, texts, top_words=-1)


def test_lines_after_the_first_are_folded_and_weak_words_have_no_colour():
    texts = {n: text_of("x", "y", "z", f"w{n}") for n in range(3)}
    pushed = {n: [pair_of(texts[(n + 1) % 3], texts[n], [4e-7, 9e-9, -2e-7], (n + 1) % 3, n)] for n in range(3)}
    page = pushed_html(pushed, texts)
    lines = re.findall(r'<details class="answer"( open)?>', page)
    assert lines == [" open", "", ""]
    assert page.count("<mark") == 2 + 3 * 2  # two in the key; of three words one is too weak to be seen
    assert "+209 <small>billionths</small>" in page
    assert re.findall(r'<td class="n">([^<]+)', page)[:3] == ["+400", "−200", "+9"]


@pytest.mark.skipif(BROWSER is None, reason="no chromium")
def test_a_link_opens_the_line_that_it_leads_to(tab, tmp_path):
    texts = {n: text_of(*(f"w{i}" for i in range(80)), f"end{n}") for n in range(9)}
    pushed = {n: [pair_of(texts[(n + 5) % 9], texts[n], None, (n + 5) % 9, n)] for n in range(9)}
    tab.errors.clear()
    tab.open(write_html(tmp_path / "page.html", pushed_html(pushed, texts)))
    assert tab.ask("[...document.querySelectorAll('section')].filter(one => one.checkVisibility()).length") == 1
    tab.ask("document.querySelector('#t0 .pair a').click()")
    tab.until("document.querySelector('#t5').closest('details').open")
    tab.until(
        "(({top, bottom}) => top >= 0 && top < innerHeight)(document.querySelector('#t5').getBoundingClientRect())"
    )
    for width in (1400, 400):
        tab.look(width, 900, False)
        assert tab.ask("document.documentElement.scrollWidth <= innerWidth")
    tab.look(1280, 900, False)
    assert tab.errors == []


# ------------------------------------------------------------------------------------------------------------ command


@pytest.fixture
def options(tmp_path, monkeypatch, capsys):
    """An index of a tiny classifier, in a directory of its own, and the options that name both."""
    monkeypatch.chdir(tmp_path)
    with open("train.csv", "w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *TEXTS])
    tokenizer = training.words_tokenizer([text for text, _ in TEXTS])
    with training.seeded(0), training.quiet_transformers():
        model = training.small_bert(len(tokenizer), ("boats", "pets"), width=32, positions=16)
        model.save_pretrained("model")
        tokenizer.save_pretrained("model")
    save_checkpoint("steps/step-1.pt", model, 0.1)
    given = ["--model", "model", "--checkpoints", "steps", "--max-length", "12"]
    assert main(["index", "--train", "train.csv", "--out", "index", *given]) == 0
    capsys.readouterr()
    return ["--index", "index", "--train", "train.csv", *given]


def test_browse_writes_a_page_of_the_largest_or_of_the_lines_that_are_named(options, capsys, tmp_path):
    assert main(["browse", *options, "--texts", "3", "--k", "2", "--json", "b.json", "--csv", "b.csv"]) == 0
    out = capsys.readouterr().out
    assert "3 training texts of 20, each with those that it pushed most, from the index alone." in out
    assert "Page: captum-tracinwe-browse.html" in out
    page = (tmp_path / "captum-tracinwe-browse.html").read_text()
    assert page.count('<section class="test"') == 3
    told = json.loads((tmp_path / "b.json").read_text())
    assert {row["train_index"] + 2 for row in told["pairs"]} == {row["train_line"] for row in told["pairs"]}
    assert len({row["train_line"] for row in told["pairs"]}) == 3
    for row in told["pairs"]:
        assert (row["train_text"], row["train_label"]) == TEXTS[row["train_line"] - 2]
        assert (row["test_text"], row["test_label"]) == TEXTS[row["test_line"] - 2]
    assert main(["browse", *options, "--lines", "5", "2", "5", "--out", "lines.html"]) == 0
    named = re.findall(r'<section class="test" id="t(\d+)">', (tmp_path / "lines.html").read_text())
    assert named == ["3", "0"]
    capsys.readouterr()
    for wrong, message in (
        (["--lines", "99"], "--lines 99: no text begins or ends there in train.csv; expected lines from 2 to 21"),
        (["--out", "index/page.html"], "lies in index, which is read"),
        (["--json", "page.html", "--out", "page.html"], "--json page.html: --out names the same file"),
    ):
        assert main(["browse", *options, *wrong]) == 2
        out, err = capsys.readouterr()
        assert message in err
        assert (out, err.count("\n")) == ("", 1)
