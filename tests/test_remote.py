"""An index under a URL answers as its directory does; what is damaged, cut or changed on the way is never used."""

import json
import multiprocessing
import re
import sys
from pathlib import Path

import pytest
import torch
from index_cases import assert_exact, contents, random_rows, small_index

from captum_tracinwe import GradientIndex, IndexDamaged, TracInWE
from captum_tracinwe.app.testing import toy_tracin
from captum_tracinwe.index.cache import clear_cache, kept_in_cache
from captum_tracinwe.index.files.manifest import Manifest
from captum_tracinwe.index.files.urls import is_url, shown
from captum_tracinwe.index.remote import copies, home, pushing
from captum_tracinwe.index.remote.store import Store
from captum_tracinwe.installing import install

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed (extra: remote)")


@pytest.fixture(scope="session")
def s3():
    """Options of a store of objects on this machine, with an empty bucket, `bucket`."""
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed (extra: test)")
    server = pytest.importorskip("moto.server", reason="moto[server] is not installed (extra: test)")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    options = {"key": "none", "secret": "none", "client_kwargs": {"endpoint_url": f"http://{host}:{port}"}}
    s3fs.S3FileSystem(**options).mkdir("bucket")
    yield options
    running.stop()


@pytest.fixture(params=["s3", "memory", "file"])
def place(request, tmp_path):
    """URL and options of a new folder of each kind of store."""
    name = re.sub(r"\W+", "-", request.node.name)
    if request.param == "s3":
        return f"s3://bucket/{name}/i", request.getfixturevalue("s3")
    return (f"memory://{name}/i" if request.param == "memory" else f"file://{tmp_path}/store/i"), None


@pytest.fixture
def index(tmp_path):
    return small_index(tmp_path / "i", metadata={"n": list(range(60))})[0].delete([7])


@pytest.fixture
def sent(index, tmp_path):
    """An index that was pushed to a directory by its URL: the URL, and the directory."""
    url = f"file://{tmp_path}/store"
    index.push(url)
    return url, tmp_path / "store"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def fetched(monkeypatch):
    """The names of what is copied from a store."""
    names, original = [], Store.fetch

    def fetch(self, name, path):
        names.append(name)
        return original(self, name, path)

    monkeypatch.setattr(Store, "fetch", fetch)
    return names


def test_what_is_pushed_is_opened_and_answers_alike(index, place, cache):
    url, options = place
    pushed = index.push(url, storage_options=options)
    assert pushed.files == len(index.manifest.files) + 1
    assert pushed.kept == 0
    found = GradientIndex.open(url, cache=cache, storage_options=options)
    assert found.manifest == index.manifest
    assert found.address == url
    assert f"GradientIndex({url!r}: 59 examples in 4 segments" in repr(found)
    question = random_rows(3, seed=5)
    for proponents in (True, False):
        a = assert_exact(found, question, 5, proponents)
        b = index.search(question, 5, proponents)
        assert torch.equal(a.indices, b.indices)
        assert torch.equal(a.influence_scores, b.influence_scores)
    assert torch.equal(found.scores(question), index.scores(question))
    found.verify()


def test_nothing_is_sent_or_fetched_twice(index, place, cache, fetched):
    url, options = place
    index.push(url, storage_options=options)
    assert index.push(url, storage_options=options) == pushing.Pushed(url, 0, 0, len(index.manifest.files))
    GradientIndex.open(url, cache=cache, storage_options=options)
    assert sorted(fetched) == sorted(file.name for file in index.manifest.files)
    fetched.clear()
    again = GradientIndex.open(url, cache=cache, storage_options=options)
    assert fetched == []
    grown = index.append(random_rows(3, seed=2))
    assert grown.push(url, storage_options=options).files == 2  # a segment without metadata, and the manifest
    assert len(again.refresh()) == 62
    assert fetched == [grown.manifest.segments[-1].file.name]
    assert len(again) == 59  # a snapshot


def test_what_a_compaction_has_replaced_goes_from_the_store_and_from_the_cache(index, place, cache):
    url, options = place
    index.push(url, storage_options=options)
    opened = GradientIndex.open(url, cache=cache, storage_options=options)
    compacted = index.compact()
    compacted.push(url, storage_options=options)
    question = random_rows(2, seed=1)
    assert torch.equal(opened.scores(question), index.scores(question))  # what is open stays open
    assert GradientIndex.open(url, cache=cache, storage_options=options).manifest == compacted.manifest
    names = {file.name for file in compacted.manifest.files} | {"manifest.json"}
    assert set(Store(url, options).sizes()) == names
    assert {path.name for path in opened.path.iterdir()} - {"lock"} == names


