"""Kind A, further: who made a batch, later checkpoints, texts of one length, and batches of one."""

import copy
import warnings

import pytest
import torch
from cases import cross_entropy
from loops import alone, assert_close, looped
from torch import nn
from torch.nn.functional import cross_entropy as entropy
from torch.nn.functional import dropout, normalize
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader
from torch.utils.data.datapipes.iter import IterableWrapper

from captum_tracinwe import TracInWE, save_checkpoint
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints
from captum_tracinwe.gradients.probe import Probes

SEVERAL = 0.2


def texts(count, seed, shortest=3, longest=9, ids=12):
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        length = int(torch.randint(shortest, longest + 1, (1,), generator=generator))
        words = torch.randint(1, ids, (length,), generator=generator).tolist()
        found.append({"input_ids": words, "labels": int(torch.randint(0, 3, (1,), generator=generator))})
    return found


def filled(examples):
    ids = pad_sequence([torch.tensor(one["input_ids"]) for one in examples], batch_first=True)
    return {"input_ids": ids, "labels": torch.tensor([one["labels"] for one in examples])}


def from_long_to_short(examples):
    return filled(sorted(examples, key=lambda one: -len(one["input_ids"])))


class Mean(nn.Module):
    """A mean over words, without padding, and two layers; what is done to it is told by its subclass."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(30, 6, padding_idx=0)
        self.middle, self.out = nn.Linear(6, 5), nn.Linear(5, 3)

    def hidden(self, ids):
        kept = (ids != 0).float()[..., None]
        return (torch.tanh(self.middle(self.words(ids))) * kept).sum(1) / kept.sum(1)

    def forward(self, input_ids):
        return self.out(self.hidden(input_ids))


def plain(model, one):
    return cross_entropy()(model(one["input_ids"]), one["labels"]).sum()


def of_own_loss(model, one):
    return model(**one)["loss"]


def expected_of(model, checkpoints, test, train, loss=plain):
    table = next(one for one in model.modules() if isinstance(one, nn.Embedding))
    sides = ([alone({key: value for key, value in one.items()}) for one in side] for side in (test, train))
    return looped(model, table, checkpoints, loss, *sides, padding_idx=0)


def asked(model, train, test, checkpoints, loss_fn, batch_size=4, said=None):
    tracin = TracInWE(model, train, checkpoints, loss_fn=loss_fn, batch_size=batch_size)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        found = tracin.influence(test)
    words = " ".join(str(one.message) for one in heard)
    assert (said in words) if said else not heard, words
    return found


# ------------------------------------------------------------------------------------------- who made the batch


@pytest.mark.parametrize("loader", ["sorting", "in order"])
def test_a_loader_that_sorts_is_seen_after_a_plain_question(loader, tmp_path):
    torch.manual_seed(0)
    model, train = Mean().eval(), texts(20, 0)
    checkpoints = scatter_checkpoints(model, tmp_path)
    tracin = TracInWE(model, train, checkpoints, loss_fn=cross_entropy(), batch_size=4)
    tracin.influence(train[:4])
    collate_fn = from_long_to_short if loader == "sorting" else filled
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = tracin.influence(DataLoader(train, 4, collate_fn=collate_fn))
    assert any("sorts its batch" in str(one.message) for one in said) == (loader == "sorting")
    assert_close(found, expected_of(model, checkpoints, train, train))


@pytest.mark.parametrize("pad", [0, 7])  # by torch's own number, and by one that only the embedding names
def test_texts_of_many_lengths_are_seen_after_some_of_one_length(pad, tmp_path):
    torch.manual_seed(0)
    model = TinyCNN(padding_idx=pad).eval()
    train = [{**one, "input_ids": [i + 10 for i in one["input_ids"]]} for one in texts(20, 0, 5, 5)]
    test = [{**one, "input_ids": [i + 10 for i in one["input_ids"]]} for one in texts(8, 7)]
    train[0]["input_ids"][-2:] = [12, 12]  # ends as if it were filled up
    checkpoints = scatter_checkpoints(model, tmp_path)
    tracin = TracInWE(model, train, checkpoints, loss_fn=cross_entropy(), batch_size=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracin.influence(train[:4])
    with pytest.warns(UserWarning, match="differ from those of each text alone"):
        found = tracin.influence(test)
    sides = ([alone(one) for one in side] for side in (test, train))
    assert_close(found, looped(model, model.embedding, checkpoints, plain, *sides, padding_idx=pad))


def test_what_was_found_of_a_loss_is_not_taken_for_that_of_another_at_its_place_in_memory():
    class Passes:
        model, checkpoint, fills = Mean(), "one", frozenset({0})

    batch, probes = (torch.tensor([[1, 2]]), torch.tensor([0])), Probes(wanted=True)
    keys = set()
    for _ in range(20):
        loss = cross_entropy()
        with pytest.raises(AttributeError):  # it is tried anew each time
            probes.of(Passes, batch, probes.whose("test", loss, "one", None), 0, None)
        keys.add(id(loss))
        del loss
    assert len(keys) < 20  # numbers do come again


# ------------------------------------------------------------------------------------------- later checkpoints


class Gated(Mean):
    """Sees padding by as much as its gate is open."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Parameter(torch.ones(()))

    def hidden(self, ids):
        return super().hidden(ids) + self.gate * torch.tanh(self.middle(self.words(ids))).mean(1)


