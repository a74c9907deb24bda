"""`captum-tracinwe index` and `query`: what they make, print and refuse."""

import csv
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from torch import nn

from captum_tracinwe import GradientIndex, TracInWE, save_checkpoint
from captum_tracinwe.app import training
from captum_tracinwe.app.cli import main
from captum_tracinwe.app.given_model import kept_tokens

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
        assert "All 12 training texts were scored." in out
        if "--train" in extra:
            assert "harbour" in out or "storm" in out or "barked" in out


def test_an_index_is_asked_under_its_url(options, capsys, monkeypatch, tmp_path):
    pytest.importorskip("fsspec")
    monkeypatch.setenv("CAPTUM_TRACINWE_CACHE", str(tmp_path / "cache"))
    url = "memory://bucket/asked"
    run(capsys, "index", "--train", "train.csv", "--out", "index", *options)
    GradientIndex.open("index").push(url)
    for command in (
        ["query", "--test", "test.csv", "--train", "train.csv", "--k", "3"],
        ["browse", "--train", "train.csv", "--out", "page.html", "--texts", "2", "--k", "2"],
        ["explain", "--train", "train.csv", "--test", "test.csv"],
    ):
        extra = ["--json", "-", *options]
        code, there, err = run(capsys, *command, "--index", url, *extra)
        assert code == 0, err
        code, here, _ = run(capsys, *command, "--index", "index", *extra)
        assert code == 0
        assert json.loads(there.replace(url, "index")) == json.loads(here)
    code, _, err = run(capsys, "query", "--test", "test.csv", "--index", "memory://bucket/none", *options)
    assert code == 2
    assert "No index at 'memory://bucket/none'" in err


def test_a_smaller_index_answers_alike(options, capsys):
    asked = ["--test", "test.csv", "--k", "3", "--json", "-", *options]
    run(capsys, "index", "--train", "train.csv", "--out", "whole", *options)
    small = ["--dtype", "int8", "--rank", "7"]
    code, _, err = run(capsys, "index", "--train", "train.csv", "--out", "small", *small, *options)
    assert (code, err) == (0, "")
    index = GradientIndex.open("small")
    assert (index.manifest.dtype, index.manifest.rank, index.manifest.whole) == ("int8", 7, 2)
    assert index.file_bytes < GradientIndex.open("whole").file_bytes
    found = [json.loads(run(capsys, "query", "--index", name, *asked)[1])["pairs"] for name in ("whole", "small")]
    assert [row["train_index"] for row in found[0]] == [row["train_index"] for row in found[1]]
    code, _, err = run(capsys, "index", "--train", "train.csv", "--out", "other", "--rank", "0", *options)
    assert code != 0
    assert "--rank" in err


def test_words_of_training_texts_that_are_not_at_hand_have_names_and_the_way_to_the_texts_is_said(options, capsys):
    run(capsys, "index", "--train", "train.csv", "--out", "index", *options)
    asked = ["query", "--index", "index", "--test", "test.csv", "--k", "3"]
    _, alone, _ = run(capsys, *asked, *options)
    _, shown, _ = run(capsys, *asked, "--train", "train.csv", *options)
    assert not re.search(r"#\d", alone)
    assert "add --train FILE" in alone
    assert "add --train FILE" not in shown
    _, document, _ = run(capsys, *asked, "--json", "-", *options)
    words = {row["word"] for row in json.loads(document)["shares"]}
    assert words <= set(re.findall(r"[\w\[\]]+", Path("train.csv").read_text(encoding="utf-8"))) | {"[CLS]", "[SEP]"}


@pytest.mark.filterwarnings("default::UserWarning")
def test_the_papers_score_is_one_word_away(options, capsys):
    run(capsys, "index", "--train", "train.csv", "--out", "index", "--plain", *options)
    asked = ["query", "--index", "index", "--test", "test.csv", "--k", "2"]
    code, out, _ = run(capsys, *asked, "--plain", *options)
    assert code == 0
    assert "Of 12 training texts" in out
    code, other, err = run(capsys, *asked, *options)  # an index of words read answers by the recommended score too
    assert code == 0
    assert "All 12 training texts were scored." in other
    assert "holds the rows of the words read alone" in err
    assert "without --plain" in err


