"""A smaller index: fewer columns of each row, 8 bits to a number; how far its scores can be off is said, and holds."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from captum_tracinwe.testing import toy_tracin
from index_cases import assert_exact, random_rows, rewrite

from captum_tracinwe import GradientIndex, IndexDamaged, IndexMismatch, RowGradients
from captum_tracinwe.index.files.packing import Packing

WIDTH, K = 64, 10
FORMS = [
    {"project": 16},
    {"project": 16, "dtype": "int8"},
    {"project": 16, "dtype": "bfloat16"},
    {"project": 16, "dtype": "float16"},
    {"project": WIDTH - 1, "dtype": "int8"},
    {"project": 8, "dtype": "int8", "checkpoints": 2},
    {"project": 1},
    {"dtype": "int8"},
    {"dtype": "int4", "checkpoints": 2},
    {"dtype": "int2"},
    {"project": 16, "dtype": "int2"},
]
form = pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))


def rows(examples, seed=0):
    return random_rows(examples, width=WIDTH, vocabulary=100, seed=seed)


def small(folder, form, examples=150):
    train = rows(examples)
    return GradientIndex.from_rows(
        folder, train, rank=min(5, form.get("project", 5)), segment_examples=40, **form
    ), train


def exact(test, train):
    return test.to("cpu", torch.float64).dot(train.to("cpu", torch.float64))


@form
@pytest.mark.parametrize("approximate", [None, 3])
def test_every_score_lies_within_its_interval(tmp_path, form, approximate):
    index, train = small(tmp_path / "i", form)
    test = rows(8, seed=5)
    for proponents in (True, False):
        found = index.search(test, len(train), proponents, approximate=approximate)
        low, high = found.stats.intervals.double().unbind(2)
        true = exact(test, train).gather(1, found.indices)
        assert bool(((low <= true) & (true <= high)).all())
        assert bool(((low <= found.influence_scores) & (found.influence_scores <= high)).all())


def test_intervals_are_hardly_wider_than_what_is_left_out_can_do(tmp_path):
    index, train = small(tmp_path / "i", {"project": 16})
    test = rows(4, seed=5)
    found = index.search(test, len(train))
    low, high = found.stats.intervals.double().unbind(2)
    directions = index.projection[0].double()

    def left(given):
        values = given.values.double()
        norms = (values.square().sum(1) - (values @ directions.T).square().sum(1)).sqrt()
        return RowGradients(given.ptr, given.ids, norms[:, None])

    least = left(test).dot(left(train)).gather(1, found.indices)
    assert bool((least * (1 - 1e-6) <= (high - low) / 2).all())
    assert float(((high - low) / 2).sum() / least.sum()) < 1.05


@form
def test_the_top_k_of_the_rows_that_are_kept_is_exact(tmp_path, form):
    index, _ = small(tmp_path / "i", form)
    for proponents in (True, False):
        assert_exact(index, rows(8, seed=5), K, proponents)


@form
def test_rows_stay_the_same_however_often_they_are_written(tmp_path, form):
    index, train = small(tmp_path / "i", form)
    more = rows(30, seed=3)
    before, ends = index.rows(range(40, 150)), index.search(rows(2, seed=5), 200, indices=range(40, 150))
    index = index.append(more).delete([1, 2, 3]).compact().delete([7]).compact()
    index.verify()
    assert torch.equal(index.rows(range(40, 150)).values, before.values)
    again = index.search(rows(2, seed=5), 200, indices=range(40, 150))
    assert torch.equal(again.indices, ends.indices)
    assert torch.equal(again.stats.intervals, ends.stats.intervals)
    found = index.search(more, 3, indices=range(150, 180))
    true = exact(more, more).gather(1, found.indices - 150)
    assert bool(((found.stats.intervals[:, :, 0] <= true) & (true <= found.stats.intervals[:, :, 1])).all())


@pytest.mark.parametrize(("dtype", "off"), [("int8", 0.01), ("int4", 0.13), ("int2", 0.36)])
def test_rounding_is_as_far_off_as_said(dtype, off):
    """Of normal numbers: 0.7 % at 8 bits, 11 % at 4, 34 % at 2 (Max, 1960: a squared error of 0.0115 and 0.119)."""
    packing = Packing(dtype, 1, 384)
    values = torch.randn(200, 384, generator=torch.Generator().manual_seed(0))
    wrong = (packing.unpack(packing.pack(values)) - values).norm(dim=1) / values.norm(dim=1)
    assert off / 2 < float(wrong.mean()) < off


@pytest.mark.parametrize("scale", [0.0, 1e-44, 1e-38, 1e-20, 1.0, 1e16])
@pytest.mark.parametrize("dtype", ["int8", "int4", "int2"])
def test_codes_of_any_size_are_finite_and_near(scale, dtype):
    packing = Packing(dtype, 2, 9, bounded=True)
    values = torch.randn(50, 18, generator=torch.Generator().manual_seed(0)) * scale
    values[3], values[4, :9] = 0, 0
    left = torch.rand(50, 2)
    stored = packing.pack(values, left)
    assert stored.shape == (50, packing.bytes)
    assert torch.equal(packing.left(stored), left)
    seen = packing.unpack(stored)
    assert not seen[3].any()
    assert not seen[4, :9].any()
    size = values.view(50, 2, 9).norm(dim=2)
    assert bool(((seen - values).view(50, 2, 9).norm(dim=2) <= size + 1e-44).all())


def test_fewer_bytes(tmp_path):
    whole = GradientIndex.from_rows(tmp_path / "a", rows(150), rank=5, segment_examples=40)
    index, _ = small(tmp_path / "b", {"project": 16, "dtype": "int8"})
    packing = Packing("int8", 1, 16, bounded=True)
    assert packing.bytes == 4 + 4 + 16
    assert [Packing(dtype, 2, 383, True).bytes for dtype in ("int8", "int4", "int2")] == [16 + 768, 16 + 384, 16 + 192]
    assert index.payload_bytes - whole.payload_bytes == (24 - 4 * WIDTH) * index.rows().num_rows


def test_self_influence_is_that_of_the_kept_rows(tmp_path):
    index, train = small(tmp_path / "i", {"project": 16})
    torch.testing.assert_close(index.self_influence(), index.rows().squared_norms())
    assert bool((index.self_influence() <= train.squared_norms() * (1 + 1e-5)).all())


def test_indexes_with_other_columns_are_not_merged(tmp_path):
    index, train = small(tmp_path / "a", {"project": 4})
    other = GradientIndex.from_rows(tmp_path / "b", rows(40, seed=8), rank=4, project=4)
    with pytest.raises(IndexMismatch, match="they keep other columns"):
        index.merge(other)
    twin = GradientIndex.from_rows(tmp_path / "c", train, rank=4, segment_examples=40, project=4)
    both = index.merge(twin)
    assert torch.equal(both.rows([150]).values, both.rows([0]).values)
    low, high = both.search(train.select(torch.tensor([0])), 300).stats.intervals.unbind(2)
    assert bool((low <= high).all())


def test_a_whole_index_is_written_as_before_and_read_by_older_releases(tmp_path):
    GradientIndex.from_rows(tmp_path / "i", rows(5))
    content = json.loads((tmp_path / "i" / "manifest.json").read_text())
    assert content["version"] == 2
    assert "projected" not in content


def test_an_older_release_is_told_by_the_version(tmp_path):
    index, _ = small(tmp_path / "i", {"project": 4})
    assert json.loads((index.path / "manifest.json").read_text())["version"] == 3
    rewrite(index.path, lambda content: content.update(version=2))
    with pytest.raises(IndexDamaged, match="version is 2: expected 3"):
        index.refresh()


def test_an_index_with_random_projections_of_an_earlier_release_answers_as_it_did(tmp_path):
    """12 examples of 8 columns, 4 random projections, int64 seed 0; and what was answered by the code that wrote them."""
    with zipfile.ZipFile(Path(__file__).parent / "data" / "index_random.zip") as archive:
        archive.extractall(tmp_path)
    index, answers = GradientIndex.open(tmp_path / "index"), json.loads((tmp_path / "answers.json").read_text())
    question = random_rows(2, seed=4)
    torch.testing.assert_close(index.scores(question), torch.tensor(answers), rtol=1e-5, atol=1e-5)
    found = assert_exact(index, question, 5)
    assert found.stats.intervals is None
    more = index.append(random_rows(2, seed=9))
    assert torch.equal(more.rows([12]).values, more.project(random_rows(2, seed=9)).select([0]).values)
    more.verify()


def test_damaged_rows_are_found(tmp_path):
    index, _ = small(tmp_path / "i", {"project": 16, "dtype": "int8"})
    segment = index.segments[0]
    raw = bytearray(segment.path.read_bytes())
    raw[segment.layout.places["values"][0] + 2] ^= 4  # in the norm of what is left out
    segment.path.write_bytes(raw)
    with pytest.raises(IndexDamaged, match="gradients"):
        index.refresh().search(rows(2, seed=5), K, indices=range(40))
    with pytest.raises(IndexDamaged, match="SHA-256"):
        index.refresh().verify()


# ------------------------------------------------------------------------------------------------------------ estimates


@pytest.mark.parametrize(
    "options", [{}, {"dtype": "int4"}, {"project": 4, "dtype": "int2"}, {"dtype": "bfloat16", "rank": 2}]
)
@pytest.mark.parametrize("score", [None, "auto"])
def test_an_estimate_foretells_the_bytes_of_any_form(tmp_path, options, score):
    """Also that of the whole index, told in this form; a question's are those that a search reads."""
    if score and "project" in options:
        pytest.skip("the recommended score needs its tables apart")
    tracin, inputs = toy_tracin(trains=200, preconditioner=score)
    index = tracin.build_index(tmp_path / "i", **options)
    files = sum(segment.path.stat().st_size for segment in index.segments)
    for estimate in (tracin.estimate_index(**options), tracin.estimate_index().at(200, **options)):
        assert estimate.payload_bytes == pytest.approx(index.payload_bytes, rel=0.02)
        assert estimate.disk_bytes == pytest.approx(files, rel=0.05)
        assert estimate.seconds > 0
    if score is None:
        found = index.search(tracin.row_gradients(inputs), K)
        assert estimate.question_bytes == pytest.approx(found.stats.bytes_read, rel=0.25)