def test_a_part_fetches_its_own_files_alone(index, sent, cache, fetched):
    part = GradientIndex.open(sent[0], part=(1, 3), cache=cache)
    assert [one.entry for one in part.segments] == list(index.manifest.segments[1::3])
    files = {name for one in part.segments for name in (one.entry.file.name, one.entry.columns.name)}
    assert set(fetched) == files | {index.manifest.projections.name}
    assert torch.equal(part.numbers, index.part(1, 3).numbers)
    assert torch.equal(part.refresh().numbers, part.numbers)
    with pytest.raises(ValueError, match="GradientIndex.open: expected a part as two whole numbers, .* got 3 of 3"):
        GradientIndex.open(sent[0], part=(3, 3), cache=cache)
    index.segments[0].path.unlink()
    assert len(GradientIndex.open(index.path, part=(1, 4))) == 16  # of a directory likewise


def damages():
    def cut(path):
        path.write_bytes(path.read_bytes()[:-1])

    def longer(path):
        path.write_bytes(path.read_bytes() + b"\0")

    def altered(path):
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)

    return [cut, longer, altered]


@pytest.mark.parametrize("damage", damages())
@pytest.mark.parametrize("kind", ["segment", "columns", "projections"])
def test_a_damaged_object_is_refused_by_its_name_and_not_kept(index, sent, cache, damage, kind):
    url, store = sent
    victim = sorted(store.glob(f"{kind}-*"))[0]
    whole = victim.read_bytes()
    damage(victim)
    with pytest.raises(
        IndexDamaged, match=re.escape(f"{url}/{victim.name}") + ".* is damaged, or was on its way, 2 times"
    ):
        GradientIndex.open(url, cache=cache)
    assert not list(cache.rglob(victim.name))
    assert not list(cache.rglob("*.tmp"))
    victim.write_bytes(whole)
    GradientIndex.open(url, cache=cache).verify()


def test_a_transfer_that_was_cut_is_made_again(index, sent, cache, monkeypatch):
    original, cut = Store.fetch, []

    def fetch(self, name, path):
        there = original(self, name, path)
        if name not in cut:
            cut.append(name)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return there

    monkeypatch.setattr(Store, "fetch", fetch)
    found = GradientIndex.open(sent[0], cache=cache)
    assert len(cut) == len(index.manifest.files)
    assert torch.equal(found.rows().values, index.rows().values)


def test_a_copy_that_was_cut_since_is_fetched_again(index, sent, cache, fetched):
    opened = GradientIndex.open(sent[0], cache=cache)
    victim = opened.segments[1].path
    victim.write_bytes(victim.read_bytes()[:100])
    fetched.clear()
    assert torch.equal(GradientIndex.open(sent[0], cache=cache).rows().values, index.rows().values)
    assert fetched == [victim.name]


@pytest.mark.parametrize("damage", damages())
def test_verify_removes_a_copy_that_was_damaged_since_and_opening_fetches_it(index, sent, cache, fetched, damage):
    opened = GradientIndex.open(sent[0], cache=cache)
    for kind in ("segment", "columns", "projections"):
        victim = sorted(opened.path.glob(f"{kind}-*"))[0]
        damage(victim)
        fetched.clear()
        opened.verify()
        assert not victim.exists()
        assert torch.equal(GradientIndex.open(sent[0], cache=cache).rows().values, index.rows().values)
        assert fetched == [victim.name]


@pytest.mark.parametrize("kind", ["segment", "projections"])
def test_a_copy_whose_head_was_damaged_is_fetched_anew_by_opening(index, sent, cache, fetched, kind):
    opened = GradientIndex.open(sent[0], cache=cache)
    victim = sorted(opened.path.glob(f"{kind}-*"))[0]
    raw = bytearray(victim.read_bytes())
    raw[20] ^= 1
    victim.write_bytes(raw)
    fetched.clear()
    assert torch.equal(GradientIndex.open(sent[0], cache=cache).rows().values, index.rows().values)
    assert fetched == [victim.name]


def test_a_directory_whose_file_is_damaged_is_left_as_it_is(index):
    victim = index.segments[0].path
    raw = bytearray(victim.read_bytes())
    raw[20] ^= 1
    victim.write_bytes(raw)
    with pytest.raises(IndexDamaged, match="header"):
        GradientIndex.open(index.path)
    assert victim.read_bytes() == raw


