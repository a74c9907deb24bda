"""Kind F: words that a model joins to its texts' in one look-up have no part in a score, nor has a column of no words."""

import warnings

import pytest
import torch
from one_by_one import LOSS, V, assert_near, checkpoints, explained, scores_one_by_one, texts
from torch import nn
from torch.nn import functional

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import TinyCNN
from captum_tracinwe.gradients.live import Asked

BESIDE = "looks up .* that are no words of its texts"
TRAIN, TEST = texts(7, 1), texts(3, 2)
pytestmark = pytest.mark.filterwarnings(f"ignore:.*{BESIDE}:UserWarning")
PROMPT = torch.tensor([7, 8])


def prompt(ids):
    return torch.tensor([[7, 8]]).expand(len(ids), 2)


def written(ids):
    made = ids.new_zeros((len(ids), 11))
    made[:, :2] = prompt(ids)
    made[:, 2:] = ids
    return made


def written_after(ids):
    made = torch.zeros((len(ids), 11), dtype=torch.int64)
    made[:, 2:].copy_(ids)
    made[:, :2].copy_(prompt(ids))
    return made


def overwritten(ids):
    made = torch.cat([ids[:, :2], ids], 1).clone()
    made[:, :2] = prompt(ids)
    return made


def scattered(ids):
    made = torch.full((len(ids), 11), 8).scatter_(1, torch.arange(2, 11).expand_as(ids), ids)
    made[:, 0] = 7  # where words are, a number that is written counts
    return made[:, 1:]


# How a model joins its own words to the text's, and how many of them stand before and behind.
JOINED = {
    "before": (lambda m, ids: torch.cat([prompt(ids), ids], 1), 2, 0),
    "of a buffer, behind": (lambda m, ids: torch.cat([ids, m.words.expand(len(ids), -1)], -1), 0, 2),
    "on both sides": (lambda m, ids: torch.hstack([prompt(ids), ids, prompt(ids).flip(1)]), 2, 2),
    "by pad": (lambda m, ids: functional.pad(ids, (1, 0), value=7), 1, 0),
    "by pad, as a module": (lambda m, ids: nn.ConstantPad1d((0, 2), 7)(ids), 0, 2),
    "then turned and back": (lambda m, ids: torch.cat([prompt(ids), ids], 1).T.contiguous().t(), 2, 0),
    "then gathered": (lambda m, ids: torch.cat([ids, prompt(ids)], 1).index_select(1, torch.arange(11).roll(2)), 2, 0),
    "then shifted": (lambda m, ids: torch.cat([prompt(ids), ids], 1).roll(1, 1)[:, 1:], 2, 0),
    "then masked": (lambda m, ids: torch.cat([prompt(ids), ids], 1).masked_fill(torch.arange(11) == 5, 28), 2, 0),
    "then renumbered": (lambda m, ids: m.other[torch.cat([prompt(ids), ids], 1)], 2, 0),
    "then in 32 bits": (lambda m, ids: (torch.cat([prompt(ids), ids], 1) + 1).int() - 1, 2, 0),
    "row by row": (lambda m, ids: torch.stack([torch.cat([PROMPT, row]) for row in ids]), 2, 0),
    "written": (lambda m, ids: written(ids), 2, 0),
    "written after": (lambda m, ids: written_after(ids), 2, 0),
    "written over": (lambda m, ids: overwritten(ids), 2, 0),
    "scattered": (lambda m, ids: scattered(ids), 1, 0),
}


class Joining(TinyCNN):
    def __init__(self, way):
        super().__init__()
        self.register_buffer("words", PROMPT.clone(), persistent=False)
        self.register_buffer("other", torch.arange(V).flip(0), persistent=False)
        self.way = way

    def forward(self, ids):
        return super().forward(self.way(self, ids))


def own_positions(before, behind):
    def counts(ids):
        places = torch.arange(ids.shape[1])
        return ((places >= before) & (places < ids.shape[1] - behind)).expand(ids.shape)

    return counts


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("joined", JOINED)
def test_words_that_a_model_joins_to_a_text_have_no_part_in_its_scores(joined, batch_size, tmp_path):
    way, before, behind = JOINED[joined]
    make = lambda: (torch.manual_seed(0), Joining(way))[1]  # noqa: E731
    paths = checkpoints(make, tmp_path)
    expected = scores_one_by_one(make, paths, lambda m: m.embedding, TRAIN, TEST, counts=own_positions(before, behind))
    tracin = explained(make(), paths, TRAIN, batch_size=batch_size)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert_near(tracin.influence(TEST), expected)
        tracin.influence(TEST)
    assert len([one for one in told if "no words of its texts" in str(one.message)]) == 1
    (tokens,) = tracin.live.token_blocks(tracin.batches_of(TEST), Asked(LOSS))  # the pass that sees tokens alone
    assert torch.equal(tokens.ids, tracin.row_gradients(TEST).ids)


