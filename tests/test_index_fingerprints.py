"""A training set is told from another: on resume, at a question, and only then; what an example's fingerprint is made of."""

import subprocess
import sys

import pytest
import torch
from cases import CASES, Stream
from msgspec.structs import replace
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from captum_tracinwe import GradientIndex, IndexMismatch, TracInWE
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, tiny_bert, toy_texts
from captum_tracinwe.index import build
from captum_tracinwe.index.files.writer import SegmentWriter
from captum_tracinwe.index.identity.fingerprints import COLUMN, Fingerprint, fingerprints, read
from captum_tracinwe.index.identity.same_examples import Amount, check_examples

LOSS = nn.CrossEntropyLoss(reduction="none")


class Texts(Dataset):
    """Token ids of different lengths, and labels."""

    def __init__(self, count=40, seed=3):
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(4, 10, (count,), generator=generator).tolist()
        self.ids = [torch.randint(1, 30, (length,), generator=generator) for length in lengths]
        self.labels = torch.randint(0, 3, (count,), generator=generator).tolist()
        self.reads = []

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        self.reads.append(index)
        return {"input_ids": self.ids[index].tolist(), "labels": self.labels[index]}


def padded(examples):
    """Tuples without a mask: what an example becomes depends on the longest of its batch."""
    ids = nn.utils.rnn.pad_sequence([torch.tensor(one["input_ids"]) for one in examples], batch_first=True)
    return ids, torch.tensor([one["labels"] for one in examples])


def bags(examples):
    """Words in a row, and where each text begins."""
    ids = [torch.tensor(one["input_ids"]) for one in examples]
    offsets = torch.tensor([0, *(len(one) for one in ids[:-1])]).cumsum(0)
    return torch.cat(ids), offsets, torch.tensor([one["labels"] for one in examples])


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.out = nn.EmbeddingBag(30, 6), nn.Linear(6, 3)

    def forward(self, ids, offsets):
        return self.out(torch.tanh(self.words(ids, offsets)))


KINDS = {"mask": (tiny_bert, None), "padding": (lambda: TinyCNN(padding_idx=0), padded), "bags": (Bag, bags)}


class World:
    def __init__(self, folder, kind="mask"):
        torch.manual_seed(0)
        make, self.collate = KINDS[kind]
        self.model, self.folder, self.path = make(), folder, folder / "index"
        self.checkpoints = scatter_checkpoints(self.model, folder, rates=(0.3,))

    def tracin(self, data, **options):
        options = {"loss_fn": LOSS, "batch_size": 3, "collate_fn": self.collate, **options}
        if isinstance(data, DataLoader):
            options.pop("collate_fn")
        # A CNN without a mask sees its padding, which the probe would tell; what is compared here are examples.
        return TracInWE(self.model, data, self.checkpoints, **options, probe=False)

    def build(self, data, **options):
        tracin = options.pop("tracin", {})
        return self.tracin(data, **tracin).build_index(self.path, **{"segment_examples": 8, "rank": 3, **options})

    def ask(self, data, **options):
        return self.tracin(data, index=self.path, **options)


@pytest.fixture(params=KINDS)
def world(request, tmp_path):
    return World(tmp_path, request.param)


@pytest.fixture
def masked(tmp_path):
    return World(tmp_path)


def shuffled(data):
    return Subset(data, [*range(1, len(data)), 0])


def changed(index=0, label=False):
    data = Texts()
    if label:
        data.labels[index] = (data.labels[index] + 1) % 3
    else:
        data.ids[index][1] = data.ids[index][1] % 29 + 1
    return data


# ------------------------------------------------------------------------------------------------------------ resuming


@pytest.fixture
def half(world, monkeypatch):
    """A build that was stopped after three segments, 24 examples."""
    original, calls = build._Writing.segment, []

    def stops(self, part, span):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(span)
        return original(self, part, span)

    monkeypatch.setattr(build._Writing, "segment", stops)
    with pytest.raises(KeyboardInterrupt):
        world.build(Texts())
    monkeypatch.undo()
    return world


def test_a_build_is_not_resumed_with_other_examples(half):
    files = {path.name: path.read_bytes() for path in half.path.iterdir()}
    for data in (shuffled(Texts()), changed(13), changed(23, label=True)):
        with pytest.raises(IndexMismatch, match="Training example .* is not the one that the index was built from"):
            half.build(data, resume=True)
    assert {path.name: path.read_bytes() for path in half.path.iterdir()} == files
    half.build(changed(24), resume=True)  # of what is not built nothing is remembered
    assert GradientIndex.open(half.path).complete


