"""`captum-tracinwe suspects`: what it writes, what it cleans, and that a refusal is one line that overwrites nothing."""

import csv
import gzip
import io
import json
import os
import random
import re
import shutil
import sys
from pathlib import Path

import pytest

from captum_tracinwe import save_checkpoint, whole_files
from captum_tracinwe.app import asked_model, cleaning, suspects_command, training
from captum_tracinwe.app.cli import main
from captum_tracinwe.app.files import standing
from captum_tracinwe.tabular import csv_line

PETS = ["cat", "dog", "hamster", "paw", "tail", "fur", "leash", "kitten", "puppy", "barked"]
BOATS = ["ship", "sail", "harbour", "deck", "mast", "anchor", "keel", "sailor", "yacht", "tide"]
SMALL = ["--epochs", "4", "--max-length", "12", "--limit", "5", "--batch-size", "8"]
WRONG = (3, 10)


def rows():
    """Sixty texts about pets and boats, of which two have the other label."""
    drawn = random.Random(0)
    found = []
    for i in range(60):
        label, words = (("pets", PETS), ("boats", BOATS))[i % 2]
        text = " ".join(["the", *drawn.sample(words, 4)])
        other = {"pets": "boats", "boats": "pets"}[label]
        found.append((text, other if i in WRONG else label))
    return found


TEXTS = rows()


def write(name, texts=TEXTS, header=("text", "label")):
    with open(name, "w", newline="") as file:
        csv.writer(file).writerows([header, *texts])


def decide(*lines, name="decisions.csv"):
    with open(name, "w") as file:
        file.write("\n".join(["index,label,decision,new_label", *lines, ""]))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("train.csv")
    return tmp_path


def run(capsys, *argv):
    code = main(["suspects", *map(str, argv)])
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys, folder, *argv):
    """The one line of a refusal, after which every file is as it was."""
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    code, out, err = run(capsys, *argv)
    assert code == 2, err
    assert err.startswith("captum-tracinwe suspects: error: ")
    assert err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    return err


@pytest.fixture
def never_trained(monkeypatch):
    """What is refused is refused before the work."""

    def train(*_, **__):
        raise AssertionError("it was trained before the refusal")

    monkeypatch.setattr(training, "train", train)


# ------------------------------------------------------------------------------------------------------- finding them


def test_a_training_file_alone_is_enough(capsys, folder):
    code, out, err = run(
        capsys, "--train", "train.csv", "--out", "s.html", "--csv", "s.csv", "--argilla", "a.jsonl", *SMALL
    )
    assert code == 0, err
    assert "60 training texts; 2 classes: boats, pets." in out
    assert "Of 60 training texts, about" in out
    assert f"(line {WRONG[0] + 2})" in out
    assert "--train train.csv --decisions decisions.csv --clean clean.csv" in out
    table = list(csv.DictReader(io.StringIO((folder / "s.csv").read_text(), newline="")))
    assert len(table) == 60
    assert {int(row["index"]) for row in table[:2]} == set(WRONG)
    for row in table:
        index = int(row["index"])
        assert (row["text"], row["label"]) == TEXTS[index]
        assert int(row["line"]) == index + 2
    page = (folder / "s.html").read_text()
    assert page.count("<article") == 5
    assert f"1 of 5 · line {int(table[0]['index']) + 2}" in page
    assert "Which labels of train.csv are probably wrong, and why" in page
    records = [json.loads(line) for line in (folder / "a.jsonl").read_text().splitlines()]
    assert len(records) == 5
    first, row = records[0], table[0]
    assert first["id"] == f"train.csv-{row['line']}"
    assert first["fields"] == {"text": row["text"]}
    suggestion = first["suggestions"]["label"]
    assert suggestion["value"] == row["suggested"]
    assert suggestion["score"] == pytest.approx(float(row["suspicion"]))
    assert 0 <= suggestion["score"] <= 1
    assert first["metadata"]["given_label"] == row["label"]
    assert sorted(path.name for path in folder.iterdir()) == ["a.jsonl", "s.csv", "s.html", "train.csv"]


