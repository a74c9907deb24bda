"""What an index finds in its directory and did not write: foreign manifests, links and the user's files are left alone."""

import contextlib
import os
import shutil
import socket
import stat
import sys
from pathlib import Path

import pytest
import torch
from index_build import tracin_of
from index_cases import contents, random_rows, rewrite, small_index

from captum_tracinwe import GradientIndex, IndexDamaged
from captum_tracinwe.index import build
from captum_tracinwe.index.files import names

HEX = "0123456789abcdef" * 2


@pytest.fixture
def theirs(tmp_path):
    return small_index(tmp_path / "theirs", metadata={"n": list(range(60))})[0]


@pytest.fixture
def mine(tmp_path):
    return small_index(tmp_path / "mine", metadata={"n": list(range(60))})[0]


def operations(mine, theirs):
    """Everything that looks at the files that the manifest of ``theirs`` names."""
    return {
        "open": theirs.refresh,
        "verify": theirs.verify,
        "merge": lambda: mine.merge(theirs.path),
        "merge into": lambda: theirs.merge(mine),
        "append": lambda: theirs.append(random_rows(2)),
        "delete": lambda: theirs.delete([3]),
        "compact": theirs.compact,
    }


def hostile_names(canary, right):
    kind, suffix = right.split("-")[0], right[right.index(".") :]
    yield from (
        "../canary",
        str(canary),
        "../../" * 9 + str(canary)[1:],
        f"./{right}",
        f"../theirs/{right}",
        f"x/../{right}",
    )
    yield from (
        "",
        ".",
        "..",
        "/",
        "manifest.json",
        "lock",
        "\0",
        f"{right}\0",
        f"{right}\n",
        f" {right}",
        right.upper(),
    )
    yield from (
        f"{kind}-{HEX}/../../canary",
        f"{kind}-../../canary{suffix}",
        f"{kind}-{HEX[:-1]}{suffix}",
        f"{kind}-{HEX}0{suffix}",
    )
    yield from (
        f"{kind}-{HEX}.txt",
        f"{kind}-{HEX}",
        f"segment-{HEX}.json",
        f"columns-{HEX}.safetensors",
        f"other-{HEX}{suffix}",
    )
    yield from (f"{kind}-{HEX}{suffix}", "~/.bashrc", "a" * 5000, "\ud800", "..\\canary")


@pytest.mark.parametrize("kind", ["file", "columns", "projections"])
def test_no_name_in_a_manifest_leads_outside_the_directory(mine, theirs, tmp_path, kind):
    canary = tmp_path / "canary"
    canary.write_text("sings")
    right = (theirs.path / "manifest.json").read_bytes()
    entry = theirs.manifest.projections if kind == "projections" else getattr(theirs.manifest.segments[1], kind)
    shutil.copy(theirs.path / entry.name, tmp_path / "copy")
    for name in hostile_names(canary, entry.name):

        def edit(content, name=name):
            place = content if kind == "projections" else content["segments"][1]
            place[kind]["name"] = name

        rewrite(theirs.path, edit)
        before = contents(tmp_path)
        for operation in operations(mine, theirs).values():
            with pytest.raises(IndexDamaged, match=r"manifest\.json' is damaged"):
                operation()
        after = contents(tmp_path)
        assert after == before
        (theirs.path / "manifest.json").write_bytes(right)
    assert canary.read_text() == "sings"


def test_no_link_is_read_in_place_of_a_file(mine, theirs, tmp_path):
    for path in sorted(theirs.path.iterdir()):
        if path.name == "lock":
            continue
        kept = tmp_path / "kept"
        path.rename(kept)
        path.symlink_to(kept)
        before = contents(tmp_path)
        for what in ("open", "verify", "merge"):
            with pytest.raises(IndexDamaged, match=f"{path.name}.* is a symbolic link: expected the file itself"):
                operations(mine, theirs)[what]()
        assert contents(tmp_path) == before
        path.unlink()
        kept.rename(path)
    theirs.verify()