class Weighing(Mean):
    """Its class weights are a buffer, which a schedule sets."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weights", torch.ones(3))

    def forward(self, input_ids, labels=None):
        logits = super().forward(input_ids)
        return {"loss": entropy(logits, labels, weight=self.weights), "logits": logits}


def two_checkpoints(model, folder, changes):
    generator, paths = torch.Generator().manual_seed(3), []
    moved = copy.deepcopy(model)
    for number, change in enumerate(changes):
        with torch.no_grad():
            for parameter in moved.parameters():
                parameter.add_(SEVERAL * torch.randn(parameter.shape, generator=generator))
            at = copy.deepcopy(moved)
            change(at)
        paths.append(folder / f"step-{number}.pt")
        save_checkpoint(paths[-1], at, 0.1)
    return paths


@pytest.mark.parametrize("shut", [0, 1])
@pytest.mark.parametrize("name", ["gate", "out.weight"])
def test_padding_that_is_seen_at_one_checkpoint_only_does_not_count(name, shut, tmp_path):
    torch.manual_seed(0)
    model, train = Gated().eval(), texts(20, 0)
    changes = [lambda at: at.get_parameter(name).zero_(), lambda at: None]
    checkpoints = two_checkpoints(model, tmp_path, changes[:: 1 if shut == 0 else -1])
    expected = expected_of(model, checkpoints, train[:3], train)
    assert_close(asked(model, train, train[:3], checkpoints, cross_entropy(), said="text"), expected)
    tracin = TracInWE(model, train, checkpoints, loss_fn=cross_entropy(), batch_size=4)
    with pytest.warns(UserWarning, match="differ from those of each text alone"):
        tracin.build_index(tmp_path / "index")  # rows of two checkpoints stand side by side
    stored = TracInWE(model, train, checkpoints, loss_fn=cross_entropy(), batch_size=4, index=tmp_path / "index")
    with pytest.warns(UserWarning, match="differ from those of each text alone"):
        found = stored.influence(train[:3])
    assert_close(found, expected, 1e-3)


def test_class_weights_that_come_later_are_refused(tmp_path):
    torch.manual_seed(0)
    model = Weighing().eval()
    late = [lambda at: None, lambda at: at.weights.copy_(torch.tensor([0.2, 1.0, 4.0]))]
    train, checkpoints = texts(20, 0), two_checkpoints(model, tmp_path, late)
    with pytest.raises(ValueError, match=r"model's own loss.*has class weights"):
        TracInWE(model, train, checkpoints, batch_size=4).influence(train[:3])
    found = asked(model, train, train[:3], checkpoints[:1], None)
    assert_close(found, expected_of(model, checkpoints[:1], train[:3], train, of_own_loss))


# ------------------------------------------------------------------------------------------- texts of one length


class Divided(Mean):
    def forward(self, input_ids):
        return super().forward(input_ids) * 3 / len(input_ids)


class Rounded(Mean):
    """Activations of four bits, by one scale for the batch, straight through."""

    def hidden(self, ids):
        hidden = super().hidden(ids)
        step = hidden.detach().abs().amax() / 3
        return hidden + ((hidden / step).round() * step - hidden).detach()


class Remembering(Mean):
    """Each text sees those before it."""

    def hidden(self, ids):
        hidden = super().hidden(ids)
        return hidden + 0.3 * torch.cat([hidden.new_zeros(1, 5), hidden.cumsum(0)[:-1]])


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", [Divided, Rounded, Remembering])
def test_texts_of_one_length_are_taken_together_only_where_that_was_tried(kind, seed, tmp_path):
    torch.manual_seed(seed)
    model, train = kind().eval(), texts(64, seed, 3, 20)
    checkpoints = scatter_checkpoints(model, tmp_path, scale=SEVERAL)
    found = asked(model, train, train[:3], checkpoints, cross_entropy(), 16, "each text is taken alone")
    assert_close(found, expected_of(model, checkpoints, train[:3], train))


# ------------------------------------------------------------------------------------------- whose words are whose


class Sorted(nn.Module):
    """The tutorial's model, which sorts its batch and puts its answers back."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(30, 6, padding_idx=0)
        self.gru, self.out = nn.GRU(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, input_ids):
        lengths = (input_ids != 0).sum(1)
        order = lengths.argsort(descending=True)
        words = pack_padded_sequence(self.words(input_ids[order]), lengths[order], batch_first=True)
        return self.out(self.gru(words)[1][-1][order.argsort()])


