"""The cache of gradients: found again by what they hang on, built by one of several, whole or not there, cleared safely."""

import fcntl
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from captum_tracinwe import TracInWE
from captum_tracinwe.app import option_types
from captum_tracinwe.app.cli import main
from captum_tracinwe.app.testing import TinyCNN, toy_texts
from captum_tracinwe.gradients import live, seen
from captum_tracinwe.index import cache
from captum_tracinwe.index.cache import cache_folder, clear_cache, kept_in_cache

LOSS = torch.nn.CrossEntropyLoss(reduction="none")


def made(rate=0.1, shift=0.0, size=24, **options):
    """A CNN over some texts; the same numbers each time."""
    torch.manual_seed(0)
    ids, _, labels = toy_texts(24, seed=1)
    model = TinyCNN(padding_idx=0)
    states = [model.state_dict()]
    states[0] = {key: value.clone() + shift for key, value in states[0].items()}

    def load(model, state):
        model.load_state_dict(state)
        return rate

    data = TensorDataset(ids[:size], labels[:size])
    return TracInWE(model, data, states, load, **{"loss_fn": LOSS, "batch_size": 8, **options})


@pytest.fixture
def built(monkeypatch):
    """How often an index was built."""
    seen, before = [], cache.build
    monkeypatch.setattr(cache, "build", lambda *given: seen.append(1) or before(*given))
    return seen


# ------------------------------------------------------------------------------------------------------ found again


def test_scores_are_those_without_a_cache_and_computed_once(tmp_path, built):
    tracin, asked = made(), toy_texts(3, seed=2)
    inputs = (asked[0], asked[2])
    kept = tracin.cached(tmp_path)
    torch.testing.assert_close(kept.influence(inputs), tracin.influence(inputs))
    assert kept.cached(tmp_path) is kept
    torch.testing.assert_close(made().cached(tmp_path).influence(inputs), tracin.influence(inputs))
    assert built == [1]
    assert tracin.index is None


@pytest.mark.parametrize(
    "changes",
    [
        {"rate": 0.2},
        {"shift": 0.01},
        {"size": 23},
        {"loss_fn": torch.nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1)},
        {"exclude_tokens": (3,)},
        {"table": ("input", "bag")},
    ],
    ids=str,
)
def test_of_another_run_other_gradients_are_kept(tmp_path, built, changes):
    made().cached(tmp_path)
    made(**changes).cached(tmp_path)
    made(preconditioner="idf").cached(tmp_path)  # what multiplies a question leaves them as they are
    assert built == [1, 1]
    assert len(kept_in_cache(tmp_path)) == 2


def test_another_text_or_label_is_another_run(tmp_path, built):
    for place in (None, 0, 1):
        tracin = made()
        if place is not None:
            tensors = [tensor.clone() for tensor in tracin.train_dataloader.dataset.tensors]
            tensors[place][5] = (tensors[place][5] + 1) % 2
            tracin = made()
            tracin = TracInWE(
                tracin.model,
                TensorDataset(*tensors),
                tracin.checkpoints,
                tracin.checkpoints_load_func,
                loss_fn=LOSS,
                batch_size=8,
            )
        tracin.cached(tmp_path)
    assert built == [1, 1, 1]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"CAPTUM_TRACINWE_CACHE": "/a/b"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/captum-tracinwe"),
        ({"CAPTUM_TRACINWE_CACHE": "/a", "XDG_CACHE_HOME": "/x"}, "/a"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/of/one/.cache/captum-tracinwe"),
        ({}, "/home/of/one/.cache/captum-tracinwe"),
    ],
)
def test_the_folder_is_where_the_platform_or_the_environment_has_it(monkeypatch, given, expected):
    for name in ("CAPTUM_TRACINWE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/of/one", **given}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == Path(expected)
    assert cache_folder("/given") == Path("/given")
    monkeypatch.setattr(sys, "platform", "darwin")
    if not given:
        assert cache_folder() == Path("/home/of/one/Library/Caches/captum-tracinwe")


# --------------------------------------------------------------------------------------------------- whole or not there