def test_a_scheme_in_capitals_is_the_same(index, sent, cache):
    url = sent[0]
    scheme, rest = url.split("://")
    found = GradientIndex.open(f"{scheme.upper()}://{rest}", cache=cache)
    assert found.address == url
    assert torch.equal(found.rows().values, index.rows().values)


def test_verify_reads_what_is_in_the_store(sent, cache):
    url, store = sent
    opened = GradientIndex.open(url, cache=cache)
    first, second = sorted(store.glob("segment-*"))[:2]
    damages()[2](first)
    second.unlink()
    with pytest.raises(IndexDamaged, match="is damaged in 2 place") as caught:
        opened.verify()
    assert f"{first.name}: its SHA-256" in str(caught.value)
    assert f"{second.name}: it is missing" in str(caught.value)


def test_a_damaged_manifest_is_refused(sent, cache, monkeypatch):
    monkeypatch.setattr(home, "PAUSE", 0.0)
    url, store = sent
    whole = (store / "manifest.json").read_text()
    for content in (whole[:200], whole.replace('"rank": 3', '"rank": 2'), "{}"):
        (store / "manifest.json").write_text(content)
        with pytest.raises(IndexDamaged, match=re.escape(f"{url}/manifest.json")):
            GradientIndex.open(url, cache=cache)


def test_a_missing_object_is_named(sent, cache):
    url, store = sent
    victim = next(store.glob("segment-*"))
    victim.unlink()
    with pytest.raises(IndexDamaged, match=f"{re.escape(url)}.* is not whole: it has no '{victim.name}'"):
        GradientIndex.open(url, cache=cache)


def test_an_index_that_is_replaced_while_it_is_opened_is_opened_as_it_is_then(index, sent, cache, monkeypatch):
    url, _ = sent
    original, compacted = copies.fetch_all, []

    def fetch_all(*arguments):
        if not compacted:
            compacted.append(index.compact())
            compacted[0].push(url)
        return original(*arguments)

    monkeypatch.setattr(home, "fetch_all", fetch_all)
    assert GradientIndex.open(url, cache=cache).manifest == compacted[0].manifest


def _open(url, cache, barrier, found):
    barrier.wait()
    index = GradientIndex.open(url, cache=cache)
    found.put([float(index.scores(index.rows([1])).sum()), len(index)])


