"""An index driven at random, and killed at random, beside a model of it in memory: both always say the same.

In CI the same cases each time, within a minute. Longer, with new ones:
`CAPTUM_TRACINWE_SOAK_MINUTES=60 python -m pytest -s tests/test_index_machine.py`.
"""

import functools
import os
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from index_in_memory import Content, dense, difference, examples_of, rows_of, stored
from killing import killed_at

from captum_tracinwe import GradientIndex, IndexDamaged, IndexMismatch
from captum_tracinwe.app.testing import toy_tracin
from captum_tracinwe.index import merge_results

MINUTES = float(os.environ.get("CAPTUM_TRACINWE_SOAK_MINUTES", "0"))
# Without shrinking: what failed is 25 steps long at most, and is printed.
QUICK = settings(stateful_step_count=25, derandomize=True, phases=[Phase.generate])
LONG = settings(max_examples=25, stateful_step_count=40, print_blob=True)
COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


def kills(calls):
    """None, or the number of a system call; a change has about so many. Beyond its last one it comes to its end."""
    return st.one_of(st.none(), st.integers(0, calls))


# Often the same: the same rows twice, in one index or in two.
SEED, COUNT = st.one_of(st.integers(0, 3), st.integers(0, 2**16)), st.integers(0, 7)
COLUMNS = st.sampled_from([(), ("label",), ("kind",), ("label", "kind")])
DTYPES = st.sampled_from(["float32", "float16", "bfloat16"])
#: What happened, over all examples.
SEEN: Counter = Counter()


@functools.cache
def toy(trains):
    """A TracInWE, and its training set's row gradients as they are without an index."""
    tracin = toy_tracin(trains=trains)[0]
    return tracin, tracin.row_gradients(), [int(label) for _, label in tracin.train_dataloader.dataset]


def metadata_of(seed, count, columns):
    generator = np.random.default_rng(seed + 1)
    made = {"label": generator.integers(0, 3, count).tolist(), "kind": generator.choice(["a", "é", ""], count).tolist()}
    return {name: made[name] for name in columns}