def test_what_fails_in_the_middle_leaves_nothing_that_passes_for_an_index(tmp_path, monkeypatch, built):
    before = live.LiveRows.rows_at

    def stops(self, checkpoint, batches, asked, *rest, **options):
        for number, rows in enumerate(before(self, checkpoint, batches, asked, *rest, **options)):
            if asked.what == "training-set" and number == 1:
                raise KeyboardInterrupt
            yield rows

    with monkeypatch.context() as patch:
        patch.setattr(live.LiveRows, "rows_at", stops)
        with pytest.raises(KeyboardInterrupt):
            made().cached(tmp_path)
    (left,) = kept_in_cache(tmp_path)
    assert left.model == ""
    assert [entry.name for entry in left.path.iterdir()] == ["lock"]
    made().cached(tmp_path)
    assert built == [1, 1]
    assert kept_in_cache(tmp_path)[0].examples == 24


def test_what_a_killed_process_left_is_swept_and_a_damaged_index_is_built_anew(tmp_path, built):
    path = made().cached(tmp_path).index.path
    (path / "manifest.json").write_text("{}")
    (path.parent / "building-0000").mkdir()
    (path.parent / "building-0000" / "part").write_text("half")
    made().cached(tmp_path)
    assert built == [1, 1]
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["index", "lock"]


def test_damage_in_the_midst_of_the_gradients_is_found_at_once_and_they_are_computed_anew(tmp_path, built):
    asked = toy_texts(3, seed=2)
    inputs = (asked[0], asked[2])
    before = made().cached(tmp_path)
    [segment] = [path for path in before.index.path.iterdir() if path.name.startswith("segment")]
    content = bytearray(segment.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(255 - byte for byte in content[middle : middle + 64])
    del before
    segment.write_bytes(content)
    after = made().cached(tmp_path)
    assert built == [1, 1]
    torch.testing.assert_close(after.influence(inputs), made().influence(inputs))


def test_a_folder_that_cannot_be_written_is_said_with_the_way_out(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="The cache folder .*Name another one.*CAPTUM_TRACINWE_CACHE"):
        made().cached(tmp_path / "file" / "cache")


def test_of_two_who_need_it_one_builds_and_the_other_waits(tmp_path, built):
    """Locks are of open files: two threads keep out of each other's way as two processes do."""
    both = [made(), made()]
    with open_lock(tmp_path / cache._key(both[0].live_source)) as lock, ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(tracin.cached, tmp_path) for tracin in both]
        time.sleep(0.3)
        assert built == []  # somebody else is at it
        fcntl.flock(lock, fcntl.LOCK_UN)
        found = [one.result(timeout=60) for one in asked]
    assert built == [1]
    assert found[0].index.path == found[1].index.path


def open_lock(entry):
    entry.mkdir()
    file = open(entry / "lock", "wb")  # noqa: SIM115
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


# ---------------------------------------------------------------------------------------------------------- cleared


def test_what_is_used_stays_and_what_is_somebody_elses_is_never_touched(tmp_path):
    used, _ = made().cached(tmp_path), made(rate=0.2).cached(tmp_path)
    del _
    for name in ("notes", "0" * 31):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("mine")
    (tmp_path / ("f" * 32)).symlink_to(tmp_path / "notes")
    removed, stay = clear_cache(tmp_path)
    assert [one.path for one in stay] == [used.index.path.parent]
    assert len(removed) == 1
    asked = toy_texts(3, seed=2)
    used.influence((asked[0], asked[2]))
    del used
    assert len(clear_cache(tmp_path)[0]) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["0" * 31, "f" * 32, "notes"]
    assert (tmp_path / "notes" / "mine").read_text() == "mine"


