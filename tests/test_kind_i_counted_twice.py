"""Kind I: what a folder has twice, as a link, a copy or in another format, counts once, and both names are said."""

import os
import shutil
import warnings

import pytest
import torch
from one_by_one import LOSS, assert_near, explained, scores_one_by_one, texts
from safetensors.torch import save_file

from captum_tracinwe import load_checkpoint, save_checkpoint
from captum_tracinwe.app.testing import TinyCNN
from captum_tracinwe.checkpoints.weights import find_checkpoints

TRAIN, TEST = texts(7, 1), texts(3, 2)
RATES = (0.3, 1.7)


def ready():
    torch.manual_seed(0)
    return TinyCNN().eval()


def at(step):
    """The model after a step, the same each time."""
    model, generator = ready(), torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def optimizer(model, rate):
    found = torch.optim.AdamW(model.parameters(), lr=rate)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    found.step()
    return found.state_dict()


def plain(folder):
    for step, rate in enumerate(RATES, 1):
        save_checkpoint(folder / f"step-{step}.pt", at(step), rate)


def lightning(folder, step, name, callbacks):
    model, rate = at(step), RATES[step - 1]
    content = {
        "state_dict": {f"model.{key}": value for key, value in model.state_dict().items()},
        "optimizer_states": [optimizer(at(step), rate)],
        "callbacks": callbacks,
    }
    torch.save(content, folder / name)


def copy_of_best(folder):
    plain(folder)
    shutil.copy(folder / "step-2.pt", folder / "best.pt")
    return "best.pt (the same weights as step-2.pt)"


def a_link(folder):
    plain(folder)
    (folder / "latest.pt").symlink_to(folder / "step-2.pt")
    return "latest.pt (the same file as step-2.pt)"


def a_hard_link(folder):
    plain(folder)
    os.link(folder / "step-1.pt", folder / "step-01.pt")
    return "step-1.pt (the same file as step-01.pt)"


def lightnings_last(folder):
    """Saved anew, with other things around the weights."""
    for step in (1, 2):
        lightning(folder, step, f"epoch={step}-step={10 * step}.ckpt", {"kth": torch.tensor(0.5)})
    lightning(folder, 2, "last.ckpt", {"best_model_path": "epoch=2-step=20.ckpt", "last": "last.ckpt"})
    return "last.ckpt (the same weights as epoch=2-step=20.ckpt)"


def two_formats(folder):
    plain(folder)
    save_file(at(1).state_dict(), folder / "step-1.safetensors")
    save_file(at(2).half().state_dict(), folder / "step-2.safetensors")
    return "step-1.safetensors (the same step as step-1.pt), step-2.safetensors (the same step as step-2.pt)"


def the_weights_alone(folder):
    """Without the optimiser's state, where the rate is."""
    for step, rate in enumerate(RATES, 1):
        content = {"model": at(step).state_dict(), "optimizer": optimizer(at(step), rate)}
        torch.save(content, folder / f"train_{step}.pt")
    torch.save(at(2).state_dict(), folder / "model_final.pth")
    return "model_final.pth (the same weights as train_2.pt)"


def the_same_step(folder):
    """A last one of other numbers, as a second save of the same step may have."""
    for step, rate in enumerate(RATES, 1):
        save_checkpoint(folder / f"step-{step}.pt", at(step), rate, step=step)
    save_checkpoint(folder / "averages.pt", at(9), 0.5, step=2)
    return "averages.pt (the same step as step-2.pt)"


def safetensors_and_torch(folder):
    for step, rate in enumerate(RATES, 1):
        save_checkpoint(folder / f"step-{step}.safetensors", at(step), rate)
    torch.save({"model": at(2).state_dict()}, folder / "best.pth")
    return "best.pth (the same weights as step-2.safetensors)"


def folders(folder):
    for step, name in ((1, "epoch_1"), (2, "epoch_2"), (2, "best")):
        (folder / name).mkdir(parents=True)
        save_file(at(step).state_dict(), folder / name / "model.safetensors")
        torch.save({"_last_lr": [RATES[step - 1]]}, folder / name / "scheduler.bin")
    return "best (the same weights as epoch_2)"


