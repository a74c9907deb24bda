"""Where the command line writes: standard output for data, no folder that is read, and the modes that the umask gives."""

import csv
import io
import json
import os
import stat
from pathlib import Path

import pytest
from test_cli_json import COMMANDS, MODEL, TEXTS, made, run  # noqa: F401 (fixtures)

from captum_tracinwe.app import cli, results, training
from captum_tracinwe.app.cli import main
from captum_tracinwe.app.files import InputError
from captum_tracinwe.app.outputs import check_outputs

# ---------------------------------------------------------------------------------------------------- standard output


@pytest.mark.parametrize("command", COMMANDS)
def test_standard_output_has_csv_alone_and_a_file_has_the_same(run, command):  # noqa: F811
    code, out, err = run(command, "--csv", "-")
    assert (code, err) == (0, "")
    assert not Path("-").exists()
    assert run(command, "--csv", "r.csv")[0] == 0
    there, here = (
        list(csv.reader(io.StringIO(text, newline=""))) for text in (Path("r.csv").read_bytes().decode(), out)
    )
    assert here[0] == there[0]
    if command != "index":
        assert here == there


def test_one_of_both_can_be_printed(run, monkeypatch):  # noqa: F811
    monkeypatch.delattr(training, "train")
    for command in COMMANDS:
        code, out, err = run(command, "--csv", "-", "--json", "-")
        assert (code, out) == (2, "")
        assert "standard output can hold one of them; name a file for the other" in err
    code, out, _ = run("info", "--csv", "-", "--json", "i.json")
    assert (code, out.splitlines()[0]) == (0, "name,value")
    assert json.loads(Path("i.json").read_text())["command"] == "info"
    code, out, _ = run("info", "--csv", "./-", "--json", "-")  # a file that is called so is named with its folder
    assert json.loads(out)["command"] == "info"
    assert Path("-").read_text().startswith("name,value")


@pytest.mark.parametrize(
    "argv",
    [
        ["index", "--train", "train.csv", *MODEL, "--out", "-"],
        ["query", "--index", "index", "--test", "test.csv", *MODEL, "--out", "-"],
        ["browse", "--index", "index", "--train", "train.csv", *MODEL, "--out", "-"],
        ["demo", "--out", "-"],
        ["demo", "--checkpoints", "-"],
        ["explain", "--train", "train.csv", "--test", "test.csv", "--out", "-"],
        ["explain", "--train", "train.csv", "--test", "test.csv", "--save", "-"],
        ["explain", "--train", "train.csv", "--test", "test.csv", "--cache", "-"],
        ["suspects", "--train", "train.csv", "--out", "-"],
        ["suspects", "--train", "train.csv", "--argilla", "-"],
        ["suspects", "--train", "train.csv", "--decisions", "d.csv", "--clean", "-"],
    ],
    ids=lambda argv: f"{argv[0]} {argv[-2]}",
)
def test_what_is_no_data_goes_to_a_file(run, capsys, argv):  # noqa: F811
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert f"argument {argv[-2]}: expected the name of a f" in err
    assert "got '-'" in err
    assert err.count("\n") == 1
    assert not Path("-").exists()


def test_a_terminal_obeys_no_text_that_is_printed(monkeypatch):
    printed = []
    handed = results.Results("query", None, "-", printed.append)
    rows = [{"text": "a \x1b[2J\u202e b\n=1+1"}]
    handed.hand_on({}, ("text",), rows)
    assert "\x1b" in printed[0]  # a file or a pipe has what there is
    monkeypatch.setattr(results, "is_terminal", lambda stream: True)
    handed.hand_on({}, ("text",), rows)
    assert printed[1] == 'text\n"a \u241b[2J<U+202E> b\n=1+1"'


def test_who_looks_is_told_beside_what_is_printed(run, monkeypatch):  # noqa: F811
    monkeypatch.setattr(cli, "is_terminal", lambda stream: True)
    code, out, err = run("info", "--json", "-")
    assert code == 0
    assert json.loads(out)
    assert "captum-tracinwe" in err


