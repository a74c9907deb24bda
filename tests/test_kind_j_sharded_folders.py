"""Kind J: folders of FSDP, torch.distributed and DeepSpeed are read, or it is told how to convert them; nothing gets lost."""

import os
import pickle
import shutil
import warnings

import pytest
import torch
import torch.distributed.checkpoint as dcp
from processes import together
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from captum_tracinwe import TracInWE, load_checkpoint, save_checkpoint
from captum_tracinwe.app.testing import TinyCNN, scores_by_loop, tiny_bert, toy_texts
from captum_tracinwe.checkpoints.weights import check_whole, find_checkpoints

LOSS = torch.nn.CrossEntropyLoss(reduction="none")


def same(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def save_dcp(content, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(content, checkpoint_id=folder, no_dist=True)


def trained(rate=0.05):
    """A model and its optimiser, whose word table has a rate of its own."""
    model = TinyCNN()
    rest = [parameter for name, parameter in model.named_parameters() if name != "embedding.weight"]
    optimizer = torch.optim.AdamW([{"params": rest, "lr": 1.0}, {"params": [model.embedding.weight], "lr": rate}])
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return model, optimizer


SHAPES = {
    "nested": lambda m, o: {"model": m.state_dict(), "optimizer": o.state_dict(), "step": 7},
    "app": lambda m, o: {"app": {"model": m.state_dict(), "optim": o.state_dict()}},
    "flat": lambda m, o: {**m.state_dict(), "lr": 0.05},
    "ddp": lambda m, o: {"model": {f"module.{k}": v for k, v in m.state_dict().items()}, "optim": o.state_dict()},
    "objects": lambda m, o: {"model": m.state_dict(), "optim": o.state_dict(), "config": {"path": os.getcwd, "n": [1]}},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_checkpoint_of_torch_distributed_gives_weights_and_the_tables_rate(tmp_path, shape):
    saved, optimizer = trained()
    save_dcp(SHAPES[shape](saved, optimizer), tmp_path / "step-1")
    other = TinyCNN()
    assert find_checkpoints(tmp_path) == [str(tmp_path / "step-1")]
    assert check_whole(tmp_path / "step-1") >= 5
    assert load_checkpoint(other, tmp_path / "step-1") == 0.05
    assert same(other, saved)


def in_two_parts(state, folder):
    """As two processes of FSDP write: each has some rows of each tensor, in a file of its own."""
    folder.mkdir(parents=True)
    described, stored, files = {}, {}, [(folder / f"__{rank}_0.distcp").open("wb") for rank in range(2)]
    for name, tensor in state.items():
        half = (len(tensor) + 1) // 2
        chunks = []
        for rank, rows in enumerate((tensor[:half], tensor[half:])):
            if not len(rows):
                continue
            offsets = torch.Size([rank * half, *[0] * (tensor.dim() - 1)])
            begin = files[rank].tell()
            torch.save(rows.clone(), files[rank])
            stored[MetadataIndex(f"model.{name}", offsets)] = _StorageInfo(
                f"__{rank}_0.distcp", begin, files[rank].tell() - begin
            )
            chunks.append(ChunkStorageMetadata(offsets, rows.shape))
        described[f"model.{name}"] = TensorStorageMetadata(TensorProperties(tensor.dtype), tensor.shape, chunks)
    for file in files:
        file.close()
    ways = {f"model.{name}": ("model", name) for name in state}
    (folder / ".metadata").write_bytes(pickle.dumps(Metadata(described, ways, stored)))


def test_parts_of_several_processes_are_put_together_as_torch_does(tmp_path):
    saved, other, theirs = TinyCNN(), TinyCNN(), TinyCNN()
    in_two_parts(saved.state_dict(), tmp_path / "step-1")
    target = {"model": theirs.state_dict()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(target, checkpoint_id=tmp_path / "step-1", no_dist=True)
    load_checkpoint_quietly(other, tmp_path / "step-1")
    assert same(other, theirs)
    assert same(other, saved)


def load_checkpoint_quietly(model, path):
    with pytest.warns(UserWarning, match="carries no learning rate"):
        assert load_checkpoint(model, path) == 1.0


@pytest.fixture
def run(tmp_path):
    """What Trainer leaves of FSDP: two checkpoints in parts, each beside its config and scheduler."""
    for step in (1, 2):
        model, place = tiny_bert(), tmp_path / "run" / f"checkpoint-{step}"
        in_two_parts(model.state_dict(), place / "pytorch_model_fsdp_0")
        save_dcp({"optimizer": {"step": step}}, place / "optimizer_0")
        save_config(model, place)
        torch.save({"_last_lr": [0.3 / step]}, place / "scheduler.pt")
        save_checkpoint(tmp_path / "plain" / f"{step}.pt", model, 0.3 / step)
    return tmp_path / "run", [tmp_path / "plain" / "1.pt", tmp_path / "plain" / "2.pt"]


def test_a_run_of_fsdp_is_explained_as_by_a_loop(run):
    folder, plain = run
    ids, mask, labels = toy_texts(6, seed=1)
    train = [{"input_ids": i, "attention_mask": m, "labels": y} for i, m, y in zip(ids, mask, labels, strict=True)]
    tracin = TracInWE.from_pretrained_run(folder, train, batch_size=2, loss_fn=LOSS)
    assert [load_checkpoint(tracin.model, path) for path in tracin.checkpoints] == [0.3, 0.15]
    model = tiny_bert()

    def loss(i):
        return lambda: LOSS(model(input_ids=ids[i][mask[i].bool()][None]).logits, labels[i : i + 1]).sum()

    table = model.get_input_embeddings()
    expected = scores_by_loop(model, [table], plain, [loss(i) for i in (0, 1)], [loss(i) for i in range(6)], 0)
    found = tracin.influence({"input_ids": ids[:2], "attention_mask": mask[:2], "labels": labels[:2]})
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-5)


def save_config(model, folder):
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda p: (p / "__1_0.distcp").unlink(),
            "missing __1_0.distcp. Each machine of a run may have written its own",
        ),
        (
            lambda p: (p / ".metadata").write_bytes(b"\x80\x04no"),
            "convert it with `python -m torch.distributed.checkpoint",
        ),
        (lambda p: (p / ".metadata").unlink(), r"has parts \(__0_0.distcp\) without .metadata"),
    ],
    ids=["another machine's part", "metadata", "no metadata"],
)
def test_nobody_is_told_to_remove_weights_that_are_there(run, spoil, said):
    folder, _ = run
    place = folder / "checkpoint-2" / "pytorch_model_fsdp_0"
    spoil(place)
    (folder / "checkpoint-2" / "optimizer_0" / ".metadata").unlink()
    before = contents(folder)
    with pytest.raises(ValueError, match=f"from_pretrained_run: .*{said}") as told:
        TracInWE.from_pretrained_run(folder, [{"input_ids": torch.arange(3)}])
    assert "remove it" not in str(told.value)
    assert contents(folder) == before