def folders_of_torch_distributed(folder):
    import torch.distributed.checkpoint as dcp

    for step, name in ((1, "step-1"), (2, "step-2"), (2, "final")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = {"model": at(step).state_dict(), "optim": optimizer(at(step), RATES[step - 1])}
            dcp.save(content, checkpoint_id=folder / name, no_dist=True)
    return "final (the same weights as step-2)"


TWICE = [
    *(copy_of_best, a_link, a_hard_link, lightnings_last, two_formats, the_weights_alone, the_same_step),
    *(safetensors_and_torch, folders, folders_of_torch_distributed),
]


@pytest.mark.parametrize("way", TWICE)
def test_one_of_two_counts_as_in_a_loop_and_both_names_are_said_once(way, tmp_path):
    run, alone = tmp_path / "run", tmp_path / "alone"
    run.mkdir(), alone.mkdir()
    names = way(run)
    plain(alone)
    paths = [str(alone / f"step-{step}.pt") for step in (1, 2)]
    expected = scores_one_by_one(ready, paths, lambda m: m.embedding, TRAIN, TEST, load=load_checkpoint)
    with pytest.warns(UserWarning, match="Each counts once, by the second name. Remove one of two") as said:
        tracin = explained(ready(), run, TRAIN)
    assert [str(one.message) for one in said if names in str(one.message)]
    assert len(said) == 1
    assert said[0].filename.endswith("one_by_one.py")  # where TracInWE is made
    assert len(tracin.checkpoints) == 2
    assert_near(tracin.influence(TEST), expected)


def found(folder):
    return [os.path.basename(path) for path in find_checkpoints(folder)]


def test_what_is_not_the_same_counts_each_and_nothing_is_said(tmp_path):
    plain(tmp_path)
    save_checkpoint(tmp_path / "step-3.pt", at(2), 0.0, step=3)  # no step was made at a rate of 0
    one = at(2)
    with torch.no_grad():
        one.embedding.weight[len(one.embedding.weight) // 3, 1] += 1e-3
    save_checkpoint(tmp_path / "tuned.pt", one, 0.5)
    save_checkpoint(tmp_path / "other-1.pt", at(7), 0.5, step=1)  # of another run
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 half of it")
    (tmp_path / "gone.pt").symlink_to(tmp_path / "nowhere.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = found(tmp_path)
    assert names == ["broken.pt", "gone.pt", "other-1.pt", "step-1.pt", "step-2.pt", "step-3.pt", "tuned.pt"]


def test_a_number_in_the_middle_of_a_large_table_makes_two(tmp_path):
    """Beyond what is sampled, at which a sparse optimiser may have written."""
    for name, value in (("step-1.pt", 0.0), ("best.pt", 1.0)):
        table = torch.zeros(20_000, 4)
        table[7_000, 1] = value
        torch.save({"embedding.weight": table, "out.weight": torch.ones(3, 3)}, tmp_path / name)
    assert found(tmp_path) == ["best.pt", "step-1.pt"]
    shutil.copy(tmp_path / "step-1.pt", tmp_path / "best.pt")
    with pytest.warns(UserWarning, match=r"best.pt \(the same weights as step-1.pt\)"):
        assert found(tmp_path) == ["step-1.pt"]


@pytest.mark.parametrize("name", ["ema-{}.pt", "model_swa_{}.pt", "EMA{}.pt"])
def test_averages_beside_steps_are_said_and_count(name, tmp_path):
    plain(tmp_path)
    names = [name.format(step) for step in (1, 2)]
    for number, one in enumerate(names):
        save_checkpoint(tmp_path / one, at(20 + number), 0.5)
    with pytest.warns(
        UserWarning, match=rf"averaged weights by their names \({', '.join(names)}\) beside those of steps"
    ):
        assert sorted(found(tmp_path)) == sorted([*names, "step-1.pt", "step-2.pt"])
    for step in (1, 2):
        (tmp_path / f"step-{step}.pt").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found(tmp_path) == names


@pytest.mark.parametrize(
    "how", [str, lambda path: path, lambda path: path.parent / "." / ".." / path.parent.name / path.name]
)
def test_a_path_that_is_listed_twice_counts_twice_and_that_is_said(how, tmp_path):
    plain(tmp_path)
    paths = [tmp_path / "step-1.pt", tmp_path / "step-2.pt", tmp_path / "step-2.pt"]
    expected = scores_one_by_one(ready, paths, lambda m: m.embedding, TRAIN, TEST, load=load_checkpoint)
    with pytest.warns(UserWarning, match="has step-2.pt more than once, and counts it as often"):
        tracin = explained(ready(), [str(paths[0]), str(paths[1]), how(paths[2])], TRAIN, LOSS)
    assert_near(tracin.influence(TEST), expected)


# --------------------------------------------------------------------------------------- what is beside, and elsewhere


@pytest.mark.parametrize(
    "name", ["optimizer-{}.pt", "model-{}.optim.pt", "opt_{}.pt", "scheduler_{}.pth", "rng_state_{}.pth"]
)
def test_an_optimisers_state_beside_weights_is_no_checkpoint(name, tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path / f"model-{step}.pt", at(step), 0.5)
        content = torch.get_rng_state() if "rng" in name else {"_last_lr": [0.5]} if "sched" in name else None
        torch.save(optimizer(at(step), 0.5) if content is None else content, tmp_path / name.format(step))
    assert found(tmp_path) == ["model-1.pt", "model-2.pt"]


def test_weights_with_a_name_as_an_optimisers_are_taken(tmp_path):
    save_checkpoint(tmp_path / "opt-125m-1.pt", at(1), 0.5)
    torch.save({"net": at(2).state_dict(), "opt": optimizer(at(2), 0.5)}, tmp_path / "optimizer-sgd-2.pt")
    (tmp_path / "opt-125m-3.pt").write_bytes(b"half")
    assert found(tmp_path) == ["opt-125m-1.pt", "opt-125m-3.pt", "optimizer-sgd-2.pt"]


def accelerates(folder):
    for number in (0, 1):
        (folder / "checkpoints" / f"checkpoint_{number}").mkdir(parents=True)
        save_file(at(1).state_dict(), folder / "checkpoints" / f"checkpoint_{number}" / "model.safetensors")
    return ["checkpoints"]


def of_lightning(folder):
    for version in (0, 1):
        save_checkpoint(folder / f"version_{version}" / "checkpoints" / "epoch=0-step=1.ckpt", at(1), 0.5)
        (folder / f"version_{version}" / "events.out.tfevents.1").write_bytes(b"log")
    return ["version_0/checkpoints", "version_1/checkpoints"]


def of_hydra(folder):
    plain(folder / "2024-01-01" / "12-00-00" / "weights")
    return ["2024-01-01/12-00-00/weights"]


@pytest.mark.parametrize("way", [accelerates, of_lightning, of_hydra])
def test_where_checkpoints_lie_in_a_folder_within_it_is_named(way, tmp_path):
    within = [str(tmp_path / name) for name in way(tmp_path)]
    which = "that" if len(within) == 1 else "one of these"
    expected = f"There are some in {', '.join(map(repr, within))}: pass {which} instead."
    with pytest.raises(ValueError, match="is a directory without checkpoints of its own") as told:
        explained(ready(), tmp_path, TRAIN)
    assert expected in str(told.value)
    for folder in within:
        assert find_checkpoints(folder)


def test_where_there_are_none_anywhere_that_is_said(tmp_path):
    (tmp_path / "logs" / "a").mkdir(parents=True)
    (tmp_path / "logs" / "a" / "events.out.tfevents.1").write_bytes(b"log")
    with pytest.raises(ValueError, match="without checkpoints. Save some along training with captum_tracinwe.save_ch"):
        find_checkpoints(tmp_path)
