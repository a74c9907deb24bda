"""Kind F: look-ups of the table that are not of the texts' words have no part in any score, and that is said once."""

import warnings

import numpy as np
import pytest
import torch
from captum_tracinwe.losses import TokenLoss
from one_by_one import LOSS, V, assert_near, checkpoints, explained, scores_one_by_one, texts
from torch import nn
from torch.nn import functional

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import TinyCNN, language_model_loss, tiny_gpt2, tiny_t5
from captum_tracinwe.gradients.live import Asked

BESIDE = "looks up .* that are no words of its texts"
TRAIN, TEST = texts(7, 1), texts(3, 2)
WORDS = torch.tensor([[4, 9], [11, 25], [17, 8]])  # two for each class
pytestmark = pytest.mark.filterwarnings(f"ignore:.*{BESIDE}:UserWarning")


def with_kinds(batch):
    ids, _ = batch
    kinds = (torch.arange(ids.shape[1]) > 4).long() * 29 + torch.zeros_like(ids)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": kinds, "labels": ids}


def not_kinds(ids):
    return not (torch.isin(ids, torch.tensor([0, 29])).all() and ids.shape[-1] > 4)


def test_token_types_that_go_through_gpt2s_table_are_no_words(tmp_path):
    make = lambda: (torch.manual_seed(0), tiny_gpt2())[1]  # noqa: E731
    paths, train, test = checkpoints(make, tmp_path), with_kinds(TRAIN), with_kinds(TEST)
    tracin = explained(make(), paths, train, TokenLoss())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = [tracin.influence(test), tracin.influence(test)]
    assert len([one for one in told if "no words of its texts, such as token_type_ids" in str(one.message)]) == 1
    arguments = paths, lambda m: m.transformer.wte, train, test, language_model_loss
    assert_near(found[0], scores_one_by_one(make, *arguments, counts=not_kinds))
    assert torch.equal(*found)
    # The pass that sees tokens alone leaves out the same.
    (tokens,) = tracin.live.token_blocks(tracin.batches_of(test), Asked(TokenLoss()))
    assert torch.equal(tokens.ids, tracin.row_gradients(test).ids)


class OfATuple(nn.Module):
    """GPT-2's habit in small, as a tuple's model: what an input is called says what it is."""

    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(V, 6), nn.Linear(6, 3)

    def forward(self, ids, segment_ids, position_ids):
        hidden = self.words(ids) + self.words(segment_ids.view(-1, ids.shape[1])) * 2
        return self.out(torch.tanh(hidden * self.words(position_ids)).mean(1))


def test_inputs_of_a_tuple_are_told_by_the_names_that_forward_has(tmp_path):
    make = lambda: (torch.manual_seed(0), OfATuple())[1]  # noqa: E731

    def tupled(batch):
        ids, labels = batch
        return ids, (ids > 9).long() + 3, torch.arange(9).expand(len(ids), -1), labels

    paths, train, test = checkpoints(make, tmp_path), tupled(TRAIN), tupled(TEST)
    plain = torch.cat([train[0], test[0]])
    expected = scores_one_by_one(
        make,
        paths,
        lambda m: m.words,
        train,
        test,
        counts=lambda ids: bool((ids == plain).all(1).any()),
    )
    assert_near(explained(make(), paths, train).influence(test), expected)


# --------------------------------------------------------------------------------------------------------- verbalisers


class Verbaliser(nn.Module):
    """Classes are words: a text's vector against those of the words that stand for each class.

    Args:
        way: how it reads the class words.
        reads: how it gets at the text's words.
    """

    def __init__(self, way, reads=lambda model, ids: ids):
        super().__init__()
        self.table, self.mix = nn.Embedding(V, 6), nn.Linear(6, 6)
        self.register_buffer("class_words", WORDS.clone())
        self.register_buffer("other", torch.arange(V).flip(0))
        self.way, self.reads = way, reads

    def forward(self, ids):
        hidden = torch.tanh(self.mix(self.table(self.reads(self, ids)))).mean(1)
        classes = self.way(self, ids).mean(-2)
        return hidden @ classes.T if classes.dim() == 2 else torch.einsum("nd,nkd->nk", hidden, classes)


