"""Checkpoints: the rate comes back, nothing half-written, nothing run, nothing loaded that does not fit."""

import json
import os
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from captum_tracinwe import load_checkpoint, save_checkpoint
from captum_tracinwe.app.testing import TinyCNN, tiny_gpt2
from captum_tracinwe.checkpoints.weights import find_checkpoints


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_weights(model, expected):
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["step-1.pt", "step-1.safetensors", "step-1"])
@pytest.mark.parametrize("make", [TinyCNN, tiny_gpt2])
def test_weights_and_rate_come_back(tmp_path, name, make):
    saved, other = make(), make()
    save_checkpoint(tmp_path / "new" / name, saved, 0.1 + 0.2, step=7)
    assert load_checkpoint(other, str(tmp_path / "new" / name)) == 0.1 + 0.2
    assert_same_weights(other, saved.state_dict())
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_a_directory_is_no_name_for_a_file(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"is a directory: expected the path of a file.*step-7.pt'"):
        save_checkpoint(tmp_path, TinyCNN(), 0.5, step=7)
    assert not list(tmp_path.iterdir())


def test_a_rate_in_a_tensor_counts(tmp_path):
    model = TinyCNN()
    torch.save({"state_dict": model.state_dict(), "lr": torch.tensor(0.25), "epoch": 3}, tmp_path / "a.pt")
    assert load_checkpoint(model, tmp_path / "a.pt") == 0.25


@pytest.mark.parametrize("rate", [-1.0, float("nan"), float("inf"), "0.1", None, True])
def test_a_rate_that_is_none_is_refused(tmp_path, rate):
    with pytest.raises(ValueError, match="finite number"):
        save_checkpoint(tmp_path / "a.pt", TinyCNN(), rate)
    assert not list(tmp_path.iterdir())


def test_a_plain_state_dict_loads_with_rate_one_and_one_warning(tmp_path):
    model = TinyCNN()
    for number in range(3):
        torch.save(model.state_dict(), tmp_path / f"{number}.pt")
    with pytest.warns(UserWarning, match="carries no learning rate: 1.0 is used") as caught:
        assert [load_checkpoint(model, path) for path in sorted(tmp_path.iterdir())] == [1.0] * 3
    assert len(caught) == 1


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_taken_off(tmp_path, prefix):
    saved, other = TinyCNN(), TinyCNN()
    state = {prefix + key: value for key, value in saved.state_dict().items()}
    torch.save({"model_state_dict": state, "learning_rate": 0.5}, tmp_path / "a.pt")
    assert load_checkpoint(other, tmp_path / "a.pt") == 0.5
    assert_same_weights(other, saved.state_dict())


def test_a_wrapped_model_takes_a_bare_checkpoint(tmp_path):
    saved, other = TinyCNN(), TinyCNN()
    save_checkpoint(tmp_path / "a.pt", saved, 0.5)
    load_checkpoint(nn.DataParallel(other), tmp_path / "a.pt")
    assert_same_weights(other, saved.state_dict())


def test_directories_of_transformers_load_whole_and_in_shards(tmp_path):
    saved = tiny_gpt2()
    for folder, options in (("one", {}), ("many", {"max_shard_size": "2KB"})):
        saved.save_pretrained(tmp_path / folder, **options)
    (tmp_path / "bin").mkdir()
    torch.save(saved.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    assert (tmp_path / "many" / "model.safetensors.index.json").is_file()
    for folder in ("one", "many", "bin"):
        other = tiny_gpt2()
        with pytest.warns(UserWarning, match="no learning rate"):
            assert load_checkpoint(other, tmp_path / folder) == 1.0
        assert_same_weights(other, saved.state_dict())
    next((tmp_path / "many").glob("model-00001*")).unlink()
    with pytest.raises(ValueError, match="not whole.*missing"):
        load_checkpoint(tiny_gpt2(), tmp_path / "many")
    (tmp_path / "many" / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ValueError, match="weight_map"):
        load_checkpoint(tiny_gpt2(), tmp_path / "many")


class _Boom:
    def __reduce__(self):
        return (os.mkdir, ("pwned",))


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    Path(f"evil.{suffix}").write_bytes(pickle.dumps(_Boom()))
    torch.save({"model_state_dict": _Boom()}, "evil-zip.pt")
    for name in (f"evil.{suffix}", "evil-zip.pt"):
        with pytest.raises(ValueError, match="is refused|cannot be read"):
            load_checkpoint(TinyCNN(), name)
    assert not Path("pwned").exists()


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.98])
def test_a_truncated_file_is_refused_and_the_model_unchanged(tmp_path, name, kept):
    model = TinyCNN()
    save_checkpoint(tmp_path / name, TinyCNN(), 0.5)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(kept * len(whole))])
    before = weights_of(model)
    with pytest.raises(ValueError, match="cannot be read|is refused"):
        load_checkpoint(model, tmp_path / name)
    assert_same_weights(model, before)