class IndexMachine(RuleBasedStateMachine):
    """One index, its model, and readers that opened it earlier."""

    def __init__(self):
        super().__init__()
        SEEN["examples"] += 1
        self.home = Path(tempfile.mkdtemp(prefix="index-machine-"))
        self.path = self.home / "i"
        self.model, self.tracin, self.swept = Content(), None, False
        self.readers = []

    def teardown(self):
        shutil.rmtree(self.home)

    # ------------------------------------------------------------------------------------------------------ beginning

    @initialize(
        checkpoints=st.integers(1, 3), width=st.integers(1, 2), dtype=DTYPES, rank=st.integers(1, 2), seed=SEED,
        segment=st.integers(1, 5), count=COUNT, columns=COLUMNS, kill=kills(60),
    )  # fmt: skip
    def begin(self, checkpoints, width, dtype, rank, seed, segment, count, columns, kill):
        self.form = {"dtype": dtype, "rank": rank, "segment_examples": segment}
        self.checkpoints, self.columns = checkpoints, checkpoints * width
        rows, metadata = rows_of(seed, count, self.columns), metadata_of(seed, count, columns)

        def make():
            return GradientIndex.from_rows(
                self.path, rows, checkpoints=self.checkpoints, metadata=metadata, **self.form
            )

        SEEN["killed: from_rows"] += kill is not None and killed_at(kill, make)
        if not (self.path / "manifest.json").exists():
            make()
        index = GradientIndex.open(self.path)
        self.scale = index.manifest.scale
        self.model = Content().plus(self._examples(rows, metadata))
        shutil.copytree(self.path, self.home / "first")
        self.first = self.model

    def _examples(self, rows, metadata):
        return examples_of(rows, metadata, self.form["dtype"], self.scale)

    # ------------------------------------------------------------------------------------------------------- changing

    def _change(self, name, operation, after, kill, sweeps=True):
        """Do it, or have it killed; the index is then as before or as after it, and never anything else."""
        if kill is None or not killed_at(kill, operation):
            if kill is None:
                returned = operation()
                assert difference(returned, after) == ""
            SEEN[f"done: {name}"] += 1
            self.model, self.swept = after, sweeps
            return
        SEEN[f"killed: {name}"] += 1
        self.swept = False
        found = GradientIndex.open(self.path)
        wrong = [difference(found, state) for state in (self.model, after)]
        assert "" in wrong, wrong
        if wrong[0]:
            self.model = after
        if bool(wrong[0]) != bool(wrong[1]):
            SEEN[f"{'after' if wrong[0] else 'before'}: {name}"] += 1

    @rule(seed=SEED, count=COUNT, columns=COLUMNS, kill=kills(80), stale=st.booleans())
    def append(self, seed, count, columns, kill, stale):
        rows, metadata = rows_of(seed, count, self.columns), metadata_of(seed, count, columns)
        after = self.model.plus(self._examples(rows, metadata))
        index = self._handle(stale)
        self._change("append", lambda: index.append(rows, metadata or None), after, kill)

    @rule(chosen=st.sets(st.integers(0, 30), max_size=5), kill=kills(10), stale=st.booleans())
    def delete(self, chosen, kill, stale):
        chosen = self._numbers(chosen, self.model)
        index = self._handle(stale)
        self._change("delete", lambda: index.delete(chosen), self.model.without(chosen), kill, sweeps=False)

    @rule(kill=kills(40), stale=st.booleans())
    def compact(self, kill, stale):
        index = self._handle(stale)
        before = index.refresh().manifest.segments
        self._change("compact", index.compact, self.model, kill, sweeps=False)
        found = GradientIndex.open(self.path)
        if found.manifest.segments != before:
            SEEN["compacted"] += 1
        if kill is None:
            assert sum(segment.entry.examples for segment in found.segments) == len(self.model.live)

    @rule(
        what=st.sampled_from(["first", "itself", "other"]), seed=SEED, count=COUNT, columns=COLUMNS,
        gone=st.sets(st.integers(0, 6), max_size=3), compacted=st.booleans(), kill=kills(90),
    )  # fmt: skip
    def merge(self, what, seed, count, columns, gone, compacted, kill):
        index = self._handle(False)
        if len(self.model.examples) > 60:
            return
        if what == "itself":
            other, added = index, self.model
        elif what == "first" or self.tracin is not None:  # the same projection
            shutil.copytree(self.home / "first", self.home / "other")
            other, added = GradientIndex.open(self.home / "other"), self.first
        else:
            rows, metadata = rows_of(seed, count, self.columns), metadata_of(seed, count, columns)
            other = GradientIndex.from_rows(
                self.home / "other", rows, checkpoints=self.checkpoints, metadata=metadata, **self.form
            )
            added = Content().plus(examples_of(rows, metadata, self.form["dtype"], other.manifest.scale))
        if what != "itself":
            gone = self._numbers(gone, added)
            other, added = other.delete(gone), added.without(gone)
            other = other.compact() if compacted else other
        if other.manifest.scale != self.scale:
            with pytest.raises(IndexMismatch, match="scale"):
                index.merge(other)
            SEEN["refused: merge"] += 1
        else:
            SEEN[f"projection: {index.manifest.projections == other.manifest.projections}"] += 1
            self._change("merge", lambda: index.merge(other), self.model.joined(added), kill)
        shutil.rmtree(self.home / "other", ignore_errors=True)

    @rule(seed=SEED, count=st.integers(1, 4), wrong=st.sampled_from(["nan", "huge", "width", "metadata", "delete"]))
    def what_is_refused_changes_nothing(self, seed, count, wrong):
        index, rows = self._handle(False), rows_of(seed, count, self.columns + (wrong == "width"))
        total = len(self.model.examples)
        if wrong == "delete":
            with pytest.raises(ValueError, match=f"no training example {total}"):
                index.delete([0, total] if total else [0])
        elif wrong == "metadata":
            with pytest.raises(ValueError, match="metadata"):
                index.append(rows, {"label": [0] * (count + 1)})
        elif wrong == "width":
            with pytest.raises(IndexMismatch, match="columns"):
                index.append(rows)
        elif rows.num_rows:
            rows.values[-1, 0] = float("nan") if wrong == "nan" else 1e20
            with pytest.raises(ValueError, match="has a gradient"):
                index.append(rows)

    # --------------------------------------------------------------------------------------------------------- asking

    def _handle(self, stale):
        """The index as opened now, or by whoever opened it first of those that still have it open."""
        return self.readers[0][0] if stale and self.readers else GradientIndex.open(self.path)

    @staticmethod
    def _numbers(drawn, model):
        """Any numbers as those of examples that are there or were."""
        return [number % len(model.examples) for number in drawn] if model.examples else []

    @rule()
    def open_a_reader(self):
        self.readers = [*self.readers[-2:], (GradientIndex.open(self.path), self.model)]

    @rule(
        reader=st.integers(0, 3), seed=SEED, tests=st.integers(0, 3), k=st.integers(1, 9), proponents=st.booleans(),
        approximate=st.one_of(st.none(), st.none(), st.integers(0, 9)),
        where=st.sampled_from([None, None, {"label": 1}, {"label": [0, 2]}, {"kind": "a"}, {"kind": ["é", ""], "label": 0}]),
        chosen=st.one_of(st.none(), st.lists(st.integers(0, 30), max_size=12)), parts=st.integers(1, 4),
    )  # fmt: skip
    def ask(self, reader, seed, tests, k, proponents, approximate, where, chosen, parts):
        """Of the index as it is, or as a reader opened it before all that has happened to it since."""
        old = reader < len(self.readers)
        index, model = self.readers[reader] if old else (GradientIndex.open(self.path), self.model)
        SEEN["asked: old" if old else "asked: new"] += 1
        SEEN["asked: with deletions"] += bool(model.gone and tests)
        rows = rows_of(seed, tests, self.columns)
        scores = index.scores(rows)
        assert scores.shape == (tests, len(model.examples))
        self._check_scores(scores, rows, model)
        # What takes part, from the model alone.
        kept, has_all = model.live, True
        for name, value in (where or {}).items():
            accepted = value if isinstance(value, list) else [value]
            has_all = has_all and all(name in one.metadata for one in model.examples)
            kept = [number for number in kept if model.examples[number].metadata.get(name) in accepted]
        if chosen is not None:
            chosen = self._numbers(chosen, model)
            kept = [number for number in kept if number in chosen]
        try:
            found = index.search(rows, k, proponents, where=where, indices=chosen, approximate=approximate)
        except ValueError as error:
            # Where some examples were given without it.
            assert "no metadata column" in str(error)  # noqa: PT017
            assert not has_all
            return
        order = torch.sort(scores[:, kept], dim=1, descending=proponents, stable=True)
        if approximate is None or approximate >= len(kept):
            assert torch.equal(found.indices, torch.tensor(kept, dtype=torch.int64)[order.indices[:, :k]])
            assert torch.equal(found.influence_scores, order.values[:, :k])
        else:
            assert int(found.stats.verified_per_test.sum()) <= approximate * tests
        assert found.indices.shape == found.influence_scores.shape == (tests, min(k, len(kept)))
        if approximate is not None:
            low, high = found.stats.intervals.unbind(2)
            true = scores.gather(1, found.indices)
            assert bool(((low <= true) & (true <= high)).all())
            assert set(found.indices.flatten().tolist()) <= set(kept)
        elif has_all:
            apart = [
                index.part(i, parts).search(rows, k, proponents, where=where, indices=chosen) for i in range(parts)
            ]
            merged = merge_results(apart, k, proponents)
            assert torch.equal(merged.indices, found.indices)
            assert torch.equal(merged.influence_scores, found.influence_scores)

    def _check_scores(self, scores, rows, model):
        gone = torch.tensor(sorted(model.gone), dtype=torch.int64)
        assert bool(torch.isneginf(scores[:, gone]).all())
        if len(rows) and model.live:
            test = np.stack([dense(one.ids, one.values) for one in examples_of(rows)])
            train = model.dense()[model.live]
            error = np.abs(scores[:, model.live].numpy() - test @ train.T)
            assert bool((error <= 1e-5 * (np.abs(test) @ np.abs(train).T) + 1e-30).all())

    @rule(reader=st.integers(0, 3), picked=st.lists(st.integers(0, 30), max_size=6))
    def read(self, reader, picked):
        index, model = (
            self.readers[reader] if reader < len(self.readers) else (GradientIndex.open(self.path), self.model)
        )
        assert difference(index, model) == ""
        norms = index.self_influence().double()
        for number, example in enumerate(model.examples):
            expected = -np.inf if number in model.gone else np.square(example.values.astype(np.float64)).sum()
            assert norms[number].item() == pytest.approx(expected, rel=1e-5, abs=1e-30)
        picked = self._numbers(picked, model)
        if set(picked) & model.gone:
            with pytest.raises(ValueError, match="no training example"):
                index.rows(picked)
        else:
            for number, one in zip(picked, examples_of(index.rows(picked)), strict=True):
                assert one.ids == model.examples[number].ids
                assert np.array_equal(one.values, model.examples[number].values)

    @precondition(lambda self: any(len(segment) for segment in GradientIndex.open(self.path).segments))
    @rule(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
    def a_flipped_bit_is_found(self, place, bit):
        found = GradientIndex.open(self.path)
        path = max(found.segments, key=len).path
        raw = path.read_bytes()
        at = int(place * len(raw))
        # Beside it, and in its place: whoever has the file open keeps what it was.
        path.unlink()
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :])
        with pytest.raises(IndexDamaged, match=path.name):
            found.verify()
        path.unlink()
        path.write_bytes(raw)

    # ------------------------------------------------------------------------------------------------------ each time

    @invariant()
    def the_index_is_what_the_model_says(self):
        SEEN["steps"] += 1
        found = GradientIndex.open(self.path)
        found.verify()
        assert found.complete
        assert difference(found, self.model) == ""
        if self.swept:
            names = {path.name for path in self.path.iterdir()}
            assert names == {file.name for file in found.manifest.files} | {"manifest.json", "lock"}


