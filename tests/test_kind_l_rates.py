"""Kind L: a learning rate that is there is read, that of the word table's group; where there is none that is said."""

import argparse
import warnings

import pytest
import torch
from torch import nn

from captum_tracinwe import TracInWE, load_checkpoint, save_checkpoint
from captum_tracinwe.app.testing import TinyCNN, scores_by_loop, toy_texts


def same(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def trained(rates=(0.1,), steps=1, named=False, momentum=True, schedule=lambda step: 1 / (1 + step)):
    """A model, its optimiser and scheduler after some steps; of two rates the second is the word table's."""
    model = TinyCNN()
    parts = [(name, parameter) for name, parameter in model.named_parameters()]
    table, rest = [part for part in parts if part[0] == "embedding.weight"], parts[1:]
    groups = [parts] if len(rates) == 1 else [rest, table]
    groups = [
        {"params": group if named else [parameter for _, parameter in group], "lr": rate}
        for group, rate in zip(groups, rates, strict=True)
    ]
    optimizer = torch.optim.AdamW(groups) if momentum else torch.optim.SGD(groups)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        scheduler.step()
    return model, optimizer, scheduler


def lightning(model, optimizer, scheduler):
    """A .ckpt of Lightning 2.6."""
    return {
        "epoch": 0,
        "global_step": 1,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": None, "kth_value": torch.tensor(0.0)}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()],
        "hparams_name": "args",
        "hyper_parameters": {"lr": 7.0, "args": argparse.Namespace(layers=2)},
    }


FORMS = {
    "PyTorch's tutorial": lambda m, o, s: {
        "epoch": 5,
        "model_state_dict": m.state_dict(),
        "optimizer_state_dict": o.state_dict(),
        "loss": torch.tensor(0.4),
    },
    "nanoGPT": lambda m, o, s: {
        "model": m.state_dict(),
        "optimizer": o.state_dict(),
        "model_args": {"n_layer": 2},
        "iter_num": 7,
        "best_val_loss": torch.tensor(1.0),
        "config": {"learning_rate": 7.0, "decay_lr": True},
    },
    "optim": lambda m, o, s: {"state_dict": m.state_dict(), "optim": o.state_dict()},
    "imagenet": lambda m, o, s: {
        "state_dict": m.state_dict(),
        "optimizer": o.state_dict(),
        "scheduler": s.state_dict(),
    },
    "scheduler alone": lambda m, o, s: {"model": m.state_dict(), "lr_scheduler": s.state_dict()},
    "Lightning": lightning,
    "beside a flat state dict": lambda m, o, s: {**m.state_dict(), "optimizer": o.state_dict()},
    "one in another": lambda m, o, s: {"trainer": {"net": m.state_dict(), "opt": [o.state_dict()]}},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_rate_in_force_is_read_from_where_a_script_leaves_it(tmp_path, form):
    model, optimizer, scheduler = trained()
    torch.save(FORMS[form](model, optimizer, scheduler), tmp_path / "a.pt")
    other = TinyCNN()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_checkpoint(other, tmp_path / "a.pt") == 0.05
    assert same(other, model)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "scheduler alone"])
@pytest.mark.parametrize("named", [False, True], ids=["by shape", "by name"])
def test_of_several_groups_the_word_tables_counts(tmp_path, form, named):
    # Without momentum an optimiser has no state whose shape could tell.
    model, optimizer, scheduler = trained((9.0, 0.1), named=named, momentum=not named)
    torch.save(FORMS[form](model, optimizer, scheduler), tmp_path / "a.pt")
    assert load_checkpoint(TinyCNN(), tmp_path / "a.pt") == 0.05


def test_where_the_tables_group_cannot_be_told_that_is_said(tmp_path):
    model, optimizer, _ = trained((9.0, 0.1), momentum=False)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    with pytest.warns(UserWarning, match=r"learning rates \[4.5, 0.05\].*cannot be told. That of the first group, 4.5"):
        assert load_checkpoint(TinyCNN(), tmp_path / "a.pt") == 4.5


def test_where_a_rate_beside_is_not_the_optimisers_the_one_in_force_is_used_and_both_are_said_once(tmp_path):
    model, optimizer, scheduler = trained()
    weights, states = {"model": model.state_dict()}, {"optimizer": optimizer.state_dict()}
    torch.save(weights | states | {"lr": 0.7}, tmp_path / "a.pt")
    torch.save(weights | {"scheduler": scheduler.state_dict()} | {"learning_rate": [0.7]}, tmp_path / "b.pt")
    for path, key in ((tmp_path / "a.pt", r"'lr' 0\.7"), (tmp_path / "b.pt", r"'learning_rate' \[0\.7\]")):
        other = TinyCNN()
        with pytest.warns(UserWarning, match=rf"{key}, and its optim.* the rate 0\.05 .*second is used") as said:
            assert [load_checkpoint(other, path) for _ in range(2)] == [0.05] * 2
        assert len(said) == 1
        assert same(other, model)


