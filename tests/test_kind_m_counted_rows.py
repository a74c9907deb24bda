"""Kind M: a collator that drops rows, or makes several of one example, in whatever batch: later scores would name other texts."""

import pytest
import torch
from one_by_one import LOSS, assert_near, checkpoints, scores_one_by_one
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler

from captum_tracinwe import TracInWE, word_report
from captum_tracinwe.app.testing import TinyCNN, toy_texts

COUNT, LATE = 22, 17


def make():
    torch.manual_seed(0)
    return TinyCNN()


def examples():
    ids, _, labels = toy_texts(COUNT, length=6, seed=1)
    return [
        {"input_ids": row.clamp_min(1).tolist(), "labels": int(label)} for row, label in zip(ids, labels, strict=True)
    ]


def batch_of(some):
    texts = [torch.tensor(one["input_ids"]) for one in some] or [torch.zeros(1, dtype=torch.int64)]
    ids = pad_sequence(texts, batch_first=True)[: len(some)]
    return {"input_ids": ids, "labels": torch.tensor([one["labels"] for one in some], dtype=torch.int64)}


def without_none(some):
    return batch_of([one for one in some if one is not None])


def without_long(some):
    return batch_of([one for one in some if len(one["input_ids"]) < 9])


def windows(some):
    cut = [
        {**one, "input_ids": one["input_ids"][at : at + 6]} for one in some for at in range(0, len(one["input_ids"]), 6)
    ]
    return batch_of(cut)


def without_doubles(some):
    return batch_of(list({tuple(one["input_ids"]): one for one in some}.values()))


def none_there(rows):
    rows[LATE] = None


def long(rows):
    rows[LATE]["input_ids"] *= 2


def doubled(rows):
    rows[LATE] = dict(rows[LATE - 1])


# What the data hold, and what is said; batches of 4, the fifth begins with 16.
KINDS = {
    without_none: (none_there, r"makes 0 rows of 1 example: .* given example 17\..*Leave out before"),
    without_long: (long, r"makes 0 rows of 1 example: .* given example 17\..*Leave out before"),
    windows: (long, r"makes 2 rows of 1 example: .* given example 17\..*Give each row as an example of its own"),
    without_doubles: (doubled, r"makes 3 rows of 4 examples: .* given example 16 and others\..*Leave out before"),
}
EACH = pytest.mark.parametrize("collate", KINDS, ids=[kind.__name__ for kind in KINDS])