def test_a_finished_build_is_resumed_by_its_own_examples_only(world):
    index = world.build(Texts())
    assert world.build(Texts(), resume=True).manifest == index.manifest
    assert world.build(Texts(), resume=True, tracin={"batch_size": 4}).manifest == index.manifest
    with pytest.raises(
        IndexMismatch, match="Training example 39 .*its label is . in the index and . in `train_dataset`"
    ):
        world.build(changed(39, label=True), resume=True)


@pytest.mark.parametrize("label", [True, False])
def test_another_of_the_batch_is_named_only_where_the_label_does_not_tell(world, label):
    world.build(Texts())
    with pytest.raises(IndexMismatch, match=f"its label is .{'' if label else '.* in both'}") as caught:
        world.build(changed(39, label=label), resume=True)
    assert ("or another of its batch is" in str(caught.value)) != label


def test_resuming_compares_the_last_part_with_what_is_appended(world):
    world.build(Texts(10))
    world.build(Texts(12, seed=5), append=True)
    assert world.build(Texts(12, seed=5), append=True, resume=True).total == 34  # complete: once more
    with pytest.raises(IndexMismatch, match="Training example 22 is not"):
        world.build(Texts(12, seed=6), resume=True)


def test_a_stream_is_compared_as_it_comes(world, monkeypatch):
    original, calls = build._Writing._commit, []

    def stops(self, written):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(written)
        return original(self, written)

    monkeypatch.setattr(build._Writing, "_commit", stops)
    with pytest.raises(KeyboardInterrupt):
        world.build(Stream(Texts()))
    monkeypatch.undo()
    for data, number in ((changed(4), 4), (changed(17, label=True), 17)):
        with pytest.raises(IndexMismatch, match="Training example .* is not the one"):
            world.build(Stream(data), resume=True)
        assert len(GradientIndex.open(world.path)) == 18, number
    assert world.build(Stream(Texts()), resume=True).complete
    world.ask(Stream(Texts()))
    with pytest.raises(IndexMismatch, match="Training example .* is not the one"):
        world.ask(Stream(shuffled(Texts())))


def test_a_stream_does_not_go_on_with_the_segments_of_a_data_set(half):
    with pytest.raises(IndexMismatch, match="train_dataset: 40 examples here, None there"):
        half.build(Stream(Texts()), resume=True)


# -------------------------------------------------------------------------------------------------------------- asking


def test_a_question_takes_the_training_set_of_its_index(world):
    world.build(Texts())
    expected = world.ask(None).self_influence()
    for size in (1, 3, 7, 40):  # the index knows which batches its examples came in
        assert torch.equal(world.ask(Texts(), batch_size=size).self_influence(), expected)


@pytest.mark.parametrize("data", [shuffled(Texts()), changed(0), changed(39, label=True), changed(1, label=True)])
def test_a_question_is_refused_with_other_examples(world, data):
    world.build(Texts())
    with pytest.raises(IndexMismatch, match="(?s)same order, with the same tokenizer.*train_dataset=None"):
        world.ask(data)
    world.ask(None)


def test_order_by_length_and_a_width_of_its_own_make_no_other_examples(masked):
    ids, mask, labels = toy_texts(20)
    wide = [{"input_ids": i, "attention_mask": m, "labels": y} for i, m, y in zip(ids, mask, labels, strict=True)]
    own = [
        {"input_ids": i[: int(m.sum())], "attention_mask": m[: int(m.sum())], "labels": y}
        for i, m, y in zip(ids, mask, labels, strict=True)
    ]
    masked.build(wide, tracin={"order_by_length": True})
    question = masked.tracin(wide)._collate(wide[:3])
    expected = masked.tracin(wide).influence(question)
    for data in (wide, own):
        masked.build(data, resume=True, tracin={"batch_size": 4})
        stream = DataLoader(Stream(data), 1, collate_fn=masked.tracin(data)._collate)
        for asked in (masked.ask(data, batch_size=5), masked.ask(data, order_by_length=True), masked.ask(stream)):
            torch.testing.assert_close(asked.influence(question), expected, rtol=1e-4, atol=1e-6)


