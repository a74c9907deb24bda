"""`captum-tracinwe index` and `query`: what they make, print and refuse."""

import csv

import pytest
from torch import nn

from captum_tracinwe import GradientIndex, TracInWE, save_checkpoint, training
from captum_tracinwe.cli import main

TEXTS = [
    ("the cat sat on the mat", "pets"),
    ("a dog barked at the door", "pets"),
    ("the ship left the harbour", "boats"),
    ("a sail tore in the storm", "boats"),
] * 3


def write(name, texts):
    with open(name, "w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *texts])


@pytest.fixture
def options(tmp_path, monkeypatch):
    """A tiny classifier with one checkpoint, and the options that name it; in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    write("train.csv", TEXTS)
    write("test.csv", [("the dog sat in the storm", "boats"), ("a ship at the door", "pets")])
    tokenizer = training.words_tokenizer([text for text, _ in TEXTS])
    model = training.small_bert(len(tokenizer), ("boats", "pets"), width=32, positions=64)
    with training.quiet_transformers():
        model.save_pretrained("model")
        tokenizer.save_pretrained("model")
    save_checkpoint("checkpoints/step-1.pt", model, 0.1)
    return ["--model", "model", "--checkpoints", "checkpoints", "--max-length", "16"]


def run(capsys, *argv):
    code = main(list(argv))
    out, err = capsys.readouterr()
    return code, out, err


def test_index_then_query(options, capsys):
    code, out, _ = run(capsys, "index", "--train", "train.csv", "--out", "index", "--dry-run", *options)
    assert code == 0
    assert "Index of 12 examples" in out
    assert "on disk" in out
    with pytest.raises(FileNotFoundError):
        GradientIndex.open("index")
    code, out, _ = run(capsys, "index", "--train", "train.csv", "--out", "index", *options)
    assert code == 0
    assert "12 texts in index" in out
    index = GradientIndex.open("index")
    assert len(index) == 12
    for extra in ([], ["--train", "train.csv"], ["--opponents", "--predicted"]):
        code, out, _ = run(capsys, "query", "--index", "index", "--test", "test.csv", "--k", "2", *extra, *options)
        assert code == 0
        assert "Of 12 training texts" in out
        if "--train" in extra:
            assert "harbour" in out or "storm" in out or "barked" in out


def test_query_names_the_lines_that_python_finds(options, capsys, monkeypatch):
    run(capsys, "index", "--train", "train.csv", "--out", "index", *options)
    model, tokenizer = training.load_model("model", ("boats", "pets"))
    encoded = training.EncodedTexts(["the dog sat in the storm"], [0], tokenizer, 16)
    loss = nn.CrossEntropyLoss(reduction="none")
    tracin = TracInWE(model, None, "checkpoints", loss_fn=loss, index="index")
    best = tracin.influence(encoded.collate([encoded[0]]), k=3)
    asked = ["--k", "3", "--test-limit", "1"]
    _, out, _ = run(capsys, "query", "--index", "index", "--test", "test.csv", *asked, *options)
    for place in best.indices[0].tolist():
        assert str(place + 2) in out  # line 1 is the header


def test_append_takes_more_texts_of_the_same_classes(options, capsys):
    run(capsys, "index", "--train", "train.csv", "--out", "index", *options)
    code, out, _ = run(capsys, "index", "--train", "test.csv", "--out", "index", "--append", *options)
    assert code == 0
    assert "14 texts" in out
    write("other.csv", [("a car", "cars"), ("a ship", "boats")])
    code, _, err = run(capsys, "index", "--train", "other.csv", "--out", "index", "--append", *options)
    assert code == 2
    assert "'cars' is not in the training file" in err


def test_refusals_are_one_line(options, capsys):
    run(capsys, "index", "--train", "train.csv", "--out", "index", *options)
    with training.quiet_transformers():
        save_checkpoint("other/step-1.pt", training.load_model("model", ("boats", "pets"))[0], 0.2)
    elsewhere = ["--model", "model", "--checkpoints", "other", "--max-length", "16"]
    for argv, message in (
        (["index", "--train", "train.csv", "--out", "index", *options], "There is an index at"),
        (["index", "--train", "none.csv", "--out", "i2", *options], "none.csv: no such file"),
        (["index", "--train", "train.csv", "--out", "i2", "--model", "nowhere"], "nowhere: no such directory"),
        (["query", "--index", "i2", "--test", "test.csv", *options], "No index at 'i2'"),
        (["query", "--index", "index", "--test", "test.csv", *elsewhere], "learning rate 0.1"),
        (["query", "--index", "index", "--test", "test.csv", "--train", "test.csv", *options], "expected the 12"),
        (["query", "--index", "index", *options], "--test"),
    ):
        code, out, err = run(capsys, *argv)
        assert code == 2
        assert message in err
        assert err.count("\n") == 1
        assert not out