def test_an_estimate_at_another_size():
    estimate = toy_tracin()[0].estimate_index()
    million, milliard = estimate.at(10**6), estimate.at(10**9, workers=8)
    assert milliard.disk_bytes == pytest.approx(1000 * million.disk_bytes, rel=1e-3)
    assert milliard.seconds == pytest.approx(1000 * million.seconds / 8)
    assert "1,000,000,000 examples" in str(milliard)
    assert "in 8 processes" in str(milliard)
    assert million.at(12).disk_bytes == estimate.disk_bytes
    for wrong, message in (
        ({"examples": 0}, "`examples` should be a whole number of at least 1, got 0"),
        ({"examples": 5, "workers": 0.5}, "`workers` should be"),
        ({"examples": 5, "dtype": "int3"}, "`dtype` should be one of"),
        ({"examples": 5, "project": 10**6}, "`project` should be a number of columns"),
    ):
        with pytest.raises(ValueError, match=message):
            estimate.at(**wrong)


# ------------------------------------------------------------------------------------- beside a bag of words, and a model


@pytest.mark.parametrize("dtype", ["int8", "int4", "int2"])
def test_a_bag_of_words_is_kept_whole_beside_codes(tmp_path, dtype):
    tracin, inputs = toy_tracin(trains=60, preconditioner="auto")
    exact, rows = tracin.influence(inputs), tracin.row_gradients()
    index = tracin.build_index(tmp_path / "i", dtype=dtype)
    columns = tracin.live.widths(tracin.live_source.width)
    assert index.manifest.whole == columns[-1]
    checkpoints = len(tracin.live.weights)

    def bag(given):
        return given.values.view(given.num_rows, checkpoints, -1)[:, :, columns[0] :]

    torch.testing.assert_close(bag(index.rows()), bag(rows), rtol=0, atol=0)
    asked, _ = toy_tracin(trains=60, preconditioner="auto", index=index)
    off = (asked.influence(inputs) - exact).norm() / exact.norm()
    assert float(off) < {"int8": 0.01, "int4": 0.1, "int2": 0.3}[dtype]
    resumed = toy_tracin(trains=60, preconditioner="auto")[0].build_index(tmp_path / "i", resume=True, dtype=dtype)
    assert torch.equal(resumed.rows().values, index.rows().values)
    plain, _ = toy_tracin(trains=60, index=index)  # of its rows the word table's part answers
    assert plain.influence(inputs, k=3).influence_scores.isfinite().all()


