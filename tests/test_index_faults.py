"""What an index does when the disk, the files or the processes fail: clear errors, nothing lost, never a wrong score."""

import errno
import json
import os
import random
import stat
import subprocess
import sys

import pytest
import torch
from index_cases import random_rows, small_index

from captum_tracinwe import GradientIndex, IndexDamaged
from captum_tracinwe.index.files import disk, names, writer
from captum_tracinwe.index.files.manifest import Manifest


@pytest.fixture
def index(tmp_path):
    return small_index(tmp_path / "i", metadata={"n": list(range(60))})[0]


def files(index):
    return sorted(path for path in index.path.iterdir() if path.name != "lock")


@pytest.mark.slow
def test_every_flipped_bit_is_found_and_none_makes_a_score(index):
    """One bit in each 1 / 150 of every file: verify names the file; a search raises or is right."""
    test = random_rows(3, seed=9)
    expected, scores = index.search(test, 5), index.scores(test)
    generator = random.Random(0)
    for path in files(index):
        original = path.read_bytes()
        places = sorted({0, 7, len(original) - 1, *(generator.randrange(len(original)) for _ in range(150))})
        for place in places:
            raw = bytearray(original)
            raw[place] ^= 1 << generator.randrange(8)
            path.write_bytes(raw)
            with pytest.raises(IndexDamaged):
                GradientIndex.open(index.path).verify()
            try:
                opened = GradientIndex.open(index.path)
                found, all_scores = opened.search(test, 5), opened.scores(test)
                opened.self_influence()
                opened.search(test, 5, where={"n": list(range(60))})
            except IndexDamaged:
                continue
            assert torch.equal(found.indices, expected.indices)
            assert torch.equal(found.influence_scores, expected.influence_scores)
            assert torch.equal(all_scores, scores)
        path.write_bytes(original)
    index.refresh().verify()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_files_are_named(index, share):
    for path in files(index):
        original = path.read_bytes()
        path.write_bytes(original[: int(share * len(original))])
        with pytest.raises(IndexDamaged, match=path.name):
            GradientIndex.open(index.path)
        path.write_bytes(original)


def test_missing_files_are_named(index):
    for path in files(index):
        original = path.read_bytes()
        path.unlink()
        with pytest.raises((IndexDamaged, FileNotFoundError), match=path.name):
            GradientIndex.open(index.path)
        path.write_bytes(original)
    with pytest.raises(FileNotFoundError, match="No index at .*build_index"):
        GradientIndex.open(index.path / "nowhere")


def test_another_version_is_said(index):
    path = index.path / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "version": 4}))
    with pytest.raises(
        IndexDamaged, match=r"version 4: this package reads .* versions 1 to 3\. Use the package that wrote it"
    ):
        GradientIndex.open(index.path)
    path.write_text(json.dumps({**content, "format": "other"}))
    with pytest.raises(IndexDamaged, match="format 'other'"):
        GradientIndex.open(index.path)


def test_verify_names_every_damaged_file(index):
    for segment in index.segments[:2]:
        raw = bytearray(segment.path.read_bytes())
        raw[5000] ^= 1
        segment.path.write_bytes(raw)
    with pytest.raises(IndexDamaged, match=r"in 2 place\(s\)") as caught:
        index.verify()
    for segment in index.segments[:2]:
        assert segment.path.name in str(caught.value)


def test_a_damaged_index_is_not_merged_in(index, tmp_path):
    other, _ = small_index(tmp_path / "other")
    raw = bytearray(other.segments[0].path.read_bytes())
    raw[5000] ^= 1
    other.segments[0].path.write_bytes(raw)
    with pytest.raises(IndexDamaged):
        index.merge(other)
    assert len(index.refresh()) == 60
    index.verify()


@pytest.mark.skipif(os.geteuid() == 0 and not sys.platform.startswith("linux"), reason="root may write anywhere")
def test_a_read_only_directory_is_read_and_not_written(index, monkeypatch):
    mode = index.path.stat().st_mode
    index.path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.geteuid() == 0:  # root may write anywhere: the system's answer is put in its place
        opened = disk._opened

        def refuse(path, flags):
            if flags & os.O_CREAT:
                raise OSError(errno.EROFS, "Read-only file system")
            return opened(path, flags)

        monkeypatch.setattr(disk, "_opened", refuse)
    try:
        reader = GradientIndex.open(index.path)
        assert reader.search(random_rows(2, seed=9), 3).indices.shape == (2, 3)
        reader.verify()
        with pytest.raises(OSError, match="cannot be written to"):
            reader.append(random_rows(2))
        with pytest.raises(OSError, match="cannot be written to"):
            reader.delete([1])
    finally:
        index.path.chmod(mode)


def test_a_full_disk_leaves_the_index_as_it_was(index, monkeypatch):
    before = {path.name: path.read_bytes() for path in files(index)}
    for allowed in (0, 1, 5, 9):
        written = []
        original = writer.SegmentWriter._write

        def fails(self, content, allowed=allowed, written=written, original=original):
            written.append(1)
            if len(written) > allowed:
                raise OSError(errno.ENOSPC, "No space left on device")
            original(self, content)

        with monkeypatch.context() as patch:
            patch.setattr(writer.SegmentWriter, "_write", fails)
            with pytest.raises(OSError, match="the disk is full. Finished segments are kept") as caught:
                index.append(random_rows(40))
            assert caught.value.errno == errno.ENOSPC
            with pytest.raises(OSError, match="the disk is full"):
                index.delete([3, 20]).compact()
        after = {path.name: path.read_bytes() for path in files(index)}
        assert set(after) == set(before)
        index = index.refresh()
        index.verify()


def test_a_disk_that_is_really_full(tmp_path):
    """A file system of 1 MB, where this user may make one."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        index, train = small_index(place / "i", segment_examples=64)
        with pytest.raises(OSError, match="the disk is full"):
            index.append(random_rows(4000))
        index = index.refresh()
        index.verify()
        test = random_rows(2, seed=9)
        assert torch.equal(index.scores(test), test.dot(train))
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)  # what is mapped keeps it busy


def test_two_writers_do_not_undo_each_other(index):
    """Each change reads the manifest under the lock that it writes it under."""
    one, two = GradientIndex.open(index.path), GradientIndex.open(index.path)
    one.append(random_rows(5, seed=1))
    two.delete([0])
    two.append(random_rows(6, seed=2))
    found = index.refresh()
    assert found.total == 71
    assert len(found) == 70


def test_leftovers_of_a_live_writer_are_not_swept(tmp_path):
    index, _ = small_index(tmp_path / "i")
    with disk.temporary(index.path) as (file, name), disk.Room(index.path) as room:
        file.write(b"half")
        finished, other = room.file()
        finished.close()
        index = index.append(random_rows(2))
        assert name.exists()
        assert other.exists()
    for dead in (names.new_temporary(), names.numbered(names.new_temporary(), 7)):
        (index.path / dead).write_bytes(b"half")
    (index.path / names.name_of("segment", "0" * 64)).write_bytes(b"never entered")
    index.append(random_rows(2))
    left = {path.name for path in index.path.iterdir()}
    assert left == {file.name for file in Manifest.read(index.path).files} | {"manifest.json", "lock"}