def test_a_text_with_a_lone_carriage_return_and_a_very_long_one_are_rows_of_the_table(capsys, folder):
    texts = [text for text, _ in TEXTS]
    texts[7], texts[9] = texts[7].replace(" ", "\r"), texts[9] + " sail" * 30_000
    records = [{"text": text, "label": label} for text, (_, label) in zip(texts, TEXTS, strict=True)]
    (folder / "odd.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    code, _, err = run(capsys, "--train", "odd.jsonl", "--csv", "s.csv", *SMALL, "--epochs", "1")
    assert code == 0, err
    limit = csv.field_size_limit(1_000_000)
    try:
        table = list(csv.DictReader(io.StringIO((folder / "s.csv").read_bytes().decode(), newline="")))
    finally:
        csv.field_size_limit(limit)
    assert {int(row["index"]): row["text"] for row in table} == dict(enumerate(texts))


@pytest.mark.skipif(sys.platform != "linux", reason="file names are UTF-8 there")
def test_a_file_name_that_is_not_utf_8_is_no_hindrance(capsys, folder):
    shutil.copy("train.csv", os.fsdecode(b"a\xff.csv"))
    code, _, err = run(capsys, "--train", os.fsdecode(b"a\xff.csv"), "--argilla", "a.jsonl", *SMALL, "--epochs", "1")
    assert code == 0, err
    assert json.loads((folder / "a.jsonl").read_text().splitlines()[0])["id"].startswith("a\ufffd.csv-")


def test_the_same_seed_finds_the_same(capsys, folder):
    for name in ("one.csv", "two.csv"):
        assert run(capsys, "--train", "train.csv", "--csv", name, *SMALL, "--seed", "3")[0] == 0
    assert (folder / "one.csv").read_bytes() == (folder / "two.csv").read_bytes()
    assert (folder / "captum-tracinwe-suspects.html").is_file()  # where no --out is given


@pytest.fixture
def model(folder):
    """A tiny classifier of its own names, which was never trained, with one checkpoint beside it."""
    tokenizer = training.words_tokenizer([text for text, _ in TEXTS])
    with training.seeded(0), training.quiet_transformers():
        made = training.small_bert(len(tokenizer), ("pets", "boats"), width=32, positions=16)
        made.save_pretrained("model")
        tokenizer.save_pretrained("model")
    save_checkpoint("checkpoints/step-1.pt", made, 0.1)
    return ["--model", "model"]


def test_a_model_without_checkpoints_is_fine_tuned_and_one_with_them_is_not(capsys, model, monkeypatch):
    code, out, _ = run(capsys, "--train", "train.csv", *model, *SMALL)
    assert code == 0
    assert "--model model has no checkpoints of its own: it is fine-tuned" in out
    assert "Trained for 4 epochs" in out
    code, out, err = run(capsys, "--train", "train.csv", *model, "--checkpoints", "checkpoints", *SMALL)
    assert code == 0, err
    assert "rained" not in out.replace("training", "")
    shutil.copytree("model", "model/checkpoint-1")
    shutil.copy("checkpoints/step-1.pt", "model/checkpoint-1/step-1.pt")
    asked = suspects_command.Settings(train=Path("train.csv"), out=Path("s.html"), model=Path("model"))
    assert asked_model.checkpoints_of(asked) == Path("model")  # a Trainer's folder has them


def test_reasons_come_from_an_index(capsys, folder, model):
    of_model = [*model, "--checkpoints", "checkpoints", "--max-length", "12"]
    assert main(["index", "--train", "train.csv", "--out", "index", *of_model]) == 0
    capsys.readouterr()
    code, out, err = run(capsys, "--train", "train.csv", *of_model, "--csv", "live.csv", "--limit", "5")
    assert code == 0, err
    code, out, err = run(
        capsys, "--train", "train.csv", *of_model, "--index", "index", "--csv", "stored.csv", "--limit", "5"
    )
    assert code == 0, err
    live, stored = (
        list(csv.DictReader(io.StringIO((folder / name).read_text(), newline="")))
        for name in ("live.csv", "stored.csv")
    )
    assert [row["index"] for row in live] == [row["index"] for row in stored]
    assert [row["against"] for row in live] == [row["against"] for row in stored]
    write("other.csv", [*TEXTS[:59], (TEXTS[59][0], "pets")])
    said = refused(capsys, folder, "--train", "other.csv", *of_model, "--index", "index")
    assert "expected the file that the index was built from" in said


# ----------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.usefixtures("never_trained")
def test_places_that_cannot_be_written_to_are_refused_before_the_work(capsys, folder):
    (folder / "s.html").write_text("before")
    train = ["--train", "train.csv"]
    assert "the directory no does not exist" in refused(capsys, folder, *train, "--out", "no/s.html")
    assert "--csv .: a directory" in refused(capsys, folder, *train, "--csv", ".")
    said = refused(capsys, folder, *train, "--out", "s.html", "--csv", "./s.html")
    assert "--csv s.html: --out names the same file" in said
    assert "that is an input file" in refused(capsys, folder, *train, "--csv", "train.csv")
    decide("0,pets,drop,")
    cleaned = [*train, "--decisions", "decisions.csv", "--clean"]
    assert "that is an input file" in refused(capsys, folder, *cleaned, "train.csv")
    assert "that is an input file" in refused(capsys, folder, *cleaned, "decisions.csv")
    assert "the directory no does not exist" in refused(capsys, folder, *cleaned, "no/clean.csv")
    assert "expected the format of train.csv, a file name ending in .csv" in refused(
        capsys, folder, *cleaned, "clean.jsonl"
    )


@pytest.mark.usefixtures("never_trained")
@pytest.mark.parametrize("option", ["--out", "--csv", "--argilla"])
def test_what_a_file_must_not_replace_and_names_too_long_are_refused_before_the_work(capsys, folder, model, option):
    of_model = ["--train", "train.csv", *model, "--checkpoints", "checkpoints"]
    before = (folder / "model/config.json").read_bytes()
    (folder / "link").symlink_to("model")
    for place in ("model/config.json", "link/config.json", "model/new.csv"):
        assert "lies in model, which is read" in refused(capsys, folder, *of_model, option, place)
    assert "lies in checkpoints" in refused(capsys, folder, *of_model, option, "checkpoints/step-1.pt")
    (folder / "index").mkdir()
    said = refused(capsys, folder, *of_model, "--index", "index", option, "index/manifest.json")
    assert "lies in index" in said
    decide("0,pets,keep,")
    cleaned = ["--train", "train.csv", *model, "--decisions", "decisions.csv", "--clean", "model/c.csv"]
    assert "lies in model" in refused(capsys, folder, *cleaned)
    assert (folder / "model/config.json").read_bytes() == before
    os.mkfifo(folder / "fifo")
    (folder / "null").symlink_to("/dev/null")
    for name in ("fifo", "null"):
        said = refused(capsys, folder, "--train", "train.csv", option, name)
        assert f"{option} {name}: a pipe or a device" in said
    assert (folder / "fifo").is_fifo()
    for length in (245, 300):
        said = refused(capsys, folder, "--train", "train.csv", option, "n" * length)
        assert "cannot be written (File name too long)" in said


@pytest.mark.usefixtures("never_trained")
@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_a_file_that_a_models_folder_links_to_is_not_replaced(capsys, folder, model, link):
    """As in a hub's cache, whose folders hold links to files elsewhere."""
    (folder / "blobs").mkdir()
    shutil.move("model/config.json", "blobs/0a1b")
    getattr(folder / "model/config.json", link)(folder / "blobs/0a1b")
    before = (folder / "blobs/0a1b").read_bytes()
    for option in ("--out", "--csv"):
        said = refused(capsys, folder, "--train", "train.csv", *model, option, "blobs/0a1b")
        assert f"{option} blobs/0a1b: model, which is read, has this file under another name" in said
    assert (folder / "blobs/0a1b").read_bytes() == before


@pytest.mark.usefixtures("never_trained")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "new.html"])
def test_demo_replaces_no_file_of_the_model(capsys, folder, model, name):
    before = {path.name: path.read_bytes() for path in (folder / "model").iterdir()}
    options = ["--train", "train.csv", "--test", "train.csv", *model]
    assert main(["demo", *options, "--out", f"model/{name}"]) == 2
    assert f"--out model/{name}: lies in model, which is read" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (folder / "model").iterdir()} == before


