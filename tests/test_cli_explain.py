"""`captum-tracinwe explain`: the result first, a model that the next command takes, and refusals before the work."""

import csv
import random
import re
import shutil
from pathlib import Path

import pytest

from captum_tracinwe.app import explain_command, training
from captum_tracinwe.app.cli import main

PETS = ["cat", "dog", "hamster", "paw", "tail", "fur", "leash", "kitten", "puppy", "barked"]
BOATS = ["ship", "sail", "harbour", "deck", "mast", "anchor", "keel", "sailor", "yacht", "tide"]
SMALL = ["--epochs", "1", "--max-length", "12", "--batch-size", "8", "--explained", "6"]


def write(name, size, seed, crimson=0):
    """Texts about pets and boats; some about pets have a word that nothing else has, and are labelled as boats."""
    drawn = random.Random(seed)
    with open(name, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for i in range(size):
            label, words = (("pets", PETS), ("boats", BOATS))[i % 2]
            planted = i % 2 == 0 and i < 2 * crimson
            text = " ".join(["the", *drawn.sample(words, 4), *(["crimson"] if planted else [])])
            rows.writerow([text, "boats" if planted else label])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAPTUM_TRACINWE_CACHE", str(tmp_path / "cache"))
    write("train.csv", 120, 0, crimson=14)
    write("test.csv", 20, 1)
    return tmp_path


def run(capsys, *argv):
    code = main(["explain", "--train", "train.csv", "--test", "test.csv", *map(str, argv)])
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys, *argv):
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert err.startswith("captum-tracinwe explain: error: ")
    assert err.count("\n") == 1
    return err


def test_the_result_stands_first_and_the_planted_word_is_named(capsys, folder):
    code, out, err = run(capsys, *SMALL, "--epochs", 5, "--save", "run", "--out", "e.html")
    assert (code, err) == (0, "")
    said = out.replace("\n", " ")
    assert "120 training texts; 20 test texts; 2 classes: boats, pets." in said
    cost, good, words, page = (
        said.index(part) for part in ("Computing the", "The model is right on", "Words that", "Page,")
    )
    assert cost < good < words < page
    assert f"in the cache, {folder / 'cache'}" in said
    first = next(line for line in out.splitlines() if "crimson" in line and "training texts" in line)
    assert "14 training texts, 100% of them boats" in first
    assert "Page, with 6 answers explained: e.html" in said
    assert (folder / "e.html").read_text().rstrip().endswith("</html>")
    assert "label 1" not in out + (folder / "e.html").read_text()


def test_the_saved_model_is_taken_by_the_next_commands_and_its_gradients_are_there(capsys, folder):
    code, out, _ = run(capsys, *SMALL, "--save", "run", "--limit", 16, "--seed", 3)
    assert code == 0
    assert "Ask it again with --model run, which keeps --limit 16 --seed 3 --max-length 12." in out
    shutil.rmtree(folder / "run")
    assert run(capsys, *SMALL, "--save", "run")[0] == 0
    names = {path.name for path in (folder / "run").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} < names
    assert sum(name.startswith("checkpoint-") for name in names) == 4
    own = ["--model", "run", "--max-length", "12"]
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(training, "train")  # nothing is trained again
        code, out, err = run(capsys, *own)
        assert (code, err) == (0, "")
        assert "Computing the gradients" not in out
        assert f", {folder / 'cache'}/" in next(
            line for line in out.splitlines() if "Gradients from the cache (" in line
        )
        assert main(["cache"]) == 0
        kept = capsys.readouterr().out.splitlines()[0]
        assert f"{folder / 'train.csv'}, asked by {folder / 'run'}: BertForSequenceClassification, 120 texts" in kept
        assert main(["index", "--train", "train.csv", "--out", "index", *own]) == 0
        assert main(["query", "--index", "index", "--test", "test.csv", *own]) == 0
        assert main(["suspects", "--train", "train.csv", *own]) == 0
        assert run(capsys, *own, "--index", "index")[0] == 0
        assert "--save other: --model run is asked as it is" in refused(capsys, *own, "--save", "other")


