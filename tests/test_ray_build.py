"""Ray's tasks build what one process builds, wherever it is put, whoever dies, and readers are answered meanwhile."""

import re
import shutil
import threading
import time
from functools import partial

import pytest
import torch
from index_build import EXAMPLES, same_files, tracin_of
from ray_cases import FORM, Killer, readers, slow_tracin
from torch.utils.data import IterableDataset

from captum_tracinwe import GradientIndex, IndexMismatch
from captum_tracinwe.index.cluster.targets import FolderTarget, target_of
from captum_tracinwe.index.files.manifest import Manifest
from captum_tracinwe.index.launch import build_with_ray

SOURCES = [f"s{i % 5}" for i in range(EXAMPLES)]


@pytest.fixture
def notes(tmp_path):
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return tracin_of(folder).build_index(folder / "i", **FORM)


def test_tasks_build_the_files_of_a_build_in_one_process(ray, tmp_path, notes):
    """By name and byte, with metadata; the model is made once in each process, also of those that have a GPU."""
    metadata = {"source": SOURCES}
    local = tracin_of(tmp_path).build_index(tmp_path / "whole", metadata=metadata, **FORM)
    make = partial(slow_tracin, str(tmp_path), str(notes))
    index = build_with_ray(make, tmp_path / "i", num_gpus=0.5, metadata=metadata, **FORM)
    same_files(index.path, local.path)
    assert [entry.file.name for entry in index.manifest.segments] == [one.file.name for one in local.manifest.segments]
    processes, made = readers(notes)
    assert 1 <= made <= len(processes) + 1  # one may have looked at the training set, and no more
    assert {path.name for path in index.path.iterdir()} == {path.name for path in local.path.iterdir()} | {"lock"}
    with pytest.raises(FileExistsError, match="already: go on with it by resume=True"):
        build_with_ray(make, tmp_path / "i", **FORM)
    with pytest.raises(IndexMismatch, match="dtype: 'float32' here, 'float16' there"):
        build_with_ray(make, tmp_path / "i", resume=True, dtype="float16", **FORM)
    build_with_ray(make, tmp_path / "i", resume=True, **FORM)
    assert readers(notes)[1] <= 4 * len(readers(notes)[0])  # nothing was left to do: looking, and no segment


@pytest.mark.parametrize("by", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_build_to_a_url_sends_the_same_files(request, tmp_path, whole, by):
    pytest.importorskip("fsspec", reason="fsspec is not installed (extra: remote)")
    request.getfixturevalue(by)
    url = f"file://{tmp_path}/sent"
    assert build_with_ray(partial(tracin_of, str(tmp_path)), url, **FORM) is None
    same_files(tmp_path / "sent", whole.path)
    assert GradientIndex.open(url, cache=tmp_path / "cache").manifest == whole.manifest
    with pytest.raises(FileExistsError, match=re.escape(f"There is an index at {url!r} already")):
        build_with_ray(partial(tracin_of, str(tmp_path)), url, **FORM)
    assert build_with_ray(partial(tracin_of, str(tmp_path)), url, resume=True, **FORM) is None


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_workers_lose_nothing_and_readers_are_answered_meanwhile(ray, tmp_path, notes, whole, kills):
    make = partial(slow_tracin, str(tmp_path), str(notes), 0.03 if kills < 10 else 0.1)
    killer, failed = Killer(notes, kills), []

    def build():
        try:
            build_with_ray(make, tmp_path / "i", retries=kills, **FORM)
        except Exception as error:
            failed.append(error)

    building = threading.Thread(target=build)
    killer.start()
    building.start()
    seen = set()
    while building.is_alive():
        time.sleep(0.1)
        if not (tmp_path / "i" / "manifest.json").exists():
            continue
        index = GradientIndex.open(tmp_path / "i")
        if 0 < len(index) < EXAMPLES and len(index) not in seen:
            seen.add(len(index))
            with pytest.warns(UserWarning, match="is not complete"):
                found = index.search(whole.rows([3]), 2)
            expected = whole.search(whole.rows([3]), 2, indices=index.numbers)
            assert torch.equal(found.indices, expected.indices)
            assert torch.equal(found.influence_scores, expected.influence_scores)
    killer.stopped.set()
    building.join()
    assert not failed
    print(f"killed {len(killer.killed)} workers; seen on the way: {sorted(seen)}")
    assert len(killer.killed) == kills
    assert len(seen) > 1
    same_files(tmp_path / "i", whole.path)
    GradientIndex.open(tmp_path / "i").verify()
    assert {path.name for path in (tmp_path / "i").iterdir()} == {path.name for path in whole.path.iterdir()} | {"lock"}


@pytest.mark.parametrize("by", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_an_error_of_the_data_comes_out_as_itself_and_what_was_finished_is_kept(request, tmp_path, notes, whole, by):
    request.getfixturevalue(by)
    begun = str(tmp_path / "i" / "manifest.json")
    make = partial(slow_tracin, str(tmp_path), str(notes), 0.0, (121, begun))
    with pytest.raises(KeyError, match="example 121 is not to be had") as caught:
        build_with_ray(make, tmp_path / "i", workers=1, **FORM)
    assert "Writing the segment of 120 to 129 of the index" in str(caught.value.__cause__)
    assert type(caught.value) is KeyError
    kept = GradientIndex.open(tmp_path / "i")
    assert 0 < len(kept) < EXAMPLES
    before = {segment.path: segment.path.stat().st_mtime_ns for segment in kept.segments}
    index = build_with_ray(partial(tracin_of, str(tmp_path)), tmp_path / "i", resume=True, **FORM)
    same_files(index.path, whole.path)
    assert before == {path: path.stat().st_mtime_ns for path in before}  # and not written again


@pytest.mark.slow
def test_a_process_that_dies_each_time_is_told(ray, tmp_path):
    with pytest.raises(
        RuntimeError, match=r"(?s)Looking at the training set .* ended 1 times with its process .* No segment was built"
    ):
        build_with_ray(partial(dies, str(tmp_path)), tmp_path / "i", retries=0, **FORM)


def dies(folder):
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


BAD = [
    ({"append": True}, "`append` is not one of its options. Append in one process: tracin.build_index"),
    ({"dtyp": "int8"}, "there is no option 'dtyp'; expected some of dtype, rank"),
    ({"sample": 3}, "there is no option 'sample'"),
    ({"resume": "no"}, "`resume` should be True or False, got 'no'"),
    ({"resume": None}, "`resume` should be True or False, got None"),
    *(({"memory_limit": one}, "`memory_limit` should be a number of bytes") for one in ("1GB", -1, True, float("nan"))),
    *(({"retries": one}, "`retries` should be a whole number of at least 0") for one in (-1, 1.5, "3", None)),
    *(({"workers": one}, "`workers` should be a whole number of at least 1") for one in (0, 1.5, "3", None)),
    *(({"num_cpus": one}, "`num_cpus` should be a number of at least 0, got") for one in (-1, "1", float("nan"))),
    *(({"num_gpus": one}, "`num_gpus` should be a number of at least 0, whole above 1") for one in (-1, 1.5, "1")),
]


@pytest.mark.parametrize(("given", "said"), BAD, ids=[str(given) for given, _ in BAD])
def test_an_argument_that_cannot_be_is_refused_before_anything_is_started(inline, tmp_path, given, said):
    with pytest.raises((TypeError, ValueError), match=said):
        build_with_ray(partial(tracin_of, str(tmp_path)), tmp_path / "i", **given)
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (None, "`make_tracin` should be a function that makes a TracInWE, got a NoneType"),
        (lambda: None, "`make_tracin` should return a TracInWE, got a NoneType"),
        (lambda: torch.nn.Linear(1, 1), "`make_tracin` should return a TracInWE, got a Linear"),
    ],
)
def test_what_makes_no_tracin_is_told(inline, tmp_path, make, said):
    with pytest.raises(TypeError, match=said):
        build_with_ray(make, tmp_path / "i", **FORM)
    assert not (tmp_path / "i" / "manifest.json").exists()


