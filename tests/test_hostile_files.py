"""Files beside and around weights that are rewritten, compressed, hostile or odd: refused in our words, or harmless."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from captum_tracinwe import load_checkpoint, save_checkpoint
from captum_tracinwe.app.testing import TinyCNN
from captum_tracinwe.checkpoints import reading
from captum_tracinwe.checkpoints.rates import trainer_rate
from captum_tracinwe.checkpoints.weights import assign_checkpoint, check_whole, find_checkpoints

HERE = Path(__file__).parent
FILES = int(os.environ.get("CAPTUM_TRACINWE_FUZZ", "40"))


def run(script, *arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=3000)


def weights(model):
    return torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])


def rezipped(path, method=zipfile.ZIP_DEFLATED, change=lambda name, content: [(name, content)]):
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w", method) as archive:
        for entry in entries:
            for name, content in change(*entry):
                archive.writestr(name, content)


@pytest.mark.parametrize("kind", ["a.pt", "a.safetensors", "shards"])
def test_a_checkpoint_that_is_overwritten_while_it_is_read_is_right_or_refused(tmp_path, kind):
    done = run("rewriting.py", kind, tmp_path, 1)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["right"]
    assert told["refused"]


def test_a_rewritten_file_is_said_to_be(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "a.pt", TinyCNN(), 0.5)
    original = torch.load

    def meanwhile(*given, **options):
        found = original(*given, **options)
        (tmp_path / "a.pt").write_bytes(b"new")
        return found

    monkeypatch.setattr(torch, "load", meanwhile)
    model = TinyCNN()
    before = weights(model)
    with pytest.raises(ValueError, match=r"a.pt' was rewritten while it was read: .* and 3 after.*and rename"):
        load_checkpoint(model, tmp_path / "a.pt")
    assert torch.equal(weights(model), before)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("load", [load_checkpoint, assign_checkpoint])
def test_a_zipped_checkpoint_has_the_weights_that_were_saved(tmp_path, monkeypatch, load, method, mapped):
    monkeypatch.setattr(reading, "MAPPED_FROM", 0 if mapped else reading.MAPPED_FROM)
    saved, found = TinyCNN(), TinyCNN()
    for tensor in saved.parameters():
        tensor.data.fill_(0.5)  # what is compressed best
    save_checkpoint(tmp_path / "a.pt", saved, 0.5)
    save_checkpoint(tmp_path / "a.safetensors", saved, 0.25)
    rezipped(tmp_path / "a.pt", method)
    torch.save(
        {"param_groups": [{"lr": 0.5, "params": [0]}], "state": {0: {"a": torch.ones(999)}}}, tmp_path / "optimizer.pt"
    )
    rezipped(tmp_path / "optimizer.pt", method)
    assert load(found, tmp_path / "a.pt") == 0.5
    assert torch.equal(weights(found), weights(saved))
    assert load(TinyCNN(), tmp_path / "a.safetensors") == 0.25
    assert trainer_rate(tmp_path, None) == 0.5


def encrypted(path):
    content = bytearray(path.read_bytes())
    for signature, flag in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(signature)
        while place >= 0:
            content[place + flag] |= 1
            place = content.find(signature, place + 4)
    path.write_bytes(content)


def other_size(path):
    content = bytearray(path.read_bytes())
    place = content.find(b"PK\x01\x02")
    content[place + 20 : place + 24] = (1 << 20).to_bytes(4, "little")
    path.write_bytes(content)


def overlapping(path):
    content = bytearray(path.read_bytes())
    first = content.find(b"PK\x01\x02")
    second = content.find(b"PK\x01\x02", first + 4)
    content[second + 42 : second + 46] = content[first + 42 : first + 46]
    path.write_bytes(content)


def bomb(path):
    rezipped(path, change=lambda name, data: [(name, data + b"." * 300_000_000 if name.endswith(".pkl") else data)])


def numbers_bomb(path):
    rezipped(path, change=lambda name, data: [(name, bytes(300_000_000) if name.endswith("data/0") else data)])


def old_bomb(path):
    path.write_bytes(b"\x80\x02" + b"]" * 1_000_000)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (encrypted, "encrypted"),
        (other_size, "size"),
        (overlapping, "lies over another"),
        (bomb, "data.pkl has 300,.*[Ee]xpected at most 1"),
        (numbers_bomb, "would become 300,"),
        (old_bomb, "its pickle has .*[Ee]xpected at most 100,000 beside"),
        (lambda path: rezipped(path, change=lambda name, data: [(name, data), (name.upper(), data)]), "one twice"),
        (lambda path: rezipped(path, zipfile.ZIP_LZMA), "compressed in a way"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + path.read_bytes()), "before its first|does not begin"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "something behind it"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_that_is_not_in_order_is_refused_before_it_is_read(tmp_path, monkeypatch, spoil, said):
    monkeypatch.setattr(reading, "MOST_DESCRIPTION", 100_000)
    save_checkpoint(tmp_path / "a.pt", TinyCNN(), 0.5)
    spoil(tmp_path / "a.pt")
    model = TinyCNN()
    before = weights(model)
    with pytest.raises(ValueError, match=rf"a.pt' cannot be read: .*{said}"):
        load_checkpoint(model, tmp_path / "a.pt")
    assert torch.equal(weights(model), before)


def test_files_from_before_torch_1_6_are_read(tmp_path):
    saved, found = TinyCNN(), TinyCNN()
    torch.save({"lr": 0.5, "model": saved.state_dict()}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert load_checkpoint(found, tmp_path / "a.pt") == 0.5
    assert torch.equal(weights(found), weights(saved))


def changed_header(change):
    def spoil(path):
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.dumps(change(json.loads(content[8 : 8 + length]))).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])

    return spoil


def entry(**changes):
    return changed_header(lambda header: header | {"out.bias": header["out.bias"] | changes})


@pytest.mark.parametrize(
    "spoil",
    [
        entry(data_offsets=[0, 12]),
        entry(data_offsets=[1 << 60, (1 << 60) + 12]),
        entry(data_offsets=[12, 0]),
        entry(data_offsets=[-12, 0]),
        entry(data_offsets="0"),
        entry(shape=[1 << 62, 1 << 62]),
        entry(shape=[3] * 999),
        entry(dtype="F7"),
        changed_header(lambda header: header | {"__metadata__": {"learning_rate": 1}}),
        changed_header(lambda header: header | {"__metadata__": {"learning_rate": "fast"}}),
        changed_header(lambda header: header | {"__metadata__": {"learning_rate": "inf"}}),
        changed_header(list),
        changed_header(lambda header: {**header, "more": 1}),
        lambda path: path.write_bytes((1 << 63).to_bytes(8, "little") + path.read_bytes()[8:]),
        lambda path: path.write_bytes((90_000).to_bytes(8, "little") + b"[" * 90_000),
        lambda path: path.write_bytes(path.read_bytes() + b"more"),
    ],
)
def test_a_header_of_safetensors_that_is_not_in_order_is_refused(tmp_path, spoil):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, TinyCNN(), 0.5)
    spoil(path)
    with pytest.raises(ValueError, match=r"a\.safetensors'.*xpected"):
        load_checkpoint(TinyCNN(), path)


def odd_states():
    state = TinyCNN().state_dict()
    weight = state["embedding.weight"]
    return {
        "integer keys": {**state, 5: weight},
        "sparse": {**state, "embedding.weight": weight.to_sparse()},
        "meta": {**state, "embedding.weight": weight.to("meta")},
        "complex": {**state, "embedding.weight": weight.to(torch.complex64)},
        "whole numbers": {**state, "embedding.weight": weight.to(torch.int64)},
        "quantised": {**state, "embedding.weight": torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)},
        "a list": {**state, "embedding.weight": weight.tolist()},
        "None": {**state, "embedding.weight": None},
    }


@pytest.mark.parametrize("what", odd_states())
def test_a_state_dict_of_other_things_than_dense_weights_is_refused_and_the_model_unchanged(tmp_path, what):
    torch.save({"model_state_dict": odd_states()[what], "learning_rate": 0.5}, tmp_path / "a.pt")
    model = TinyCNN()
    before = weights(model)
    with pytest.raises(ValueError, match=r"a\.pt' (has the key 5|does not fit.*embedding.weight is ).*xpected"):
        load_checkpoint(model, tmp_path / "a.pt")
    assert torch.equal(weights(model), before)


@pytest.mark.parametrize(
    "rate",
    ["fast", [1.0, 1.0], {"a": 1}, True, 1j, float("nan"), 10**400, torch.ones(2), torch.ones((), device="meta"), -1],
)
def test_a_rate_that_is_none_is_refused_wherever_it_stands(tmp_path, rate):
    state = TinyCNN().state_dict()
    torch.save({"model": state, "lr": rate}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt'.*finite number ≥ 0, got"):
        load_checkpoint(TinyCNN(), tmp_path / "a.pt")
    for name, content in (("scheduler.pt", {"_last_lr": [rate]}), ("optimizer.pt", {"param_groups": [{"lr": rate}]})):
        torch.save(content, tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name} holds.*finite number ≥ 0, got.*Remove it"):
            trainer_rate(tmp_path, None)
        (tmp_path / name).unlink()


@pytest.mark.parametrize("map_", [[], None, {}, {"a": 1}, {"a": "../a"}, {"a": "/a"}, {"a": ".."}, {"a": ["b"]}, "x"])
def test_shards_are_plain_names_beside_their_index(tmp_path, map_):
    place = tmp_path / "inner"
    place.mkdir()
    save_file(TinyCNN().state_dict(), tmp_path / "a")
    for content in ({"weight_map": map_}, map_):
        (place / "model.safetensors.index.json").write_text(json.dumps(content))
        for ask in (lambda: load_checkpoint(TinyCNN(), place), lambda: check_whole(place)):
            with pytest.raises(ValueError, match=r"index.json' cannot be read .*[Ee]xpected a JSON `weight_map`"):
                ask()


def test_digits_that_are_no_numbers_are_names(tmp_path):
    for name in ("9²9.pt", "9٣.pt"):
        (tmp_path / name).touch()
    assert len(find_checkpoints(tmp_path)) == 2


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a.pt' is no regular file"):
        load_checkpoint(TinyCNN(), tmp_path / "a.pt")


@pytest.mark.slow
def test_odd_and_hostile_files_are_refused_by_name_or_harmless(tmp_path):
    done = run("hostile_files.py", FILES, tmp_path)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["wrong"] == []
    assert sum(told["refused"].values()) + sum(told["harmless"].values()) == FILES
    assert sum(told["refused"].values()) > FILES / 4