@pytest.mark.parametrize("form", [{"dtype": "int4"}, {"project": 3}], ids=["int4", "project"])
def test_words_and_reports_are_asked_of_a_smaller_index(tmp_path, form):
    tracin, inputs = toy_tracin(trains=60)
    index = tracin.build_index(tmp_path / "i", **form)
    asked, _ = toy_tracin(trains=60, index=index)
    found = asked.influence(inputs, k=3)
    for per_test, scores in zip(asked.word_influence(inputs, found.indices), found.influence_scores, strict=True):
        assert [one.score for one in per_test] == pytest.approx(scores.tolist(), rel=1e-4, abs=1e-6)
    torch.testing.assert_close(asked.self_influence(), index.self_influence())


# ------------------------------------------------------------------------------------------------------------ converting


@pytest.mark.parametrize("form", [{"dtype": "int4"}, {"project": 8, "dtype": "int8"}, {"dtype": "float16", "rank": 3}])
def test_an_index_is_converted_without_the_model(tmp_path, form):
    train, test = rows(100), rows(4, seed=5)
    index = GradientIndex.from_rows(
        tmp_path / "a", train, rank=5, segment_examples=40, metadata={"n": list(range(100))}
    )
    index = index.delete([3, 50]).compact().delete([7, 99])
    found = index.convert(tmp_path / "b", **form)
    found.verify()
    assert torch.equal(found.numbers, index.numbers)
    assert found.total == index.total
    assert [one.columns for one in found.segments] == [one.columns for one in index.segments]
    assert_exact(found, test, K)
    fresh = GradientIndex.from_rows(tmp_path / "c", train, segment_examples=40, **{"rank": 31, **form})
    assert found.file_bytes < fresh.file_bytes * 1.3
    size = (test.squared_norms()[:, None] * train.squared_norms()).sqrt()[:, index.numbers]
    off = (found.scores(test) - index.scores(test))[:, index.numbers] / size
    assert float(off.abs().max()) < (0.6 if "project" in form else 0.12)
    again = index.convert(tmp_path / "d")
    assert torch.equal(again.rows().values, index.rows().values)