@pytest.mark.parametrize("known", [True, False])
def test_of_several_groups_the_tables_is_held_against_a_rate_beside(tmp_path, known):
    model, optimizer, _ = trained((9.0, 0.1), momentum=known)  # without a state the table's group cannot be told
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "lr": 4.5}, tmp_path / "a.pt")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert load_checkpoint(TinyCNN(), tmp_path / "a.pt") == (0.05 if known else 4.5)
    assert len(said) == known


@pytest.mark.parametrize("beside", [0.05, torch.tensor(0.05), 0.0500001])
def test_a_rate_beside_that_is_the_optimisers_is_taken_without_a_word(tmp_path, beside):
    model, optimizer, _ = trained()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "lr": beside}, tmp_path / "a.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_checkpoint(TinyCNN(), tmp_path / "a.pt") == float(beside)


def test_a_rate_beside_stands_where_an_optimiser_keeps_none(tmp_path):
    model, optimizer, _ = trained()
    state = optimizer.state_dict()
    state["param_groups"][0]["lr"] = None  # as Adafactor's may be, which makes its own
    torch.save({"model": model.state_dict(), "optimizer": state, "lr": 0.7}, tmp_path / "a.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_checkpoint(TinyCNN(), tmp_path / "a.pt") == 0.7


def test_scores_weigh_checkpoints_by_the_rates_that_were_read(tmp_path):
    torch.manual_seed(0)
    folder, plain, model = tmp_path / "run", tmp_path / "plain", TinyCNN().eval()
    folder.mkdir(), plain.mkdir()
    for steps in (1, 3):
        saved = trained(steps=steps)
        torch.save(lightning(*saved), folder / f"step={steps}.ckpt")
        torch.save({"model": saved[0].state_dict(), "lr": 0.1 / (1 + steps)}, plain / f"{steps}.pt")
    ids, _, labels = toy_texts(6, seed=1)
    loss = nn.CrossEntropyLoss(reduction="none")
    train = torch.utils.data.TensorDataset(ids, labels)
    losses = [lambda i=i: loss(model(ids[i : i + 1]), labels[i : i + 1]).sum() for i in range(6)]
    expected = scores_by_loop(model, [model.embedding], sorted(plain.iterdir()), losses[:2], losses)
    found = TracInWE(model, train, folder, loss_fn=loss, batch_size=3).influence((ids[:2], labels[:2]))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


# -------------------------------------------------------------------------------------------------------- accelerate


@pytest.mark.parametrize("scheduled", [True, False], ids=["scheduler", "optimiser alone"])
@pytest.mark.parametrize("how", ["one", "groups", "two optimisers"])
def test_what_accelerate_saves_beside_weights_is_read(tmp_path, how, scheduled):
    accelerate = pytest.importorskip("accelerate")
    accelerator, model = accelerate.Accelerator(cpu=True), TinyCNN()
    table, rest = [model.embedding.weight], list(model.parameters())[1:]
    groups = [[{"params": list(model.parameters()), "lr": 0.1}]]
    if how == "groups":
        groups = [[{"params": rest, "lr": 9.0}, {"params": table, "lr": 0.1}]]
    elif how == "two optimisers":
        groups = [[{"params": rest, "lr": 9.0}], [{"params": table, "lr": 0.1}]]
    optimizers = [accelerator.prepare(torch.optim.AdamW(group)) for group in groups]
    schedulers = [torch.optim.lr_scheduler.LambdaLR(one.optimizer, lambda step: 1 / (1 + step)) for one in optimizers]
    prepared = accelerator.prepare(model)
    if scheduled:
        accelerator._schedulers.extend(schedulers)  # what prepare() does, which would leave out steps of no gradient
    accelerator.backward(prepared(torch.arange(12).view(2, 6)).sum())
    for one, scheduler in zip(optimizers, schedulers, strict=True):
        one.step()
        scheduler.step()
    accelerator.save_state(tmp_path / "step_1")
    other = TinyCNN()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_checkpoint(other, tmp_path / "step_1") == 0.05
        assert load_checkpoint(other, tmp_path / "step_1" / "model.safetensors") == 0.05
    assert same(other, model)


@pytest.mark.parametrize("name", ["optimizer-{}.pt", "model-{}.optim.bin", "scheduler_{}.pth"])
def test_the_rate_in_a_file_of_the_same_number_beside_is_read(tmp_path, name):
    for steps in (1, 3):
        model, optimizer, _ = trained((9.0, 0.1), steps=steps)
        torch.save(model.state_dict(), tmp_path / f"model-{steps}.pt")
        state = trained((0.1, 0.1), steps=steps)[2] if "sched" in name else optimizer
        torch.save(state.state_dict(), tmp_path / name.format(steps))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [load_checkpoint(TinyCNN(), tmp_path / f"model-{steps}.pt") for steps in (1, 3)]
    assert found == [0.05, 0.025]


def test_a_file_beside_of_another_number_or_that_cannot_be_read_tells_no_rate(tmp_path):
    torch.save(TinyCNN().state_dict(), tmp_path / "model-1.pt")
    torch.save(trained()[1].state_dict(), tmp_path / "optimizer-2.pt")
    with pytest.warns(UserWarning, match="no learning rate: 1.0 is used"):
        assert load_checkpoint(TinyCNN(), tmp_path / "model-1.pt") == 1.0
    (tmp_path / "optimizer-1.pt").write_bytes(b"half")
    with pytest.warns(UserWarning, match="no learning rate: 1.0 is used"):
        assert load_checkpoint(TinyCNN(), tmp_path / "model-1.pt") == 1.0


# ---------------------------------------------------------------------------------------------------- none, and zero


def test_where_there_is_no_rate_the_number_that_stands_in_and_the_way_to_pass_one_are_said(tmp_path):
    torch.save({"state_dict": TinyCNN().state_dict(), "epoch": 3}, tmp_path / "a.pt")
    with pytest.warns(
        UserWarning, match=r"no learning rate: 1.0 is used, .*'learning_rate' beside.*checkpoints_load_func"
    ):
        assert load_checkpoint(TinyCNN(), tmp_path / "a.pt") == 1.0


@pytest.mark.parametrize("form", ["Lightning", "nanoGPT", "a folder"])
def test_a_rate_of_zero_at_a_schedules_end_is_said_once(tmp_path, form):
    saved = trained(schedule=lambda step: max(0.0, 1.0 - step))
    path = tmp_path / "last"
    if form == "a folder":
        path.mkdir()
        torch.save(saved[0].state_dict(), path / "pytorch_model.bin")
        torch.save(saved[2].state_dict(), path / "scheduler.bin")
    else:
        torch.save(FORMS[form](*saved), path)
    model = TinyCNN()
    with pytest.warns(UserWarning, match="'last' has a learning rate of 0, as schedules end") as said:
        assert [load_checkpoint(model, path) for _ in range(3)] == [0.0] * 3
    assert len(said) == 1


@pytest.mark.parametrize("rate", [-1.0, float("nan"), "fast"])
def test_a_rate_in_an_optimisers_state_that_is_none_is_refused(tmp_path, rate):
    model, optimizer, _ = trained()
    state = optimizer.state_dict()
    state["param_groups"][0]["lr"] = rate
    torch.save({"model": model.state_dict(), "optimizer": state}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a.pt'.*[Ee]xpected a learning rate that is a finite number"):
        load_checkpoint(TinyCNN(), tmp_path / "a.pt")


@pytest.mark.parametrize("key", ["lr", "learning_rate"])
@pytest.mark.parametrize("listed", [[0.3], (0.3,), [torch.tensor(0.3, dtype=torch.float64)]])
def test_the_one_rate_of_a_list_as_schedulers_give_it_is_taken(tmp_path, key, listed):
    torch.save({"model": TinyCNN().state_dict(), key: listed}, tmp_path / "a.pt")
    assert load_checkpoint(TinyCNN(), tmp_path / "a.pt") == 0.3
    save_checkpoint(tmp_path / "b.pt", TinyCNN(), listed)
    assert load_checkpoint(TinyCNN(), tmp_path / "b.pt") == 0.3


@pytest.mark.parametrize("listed", [[], [0.3, 0.1], [[0.3]], ["0.3"], [-1.0]])
def test_a_list_that_is_not_one_rate_is_refused(tmp_path, listed):
    torch.save({"model": TinyCNN().state_dict(), "lr": listed}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a.pt'.*[Ee]xpected a learning rate that is a finite number"):
        load_checkpoint(TinyCNN(), tmp_path / "a.pt")
