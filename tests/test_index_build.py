"""TracInWE.build_index and TracInWE(index=...): the same answers from disk, and refusals by name."""

import copy
import math
import shutil

import pytest
import torch
from cases import CASES, Examples, cnn, cross_entropy
from msgspec.structs import replace
from torch import nn
from torch.utils.data import DataLoader

from captum_tracinwe import GradientIndex, IndexMismatch, TracInWE
from captum_tracinwe.app.testing import scatter_checkpoints
from captum_tracinwe.index import build


@pytest.fixture
def run(tmp_path):
    """A case, its checkpoints, and TracInWEs of it."""

    class Run:
        case = cnn()
        checkpoints = scatter_checkpoints(case.model, tmp_path)
        path = tmp_path / "index"

        def tracin(self, dataset=None, **changes):
            options = {"loss_fn": self.case.loss, "batch_size": 2, **changes}
            model, checkpoints = options.pop("model", self.case.model), options.pop("checkpoints", self.checkpoints)
            if dataset is None and "index" not in options:
                dataset = self.case.dataset()
            return TracInWE(model, dataset, checkpoints, **options)

        def build(self, **options):
            return self.tracin().build_index(self.path, **{"segment_examples": 3, "rank": 3, **options})

    return Run()


@pytest.mark.parametrize("name", CASES)
def test_answers_from_the_index_are_those_from_the_data(name, tmp_path):
    case = CASES[name]()
    checkpoints = scatter_checkpoints(case.model, tmp_path)
    options = {"loss_fn": case.loss, "batch_size": 2, **case.options}
    tracin = TracInWE(case.model, case.dataset(), checkpoints, **options)
    index = tracin.build_index(tmp_path / "i", segment_examples=3, rank=3)
    asked = TracInWE(case.model, None, checkpoints, index=tmp_path / "i", **options)
    scores = tracin.influence(case.test)
    torch.testing.assert_close(asked.influence(case.test), scores, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        asked.influence(case.test, aggregate=True), scores.sum(0, keepdim=True), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(asked.self_influence(), tracin.self_influence(), rtol=1e-4, atol=1e-6)
    for proponents in (True, False):
        best, found = tracin.influence(case.test, 3, proponents), asked.influence(case.test, 3, proponents)
        assert torch.equal(found.indices, best.indices)
        torch.testing.assert_close(found.influence_scores, best.influence_scores, rtol=1e-4, atol=1e-6)
    rows = asked.row_gradients(case.test)
    assert torch.equal(asked.influence(case.test), rows.dot(asked.row_gradients()))
    for mine, other in zip(
        asked.word_influence(case.test, found.indices), tracin.word_influence(case.test, found.indices), strict=True
    ):
        for a, b in zip(mine, other, strict=True):
            assert torch.equal(a.token_ids, b.token_ids)
            torch.testing.assert_close(a.token_shares, b.token_shares, rtol=1e-4, atol=1e-6)
    assert index.complete
    index.verify()


def test_no_training_data_are_looked_at(run):
    run.build()
    asked = run.tracin(index=run.path)
    asked.influence(run.case.test, k=2)
    with pytest.raises(ValueError, match="Training example 0 is asked for, but train_dataset is None"):
        next(iter(asked.train_dataloader))


def test_order_by_length_makes_the_same_index(tmp_path):
    case = CASES["bert, mappings"]()
    checkpoints = scatter_checkpoints(case.model, tmp_path)
    plain, ordered = (
        TracInWE(case.model, case.dataset(), checkpoints, loss_fn=case.loss, batch_size=2, order_by_length=order)
        for order in (False, True)
    )
    a, b = plain.build_index(tmp_path / "a", rank=3), ordered.build_index(tmp_path / "b", rank=3)
    torch.testing.assert_close(a.scores(a.rows()), b.scores(a.rows()))


def test_rates_weigh_the_checkpoints(run):
    entries = run.build().manifest.source.checkpoints
    assert [entry.learning_rate for entry in entries] == [0.3, 0.05, 1.7]
    assert len({entry.sha256 for entry in entries}) == 3


def test_a_mismatch_is_refused_by_name(run, tmp_path):
    run.build()
    other = tmp_path / "other"
    other.mkdir()
    elsewhere = scatter_checkpoints(run.case.model, other, seed=5)
    rates = tmp_path / "rates"
    rates.mkdir()
    other_rates = scatter_checkpoints(run.case.model, rates, rates=(0.3, 0.06, 1.7))
    smaller = Examples(tuple(field[:5] for field in run.case.train))
    for changes, message in (
        ({"checkpoints": run.checkpoints[:2]}, "checkpoints: 3 here, 2 there"),
        (
            {"checkpoints": elsewhere},
            "checkpoint 0: the weights of 'step-8.pt' here are not those of 'step-8.pt' there",
        ),
        ({"checkpoints": other_rates}, "checkpoint 1: learning rate 0.05 .* here, 0.06 .* there"),
        (
            {"loss_fn": nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1)},
            "loss: .*label_smoothing=0.0.*here.*0.1",
        ),
        ({"loss_fn": nn.CrossEntropyLoss(torch.ones(3), reduction="none")}, "loss: "),
        ({"exclude_tokens": [5]}, r"exclude_tokens: \(\) here, \(5,\) there"),
        ({"top_k_words": 2}, "top_k_words: None here, 2 there"),
        ({"dataset": smaller}, "train_dataset: 7 examples here, 5 there"),
    ):
        with pytest.raises(IndexMismatch, match=message):
            run.tracin(index=run.path, **changes)
    run.tracin(index=GradientIndex.open(run.path), dataset=run.case.dataset(), test_loss_fn=nn.NLLLoss())
    renamed = [other / f"renamed-{i}.pt" for i in range(3)]
    for source, target in zip(run.checkpoints, renamed, strict=True):
        shutil.copy(source, target)
    run.tracin(index=run.path, checkpoints=renamed)  # the weights count, not their names