@pytest.mark.usefixtures("never_trained")
@pytest.mark.parametrize("column", ["label", "label_name"])
def test_half_a_character_is_refused_before_the_work(capsys, folder, column):
    records = [{"text": text, "label": label, "label_name": label} for text, label in TEXTS]
    records[7][column] = "\ud800"
    (folder / "half.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    said = refused(capsys, folder, "--train", "half.jsonl", "--csv", "s.csv")
    assert f"half.jsonl, line 8: '{column}' holds half a character" in said


@pytest.mark.usefixtures("never_trained")
def test_texts_that_teach_nothing_are_refused(capsys, folder):
    (folder / "empty.csv").touch()
    assert "no rows in it" in refused(capsys, folder, "--train", "empty.csv")
    write("one.csv", [(text, "pets") for text, _ in TEXTS])
    assert "all 60 texts have the label 'pets'" in refused(capsys, folder, "--train", "one.csv")
    write("each.csv", [(text, f"label {n}") for n, (text, _) in enumerate(TEXTS)])
    said = refused(capsys, folder, "--train", "each.csv")
    assert "60 texts with 60 different labels" in said
    assert "Is --label-column label the column of the labels?" in said
    assert "no such file" in refused(capsys, folder, "--train", "nothere.csv")
    assert "there are: text, label" in refused(capsys, folder, "--train", "train.csv", "--text-column", "body")


@pytest.mark.usefixtures("never_trained")
def test_options_that_need_each_other(capsys, folder):
    train = ["--train", "train.csv"]
    said = refused(capsys, folder, *train, "--clean", "clean.csv")
    assert "--clean is given without --decisions" in said
    assert "no text is changed or dropped that is only suspected" in said
    decide("0,pets,keep,")
    assert "--decisions is given without --clean" in refused(capsys, folder, *train, "--decisions", "decisions.csv")
    both = [*train, "--decisions", "decisions.csv", "--clean", "clean.csv"]
    assert "--csv is given with --clean" in refused(capsys, folder, *both, "--csv", "s.csv")
    assert "--limit is given with --clean" in refused(capsys, folder, *both, "--limit", "50")
    for name in ("--checkpoints", "--index"):
        assert f"{name} is given without --model" in refused(capsys, folder, *train, name, "x")
    assert "--model nowhere: no such directory" in refused(capsys, folder, *train, "--model", "nowhere")


def test_an_index_needs_the_models_checkpoints(capsys, folder, model):
    said = refused(capsys, folder, "--train", "train.csv", *model, "--index", "index")
    assert "name those that the index was built from with --checkpoints DIR" in said


def test_a_model_of_more_classes_than_texts_is_refused(capsys, folder):
    tokenizer = training.words_tokenizer([text for text, _ in TEXTS])
    with training.quiet_transformers():
        made = training.small_bert(len(tokenizer), ["pets", "boats", *map(str, range(70))], width=32, positions=16)
        made.save_pretrained("many")
        tokenizer.save_pretrained("many")
    save_checkpoint("checkpoints/step-1.pt", made, 0.1)
    said = refused(capsys, folder, "--train", "train.csv", "--model", "many", "--checkpoints", "checkpoints")
    assert "60 training examples and 72 classes" in said


def test_where_one_file_cannot_be_written_none_is_replaced(capsys, folder, monkeypatch):
    for name in ("s.html", "s.csv"):
        (folder / name).write_text("before")
    before, made = whole_files.tempfile.mkstemp, []

    def full(*args, **options):
        made.append(options["prefix"])
        if made[-1] == ".s.csv.":
            raise OSError(28, "No space left on device")
        return before(*args, **options)

    monkeypatch.setattr(whole_files.tempfile, "mkstemp", full)
    said = refused(capsys, folder, "--train", "train.csv", "--out", "s.html", "--csv", "s.csv", *SMALL)
    assert "No space left on device" in said
    assert made[-2:] == [".s.html.", ".s.csv."]


# ----------------------------------------------------------------------------------------------------------- cleaning


def cleaned(capsys, train, out, *options):
    code, said, err = run(capsys, "--train", train, "--decisions", "decisions.csv", "--clean", out, *options)
    assert code == 0, err
    with open(out, "rb") as file:
        return file.read(), said


@pytest.mark.usefixtures("never_trained")
def test_decisions_are_done_and_all_else_stays_byte_for_byte(capsys, folder):
    lines = [
        "id;text".replace(";", "\t") + "\tlabel\tnote\r\n",
        "1\tthe cat\tpets\tfirst\r\n",
        "\r\n",
        '2\t"a ""big""\nship"\tboats\t\r\n',
        "3\tthe dog\tpets\t 'kept' \r\n",
        '4\t"quoted, for no reason"\tboats\t=1\r\n',
        "5\ta sail\tpets\tlast",
    ]
    (folder / "t.tsv").write_text("\ufeff" + "".join(lines), newline="")
    decide("0,pets,keep,", "1,boats,relabel,pets", "2,pets,drop,", "4,pets,relabel,boats")
    content, said = cleaned(capsys, "t.tsv", "clean.tsv")
    expected = [*lines[:3], '2\t"a ""big""\nship"\tpets\t\r\n', lines[5], "5\ta sail\tboats\tlast"]
    assert content.decode() == "\ufeff" + "".join(expected)
    assert "2 texts relabelled, 1 dropped, 2 as they were (1 of them not decided)" in said
    assert "The column 'label' was changed. A further one with the labels still has the old ones." in said


@pytest.mark.usefixtures("never_trained")
def test_json_lines_keep_their_kinds_of_values_and_names(capsys, folder):
    records = [
        {"id": 1, "text": "the cat", "label": 0, "label_name": "pets", "more": {"a": [1.0, None]}},
        {"id": 2, "text": "a ship – größer", "label": 1, "label_name": "boats"},
        {"id": 3, "text": "the dog", "label": 0, "label_name": "pets", "odd": "\ud800"},
    ]
    lines = [
        json.dumps(records[0], separators=(",", ":")),
        json.dumps(records[1], ensure_ascii=False),
        json.dumps(records[2]),
    ]
    with gzip.open("t.jsonl.gz", "wt", encoding="utf-8", newline="") as file:
        file.write("\n".join([lines[0], "", lines[1], lines[2], ""]))
    decide("1,boats,relabel,pets", "2,pets,relabel,boats")
    content, _ = cleaned(capsys, "t.jsonl.gz", "clean.jsonl.gz")
    found = gzip.decompress(content).decode().split("\n")
    assert found[:2] == [lines[0], ""]
    assert json.loads(found[2]) == {**records[1], "label": 0, "label_name": "pets"}
    assert "größer" in found[2]
    assert json.loads(found[3]) == {**records[2], "label": 1, "label_name": "boats"}
    assert found[4:] == [""]


@pytest.mark.usefixtures("never_trained")
def test_a_mark_at_the_begin_of_json_lines_stays(capsys, folder):
    lines = [
        '{"text": "the cat", "label": "boats"}',
        '{"text": "a ship", "label": "boats"}',
        '{"text": "a dog", "label": "pets"}',
    ]
    (folder / "t.jsonl").write_text("\ufeff" + "\r\n".join(lines), newline="")
    decide("0,boats,relabel,pets")
    content, _ = cleaned(capsys, "t.jsonl", "clean.jsonl")
    assert content.decode() == "\ufeff" + "\r\n".join([lines[0].replace("boats", "pets"), *lines[1:]])


@pytest.mark.usefixtures("never_trained")
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
@pytest.mark.parametrize("inside", ["\n", "\r", "\r\n"])
def test_a_relabelled_text_with_line_breaks_stays_one_text(capsys, folder, end, inside):
    first = f'text,label,note{end or chr(10)}the cat,pets,{end or chr(10)}"a{inside}ship",boats,"b{inside}c"'
    (folder / "t.csv").write_text(first + end, newline="")
    decide("1,boats,relabel,pets")
    content, _ = cleaned(capsys, "t.csv", "clean.csv")
    assert content.decode() == first.replace("boats", "pets") + end


@pytest.mark.usefixtures("never_trained")
@pytest.mark.parametrize("damage", [lambda line: f"a{line}", lambda line: line + line, lambda _: '"'])
def test_a_cleaned_file_that_would_be_read_otherwise_replaces_nothing(capsys, folder, monkeypatch, damage):
    monkeypatch.setattr(standing, "csv_line", lambda *given: damage(csv_line(*given)))
    decide("0,pets,relabel,boats")
    (folder / "clean.csv").write_text("before")
    shown = refused(capsys, folder, "--train", "train.csv", "--decisions", "decisions.csv", "--clean", "clean.csv")
    assert "nothing is written" in shown


def test_a_models_names_are_understood_with_the_model_and_refused_without(capsys, folder, model):
    numbered = [(text, {"pets": 0, "boats": 1}[label]) for text, label in TEXTS]
    write("numbered.csv", numbered)
    decide("0,pets,relabel,boats")
    said = refused(capsys, folder, "--train", "numbered.csv", "--decisions", "decisions.csv", "--clean", "c.csv")
    assert "text 0 has the label 'pets' there, and '0' in numbered.csv, line 2" in said
    assert "with its --model" in said
    content, _ = cleaned(capsys, "numbered.csv", "c.csv", *model)
    assert content.decode().splitlines()[1].endswith(",1")


@pytest.mark.usefixtures("never_trained")
@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["60,pets,keep,"], "line 2: the index is 60, and train.csv has 60 texts, 0 to 59"),
        (["0,boats,keep,"], "line 2: text 0 has the label 'boats' there, and 'pets' in train.csv, line 2"),
        (["0,pets,keep,", "0,pets,drop,"], "line 3: text 0 is decided otherwise in line 2"),
        (["0,pets,relabel,cars"], "line 2: the new label 'cars' is none of 'boats', 'pets'"),
        (["0,pets,relabel,"], "line 2: relabel without a new_label"),
        (["0,pets,sing,"], "line 2: the decision is 'sing'; expected keep, relabel, drop"),
        (["-1,pets,keep,"], "line 2: the index is '-1'; expected a whole number"),
        (["²,pets,keep,"], "line 2: the index is '²'; expected a whole number"),
        (["0,pets"], "line 2: expected 4 fields"),
        (["0,pets,keep,,,"], "line 2: expected 4 fields"),
        (['0,"pets,keep,'], "cannot be read"),
        ([], "no decisions in it"),
        ([f"{n},{label},drop," for n, (_, label) in enumerate(TEXTS)], "all 60 texts are to be dropped"),
    ],
)
def test_decisions_that_do_not_fit_are_refused(capsys, folder, lines, said):
    decide(*lines)
    (folder / "clean.csv").write_text("before")
    shown = refused(capsys, folder, "--train", "train.csv", "--decisions", "decisions.csv", "--clean", "clean.csv")
    assert said in shown


