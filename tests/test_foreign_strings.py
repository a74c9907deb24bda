"""Nothing that a file, a model or an index has for a name reaches the terminal other than to be read."""

import csv
import json
from pathlib import Path

import pytest
import torch
from hostile import HOSTILE, NAME, obeyed

from captum_tracinwe import ops, save_checkpoint
from captum_tracinwe.app import training
from captum_tracinwe.app.cli import main
from captum_tracinwe.app.data import InputError, read_rows
from captum_tracinwe.words.legible import as_line, as_lines, visible

TEXTS = ["the cat sat on the mat", "a dog barked at the door", "the ship left the harbour"]
SMALL = ["--epochs", "1", "--max-length", "12", "--k", "1", "--test-limit", "2"]
WHOLE = [name for name in HOSTILE if not any("\ud800" <= c <= "\udfff" for c in name)]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def lines(name, records):
    Path(name).write_text("\n".join(map(json.dumps, records)))
    return name


def classifier(folder, names, **config):
    """A saved model of these classes, their names in its config.json, with a checkpoint."""
    tokenizer = training.words_tokenizer(TEXTS)
    model = training.small_bert(len(tokenizer), [f"class {i}" for i in range(len(names))], width=32, positions=16)
    with training.quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    path = Path(folder, "config.json")
    config = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}, **config}
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return model


@pytest.fixture
def ask(capsys):
    """Run a command line: its exit code and all that it printed, which is looked through."""

    def run(*argv):
        code = main([str(word) for word in argv])
        out, err = capsys.readouterr()
        assert obeyed(out + err) == set(), argv
        assert len(err) < 2500, argv
        assert code == 0 or err.count("\n") == 1, argv
        return code, out, err

    return run


def test_the_strings_are_of_every_kind():
    assert len(HOSTILE) >= 40
    assert all(obeyed(name) or not name.isprintable() or len(name) > 10_000 for name in HOSTILE)


def test_what_is_made_to_be_shown_is_obeyed_by_nothing():
    for name in HOSTILE:
        assert not obeyed(visible(name) + as_line(name) + as_lines(name) + str(InputError(name)))
        assert visible(visible(name)) == visible(name)
        assert as_line(as_line(name)) == as_line(name)
        assert "\n" not in as_line(name)
    assert as_lines("a\x1b\n\nb") == "a␛\n\nb"
    assert visible("שלום, مرحبا 👩\u200d👧") == "שלום, مرحبا 👩\u200d👧"