def test_another_collator_is_refused(masked):
    masked.build(Texts())

    def cut(examples):
        return masked.tracin(Texts(), collate_fn=None)._collate(
            [{**e, "input_ids": e["input_ids"][:4]} for e in examples]
        )

    with pytest.raises(IndexMismatch, match="its label is . in both, its text or what was made of it is another"):
        masked.ask(Texts(), collate_fn=cut)


def test_batches_that_come_in_their_own_order_are_compared_from_the_first(tmp_path):
    world = World(tmp_path, "padding")
    world.build(Texts())
    same = DataLoader([padded([Texts()[i] for i in range(a, min(a + 3, 8))]) for a in (0, 3, 6)], batch_size=None)
    with torch.random.fork_rng():
        before = torch.random.get_rng_state()
        world.ask(same)
        assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(IndexMismatch, match=r"batch of 3 then and comes in one of 4 now.*pass batch_size=3"):
        world.ask(DataLoader(Stream(Texts()), 4, collate_fn=padded))


def test_few_examples_are_read_for_a_question(masked):
    data = Texts(300)
    masked.build(data, segment_examples=20)
    data.reads.clear()
    tracin = masked.ask(data)
    read_by_check = set(data.reads)
    assert {0, 1, 2, 299} <= read_by_check
    assert 40 <= len(read_by_check) <= 90
    assert any(100 < number < 280 for number in read_by_check)
    tracin.self_influence()
    assert set(data.reads) == read_by_check


def test_all_of_a_small_set_and_a_sample_of_a_large_one_are_compared_on_resume(masked):
    data = Texts(60)
    index = masked.build(data, segment_examples=6)
    tracin = masked.tracin(data)
    for amount, expected in ((Amount(60, 2), 60), (Amount(12, 3), range(12, 30))):
        data.reads.clear()
        check_examples(tracin.live_source, index.segments, amount)
        count = len(set(data.reads))
        assert count == expected if isinstance(expected, int) else count in expected
        assert {0, 59} <= set(data.reads)


# ------------------------------------------------------------------------------------------------- changes to an index


def test_appended_deleted_and_compacted_examples_are_still_known(world):
    first, second = Texts(10), Texts(12, seed=5)
    world.build(first)
    world.build(second, append=True)
    both = ConcatDataset([first, second])
    world.ask(both)
    GradientIndex.open(world.path).delete([0, 4, 5, 9, 20]).compact()
    world.ask(both)
    world.build(second, append=False, resume=True)
    for data in (ConcatDataset([second, first]), ConcatDataset([first, Texts(12, seed=6)])):
        with pytest.raises(IndexMismatch, match="is not the one"):
            world.ask(data)


def test_a_merged_index_is_of_both_sets_one_behind_the_other(world):
    first, second = Texts(10), Texts(12, seed=5)
    world.build(first)
    other = world.tracin(second, batch_size=4).build_index(world.folder / "other", segment_examples=9, rank=3)
    GradientIndex.open(world.path).merge(other)
    world.ask(ConcatDataset([first, second]))
    with pytest.raises(IndexMismatch, match="is not the one"):
        world.ask(ConcatDataset([first, Texts(12, seed=6)]))


def without_fingerprints(monkeypatch):
    """Builds then write what versions before fingerprints wrote."""
    finish, source = SegmentWriter.finish, build.source_of

    def plain(self, numbers=None, columns=None):
        return finish(self, numbers, {name: values for name, values in (columns or {}).items() if name != COLUMN})

    monkeypatch.setattr(SegmentWriter, "finish", plain)
    monkeypatch.setattr(build, "source_of", lambda tracin: replace(source(tracin), settings=""))


def test_an_older_index_is_asked_resumed_added_to_and_compacted(world, monkeypatch):
    with monkeypatch.context() as older:
        without_fingerprints(older)
        world.build(Texts(10))
    index = GradientIndex.open(world.path)
    assert "cannot tell whether a training set is its own" in repr(index)
    world.ask(shuffled(Texts(10)))  # nothing is known of it
    world.build(Texts(10), resume=True)
    index = world.build(Texts(12, seed=5), append=True).delete([3, 12]).compact()
    world.ask(ConcatDataset([Texts(10, seed=8), Texts(12, seed=5)]))
    with pytest.raises(IndexMismatch, match="is not the one"):
        world.ask(ConcatDataset([Texts(10), Texts(12, seed=6)]))
    index.verify()