READINGS = {
    "a buffer": lambda m, ids: m.table(m.class_words),
    "for each text": lambda m, ids: m.table(m.class_words.expand(len(ids), 3, 2)),
    "a list": lambda m, ids: m.table(torch.tensor(WORDS.tolist())),
    "one after the other": lambda m, ids: torch.stack([m.table(words) for words in m.class_words]),
    "in one row": lambda m, ids: m.table(m.class_words.flatten()).view(3, 2, 6),
    "by functional": lambda m, ids: functional.embedding(m.class_words, m.table.weight),
}


def not_class_words(ids):
    return not torch.isin(ids, WORDS).all() or ids.numel() > 9


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("batch_size", [2, 3])
def test_words_that_stand_for_classes_are_none_of_the_text(reading, batch_size, tmp_path):
    make = lambda: (torch.manual_seed(0), Verbaliser(READINGS[reading]))[1]  # noqa: E731
    paths = checkpoints(make, tmp_path)
    expected = scores_one_by_one(make, paths, lambda m: m.table, TRAIN, TEST, counts=not_class_words)
    with pytest.warns(UserWarning, match=BESIDE):
        found = explained(make(), paths, TRAIN, batch_size=batch_size).influence(TEST)
    assert_near(found, expected)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("given", ["a list", "a buffer", "counted"])
def test_the_same_words_before_every_text_are_none_of_it(given, batch_size, tmp_path):
    class Prompted(TinyCNN):
        def __init__(self):
            super().__init__()
            self.register_buffer("prompt", torch.tensor([3, 4]), persistent=False)

        def forward(self, ids):
            words = {"a list": torch.tensor([3, 4]), "a buffer": self.prompt, "counted": torch.arange(3, 5)}[given]
            return super().forward(ids) + self.embedding(words).mean(0)[:3]

    make = lambda: (torch.manual_seed(0), Prompted())[1]  # noqa: E731
    paths = checkpoints(make, tmp_path)
    expected = scores_one_by_one(make, paths, lambda m: m.embedding, TRAIN, TEST, counts=lambda ids: ids.dim() == 2)
    assert_near(explained(make(), paths, TRAIN, batch_size=batch_size).influence(TEST), expected)


def test_rows_of_the_table_that_are_read_for_classes_are_no_look_up(tmp_path):
    ways = {
        "rows": lambda m, ids: m.table.weight[m.class_words],
        "all": lambda m, ids: m.table.weight[:6].view(3, 2, 6),
        "selected": lambda m, ids: m.table.weight.index_select(0, m.class_words.flatten()).view(3, 2, 6),
        "one by one": lambda m, ids: torch.stack([m.table.weight[i] for i in range(6)]).view(3, 2, 6),
    }
    for name, way in ways.items():
        make = lambda way=way: (torch.manual_seed(0), Verbaliser(way))[1]  # noqa: E731
        (tmp_path / name).mkdir()
        paths = checkpoints(make, tmp_path / name)
        expected = scores_one_by_one(make, paths, lambda m: m.table, TRAIN, TEST)
        assert_near(explained(make(), paths, TRAIN).influence(TEST), expected)
    make = lambda: Verbaliser(lambda m, ids: m.table.weight[ids][:, :6].view(-1, 3, 2, 6))  # noqa: E731
    with pytest.raises(ValueError, match="reads rows of the embedding by __getitem__"):  # of the texts' words
        explained(make(), checkpoints(make, tmp_path), TRAIN).influence(TEST)


def test_the_words_of_its_label_are_none_of_the_text(tmp_path):
    """Class words looked up by the label that a mapping gives to the model."""

    class ByLabel(Verbaliser):
        def forward(self, input_ids, labels):
            hidden = torch.tanh(self.mix(self.table(input_ids))).mean(1)
            own = self.table(self.class_words[labels]).mean(1)
            return torch.stack([hidden[:, 0], (hidden * own).sum(1), hidden[:, 1]], 1)

    make = lambda: (torch.manual_seed(0), ByLabel(None))[1]  # noqa: E731
    paths = checkpoints(make, tmp_path)
    train, test = ({"input_ids": ids, "labels": labels} for ids, labels in (TRAIN, TEST))
    expected = scores_one_by_one(make, paths, lambda m: m.table, train, test, counts=not_class_words)
    assert_near(explained(make(), paths, train).influence(test), expected)