def test_the_command_lists_and_clears(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CAPTUM_TRACINWE_CACHE", str(tmp_path))
    assert main(["cache"]) == 0
    assert capsys.readouterr().out == f"Nothing is kept in {tmp_path}.\n"
    made().cached()
    assert main(["cache"]) == 0
    first, total = capsys.readouterr().out.splitlines()
    assert "TinyCNN, 24 texts, 1 checkpoint" in first
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert f"{size / 1000:.3g} KB (1 training run) in {tmp_path}" in total
    assert main(["cache", "--clear"]) == 0
    assert f"Removed {size / 1000:.3g} KB (1 training run) from {tmp_path}." in capsys.readouterr().out
    assert os.listdir(tmp_path) == []
    assert main(["cache", "--clear", "--cache", str(tmp_path / "none")]) == 0
    assert "Nothing was removed" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------- what it will take


def test_what_it_takes_is_told_before_it_is_done_and_bars_are_for_those_who_look(tmp_path, monkeypatch, capsys):
    told = []
    made().cached(tmp_path / "one", announce=lambda estimate: told.append((estimate, kept_in_cache(tmp_path / "one"))))
    ((estimate, then),) = told
    assert estimate.examples == 24
    assert estimate.seconds > 0
    assert then[0].model == ""  # nothing was there yet
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(seen, "is_terminal", lambda stream: True)
    made().cached(tmp_path / "two")
    assert "Index of 24 examples" in capsys.readouterr().err
    made().cached(tmp_path / "three", show_progress=False)
    assert capsys.readouterr().err == ""


# -------------------------------------------------------------------------------------------- what it is of, how large


def test_each_entry_says_what_it_is_of_and_a_hit_says_that_it_is_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CAPTUM_TRACINWE_CACHE", str(tmp_path))
    told = []
    made().cached(about={"data": "/d/train.csv", "model": "/m/run\x1b"}, found=told.append)
    assert told == []
    made().cached(found=told.append)
    assert [(one.about["data"], one.examples) for one in told] == [("/d/train.csv", 24)]  # what was said before stays
    (told[0].path / "about.json").write_text("not JSON")
    assert kept_in_cache()[0].about == {}
    made().cached(about={"data": "/d/other.csv", "model": "/m/run\x1b"})
    capsys.readouterr()
    assert main(["cache", "--csv", "-"]) == 0
    assert ",/d/other.csv,/m/run" in capsys.readouterr().out
    assert main(["cache"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert "/d/other.csv, asked by /m/run\u241b: TinyCNN, 24 texts, 1 checkpoint" in first
    monkeypatch.setattr(seen, "is_terminal", lambda stream: True)
    made().cached()
    assert f"KB, {told[0].path})." in capsys.readouterr().err
    made().cached(show_progress=False)
    assert capsys.readouterr().err == ""


def test_what_was_not_used_for_longest_goes_first_until_little_enough_is_left(tmp_path, capsys):
    for age, rate in ((30, 0.1), (10, 0.2), (20, 0.3)):
        path = made(rate=rate).cached(tmp_path).index.path.parent
        os.utime(path / "lock", (time.time() - age, time.time() - age))
    newest, middle, oldest = kept_in_cache(tmp_path)
    removed, stay = clear_cache(tmp_path, newest.bytes + middle.bytes)
    assert ([one.path for one in removed], stay) == ([oldest.path], [])
    assert main(["cache", "--cache", str(tmp_path), "--max-size", f"{newest.bytes / 1000 + 0.001:.6f} KB"]) == 0
    assert "(1 training run)" in capsys.readouterr().out
    assert [one.path for one in kept_in_cache(tmp_path)] == [newest.path]
    assert main(["cache", "--cache", str(tmp_path), "--max-size", "1GB", "--json", "-"]) == 0
    assert '"removed": []' in capsys.readouterr().out
    used = made(rate=0.2).cached(tmp_path)
    removed, stay = clear_cache(tmp_path, 1)
    assert [one.path for one in stay] == [used.index.path.parent]


@pytest.mark.parametrize(
    ("given", "size"), [("5GB", 5 * 10**9), ("500 MB", 5 * 10**8), ("1.5KiB", 1536), ("7", 7), ("2t", 2 * 10**12)]
)
def test_sizes_as_people_write_them(given, size):
    assert option_types.size(given) == size


@pytest.mark.parametrize("given", ["", "0", "GB", "-1GB", "5XB", "5 GB of it", "nan", "\u0665GB"])
def test_what_is_no_size_is_refused(given, capsys):
    assert main(["cache", f"--max-size={given}"]) == 2
    assert "expected a size such as 5GB or 500MB" in capsys.readouterr().err