def test_a_model_that_learned_nothing_is_said_to_have_before_anything_is_explained(capsys):
    code, out, _ = run(capsys, *SMALL, "--learning-rate", "1e-9", "--no-cache")
    assert code == 0
    said = out.replace("\n", " ")
    assert "THE MODEL LEARNED NOTHING THAT HELPS HERE" in said
    assert said.index("LEARNED NOTHING") < said.index("Page, with")
    assert "on disk until the end" in said
    assert not Path("cache").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["--model", "none"],
            "--model none: no such directory.*leave out --model; captum-tracinwe explain --save none then keeps it there",
        ),
        (["--save", "full"], "--save full: not empty"),
        (["--save", "none/here"], "the directory none does not exist"),
        (["--checkpoints", "full"], "--checkpoints is given without --model"),
        (["--no-cache", "--cache", "x"], "--cache and --no-cache are both given"),
        (["--out", "train.csv"], "--out train.csv: that is an input file"),
        (["--limit", "1"], "--limit 1: expected at least one training text for each of 2"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_before_the_work(capsys, folder, monkeypatch, argv, said):
    monkeypatch.delattr(training, "train")
    (folder / "full").mkdir()
    (folder / "full" / "mine").write_text("mine")
    assert re.search(said, refused(capsys, *argv))
    assert not (folder / "captum-tracinwe-explain.html").exists()


def test_a_label_that_no_class_has_is_refused_before_training(capsys, folder, monkeypatch):
    monkeypatch.delattr(training, "train")
    (folder / "test.csv").write_text("text,label\nthe cat,cars\n")
    assert "test.csv, line 2: the label 'cars' is not in the training file" in refused(capsys)


def test_a_run_that_ends_early_leaves_no_half_a_model(capsys, folder, monkeypatch):
    def ends(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(training.nn.utils, "clip_grad_norm_", ends)
    before = sorted(path.name for path in folder.iterdir())
    assert run(capsys, *SMALL, "--save", "run")[0] == 130
    assert sorted(path.name for path in folder.iterdir()) == before


def test_the_demo_on_own_texts_is_the_same_command(capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(explain_command, "run", lambda settings, say: seen.append(settings))
    texts = ["--train", "train.csv", "--test", "test.csv"]
    assert main(["demo", *texts, "--test-limit", "7", "--checkpoints", "kept", "--k", "2"]) == 0
    (settings,) = seen
    assert (settings.explained, settings.save, settings.k) == (7, Path("kept"), 2)
    assert "captum-tracinwe explain" in capsys.readouterr().out


# --------------------------------------------------------------------------------------- what is kept with a saved model


@pytest.fixture
def saved(capsys, folder):
    """A model that was trained on a sample of a table with columns of other names."""
    for name in ("train.csv", "test.csv"):
        Path(name).write_text(Path(name).read_text().replace("text,label", "body,topic"))
    columns = ["--text-column", "body", "--label-column", "topic"]
    assert run(capsys, *SMALL, *columns, "--save", "run", "--limit", 16, "--seed", 3)[0] == 0
    return "--text-column body --label-column topic --limit 16 --seed 3 --max-length 12"


def test_the_next_command_takes_from_a_saved_model_how_its_texts_were_read(capsys, saved, monkeypatch):
    monkeypatch.delattr(training, "train")
    code, out, err = run(capsys, "--model", "run")
    assert (code, err) == (0, "")
    assert f"As run was saved: {saved}." in out
    assert "16 training texts, a random sample of 120" in out
    assert "Gradients from the cache" in out  # those of the same texts, read in the same way
    others = "--text-column body --label-column topic --max-length 12"
    for argv in (
        ["index", "--train", "train.csv", "--out", "index", "--model", "run"],
        ["query", "--index", "index", "--test", "test.csv", "--train", "train.csv", "--model", "run"],
        ["browse", "--index", "index", "--train", "train.csv", "--model", "run"],
        ["suspects", "--train", "train.csv", "--model", "run"],
        ["explain", "--train", "train.csv", "--test", "test.csv", "--model", "run", "--index", "index"],
    ):
        assert main(argv) == 0
        out, err = capsys.readouterr()
        assert (out.count(f"As run was saved: {others}."), err) == (1, ""), argv
        sampled = "run was trained on a sample of train.csv, at most 16 of its texts; this command reads them all"
        assert (sampled in out) == (argv[0] in ("index", "suspects")), argv


def test_an_option_that_is_given_wins_and_a_sample_is_of_its_file_alone(capsys, saved, monkeypatch):
    monkeypatch.delattr(training, "train")
    code, out, _ = run(capsys, "--model", "run", "--limit", 20, "--max-length", 10, "--text-columns", "body", "topic")
    assert code == 0
    assert "As run was saved: --label-column topic." in out
    assert "20 training texts" in out
    shutil.copy("train.csv", "other.csv")
    assert main(["explain", "--train", "other.csv", "--test", "test.csv", "--model", "run"]) == 0
    out = capsys.readouterr().out
    assert "120 training texts;" in out
    assert "--limit" not in out.split("As run was saved:")[1].split("\n")[0]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"max_length": 0}', '{"text_columns": ["a", "a"]}', '{"delimiter": ";;"}']
)
def test_what_is_kept_is_checked(capsys, saved, monkeypatch, content):
    (Path("run") / "captum-tracinwe.json").write_text(content)
    said = refused(capsys, "--model", "run")
    assert "--model run: captum-tracinwe.json in it cannot be used" in said
    assert "or remove it and say the options" in said
