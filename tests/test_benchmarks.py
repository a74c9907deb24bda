"""The benchmarks beside the evidence run at their smallest: they use the package as users do, and break as users' code would."""

import argparse
import importlib
import json
import sys
from pathlib import Path

import pytest

from captum_tracinwe.app.testing import toy_tracin

FOLDER = Path(__file__).parents[1] / "benchmarks"

pytestmark = [pytest.mark.skipif(not FOLDER.is_dir(), reason="the benchmarks are not here"), pytest.mark.slow]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_an_index_is_built_searched_and_grown(script, tmp_path, monkeypatch):
    index = script("index")
    monkeypatch.setattr(index, "tracin_of", lambda args: toy_tracin())
    args = argparse.Namespace(index=tmp_path / "i", resume=False, checkpoints=1, batch_size=4, sizes=[30, 60])
    built = index.build(args)
    assert built["texts"] > 0
    found = index.search(args)
    assert found["proponents"]["equal_to_brute_force"]
    assert found["opponents"]["equal_to_brute_force"]
    assert found["cold_ratio"] > 0
    assert [row["examples"] for row in index.grow(args)["sizes"]] == [30, 60]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "smaller", "options"),
    [
        ("collect", {"TEXTS": 4, "DENSE_TEXTS": 1}, ["--rounds", "1"]),
        ("end_to_end", {}, ["--train", "16"]),
        ("memory", {"CASES": [{"T": 32, "V": 100, "D": 16}]}, []),
        ("row_dot", {}, ["--quick"]),
    ],
)
def test_a_script_runs_and_stores_what_it_measured(script, tmp_path, monkeypatch, capsys, name, smaller, options):
    module, stored = script(name), tmp_path / "found.json"
    for constant, value in smaller.items():
        monkeypatch.setattr(module, constant, value)
    writes = "--quick" not in options
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")  # else memory.py starts itself anew with it
    monkeypatch.setattr(sys, "argv", [name, *options, *(["--json", str(stored)] if writes else [])])
    module.main()
    assert any(character.isdigit() for character in capsys.readouterr().out)
    assert not writes or json.loads(stored.read_text())["rows" if name != "memory" else "cases"]