class Flat(Mean):
    """Looks all words of a batch up in a row."""

    def hidden(self, ids):
        kept = ids != 0
        text = torch.arange(len(ids))[:, None].expand_as(ids)[kept]
        return torch.zeros(len(ids), 5).index_add(0, text, torch.tanh(self.middle(self.words(ids[kept]))))


class OneByOne(Mean):
    def hidden(self, ids):
        return torch.stack([torch.tanh(self.middle(self.words(one[one != 0]))).mean(0) for one in ids])


class InParts(Mean):
    def forward(self, input_ids):
        return torch.cat([super(InParts, self).forward(part) for part in input_ids.split(3)])


class Alphabetical(Mean):
    """Computes equal texts once, in the order of their ids, which may be that of the batch."""

    def forward(self, input_ids):
        once, which = input_ids.unique(dim=0, return_inverse=True)
        return super().forward(once)[which]


@pytest.mark.parametrize("kind", [Sorted, Flat, OneByOne, InParts, Alphabetical])
def test_where_nobody_can_tell_whose_words_are_whose_each_text_is_taken_alone(kind, tmp_path):
    torch.manual_seed(0)
    model, train = kind().eval(), texts(16, 0)
    checkpoints = scatter_checkpoints(model, tmp_path)
    found = asked(model, train, train[:5], checkpoints, cross_entropy(), 5, "each text is taken alone")
    expected = expected_of(model, checkpoints, train[:5], train)
    assert_close(found, expected)
    assert_close(asked(model, train, train[:5], checkpoints, cross_entropy(), 1), expected)


# ------------------------------------------------------------------------------------------- batches of one


def contrastive(answers, labels):
    answers = normalize(answers, dim=1)
    return entropy(answers @ answers.T / 0.5, torch.arange(len(labels)))


def supervised_contrastive(answers, labels):
    answers, others = normalize(answers, dim=1), ~torch.eye(len(labels), dtype=torch.bool)
    logs = (answers @ answers.T / 0.5).masked_fill(~others, -1e9).log_softmax(1)
    pairs = (labels[:, None] == labels) & others
    return -(logs * pairs).sum(1) / pairs.sum(1).clamp_min(1)


class Centred(Mean):
    def hidden(self, ids):
        return super().hidden(ids) - super().hidden(ids).mean(0)


@pytest.mark.parametrize(
    ("kind", "loss"),
    [(Mean, contrastive), (Mean, supervised_contrastive), (Centred, cross_entropy())],
)
def test_a_batch_of_one_that_leaves_nothing_of_the_loss_is_refused(kind, loss, tmp_path):
    torch.manual_seed(0)
    model, train = kind().eval(), texts(12, 0)
    tracin = TracInWE(model, train, scatter_checkpoints(model, tmp_path), loss_fn=loss)
    with pytest.raises(ValueError, match="couples the examples of a batch|alone has no gradient, in a batch of"):
        tracin.influence(train[:4])


class Dropping(Mean):
    def hidden(self, ids):
        return dropout(super().hidden(ids), 0.2)


class Noisy(Mean):
    def hidden(self, ids):
        hidden = super().hidden(ids)
        return hidden + 0.1 * torch.randn_like(hidden)


class Remembered(Mean):
    def hidden(self, ids):
        self.__dict__["seen"] = self.__dict__.get("seen", 0) + 1
        return super().hidden(ids) * self.__dict__["seen"]


@pytest.mark.parametrize("kind", [Dropping, Noisy, Remembered])
def test_a_model_that_answers_by_chance_is_refused_in_batches_of_one(kind, tmp_path):
    torch.manual_seed(0)
    model, train = kind().eval(), texts(8, 0)
    tracin = TracInWE(model, train, scatter_checkpoints(model, tmp_path), loss_fn=cross_entropy())
    with pytest.raises((ValueError, RuntimeError), match="other ones when they are computed again|answer as before"):
        tracin.influence(train[:2])


