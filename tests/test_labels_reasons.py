"""Why a label is suspected: the same texts and words as `influence` and `word_influence` name, itself and doubles left out."""

from itertools import combinations

import pytest
import torch
from label_cases import LOSS, asked, trained
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from captum_tracinwe import TracInWE, suspects
from captum_tracinwe.words import tokenize

COUNT = 3
NAMES = ("speaks_for", "speaks_against")


@pytest.fixture(scope="module")
def texts():
    """The CNN's texts, of which some stand there twice, one word changed."""
    ids, truth, labels, wrong, paths = trained(size=80, share=0.15)
    ids = torch.cat([ids, ids[:20]])
    ids[80:90, -1] = 1
    return ids, torch.cat([labels, labels[:10], (labels[10:20] + 1) % 3]), paths


def beside(found, index):
    return {i for pair in found for i in pair if index in pair} - {index}


def by_hand(tracin, ids, labels, index, doubles, suggested):
    """Of one text: (training index, score) of those for its label, which have it first, and against it, of the suggested one."""
    (scores,) = tracin.influence((ids[index : index + 1], labels[index : index + 1]))
    ranked = [(j, float(scores[j])) for j in torch.argsort(scores, descending=True).tolist()]
    others = [(j, score) for j, score in ranked if j != index and j not in doubles]
    given = int(labels[index])
    against = sorted((one for one in others if one[1] < 0), key=lambda one: (int(labels[one[0]]) != suggested, one[1]))
    for_it = sorted((one for one in others if one[1] > 0), key=lambda one: (int(labels[one[0]]) != given, -one[1]))
    return for_it[:COUNT], against[:COUNT]


def all_doubles(tracin):
    from captum_tracinwe.labels.said import occurrences_of
    from captum_tracinwe.words.near import doubles_of, same_words

    words = occurrences_of(tracin)
    return [*doubles_of(words), *(pair for group in same_words(words) for pair in combinations(group, 2))]


@pytest.mark.parametrize("options", [{}, {"preconditioner": "auto"}, {"batch_size": 7, "memory_limit": 20_000}])
def test_the_witnesses_are_those_of_influence(texts, options):
    ids, labels, paths = texts
    tracin = asked(ids, labels, paths, **options)
    near = all_doubles(tracin)
    found = suspects(tracin, limit=12, witnesses=COUNT)
    assert any(beside(near, one.index) for one in found.first)
    for one in found.first:
        expected = by_hand(tracin, ids, labels, one.index, beside(near, one.index), int(one.suggested))
        for name, side in zip(NAMES, expected, strict=True):
            said = getattr(one.reasons, name)
            assert [pair.train_index for pair in said] == [j for j, _ in side]
            assert [pair.score for pair in said] == pytest.approx([score for _, score in side], rel=1e-4)
            assert {pair.test_index for pair in said} == {one.index}


def test_the_words_are_those_of_word_influence(texts):
    ids, labels, paths = texts
    tracin = asked(ids, labels, paths)
    found = suspects(tracin, limit=5)
    for one in found.first:
        for name in NAMES:
            said = getattr(one.reasons, name)
            inputs = (ids[one.index : one.index + 1], labels[one.index : one.index + 1])
            (expected,) = tracin.word_influence(inputs, [[pair.train_index for pair in said]])
            for mine, theirs in zip(said, expected, strict=True):
                assert mine.token_ids.tolist() == theirs.token_ids.tolist()
                torch.testing.assert_close(mine.token_shares, theirs.token_shares)


def test_an_index_gives_the_same_reasons_as_the_run(texts, tmp_path):
    ids, labels, paths = texts
    live = asked(ids, labels, paths)
    live.build_index(tmp_path / "index")
    stored = asked(ids, labels, paths, index=tmp_path / "index")
    by_run, by_index = suspects(live, limit=8), suspects(stored, limit=8)
    assert by_index.order == by_run.order
    assert by_index.suspicions == by_run.suspicions
    for one, other in zip(by_run.first, by_index.first, strict=True):
        for name in NAMES:
            mine, theirs = getattr(one.reasons, name), getattr(other.reasons, name)
            assert [pair.train_index for pair in mine] == [pair.train_index for pair in theirs]
            assert [pair.score for pair in mine] == pytest.approx([pair.score for pair in theirs], rel=1e-4)


def test_from_an_index_no_gradient_is_computed_for_the_reasons(texts, tmp_path, monkeypatch):
    ids, labels, paths = texts
    asked(ids, labels, paths, preconditioner="auto").build_index(tmp_path / "index")
    tracin = asked(ids, labels, paths, preconditioner="auto", index=tmp_path / "index")
    batches = []
    monkeypatch.setattr(type(tracin.live), "rows", lambda *given: batches.append(given))
    assert all(one.reasons.speaks_for or one.reasons.speaks_against for one in suspects(tracin, limit=5).first)
    assert batches == []