def test_what_the_model_says_itself_is_none_of_the_text(tmp_path):
    """It looks up the words that it finds most likely."""

    class Guessing(Verbaliser):
        def forward(self, ids):
            hidden = torch.tanh(self.mix(self.table(ids))).mean(1)
            guess = (hidden.detach() @ self.table.weight.T)[:, 12:18].topk(3, 1).indices + 12
            return torch.einsum("nd,nkd->nk", hidden, self.table(guess))

    make = lambda: (torch.manual_seed(0), Guessing(None))[1]  # noqa: E731
    paths = checkpoints(make, tmp_path)
    expected = scores_one_by_one(make, paths, lambda m: m.table, TRAIN, TEST, counts=lambda ids: ids.shape[1] == 9)
    assert_near(explained(make(), paths, TRAIN).influence(TEST), expected)


# --------------------------------------------------------------------------- what is made of the texts' ids is the texts'


def through_numpy(model, ids):
    return torch.from_numpy(np.ascontiguousarray(ids.numpy()[:, 1:]))


def with_a_start(model, ids):
    return torch.tensor([[28, *row] for row in ids.tolist()])


def shifted(model, ids):
    moved = ids.new_zeros(ids.shape)
    moved[:, 1:] = ids[:, :-1].clone()
    moved[:, 0] = 28
    return moved


def masked(model, ids):
    return ids.masked_fill(ids < 4, 28)


def packed(model, ids):
    return torch.stack([torch.cat([one[:3], one[5:]]) for one in ids.unbind()])


def written_into_a_part(model, ids):
    moved = torch.full(ids.shape, 28)
    moved[:, 1:].copy_(ids[:, :-1])
    return moved


def row_by_row(model, ids):
    return torch.stack([torch.cat([torch.tensor([28]), row[row > 0]]) for row in ids])


def hot(model, ids):
    return functional.one_hot(ids, V).float().argmax(-1)


MADE = {
    "cut": lambda m, ids: ids[:, 2:],
    "shifted": shifted,
    "written into a part": written_into_a_part,
    "row by row": row_by_row,
    "with a start": with_a_start,
    "started by cat": lambda m, ids: torch.cat([torch.full((len(ids), 1), 28), ids], 1),
    "renumbered": lambda m, ids: m.other[ids],
    "in 32 bits": lambda m, ids: ids.int(),
    "masked": masked,
    "through NumPy": through_numpy,
    "packed": packed,
    "by one-hot": hot,
    "sorted": lambda m, ids: ids.sort(1).values,
    "transposed and back": lambda m, ids: ids.T.contiguous().T,
    "as numbers": lambda m, ids: (ids.float() + 0.1).long(),
}


STARTED = ("written into a part", "row by row", "started by cat")  # a word of the model's own stands before the text's


@pytest.mark.parametrize("made", MADE)
def test_what_is_made_of_the_texts_ids_counts_beside_words_for_classes(made, tmp_path):
    make = lambda: (torch.manual_seed(0), Verbaliser(READINGS["for each text"], MADE[made]))[1]  # noqa: E731
    paths = checkpoints(make, tmp_path)

    def counts(ids):
        own = torch.arange(ids.shape[-1]) > 0 if made in STARTED else torch.tensor(True)
        return own.expand(ids.shape) & (ids.shape[1:] != (3, 2))

    expected = scores_one_by_one(make, paths, lambda m: m.table, TRAIN, TEST, counts=counts)
    assert_near(explained(make(), paths, TRAIN, batch_size=2).influence(TEST), expected)


def test_both_texts_of_a_pair_count_beside_words_for_classes(tmp_path):
    class Pairs(Verbaliser):
        def forward(self, ids):
            first, second = ids.split([4, 5], 1)
            classes = self.table(self.class_words.expand(len(ids), 3, 2)).mean(2)
            hidden = torch.tanh(self.mix(self.table(first).mean(1) * self.table(second).mean(1)))
            return torch.einsum("nd,nkd->nk", hidden, classes)

    make = lambda: (torch.manual_seed(0), Pairs(None))[1]  # noqa: E731
    paths = checkpoints(make, tmp_path)
    expected = scores_one_by_one(make, paths, lambda m: m.table, TRAIN, TEST, counts=lambda ids: ids.dim() == 2)
    assert_near(explained(make(), paths, TRAIN).influence(TEST), expected)


