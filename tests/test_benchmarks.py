"""The benchmarks beside the evidence run at their smallest: they use the package as users do, and break as users' code would."""

import argparse
import json
import sys
import time
from pathlib import Path

import pytest
import torch

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import scatter_checkpoints, tiny_bert, toy_texts, toy_tracin

FOLDER = Path(__file__).parents[1] / "benchmarks"

pytestmark = [pytest.mark.skipif(not FOLDER.is_dir(), reason="the benchmarks are not here"), pytest.mark.slow]


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


def test_the_recommended_score_is_set_beside_the_plain_one(script, tmp_path, monkeypatch):
    index, model = script("index"), tiny_bert()
    paths = scatter_checkpoints(model, tmp_path)
    ids, mask, labels = toy_texts(12, seed=1)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    loss = torch.nn.CrossEntropyLoss(reduction="none")

    def tracin_of(args, preconditioner):
        loader = torch.utils.data.DataLoader(index.examples_of(batch), 4, collate_fn=joined)
        return TracInWE(model, loader, paths, loss_fn=loss, preconditioner=preconditioner), [batch]

    monkeypatch.setattr(index, "tracin_of", tracin_of)
    monkeypatch.setattr(index, "K", 3)
    found = index.recommended(argparse.Namespace(texts=12, tests=12))
    assert [found[name]["equal_to_brute_force"] for name in ("plain", "recommended")] == [12, 12]
    assert found["ratio"]["payload_bytes"] > 1  # a bag's columns beside the word's


def test_the_first_question_and_further_ones_are_told_apart(script, tmp_path, monkeypatch):
    stored = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["auto", "--sizes", "30x5", "--json", str(stored)])
    script("auto").main()
    found = json.loads(stored.read_text())["sizes"]["30x5"]
    assert found["first question, seconds"] > 0
    assert found["further question, seconds"] > 0
    assert [len(factors) for factors in found["factors"]] == [2, 2, 2]


def joined(examples):
    return {name: torch.cat([example[name] for example in examples]) for name in examples[0]}


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


def test_what_the_probe_costs_is_measured_on_twenty_plain_models_of_which_it_says_nothing(
    script, tmp_path, monkeypatch
):
    probe, stored = script("probe"), tmp_path / "probe.json"
    monkeypatch.setattr(time, "perf_counter", time.perf_counter)  # which it puts the processor's in place of
    monkeypatch.setattr(sys, "argv", ["probe.py", "--texts", "64", "--seconds", "0", "--out", str(stored)])
    probe.main()
    found = json.loads(stored.read_text())["models"]
    assert len(found) == 20
    assert {"mean of words, 128", "BERT 2 x 128", "DeBERTa-v2 2 x 128", "T5 2 x 128, answers"} < set(found)
    assert all(numbers["probe, s"] > 0 and numbers["forms tried"] > 0 for numbers in found.values())
    assert all(numbers["largest difference"] < 1e-5 and not numbers["said"] for numbers in found.values())


def test_a_model_of_which_the_probe_says_something_ends_the_measuring_in_an_error(script, tmp_path, monkeypatch):
    probe, stored = script("probe"), tmp_path / "probe.json"
    monkeypatch.setattr(time, "perf_counter", time.perf_counter)
    plain = probe.PLAIN["CNN with attention, 128"]
    monkeypatch.setitem(probe.PLAIN, "sees padding", plain._replace(make=lambda: SeesPadding()))
    monkeypatch.setattr(
        sys,
        "argv",
        ["probe.py", "--texts", "64", "--seconds", "0", "--only", "sees padding", "--out", str(stored)],
    )
    with pytest.raises(SystemExit, match="Something was said of plain models.*equal lengths"):
        probe.main()
    assert not stored.exists()


class SeesPadding(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.out = torch.nn.Embedding(8_000, 8), torch.nn.Linear(8, 2)

    def forward(self, input_ids, attention_mask):
        return self.out(self.words(input_ids).mean(1).tanh())


def test_the_first_minutes_with_a_gpu_run_on_the_cpu(script, tmp_path, monkeypatch, capsys):
    stored = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["gpu", "--dry", "--json", str(stored)])
    gpu = script("gpu")
    gpu.main()
    found = json.loads(stored.read_text())
    assert "failed" not in found
    assert found["verified"]["cases"] > 100
    assert found["verified"]["failed"] == 0, found["verified"]["first_failures"]
    assert [case["errors"] for case in found["kernels"]] == [{}, {}]
    assert all({"row_dot", "posting_dot", "row_dot_terms", "cublas"} <= set(case["ms"]) for case in found["kernels"])
    assert found["collection"][0]["over_bare"] > 0
    assert found["end_to_end"]["first best score, of the largest, off by"] < 1e-6
    assert "missed" not in capsys.readouterr().out
    slow = {**found["kernels"][0], "over_roofline": {"row_dot": 1.6, "posting_dot": 1.4}}
    told = gpu.verdict({"kernels": [slow], "collection": [{"batch": 8, "over_bare": 1.3}], "failed": {"roofs": "no"}})
    assert told == [
        "section roofs: no",
        "row_dot, 3 x 60 x 16, float32: 1.60 of the roofline, expected 1.5",
        "collection, batches of 8: 1.30 of the passes, expected 1.2",
    ]