class Rows(Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


class Stream(IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


def asked(collate):
    rows = examples()
    change, said = KINDS[collate]
    change(rows)
    return Rows(rows), said


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return checkpoints(make, tmp_path_factory.mktemp("checkpoints"))


@EACH
def test_every_way_of_asking_refuses_a_batch_with_other_rows_than_examples(collate, paths, tmp_path):
    data, said = asked(collate)
    tracin = TracInWE(make(), data, paths, loss_fn=LOSS, batch_size=4, collate_fn=collate, memory_limit=2000)
    ways = [
        lambda: tracin.influence(data.rows[:2]),
        lambda: tracin.influence(data.rows[:2], k=3),
        tracin.self_influence,
        lambda: tracin.self_influence(outer_loop_by_checkpoints=True),
        tracin.row_gradients,
        lambda: tracin.build_index(tmp_path / "index", segment_examples=4, memory_limit=1 << 28),
        lambda: word_report(tracin, data.rows[:2], [0] * COUNT),
    ]
    for way in ways:
        with pytest.raises(ValueError, match=rf"The collator of `train_dataset` {said}"):
            way()


@EACH
def test_questions_are_counted_too(collate, paths):
    data, said = asked(collate)
    plain = Rows(examples())
    tracin = TracInWE(make(), plain, paths, loss_fn=LOSS, batch_size=4, collate_fn=collate)
    with pytest.raises(ValueError, match=rf"The collator of `inputs` {said}"):
        tracin.influence(data)


LOADERS = {
    "torch's own": lambda data, collate: DataLoader(data, 4, collate_fn=collate),
    "with workers": lambda data, collate: DataLoader(data, 4, collate_fn=collate, num_workers=1),
    "of lists": lambda data, collate: DataLoader(
        data, batch_sampler=[list(range(at, min(at + 4, COUNT))) for at in range(0, COUNT, 4)], collate_fn=collate
    ),
    "a data set that takes lists": lambda data, collate: DataLoader(
        data, sampler=BatchSampler(SequentialSampler(data), 4, False), batch_size=None, collate_fn=collate
    ),
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_of_ones_own_is_counted_by_its_sampler(name, paths):
    data, said = asked(without_doubles)
    if name == "a data set that takes lists":
        data.__class__ = type("Lists", (Rows,), {"__getitem__": lambda self, at: [self.rows[i] for i in at]})
    loader = LOADERS[name](data, without_doubles)
    tracin = TracInWE(make(), loader, paths, loss_fn=LOSS)
    with pytest.raises(ValueError, match=rf"`train_dataset` {said}"):
        tracin.self_influence()


@pytest.mark.parametrize("count", [3, 5])
def test_batches_of_all_sizes_are_right_where_rows_are_examples(count, paths):
    rows = examples()
    tracin = TracInWE(make(), Rows(rows), paths, loss_fn=LOSS, batch_size=count, collate_fn=without_doubles)
    whole, question = tuple(batch_of(rows).values()), tuple(batch_of(rows[:3]).values())
    expected = scores_one_by_one(make, paths, lambda m: m.embedding, whole, question)
    assert_near(tracin.influence(rows[:3]), expected)


@EACH
def test_a_stream_is_counted_where_its_collator_is_asked(collate, paths):
    data, _ = asked(collate)
    loader = DataLoader(Stream(data.rows), 4, collate_fn=collate)
    rows = 5 if collate is windows else 3
    tracin = TracInWE(make(), loader, paths, loss_fn=LOSS)
    with pytest.raises(
        ValueError, match=rf"`train_dataset` makes {rows} rows of 4 examples: .* given example 16 and others\."
    ):
        tracin.influence(data.rows[:2])


def test_from_short_to_long_the_example_is_named_by_its_index(paths):
    rows = [
        {"input_ids": one["input_ids"] + [5] * (number % 3), "labels": one["labels"]}
        for number, one in enumerate(examples())
    ]
    long(rows)
    masked = [{**one, "attention_mask": [1] * len(one["input_ids"])} for one in rows]
    tracin = TracInWE(
        make(), Rows(masked), paths, loss_fn=LOSS, batch_size=4, collate_fn=windows_of_six_or_more, order_by_length=True
    )
    with pytest.raises(ValueError, match=r"makes 2 rows of 1 example: .* given example 17\."):
        tracin.self_influence()


def windows_of_six_or_more(some):
    return batch_of([one for one in some for _ in range(1 + (len(one["input_ids"]) > 9))])


def group_texts(some):
    """Chunks of four of all words, whosoever they are."""
    words = torch.tensor([word for one in some for word in one["input_ids"]])
    chunks = words[: len(words) // 4 * 4].view(-1, 4)
    return {"input_ids": chunks, "labels": torch.zeros(len(chunks), dtype=torch.int64)}


def test_chunks_of_all_words_are_refused_with_the_example_that_has_none(paths):
    rows = examples()
    rows[0]["input_ids"], rows[1]["input_ids"], rows[2]["input_ids"] = [3, 4, 5, 6], [3, 4], [7, 8, 9]
    with pytest.warns(UserWarning, match="packs several examples into one row"):
        tracin = TracInWE(make(), Rows(rows), paths, loss_fn=LOSS, batch_size=4, collate_fn=group_texts)
    with pytest.raises(
        ValueError, match=r"The collator of `train_dataset` makes 0 rows of 1 example: .* given example 1\."
    ):
        tracin.self_influence()