def test_where_test_texts_have_a_loss_of_their_own_suspects_are_asked_by_it(texts, tmp_path):
    ids, labels, paths = texts
    twice = torch.nn.CrossEntropyLoss(reduction="none", label_smoothing=0.3)
    asked(ids, labels, paths).build_index(tmp_path / "index")
    tracin = asked(ids, labels, paths, index=tmp_path / "index", test_loss_fn=twice)
    near = all_doubles(tracin)
    for one in suspects(tracin, limit=4, witnesses=COUNT).first:
        expected = by_hand(tracin, ids, labels, one.index, beside(near, one.index), int(one.suggested))
        for name, side in zip(NAMES, expected, strict=True):
            said = [(pair.train_index, pair.score) for pair in getattr(one.reasons, name)]
            assert [j for j, _ in said] == [j for j, _ in side]
            assert [score for _, score in said] == pytest.approx([score for _, score in side], rel=1e-4)


def test_an_index_without_its_training_set_says_what_is_missing(texts, tmp_path):
    ids, labels, paths = texts
    live = asked(ids, labels, paths)
    live.build_index(tmp_path / "index")
    alone = TracInWE(live.model, None, paths, loss_fn=LOSS, index=tmp_path / "index")
    with pytest.raises(ValueError, match=r"train_dataset is None.*suspects"):
        suspects(alone)


class Stream(IterableDataset):
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        yield from (self.data[i] for i in range(len(self.data)))


class Backwards(torch.utils.data.SequentialSampler):
    def __iter__(self):
        return reversed(range(len(self.data_source)))


@pytest.mark.parametrize("how", ["stream", "own order"])
def test_of_a_stream_and_of_a_loader_with_an_order_of_its_own(texts, how):
    ids, labels, paths = texts
    data = TensorDataset(ids, labels)
    expected = suspects(asked(ids, labels, paths), limit=6)
    plain = asked(ids, labels, paths)
    train = Stream(data) if how == "stream" else DataLoader(data, 32, sampler=Backwards(data))
    options = {"batch_size": 32 if how == "stream" else None}
    found = suspects(TracInWE(plain.model, train, paths, loss_fn=LOSS, **options), limit=6)
    assert found.order == expected.order
    for one, other in zip(found.first, expected.first, strict=True):
        for name in NAMES:
            pairs = [getattr(which.reasons, name) for which in (one, other)]
            assert [p.train_index for p in pairs[0]] == [p.train_index for p in pairs[1]]
            assert [p.score for p in pairs[0]] == pytest.approx([p.score for p in pairs[1]], rel=1e-4)


def test_fewer_texts_than_witnesses_and_none_asked_for():
    ids, _, labels, _, paths = trained(size=40, share=0.1)
    tracin = asked(ids, labels, paths)
    many = suspects(tracin, limit=2, witnesses=100).first[0].reasons
    assert 0 < len(many.speaks_for) + len(many.speaks_against) <= 39
    assert all(pair.score > 0 for pair in many.speaks_for)
    assert all(pair.score < 0 for pair in many.speaks_against)
    none = suspects(tracin, limit=2, witnesses=0)
    assert all(not one.reasons.speaks_for and not one.reasons.speaks_against for one in none.first)
    assert suspects(tracin, limit=0).first == ()


def test_words_are_shown_of_the_texts_that_are_given():
    tokenizers = pytest.importorskip("tokenizers")
    ids, _, labels, _, paths = trained(size=80, share=0.15)
    words = {f"w{i}": i for i in range(90)} | {"[UNK]": 90}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    texts = tokenize([" ".join(f"w{i}" for i in row) for row in ids.tolist()], fast)
    found = suspects(asked(ids, labels, paths), texts=texts, limit=3)
    first = found.first[0]
    assert first.text is texts[first.index]
    said = first.words(against=True, count=4)
    assert said
    assert all(word.text in first.text.text.split() and word.share < 0 for word in said)
    assert [word.share for word in said] == sorted(word.share for word in said)
    total = {}
    for pair in first.reasons.speaks_against:
        for token, share in zip(pair.token_ids.tolist(), pair.token_shares.tolist(), strict=True):
            total[f"w{token}"] = total.get(f"w{token}", 0) + share
    assert said[0].share == pytest.approx(total[said[0].text], rel=1e-4)
    table = found.to_table()
    assert table["text"][0] == first.text.text
    assert table["words_against"][0].split()[0] == said[0].text
    assert table["text"][3] == texts[found.order[3]].text
    assert table["words_against"][3] == ""
