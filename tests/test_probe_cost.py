"""What the probe does once and not many times, and that it sees as much by it."""

import warnings

import numpy as np
import pytest
import torch
from cases import cross_entropy
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, TensorDataset

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, tiny_bert
from captum_tracinwe.batches.training_set import TrainingSet
from captum_tracinwe.checkpoints import weights
from captum_tracinwe.gradients import batch_rows, probe
from captum_tracinwe.gradients.batch_rows import batch_row_gradients
from captum_tracinwe.gradients.embedding import find_embedding
from captum_tracinwe.gradients.live import _Passes
from captum_tracinwe.gradients.tried import chosen_of

# A sample of four: each twice in one batch, and alone, they are twelve.
ROOM = 12


def texts(count=24, least=5, most=9):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(least, most + 1, (count,), generator=generator).tolist()
    words = [torch.randint(2, 30, (length,), generator=generator).tolist() for length in lengths]
    return [{"input_ids": ids, "labels": i % 3} for i, ids in enumerate(words)]


def counted(monkeypatch, owner, name):
    """How often something is called from here on, as the length of a list."""
    calls, function = [], getattr(owner, name)

    def noted(*args, **kwargs):
        calls.append(1)
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, noted)
    return calls


# ------------------------------------------------------------------------------------------------ one backward pass


def test_rows_of_several_batches_by_one_backward_pass_are_those_of_each_by_itself():
    model = tiny_bert()
    table, loss = find_embedding(model), cross_entropy()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    ids = torch.tensor([[5, 6, 5, 7], [8, 9, 0, 0]])
    batches = [
        {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, -100])},  # the second has no target
        {"input_ids": ids[1:, :2], "labels": torch.tensor([1])},
        {"input_ids": ids[:1], "labels": torch.tensor([2])},
    ]
    found = batch_rows.row_gradients_of_each(model, table, batches, loss, exclude=[7])
    start = 0
    for batch in batches:
        expected = batch_row_gradients(model, table, batch, loss, exclude=[7])
        part = found.part(start, start + len(expected))
        start += len(part)
        assert torch.equal(part.ptr, expected.ptr)
        assert torch.equal(part.ids, expected.ids)
        assert torch.equal(part.values, expected.values)
    assert start == len(found)


def test_a_batch_without_a_path_from_its_words_to_its_loss_is_refused_among_others():
    class Deaf(TinyCNN):
        def forward(self, input_ids):
            found = super().forward(input_ids)
            return found if input_ids.shape[1] > 3 else torch.zeros_like(found).requires_grad_()

    model = Deaf()
    batches = [(torch.tensor([[5] * length]), torch.tensor([1])) for length in (4, 3)]
    with pytest.raises(ValueError, match="does not depend on the embedding"):
        batch_rows.row_gradients_of_each(model, find_embedding(model), batches, cross_entropy())


@pytest.mark.parametrize(("batch_size", "calls"), [(ROOM, 1 + 2), (ROOM - 1, 7 + 3)])  # the probe's, and the batches'
def test_where_there_is_room_a_sample_takes_one_backward_pass(batch_size, calls, monkeypatch, tmp_path):
    came = counted(monkeypatch, torch.autograd, "grad")
    model = tiny_bert()
    paths = scatter_checkpoints(model, tmp_path)[:1]
    TracInWE(model, texts(), paths, loss_fn=cross_entropy(), batch_size=batch_size).self_influence()
    assert len(came) == calls


