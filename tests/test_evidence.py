"""The evidence scripts run at their smallest and store what the tables are made of; the README is what the results give."""

import gzip
import itertools
import json
from pathlib import Path

import pytest
import torch
from captum_tracinwe.evaluation import bootstrap

FOLDER = Path(__file__).parents[1] / "benchmarks" / "evidence"
DATA = Path(__file__).parents[2] / "shared" / "data"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the benchmarks are not here")


needs_data = pytest.mark.skipif(not (DATA / "ag_news").is_dir(), reason="the data sets are not here")
LINES = 800  # of each file: a script at its smallest takes 200 of them, and would read all for that


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The first lines of each file of the data sets."""
    folder = tmp_path_factory.mktemp("data")
    for path in DATA.glob("*/*.jsonl.gz"):
        (folder / path.parent.name).mkdir(exist_ok=True)
        with gzip.open(path, "rt") as whole, gzip.open(folder / path.parent.name / path.name, "wt") as part:
            part.writelines(itertools.islice(whole, LINES))
    return folder


@needs_data
@pytest.mark.parametrize(
    ("name", "stored", "options"),
    [
        ("deletion", "deletion-ag_news-cnn-smoke", []),
        ("deletion", "deletion-snli-cnn-smoke", ["--dataset", "snli", "--methods", "WE-Topk", "BM25"]),
        ("deletion", "deletion-jigsaw_toxicity-bert-smoke", ["--dataset", "jigsaw_toxicity", "--model", "bert", "--texts", "60",
                                                             "--methods", "WE", "TR-Last"]),
        ("deletion", "own-ag_news-cnn-smoke", ["--own", "--methods", "WE", "TR-TFIDF", "regression on words"]),
        ("noise", "noise-ag_news_noisy-cnn-smoke", []),
        ("cancellation", "cancellation-ag_news-cnn-smoke", []),
        ("words", "words-ag_news-cnn-smoke", []),
        ("mistakes", "mistakes-ag_news-cnn-smoke", []),
        ("lds", "lds-ag_news-cnn-smoke", []),
        ("choosing", "choosing-ag_news-cnn-smoke", []),
        pytest.param("causes", "causes-ag_news-cnn-smoke", ["--ways", "order", "unread", "--unproven"], marks=pytest.mark.slow),
        ("speed", "speed-ag_news-cnn-smoke", ["--at-once", "1", "2"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_script_runs_and_its_result_becomes_a_table(script, data, tmp_path, monkeypatch, name, stored, options):
    monkeypatch.setitem(bootstrap.__kwdefaults__, "draws", 200)
    common = ["--preset", "smoke", "--seeds", "1", "--workers", "1", "--data", str(data), "--out", str(tmp_path)]
    script(name).main([*common, *options])
    content = json.loads((tmp_path / f"{stored}.json").read_text())
    assert content["versions"]["torch"]
    assert "/" not in json.dumps(content)  # no path of this machine
    table = script("tables").KINDS[name](content)
    assert "| " in table
    assert "nan" not in table


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("deletion", ["--data", "nowhere"], "--data nowhere: expected ag_news/train_20k.jsonl.gz there"),
        ("deletion", ["--seeds", "0"], "--seeds 0: expected at least 1"),
        ("deletion", ["--tests", "1"], "--tests 1: expected at least 2"),
        ("noise", ["--dataset", "snli"], "2"),
        ("noise", ["--groups", "WEE"], "2"),
    ],
)
def test_what_no_experiment_can_do_is_said_before_it_begins(script, name, options, match):
    with pytest.raises(SystemExit, match=match):
        script(name).main(["--preset", "smoke", *options])


@needs_data
def test_an_interrupted_run_goes_on_where_it_was(script, data, tmp_path):
    import torch

    common = script("common")
    task = common.load("ag_news", "cnn", common.PRESETS["smoke"], data)
    keep = torch.ones(2, 200, dtype=torch.bool)
    keep[1, 0] = False
    first = task.retrain(1, tmp_path / "cache.pt")(keep, [0, 0])
    again = task.retrain(1, tmp_path / "cache.pt")
    again.answer = None  # nothing may be trained
    assert torch.equal(again(keep, [0, 0]), first)
    with pytest.raises(TypeError):
        again(keep, [0, 1])
    assert torch.equal(task.retrain(2)(keep, [0, 0]), first)  # over processes


@pytest.mark.slow  # thousands of samples for each of 150 intervals
def test_the_readmes_are_what_the_results_give(script, tmp_path, monkeypatch):
    tables = script("tables")
    assert tables.main(["--check"]) is None
    texts = [readme.read_text() for readme in tables.PAGES]
    assert all("<!-- table " in text for text in texts)
    changed = tmp_path / "README.md"
    changed.write_text(texts[0].replace("| WE |", "| WE | 9", 1))
    monkeypatch.setattr(tables, "PAGES", (changed,))
    with pytest.raises(SystemExit, match="is not what the stored results give"):
        tables.main(["--check"])
    tables.main([])
    assert changed.read_text() == texts[0]


@needs_data
@pytest.mark.parametrize("texts", [150, 2000])
def test_right_labels_are_those_of_the_texts_that_were_drawn(script, texts):
    labels = script("labels")
    task, wrong = labels.prepared("ag_news", "human", "cnn", texts, 3, DATA)
    right = torch.tensor(labels.prepared_right(task, "ag_news", "human", "cnn", texts, 3, DATA))
    given = task.train.batch[1]
    assert len(right) == len(given) == texts
    assert torch.equal(given != right, torch.tensor(wrong))
    assert 0 < wrong.sum() < texts / 2
    with gzip.open(DATA / "ag_news_noisy" / "train.jsonl.gz", "rt") as lines:
        known = {row["text"]: (str(row["label"]), str(row["noisy_label"])) for row in map(json.loads, lines)}
    for text, own, noisy in zip(task.texts[0], right.tolist(), given.tolist(), strict=True):
        assert known[text] == (task.classes[own], task.classes[noisy])