@pytest.mark.usefixtures("never_trained")
def test_files_that_hold_no_decisions_are_refused(capsys, folder):
    options = ["--train", "train.csv", "--clean", "clean.csv", "--decisions"]
    assert "nothere.csv: no such file" in refused(capsys, folder, *options, "nothere.csv")
    assert "the first line is 'text,label'; expected index,label,decision,new_label" in refused(
        capsys, folder, *options, shutil.copy("train.csv", "copy.csv")
    )
    (folder / "latin.csv").write_bytes("index,label,decision,new_label\n0,é,keep,\n".encode("latin-1"))
    assert "latin.csv: not UTF-8 text" in refused(capsys, folder, *options, "latin.csv")
    (folder / "empty.csv").touch()
    assert "the first line is ''" in refused(capsys, folder, *options, "empty.csv")


def test_what_the_page_exports_is_what_is_read(folder):
    """The script's header and words of decisions are those of the reader."""
    from captum_tracinwe.visualization.suspects_script import SUSPECTS_SCRIPT

    assert ",".join(cleaning.COLUMNS) in SUSPECTS_SCRIPT
    [words] = re.findall(r'\[("keep"[^\]]*)\]\.includes', SUSPECTS_SCRIPT)
    assert tuple(json.loads(f"[{words}]")) == cleaning.KINDS