def test_what_cannot_be_converted_is_said(tmp_path):
    index, _ = small(tmp_path / "a", {"dtype": "int4"})
    with pytest.raises(ValueError, match=r"keeps rows in part .* expected an index of whole rows"):
        index.convert(tmp_path / "b")
    whole = GradientIndex.from_rows(tmp_path / "c", rows(20), rank=5)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("text")
    with pytest.raises(FileExistsError, match=r"mine\.txt"):
        whole.convert(tmp_path / "full")
    with pytest.raises(ValueError, match="`dtype` should be one of"):
        whole.convert(tmp_path / "d", dtype="int3")
    with pytest.raises(FileExistsError):
        whole.convert(tmp_path / "c")
    parts = GradientIndex.from_rows(tmp_path / "e", rows(20), rank=5, segment_examples=5)
    with pytest.raises(ValueError, match=r"this is a part of .*e', 2 of 4 segments: expected all of it"):
        parts.part(0, 2).convert(tmp_path / "f")


def test_a_bag_of_words_stays_whole_when_converted(tmp_path):
    tracin, inputs = toy_tracin(trains=60, preconditioner="auto")
    index = tracin.build_index(tmp_path / "i")
    classes = tracin.live.widths(tracin.live_source.width)[-1]
    with pytest.raises(ValueError, match="expected `bag` as their number"):
        index.convert(tmp_path / "a", dtype="int4")
    found = index.convert(tmp_path / "b", dtype="int4", bag=classes)
    built = tracin.build_index(tmp_path / "c", dtype="int4")
    assert torch.equal(found.rows().values, built.rows().values)
    asked, _ = toy_tracin(trains=60, preconditioner="auto", index=found)
    assert asked.influence(inputs, k=3).indices.shape == (len(inputs[1]), 3)