def test_a_part_that_is_cut_is_refused_and_the_model_unchanged(tmp_path):
    model, before = TinyCNN(), TinyCNN()
    model.load_state_dict(before.state_dict())
    in_two_parts(TinyCNN().state_dict(), tmp_path / "a")
    file = tmp_path / "a" / "__1_0.distcp"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not whole: __1_0.distcp is shorter"):
        load_checkpoint(model, tmp_path / "a")
    assert same(model, before)


class Boom:
    def __reduce__(self):
        return (os.mkdir, ("pwned",))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".metadata", lambda _: pickle.dumps(Boom())),
        (".metadata", lambda _: pickle.dumps(Metadata({"a": Boom()}, None, {}))),
        (".metadata", lambda old: old.replace(b"__0_0.distcp", b"../x0.distcp")),
        ("__0_0.distcp", lambda old: pickle.dumps(Boom()).ljust(len(old), b"\0")),
    ],
    ids=["instead", "within", "outside", "a part"],
)
def test_nothing_in_a_folder_is_run_and_nothing_outside_is_read(tmp_path, monkeypatch, name, content):
    monkeypatch.chdir(tmp_path)
    save_dcp({"model": TinyCNN().state_dict()}, tmp_path / "a")
    (tmp_path / "x0.distcp").write_bytes((tmp_path / "a" / "__0_0.distcp").read_bytes())
    file = tmp_path / "a" / name
    file.write_bytes(content(file.read_bytes()))
    with pytest.raises(ValueError, match="cannot be read|is refused"):
        load_checkpoint(TinyCNN(), tmp_path / "a")
    assert not (tmp_path / "pwned").exists()