def test_another_architecture_is_refused_and_the_model_unchanged(tmp_path):
    model = TinyCNN()
    before = weights_of(model)
    save_checkpoint(tmp_path / "wide.pt", TinyCNN(width=7), 0.5)
    with pytest.raises(ValueError, match=r"embedding.weight is \(30, 7\), expected \(30, 6\)"):
        load_checkpoint(model, tmp_path / "wide.pt")
    torch.save({"other": torch.zeros(1), **TinyCNN().conv.state_dict()}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"5 missing \(embedding.weight.*3 unexpected"):
        load_checkpoint(model, tmp_path / "other.pt")
    assert_same_weights(model, before)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="No checkpoint at"):
        load_checkpoint(TinyCNN(), tmp_path / "none.pt")
    with pytest.raises(ValueError, match="is not a checkpoint: expected one of model.safetensors"):
        load_checkpoint(TinyCNN(), tmp_path)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds a list"):
        load_checkpoint(TinyCNN(), tmp_path / "list.pt")
    save_file(TinyCNN().state_dict(), tmp_path / "odd.safetensors", metadata={"learning_rate": "quick"})
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(TinyCNN(), tmp_path / "odd.safetensors")


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    old = TinyCNN()
    save_checkpoint(tmp_path / "a.pt", old, 0.5)

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path / "a.pt", TinyCNN(), 0.25)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
    assert load_checkpoint(TinyCNN(), tmp_path / "a.pt") == 0.5


def test_checkpoints_come_in_natural_order(tmp_path):
    for name in ("step-10.pt", "step-9.pt", "step-100.pt", ".unfinished.tmp"):
        (tmp_path / name).touch()
    expected = [str(tmp_path / name) for name in ("step-9.pt", "step-10.pt", "step-100.pt")]
    assert find_checkpoints(str(tmp_path)) == expected
    assert find_checkpoints(tmp_path) == expected
    assert find_checkpoints([tmp_path / "step-10.pt", tmp_path / "step-9.pt"]) == [
        tmp_path / "step-9.pt",
        tmp_path / "step-10.pt",
    ]
    assert find_checkpoints(iter(expected)) == expected
    assert find_checkpoints(tmp_path / "step-9.pt") == expected[:1]
    (tmp_path / "notes.txt").touch()
    (tmp_path / "runs").mkdir()
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "Desktop.ini", ".gitkeep"):
        (tmp_path / name).touch()
    (tmp_path / "lost+found").mkdir()
    assert find_checkpoints(tmp_path) == expected
    (tmp_path / "model.safetensors").touch()
    assert find_checkpoints(tmp_path) == [str(tmp_path)]
    for step in (10, 9):  # a Trainer's directory, the final model beside the checkpoints
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert find_checkpoints(tmp_path) == [str(tmp_path / f"checkpoint-{step}") for step in (9, 10)]
    anything = [{"step": 1}, object()]
    assert find_checkpoints(anything) == anything


@pytest.mark.parametrize("given", [[], None, "no/such/place", ()])
def test_no_checkpoints_are_refused(given):
    with pytest.raises(ValueError, match="Invalid checkpoints provided for TracIn class: "):
        find_checkpoints(given)


