"""Every command reads files by the same options, of any form, and a pair goes as a pair from the file to what is printed."""

import csv
import json
import os
import shlex
from pathlib import Path

import pytest

from captum_tracinwe import save_checkpoint
from captum_tracinwe.app import training
from captum_tracinwe.app.cli import main
from captum_tracinwe.app.files import Reading
from captum_tracinwe.app.files.standing import ending_of_cleaned

TEXTS = [("the cat sat", "pets"), ("a dog barked", "pets"), ("the ship left", "boats"), ("a sail tore", "boats")] * 3
COMMANDS = {
    "demo": ["--train", "FILE", "--test", "FILE"],
    "index": ["--model", "model", "--train", "FILE", "--out", "index"],
    "query": ["--model", "model", "--index", "index", "--test", "FILE"],
    "suspects": ["--train", "FILE"],
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *argv):
    code = main([str(word) for word in argv])
    out, err = capsys.readouterr()
    return code, out, err


def with_model(texts, names=("boats", "pets")):
    tokenizer = training.words_tokenizer(texts)
    model = training.small_bert(len(tokenizer), names, width=32, positions=64)
    with training.quiet_transformers():
        model.save_pretrained("model")
        tokenizer.save_pretrained("model")
    save_checkpoint("checkpoints/step-1.pt", model, 0.1)