@pytest.mark.parametrize("there", [True, False])
def test_no_link_is_written_through(mine, theirs, tmp_path, there):
    target = tmp_path / "target"
    if there:
        target.write_text("mine")
    (theirs.path / "lock").unlink(missing_ok=True)
    (theirs.path / "lock").symlink_to(target)
    before = contents(tmp_path)
    for what in ("append", "delete", "merge into"):
        with pytest.raises(IndexDamaged, match="lock' is a symbolic link"):
            operations(mine, theirs)[what]()
    assert contents(tmp_path) == before
    assert target.exists() == there


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as one, contextlib.chdir(path.parent):  # a socket's name has at most 107 letters
        one.bind(path.name)


def make_device(path):
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))  # /dev/null


ODD = {"pipe": os.mkfifo, "directory": Path.mkdir, "socket": make_socket, "device": make_device}


@pytest.mark.parametrize("kind", ODD)
def test_no_pipe_directory_socket_or_device_is_read_waited_for_or_written_to(mine, theirs, kind):
    if kind == "device" and (os.geteuid() != 0 or sys.platform != "linux"):
        pytest.skip("may not make one")
    if kind == "socket" and not hasattr(contextlib, "chdir"):
        pytest.skip("needs Python 3.11")
    readers, writers = ("open", "verify", "merge"), ("append", "delete", "merge into")
    chosen = {
        theirs.path / "manifest.json": readers,
        theirs.segments[0].path: readers,
        theirs.segments[0].columns_path: readers,
        theirs.path / theirs.manifest.projections.name: readers,
        theirs.path / "lock": writers,
    }
    for path, what in chosen.items():
        kept = path.with_name("kept")
        if path.exists():
            path.rename(kept)
        ODD[kind](path)
        before = contents(mine.path)
        for name in what:
            with pytest.raises(IndexDamaged, match=f"{path.name}' is not a file but"):
                operations(mine, theirs)[name]()
        assert contents(mine.path) == before
        path.rmdir() if path.is_dir() else path.unlink()
        if kept.exists():
            kept.rename(path)
    theirs.verify()


def test_a_directory_where_a_file_is_to_come_is_refused(mine, tmp_path):
    other = small_index(tmp_path / "other", metadata={"n": list(range(60, 120))})[0]
    (mine.path / other.segments[1].columns_path.name).mkdir()
    with pytest.raises(IndexDamaged, match="is a directory: expected a file"):
        mine.merge(other)
    assert mine.refresh().manifest == mine.manifest
    mine.verify()


def test_a_claim_that_is_no_file_is_refused(tmp_path):
    tracin = tracin_of(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "work", lambda *args: None)
        tracin.build_index(tmp_path / "i", segment_examples=64, rank=3)
    os.mkfifo(tmp_path / "i" / names.claim_of(0))
    with pytest.raises(IndexDamaged, match=r"\.claim-0' is not a file but"):
        tracin.build_index(tmp_path / "i", resume=True, segment_examples=64, rank=3)


@pytest.mark.parametrize("path", ["a" * 300, "b/" * 2500, "zero\0byte", "~nobody-of-this-name/i", "\ud800"])
def test_a_path_that_no_directory_can_have_is_refused_in_words(mine, tmp_path, path):
    place = path if path.startswith("~") else f"{tmp_path}/{path}"
    for ask in (
        lambda: GradientIndex.open(place),
        lambda: GradientIndex.from_rows(place, random_rows(2)),
        lambda: tracin_of(tmp_path).build_index(place),
        lambda: mine.merge(place),
    ):
        with pytest.raises(
            (OSError, ValueError), match=r"^(\[Errno \d+\] )?The index .*xpected the path of a directory"
        ):
            ask()


def test_files_are_made_with_the_users_umask(tmp_path):
    for umask in (0o077, 0o022, 0o002):
        before = os.umask(umask)
        try:
            index, _ = small_index(tmp_path / str(umask), metadata={"n": list(range(60))})
            index.append(random_rows(3), {"n": [1, 2, 3]})
        finally:
            os.umask(before)
        modes = {stat.S_IMODE(path.stat().st_mode) for path in index.path.iterdir()}
        assert modes == {0o666 & ~umask}


# -------------------------------------------------------------------------------------------------- the user's own files