class SeesPadding(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(30, 6, padding_idx=0), nn.Linear(6, 3)

    def forward(self, input_ids):
        return self.out(torch.tanh(self.words(input_ids) + 1).mean(1))


class Sorts(SeesPadding):
    """By the first word; each text's answer comes back to its place."""

    def forward(self, input_ids):
        order = input_ids[:, 0].argsort()
        return super().forward(input_ids[order])[order.argsort()]


class Chance(SeesPadding):
    def forward(self, input_ids):
        return super().forward(input_ids) * (1 + torch.rand(()))


class Reversed(SeesPadding):
    def forward(self, input_ids):
        return super().forward(input_ids.flip(0)).flip(0)


class Halves(SeesPadding):
    """Takes the second half of a batch first."""

    def forward(self, input_ids):
        half = len(input_ids) // 2
        return super().forward(input_ids.roll(half, 0)).roll(-half, 0)


def filled(examples):
    ids = pad_sequence([torch.tensor(one["input_ids"]) for one in examples], batch_first=True)
    return ids, torch.tensor([one["labels"] for one in examples])


def from_long_to_short(examples):
    return filled(sorted(examples, key=lambda one: -len(one["input_ids"])))


FAULTS = {
    "padding": (SeesPadding, filled, 5, "differ from those of each text alone"),
    "the model sorts": (Sorts, filled, 9, "cannot be told|another order|differ from"),
    "the model turns the batch round": (Reversed, filled, 9, "cannot be told|another order|differ from"),
    "the model takes halves": (Halves, filled, 9, "cannot be told|another order|differ from"),
    "the collator sorts": (SeesPadding, from_long_to_short, 5, "sorts its batch"),
    "chance": (Chance, filled, 9, "other ones when they are computed again"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_put_in_on_purpose_is_seen_by_one_backward_pass(fault, monkeypatch, tmp_path):
    kind, collate_fn, least, said = FAULTS[fault]
    came = counted(monkeypatch, _Passes, "rows_of_each")
    torch.manual_seed(0)
    model = kind().eval()
    train = DataLoader(texts(least=least), ROOM, collate_fn=collate_fn)
    tracin = TracInWE(model, train, scatter_checkpoints(model, tmp_path)[:1], loss_fn=cross_entropy())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((UserWarning, ValueError), match=said):
            tracin.self_influence()
    assert came


class InPlace(SeesPadding):
    """Writes into what an earlier pass still needs: one backward pass for several is not to be had."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(1))

    def forward(self, input_ids):
        self.scale.fill_(2.0)
        return super().forward(input_ids) * self.scale


def test_a_model_of_which_several_passes_cannot_wait_for_one_backward_pass_is_tried_one_by_one(monkeypatch, tmp_path):
    came = counted(monkeypatch, _Passes, "rows_of_each")
    torch.manual_seed(0)
    model = InPlace().eval()
    paths = scatter_checkpoints(model, tmp_path)[:1]
    train = TensorDataset(torch.randint(2, 30, (24, 6)), torch.arange(24) % 3)
    found = []
    for probed in (True, False):
        tracin = TracInWE(model, train, paths, loss_fn=cross_entropy(), batch_size=ROOM, probe=probed)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found.append(tracin.self_influence())
        assert {one.way.name for one in tracin.probes.found.values()} == ({"as it is"} if probed else set())
    assert came
    torch.testing.assert_close(*found)


# ------------------------------------------------------------------------------------------------------- the looks


@pytest.mark.parametrize("odd", [0, 1])
def test_what_was_found_of_a_batch_is_asked_for_once_for_all_that_look_like_it(odd, monkeypatch, tmp_path):
    came = counted(monkeypatch, probe.Probes, "of")
    model = tiny_bert()
    data = [{"input_ids": [3 + i % 5, 9, 10, 20 + i % 7], "labels": i % 3} for i in range(80)]
    for place in range(odd):
        data[-place - 1]["input_ids"][-1] = 10  # ends as if it were filled up, which is held against the text alone
    paths = scatter_checkpoints(model, tmp_path)[:2]
    TracInWE(model, data, paths, loss_fn=cross_entropy(), batch_size=2).self_influence()
    assert len(came) == 2 * (1 + odd)  # at each checkpoint, of 40 batches


# --------------------------------------------------------------------------------------------------- the round trip


class Rescales(TinyCNN):
    """Divides its own weights at a pass, past all that counts who writes into them."""

    def forward(self, input_ids):
        self.embedding.weight.data.div_(self.embedding.weight.data.norm())
        return super().forward(input_ids)


class Prepares(TinyCNN):
    """Keeps what it makes of its weights when they are loaded."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.register_load_state_dict_post_hook(lambda module, _: module.prepare())
        self.prepare()

    def prepare(self):
        self.__dict__["total"] = float(self.out.weight.detach().sum())

    def forward(self, input_ids):
        return super().forward(input_ids) * self.__dict__["total"]


@pytest.mark.parametrize("kind", [TinyCNN, Rescales, Prepares])
@pytest.mark.parametrize("training", [False, True])
def test_one_checkpoint_is_read_once_and_is_in_the_model_again_after_the_model_was_asked(
    kind, training, monkeypatch, tmp_path
):
    came = counted(monkeypatch, weights, "read")
    torch.manual_seed(0)
    model = kind(padding_idx=0).train(training)
    paths = scatter_checkpoints(model, tmp_path)[:1]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train = TensorDataset(torch.randint(1, 30, (8, 6)), torch.arange(8) % 3)
    found = []
    for probed in (True, False):
        came.clear()
        tracin = TracInWE(model, train, paths, loss_fn=cross_entropy(), batch_size=4, probe=probed)
        found.append(tracin.self_influence())
        assert len(came) == 1
        assert tracin.probes.came_back is probed
    torch.testing.assert_close(*found)
    assert model.training is training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def keeps_what_it_saw():
    seen = []

    class Drifting(TinyCNN):
        """Its answer changes once a checkpoint was in it, by what no attribute holds."""

        def forward(self, input_ids):
            norm = float(self.embedding.weight.detach().norm())
            seen.extend([] if norm in seen else [norm])
            return super().forward(input_ids) * len(seen)

    return Drifting(padding_idx=0).eval()


def test_a_model_that_does_not_come_back_from_its_only_checkpoint_is_told_before_the_first_batch(tmp_path):
    model, sizes = keeps_what_it_saw(), []
    model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    train = TensorDataset(torch.randint(1, 30, (14, 6)), torch.arange(14) % 3)
    paths = scatter_checkpoints(model, tmp_path)[:1]
    tracin = TracInWE(model, train, paths, loss_fn=cross_entropy(), batch_size=7)
    with pytest.raises(RuntimeError, match="does not answer as before"):
        tracin.self_influence()
    assert 7 not in sizes  # the probe takes four
    assert tracin.probes.trip is None


def test_a_run_that_was_not_ended_is_forgotten_by_the_next(monkeypatch, tmp_path):
    model = TinyCNN(padding_idx=0).eval()
    train = TensorDataset(torch.randint(1, 30, (8, 6)), torch.arange(8) % 3)
    paths = scatter_checkpoints(model, tmp_path)[:1]
    tracin = TracInWE(model, train, paths, loss_fn=cross_entropy(), batch_size=4)
    with monkeypatch.context() as broken:
        broken.setattr(probe.Probes, "of", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tracin.self_influence()
    assert tracin.probes.trip is not None
    with torch.no_grad():
        model.out.weight.mul_(3)  # as by training on
    tracin.self_influence(outer_loop_by_checkpoints=True)
    tracin.self_influence()
    assert tracin.probes.came_back


# ------------------------------------------------------------------------------------------------------- the sample

LENGTHS = [9, 8, 7, 8, 30, 8, 8, 2, 8, 8]
AS_GIVEN = {
    "lists": lambda ids, label: {"input_ids": ids, "labels": label},
    "tensors": lambda ids, label: (torch.tensor(ids), torch.tensor(label)),
    "arrays": lambda ids, label: {"input_ids": np.array(ids), "label": np.int64(label)},
    "a column of another name": lambda ids, label: {"words": ids, "labels": label},  # told by what the collator makes
    "choices": lambda ids, label: {"input_ids": [[one] * 2 for one in ids], "labels": label},
}


@pytest.mark.parametrize("kind", AS_GIVEN)
def test_the_sample_has_the_shortest_the_longest_and_more_than_one_label(kind):
    data = [AS_GIVEN[kind]([5] * length, int(at == 3)) for at, length in enumerate(LENGTHS)]

    def collate(examples):
        if kind in ("lists", "tensors", "arrays"):
            assert len(examples) > 1, "read one by one"
        rows = [list(one.values()) if isinstance(one, dict) else one for one in examples]
        ids = pad_sequence([torch.as_tensor(ids) for ids, _ in rows], batch_first=True)
        return ids, torch.tensor([int(label) for _, label in rows])

    chosen = chosen_of(TrainingSet.of(data, 4, collate), 4)
    assert len(set(chosen)) == 4
    assert {3, 4, 7} <= set(chosen)
    assert [LENGTHS[place] for place in chosen] not in (sorted(LENGTHS[c] for c in chosen), sorted(LENGTHS)[::-1])
