"""`KeepUpdates`: what is kept is what `weight.grad` was made of, nothing kept is lost, and the model is as it was afterwards."""

import gc
from pathlib import Path

import pytest
import torch
from test_neighbours_rollback import EACH, SIZE, Bag, in_a_trainer, in_batches, seeded, trained
from torch import nn

from captum_tracinwe.app.testing import toy_texts
from captum_tracinwe.neighbours import KeepUpdates, Updates


def ready(optimizer=torch.optim.SGD, rate=0.1, **options):
    """A model, its optimiser, its keeper, and a function that passes a batch forward and backward."""
    model = seeded(Bag)
    keeper, stepper = KeepUpdates(model, examples=SIZE, **options), optimizer(model.parameters(), lr=rate)
    ids, _, labels = toy_texts(SIZE)

    def passes(indices):
        with keeper.batch(indices):
            loss = EACH(model(ids[indices]), labels[indices]).mean()
            loss.backward()
        return loss

    return model, stepper, keeper, passes


def dense(updates):
    return updates.of(range(SIZE)).to_dense(30)


def steps(keeper, optimizer):
    with keeper.step():
        optimizer.step()


# ------------------------------------------------------------------------------------------- what the gradient is made of


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
def test_a_batch_whose_gradient_was_zeroed_is_not_credited_with_the_next_step(to_none, sparse):
    found = []
    for discarded in ([], [0, 1, 2]):
        model, optimizer, keeper, passes = ready()
        model.words.sparse = sparse
        if discarded:
            passes(discarded)
            optimizer.zero_grad(set_to_none=to_none)
        passes([2, 5])
        steps(keeper, optimizer)
        found.append(dense(keeper.updates()))
    assert found[0][2].abs().max() > 0
    assert torch.equal(*found)


def test_a_step_after_everything_was_zeroed_credits_nobody():
    _, optimizer, keeper, passes = ready(torch.optim.AdamW)
    passes([0, 1])
    steps(keeper, optimizer)
    optimizer.zero_grad(set_to_none=False)
    passes([3])
    optimizer.zero_grad(set_to_none=False)
    steps(keeper, optimizer)  # moves by momentum alone
    updates = keeper.updates()
    assert not len(updates.of([3])[0][0])
    assert updates.rest.abs().max() > 0


def test_gradients_that_are_not_zeroed_are_credited_with_each_step_that_they_make():
    _, optimizer, keeper, passes = ready()
    passes([0, 1])
    steps(keeper, optimizer)
    steps(keeper, optimizer)  # the same gradient again
    updates = keeper.updates()
    assert updates.rest.abs().max() < 1e-6
    assert updates.steps == 2


def test_a_gradient_that_only_somebody_asked_for_is_not_credited():
    model, optimizer, keeper, passes = ready()
    ids, _, labels = toy_texts(SIZE)
    with keeper.batch([7, 8]):
        loss = EACH(model(ids[7:9]), labels[7:9]).mean()
        torch.autograd.grad(loss, [model.words.weight])
    passes([0, 1])
    steps(keeper, optimizer)
    updates = keeper.updates()
    assert not len(updates.of([7])[0][0])
    assert updates.rest.abs().max() < 1e-6


def test_gradients_put_in_by_hand_are_refused():
    model, optimizer, keeper, _ = ready()
    ids, _, labels = toy_texts(SIZE)
    with keeper.batch([7, 8]):
        loss = EACH(model(ids[7:9]), labels[7:9]).mean()
        (model.words.weight.grad,) = torch.autograd.grad(loss, [model.words.weight])
    with pytest.raises(RuntimeError, match=r"words\.weight\.grad was filled by hand.*expected loss\.backward\(\)"):
        steps(keeper, optimizer)


@pytest.mark.parametrize("optimizer", [torch.optim.LBFGS, torch.optim.SGD])
def test_a_closure_is_refused(optimizer):
    _, stepper, keeper, passes = ready(optimizer)

    def closure():
        stepper.zero_grad()
        return passes([0, 1])

    message = r"within optimizer\.step\(closure\): expected the backward before the step"
    with pytest.raises(RuntimeError, match=message), keeper.step():
        stepper.step(closure)
    passes([0, 1])  # the keeper goes on
    if optimizer is torch.optim.SGD:
        steps(keeper, stepper)