def test_an_index_of_the_recommended_score_answers_by_the_papers_as_one_of_its_own_does(options, capsys):
    for name, extra in (("both", []), ("alone", ["--plain"])):
        run(capsys, "index", "--train", "train.csv", "--out", name, *extra, *options)
    found = []
    for name in ("both", "alone"):
        code, out, err = run(capsys, "query", "--index", name, "--test", "test.csv", "--k", "2", "--plain", *options)
        assert (code, err) == (0, "")
        assert "Of 12 training texts" in out
        found.append(out.partition("Numbers are lines")[0])
    assert found[0] == found[1]


def test_query_names_the_lines_that_python_finds(options, capsys, monkeypatch):
    run(capsys, "index", "--train", "train.csv", "--out", "index", *options)
    model, tokenizer = training.load_model("model", ("boats", "pets"))
    encoded = training.EncodedTexts(["the dog sat in the storm"], [0], tokenizer, 16)
    loss = nn.CrossEntropyLoss(reduction="none")
    tracin = TracInWE(model, None, "checkpoints", loss_fn=loss, index="index", preconditioner="auto")
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
    assert "the label 'cars' is not a class of --model model ('boats', 'pets'; 0 to 1)" in err


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


# ------------------------------------------------------------------------------------------------ what labels stand for

NEWS = ("World", "Sports", "Business", "Sci/Tech")  # as AG News has them, not in the order of the alphabet
OF_NEWS = [(f"{text} {name}", name) for (text, _), name in zip(TEXTS, NEWS * 3, strict=True)]


def classifier(names, texts=OF_NEWS, config=None, **sizes):
    """A classifier in `news`, its head biased so that it answers the last class, with one checkpoint; the options for it."""
    tokenizer = training.words_tokenizer([text for text, _ in texts])
    model = training.small_bert(len(tokenizer), names, width=32, **{"positions": 64, **sizes})
    with torch.no_grad():
        model.classifier.bias[-1] = 50.0
    with training.quiet_transformers():
        model.save_pretrained("news")
        tokenizer.save_pretrained("news")
    path = Path("news/config.json")
    kept = {key: value for key, value in json.loads(path.read_text()).items() if key not in (config or {})}
    path.write_text(json.dumps(kept | {key: value for key, value in (config or {}).items() if value is not None}))
    save_checkpoint("news-steps/step-1.pt", model, 0.1)
    return ["--model", "news", "--checkpoints", "news-steps", "--max-length", "16"]


UNNAMED = {"id2label": {str(i): f"LABEL_{i}" for i in range(4)}, "label2id": {f"LABEL_{i}": i for i in range(4)}}


def labels_of(index):
    return [label for segment in GradientIndex.open(index).segments for label in segment.columns["label"]]


@pytest.mark.parametrize("config", [None, {"label2id": None}, {"id2label": UNNAMED["id2label"]}])
def test_string_labels_have_the_numbers_that_the_model_gives_them(options, capsys, config):
    own = classifier(NEWS, config=config)
    write("news.csv", OF_NEWS)
    code, out, err = run(capsys, "index", "--train", "news.csv", "--out", "index", *own)
    assert (code, err) == (0, "")
    assert labels_of("index") == [0, 1, 2, 3] * 3  # by the alphabet: 3, 2, 0, 1
    assert "numbered" not in out
    write("ask.csv", [("the cat sat", "World")])
    asked = ["query", "--index", "index", "--test", "ask.csv", "--train", "news.csv", "--k", "2", *own]
    code, out, _ = run(capsys, *asked, "--predicted")
    assert code == 0
    assert "label: World" in out.splitlines()[0]
    assert "predicted: Sci/Tech" in out.splitlines()[0]


def test_a_question_may_have_a_class_that_the_training_file_lacks_and_class_numbers(options, capsys):
    own = classifier(NEWS)
    write("two.csv", [(text, label) for text, label in OF_NEWS if label in ("World", "Business")])
    assert run(capsys, "index", "--train", "two.csv", "--out", "index", *own)[0] == 0
    assert labels_of("index") == [0, 2] * 3
    write("ask.csv", [("the cat sat", "Sports"), ("a dog barked", "3")])
    code, out, _ = run(capsys, "query", "--index", "index", "--test", "ask.csv", *own)
    assert code == 0
    assert "Sports" in out
    assert "Sci/Tech" in out