# --------------------------------------------------------------------------------------------------------- DeepSpeed


def deepspeed(model, folder, tag="global_step5", name="mp_rank_00_model_states.pt", rate=0.25, **more):
    """What DeepSpeed 0.19 saves of ZeRO up to stage 2; of stage 3 under another name, each process its part."""
    scheduler = {"base_lrs": [1.0], "last_epoch": 5, "_last_lr": [rate], "lr_lambdas": [None]}
    state = {
        "module": model.state_dict(),
        "buffer_names": [],
        "optimizer": None,
        "param_shapes": [{name: value.shape for name, value in model.state_dict().items()}],
        "lr_scheduler": scheduler,
        "sparse_tensor_module_names": set(),
        "global_steps": 5,
        "ds_config": {"train_batch_size": 4},
        "ds_version": "0.19.8",
    }
    (folder / tag).mkdir(parents=True)
    torch.save({**state, **more}, folder / tag / name)
    torch.save({"optimizer_state_dict": {}}, folder / tag / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    (folder / "latest").write_text(tag)
    (folder / "zero_to_fp32.py").write_text("print('convert')")


def test_deepspeeds_whole_weights_are_read_with_the_schedulers_rate(tmp_path):
    saved = [TinyCNN(), TinyCNN()]
    for step, model in enumerate(saved, 1):
        deepspeed(model.half(), tmp_path / "run", f"global_step{step}", rate=0.1 * step)
    found = find_checkpoints(tmp_path / "run")
    assert found == [str(tmp_path / "run" / f"global_step{step}") for step in (1, 2)]
    for step, path in enumerate(found, 1):
        other = TinyCNN()
        assert load_checkpoint(other, path) == 0.1 * step
        assert same(other, saved[step - 1].float())


def test_a_checkpoint_of_trainer_with_deepspeed_is_read(tmp_path):
    model, other, place = tiny_bert(), tiny_bert(), tmp_path / "run" / "checkpoint-5"
    deepspeed(model, place)
    save_config(model, place)
    tracin = TracInWE.from_pretrained_run(tmp_path / "run", [{"input_ids": torch.arange(3)}])
    assert load_checkpoint(other, tracin.checkpoints[0]) == 0.25
    assert same(other, model)
    assert same(tracin.model, model)


@pytest.mark.parametrize("inside", [True, False], ids=["the run's folder", "a tag's"])
def test_weights_that_deepspeed_has_cut_come_with_the_command_that_converts_them(tmp_path, inside):
    run = tmp_path / "run" / "checkpoint-5"
    deepspeed(TinyCNN(), run, name="zero_pp_rank_0_mp_rank_00_model_states.pt")
    before = contents(tmp_path)
    command = f"python {run}/zero_to_fp32.py {run} CONVERTED" + ("`" if inside else " -t global_step5`")
    with pytest.raises(ValueError, match=rf"is DeepSpeed's, its weights cut into parts .*{command}.*pass the folder"):
        load_checkpoint(TinyCNN(), run if inside else run / "global_step5")
    with pytest.raises(ValueError, match="zero_to_fp32.py") as told:
        TracInWE.from_pretrained_run(tmp_path / "run", [{"input_ids": torch.arange(3)}], model=TinyCNN())
    assert "remove it" not in str(told.value)
    assert contents(tmp_path) == before


def test_objects_among_deepspeeds_weights_are_not_made_and_the_way_out_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    deepspeed(TinyCNN(), tmp_path / "run", args=Boom())
    with pytest.raises(ValueError, match=r"reading it could run code.*zero_to_fp32.py .* CONVERTED -t global_step5"):
        load_checkpoint(TinyCNN(), tmp_path / "run")
    assert not (tmp_path / "pwned").exists()


def test_what_each_process_of_fsdp_held_by_itself_is_said_to_be_that(tmp_path):
    place = tmp_path / "run" / "checkpoint-1"
    place.mkdir(parents=True)
    torch.save({"_flat_param": torch.zeros(3)}, place / "pytorch_model_fsdp_rank0.bin")
    with pytest.raises(ValueError, match="held by itself.*SHARDED_STATE_DICT or FULL_STATE_DICT") as told:
        TracInWE.from_pretrained_run(tmp_path / "run", [{"input_ids": torch.arange(3)}], model=TinyCNN())
    assert "remove it" not in str(told.value)
    shutil.rmtree(place)
    place.mkdir()
    torch.save(TinyCNN().state_dict(), place / "pytorch_model_fsdp.bin")  # gathered
    load_checkpoint_quietly(TinyCNN(), place)


def megatrons(folder):
    (folder / "iter_0000100" / "mp_rank_00").mkdir(parents=True)
    content = {"model": {"language_model": TinyCNN().state_dict()}, "iteration": 100, "lr": 0.5}
    torch.save(content, folder / "iter_0000100" / "mp_rank_00" / "model_optim_rng.pt")
    (folder / "latest_checkpointed_iteration.txt").write_text("100")
    return folder / "iter_0000100", "is Megatron's: expected weights under the model's own names.*convert.py"


def undescribed(folder):
    save_dcp({"model": TinyCNN().state_dict()}, folder / "step-1")
    (folder / "step-1" / ".metadata").unlink()
    return folder / "step-1", r"has parts \(__0_0.distcp\) without .metadata.*whose save had ended"


def undescribed_by_accelerate(folder):
    save_dcp({"model": TinyCNN().state_dict()}, folder / "checkpoint-1" / "pytorch_model_fsdp_0")
    (folder / "checkpoint-1" / "pytorch_model_fsdp_0" / ".metadata").unlink()
    return folder / "checkpoint-1", r"has parts \(__0_0.distcp\) without .metadata"


@pytest.mark.parametrize("way", [megatrons, undescribed, undescribed_by_accelerate])
def test_weights_that_cannot_be_put_together_are_found_and_told_with_the_way_out(way, tmp_path):
    place, words = way(tmp_path)
    before = contents(tmp_path)
    assert find_checkpoints(tmp_path) == [str(place)]
    for given in (place, *(one for one in place.iterdir() if one.is_dir())):
        model, same_model = TinyCNN(), TinyCNN()
        same_model.load_state_dict(model.state_dict())
        (found,) = find_checkpoints(given)
        with pytest.raises(ValueError, match=words):
            load_checkpoint(model, found)
        assert same(model, same_model)
    assert contents(tmp_path) == before


def test_the_file_that_is_named_for_a_megatron_model_is_read(tmp_path):
    place, words = megatrons(tmp_path)
    with pytest.raises(ValueError, match=f"{words}.*one rank only, pass the file '") as told:
        load_checkpoint(TinyCNN(), place)
    assert load_checkpoint(TinyCNN(), str(told.value).split("'")[-2]) == 0.5


@pytest.mark.slow
def test_what_two_processes_of_fsdp_save_is_what_they_trained(tmp_path):
    together(_process, str(tmp_path))
    other = TinyCNN()
    assert load_checkpoint(other, tmp_path / "step-1") == 0.05
    whole = torch.load(tmp_path / "whole.pt", weights_only=True)
    assert all(torch.equal(value, whole[name]) for name, value in other.state_dict().items())


def _process(rank, folder):
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_state_dict
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = fully_shard(TinyCNN())
    rest = [parameter for name, parameter in model.named_parameters() if name != "embedding.weight"]
    optimizer = torch.optim.AdamW([{"params": rest, "lr": 1.0}, {"params": [model.embedding.weight], "lr": 0.05}])
    model(torch.arange(12).view(2, 6)).sum().backward()
    optimizer.step()
    weights, states = get_state_dict(model, optimizer)
    dcp.save({"app": {"model": weights, "optim": states}}, checkpoint_id=f"{folder}/step-1")
    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    if rank == 0:
        torch.save(whole, f"{folder}/whole.pt")
