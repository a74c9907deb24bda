"""What the recommended score learns of an index is kept beside it: another process begins with it, and gets the same bits."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading

import pytest
import torch
from index_cases import contents, rewrite
from killing import killed_at

from captum_tracinwe import GradientIndex, TracInWE
from captum_tracinwe.app.testing import toy_tracin
from captum_tracinwe.index.files import disk, learned, names
from captum_tracinwe.preconditioners import Cooccurrence, EqualShares, Idf, Kfac, shares
from captum_tracinwe.preconditioners.text_gram import InverseGram

BOTH = {"table": ("input", "bag"), "shares": "equal"}


def asked(index, seed=0, **options):
    """A new TracInWE with an index, which knows nothing yet, and its questions."""
    options = {"preconditioner": "auto", **options}
    if index is None:
        return toy_tracin(tests=6, trains=40, seed=seed, **options)
    bare, inputs = toy_tracin(tests=6, trains=40, seed=seed)
    given = {"checkpoints_load_func": bare.checkpoints_load_func, "loss_fn": bare.loss_fn, "index": index}
    return TracInWE(bare.model, None, bare.checkpoints, **given, **options), inputs


def answers(index, **options):
    """Scores of two questions, one after the other."""
    return scores_of(*asked(index, **options))


def scores_of(tracin, inputs):
    ids, labels = inputs
    return [tracin.influence((ids[part], labels[part])) for part in (slice(0, 3), slice(3, 6))]


def same(found, expected):
    return all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned") / "index"
    asked(None)[0].build_index(folder, segment_examples=16)
    return folder


@pytest.fixture
def folder(built, tmp_path):
    """An index of which nothing was learned."""
    return shutil.copytree(built, tmp_path / "index")


@pytest.fixture(scope="module")
def expected(built):
    """What is answered of such a one."""
    return answers(shutil.copytree(built, built.parent / "other"))


@pytest.fixture
def work(monkeypatch):
    """Counts how often shares were measured."""
    found = {"measured": 0, "solved": 0}
    measure, solve = EqualShares.of.__func__, InverseGram._solve

    def measured(kind, *given):
        found["measured"] += 1
        return measure(kind, *given)

    def solved(self, words):
        found["solved"] += len(words)
        return solve(self, words)

    monkeypatch.setattr(EqualShares, "of", classmethod(measured))
    monkeypatch.setattr(InverseGram, "_solve", solved)
    return found


def file_of(folder):
    return folder / names.LEARNED


# ----------------------------------------------------------------------------------------------------------- it is used


def test_who_comes_second_measures_nothing_and_gets_the_same_bits(folder, work):
    first = answers(folder)
    assert work["measured"] == 1
    words = work["solved"]
    assert same(answers(folder), first)
    assert work["measured"] == 1
    # Of the second's words only those of its questions: what the first solved for to measure was more.
    assert 0 < work["solved"] - words < words
    file_of(folder).unlink()
    assert same(answers(folder), first)
    assert work["measured"] == 2


@pytest.mark.parametrize("preconditioner", [None, "idf", "kfac", "cooccurrence", Cooccurrence(damping=0.1)])
def test_it_holds_for_whatever_stands_before_equal_shares(folder, work, preconditioner):
    options = {"preconditioner": preconditioner, **BOTH}
    first = answers(folder, **options)
    assert same(answers(folder, **options), first)
    assert work["measured"] == 1


def test_another_process_uses_it(folder, expected):
    """Two at once learn it, both write, and a third has nothing to learn."""
    code = """
import sys, torch
sys.path.insert(0, sys.argv[2])
torch.set_num_threads(1)
import test_index_learned as here
from captum_tracinwe.preconditioners import EqualShares
if sys.argv[3] == "no":
    EqualShares.of = None
torch.save(here.answers(sys.argv[1]), sys.argv[4])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def started(number, learns):
        arguments = [str(folder), os.path.dirname(__file__), learns, str(folder.parent / f"{number}.pt")]
        return subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment)

    assert [one.wait() for one in [started(number, "yes") for number in range(2)]] == [0, 0]
    assert started(2, "no").wait() == 0
    for number in range(3):
        assert same(torch.load(folder.parent / f"{number}.pt"), expected)