def test_texts_that_share_only_the_models_own_words_share_nothing(tmp_path):
    make = lambda: (torch.manual_seed(0), Joining(JOINED["before"][0]))[1]  # noqa: E731
    train, test = (
        (torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([0, 1])),
        (torch.tensor([[9, 10, 11]]), torch.tensor([0])),
    )
    tracin = explained(make(), checkpoints(make, tmp_path), train)
    assert tracin.influence(test).tolist() == [[0, 0]]
    (shared,) = tracin.word_influence(test, [[0]])
    assert shared[0].score == 0
    assert explained(make(), tracin.checkpoints, train, table="bag").influence(test).tolist() == [[0, 0]]


def test_a_decoders_start_and_masked_words_are_the_texts(tmp_path):
    """A number that is written beside words of a text, as transformers' shift_tokens_right does."""

    def shifted(model, ids):
        made = ids.new_zeros(ids.shape)
        made[:, 1:] = ids[:, :-1].clone()
        made[:, 0] = 28
        made.masked_fill_(made == 5, 3)
        return made

    make = lambda: (torch.manual_seed(0), Joining(shifted))[1]  # noqa: E731
    paths = checkpoints(make, tmp_path)
    expected = scores_one_by_one(make, paths, lambda m: m.embedding, TRAIN, TEST)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_near(explained(make(), paths, TRAIN).influence(TEST), expected)


# ----------------------------------------------------------------------------------------------------- columns of no words


class ByUser(TinyCNN):
    """Who wrote a text goes through the same table."""

    def forward(self, input_ids, user, labels=None):
        user = user.view(len(user), -1)
        looked = self.embedding(user).mean(1)
        return super().forward(input_ids) + looked[:, :3]


class Apart(nn.Module):
    """The same with a look-up that the loop does not see."""

    def __init__(self):
        super().__init__()
        self.inner = ByUser()
        self.embedding = self.inner.embedding

    def forward(self, input_ids, user, labels=None):
        found = TinyCNN.forward(self.inner, input_ids)
        return found + functional.embedding(user.view(len(user), -1), self.embedding.weight).mean(1)[:, :3]


def with_user(batch, dims):
    ids, labels = batch
    user = 15 + torch.arange(len(ids)) % 3
    return {
        "input_ids": ids,
        "user": user if dims == 1 else user[:, None].expand(-1, dims - 1).clone(),
        "labels": labels,
    }


@pytest.mark.parametrize("form", ["one number", "a column", "a tuple"])
def test_a_number_beside_a_text_is_no_word_of_it(form, tmp_path):
    make = lambda: (torch.manual_seed(0), ByUser())[1]  # noqa: E731
    paths = checkpoints(make, tmp_path)
    train, test = (with_user(batch, 2 if form == "a column" else 1) for batch in (TRAIN, TEST))

    def apart():
        model = Apart()
        model.state_dict = model.inner.state_dict
        model.load_state_dict = model.inner.load_state_dict
        return model

    expected = scores_one_by_one(apart, paths, lambda m: m.embedding, train, test)
    if form == "a tuple":
        train, test = tuple(train.values()), tuple(test.values())
    with pytest.warns(UserWarning, match=BESIDE):
        found = explained(make(), paths, train).influence(test)
    assert_near(found, expected)


def test_ids_beside_input_ids_count_and_that_is_told_once(tmp_path):
    make = lambda: (torch.manual_seed(0), ByUser())[1]  # noqa: E731
    paths, train, test = checkpoints(make, tmp_path), with_user(TRAIN, 3), with_user(TEST, 3)
    expected = scores_one_by_one(make, paths, lambda m: m.embedding, train, test)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        tracin = explained(make(), paths, train)
        assert_near(tracin.influence(test), expected)
        tracin.influence(test)
    said = [str(one.message) for one in told]
    assert len(said) == 1
    assert "looks up the column 'user' in the embedding 'embedding', beside input_ids: it counts as words" in said[0]


def test_a_column_that_is_named_as_kinds_are_is_no_text(tmp_path):
    class Kinds(TinyCNN):
        def forward(self, input_ids, sentence_type_ids, labels=None):
            return super().forward(input_ids) + self.embedding(sentence_type_ids).mean(1)[:, :3]

    make = lambda: (torch.manual_seed(0), Kinds())[1]  # noqa: E731
    paths = checkpoints(make, tmp_path)
    train, test = ({"input_ids": b[0], "sentence_type_ids": 12 + b[0] % 2 * 5, "labels": b[1]} for b in (TRAIN, TEST))
    expected = scores_one_by_one(
        make,
        paths,
        lambda m: m.embedding,
        train,
        test,
        counts=lambda ids: not torch.isin(ids, torch.tensor([12, 17])).all(),
    )
    assert_near(explained(make(), paths, train).influence(test), expected)