def test_a_head_of_zeros_and_a_text_without_a_gradient_are_no_contrast(tmp_path):
    torch.manual_seed(0)
    model, train = Mean().eval(), texts(8, 0)
    checkpoints = two_checkpoints(model, tmp_path, [lambda at: at.out.weight.zero_(), lambda at: None])
    found = asked(model, train, train[:2], checkpoints, cross_entropy(), 1)
    assert_close(found, expected_of(model, checkpoints, train[:2], train))


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, examples):
        self.examples, self.read = examples, 0

    def __iter__(self):
        for example in self.examples:
            self.read += 1
            yield example


@pytest.mark.parametrize("pad", [0, None])
def test_a_stream_whose_first_batches_are_even_is_refused_at_the_first_that_is_filled_up(pad, tmp_path):
    model = TinyCNN(padding_idx=pad)
    paths = scatter_checkpoints(model, tmp_path)
    examples = [*texts(4, 1, 6, 6), *texts(4, 2, 3, 9)]
    tracin = TracInWE(model, Stream(examples), paths, loss_fn=cross_entropy(), batch_size=2, collate_fn=filled)
    with pytest.raises(ValueError, match="a stream cannot be read text by text"):
        tracin.influence(filled(texts(1, 3)))


def test_a_stream_of_texts_that_end_in_one_word_twice_is_read_once_more_and_no_further(tmp_path):
    model = TinyCNN()
    paths = scatter_checkpoints(model, tmp_path)
    examples = [{**one, "input_ids": [*one["input_ids"][:-1], 7, 7]} for one in texts(24, 1, 6, 6)]
    stream = Stream(examples)
    tracin = TracInWE(model, stream, paths, loss_fn=cross_entropy(), batch_size=2, collate_fn=filled)
    tracin.row_gradients(filled(texts(1, 3)))  # the round trip has been made
    stream.read = 0
    found = tracin.influence(filled(texts(2, 4)))
    assert stream.read <= (2 + 2 * len(paths)) * len(examples)
    of_list = TracInWE(model, examples, paths, loss_fn=cross_entropy(), batch_size=2, collate_fn=filled)
    assert torch.equal(found, of_list.influence(filled(texts(2, 4))))


def test_a_pipe_that_has_one_reader_at_a_time_is_read_beside_it(tmp_path):
    model = TinyCNN()
    paths = scatter_checkpoints(model, tmp_path)
    examples = [{**one, "input_ids": [*one["input_ids"][:-1], 7, 7]} for one in texts(12, 1, 6, 6)]
    options = {"loss_fn": cross_entropy(), "batch_size": 2, "collate_fn": filled}
    pipe = IterableWrapper(examples, deepcopy=False).map(dict)
    found = TracInWE(model, pipe, paths, memory_limit=100, **options).influence(filled(texts(2, 4)))
    torch.testing.assert_close(found, TracInWE(model, examples, paths, **options).influence(filled(texts(2, 4))))


def test_a_stream_is_tried_in_several_batches_for_one_may_hide_its_padding(tmp_path):
    torch.manual_seed(0)
    model = TinyCNN()
    paths = scatter_checkpoints(model, tmp_path)
    one = texts(1, 1, 9, 9)[0]
    hidden = {**one, "input_ids": [*one["input_ids"][:-1], 5]}  # of one length: nothing is filled up
    examples = [one, hidden, *texts(2, 3, 3, 9), *texts(2, 8, 3, 4)]
    tracin = TracInWE(model, Stream(examples), paths, loss_fn=cross_entropy(), batch_size=2, collate_fn=filled)
    with pytest.raises(ValueError, match="a stream cannot be read text by text"):
        tracin.influence(filled(texts(1, 3)))


def test_a_stream_whose_collator_draws_at_random_is_warned_of_and_not_taken_for_one_in_which_texts_meet(tmp_path):
    def replacing(examples):
        batch = filled(examples)
        batch["input_ids"][:, 0] = torch.randint(1, 12, (len(examples),))
        return batch

    model = TinyCNN(padding_idx=0)
    paths = scatter_checkpoints(model, tmp_path)
    with pytest.warns(UserWarning, match="makes another batch of the same examples each time"):
        tracin = TracInWE(
            model, Stream(texts(6, 1, 6, 6)), paths, loss_fn=cross_entropy(), batch_size=2, collate_fn=replacing
        )
    assert tracin.influence(filled(texts(1, 3))).shape == (1, 6)