def test_keys_headers_and_labels_of_files_are_shown(ask):
    lines("good.jsonl", [{"text": text, "label": label} for text in TEXTS for label in "xy"])
    for name in HOSTILE:
        lines("keys.jsonl", [{name: "a", f"{name}2": "b"}])
        lines("labels.jsonl", [{"text": "a", "label": name}] * 2)
        lines("named.jsonl", [{"text": "a", "label": "new", "label_name": name}])
        files = ["keys.jsonl", "labels.jsonl", "named.jsonl"]
        if name in WHOLE and "\0" not in name:
            with open("head.csv", "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([[name, "other"], ["a", "b"]])
            with open("twice.csv", "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([[name, name], ["a", "b"]])
            files += ["head.csv", "twice.csv"]
        for file in files:
            for pair in (["--train", file, "--test", "good.jsonl"], ["--train", "good.jsonl", "--test", file]):
                code, out, err = ask("demo", *pair, "--out", "r.html")
                assert (code, out) == (2, "")
                assert file in err
            code, _, err = ask("demo", "--train", file, "--test", file, "--text-column", name)
            assert code == 2
            with pytest.raises(InputError) as caught:  # what Python's traceback would print
                read_rows(file, label_column=name, text_column="none")
            assert not obeyed(str(caught.value))


def test_a_missing_column_names_those_there_are(ask):
    lines("keys.jsonl", [{"body\x1b[2J": "a", "label": "b", **{f"k{i}" * 50: 1 for i in range(50)}}])
    code, _, err = ask("demo", "--train", "keys.jsonl", "--test", "keys.jsonl")
    assert code == 2
    assert "no column 'text'; there are: body␛[2J, label, k0k0" in err
    assert "Name the right one with --text-column." in err


def test_options_and_names_of_files_are_shown(ask):
    lines("good.jsonl", [{"text": text, "label": label} for text in TEXTS for label in "xy"])
    own = ["--train", "good.jsonl", "--test", "good.jsonl"]
    for name in HOSTILE:
        for argv in (
            ["demo", "--train", name, "--test", "good.jsonl"],
            ["demo", "--train", f"{name}.jsonl", "--test", "good.jsonl"],
            ["demo", *own, "--out", f"none/{name}"],
            ["demo", *own, "--out", f"{name}/r.html"],
            ["demo", *own, "--model", name],
            ["demo", *own, "--checkpoints", f"good.jsonl/{name}"],
            ["demo", "--k", name],
            ["demo", name],
            ["demo", f"--{name}"],
            [name],
            ["info", name],
            ["index", "--train", f"{name}.csv", "--out", "i", "--model", "m"],
            ["index", "--train", "good.jsonl", "--out", name, "--model", name],
            ["index", "--train", "good.jsonl", "--out", "i", "--dtype", name, "--model", "m"],
            ["query", "--index", name, "--test", "good.jsonl", "--model", name],
            ["query", "--index", "i", "--test", name, "--model", "m", "--train", name],
        ):
            assert ask(*argv)[0] == 2, argv
        try:
            Path(f"{name}.jsonl").write_text("{oops")
        except (OSError, ValueError):
            continue  # no file can have this name
        assert ask("demo", "--train", f"{name}.jsonl", "--test", "good.jsonl")[0] == 2


def test_configs_are_shown(ask):
    classifier("model", ["x", "y"])
    good = json.loads(Path("model/config.json").read_text())
    lines("good.jsonl", [{"text": text, "label": label} for text in TEXTS for label in "uv"])
    for name in HOSTILE:
        for wrong in (
            {"id2label": {0: name, 1: "y"}, "label2id": {name: 1, "y": 0}},
            {"label2id": {name: 7}},
            {"id2label": {0: name, 1: f"{name}2"}, "label2id": {name: 0, f"{name}2": 1}},
            {"id2label": {name: "x"}},
            {"model_type": name},
            {"hidden_act": name},
            {"architectures": [name], "problem_type": name},
        ):
            Path("model/config.json").write_text(json.dumps(good | wrong))
            code, _, _ = ask(
                "index", "--train", "good.jsonl", "--out", "i", "--model", "model", "--checkpoints", "none"
            )
            assert code in (1, 2)


@pytest.mark.filterwarnings("default")
def test_checkpoints_and_indexes_are_shown(ask):
    model = classifier("model", ["x", "y"])
    lines("good.jsonl", [{"text": text, "label": label} for text in TEXTS for label in "xy"])
    given = ["--train", "good.jsonl", "--model", "model", "--max-length", "12"]
    for number, name in enumerate(WHOLE):
        folder = Path(f"steps-{number}")
        folder.mkdir()
        torch.save({"learning_rate": 0.1, "model": {name: torch.ones(2)}}, folder / "step-1.pt")
        assert ask("index", *given, "--out", "i", "--checkpoints", folder)[0] == 2
        try:
            (folder / f"{name}-2.pt").write_text("no checkpoint")
        except (OSError, ValueError):
            continue
        assert ask("index", *given, "--out", "i", "--checkpoints", folder)[0] in (1, 2)
    Path("bare").mkdir()
    torch.save(model.state_dict(), f"bare/{NAME}1.pt")
    code, _, err = ask("index", *given, "--out", "i", "--checkpoints", "bare")
    assert code == 0
    assert "warning: The checkpoint" in err


def test_whatever_a_command_stumbles_over_is_shown(ask, monkeypatch):
    from captum_tracinwe.app import cli

    for kind in (
        ValueError,
        OSError,
        RuntimeError,
        KeyError,
        TypeError,
        FloatingPointError,
        UserWarning,
        ZeroDivisionError,
    ):
        for name in HOSTILE:

            def stumble(options, kind=kind, name=name):
                raise kind(name)

            monkeypatch.setattr(cli, "_info", stumble)
            assert ask("info")[0] in (1, 2)
    monkeypatch.undo()
    monkeypatch.setattr(ops, "NATIVE_LIBRARY", None)
    monkeypatch.setattr(ops, "native_error", NAME)
    code, out, _ = ask("info")
    assert code == 0
    assert "not loaded (" in out


def test_whole_runs_on_hostile_names_print_nothing_that_is_obeyed(ask):
    names = [name for name in WHOLE if len(name) < 1000]
    texts = [
        {"text": f"{name} {text}", "label": name, name: name} for name, text in zip(names, TEXTS * 20, strict=False)
    ]
    Path(NAME).mkdir()
    train, test = lines(f"{NAME}/1{NAME}.jsonl", texts * 2), lines(f"{NAME}/2{NAME}.jsonl", texts[::-1])
    kept, page = f"{NAME}/kept", f"{NAME}/{NAME}.html"
    code, out, err = ask("demo", "--train", train, "--test", test, *SMALL, "--out", page, "--checkpoints", kept)
    assert (code, err) == (0, "")
    assert f"explained: {visible(page)}" in out
    assert not obeyed(Path(page).read_text("utf-8").replace("\t", ""))
    model = classifier(f"{NAME}/model", names)
    save_checkpoint(f"{NAME}/steps/{NAME}1.pt", model, 0.1)
    own = ["--model", f"{NAME}/model", "--checkpoints", f"{NAME}/steps", "--max-length", "12"]
    code, out, err = ask("index", "--train", train, "--out", f"{NAME}/index", *own)
    assert (code, err) == (0, "")
    assert f"in {visible(NAME)}/index" in out
    asked = ["query", "--index", f"{NAME}/index", "--test", test, *own]
    for extra in ([], ["--train", train, "--test-limit", 60, "--k", 2], ["--predicted", "--opponents"]):
        code, out, _ = ask(*asked, *extra)
        assert code == 0
        assert "Test example" in out
    assert ask(*asked, "--train", test)[0] == 2  # a label that is quoted
    lines(test, [{"text": "the cat", "label": "none of them"}])
    assert ask(*asked)[0] == 2