def test_another_table_in_its_place_is_refused():
    model, optimizer, keeper, passes = ready()
    passes([0, 1])
    model.words.weight = nn.Parameter(model.words.weight.detach().clone())
    with pytest.raises(
        RuntimeError, match=r"words\.weight was put in place of the one that is watched: expected one table"
    ):
        steps(keeper, optimizer)


@pytest.mark.parametrize(
    "given",
    [
        None,
        "ab",
        ["a"],
        3,
        {0: 1},
        [[0, 1]],
        [[0], [1, 2]],
        [0.5],
        [True],
        [-1],
        [1j],
        [10**30],
        torch.eye(2).to_sparse(),
    ],
)
def test_what_is_no_list_of_indices_is_refused(given):
    _, _, keeper, _ = ready()
    message = r"KeepUpdates\.batch: expected the training indices of the batch's examples, whole numbers from 0, got"
    with pytest.raises(ValueError, match=message), keeper.batch(given):
        pass


def test_an_empty_batch_and_an_array_backwards_are_indices():
    import numpy as np

    _, _, keeper, _ = ready()
    for given in ([], (), np.arange(3)[::-1], range(3), torch.arange(3, dtype=torch.uint8)):
        with keeper.batch(given):
            pass


def test_odd_settings_are_refused():
    with pytest.raises(
        ValueError, match="expected `examples` as the number of training examples, 1 to 268435456, got 1000000"
    ):
        KeepUpdates(Bag(), examples=10**30)
    with pytest.raises(TypeError, match="expected `directory` as a path, got 3"):
        KeepUpdates(Bag(), directory=3)


# ------------------------------------------------------------------------------------------------------ nothing is lost


@pytest.mark.parametrize("memory_limit", [1 << 30, 3000])
def test_a_directory_that_is_not_empty_at_the_end_costs_no_updates(tmp_path, memory_limit):
    batches = in_batches(4)
    model = seeded(Bag)
    wanted, _ = trained(model, batches, torch.optim.AdamW(model.parameters(), lr=0.05))
    model = seeded(Bag)
    keeper, _ = trained(
        model, batches, torch.optim.AdamW(model.parameters(), lr=0.05), directory=tmp_path / "kept",
        memory_limit=memory_limit, keep=False,
    )  # fmt: skip
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine.txt").write_text("mine")
    for _ in range(2):
        with pytest.raises(
            FileExistsError, match=r"kept' is there already.*|They are still kept: write them elsewhere"
        ):
            keeper.updates()
    assert [one.name for one in (tmp_path / "kept").iterdir()] == ["mine.txt"]
    found = keeper.updates(tmp_path / "elsewhere")
    assert keeper.updates() is found
    for one in (found, Updates.open(tmp_path / "elsewhere")):
        assert (one.steps, one.final) == (wanted.steps, wanted.final)
        torch.testing.assert_close(dense(one), dense(wanted), atol=1e-6, rtol=0)
        assert torch.equal(one.moved, wanted.moved)
    keeper.updates(tmp_path / "again")  # another copy
    torch.testing.assert_close(dense(Updates.open(tmp_path / "again")), dense(found))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["again", "elsewhere", "kept"]


def test_a_disk_that_is_full_costs_no_updates(tmp_path, monkeypatch):
    _, optimizer, keeper, passes = ready(directory=tmp_path / "kept")
    passes([0, 1])
    steps(keeper, optimizer)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("captum_tracinwe.neighbours.rollback_files.save_file", full)
        with pytest.raises(OSError, match=r"(?s)They are still kept.*updates\(directory=.*No space left"):
            keeper.updates()
    assert len(keeper.updates().of([0])[0][0])
    assert len(Updates.open(tmp_path / "kept")) == SIZE


def test_updates_can_be_asked_for_after_the_keeper_was_closed():
    model, optimizer, keeper, passes = ready()
    with keeper:
        passes([0, 1])
        steps(keeper, optimizer)
    final = model.words.weight.detach().clone()
    optimizer.step()  # nobody watches any more
    assert not torch.equal(model.words.weight, final)
    updates = keeper.updates()
    assert updates.rest.abs().max() < 1e-6
    assert len(updates.of([0])[0][0])
    for one in (3, "ab", None):
        with pytest.raises(TypeError, match=r"Updates\.of: expected a list of training examples, got"):
            updates.of(one)
    assert torch.equal(updates.of(torch.tensor([1])).ids, updates.of([1]).ids)