def test_words_of_bags_count_beside_words_for_classes(tmp_path):
    class Bags(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag, self.mix = nn.EmbeddingBag(V, 6, mode="sum"), nn.Linear(6, 6)
            self.register_buffer("class_words", WORDS.clone())

        def forward(self, ids, offsets):
            return torch.tanh(self.mix(self.bag(ids, offsets))) @ self.bag(self.class_words).T

    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag, self.mix = nn.Embedding(V, 6), nn.Linear(6, 6)

        def forward(self, ids):
            return torch.tanh(self.mix(self.bag(ids).sum(1))) @ functional.embedding(WORDS, self.bag.weight).sum(1).T

    paths = checkpoints(Bags, tmp_path)
    expected = scores_one_by_one(Single, paths, lambda m: m.bag, TRAIN, TEST)

    def in_a_row(batch):
        return batch[0].flatten(), torch.arange(0, batch[0].numel(), 9), batch[1]

    loader = torch.utils.data.DataLoader([in_a_row(TRAIN)], batch_size=None)
    with pytest.warns(UserWarning, match=BESIDE):
        found = TracInWE(Bags(), loader, paths, loss_fn=LOSS).influence(in_a_row(TEST))
    assert_near(found, expected)


@pytest.mark.parametrize("given", ["labels", "decoder_input_ids"])
def test_what_a_decoder_reads_counts_and_kinds_of_token_do_not(given, tmp_path):
    """Its inputs are made of the labels, or given; a prompt of fixed words before the text is none of it."""

    class Prompted(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny_t5()

        def get_input_embeddings(self):
            return self.inner.shared

        def forward(self, input_ids, labels=None, decoder_input_ids=None):
            start = self.inner.shared(torch.tensor([[5, 6, 7]])).expand(len(input_ids), -1, -1)
            hidden = torch.cat([start, self.inner.shared(input_ids)], 1)
            if decoder_input_ids is None:
                decoder_input_ids = self.inner._shift_right(labels)
            return self.inner(inputs_embeds=hidden, decoder_input_ids=decoder_input_ids).logits

    def batched(batch):
        ids = batch[0]
        words = {"input_ids": ids, "labels": ids.flip(1)}
        return words | ({} if given == "labels" else {"decoder_input_ids": ids.flip(1).roll(1, 1)})

    def loss(logits, labels):
        return functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1)

    make = lambda: (torch.manual_seed(0), Prompted())[1]  # noqa: E731
    paths, train, test = checkpoints(make, tmp_path), batched(TRAIN), batched(TEST)

    class Hooked(Prompted):
        """One module for all look-ups, where the loop's hook can be."""

        def __init__(self):
            super().__init__()
            self.inner.encoder.embed_tokens = self.inner.decoder.embed_tokens = self.inner.shared

    hooked = lambda: (torch.manual_seed(0), Hooked())[1]  # noqa: E731
    expected = scores_one_by_one(
        hooked, paths, lambda m: m.inner.shared, train, test, loss, counts=lambda ids: ids.shape[1] > 3
    )
    assert_near(explained(make(), paths, train, loss).influence(test), expected)


def test_a_model_whose_only_look_up_is_of_other_ids_counts_it(tmp_path):
    """It hashes words into ids of its own, where nobody can follow: they are all there is."""

    class Hashing(TinyCNN):
        def forward(self, ids):
            return super().forward(torch.tensor([[1 + (7 * word) % 3 for word in row] for row in ids.tolist()]))

    make = lambda: (torch.manual_seed(0), Hashing())[1]  # noqa: E731
    paths = checkpoints(make, tmp_path)
    expected = scores_one_by_one(make, paths, lambda m: m.embedding, TRAIN, TEST)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert_near(explained(make(), paths, TRAIN).influence(TEST), expected)