def test_a_store_of_one_process_is_refused(inline, tmp_path):
    with pytest.raises(ValueError, match="'memory://b/i' is in the memory of this process alone"):
        build_with_ray(partial(tracin_of, str(tmp_path)), "memory://b/i", **FORM)


@pytest.mark.parametrize("needs", [{"num_gpus": 1}, {"num_cpus": 64}])
def test_what_no_machine_has_is_said(inline, tmp_path, needs, recwarn):
    [(name, most)] = needs.items()
    with pytest.warns(UserWarning, match=f"waits: no machine of Ray's cluster has .*{name}={most}.*{name} up to [02]"):
        build_with_ray(partial(tracin_of, str(tmp_path)), tmp_path / "i", **needs, **FORM)
    build_with_ray(partial(tracin_of, str(tmp_path)), tmp_path / "j", memory_limit=None, **FORM)
    assert not [one for one in recwarn if "waits" in str(one.message)]


def test_what_cannot_be_built_is_refused(inline, tmp_path):
    with pytest.raises(ValueError, match="need a training set that can be read in any order"):
        build_with_ray(partial(streamed, str(tmp_path)), tmp_path / "i", **FORM)
    with pytest.raises(ValueError, match="'source' has 2 values: expected 150"):
        build_with_ray(partial(tracin_of, str(tmp_path)), tmp_path / "i", metadata={"source": [1, 2]}, **FORM)
    assert not (tmp_path / "i" / "manifest.json").exists()


def streamed(folder):
    return tracin_of(folder, lambda data: Stream())


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


def test_a_segment_whose_files_were_taken_away_is_not_entered(tmp_path, whole, monkeypatch):
    """Another writer sweeps what no manifest names: what it took is still missing, and written anew."""
    monkeypatch.setattr("captum_tracinwe.index.cluster.targets.PAUSE", 0.0)
    path = shutil.copytree(whole.path, tmp_path / "i")
    target = target_of(path)
    assert isinstance(target, FolderTarget)
    gone, *others = whole.manifest.segments
    whole.manifest.with_segments((), (gone, others[0])).write(path)
    (path / gone.file.name).unlink()
    assert target.enter([gone, others[0], others[1]]).segments == tuple(others)
    assert Manifest.read(path).segments == tuple(others)