def test_processes_that_open_at_once_share_the_copies(index, sent, cache):
    context = multiprocessing.get_context("fork")
    barrier, found = context.Barrier(4), context.Queue()
    workers = [context.Process(target=_open, args=(sent[0], cache, barrier, found)) for _ in range(4)]
    for worker in workers:
        worker.start()
    answers = [found.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert answers == [[float(index.scores(index.rows([1])).sum()), 59]] * 4
    assert sum(1 for _ in cache.rglob("segment-*.safetensors")) == 4
    assert not list(cache.rglob("*.tmp"))


def test_an_index_that_is_opened_from_a_url_is_not_changed(index, sent, cache, tmp_path):
    opened = GradientIndex.open(sent[0], cache=cache)
    other, _ = small_index(tmp_path / "other")
    before = contents(sent[1])
    for method, change in (
        ("append", lambda: opened.append(random_rows(1))),
        ("delete", lambda: opened.delete([1])),
        ("compact", opened.compact),
        ("merge", lambda: opened.merge(other)),
    ):
        with pytest.raises(ValueError, match=f"GradientIndex.{method}: .* opened from a URL, .* push it again"):
            change()
    assert contents(sent[1]) == before
    assert len(other.merge(opened)) == len(other) + 59  # it can be taken in, open or by name
    tracin, _ = toy_tracin()
    for change in (
        lambda: tracin.build_index(sent[0]),
        lambda: GradientIndex.from_rows(sent[0], random_rows(1)),
    ):
        with pytest.raises(ValueError, match="is a URL: expected the path of a directory"):
            change()


def test_a_manifest_of_somebody_else_is_not_replaced_unseen(index, sent, tmp_path):
    url, store = sent
    other, _ = small_index(tmp_path / "other", examples=20)
    before = contents(store)
    with pytest.raises(FileExistsError, match="holds another index, or was replaced by somebody"):
        other.push(url)
    assert contents(store) == before
    other.push(url, replace=True)
    with pytest.raises(FileExistsError, match="since this one was pushed there last"):
        index.append(random_rows(1)).push(url)
    assert GradientIndex.open(url, cache=tmp_path / "c").manifest == other.manifest
    assert {path.name for path in store.iterdir()} == {file.name for file in other.manifest.files} | {"manifest.json"}


def test_a_manifest_that_is_replaced_during_a_push_is_left_alone(index, sent, tmp_path, monkeypatch):
    url, store = sent
    theirs, _ = small_index(tmp_path / "other", examples=20)
    original = pushing.send_files

    def send_files(*arguments, **options):
        monkeypatch.setattr(pushing, "send_files", original)
        theirs.push(url, replace=True)
        return original(*arguments, **options)

    monkeypatch.setattr(pushing, "send_files", send_files)
    with pytest.raises(RuntimeError, match="was changed by somebody else meanwhile.*Theirs was left as it is"):
        index.append(random_rows(1)).push(url)
    assert Manifest.read(store) == theirs.manifest


def test_a_push_that_was_cut_goes_on(index, tmp_path, monkeypatch):
    url, original, count = f"file://{tmp_path}/store", Store.send, []

    def send(self, path, name):
        count.append(name)
        if len(count) == 4:
            (tmp_path / "store" / name).write_bytes(path.read_bytes()[:10])  # as a killed copy leaves it
            raise KeyboardInterrupt
        original(self, path, name)

    monkeypatch.setattr(Store, "send", send)
    with pytest.raises(KeyboardInterrupt):
        index.push(url)
    with pytest.raises(FileNotFoundError, match="No index at"):
        GradientIndex.open(url, cache=tmp_path / "cache")
    assert index.push(url).kept == 3
    assert GradientIndex.open(url, cache=tmp_path / "cache").manifest == index.manifest


def test_a_damaged_file_is_not_pushed(index, tmp_path):
    damages()[2](index.segments[2].path)
    with pytest.raises(IndexDamaged, match=f"{index.segments[2].path.name}' cannot be pushed: its SHA-256"):
        index.push(f"file://{tmp_path}/store")
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_errors_of_the_store_are_told_with_its_url_and_the_way_out(index, s3, cache):
    with pytest.raises(FileNotFoundError, match="'s3://none-such/i' cannot be written to: there is no such bucket"):
        index.push("s3://none-such/i", storage_options=s3)
    with pytest.raises(FileNotFoundError, match="No index at 's3://bucket/none': expected manifest.json there"):
        GradientIndex.open("s3://bucket/none", cache=cache, storage_options=s3)
    nobody = {
        **s3,
        "client_kwargs": {"endpoint_url": "http://127.0.0.1:9"},
        "config_kwargs": {"retries": {"max_attempts": 0}},
    }
    with pytest.raises(OSError, match="'s3://bucket/i' cannot be read: .* (does not answer|failed)") as caught:
        GradientIndex.open("s3://bucket/i", cache=cache, storage_options=nobody)
    assert "none" not in str(caught.value).replace("None", "")  # no key


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (PermissionError("Access Denied"), PermissionError, "the store refuses it .*Give credentials"),
        (OSError(22, "ExpiredToken"), PermissionError, "the store refuses it"),
        (TimeoutError(), ConnectionError, "does not answer .*TimeoutError.*Look at the network"),
        (RuntimeError("Read timeout on endpoint URL"), ConnectionError, "does not answer"),
        (NotImplementedError(), OSError, "cannot do that"),
        (KeyError("x"), OSError, "the store's library failed"),
    ],
)
def test_what_a_library_of_stores_raises_is_put_into_words(index, sent, cache, monkeypatch, error, kind, said):
    def fails(*arguments, **options):
        raise error

    from fsspec.implementations.local import LocalFileSystem

    monkeypatch.setattr(LocalFileSystem, "cat_file", fails)
    with pytest.raises(kind, match=f"^'{re.escape(sent[0])}' cannot be read: .*{said}"):
        GradientIndex.open(sent[0], cache=cache)


def test_without_fsspec_the_extra_is_named(monkeypatch, cache):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(
        ImportError, match=re.escape(f"needs fsspec, which is not installed. {install('fsspec', 'remote')}")
    ):
        GradientIndex.open("s3://bucket/i", cache=cache)