def test_the_column_is_the_indexs_own(world):
    index = world.build(Texts(10))
    assert "cannot tell" not in repr(index)
    rows = index.rows([0])
    with pytest.raises(ValueError, match=r"no metadata column 'x' for all examples \(it has: label\)"):
        index.search(rows, 1, where={"x": 1})
    for use in (
        lambda: index.append(rows, metadata={COLUMN: ["a"]}),
        lambda: world.tracin(Texts(4)).build_index(world.folder / "b", metadata={COLUMN: ["a"] * 4}),
        lambda: GradientIndex.from_rows(world.folder / "c", rows, metadata={COLUMN: ["a"]}),
    ):
        with pytest.raises(ValueError, match="begin with 'captum_tracinwe.' are the index's own"):
            use()


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_batch_is_known_again(name, tmp_path):
    case = CASES[name]()
    checkpoints = scatter_checkpoints(case.model, tmp_path)
    options = {"loss_fn": case.loss, **case.options}
    TracInWE(case.model, case.dataset(), checkpoints, batch_size=2, **options).build_index(tmp_path / "i", rank=3)
    TracInWE(case.model, case.dataset(), checkpoints, batch_size=3, index=tmp_path / "i", **options)
    labels = case.train["labels"] if isinstance(case.train, dict) else case.train[-1]
    labels[-1] = (labels[-1] + 1) % 3
    with pytest.raises(IndexMismatch, match="is not the one"):
        TracInWE(case.model, case.dataset(), checkpoints, batch_size=2, index=tmp_path / "i", **options)


def test_a_model_that_writes_into_its_batch_does_not_change_the_fingerprint(tmp_path):
    class Shifting(TinyCNN):
        def forward(self, input_ids):
            input_ids[input_ids == 2] = 3
            return super().forward(input_ids)

    (ids, _, labels), model = toy_texts(6), Shifting()
    checkpoints = scatter_checkpoints(model, tmp_path)

    def tracin(**options):
        data = TensorDataset(ids.clone(), labels)
        return TracInWE(model, data, checkpoints, loss_fn=LOSS, batch_size=6, **options)

    tracin().build_index(tmp_path / "i", rank=3)
    assert tracin(index=tmp_path / "i").influence((ids, labels), k=1).indices.shape == (6, 1)


# -------------------------------------------------------------------------------------------------- the hash of a batch


def hashes(batch, **options):
    return [one.hash for one in fingerprints(batch, **options)]


def test_a_fingerprint_is_written_and_read():
    one = fingerprints((torch.tensor([[1, 2], [3, 4]]), torch.tensor([0, 1])))[1]
    assert (one.place, one.size) == (1, 2)
    assert read(str(one)) == one
    for other in (None, 7, "", str(one)[1:], f"{one.hash} 2/2", f"{one.hash} 0/{10**12}", f"{one} "):
        assert read(other) is None
    assert read(str(Fingerprint(one.hash, 0, 1))).size == 1


IDS, MASK, LABELS = toy_texts(4, seed=7)
TUPLE = (IDS, LABELS)
MAPPING = {"input_ids": IDS, "attention_mask": MASK, "labels": LABELS}


@pytest.mark.parametrize("batch", [TUPLE, MAPPING, ({"input_ids": IDS}, LABELS), (IDS, ["a", "b", "c", "d"], LABELS)])
def test_each_example_has_its_own_part(batch):
    found = hashes(batch)
    assert len(set(found)) == 4
    assert found == hashes(batch)

    def other(value, place):
        if isinstance(value, torch.Tensor):
            value = value.clone()
            value[2, ..., 0] if value.dim() > 1 else value[2]
            value.view(len(value), -1)[2, 0] += 1
            return value
        if isinstance(value, dict):
            return {key: other(one, place) for key, one in value.items()}
        return [*value[:2], "x", value[3]]

    parts = batch.items() if isinstance(batch, dict) else enumerate(batch)
    for key, value in list(parts):
        one = dict(batch) if isinstance(batch, dict) else list(batch)
        one[key] = other(value, key)
        new = hashes(one if isinstance(batch, dict) else tuple(one))
        assert [a != b for a, b in zip(found, new, strict=True)] == [False, False, True, False], key


def test_padding_behind_the_mask_makes_no_difference_and_all_else_does():
    wide = {key: nn.functional.pad(value, (0, 3)) for key, value in MAPPING.items() if key != "labels"}
    assert hashes({**wide, "labels": LABELS}) == hashes(MAPPING)
    assert hashes({key: value.roll(1, 1) for key, value in wide.items()} | {"labels": LABELS}) != hashes(MAPPING)
    embeds = torch.randn(4, IDS.shape[1], 5)
    of_embeds = {"inputs_embeds": embeds, "attention_mask": MASK}
    assert hashes(of_embeds) == hashes(
        {"inputs_embeds": embeds * MASK[..., None], "attention_mask": MASK.bool().long()}
    )
    assert hashes(of_embeds) != hashes({"inputs_embeds": embeds.flip(2), "attention_mask": MASK})


