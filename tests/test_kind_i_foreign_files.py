"""Kind I: what is no checkpoint that can be read is said to be what it is, with lines that convert it and do so."""

import re

import numpy
import pytest
import torch
from safetensors.torch import save_file

from captum_tracinwe import load_checkpoint, save_checkpoint
from captum_tracinwe.app.testing import TinyCNN
from captum_tracinwe.checkpoints.weights import check_whole


def same(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


PICKLED = {
    "a rate of numpy": (
        lambda model: {"model": model.state_dict(), "lr": numpy.float64(0.25)},
        r"numpy\._?core\.multi",
    ),
    "a whole model": (lambda model: model, r"captum_tracinwe\.app\.testing\.TinyCNN"),
    "an object beside it": (
        lambda model: {"lr": 0.25, "model": model.state_dict(), "rng": numpy.random.RandomState(0).get_state()},
        r"numpy\._?core\.multiarray",
    ),
}


@pytest.mark.parametrize("what", PICKLED)
def test_the_lines_that_are_given_convert_what_is_pickled(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, named = PICKLED[what]
    model, other = TinyCNN(), TinyCNN()
    torch.save(make(model), "step-1.pt")
    with pytest.raises(ValueError, match=rf"plain values \({named}.*\), and reading it could run code") as told:
        load_checkpoint(other, "step-1.pt")
    first, of_model, of_dict = re.findall("`(.*?)`", str(told.value))
    names = {"torch": torch, "captum_tracinwe": __import__("captum_tracinwe")}
    exec(first, names)
    exec(of_model.replace("...", "0.25") if what == "a whole model" else of_dict, names)
    assert load_checkpoint(other, "CONVERTED.pt") == 0.25
    assert same(other, model)


FOREIGN = {
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2\nsize 123\n", "Run `git lfs pull` in '"),
    "a web page": (b"<!DOCTYPE html><html><body>404</body></html>", "Download the file itself"),
    "gguf": (b"GGUF\x03" + bytes(100), r"from_pretrained\('.*', gguf_file='.*'\).save_pretrained\('CONVERTED'\)"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(100), "Save the weights of the PyTorch model"),
}


@pytest.mark.parametrize("name", ["step-1.pt", "step-1.safetensors", "checkpoint-1/model.safetensors"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_of_another_kind_is_called_what_it_is(kind, name, tmp_path):
    content, way = FOREIGN[kind]
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    place = file.parent if file.parent != tmp_path else file
    model, before = TinyCNN(), TinyCNN()
    before.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match=way) as told:
        load_checkpoint(model, place)
    assert "truncated" not in str(told.value)
    assert "run code" not in str(told.value)
    assert same(model, before)
    if place != file:
        with pytest.raises(ValueError, match=way):
            check_whole(place)


def test_weights_under_the_other_formats_name_are_told(tmp_path):
    save_file(TinyCNN().state_dict(), tmp_path / "a.pt")
    save_checkpoint(tmp_path / "b.pt", TinyCNN(), 0.5)
    (tmp_path / "b.pt").rename(tmp_path / "b.safetensors")
    for name, way in (("a.pt", r"is of safetensors, .*Name it \*.safetensors"), ("b.safetensors", r"Name it \*.pt")):
        with pytest.raises(ValueError, match=way):
            load_checkpoint(TinyCNN(), tmp_path / name)
