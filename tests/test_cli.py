"""The command line: what it prints, what it refuses, with which exit code, and that a refusal is one line."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from captum_tracinwe import __version__, ops
from captum_tracinwe.app import training
from captum_tracinwe.app.cli import main

TEXTS = [
    ("the cat sat on the mat", "pets"),
    ("a dog barked at the door", "pets"),
    ("the ship left the harbour", "boats"),
    ("a sail tore in the storm", "boats"),
] * 5
SMALL = ["--epochs", "1", "--max-length", "12", "--k", "1", "--test-limit", "2"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def files(tmp_path):
    with open("train.csv", "w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *TEXTS])
    lines = [json.dumps({"text": text, "label": label}) for text, label in TEXTS[:4]]
    (tmp_path / "test.jsonl").write_text("\n".join(lines))
    return ["--train", "train.csv", "--test", "test.jsonl"]


def refused(capsys, *argv):
    code = main(["demo", *map(str, argv)])
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.startswith("captum-tracinwe demo: error: ")
    assert err.count("\n") == 1
    return err


def test_own_texts_from_csv_and_json_lines(files, capsys, tmp_path):
    assert main(["demo", *files, *SMALL, "--out", "r.html"]) == 0
    out, _ = capsys.readouterr()
    assert "20 training texts; 4 test texts; 2 classes: boats, pets." in out
    assert "of 4 test texts" in out
    assert "Page, with 2 answers explained: r.html" in out
    assert "the command is captum-tracinwe explain" in out
    assert "<!DOCTYPE html>" in (tmp_path / "r.html").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.html", "test.jsonl", "train.csv"]


def test_a_local_model_is_fine_tuned(files, capsys, tmp_path):
    tokenizer = training.words_tokenizer([text for text, _ in TEXTS])
    model = training.small_bert(len(tokenizer), ("a", "b"), width=32, positions=16)
    model.save_pretrained("model")
    tokenizer.save_pretrained("model")
    capsys.readouterr()
    assert main(["demo", *files, *SMALL, "--model", "model", "--checkpoints", "kept", "--limit", "8"]) == 0
    assert "8 training texts, a random sample of 20" in capsys.readouterr().out
    assert len(list((tmp_path / "kept").glob("checkpoint-*"))) == 1  # one step: 8 texts, batches of 32
    assert (tmp_path / "captum-tracinwe-report.html").exists()


def test_info_says_what_is_there(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for name in (
        f"captum-tracinwe   {__version__}",
        "torch ",
        "captum ",
        "transformers ",
        "Python ",
        "numpy ",
        "compiled kernels  loaded from" if ops.NATIVE_LIBRARY else "compiled kernels  not loaded (",
        "for CUDA ",
        "CUDA ",
    ):
        assert name in out
    loaded = "posting_dot, row_dot, row_dot_terms" if ops.NATIVE_LIBRARY else "none"
    assert re.search(rf"^  for CPU +{loaded}$", out, flags=re.MULTILINE)


def test_help_version_and_the_module_form():
    assert main(["--help"]) == 0
    assert main(["demo", "--help"]) == 0
    assert main(["--version"]) == 0
    command = [sys.executable, "-m", "captum_tracinwe", "--version"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert (run.returncode, run.stdout.strip()) == (0, f"captum-tracinwe {__version__}")


@pytest.mark.parametrize("argv", [[], ["dance"], ["demo", "--k", "0"], ["demo", "--k", "two"], ["demo", "--what"]])
def test_a_wrong_command_line_is_one_line_and_exit_code_2(argv, capsys):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "--help" in err


def test_numbers_are_checked_in_the_users_words(capsys):
    for option, value in (
        ("--k", "0"),
        ("--limit", "-3"),
        ("--test-limit", "0"),
        ("--epochs", "0"),
        ("--max-length", "x"),
    ):
        assert f"argument {option}: expected a whole number of at least 1, got '{value}'" in refused(
            capsys, option, value
        )
    assert "argument --learning-rate: expected a number above 0, got '-1'" in refused(capsys, "--learning-rate", "-1")


def test_options_that_need_each_other(files, capsys):
    assert "--train is given without --test" in refused(capsys, *files[:2])
    assert "--test is given without --train" in refused(capsys, *files[2:])
    assert "--limit is for your own texts; give --train and --test too" in refused(capsys, "--limit", 5)


def test_bad_files_are_refused_before_anything_is_trained(files, capsys, tmp_path):
    assert "nothere.csv: no such file" in refused(capsys, "--train", "nothere.csv", "--test", "test.jsonl")
    (tmp_path / "empty.csv").touch()
    assert "empty.csv: no rows in it" in refused(capsys, "--train", "empty.csv", "--test", "test.jsonl")
    assert "there are: text, label" in refused(capsys, *files, "--text-column", "body")
    (tmp_path / "bad.jsonl").write_text('{"text": "a", "label": "pets"}\n{oops\n')
    assert "bad.jsonl, line 2: not valid JSON" in refused(capsys, *files[:2], "--test", "bad.jsonl")
    (tmp_path / "new.jsonl").write_text('{"text": "a", "label": "cars"}\n')
    said = refused(capsys, *files[:2], "--test", "new.jsonl")
    assert "new.jsonl, line 1: the label 'cars' is not in the training file ('boats', 'pets')" in said
    (tmp_path / "one.jsonl").write_text('{"text": "a", "label": "cars"}\n' * 3)
    assert "all 3 texts have the label 'cars'" in refused(capsys, "--train", "one.jsonl", "--test", "one.jsonl")


def test_a_report_that_cannot_be_written_is_refused_first(files, capsys, tmp_path):
    assert "the directory no/such does not exist" in refused(capsys, "--out", "no/such/report.html")
    assert "a directory; name a file in it" in refused(capsys, "--out", tmp_path)
    before = (tmp_path / "train.csv").read_text()
    assert "that is an input file" in refused(capsys, *files, "--out", "train.csv")
    assert (tmp_path / "train.csv").read_text() == before
    assert "cannot be written" in refused(capsys, "--out", "/proc/report.html") if sys.platform == "linux" else True


def test_a_checkpoint_directory_in_use_and_a_model_that_is_none(files, capsys, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    assert "--checkpoints used: not empty" in one_line(capsys, *files, "--checkpoints", "used")
    assert "--model used: no config.json in it" in one_line(capsys, *files, "--model", "used")
    assert "--model train.csv: no such directory" in one_line(capsys, *files, "--model", "train.csv")


def one_line(capsys, *argv):
    assert main(["demo", *argv]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def test_seeds_and_rates_beyond_reason(files, capsys):
    assert main(["demo", "--seed", str(2**70)]) == 2
    assert "2^63" in capsys.readouterr().err
    refused_in_the_end = main(["demo", *files, *SMALL, "--epochs", "30", "--learning-rate", "1e30"])
    assert refused_in_the_end == 2
    assert "Lower --learning-rate" in capsys.readouterr().err


def saved_bert(folder, vocabulary, **sizes):
    """A tiny BERT and its tokenizer, as save_pretrained leaves them."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shape = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
        "num_labels": 2,
    }
    BertForSequenceClassification(BertConfig(**({"vocab_size": len(vocabulary)} | shape | sizes))).save_pretrained(
        folder
    )
    return folder


VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *sorted({word for text, _ in TEXTS for word in text.split()}),
]


def test_a_model_with_few_positions_cuts_the_texts_and_says_so(files, capsys, tmp_path):
    model = saved_bert(tmp_path / "short", VOCABULARY, max_position_embeddings=6)
    assert main(["demo", *files, *SMALL, "--model", str(model), "--without-special-tokens"]) == 0
    out = capsys.readouterr().out
    assert "the model has 6 positions" in out
    assert "[CLS]  █" not in out


def test_models_that_are_not_whole_are_refused(files, capsys, tmp_path):
    def refusal(folder):
        assert main(["demo", *files, "--model", str(folder)]) == 2
        return capsys.readouterr().err

    broken = saved_bert(tmp_path / "broken", VOCABULARY)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "not a text classification model" in refusal(broken)
    assert "its tokenizer has" in refusal(saved_bert(tmp_path / "small", VOCABULARY, vocab_size=8))
    wordless = saved_bert(tmp_path / "wordless", VOCABULARY)
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        (wordless / name).unlink(missing_ok=True)
    assert "--model" in refusal(wordless)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a \\ud800 b", "label": "pets"}', "lone surrogate"),
        ('{"text": "a b", "label": NaN}', "expected an integer or a string"),
        ('{"text": null, "label": "pets"}', "'text' has no value"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_odd_lines_are_refused(files, capsys, tmp_path, line, message):
    (tmp_path / "odd.jsonl").write_text(line)
    assert message in refused(capsys, "--train", "odd.jsonl", "--test", "test.jsonl")


NEWS = ("World", "Sports", "Business", "Sci/Tech")  # as AG News has them, not in the order of the alphabet


def of_news(name, labels, **columns):
    """A JSON lines file of short texts with labels, twelve of each."""
    rows = [{"text": f"a text of {label}", "label": label} for label in labels] * 12
    Path(name).write_text(
        "\n".join(json.dumps(row | {key: of(row["label"]) for key, of in columns.items()}) for row in rows)
    )


@pytest.fixture
def news(files):
    """A classifier of four named classes in `news`, its head as it was saved."""
    tokenizer = training.words_tokenizer(["a text of " + " ".join(NEWS), *(text for text, _ in TEXTS)])
    model = training.small_bert(len(tokenizer), NEWS, width=32, positions=16)
    with training.quiet_transformers():
        model.save_pretrained("news")
        tokenizer.save_pretrained("news")
    return model


def fine_tuned(**given):
    """The labels that a text of each label got, and the head, after a step too small to matter."""
    from captum_tracinwe.app import explain_command

    lines, heads = [], []
    texts = {"train": Path("n.jsonl"), "test": Path("n.jsonl"), "out": Path("r.html"), "model": Path("news")}
    settings = explain_command.Settings(**texts, k=1, explained=2, epochs=1, learning_rate=1e-12, **given)
    before = training.train

    def train(model, texts, *rest, **options):
        heads.append((model.classifier.weight.detach().clone(), sorted(set(texts.labels))))
        return before(model, texts, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", train)
        explain_command.run(settings, say=lines.append)
    return heads[0], "\n".join(lines)


@pytest.mark.parametrize("of_label", [None, NEWS.__getitem__])
@pytest.mark.filterwarnings("ignore:No word tells the .* training text:UserWarning")
def test_a_model_that_names_the_labels_keeps_its_head_and_its_numbers(news, of_label):
    if of_label:  # the names stand in a column of their own
        of_news("n.jsonl", (3, 0), label_name=of_label)
    else:
        of_news("n.jsonl", ("Sci/Tech", "World"))
    (weight, labels), said = fine_tuned(limit_train=10)
    assert weight.equal(news.classifier.weight)
    assert labels == [0, 3]
    assert "4 classes: World, Sports, Business, Sci/Tech. Labels have the numbers that the model's config" in said


@pytest.mark.filterwarnings("ignore:No word tells the .* training text:UserWarning")
def test_a_model_of_other_classes_gets_a_new_head(news):
    of_news("n.jsonl", ("pets", "boats"))
    (weight, labels), said = fine_tuned()
    assert weight.shape[0] == 2
    assert labels == [0, 1]
    assert "2 classes: boats, pets." in said


@pytest.mark.parametrize("length", ["1", "2"])
@pytest.mark.parametrize("model", [[], ["--model", "news"]])
def test_a_length_that_leaves_no_word_is_refused(news, files, capsys, model, length):
    err = one_line(capsys, *files, *SMALL, *model, "--max-length", length)
    assert f"--max-length {length}: the tokenizer puts 2 special tokens around a text" in err


def test_a_column_of_texts_taken_for_labels_is_shown_in_short(files, capsys, tmp_path):
    texts = [f"{i} " + "word " * 100 for i in range(20)]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"text": text, "label": "x"}) for text in texts))
    (tmp_path / "u.jsonl").write_text(json.dumps({"text": "other " * 100, "label": "x"}))
    assert len(refused(capsys, "--train", "t.jsonl", "--test", "u.jsonl", "--label-column", "text")) < 600
    assert main(["demo", "--train", "t.jsonl", "--test", "t.jsonl", "--label-column", "text", *SMALL]) == 0
    assert len(capsys.readouterr().out.splitlines()[0]) < 500


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (ValueError("two\n  lines, see resume=True"), 2, "error: two lines, see --resume"),
        (FileNotFoundError(2, "No such file or directory", "x.bin"), 2, "error: x.bin: No such file or directory"),
        (RuntimeError("CUDA error:\nout of memory"), 1, "error: RuntimeError: CUDA error: out of memory"),
    ],
)
def test_whatever_a_command_stumbles_over_is_one_line(capsys, monkeypatch, raised, code, said):
    from captum_tracinwe.app import cli

    def stumble(options):
        raise raised

    monkeypatch.setattr(cli, "_info", stumble)
    assert main(["info"]) == code
    assert capsys.readouterr().err == f"captum-tracinwe info: {said}\n"


def test_advice_to_python_is_given_in_options(capsys, monkeypatch):
    from captum_tracinwe.app import cli

    for advice, expected in (
        ("finish it with tracin.build_index(path, resume=True).", "finish it with captum-tracinwe index --resume."),
        ("then go on with resume=True (disk).", "then go on with --resume (disk)."),
        (
            "Cut: tokenizer(..., truncation=True, max_length=32), or TokenizeTexts(tokenizer, max_length=32).",
            "Cut: --max-length 32.",
        ),
        ("with dtype='bfloat16' or 'float32'.", "with --dtype bfloat16 or --dtype float32."),
        ("Pass a checkpoints_load_func that", "From Python, pass a checkpoints_load_func that"),
    ):

        def stumble(options, advice=advice):
            raise ValueError(advice)

        monkeypatch.setattr(cli, "_info", stumble)
        main(["info"])
        assert capsys.readouterr().err == f"captum-tracinwe info: error: {expected}\n"