MODEL = ["--model", "model", "--checkpoints", "checkpoints"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_the_options_of_files(capsys, folder, command):
    (folder / "x.csv").write_text("a~b~c\nd~e~f\n", encoding="utf-16-le")
    if command == "query":
        with_model([text for text, _ in TEXTS])
        write("train.csv")
        assert run(capsys, "index", *MODEL, "--train", "train.csv", "--out", "index")[0] == 0
    asked = [command, *[word.replace("FILE", "x.csv") for word in COMMANDS[command]]]
    assert "Give --encoding utf-16-le" in run(capsys, *asked)[2]
    given = ["--encoding", "utf-16-le", "--delimiter", "~"]
    assert "there are: a, b, c" in run(capsys, *asked, *given)[2]
    said = run(capsys, *asked, *given, "--text-columns", "a", "x", "--label-column", "c")[2]
    assert "no column 'x'; there are: a, b, c. Name the right one with --text-columns" in said
    both = run(capsys, *asked, "--text-column", "a", "--text-columns", "a", "b")
    assert both[0] == 2
    assert "not allowed with argument" in both[2]
    for wrong in ("ab", "", '"', "\n"):
        code, _, err = run(capsys, *asked, "--delimiter", wrong)
        assert (code, err.count("\n")) == (2, 1)
        assert "expected one character between fields" in err


def test_the_options_of_files_need_files(capsys):
    for given in (["--delimiter", ";"], ["--encoding", "latin-1"], ["--text-columns", "a", "b"]):
        assert f"{given[0]} is for your own texts" in run(capsys, "demo", *given)[2]


def write(name, texts=TEXTS, delimiter=","):
    with open(name, "w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([("text", "label"), *texts])


@pytest.mark.parametrize("given", [r"\t", "\t", "tab"])
def test_a_tab_is_given_as_it_can_be_typed(capsys, given):
    write("x.dat", delimiter="\t")
    with_model([text for text, _ in TEXTS])
    code, out, err = run(capsys, "index", *MODEL, "--train", "x.dat", "--out", "i", "--dry-run", "--delimiter", given)
    assert code == 0, err
    assert "Index of 12 examples" in out


def test_a_folder_of_classes_is_indexed_and_nothing_is_written_into_it(capsys, folder):
    for n, (text, label) in enumerate(TEXTS):
        (folder / "films" / label).mkdir(parents=True, exist_ok=True)
        (folder / "films" / label / f"{n}.txt").write_text(text)
    with_model([text for text, _ in TEXTS])
    code, out, err = run(capsys, "index", *MODEL, "--train", "films", "--out", "index")
    assert code == 0, err
    code, out, err = run(capsys, "query", *MODEL, "--index", "index", "--test", "films", "--train", "films")
    assert code == 0, err
    assert "ship" in out
    said = run(capsys, "suspects", "--train", "films", "--out", "films/page.html")[2]
    assert "lies in films, which is read" in said
    (folder / "films/pets/0.txt").write_text("")
    (folder / "films/boats/2.txt").write_text("")
    said = run(capsys, "index", *MODEL, "--train", "films", "--out", "other")[2]
    assert "films: 2 of 12 cannot be used: boats/2.txt and pets/0.txt: 'text' is empty" in said


@pytest.mark.filterwarnings("default")
def test_numbers_among_names_are_a_warning_and_not_with_a_model_that_knows_both(capsys):
    write("x.csv", [*TEXTS, ("a cat barked", "1"), ("the ship sat", "0")])
    with_model([text for text, _ in TEXTS])
    code, _, err = run(capsys, "index", *MODEL, "--train", "x.csv", "--out", "index", "--dry-run")
    assert (code, err) == (0, "")
    code, out, err = run(capsys, "demo", "--train", "x.csv", "--test", "x.csv", "--epochs", "1", "--test-limit", "1")
    assert code == 0
    assert "warning: x.csv: some labels are numbers ('0', '1') and some are names ('boats', 'pets')" in err
    assert err.count("warning") == 1


def test_pairs_go_from_the_file_to_what_is_printed(capsys):
    names = ("entailment", "contradiction")
    pairs = [("a dog runs", "an animal moves"), ("a man sleeps", "he runs away")] * 4
    records = [{"premise": a, "hypothesis": b, "gold": names[n % 2]} for n, (a, b) in enumerate(pairs)]
    Path("nli.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    with_model(pairs, names)
    columns = ["--text-columns", "premise", "hypothesis", "--label-column", "gold"]
    code, out, err = run(capsys, "index", "--train", "nli.jsonl", "--out", "index", *MODEL, *columns)
    assert code == 0, err
    printed = shlex.split(out.partition("Ask it with: ")[2].strip())
    assert [*columns] == printed[printed.index("--text-columns") :][:5]
    asked = ["nli.jsonl" if word == "FILE" else word for word in printed[1:]]
    code, out, err = run(capsys, *asked, "--train", "nli.jsonl", "--test-limit", "1", "--k", "1")
    assert code == 0, err
    assert "a dog runs │ an animal moves" in out
    code, out, err = run(
        capsys, "suspects", "--train", "nli.jsonl", *columns, "--epochs", "1", "--out", "s.html", "--csv", "s.csv"
    )
    assert code == 0, err
    assert "Each text is a pair: premise │ hypothesis." in out
    with open("s.csv", newline="") as file:
        assert {row["text"] for row in csv.DictReader(file)} == {f"{a} │ {b}" for a, b in pairs}
    assert f"--train nli.jsonl {shlex.join(columns)} --decisions decisions.csv --clean clean.jsonl" in out
    said = run(capsys, *asked, "--train", "nli.jsonl", "--max-length", "3")[2]
    assert "the tokenizer puts 3 special tokens around a text" in said


def test_what_a_page_leads_to_is_said_for_each_form(folder):
    for name, content, ending in (
        ("x.csv", "text,label\na,b\n", ".csv"),
        ("a.b.jsonl", '{"text": "a", "label": 1}\n', ".jsonl"),
        ("y.json", '{"text": ["a"], "label": [1]}', None),
        ("z.json", '[{"text": "a", "label": 1}]', ".json"),
        ("x.parquet", "", ".parquet"),
        ("x.xlsx", "", None),
    ):
        (folder / name).write_text(content)
        assert ending_of_cleaned(Path(name), Reading()) == ending
    os.mkdir("films")
    (folder / "films/a").mkdir()
    (folder / "films/a/1.txt").write_text("a")
    assert ending_of_cleaned(Path("films"), Reading()) is None