def test_threads_that_learn_at_once_do_no_harm(folder, expected):
    found = [None] * 4
    made = [asked(folder) for _ in found]  # one after the other: each seeds torch's generator for its weights

    def ask(number):
        found[number] = scores_of(*made[number])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert all(same(one, expected) for one in found)
    assert learned._read(folder) is not None
    assert not [path for path in folder.iterdir() if names.is_temporary(path.name)]


# ----------------------------------------------------------------------------------------------- only where it belongs


def changes():
    return {
        "append": lambda index: index.append(index.rows([0, 1])),
        "delete": lambda index: index.delete([3]),
        "compact": lambda index: index.delete([3]).compact(),
        "merge": lambda index: index.merge(index.path.parent / "also"),
    }


@pytest.mark.parametrize("change", changes())
def test_a_changed_index_is_learned_anew(folder, work, change):
    shutil.copytree(folder, folder.parent / "also")
    answers(folder)
    before = file_of(folder).read_bytes()
    index = changes()[change](GradientIndex.open(folder))
    assert not file_of(folder).exists()
    file_of(folder).write_bytes(before)  # as who was slow may put it there
    measured = work["measured"]
    tracin, inputs = asked(index)
    found = tracin.influence(inputs)
    assert work["measured"] == measured + 1
    shutil.copytree(folder, folder.parent / "copy")
    (folder.parent / "copy" / names.LEARNED).unlink()
    fresh, inputs = asked(GradientIndex.open(folder.parent / "copy"))
    assert torch.equal(fresh.influence(inputs), found)
    assert file_of(folder).read_bytes() == file_of(folder.parent / "copy").read_bytes() != before


def test_who_opened_the_index_before_it_changed_keeps_nothing(folder, work):
    tracin, inputs = asked(GradientIndex.open(folder))
    GradientIndex.open(folder).delete([3])
    tracin.influence(inputs)
    assert work["measured"] == 1
    assert not file_of(folder).exists()


def test_other_settings_are_learned_anew_and_kept_beside_the_first(folder, work, monkeypatch):
    settings = [Cooccurrence(), Cooccurrence(damping=0.5), Cooccurrence(by_moved=True), Idf(), Idf(power=1.0), None]
    first = [answers(folder, preconditioner=one, **BOTH) for one in settings]
    assert work["measured"] == len(settings)
    assert all(same(answers(folder, preconditioner=one, **BOTH), a) for one, a in zip(settings, first, strict=True))
    assert work["measured"] == len(settings)
    monkeypatch.setattr(shares, "FORMULA", 2)
    answers(folder, preconditioner=None, **BOTH)
    assert work["measured"] == len(settings) + 1


def test_the_least_recent_settings_go(folder):
    for damping in range(1, learned.MOST_ENTRIES + 3):
        answers(folder, preconditioner=Idf(power=damping), **BOTH)
    kept = learned._read(folder)
    assert len(kept.entries) == learned.MOST_ENTRIES
    assert f'"power": {learned.MOST_ENTRIES + 2}' in kept.entries[-1].of


def test_other_checkpoints_are_not_those_it_was_learned_of(folder, work):
    """Set after the index was compared: how far training moved the words is theirs."""
    answers(folder)
    tracin, inputs = asked(folder)
    rate, weights = tracin.checkpoints[-1]
    weights = {name: value.flip(0) if value.dim() > 1 else value for name, value in weights.items()}
    tracin.checkpoints = [tracin.checkpoints[0], (rate, weights)]
    tracin.influence(inputs)
    assert work["measured"] == 2


def test_a_part_of_an_index_is_not_all_of_it(folder, work):
    answers(folder)
    found = answers(GradientIndex.open(folder).part(0, 2))
    assert work["measured"] == 2
    assert same(answers(GradientIndex.open(folder).part(0, 2)), found)
    answers(folder)
    assert work["measured"] == 2


def test_objects_of_others_and_fitted_ones_are_not_kept(folder, work):
    class Own(Idf):
        pass

    index = GradientIndex.open(folder)
    for one in (Own(), Idf().fit([index.rows()], 2), Idf(power=torch.tensor(2.0).numpy()[()])):
        answers(folder, preconditioner=one, **BOTH)
    assert work["measured"] == 3
    assert not file_of(folder).exists()