def test_labels_for_each_position_are_cut_at_their_own_end():
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    batch = {
        "input_ids": mask * 5,
        "attention_mask": mask,
        "labels": torch.tensor([[1, 2, 3, -100], [1, -100, 2, -100]]),
    }
    wide = {key: nn.functional.pad(value, (0, 2), value=-100 if key == "labels" else 0) for key, value in batch.items()}
    assert hashes(wide) == hashes(batch)
    for place, expected in (((0, 2), [True, False]), ((1, 3), [False, True])):
        other = {**batch, "labels": batch["labels"].clone()}
        other["labels"][place] = 7
        assert [a != b for a, b in zip(hashes(batch), hashes(other), strict=True)] == expected
    classes = {**batch, "labels": torch.rand(2, 4)}  # one number for each class, not for each position
    other = {**classes, "labels": classes["labels"].clone()}
    other["labels"][0, 3] += 1
    assert hashes(classes)[0] != hashes(other)[0]
    named = {"input_ids": mask, "attention_mask": mask, "tags": classes["labels"]}
    assert hashes(named, label_names=["tags"])[0] != hashes({**named, "tags": other["labels"]}, label_names=["tags"])[0]


def test_what_belongs_to_the_whole_batch_counts_for_each():
    batch = (torch.tensor([1, 2, 3, 4, 5]), torch.tensor([0, 2, 4]), torch.tensor([0, 1, 2]))
    other = (torch.tensor([1, 2, 3, 4, 6]), *batch[1:])
    assert all(a != b for a, b in zip(hashes(batch), hashes(other), strict=True))
    assert all(a != b for a, b in zip(hashes((IDS, 1.0, LABELS)), hashes((IDS, 2.0, LABELS)), strict=True))
    assert hashes((IDS, object(), LABELS)) == hashes((IDS, object(), LABELS))


def test_values_count_and_not_the_form_they_come_in():
    assert hashes((IDS.int(), LABELS.short())) == hashes(TUPLE)
    assert hashes((IDS.t().contiguous().t(), LABELS)) == hashes(TUPLE)
    assert hashes(dict(reversed(MAPPING.items()))) == hashes(MAPPING)
    assert hashes((IDS.to_sparse(), LABELS)) == hashes(TUPLE)
    assert hashes((IDS.numpy(), LABELS)) == hashes(TUPLE)
    for dtype in (torch.float64, torch.bfloat16, torch.complex64, torch.bool):
        assert len(set(hashes((IDS.to(dtype), LABELS)))) >= 2
    assert hashes((IDS.float(), LABELS)) != hashes(TUPLE)
    assert len(hashes((torch.zeros(4, 0), LABELS))) == 4


def test_a_mask_or_a_list_of_flags_is_that_of_whole_numbers():
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    batch = {"ids": IDS[:2, :3], "attention_mask": mask, "flags": [1, 0], "labels": LABELS[:2]}
    flags = {**batch, "attention_mask": mask.bool(), "flags": [True, False]}
    assert hashes(batch) == hashes(flags)
    flags["attention_mask"] = flags["attention_mask"].flip(1)
    assert not set(hashes(batch)) & set(hashes(flags))


def test_hashes_are_the_same_in_every_process():
    code = (
        "from captum_tracinwe.testing import toy_texts\n"
        "from captum_tracinwe.index.identity.fingerprints import fingerprints\n"
        "ids, mask, labels = toy_texts(4, seed=7)\n"
        "print([str(one) for one in fingerprints({'input_ids': ids, 'attention_mask': mask, 'labels': labels})])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([str(one) for one in fingerprints(MAPPING)])


def test_columns_of_another_length_than_their_segment_are_damage(masked, monkeypatch):
    from captum_tracinwe import IndexDamaged
    from captum_tracinwe.index.files.segment import Segment

    masked.build(Texts(10))
    monkeypatch.setattr(Segment, "read_columns", lambda self: {COLUMN: ["x"]})
    with pytest.raises(IndexDamaged, match="8 examples, and 1 fingerprints beside them"):
        masked.ask(Texts(10))
