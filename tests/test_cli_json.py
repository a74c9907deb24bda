"""`--json` and `--csv` of every command: one form, numbers as numbers, nothing beside JSON on standard output, whole files."""

import csv
import io
import itertools
import json
import math
from pathlib import Path

import pytest

from captum_tracinwe import __version__, ops, save_checkpoint
from captum_tracinwe.app import results, training
from captum_tracinwe.app.cli import main
from captum_tracinwe.explanation import ClassCount, Explanation, Performance
from captum_tracinwe.explanation.tables import COLUMNS
from captum_tracinwe.exports import read_csv
from captum_tracinwe.words.report import WordReport

WORDS = {"pets": "cat dog hamster paw tail fur leash", "boats": "ship sail harbour deck mast anchor keel"}
TEXTS = [
    (" ".join(["the", *(WORDS[label].split()[(i + step) % 7] for step in (0, 2, 3))]), label)
    for i in range(10)
    for label in ("pets", "boats")
]
TEXTS[3] = ("=1+1 the deck", "boats")


def write(name, texts):
    with open(name, "w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *texts])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with training and test texts, a tiny classifier, its checkpoint and its index."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write("train.csv", TEXTS)
        write("test.csv", TEXTS[2:6])
        tokenizer = training.words_tokenizer([text for text, _ in TEXTS])
        with training.seeded(0), training.quiet_transformers():
            model = training.small_bert(len(tokenizer), ("boats", "pets"), width=32, positions=16)
            model.save_pretrained("model")
            tokenizer.save_pretrained("model")
        save_checkpoint("steps/step-1.pt", model, 0.1)
        assert main(["index", "--train", "train.csv", "--out", "index", *MODEL]) == 0
    return folder


MODEL = ["--model", "model", "--checkpoints", "steps", "--max-length", "12"]
SMALL = ["--epochs", "1", "--max-length", "12", "--k", "1"]
#: Command → its options, and the tables of its JSON beside the head.
COMMANDS = {
    "cache": ([], ("kept",)),
    "info": ([], ("packages", "python", "platform", "kernels", "cuda")),
    "index": (["--train", "train.csv", *MODEL], ("index",)),
    "query": (["--index", "index", "--test", "test.csv", "--k", "2", *MODEL], ("read", "pairs", "shares")),
    "browse": (["--index", "index", "--train", "train.csv", "--texts", "2", *MODEL], ("pairs", "shares")),
    "demo": (
        ["--train", "train.csv", "--test", "test.csv", *SMALL, "--test-limit", "2"],
        ("title", "trains", *COLUMNS),
    ),
    "explain": (["--train", "train.csv", "--test", "test.csv", *SMALL, "--no-cache"], ("title", "trains", *COLUMNS)),
    "suspects": (
        ["--train", "train.csv", "--epochs", "1", "--max-length", "12", "--limit", "3"],
        ("classes", "expected", "accuracy", "weight", "tells", "texts", "mixed_up", "doubles"),
    ),
}


@pytest.fixture
def run(made, tmp_path, monkeypatch, capsys):
    """Run a command in a folder of its own; its exit code and both streams. An index is a new one each time."""
    monkeypatch.chdir(tmp_path)
    numbers = itertools.count()
    for path in made.iterdir():
        Path(path.name).symlink_to(path)

    def go(command, *more):
        capsys.readouterr()
        out = ["--out", f"new-{next(numbers)}"] if command == "index" else []
        code = main([command, *COMMANDS[command][0], *out, *map(str, more)])
        return code, *capsys.readouterr()

    return go


@pytest.mark.parametrize("command", COMMANDS)
def test_standard_output_has_json_alone_and_a_file_has_the_same(run, command):
    code, out, err = run(command, "--json", "-")
    assert (code, err) == (0, "")
    assert out.isascii()
    told = json.loads(out)
    assert list(told) == ["schema_version", "command", "package_version", *COMMANDS[command][1]]
    assert (told["schema_version"], told["command"], told["package_version"]) == (1, command, __version__)
    code, said, err = run(command, "--json", "r.json", "--csv", "r.csv")
    assert (code, err) == (0, "")
    assert said
    assert "schema_version" not in said
    again = json.loads(Path("r.json").read_text("utf-8"))
    if command != "index":
        assert again == told
    table = csv.reader(io.StringIO(Path("r.csv").read_bytes().decode(), newline=""))
    assert len({len(row) for row in table}) == 1


def test_pairs_are_those_of_the_files_and_csv_has_the_same(run):
    code, _, _ = run("query", "--json", "q.json", "--csv", "q.csv")
    assert code == 0
    told = json.loads(Path("q.json").read_text())
    assert [(row["test_line"], row["rank"]) for row in told["pairs"]] == [
        (i, rank) for i in (2, 3, 4, 5) for rank in (1, 2)
    ]
    for row in told["pairs"]:
        assert (row["test_text"], row["test_label"]) == TEXTS[row["test_line"]]
        assert row["train_index"] == row["train_line"] - 2
        assert row["train_label"] == TEXTS[row["train_index"]][1]  # the index knows it, without --train
        assert row["train_text"] is None
        own = [one["share"] for one in told["shares"] if all(one[k] == row[k] for k in ("test_line", "train_line"))]
        assert math.fsum(own) == pytest.approx(row["score"], rel=1e-4)
    assert told["read"]["examples"] == len(TEXTS)
    lines = read_csv("q.csv")
    lines = lines if isinstance(lines, list) else lines.to_dict("records")
    known = [{key: "" if value is None else value for key, value in row.items()} for row in told["pairs"]]
    assert lines == known
    assert "'=1+1 the deck" in Path("q.csv").read_text()
    run("query", "--train", "train.csv", "--json", "q.json")
    assert all(
        row["train_text"] == TEXTS[row["train_index"]][0] for row in json.loads(Path("q.json").read_text())["pairs"]
    )


def test_a_page_of_a_question(run):
    code, out, _ = run("query", "--train", "train.csv", "--out", "page.html")
    assert code == 0
    assert "Page: page.html" in out
    page = Path("page.html").read_text()
    assert page.count('<section class="test">') == 4
    assert "=1+1" in page
    code, out, _ = run("query", "--json", "-", "--out", "other.html")
    assert code == 0
    assert json.loads(out)["pairs"]
    assert Path("other.html").exists()


def test_facts_are_numbers_and_lists(run):
    _, out, _ = run("index", "--json", "-", "--csv", "facts.csv")
    facts = json.loads(out)["index"]
    assert (facts["examples"], facts["complete"], facts["labels"]) == (20, True, {"boats": 0, "pets": 1})
    assert facts["checkpoints"] == [{"name": "step-1.pt", "learning_rate": 0.1}]
    rows = {row["name"]: row["value"] for row in csv.DictReader(Path("facts.csv").read_text().splitlines())}
    assert (rows["index.examples"], rows["index.labels.pets"]) == ("20", "1")
    _, out, _ = run("index", "--dry-run", "--json", "-")
    assert json.loads(out)["estimate"]["examples"] == 20
    _, out, _ = run("info", "--json", "-")
    told = json.loads(out)
    assert told["kernels"]["cpu"] == (sorted(told["kernels"]["cpu"]) if ops.NATIVE_LIBRARY else [])
    assert (told["kernels"]["library"] is None) == (ops.NATIVE_LIBRARY is None)


def test_all_texts_are_in_the_json_of_suspects(run):
    code, _, _ = run("suspects", "--json", "s.json", "--csv", "s.csv", "--argilla", "a.jsonl")
    assert code == 0
    told = json.loads(Path("s.json").read_text())
    assert sorted(row["index"] for row in told["texts"]) == list(range(20))
    assert {row["text"] for row in told["texts"]} == {text for text, _ in TEXTS}
    assert all(isinstance(row["suspicion"], float) for row in told["texts"])
    assert told["expected"] == pytest.approx(math.fsum(row["suspicion"] for row in told["texts"]))
    lines = read_csv("s.csv")
    lines = lines if isinstance(lines, list) else lines.to_dict("records")
    assert [{**row} for row in lines] == [{key: row[key] for key in lines[0]} for row in told["texts"]]


def test_the_built_in_demo_hands_on_its_findings(tmp_path, monkeypatch, capsys):
    from captum_tracinwe.app import demo
    from captum_tracinwe.app.demo import PlantedFindings

    monkeypatch.chdir(tmp_path)
    found = PlantedFindings(3, 4, 0.9, 9.5, 0.25, {"crimson": 0.8}, [], None)
    monkeypatch.setattr(demo, "run_planted", lambda settings, say: found)
    assert main(["demo", "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["findings"]["shares"] == {"crimson": 0.8}
    assert (told["findings"]["fooled"], told["words"]) == (3, [])


@pytest.mark.parametrize("command", COMMANDS)
def test_places_that_cannot_be_written_to_are_refused_before_the_work(run, command, monkeypatch):
    def worked(*_, **__):
        raise AssertionError("it worked before the refusal")

    for module, name in ((training, "train"), (training, "load_model"), (results, "json_document")):
        monkeypatch.setattr(module, name, worked)
    Path("a folder").mkdir()
    for option in ("--json", "--csv"):
        for place, message in (
            ("none/r", "the directory none does not exist"),
            ("a folder", "a directory; name a file"),
        ):
            code, out, err = run(command, option, place)
            assert (code, out, err.count("\n")) == (2, "", 1)
            assert f"{option} {place}: {message}" in err
    code, _, err = run(command, "--json", "same", "--csv", "same")
    assert code == 2
    assert "names the same file" in err
    if command == "cache":
        Path("kept").mkdir()
        code, _, err = run(command, "--cache", "kept", "--json", "kept/r")
        assert code == 2
        assert "kept, which is read" in err
    elif command != "info":
        code, _, err = run(command, "--json", "train.csv" if command != "query" else "test.csv")
        assert code == 2
        assert "that is an input file" in err


def test_where_one_file_cannot_be_written_none_is_replaced(run, monkeypatch):
    from captum_tracinwe import whole_files

    for name in ("r.json", "r.csv"):
        Path(name).write_text("before")
    made = whole_files.tempfile.mkstemp

    def full(*args, **options):
        if options["prefix"] == ".r.csv.":
            raise OSError(28, "No space left on device", "r.csv")
        return made(*args, **options)

    monkeypatch.setattr(whole_files.tempfile, "mkstemp", full)
    code, _, err = run("info", "--json", "r.json", "--csv", "r.csv")
    assert (code, err.count("\n")) == (2, 1)
    assert "r.csv: cannot be written (No space left on device)" in err
    assert {Path(name).read_text() for name in ("r.json", "r.csv")} == {"before"}


def test_an_explanation_is_handed_on_by_the_same(tmp_path, capsys):
    performance = Performance(2, 1, "a", 1, 0.5, (ClassCount("a", 6, 2, 1, 2),))
    found = Explanation(performance, (), WordReport((), 0.0, 2, 6), None)
    handed = results.Results("explain", str(tmp_path / "e.json"), str(tmp_path / "e.csv"))
    results.of_explanation(handed, found)
    told = json.loads((tmp_path / "e.json").read_text())
    assert list(told)[:5] == ["schema_version", "command", "package_version", "title", "trains"]
    assert told["performance"][0]["right"] == 1
    assert (tmp_path / "e.csv").read_text() == ",".join(COLUMNS["pairs"]) + "\n"
    results.of_explanation(results.Results("explain", "-"), found)
    assert json.loads(capsys.readouterr().out) == told