def test_losses_are_told_apart_by_what_they_do(run):
    def one(prediction, labels):
        return nn.functional.cross_entropy(prediction, labels, reduction="none")

    def two(prediction, labels):
        return 2 * nn.functional.cross_entropy(prediction, labels, reduction="none")

    two.__qualname__ = one.__qualname__
    run.tracin(loss_fn=one).build_index(run.path)
    run.tracin(loss_fn=one, index=run.path)
    with pytest.raises(IndexMismatch, match="loss: "):
        run.tracin(loss_fn=two, index=run.path)


def test_the_model_is_left_as_it_was(run):
    before = copy.deepcopy(run.case.model.state_dict())
    run.case.model.train()
    run.build()
    run.tracin(index=run.path).influence(run.case.test, k=1)
    assert run.case.model.training
    for name, tensor in run.case.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_resume_continues_and_otherwise_an_index_is_left_alone(run, monkeypatch):
    whole = run.tracin().build_index(run.path.with_name("whole"), segment_examples=3, rank=3)
    calls = []
    original = build._Writing.segment

    def stops(self, part, span):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(span)
        return original(self, part, span)

    monkeypatch.setattr(build._Writing, "segment", stops)
    with pytest.raises(KeyboardInterrupt):
        run.build()
    monkeypatch.undo()
    partial = GradientIndex.open(run.path)
    assert not partial.complete
    assert len(partial) == 3
    with pytest.warns(UserWarning, match=f"is not complete: 3 of {len(whole)} training examples are in it. The others"):
        scores = partial.scores(whole.rows())
    assert torch.equal(scores[:, :3], whole.scores(whole.rows())[:, :3])
    with pytest.raises(IndexMismatch, match="not complete: go on with"):
        run.tracin(index=run.path)
    with pytest.raises(FileExistsError, match="resume=True"):
        run.build()
    with pytest.raises(IndexMismatch, match="dtype: 'float32' here, 'float16' there"):
        run.build(resume=True, dtype="float16")
    with pytest.raises(IndexMismatch, match="top_k_words"):
        run.tracin(top_k_words=1).build_index(run.path, resume=True, rank=3)
    with pytest.raises(ValueError, match="cannot be added to before it is"):
        partial.append(whole.rows())
    with pytest.raises(ValueError, match="cannot be compacted before it is"):
        partial.compact()
    run.build(resume=True)
    names = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (run.path, whole.path)]
    assert names[0] == names[1]
    run.build(resume=True)  # nothing is left to do