def test_an_empty_directory_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is a directory without checkpoints"):
        find_checkpoints(tmp_path)


def test_reading_a_good_checkpoint_is_quiet(tmp_path):
    save_checkpoint(tmp_path / "a.pt", TinyCNN(), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_checkpoint(TinyCNN(), tmp_path / "a.pt") == 1.0
    assert json.dumps(load_checkpoint(TinyCNN(), tmp_path / "a.pt")) == "1.0"


def test_names_that_look_like_notes_or_wrappers_stay_the_models_own(tmp_path):
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = TinyCNN()

    saved, other = Inner(), Inner()
    save_checkpoint(tmp_path / "a.pt", saved, 0.5)
    assert load_checkpoint(other, tmp_path / "a.pt") == 0.5
    assert_same_weights(other, saved.state_dict())
    counter = nn.Linear(1, 1)
    counter.register_buffer("step", torch.tensor(7))
    torch.save({**counter.state_dict(), "learning_rate": 0.25}, tmp_path / "flat.pt")
    counter.step.zero_()
    assert load_checkpoint(counter, tmp_path / "flat.pt") == 0.25
    assert int(counter.step) == 7


def test_numpys_numbers_are_rates(tmp_path):
    import numpy as np

    save_checkpoint(tmp_path / "a.pt", TinyCNN(), np.float32(0.5))
    assert load_checkpoint(TinyCNN(), tmp_path / "a.pt") == 0.5
    with pytest.raises(TypeError, match="got 5"):
        find_checkpoints(5)


def test_a_nested_tensor_is_no_weight(tmp_path):
    state = TinyCNN().state_dict()
    name = next(iter(state))
    torch.save({**state, name: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}, tmp_path / "a.pt")
    with pytest.raises(
        ValueError, match=rf"a.pt.* does not fit the model TinyCNN: {name} is nested, expected a tensor of"
    ):
        load_checkpoint(TinyCNN(), tmp_path / "a.pt")


@pytest.mark.parametrize("rate", ["1_0", "１", "１.5", "٣", " 1", "1 ", "0x1p3", "1e", "", ".", "infinity_"])
def test_a_rate_in_metadata_is_a_plain_number(tmp_path, rate):
    save_file(TinyCNN().state_dict(), tmp_path / "a.safetensors", metadata={"learning_rate": rate})
    with pytest.raises(ValueError, match=r"a.safetensors.* cannot be read: its metadata has learning_rate"):
        load_checkpoint(TinyCNN(), tmp_path / "a.safetensors")


@pytest.mark.parametrize("rate", ["1", "0.5", "1e-05", "2.", ".5", "1E+2"])
def test_a_plain_number_in_metadata_is_a_rate(tmp_path, rate):
    save_file(TinyCNN().state_dict(), tmp_path / "a.safetensors", metadata={"learning_rate": rate})
    assert load_checkpoint(TinyCNN(), tmp_path / "a.safetensors") == float(rate)


@pytest.mark.parametrize("before", [b"x", b"#!/bin/sh\n", bytes(4096)])
def test_bytes_before_an_archive_are_said_to_be_there(tmp_path, before):
    save_checkpoint(tmp_path / "a.pt", TinyCNN(), 0.5)
    (tmp_path / "a.pt").write_bytes(before + (tmp_path / "a.pt").read_bytes())
    with pytest.raises(ValueError, match="other bytes stand before its first entry") as refusal:
        load_checkpoint(TinyCNN(), tmp_path / "a.pt")
    assert "run code" not in str(refusal.value)


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 5000 + "b", "nul\0l"])
@pytest.mark.parametrize("use", [find_checkpoints, lambda path: load_checkpoint(TinyCNN(), path)])
def test_a_path_that_cannot_be_is_refused_in_our_words(name, use):
    with pytest.raises(ValueError, match=r"The checkpoint .* cannot be looked for .*: expected the path"):
        use(name)