def test_labels_that_the_model_does_not_have_are_refused_by_name(options, capsys):
    own = classifier(NEWS)
    known = "is not a class of --model news ('World', 'Sports', 'Business', 'Sci/Tech'; 0 to 3)"
    for label in ("Weather", "world", "4", "-1"):
        write("news.csv", [*OF_NEWS, ("rain", label)])
        code, _, err = run(capsys, "index", "--train", "news.csv", "--out", "index", *own)
        assert (code, err.count("\n")) == (2, 1)
        assert f"news.csv, line 14: the label '{label}' {known}" in err


@pytest.mark.parametrize("config", [None, UNNAMED])
def test_integer_labels_are_class_numbers_and_the_head_stays(options, capsys, config):
    own = classifier(NEWS, config=config)
    write("news.csv", [(text, NEWS.index(label)) for text, label in OF_NEWS if label in ("Sports", "Sci/Tech")])
    code, out, err = run(capsys, "index", "--train", "news.csv", "--out", "index", *own)
    assert (code, err) == (0, "")
    assert labels_of("index") == [1, 3] * 3
    assert ("integer labels are class numbers as they are" in out) == (config is not None)
    write("ask.csv", [("the cat sat", 2)])
    code, out, _ = run(capsys, "query", "--index", "index", "--test", "ask.csv", "--predicted", *own)
    assert code == 0
    assert f"predicted: {3 if config else NEWS[3]}]" in out.splitlines()[0]


def test_names_that_are_integers_are_names(options, capsys):
    own = classifier(("1", "2", "3", "4"))
    write("stars.csv", [(text, NEWS.index(label) + 1) for text, label in OF_NEWS])
    assert run(capsys, "index", "--train", "stars.csv", "--out", "index", *own)[0] == 0
    assert labels_of("index") == [0, 1, 2, 3] * 3
    write("stars.csv", [(text, NEWS.index(label)) for text, label in OF_NEWS])
    code, _, err = run(capsys, "index", "--train", "stars.csv", "--out", "other", *own)
    assert code == 2
    assert "the label '0' is not a class of --model news ('1', '2', '3', '4')" in err


def test_without_names_the_numbering_is_said_and_must_fit_the_head(options, capsys):
    own = classifier(NEWS, config=UNNAMED)
    write("news.csv", OF_NEWS)
    code, out, _ = run(capsys, "index", "--train", "news.csv", "--out", "index", *own)
    assert code == 0
    assert "labels were numbered from 0 in this order: 'Business', 'Sci/Tech', 'Sports', 'World'.\n" in out
    assert labels_of("index") == [3, 2, 0, 1] * 3
    write("ask.csv", [("the cat sat", "Weather")])
    code, _, err = run(capsys, "query", "--index", "index", "--test", "ask.csv", *own)
    assert code == 2
    assert "'Weather' is not in the index ('Business', 'Sci/Tech', 'Sports', 'World')" in err
    write("two.csv", [(text, label) for text, label in OF_NEWS if label in ("World", "Sports")])
    code, _, err = run(capsys, "index", "--train", "two.csv", "--out", "other", *own)
    assert (code, err.count("\n")) == (2, 1)
    assert "two.csv: 2 different labels ('Sports', 'World'), and --model news has 4 classes without names" in err
    write("own.csv", [(text, f"LABEL_{NEWS.index(label)}") for text, label in OF_NEWS])
    assert run(capsys, "index", "--train", "own.csv", "--out", "own", *own)[0] == 0
    assert labels_of("own") == [0, 1, 2, 3] * 3


def test_an_index_that_has_its_labels_otherwise_is_refused(options, capsys):
    own = classifier(NEWS, config=UNNAMED)
    write("news.csv", OF_NEWS)
    assert run(capsys, "index", "--train", "news.csv", "--out", "index", *own)[0] == 0
    path = Path("news/config.json")
    named = {"id2label": dict(enumerate(NEWS)), "label2id": {name: i for i, name in enumerate(NEWS)}}
    path.write_text(json.dumps(json.loads(path.read_text()) | named))
    for argv in (
        ["query", "--index", "index", "--test", "news.csv"],
        ["index", "--train", "news.csv", "--out", "index", "--append"],
        ["index", "--train", "news.csv", "--out", "index", "--resume"],
    ):
        code, _, err = run(capsys, *argv, *own)
        assert (code, err.count("\n")) == (2, 1)
        assert "The index has the label 'Business' as class 0, --model news as class 2" in err


