"""Several processes, one index: the others refuse what the first refuses, and do not wait for one that is gone."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from index_build import tracin_of

from captum_tracinwe import IndexDamaged
from captum_tracinwe.index import build
from captum_tracinwe.index.files import disk, first, names
from captum_tracinwe.index.files.first import leading, wait_for_first
from captum_tracinwe.index.files.manifest import Manifest

BAD_WAITS = ("nan", "abc", "-1", "")
FORM = {"segment_examples": 4, "rank": 3}
FIRST = """
import sys, time
from pathlib import Path
from captum_tracinwe.index.files.first import leading
with leading(Path({folder!r})) as begun:
    print("leads", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPTUM_TRACINWE_WAIT", "0.5")
    return tmp_path / "i"


def as_rank(monkeypatch, rank, world=2):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world))


def first_process(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", FIRST.format(folder=str(folder))], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "leads\n"
    return process


def test_a_first_process_that_never_comes_is_not_waited_for_without_end(folder, tmp_path, monkeypatch):
    as_rank(monkeypatch, 1)
    with pytest.raises(RuntimeError, match=r"No first process \(RANK=0\) began .*never started.*CAPTUM_TRACINWE_WAIT"):
        tracin_of(tmp_path).build_index(folder, **FORM)
    assert list(folder.iterdir()) == []


def test_a_first_process_that_was_killed_is_not_waited_for_without_end(folder):
    process = first_process(folder)
    threading.Timer(0.8, lambda: process.send_signal(signal.SIGKILL)).start()
    with pytest.raises(RuntimeError, match="No first process .*it was killed"):
        wait_for_first(folder, resume=False)
    assert process.wait() == -signal.SIGKILL  # while it lived it was waited for, longer than the patience
    process.stdout.close()


def test_what_the_first_process_says_is_what_the_others_say(folder, monkeypatch):
    # Of this the file may be there without its lock for a tenth: long even on a busy machine.
    monkeypatch.setenv("CAPTUM_TRACINWE_WAIT", "100")

    def refuses():
        time.sleep(0.3)
        with pytest.raises(OSError, match="needs about"), leading(folder):
            raise OSError("The index needs about 7 TB on disk, 3 are free.")

    thread = threading.Thread(target=refuses)
    thread.start()
    with pytest.raises(RuntimeError, match=r"did not begin the index .*needs about 7 TB"):
        wait_for_first(folder, resume=True)
    thread.join()


def test_a_first_process_whose_file_is_there_before_its_lock_was_not_killed(folder, monkeypatch):
    """One that waited long already gives it as much time between the two as one that has just come."""
    waited = 8 * [("", "", 0.0, False)]
    looks = iter([*waited, ("beginning", "", 0.0, False), ("beginning", "", 0.0, True), ("failed", "full", 9e9, False)])
    last = ("failed", "full", 9e9, False)
    monkeypatch.setenv("CAPTUM_TRACINWE_WAIT", "5")
    monkeypatch.setattr(first, "_look", lambda folder: next(looks, last))
    with pytest.raises(RuntimeError, match="did not begin the index .*: full"):
        wait_for_first(folder, resume=False)


def test_what_was_said_at_an_earlier_start_does_not_stand_in_the_way(folder, tmp_path, monkeypatch):
    with pytest.raises(OSError, match="full"), leading(folder):
        raise OSError("full")
    past = time.time() - 100
    os.utime(next(folder.iterdir()), (past, past))
    monkeypatch.setenv("CAPTUM_TRACINWE_WAIT", "100")
    done = []
    other = threading.Thread(target=lambda: done.append(wait_for_first(folder, resume=False)))
    other.start()
    time.sleep(0.3)
    as_rank(monkeypatch, 0)
    tracin_of(tmp_path).build_index(folder, **FORM)
    other.join()
    assert done == [None]


def test_the_others_refuse_an_index_that_was_there_as_the_first_does(folder, tmp_path, monkeypatch):
    tracin = tracin_of(tmp_path)
    tracin.build_index(folder, **FORM)
    before = (folder / "manifest.json").read_bytes()
    for rank in (0, 1, 2):
        as_rank(monkeypatch, rank, 3)
        with pytest.raises(FileExistsError, match="There is an index at .* already: go on with it by resume=True"):
            tracin.build_index(folder, **FORM)
    as_rank(monkeypatch, 1)
    assert tracin.build_index(folder, resume=True, **FORM).complete
    assert (folder / "manifest.json").read_bytes() == before


def test_the_others_do_not_go_on_with_an_unfinished_index_unasked(folder, tmp_path, monkeypatch):
    tracin = tracin_of(tmp_path)
    monkeypatch.setattr(build, "work", lambda *args: None)
    tracin.build_index(folder, **FORM)
    monkeypatch.undo()
    as_rank(monkeypatch, 1)
    with pytest.raises(FileExistsError, match="resume=True"):
        tracin.build_index(folder, **FORM)
    assert Manifest.read(folder).segments == ()


def test_the_others_refuse_a_directory_with_other_files_as_the_first_does(folder, tmp_path, monkeypatch):
    folder.mkdir()
    (folder / "thesis.txt").write_text("")
    for rank in (0, 1):
        as_rank(monkeypatch, rank)
        with pytest.raises(FileExistsError, match=r"no index and not empty: it holds 'thesis.txt'"):
            tracin_of(tmp_path).build_index(folder, **FORM)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_one_that_comes_late_finds_the_index_of_its_own_start(folder, tmp_path, monkeypatch):
    """The first process may have done all the work before another one is there."""
    as_rank(monkeypatch, 0)
    tracin = tracin_of(tmp_path)
    tracin.build_index(folder, **FORM)
    as_rank(monkeypatch, 1)
    assert tracin.build_index(folder, **FORM).complete
    past = time.time() - 3600
    os.utime(next(Path(folder).glob(".captum-tracinwe-first")), (past, past))
    with pytest.raises(FileExistsError, match="resume=True"):
        tracin.build_index(folder, **FORM)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_others_refuse_at_once_a_place_where_no_index_can_be(tmp_path, monkeypatch, rank):
    monkeypatch.setenv("CAPTUM_TRACINWE_WAIT", "100")
    tracin = tracin_of(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to(tmp_path / "not there")
    (tmp_path / "linked").mkdir()
    (tmp_path / "mine").write_text("mine")
    os.link(tmp_path / "mine", tmp_path / "linked" / names.FIRST)
    (tmp_path / "piped").mkdir()
    os.mkfifo(tmp_path / "piped" / names.FIRST)
    places = {
        tmp_path / "file" / "i": "cannot be made",
        tmp_path / "file" / "i" / "j": "cannot be made",
        tmp_path / "nowhere": "cannot be made",
        tmp_path / "linked": "hard link",
        tmp_path / "piped": "not empty: it holds",
        **({Path("/proc/x/y"): "cannot be made"} if sys.platform == "linux" else {}),
    }
    as_rank(monkeypatch, rank)
    for place, said in places.items():
        start = time.monotonic()
        with pytest.raises((OSError, IndexDamaged), match=said):
            tracin.build_index(place, **FORM)
        assert time.monotonic() - start < 5, place
    assert (tmp_path / "mine").read_text() == "mine"


def test_the_others_refuse_at_once_a_directory_that_cannot_be_written_to(folder, monkeypatch):
    monkeypatch.setenv("CAPTUM_TRACINWE_WAIT", "100")
    folder.mkdir()

    def refuse(path, flags):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(disk, "_opened", refuse)  # root may write anywhere: the system's answer is put in its place
    start = time.monotonic()
    with pytest.raises(OSError, match="cannot be written to"):
        wait_for_first(folder, resume=False)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"RANK": "1"}, r"has RANK='1' and no WORLD_SIZE: expected 0 ≤ RANK < WORLD_SIZE"),
        ({"RANK": "1", "WORLD_SIZE": "1"}, r"has RANK='1' and WORLD_SIZE='1': expected 0 ≤ RANK < WORLD_SIZE"),
        ({"RANK": "5", "WORLD_SIZE": "2"}, r"has RANK='5' and WORLD_SIZE='2': expected"),
        ({"WORLD_SIZE": "2"}, r"has no RANK and WORLD_SIZE='2': expected"),
        ({"WORLD_SIZE": "0"}, r"has no RANK and WORLD_SIZE='0': expected"),
        *(
            ({"RANK": rank, "WORLD_SIZE": "2"}, "has RANK=.*: expected a whole number")
            for rank in ("", "abc", "-1", "0.5")
        ),
        ({"RANK": "0", "WORLD_SIZE": "x"}, "has WORLD_SIZE='x': expected a whole number"),
        ({"TORCHELASTIC_RESTART_COUNT": "x"}, "has TORCHELASTIC_RESTART_COUNT='x': expected a whole number"),
        *(
            ({"CAPTUM_TRACINWE_WAIT": wait}, "has CAPTUM_TRACINWE_WAIT=.*: expected a number of seconds")
            for wait in BAD_WAITS
        ),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused_by_name(folder, tmp_path, monkeypatch, given, said):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"The environment {said}.*unset"):
        tracin_of(tmp_path).build_index(folder, **FORM)
    assert not folder.exists()