class BuiltIndexMachine(IndexMachine):
    """The index of a TracInWE's training set; also what it appends."""

    @initialize(
        dtype=DTYPES, rank=st.integers(1, 2), segment=st.integers(1, 5), trains=st.integers(2, 6), kill=kills(50)
    )
    def begin(self, dtype, rank, segment, trains, kill):
        self.form = {"dtype": dtype, "rank": rank, "segment_examples": segment}
        self.columns = 12
        self.tracin = toy(trains)[0]
        self._build(kill)

    @precondition(lambda self: len(self.model.examples) < 60)
    @rule(kill=kills(50))
    def append_the_training_set(self, kill):
        self._build(kill, append=True)

    def _build(self, kill, append=False):
        """The toy's training set, built or appended; killed on the way and resumed, if asked for."""
        _, rows, labels = toy(len(self.tracin.train_dataloader.dataset))

        def make(resume=False):
            return self.tracin.build_index(self.path, resume=resume, append=append, **self.form)

        wanted = len(self.model.examples) + len(rows)
        if kill is not None:
            SEEN["killed: build"] += killed_at(4 * kill, make)
            self.swept = False
        if kill is None or not (self.path / "manifest.json").exists():
            index = make()
        else:
            part = GradientIndex.open(self.path)
            part.verify()
            SEEN["unfinished"] += not part.complete
            # An append that was noted is finished by resume alone; one that was not is asked for again.
            index = make() if part.total < wanted else self.tracin.build_index(self.path, resume=True, **self.form)
            kept, again = part.rows(), index.rows(part.numbers)
            assert torch.equal(again.ids, kept.ids)
            assert torch.equal(again.values, kept.values)
        assert index.total == wanted
        assert index.complete
        self.scale = index.manifest.scale
        before = len(self.model.examples)
        found = index.rows(range(before, before + len(rows)))
        expected = stored(rows.values, self.form["dtype"], self.scale)
        assert torch.equal(found.ids, rows.ids)
        assert torch.equal(found.ptr, rows.ptr)
        step = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 1e-2}[self.form["dtype"]]
        torch.testing.assert_close(found.values, expected, rtol=step, atol=1e-6)
        self.model = self.model.plus(examples_of(found, {"label": labels}))
        if not append:
            shutil.copytree(self.path, self.home / "first")
            self.first = self.model


@pytest.mark.slow
@pytest.mark.parametrize(("machine", "examples"), [(IndexMachine, 30), (BuiltIndexMachine, 12)])
def test_whatever_is_done_and_wherever_it_is_killed_the_index_is_what_the_model_says(machine, examples):
    end = time.monotonic() + 30 * MINUTES  # for each of the two
    SEEN.clear()
    try:
        run_state_machine_as_test(machine, settings=settings(QUICK, max_examples=examples, **COMMON))
        while time.monotonic() < end:
            run_state_machine_as_test(machine, settings=settings(LONG, **COMMON))
    finally:
        print("\n" + ", ".join(f"{name} {count}" for name, count in sorted(SEEN.items())))
    # Kills came early enough, and late enough, to matter.
    if machine is BuiltIndexMachine:
        assert SEEN["killed: build"]
        assert SEEN["unfinished"]
    else:
        assert SEEN["killed: from_rows"]
        assert sum(count for name, count in SEEN.items() if name.startswith("before: ")) > 5
        assert sum(count for name, count in SEEN.items() if name.startswith("after: ")) > 2