def test_factors_that_no_file_holds_are_not_kept(folder, monkeypatch):
    beyond = torch.tensor([[1.0, torch.inf]] * 2, dtype=torch.float64)
    monkeypatch.setattr(EqualShares, "of", classmethod(lambda kind, inner, *_: kind(inner, beyond, (6, 3))))
    tracin, inputs = asked(folder)
    with pytest.raises(ValueError, match="NaN or infinite: expected finite"):
        tracin.influence(inputs)
    assert not file_of(folder).exists()


# ------------------------------------------------------------------------------------------------ whatever lies there


def edited(edit):
    """The content changed by ``edit``, with the right checksum, as anybody can make it."""

    def put(path):
        content = json.loads(path.read_text())
        edit(content)
        content["checksum"] = ""
        text = json.dumps(content, sort_keys=True)
        content["checksum"] = learned.hashlib.sha256(text.encode()).hexdigest()
        path.write_text(json.dumps(content))

    return put


def numbers(change):
    return edited(lambda content: content["entries"][0].update(numbers=change(content["entries"][0]["numbers"])))


HOSTILE = {
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(bytes(range(256))),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "another number": lambda path: path.write_text(path.read_text().replace("[1.0,", "[1.0,1")),
    "null": lambda path: path.write_text("null"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "no UTF-8": lambda path: path.write_bytes(path.read_bytes().replace(b"Cooccurrence", b"Coo\xff\xfeurrence")),
    "huge": lambda path: os.truncate(path, 1 << 34),
    "NaN": numbers(lambda rows: [[1.0, float("nan")]] * len(rows)),
    "infinite": lambda path: path.write_text(path.read_text().replace("[1.0,", "[1.0,1e999,")),
    "negative": numbers(lambda rows: [[1.0, -0.5]] * len(rows)),
    "zero": numbers(lambda rows: [[1.0, 0.0]] * len(rows)),
    "the first not 1": numbers(lambda rows: [[2.0, 0.5]] * len(rows)),
    "too few": numbers(lambda rows: rows[:-1]),
    "too many": numbers(lambda rows: [*rows, rows[0]]),
    "another table": numbers(lambda rows: [[*row, 1.0] for row in rows]),
    "ragged": numbers(lambda rows: [rows[0], rows[1][:1]]),
    "none": numbers(lambda rows: []),
    "words": numbers(lambda rows: [["1", "2"]] * len(rows)),
    "a list of 10,000": edited(lambda content: content.update(entries=content["entries"] * 10_000)),
    "another index": edited(lambda content: content.update(content="0" * 64)),
    "another version": edited(lambda content: content.update(version=2)),
    "another format": edited(lambda content: content.update(format="captum_tracinwe.index")),
    "an entry more": edited(lambda content: content.update(extra=1)),
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_is_not_as_it_was_written_is_learned_anew_and_written_over(folder, expected, work, hostile):
    answers(folder)
    before = file_of(folder).read_bytes()
    HOSTILE[hostile](file_of(folder))
    assert same(answers(folder), expected)
    assert work["measured"] == 2
    kept = json.loads(file_of(folder).read_bytes())
    assert json.loads(before)["entries"][0] in kept["entries"]
    GradientIndex.open(folder).verify()


def test_each_flipped_bit_is_seen(folder):
    answers(folder)
    path = file_of(folder)
    original, right = path.read_bytes(), learned._read(folder)
    for place in range(len(original)):
        raw = bytearray(original)
        raw[place] ^= 1 << place % 8
        path.write_bytes(raw)
        assert learned._read(folder) in (None, right)  # such as "1.0E-5" for "1.0e-5"


@pytest.mark.parametrize("kind", ["link", "directory", "pipe"])
def test_what_has_its_name_and_is_no_file_is_left_alone(folder, expected, work, kind):
    path, outside = file_of(folder), folder.parent / "outside.json"
    answers(folder)
    shutil.move(path, outside)
    if kind == "link":
        path.symlink_to(outside)
    elif kind == "directory":
        path.mkdir()
        (path / "mine.txt").write_text("mine")
    else:
        os.mkfifo(path)
    before = contents(folder.parent)
    assert same(answers(folder), expected)
    assert work["measured"] == 2
    assert contents(folder.parent) == before
    assert names.others_in(folder) == [names.LEARNED]
    index = GradientIndex.open(folder).delete([1])
    assert os.path.lexists(path)
    assert index.file_bytes == sum(file.bytes for file in index.manifest.files) + len(index.manifest.encoded())


def test_a_valid_file_may_be_copied_with_its_index_and_to_no_other(folder, work):
    first = answers(folder)
    shutil.copytree(folder, folder.parent / "copy")
    assert same(answers(folder.parent / "copy"), first)
    assert work["measured"] == 1
    asked(None, table=("input", "bag"), seed=1)[0].build_index(folder.parent / "foreign", segment_examples=16)
    shutil.copy(file_of(folder), folder.parent / "foreign")
    answers(folder.parent / "foreign", seed=1)
    assert work["measured"] == 2


# --------------------------------------------------------------------------------------------- where it can't be kept


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.ENOLCK])
def test_where_the_folder_is_not_written_the_answer_is_the_same(folder, expected, monkeypatch, error):
    opened = disk._opened

    def refuse(path, flags):
        if flags & os.O_CREAT:
            raise OSError(error, os.strerror(error))
        return opened(path, flags)

    before = contents(folder)
    monkeypatch.setattr(disk, "_opened", refuse)
    assert same(answers(folder), expected)
    assert contents(folder) == before


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_costs_the_file_and_nothing_else(folder, expected, monkeypatch, call):
    def full(*given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = contents(folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        assert same(answers(folder), expected)
    assert contents(folder) == before
    assert same(answers(folder), expected)
    assert file_of(folder).exists()


def test_an_index_that_is_gone_still_answers(folder, expected):
    tracin, (ids, labels) = asked(folder)
    tracin.influence((ids[:1], labels[:1]))  # its rows are mapped
    tracin.preconditioner, tracin.index = Cooccurrence(by_moved=True), tracin.index
    shutil.rmtree(folder)
    assert tracin.influence((ids[:3], labels[:3])).shape == expected[0].shape
    assert not folder.exists()


def test_who_is_killed_while_it_is_kept_leaves_the_old_one_or_the_new(folder):
    answers(folder)
    old, call, killed = learned._read(folder), 0, True
    new = ((1.0, 0.25),)
    states = set()
    while killed:
        killed = killed_at(call, lambda: learned.keep(folder, old.content, "settings", new))
        found = learned._read(folder)
        assert found == old or (found.entries[:-1] == old.entries and found.entries[-1].numbers == new)
        states.add(found == old)
        call += 1
    assert states == {True, False}
    assert call > 3
    GradientIndex.open(folder).verify()
    GradientIndex.open(folder).compact().append(GradientIndex.open(folder).rows([0]))
    assert not [path for path in folder.iterdir() if names.is_temporary(path.name)]


# --------------------------------------------------------------------------------------------------- what knows of it


def test_it_counts_among_the_bytes_of_the_index_and_belongs_to_it(folder, tmp_path):
    bare = GradientIndex.open(folder).file_bytes
    answers(folder)
    index = GradientIndex.open(folder)
    assert index.file_bytes - bare == file_of(folder).stat().st_size < 2000
    assert names.others_in(folder) == []
    rewrite(folder, lambda content: content.update(deleted=[[0, 1]]))  # by who knows nothing of it
    assert learned.recall(folder, "0" * 64, "x") is None
    os.unlink(folder / names.MANIFEST)
    rebuilt = asked(None)[0].build_index(folder, segment_examples=16)  # of an index that is gone it is in nobody's way
    assert not file_of(folder).exists()
    assert len(rebuilt) == 40


def test_a_model_without_an_index_keeps_nothing(work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracin, inputs = asked(None)
    tracin.influence(inputs)
    assert work["measured"] == 1
    assert not tracin.source.keeps
    assert list(tmp_path.iterdir()) == []


def test_settings_tell_every_kind_apart():
    from captum_tracinwe.preconditioners.settings import OURS, settings_of

    found = [settings_of(kind()) for kind in OURS]
    assert len({json.dumps(one, sort_keys=True) for one in found}) == len(OURS)
    assert settings_of(Kfac(damping=0.2)) != settings_of(Kfac(damping=0.1))
    assert settings_of(object()) is None