def test_a_config_or_a_file_that_contradicts_itself_is_refused(options, capsys):
    own = classifier(NEWS, config={"label2id": {name: i for i, name in enumerate(reversed(NEWS))}})
    write("news.csv", OF_NEWS)
    code, _, err = run(capsys, "index", "--train", "news.csv", "--out", "index", *own)
    assert (code, err.count("\n")) == (2, 1)
    assert "has 'World' as class 0 in id2label and as class 3 elsewhere" in err
    own = classifier(NEWS)
    lines = [
        json.dumps({"text": text, "label": sorted(NEWS).index(name), "label_name": name}) for text, name in OF_NEWS
    ]
    Path("news.jsonl").write_text("\n".join(lines))
    code, _, err = run(capsys, "index", "--train", "news.jsonl", "--out", "index", *own)
    assert (code, err.count("\n")) == (2, 1)
    assert "the label '3' is called 'World', and 'World' is class 0 of the model, not 3" in err
    named = ["--label-column", "label_name"]
    assert run(capsys, "index", "--train", "news.jsonl", "--out", "index", *named, *own)[0] == 0
    assert labels_of("index") == [0, 1, 2, 3] * 3


# ------------------------------------------------------------------------------------------------- what the shell is told


def test_the_question_that_is_printed_can_be_asked(options, capsys):
    with open("odd.csv", "w", newline="") as file:
        csv.writer(file).writerows([("the body", "topic"), *TEXTS])
    columns = ["--text-column", "the body", "--label-column", "topic", "--without-special-tokens", "--batch-size", "3"]
    _, out, _ = run(capsys, "index", "--train", "odd.csv", "--out", "an index", *options, *columns)
    printed = shlex.split(out.partition("Ask it with: ")[2].strip())
    assert printed[:2] == ["captum-tracinwe", "query"]
    code, _, err = run(capsys, *["odd.csv" if word == "FILE" else word for word in printed[1:]], "--train", "odd.csv")
    assert (code, err) == (0, "")
    _, out, _ = run(capsys, "index", "--train", "train.csv", "--out", "plain", *options[:4])
    assert "--batch-size" not in out
    assert "column" not in out


def test_what_a_question_read_is_said_in_bytes(options, capsys):
    run(capsys, "index", "--train", "train.csv", "--out", "index", "--plain", *options)
    _, out, _ = run(capsys, "query", "--index", "index", "--test", "test.csv", "--plain", *options)
    assert re.search(
        r"That read [\d.]+ MB of the index, where the gradients of all training texts are [\d.]+ MB\.", out
    )
    assert "%" not in out.splitlines()[-1]


def test_another_training_file_to_show_texts_from_is_refused(options, capsys):
    run(capsys, "index", "--train", "train.csv", "--out", "index", *options)
    same_labels = [TEXTS[i] for i in (1, 0, 3, 2)] * 3
    for texts, message in (
        (TEXTS[::-1], "--train shuffled.csv, line 2: the label is 'boats', and 'pets' in the index"),
        (
            [(text[::-1], label) for text, label in TEXTS],
            "--train shuffled.csv, line 2: not the text that the index was",
        ),
        (same_labels, "--train shuffled.csv, line 2: not the text that the index was"),
    ):
        write("shuffled.csv", texts)
        asked = ["--index", "index", "--test", "test.csv", "--train", "shuffled.csv", "--k", "12"]
        code, _, err = run(capsys, "query", *asked, *options)
        assert (code, err.count("\n")) == (2, 1)
        assert message in err


