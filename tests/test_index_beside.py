"""An index that others change while it is read: by this package, which is right, and by other hands, which is said."""

import errno
import fcntl
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from index_cases import random_rows, small_index

from captum_tracinwe import GradientIndex, IndexDamaged
from captum_tracinwe.index import maintenance
from captum_tracinwe.index.files import disk, maps, segment

TESTS = str(Path(__file__).parent)


@pytest.fixture
def index(tmp_path):
    return small_index(tmp_path / "i", metadata={"n": list(range(60))})[0]


# ----------------------------------------------------------------------------------------------------- beside a writer


def meanwhile(monkeypatch, change, times=1):
    """``change()`` by another process just before a segment's file is looked at, so many times."""
    original, left = segment.Segment.__init__, [times]

    def init(self, folder, manifest, entry):
        if left[0]:
            left[0] -= 1
            with monkeypatch.context() as patch:
                patch.setattr(segment.Segment, "__init__", original)
                change()
        original(self, folder, manifest, entry)

    monkeypatch.setattr(segment.Segment, "__init__", init)


@pytest.mark.parametrize("what", ["open", "verify", "compact", "merge"])
def test_no_damage_is_reported_where_a_writer_compacts_meanwhile(index, tmp_path, monkeypatch, what):
    other, _ = small_index(tmp_path / "other", 20)
    index = index.delete([20])
    seen = []

    def change():
        seen.append(GradientIndex.open(index.path).delete([len(seen)]).compact())

    operation = {
        "open": lambda: GradientIndex.open(index.path),
        "verify": index.verify,
        "compact": index.compact,
        "merge": lambda: other.merge(index.path),
    }[what]
    meanwhile(monkeypatch, change, times=3)
    found = operation()
    assert len(seen) == 3
    if what == "merge":
        assert len(found) == 20 + 56
    elif found is not None:
        assert len(found) == 56
    GradientIndex.open(index.path).verify()


def test_damage_that_stands_is_reported_beside_a_writer(index, monkeypatch):
    raw = bytearray(index.segments[3].path.read_bytes())
    raw[5000] ^= 1
    index.segments[3].path.write_bytes(raw)
    damaged = index.segments[3].path.name
    meanwhile(monkeypatch, lambda: GradientIndex.open(index.path).delete([0]).append(random_rows(16)), times=2)
    with pytest.raises(IndexDamaged, match=f"damaged in 1 place.*{damaged}"):
        index.verify()


def test_a_writer_without_end_is_said(index, monkeypatch):
    monkeypatch.setattr(maintenance, "ATTEMPTS", 3)
    meanwhile(
        monkeypatch, lambda: GradientIndex.open(index.path).append(random_rows(1)).delete([1]).compact(), times=99
    )
    monkeypatch.setattr(maintenance, "_wrong_with", lambda *args: ["gone"] if segment.Segment(*args) else [])
    with pytest.raises(RuntimeError, match="was changed by another process while it was read, 3 times in a row"):
        index.verify()


def test_reading_beside_a_busy_writer_is_right(index, tmp_path):
    """A thread appends, deletes and compacts without a pause; whoever opens or verifies meets whole states only."""
    stop, errors = threading.Event(), []

    def write():
        generator = random.Random(0)
        own = GradientIndex.open(index.path)
        while not stop.is_set():
            own = own.append(random_rows(5, seed=generator.randrange(9)))
            own = own.delete([own.total - 1, own.total - 3]).compact()

    def guarded():
        try:
            write()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        test = random_rows(2, seed=9)
        expected = index.scores(test)
        for _ in range(int(os.environ.get("CAPTUM_TRACINWE_BESIDE", "15"))):
            index.verify()
            found = GradientIndex.open(index.path)
            assert torch.equal(found.scores(test)[:, :60], expected)
    finally:
        stop.set()
        thread.join()
    assert errors == []


# ------------------------------------------------------------------------------------------------------ by other hands