def test_append_adds_another_training_set(run):
    index = run.build()
    more = Examples(tuple(field[:2] for field in run.case.test))
    options = {"append": True, "rank": 3}
    grown = run.tracin(more).build_index(run.path, **options)
    assert grown.total == 9
    both = TracInWE(
        run.case.model,
        torch.utils.data.ConcatDataset([run.case.dataset(), more]),
        run.checkpoints,
        loss_fn=run.case.loss,
        index=run.path,
    )
    plain = run.tracin(torch.utils.data.ConcatDataset([run.case.dataset(), more]))
    torch.testing.assert_close(both.influence(run.case.test), plain.influence(run.case.test), rtol=1e-4, atol=1e-6)
    with pytest.raises(FileNotFoundError, match="No index at"):
        run.tracin().build_index(run.path.with_name("none"), append=True)
    assert len(index.refresh()) == 9


def test_labels_and_metadata_are_kept(run):
    index = run.build(metadata={"source": [f"s{i}" for i in range(7)]})
    labels = run.case.train[-1].tolist()
    assert [value for segment in index.segments for value in segment.columns["label"]] == labels
    rows = run.tracin().row_gradients(run.case.test)
    found = index.search(rows, 7, where={"label": labels[0], "source": ["s0", "s1", "s2"]})
    assert set(found.indices[0].tolist()) == {i for i in range(3) if labels[i] == labels[0]}
    with pytest.raises(ValueError, match="'source' has 2 values: expected 7"):
        run.tracin().build_index(run.path.with_name("b"), metadata={"source": [1, 2]})


def test_data_that_come_only_in_order_are_streamed(run):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(Examples(run.case.train)[i] for i in range(7))

    index = run.tracin(Stream()).build_index(run.path, segment_examples=3, rank=3)
    assert [len(segment) for segment in index.segments] == [4, 3]  # whole batches of 2
    assert index.complete
    expected = run.tracin().influence(run.case.test)
    scores = run.tracin(Stream(), index=run.path).influence(run.case.test)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="can be read in any order"):
        run.tracin(Stream()).build_index(run.path.with_name("b"), metadata={"n": list(range(7))})


def test_estimate_says_what_the_index_takes(run):
    tracin = run.tracin()
    estimate = tracin.estimate_index(rank=3)
    index = tracin.build_index(run.path, rank=3)
    assert estimate.examples == 7
    assert estimate.payload_bytes == pytest.approx(index.payload_bytes, rel=0.2)
    assert estimate.disk_bytes == pytest.approx(sum(s.path.stat().st_size for s in index.segments), rel=0.2)
    assert estimate.seconds > 0
    assert "7 examples" in str(estimate)
    assert "on disk" in str(estimate)