# ------------------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("given", ["model", "model/cache", "films", "films/pos/cache", "steps"])
def test_the_cache_lies_in_no_folder_that_is_read(run, capsys, monkeypatch, given):  # noqa: F811
    for name, text in {"pos/a": "ship sail", "neg/b": "cat dog"}.items():
        Path(f"films/{name}").parent.mkdir(parents=True, exist_ok=True)
        Path(f"films/{name}").write_text(text)
    argv = ["explain", "--train", "films", "--test", "test.csv", *MODEL]
    before = sorted(str(path) for path in Path().rglob("*"))
    assert main([*argv, "--cache", given]) == 2
    err = capsys.readouterr().err
    assert f"--cache {Path(given).absolute()}: {given.split('/')[0]}, which is read, would hold it" in err
    monkeypatch.setenv("CAPTUM_TRACINWE_CACHE", given)
    assert main(argv) == 2
    assert "which is read, would hold it" in capsys.readouterr().err
    assert sorted(str(path) for path in Path().rglob("*")) == before


@pytest.mark.parametrize("given", ["afile", "afile/in"])
def test_a_cache_that_is_a_file_is_refused_as_one(run, capsys, monkeypatch, given):  # noqa: F811
    monkeypatch.delattr(training, "train")
    Path("afile").write_text("mine")
    explain = ["explain", "--train", "train.csv", "--test", "test.csv"]
    for argv in ([*explain, "--cache", given], ["cache", "--cache", given], ["cache", "--clear", "--cache", given]):
        assert main(argv) == 2
        err = capsys.readouterr().err
        assert (
            f"The cache folder '{Path(given).absolute()}' cannot be used: '{Path('afile').absolute()}' is a file" in err
        )
        assert "Name another one, a folder: by --cache, or in the environment as CAPTUM_TRACINWE_CACHE." in err
    assert Path("afile").read_text() == "mine"


# --------------------------------------------------------------------------------------------------------------- modes


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002])
def test_all_that_is_written_has_the_mode_that_the_umask_gives(run, capsys, monkeypatch, umask):  # noqa: F811
    monkeypatch.setenv("CAPTUM_TRACINWE_CACHE", str(Path("cache").absolute()))
    before = os.umask(umask)
    try:
        Path("new").mkdir()
        monkeypatch.chdir("new")
        for name in ("train.csv", "test.csv"):
            Path(name).symlink_to(Path("..", name).resolve())
        small = ["--epochs", "1", "--max-length", "12", "--train", "train.csv"]
        data = ["--json", "e.json", "--csv", "e.csv"]
        assert main(["explain", *small, "--test", "test.csv", "--explained", "2", "--save", "run", *data]) == 0
        assert main(["suspects", *small, "--json", "s.json", "--csv", "s.csv", "--argilla", "s.jsonl"]) == 0
        own = ["--model", "run", "--max-length", "12"]
        assert main(["index", "--train", "train.csv", "--out", "index", *own]) == 0
        assert main(["query", "--index", "index", "--test", "test.csv", "--out", "q.html", *own]) == 0
        assert main(["browse", "--index", "index", "--train", "train.csv", "--texts", "2", *own]) == 0
        Path("d.csv").write_text(f"index,label,decision,new_label\n0,{TEXTS[0][1]},drop,\n")
        clean = ["--decisions", "d.csv", "--clean", "clean.csv"]
        assert main(["suspects", "--train", "train.csv", *clean]) == 0
    finally:
        os.umask(before)
    written = [path for folder in (Path(), Path("../cache")) for path in folder.rglob("*") if not path.is_symlink()]
    assert {path.name for path in written} > {
        "model.safetensors",
        "config.json",
        "manifest.json",
        "clean.csv",
        "s.jsonl",
    }
    wrong = {
        str(path): oct(stat.S_IMODE(path.stat().st_mode))
        for path in written
        if stat.S_IMODE(path.stat().st_mode) != (0o777 if path.is_dir() else 0o666) & ~umask
    }
    assert wrong == {}


def test_no_output_replaces_what_an_index_or_a_model_consists_of(tmp_path):
    index, model, site = (tmp_path / name for name in ("index", "model", "site"))
    for folder, names in {
        index: ("manifest.json", "segment-1.safetensors"),
        model: ("config.json", "tokenizer.json", "notes.json"),
        site: ("manifest.json",),
    }.items():
        folder.mkdir()
        for name in names:
            (folder / name).write_text("{}")
    for path in (index / "manifest.json", index / "new.csv"):
        with pytest.raises(InputError, match=r"index is an index, which holds nothing but its own files"):
            check_outputs({"--csv": path})
    for name in ("config.json", "tokenizer.json"):
        with pytest.raises(InputError, match=r"a file of the model in .*model, which would be replaced"):
            check_outputs({"--json": model / name})
    check_outputs({"--json": model / "notes.json", "--csv": model / "new.csv", "--out": site / "page.html"})