CUT = """
import os, shutil, sys, time
sys.path[:0] = [{tests!r}]
from index_cases import random_rows
from captum_tracinwe import GradientIndex, IndexDamaged
test = random_rows(2, seed=9)
questions = [lambda i: i.search(test, 60), lambda i: i.scores(test), lambda i: i.rows(), lambda i: i.self_influence(),
             lambda i: i.numbers, lambda i: i.search(test, 3, indices=[20])]
for name, size, warm in {cases!r}:
    shutil.rmtree({copy!r}, ignore_errors=True)
    shutil.copytree({path!r}, {copy!r})
    index, file = GradientIndex.open({copy!r}), os.path.join({copy!r}, name)
    if warm:
        index.search(test, 3), index.scores(test)
    os.truncate(file, size)
    time.sleep(0.02)
    for ask in questions if name.startswith("segment") else [lambda i: i.search(test, 3, where={{"n": 20}})]:
        try:
            ask(index)
        except IndexDamaged as error:
            assert file in str(error) and f"was cut to {{size}} bytes since it was opened, " in str(error), str(error)
            print("said")
"""


def test_a_file_cut_under_an_open_reader_is_said(index, tmp_path):
    """Where a cut file is touched the system ends the process; so this is asked in one of its own."""
    one = index.segments[1]
    sizes = [int(share * one.path.stat().st_size) for share in (0.0, 0.2, 0.7, 0.999)]
    cases = [(one.path.name, size, warm) for size in sizes for warm in (True, False)] + [
        (one.columns_path.name, 0, False)
    ]
    script = CUT.format(tests=TESTS, path=str(index.path), copy=str(tmp_path / "copy"), cases=cases)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "said\n" * (6 * 8 + 1)), done.stderr


def test_a_file_removed_or_replaced_under_an_open_reader_still_answers(index):
    test = random_rows(2, seed=9)
    expected = index.scores(test)
    for number, path in enumerate(one.path for one in index.segments):
        raw = path.read_bytes()
        path.unlink()
        if number % 2:
            path.write_bytes(raw[:100])
    for one in index.segments:
        one._open().file._looked = 0.0  # as if it were long ago
    assert torch.equal(index.scores(test), expected)


# ------------------------------------------------------------------------------------------------------- many segments


def test_only_so_many_segments_are_mapped_and_all_answer(tmp_path, monkeypatch):
    recent = maps.Recent(8)
    monkeypatch.setattr(segment, "RECENT", recent)
    index, train = small_index(tmp_path / "i", 120, segment_examples=4, metadata={"n": list(range(120))})
    test = random_rows(3, seed=9)

    def mapped(index):
        return sum(one._view is not None for one in index.segments)

    assert len(index.segments) == 30
    assert mapped(index) <= 8
    for _ in range(3):
        assert torch.equal(index.scores(test), test.dot(train))
        assert torch.equal(index.search(test, 5).influence_scores, test.dot(train).topk(5).values)
        assert index.search(test, 2, where={"n": 77}).indices.tolist() == [[77]] * 3
        assert mapped(index) <= 8
    others = [GradientIndex.open(index.path) for _ in range(4)]
    for other in others:
        assert torch.equal(other.scores(test), test.dot(train))
    assert sum(map(mapped, [index, *others])) <= 8
    index.verify()
    joined = index.delete([0]).compact()
    assert all(len(one) <= 4 for one in joined.segments)
    with pytest.raises(IndexDamaged, match=r"is missing. A writer compacted it away.*open the index again"):
        index.segments[0].unmap() or index.scores(test)
    next(iter(joined.segments[20:])).path.unlink()
    with pytest.raises(IndexDamaged, match=f"{joined.segments[20].path.name}' is missing"):
        GradientIndex.open(index.path)