def test_a_scheme_that_nobody_knows_is_refused(cache):
    with pytest.raises(ValueError, match="'nosuch://x' is no URL that fsspec knows"):
        GradientIndex.open("nosuch://x", cache=cache)
    with pytest.raises(ValueError, match="go with a URL such as"):
        GradientIndex.open("i", cache=cache)
    with pytest.raises(ValueError, match="GradientIndex.push: expected a URL"):
        small_index(cache)[0].push("somewhere")


def test_a_path_with_a_colon_is_a_path(tmp_path, monkeypatch):
    for path in ("C:\\index", "C:/index", "C://index", "runs:3", "./s3://x", "a b://c", "://x", Path("s3://bucket")):
        assert not is_url(path)
    for url in ("s3://bucket/i", "file:///i", "gs+x://b", "HTTPS://host/i"):
        assert is_url(url)
    assert shown("sftp://me:secret@host/i/") == "sftp://…@host/i"
    monkeypatch.chdir(tmp_path)
    for name in ("runs:3", "C:\\index", "s3:/x"):
        small_index(name)
        assert len(GradientIndex.open(name)) == 60
        assert (tmp_path / name / "manifest.json").exists()


def test_the_cache_lists_the_copies_and_clears_those_that_nobody_uses(index, sent, cache):
    opened = GradientIndex.open(sent[0], cache=cache)
    (kept,) = kept_in_cache(cache)
    assert kept.about == {"data": sent[0]}
    assert kept.examples == 60
    assert clear_cache(cache) == ([], kept_in_cache(cache))
    del opened
    assert [one.path for one in clear_cache(cache)[0]] == [kept.path]
    assert kept_in_cache(cache) == []


def test_copies_of_two_stores_with_one_url_are_kept_apart(cache):
    one, other, again = (
        home.StoreHome("s3://b/i", cache, {"key": key, "client_kwargs": {"endpoint_url": f"http://{at}"}})
        for key, at in (("a", "x"), ("a", "y"), ("b", "x"))
    )
    assert one.folder != other.folder
    assert one.folder == again.folder  # whoever asks


def test_a_tracin_is_asked_over_a_url(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPTUM_TRACINWE_CACHE", str(tmp_path / "cache"))
    tracin, inputs = toy_tracin()
    tracin.build_index(tmp_path / "i", rank=3).push(f"file://{tmp_path}/store")
    asked, _ = toy_tracin(index=f"file://{tmp_path}/store")
    assert isinstance(asked, TracInWE)
    found, expected = asked.influence(inputs, k=3), tracin.influence(inputs, k=3)
    assert torch.equal(found.indices, expected.indices)
    assert f"index='file://{tmp_path}/store'" in repr(asked)


def test_the_note_of_a_push_is_one_that_the_index_may_lose(index, sent):
    note = index.path / "captum_tracinwe.pushed.json"
    assert list(json.loads(note.read_text())) == [sent[0]]
    note.write_text("[]")
    grown = index.append(random_rows(1))
    with pytest.raises(FileExistsError, match="replace=True"):
        grown.push(sent[0])
    grown.push(sent[0], replace=True)
    grown.delete([1]).push(sent[0])


def test_an_old_snapshot_is_not_pushed_over_a_newer_one(tmp_path):
    index, _ = small_index(tmp_path / "i")
    newer = index.delete([0])
    newer.push("memory://old/index")
    with pytest.raises(ValueError, match=r"was changed since this one was opened"):
        index.push("memory://old/index")
    assert len(GradientIndex.open("memory://old/index")) == len(newer)
    index.refresh().push("memory://old/index")


@pytest.mark.parametrize("url", ["s3://", "memory://", "file:///", "memory:///"])
def test_a_url_without_a_folder_is_refused(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    index, _ = small_index(tmp_path / "i")
    with pytest.raises(ValueError, match="names no bucket or folder"):
        index.push(url)
    assert [path.name for path in tmp_path.iterdir()] == ["i"]


def test_a_damaged_object_is_sent_again_where_that_is_asked_for(tmp_path):
    import fsspec

    index, _ = small_index(tmp_path / "i")
    index.push("memory://damaged/index")
    fs, name = fsspec.filesystem("memory"), index.segments[0].path.name
    raw = bytearray(fs.cat_file(f"/damaged/index/{name}"))
    raw[5000] ^= 1
    fs.pipe_file(f"/damaged/index/{name}", bytes(raw))
    assert index.push("memory://damaged/index").files == 0
    assert index.push("memory://damaged/index", replace=True).files > 1
    GradientIndex.open("memory://damaged/index", cache=tmp_path / "cache").verify()