OTHERS = [
    *(
        "segment-interviews.json",
        "columns-2024.json",
        "projections-x.safetensors",
        "segment-1.safetensors",
        "notes.txt",
    ),
    *(".tmp-draft", ".tmp-abcd1234", "segment-.json", f"segment-{HEX}.json", f"columns-{HEX}.safetensors", "lock.txt"),
    *(
        f"segment-{HEX.upper()}.safetensors",
        f"segment-{HEX}.safetensors.bak",
        f"segment-{HEX}0.safetensors",
        ".claim-mine",
    ),
    *(f"projections-{HEX[1:]}.safetensors", ".captum-tracinwe-notes", ".captum-tracinwe-0123.tmp", "model.safetensors"),
    *(".hidden", "manifest.json.orig", f"x-segment-{HEX}.safetensors", "Segment-data.json"),
]


def make_others(folder):
    folder.mkdir(parents=True, exist_ok=True)
    there = contents(folder)
    for name in OTHERS:
        (folder / name).write_text(f"all that I know of {name}")
    (folder / f"segment-{HEX}.safetensors").mkdir()
    (folder / f"segment-{HEX}.safetensors" / "thesis.txt").write_text("years")
    (folder / f"columns-{HEX}.json").symlink_to(folder.parent / "elsewhere.json")
    return {name: content for name, content in contents(folder).items() if name not in there}


def test_making_an_index_leaves_what_is_in_a_directory(tmp_path):
    before = make_others(tmp_path / "mine")
    for make in (
        lambda folder: GradientIndex.from_rows(folder, random_rows(5)),
        lambda folder: tracin_of(tmp_path).build_index(folder),
    ):
        with pytest.raises(
            FileExistsError, match=r"is no index and not empty: it holds '\.captum-.* and 20 more\. Name a new"
        ):
            make(tmp_path / "mine")
        assert contents(tmp_path / "mine") == before


@pytest.mark.parametrize("name", OTHERS)
def test_each_of_them_alone_is_left_too(tmp_path, name):
    (tmp_path / "i").mkdir()
    (tmp_path / "i" / name).write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        GradientIndex.from_rows(tmp_path / "i", random_rows(5))
    assert contents(tmp_path / "i") == {name: b"mine"}


def test_what_systems_leave_in_every_directory_stands_in_no_ones_way(tmp_path):
    left = [".DS_Store", "Thumbs.db", "desktop.ini", ".gitkeep", ".nfs000000000245b5e000000001"]
    (tmp_path / "i").mkdir()
    for name in left:
        (tmp_path / "i" / name).write_text("left")
    (tmp_path / "i" / "lost+found").mkdir()
    index = small_index(tmp_path / "i")[0].append(random_rows(3)).delete([1]).compact()
    index.verify()
    assert {name: (index.path / name).read_text() for name in left} == dict.fromkeys(left, "left")
    assert (index.path / "lost+found").is_dir()
    for name in (".nfs", "lost", "Thumbs.db.txt", ".gitkeeper"):
        assert names.others_in(index.path) == []
        (index.path / name).write_text("mine")
        assert names.others_in(index.path) == [name]
        (index.path / name).unlink()


def test_changing_an_index_leaves_what_else_is_in_its_directory(mine, theirs, tmp_path):
    before = make_others(mine.path)
    index = mine.append(random_rows(20)).delete([1, 2, 30]).compact().merge(theirs)
    index.verify()
    after = contents(mine.path)
    assert {name: after.get(name) for name in before} == before
    tracin_of(tmp_path).build_index(tmp_path / "built", rank=3, segment_examples=40)
    before = make_others(tmp_path / "built")
    tracin_of(tmp_path).build_index(tmp_path / "built", resume=True, rank=3, segment_examples=40)
    after = contents(tmp_path / "built")
    assert {name: after.get(name) for name in before} == before


def test_what_a_killed_build_left_is_built_upon(tmp_path):
    folder = tmp_path / "i"
    folder.mkdir()
    left = [names.new_temporary(), names.name_of("segment", HEX), names.name_of("columns", HEX), names.claim_of(4096)]
    for name in [*left, "lock"]:
        (folder / name).write_text("half")
    index, train = small_index(folder)
    test = random_rows(2, seed=9)
    assert torch.equal(index.scores(test), test.dot(train))
    assert not set(left[:3]) & set(os.listdir(folder))