def test_texts_are_cut_at_the_positions_of_the_model(options, capsys):
    own = classifier(NEWS, positions=6)
    write("news.csv", OF_NEWS)
    code, out, _ = run(capsys, "index", "--train", "news.csv", "--out", "index", *own)
    assert code == 0
    assert "--max-length 16: the model has 6 positions; texts are cut there." in out
    code, out, _ = run(capsys, "query", "--index", "index", "--test", "news.csv", "--train", "news.csv", *own)
    assert code == 0
    assert "6 positions" in out


def test_positions_are_those_that_texts_can_have():
    from transformers import BertConfig, RobertaConfig, T5Config

    tokenizer = training.words_tokenizer(["a b"])
    for config, kept in (
        (BertConfig(max_position_embeddings=10), 10),
        (RobertaConfig(max_position_embeddings=10, pad_token_id=1), 8),  # counted from 2
        (T5Config(), 16),  # relative ones, as many as needed
    ):
        said = []
        assert kept_tokens(16, tokenizer, config, said.append) == kept
        assert len(said) == (kept < 16)
        assert kept_tokens(kept, tokenizer, config, said.append) == kept
        assert len(said) == (kept < 16)


def test_a_length_that_leaves_no_word_is_refused(options, capsys):
    for length in ("1", "2"):
        argv = ["index", "--train", "train.csv", "--out", "index", *options[:4], "--max-length", length]
        code, _, err = run(capsys, *argv)
        assert (code, err.count("\n")) == (2, 1)
        assert f"--max-length {length}: the tokenizer puts 2 special tokens around a text" in err
        assert "expected at least 3" in err


def test_advice_names_options_and_no_python(options, capsys):
    run(capsys, "index", "--train", "train.csv", "--out", "index", *options)
    for argv, message in (
        (
            ["index", "--train", "train.csv", "--out", "index"],
            "go on with it by --resume, add to it by --append, or",
        ),
        (["query", "--index", "none", "--test", "test.csv"], "Build one with captum-tracinwe index."),
        (
            ["index", "--train", "train.csv", "--out", "other", "--checkpoints", "none"],
            "error: --checkpoints none cannot be used. Expected a directory with checkpoints",
        ),
    ):
        code, _, err = run(capsys, argv[0], *options, *argv[1:])
        assert code == 2
        assert message in err
        assert "=True" not in err
        assert "TracInWE" not in err


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_plain_line(options, capsys):
    with training.quiet_transformers():
        model, _ = training.load_model("model", ("boats", "pets"))
    Path("bare").mkdir()
    torch.save(model.state_dict(), "bare/step-1.pt")
    bare = ["--model", "model", "--checkpoints", "bare", "--max-length", "16"]
    code, _, err = run(capsys, "index", "--train", "train.csv", "--out", "index", *bare)
    assert code == 0
    assert err.startswith("captum-tracinwe index: warning: The checkpoint 'step-1.pt' carries no learning rate")
    assert err.count("\n") == 1
    assert "UserWarning" not in err


def test_a_training_file_with_one_text_altered_is_refused_whether_it_would_be_shown_or_not(options, capsys):
    assert run(capsys, "index", "--train", "train.csv", "--out", "index", *options)[0] == 0
    asked = [
        ["query", "--index", "index", "--test", "test.csv", "--k", "1", "--train", "other.csv", *options],
        ["browse", "--index", "index", "--train", "other.csv", "--texts", "1", *options],
        ["explain", "--index", "index", "--train", "other.csv", "--test", "test.csv", *options],
        ["suspects", "--index", "index", "--train", "other.csv", *options],
    ]
    for place in (0, 7, 11):
        write(
            "other.csv",
            [("the cat sat in the harbour", TEXTS[place][1]) if i == place else TEXTS[i] for i in range(12)],
        )
        for argv in asked:
            code, out, err = run(capsys, *argv)
            assert (code, err.count("\n")) == (2, 1), argv
            assert f"--train other.csv, line {place + 2}: not the text that the index was built from" in err
    write("other.csv", TEXTS)
    assert [run(capsys, *argv)[0] for argv in asked] == [0, 0, 0, 0]
    shorter = [option if option != "16" else "4" for option in options]
    code, _, err = run(capsys, "query", "--index", "index", "--test", "test.csv", "--train", "train.csv", *shorter)
    assert code == 2
    assert "and the --max-length of the index. 11 more of 12 texts are other ones, too." in err