def test_writers_hold_few_files_open(tmp_path):
    """A limit of 1,024 open files is common, and would be one of 512 segments with metadata."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 30, hard))
    try:
        index, train = small_index(tmp_path / "i", 60, segment_examples=1, metadata={"n": list(range(60))})
        other, _ = small_index(tmp_path / "j", 60, segment_examples=1, metadata={"n": list(range(60))})
        index = index.merge(other).append(train, {"n": list(range(60))}).delete([1]).compact()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    test = random_rows(2, seed=9)
    assert torch.equal(index.scores(test)[:, 120:], test.dot(train))


def test_threads_share_few_maps(tmp_path, monkeypatch):
    monkeypatch.setattr(segment, "RECENT", maps.Recent(3))
    index, train = small_index(tmp_path / "i", 80, segment_examples=4)
    test = random_rows(3, seed=9)
    expected = test.dot(train)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: torch.equal(index.scores(test), expected), range(40)))
    assert found == [True] * 40


def test_an_index_that_is_closed_leaves_no_maps(tmp_path):
    if not Path("/proc/self/maps").exists():
        pytest.skip("only Linux tells its maps")
    index, _ = small_index(tmp_path / "i", 120, segment_examples=4)
    assert Path("/proc/self/maps").read_text().count(f"{tmp_path}/i/segment-") >= 30
    handles = len(os.listdir("/proc/self/fd"))
    again = index.refresh()
    assert len(os.listdir("/proc/self/fd")) == handles  # nor do open ones hold files open
    del index, again
    assert f"{tmp_path}/i/segment-" not in Path("/proc/self/maps").read_text()


# ------------------------------------------------------------------------------------------------- what the system says


def test_a_file_system_without_locks_is_said(index, tmp_path, monkeypatch):
    for code in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):

        def refuses(*args, code=code):
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", refuses)
            for change in (
                lambda: GradientIndex.from_rows(tmp_path / "new", random_rows(5)),
                lambda: index.append(random_rows(5)),
                lambda: index.delete([1]).compact(),
                lambda: index.merge(index.path),
            ):
                with pytest.raises(OSError, match="file system has no file locks.*Build on a local disk") as caught:
                    change()
                assert caught.value.errno == code
            GradientIndex.open(index.path).verify()  # reading needs none
        assert not [path for path in index.path.iterdir() if path.name.startswith(".")]
        shutil.rmtree(tmp_path / "new", ignore_errors=True)


def test_a_file_that_is_too_large_is_said(index):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, hard))
    try:
        with pytest.raises(
            OSError, match="a file is larger than this user or this file system may .*`segment_examples`"
        ) as caught:
            index.append(random_rows(400), {"n": list(range(400))})
        assert caught.value.errno == errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(index.refresh()) == 60
    index.verify()


def test_what_is_merged_is_on_the_disk_before_it_has_its_name(index, tmp_path, monkeypatch):
    other, _ = small_index(tmp_path / "other", metadata={"n": list(range(60))})  # of the same projection: copied
    synced, named = set(), []
    fsync, replace = os.fsync, os.replace

    def syncing(handle):
        found = os.fstat(handle)
        synced.add((found.st_ino, found.st_size))
        fsync(handle)

    def naming(source, target):
        found = os.stat(source)
        named.append((found.st_ino, found.st_size) in synced)
        replace(source, target)

    monkeypatch.setattr(disk.os, "fsync", syncing)
    monkeypatch.setattr(disk.os, "replace", naming)
    index.merge(other)
    assert len(named) > 6
    assert all(named)


def test_ids_that_an_index_cannot_hold_are_refused_in_words(index, tmp_path):
    rows = random_rows(3)
    for wrong in (2**31, 2**31 + 5, 2**40, 2**62):
        ids = rows.ids.clone()
        ids[rows.ptr[2] - 1] = wrong
        strange = type(rows)(rows.ptr, ids, rows.values)
        before = sorted(path.name for path in index.path.iterdir())
        for use in (lambda rows: GradientIndex.from_rows(tmp_path / "new", rows), index.append):
            with pytest.raises(
                ValueError, match=rf"example \d+ has the token id {wrong}: an index holds ids from 0 to 2147483647"
            ):
                use(strange)
        with pytest.raises(ValueError, match="token ids from 0 to"):
            index.search(strange, 2)
        assert not (tmp_path / "new").exists()
        assert sorted(path.name for path in index.path.iterdir()) == before
    ids = rows.ids.clone()
    ids[rows.ptr[2] - 1] = 2**31 - 1
    largest = type(rows)(rows.ptr, ids, rows.values)
    found = GradientIndex.from_rows(tmp_path / "new", largest)
    assert torch.equal(found.scores(rows), rows.dot(largest))


def test_scores_beyond_the_memory_are_refused_in_words(index, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: 16)
    with pytest.raises(ValueError, match=r"2 x 60 scores take 480 bytes, this machine has 256.*search\(rows, k\)"):
        index.scores(random_rows(2, seed=9))
    with pytest.raises(
        ValueError, match=r"self_influence: 60 scores take 240 bytes.*half of which.*by rows\(indices\)"
    ):
        index.self_influence()
    monkeypatch.setattr(os, "sysconf", lambda name: 31)  # 961 bytes: 480 are half
    assert index.scores(random_rows(2, seed=9)).shape == (2, 60)