def test_too_little_space_is_said_before_the_work(run, monkeypatch):
    monkeypatch.setattr(build.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(OSError, match="needs about .* on disk, 10 bytes are free"):
        run.build()
    assert not (run.path / "manifest.json").exists()


def test_a_low_memory_ceiling_makes_small_segments_and_the_same_scores(run):
    index = run.tracin().build_index(run.path, rank=3, memory_limit=3000)
    assert len(index.segments) > 2
    expected = run.tracin().influence(run.case.test)
    torch.testing.assert_close(run.tracin(index=run.path).influence(run.case.test), expected, rtol=1e-4, atol=1e-6)


def test_lossy_options_are_recorded_and_off_by_default(run):
    index = run.build(project=2)
    assert index.manifest.stored_width == 2
    assert index.rows().width == 6
    asked = run.tracin(index=run.path)
    found = asked.influence(run.case.test, k=3)
    words = asked.word_influence(run.case.test, found.indices)
    score = float(found.influence_scores[0, 0])
    assert math.isclose(words[0][0].score, score, rel_tol=1e-4, abs_tol=1e-6)
    top = run.tracin(top_k_words=2)
    kept = top.build_index(run.path.with_name("top"), rank=3)
    assert kept.rows().num_rows < run.tracin().row_gradients().num_rows
    torch.testing.assert_close(
        run.tracin(top_k_words=2, index=kept).influence(run.case.test),
        top.influence(run.case.test),
        rtol=1e-4,
        atol=1e-6,
    )


def test_a_gradient_that_is_not_finite_is_named(run):
    def loss(prediction, labels):
        losses = cross_entropy()(prediction, labels)
        return torch.where(labels == labels, losses / (prediction.sum(1) - prediction.sum(1)), losses)

    with pytest.raises(ValueError, match="NaN or infinite"):
        run.tracin(loss_fn=loss).build_index(run.path)


def test_half_storage_is_close(run):
    exact = run.tracin().influence(run.case.test)
    for dtype, tolerance in (("float16", 2e-3), ("bfloat16", 2e-2)):
        index = run.tracin().build_index(run.path.with_name(dtype), dtype=dtype, rank=3)
        scores = run.tracin(index=index).influence(run.case.test)
        assert float((scores - exact).abs().max()) < tolerance * float(exact.abs().max())


def test_segments_are_read_by_a_loader_with_its_own_collating(run):
    loader = DataLoader(run.case.dataset(), 3)
    index = run.tracin(loader).build_index(run.path, segment_examples=2, rank=3)
    assert [len(segment) for segment in index.segments] == [2, 2, 2, 1]


def test_resume_of_a_compacted_index_does_nothing(run):
    tracin = run.tracin()
    index = tracin.build_index(run.path, segment_examples=4, rank=3).delete([1, 2, 5, 6]).compact()
    assert [(one.first, one.stop) for one in index.manifest.segments] == [(0, 7)]
    again = tracin.build_index(run.path, resume=True, segment_examples=4, rank=3)
    assert again.manifest == index.manifest
    added = tracin.build_index(run.path, append=True, segment_examples=4, rank=3)
    assert [(one.first, one.stop) for one in added.manifest.segments] == [(0, 7), (7, 11), (11, 14)]
    assert torch.equal(added.rows(range(7, 14)).values, tracin.row_gradients().values)


def test_only_what_no_segment_stands_for_is_missing(run):
    manifest = run.build().manifest  # 0 to 2, 3 to 5, 6
    assert build.missing_spans(manifest, manifest.parts[0]) == []
    first, middle, last = manifest.segments
    for segments, missing in (
        ((first, last), [(3, 6)]),
        ((middle,), [(0, 3), (6, 7)]),
        ((replace(first, stop=5),), [(5, 6), (6, 7)]),
        ((), [(0, 3), (3, 6), (6, 7)]),
    ):
        assert build.missing_spans(replace(manifest, segments=segments), manifest.parts[0]) == missing


def test_deleted_examples_are_never_the_best(run):
    run.build().delete([0, 3])
    asked = run.tracin(index=run.path)
    for scores in (asked.influence(run.case.test), asked.self_influence()[None]):
        assert torch.equal(scores[:, [0, 3]], torch.full((len(scores), 2), -torch.inf))
        assert not {0, 3} & set(scores.topk(5).indices.flatten().tolist())


def test_the_directory_is_kept_as_an_absolute_path(run, monkeypatch):
    run.build()
    monkeypatch.chdir(run.path.parent)
    monkeypatch.setenv("HOME", str(run.path.parent))
    index = GradientIndex.open(run.path.name)
    assert GradientIndex.open("~/" + run.path.name).path == index.path == run.path
    monkeypatch.chdir("/")
    assert len(index.refresh()) == 7


def test_a_file_is_not_taken_for_a_directory(run):
    run.path.write_text("")
    for use in (run.build, lambda: GradientIndex.open(run.path)):
        with pytest.raises(NotADirectoryError, match="index' is a file: .* Name another path"):
            use()