# ---------------------------------------------------------------------------------------------- what cannot be, by name


def test_the_recommended_score_of_mixed_columns_is_refused(tmp_path):
    tracin, inputs = toy_tracin(trains=60, preconditioner="auto")
    for call in (lambda: tracin.build_index(tmp_path / "a", project=3), lambda: tracin.estimate_index(project=3)):
        with pytest.raises(ValueError, match=r"project=3 mixes the columns of several tables \(input \+ bag\)"):
            call()
    assert not (tmp_path / "a" / "manifest.json").exists()
    index = tracin.build_index(tmp_path / "b").convert(tmp_path / "c", project=3)
    with pytest.raises(ValueError, match=r"was built with project=\.\.\., which mixes the columns of its tables"):
        toy_tracin(trains=60, preconditioner="auto", index=index)


def test_a_wrong_number_of_classes_is_told_when_the_index_is_asked(tmp_path):
    tracin, _ = toy_tracin(trains=60, preconditioner="auto")
    index = tracin.build_index(tmp_path / "b")
    for bag in (True, 2.0, "3", 0, 99):
        with pytest.raises(ValueError, match="expected `bag` as their number"):
            index.convert(tmp_path / "x", dtype="int4", bag=bag)
    assert not (tmp_path / "x").exists()
    wrong = index.convert(tmp_path / "c", dtype="int4", bag=1)
    with pytest.raises(IndexMismatch, match="whole columns: 1 here, a bag of words of 3 classes there"):
        toy_tracin(trains=60, preconditioner="auto", index=wrong)


def test_rows_of_no_columns_leave_no_directory_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="rows of width 0"):
        GradientIndex.from_rows(
            tmp_path / "i", RowGradients(torch.tensor([0, 1]), torch.tensor([2]), torch.zeros(1, 0))
        )
    for wrong in (True, 1.5, "1", None):
        with pytest.raises(ValueError, match="`checkpoints` should divide"):
            GradientIndex.from_rows(tmp_path / "i", rows(3), checkpoints=wrong)
    with pytest.raises(TypeError, match="expected RowGradients, got NoneType"):
        GradientIndex.from_rows(tmp_path / "i", None)
    assert not (tmp_path / "i").exists()


def test_parts_and_filters_that_are_none_are_said(tmp_path):
    index = GradientIndex.from_rows(tmp_path / "i", rows(20), rank=5, metadata={"a": list(range(20))})
    for number, parts in ((0.5, 2), ("0", 2), (0, None), (0, 0), (True, 2), (2, 2)):
        with pytest.raises(ValueError, match="expected a part as two whole numbers"):
            index.part(number, parts)
    for part in (3, (0, 1, 2)):
        with pytest.raises(ValueError, match=r"expected `part` as \(number, parts\)"):
            GradientIndex.open(tmp_path / "i", part=part)
    test = rows(1, seed=3)
    for value in (torch.tensor([3, 4]), [3, 4], {3, 4}):
        assert sorted(index.search(test, 5, where={"a": value}).indices[0].tolist()) == [3, 4]
    assert index.search(test, 5, where={"a": torch.tensor(3)}).indices.tolist() == [[3]]
    with pytest.raises(ValueError, match=r"expected `where\['a'\]` as a value, or a list"):
        index.search(test, 5, where={"a": [[3]]})
    with pytest.raises(ValueError, match="expected `where` as a mapping"):
        index.search(test, 5, where="a")


def test_question_rows_search_an_index_of_fewer_columns(tmp_path):
    tracin, inputs = toy_tracin(trains=60)
    index = tracin.build_index(tmp_path / "i", project=3)
    asked, _ = toy_tracin(trains=60, index=index)
    found = index.search(asked.question_rows(inputs), 3)
    assert torch.equal(found.indices, asked.influence(inputs, k=3).indices)
    assert found.stats.intervals is None
    assert index.search(asked.row_gradients(inputs), 3).stats.intervals is not None