@pytest.mark.parametrize("second", [1, 5])
def test_of_two_texts_a_short_one_is_a_text(second, tmp_path):
    """Without a column called input_ids, nobody says which is the text: a text of one word is one."""

    class Pairs(TinyCNN):
        def forward(self, premise, hypothesis, labels=None):
            return super().forward(premise) + self.embedding(hypothesis).mean(1)[:, :3]

    make = lambda: (torch.manual_seed(0), Pairs())[1]  # noqa: E731
    paths = checkpoints(make, tmp_path)
    train, test = ({"premise": b[0], "hypothesis": b[0][:, :second].flip(0), "labels": b[1]} for b in (TRAIN, TEST))
    expected = scores_one_by_one(make, paths, lambda m: m.embedding, train, test)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_near(explained(make(), paths, train).influence(test), expected)


# ------------------------------------------------------------------------------------------------ rows read in other ways


READINGS = {
    "gather": lambda m, ids: torch.gather(m.embedding.weight, 0, ids.flatten()[:, None].expand(-1, 6)),
    "gather, as a method": lambda m, ids: m.embedding.weight.gather(0, ids.reshape(-1, 1).expand(-1, 6)),
    "gather from it turned": lambda m, ids: m.embedding.weight.T.gather(1, ids.reshape(1, -1).expand(6, -1)).T,
    "take": lambda m, ids: m.embedding.weight.take(ids.flatten()[:, None] * 6 + torch.arange(6)),
    "take_along_dim": lambda m, ids: torch.take_along_dim(m.embedding.weight, ids.reshape(-1, 1), 0),
    "index_select": lambda m, ids: torch.index_select(m.embedding.weight, 0, ids.flatten()),
    "__getitem__": lambda m, ids: m.embedding.weight.view(-1)[ids.flatten()[:, None] * 6 + torch.arange(6)],
    "matmul": lambda m, ids: functional.one_hot(ids, V).float() @ m.embedding.weight,
    "einsum": lambda m, ids: torch.einsum(
        "ntv,vd->ntd", functional.one_hot(ids, V).to(torch.float32), m.embedding.weight
    ),
    "mm": lambda m, ids: torch.eye(V)[ids.flatten()].mm(m.embedding.weight),
    "linear": lambda m, ids: functional.linear((ids[..., None] == torch.arange(V)).float(), m.embedding.weight.T),
    "matmul, scattered": lambda m, ids: torch.zeros(*ids.shape, V).scatter_(2, ids[..., None], 1) @ m.embedding.weight,
}


@pytest.mark.parametrize("beside", [True, False], ids=["beside a look-up", "alone"])
@pytest.mark.parametrize("reading", READINGS)
def test_words_rows_that_are_read_in_another_way_are_refused(reading, beside, tmp_path):
    class Reading(TinyCNN):
        def forward(self, ids):
            own = READINGS[reading](self, ids).view(*ids.shape, 6)
            hidden = own + self.embedding(ids) if beside else own
            return self.out(torch.tanh(self.conv(hidden.transpose(1, 2))).amax(2))

    paths = checkpoints(Reading, tmp_path)
    with pytest.raises(
        ValueError, match="reads rows of the embedding by .*: expected look-ups by the nn.Embedding module"
    ):
        explained(Reading(), paths, TRAIN).influence(TEST)


def test_products_with_the_table_that_read_no_words_are_no_look_up(tmp_path):
    """The head of a tied model, classes by fixed words, and a soft choice of words."""

    class Tied(TinyCNN):
        def forward(self, ids):
            table, hidden = self.embedding.weight, self.embedding(ids).mean(1)
            logits = functional.linear(hidden, table)
            fixed = functional.one_hot(torch.tensor([3, 5]), V).float() @ table
            return super().forward(ids) + (logits.softmax(-1) @ table)[:, :3] + hidden @ fixed.mean(0)[:, None]

    make = lambda: (torch.manual_seed(0), Tied())[1]  # noqa: E731
    paths = checkpoints(make, tmp_path)
    expected = scores_one_by_one(make, paths, lambda m: m.embedding, TRAIN, TEST)
    assert_near(
        TracInWE(make(), [*zip(*TRAIN, strict=True)], paths, loss_fn=LOSS, batch_size=3).influence(TEST), expected
    )