def test_a_trainer_ends_where_updates_cannot_be_written_and_they_are_kept(tmp_path):
    from transformers import TrainerCallback

    class Writes(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            (tmp_path / "updates").mkdir(exist_ok=True)
            (tmp_path / "updates" / "mine.txt").write_text("mine")

    keeper = KeepUpdates(directory=tmp_path / "updates")
    with pytest.warns(UserWarning, match="They are still kept: write them elsewhere"):
        in_a_trainer(tmp_path / "run", [keeper, Writes()])
    assert len(keeper.updates(tmp_path / "elsewhere")) == 11
    assert (tmp_path / "updates" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("place", ["", "run"])
def test_a_directory_that_the_trainer_writes_to_is_refused_at_its_beginning(tmp_path, place):
    keeper = KeepUpdates(directory=tmp_path / "all" / place)
    with pytest.raises(ValueError, match="the Trainer writes its own files within directory=.*[Ee]xpected a directory"):
        in_a_trainer(tmp_path / "all" / "run", [keeper])


# ------------------------------------------------------------------------------------------------- as it was afterwards


def hooks_of(model):
    table = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else model.words
    after = table.weight._post_accumulate_grad_hooks
    return len(table._forward_hooks) + len(model._forward_pre_hooks) + len(after or {})


def test_the_hooks_of_a_keeper_that_nobody_holds_are_gone():
    model, _, keeper, passes = ready()
    loss = passes([0, 1])
    assert hooks_of(model) == 2
    del keeper, passes, loss
    gc.collect()
    assert hooks_of(model) == 0
    EACH(model(torch.ones(1, 3).long()), torch.tensor([0])).mean().backward()  # and nobody asks whose words these are


@pytest.mark.parametrize("fails", [False, True])
def test_a_trainer_has_its_sampler_and_its_model_back(tmp_path, fails):
    from transformers import TrainerCallback

    class Notes(TrainerCallback):
        def on_train_begin(self, args, state, control, train_dataloader=None, model=None, **given):
            self.sampler, self.model = train_dataloader.batch_sampler, model
            self.before = self.sampler.sampler

        def on_step_end(self, *args, **kwargs):
            if fails:
                raise OSError("broken")

    notes, keeper = Notes(), KeepUpdates()
    try:
        in_a_trainer(tmp_path / "run", [notes, keeper])
    except OSError:
        assert notes.sampler.sampler is not notes.before
        keeper.close()
    assert notes.sampler.sampler is notes.before
    assert hooks_of(notes.model) == 0


def test_nothing_is_left_on_disk_of_a_keeper_that_nobody_holds(tmp_path):
    model = seeded(Bag)
    trained(
        model, in_batches(4), torch.optim.SGD(model.parameters(), lr=0.1), directory=tmp_path / "kept", memory_limit=3000,
        keep=False,
    )  # fmt: skip
    gc.collect()
    assert list(Path(tmp_path).iterdir()) == []


@pytest.mark.parametrize("name", ["rows-00000.safetensors", "table.safetensors"])
def test_a_bit_that_has_changed_on_disk_is_told(name, tmp_path):
    _, optimizer, keeper, passes = ready(directory=tmp_path / "updates")
    passes([0, 1])
    steps(keeper, optimizer)
    keeper.updates()
    file = tmp_path / "updates" / name
    held = bytearray(file.read_bytes())
    held[-5] ^= 1
    file.write_bytes(held)
    with pytest.raises(ValueError, match=f"{name}' is damaged .its bytes are not those that were written"):
        Updates.open(tmp_path / "updates")


def test_a_training_without_a_step_that_was_seen_has_no_updates():
    keeper = KeepUpdates(torch.nn.Sequential(torch.nn.Embedding(9, 4)), examples=3)
    with pytest.raises(RuntimeError, match="no step of the optimiser was seen: expected `with keeper.step"):
        keeper.updates()


@pytest.mark.parametrize("index", [1 << 28, 10**12, 1 << 62])
def test_ids_that_are_no_places_are_refused(index):
    keeper = KeepUpdates(torch.nn.Sequential(torch.nn.Embedding(9, 4)))
    with pytest.raises(ValueError, match="expected places in the training set"), keeper.batch([index]):
        pass
    with pytest.raises(ValueError, match="the number of training examples, 1 to 268435456"):
        KeepUpdates(examples=index + 1)
