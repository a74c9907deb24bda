"""setup.py with a torch of CUDA and an nvcc that are played: what is built, for which architectures, what is said."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import setuptools
import torch
from setuptools import Distribution
from torch.utils import cpp_extension

from captum_tracinwe.app import info
from captum_tracinwe.rows.kernels import library

ROOT = Path(__file__).parents[1]
needs_source = pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="the checkout's setup.py is not here")
NVCC = """#!/bin/sh
case "$*" in
  --version) echo "Cuda compilation tools, release {version}, V{version}.1" ;;
  --list-gpu-arch) printf 'compute_%s\\n' 80 90 100 ;;
  --dryrun*) echo '#$ TOP={home}/bin/..' >&2 ;;
  *) exit 1 ;;
esac
"""


@pytest.fixture
def toolkit(tmp_path, monkeypatch):
    """Plays an nvcc of a version, found on the PATH under another folder than its own; gives that of its own."""

    def play(version: str) -> Path:
        home, found = tmp_path / "cuda", tmp_path / "local"
        for folder in (home, found):
            (folder / "bin").mkdir(parents=True)
            (folder / "bin/nvcc").write_text(NVCC.format(version=version, home=home))
            (folder / "bin/nvcc").chmod(0o755)
        monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(found))
        return home

    monkeypatch.chdir(ROOT)
    for name in ("TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CUDA_PATH", "CAPTUM_TRACINWE_NATIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_100", "compute_120"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    return play


@pytest.fixture
def set_up(monkeypatch):
    """What setup.py hands to setuptools."""

    def run() -> dict:
        given: dict = {}
        monkeypatch.setattr(setuptools, "setup", given.update)
        runpy.run_path(str(ROOT / "setup.py"))
        return given

    return run


def built_by(given: dict, folder: Path, fails: str, monkeypatch: pytest.MonkeyPatch) -> dict:
    """A build in which the compiler fails for one library and makes the others; what it leaves."""

    def compile_one(self):
        (extension,) = self.extensions
        if extension.name.endswith(fails):
            raise RuntimeError("Command '['nvcc', '-O3', '-c']' returned non-zero exit status 1.")
        path = Path(self.get_ext_fullpath(extension.name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    monkeypatch.setattr(cpp_extension.BuildExtension, "build_extensions", compile_one)
    command = given["cmdclass"]["build_ext"](
        Distribution({"name": "x", "ext_modules": given["ext_modules"], "packages": []})
    )
    command.build_lib, command.build_temp = str(folder), str(folder / "temp")
    command.ensure_finalized()
    command.run()
    return json.loads((folder / "captum_tracinwe/rows/kernels/built.json").read_text())


@needs_source
def test_without_a_gpu_the_architectures_are_those_of_torch_that_nvcc_knows(toolkit, set_up):
    home = toolkit("13.0")
    cpu, cuda = set_up()["ext_modules"]
    assert [extension.name.rpartition(".")[2] for extension in (cpu, cuda)] == ["_native", "_native_cuda"]
    assert [flag for flag in cuda.extra_compile_args["nvcc"] if "gencode" in flag] == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_100,code=sm_100",
        "-gencode=arch=compute_100,code=compute_100",
    ]
    assert all(source.endswith(".cu") for source in cuda.sources)
    assert all(source.endswith(".cpp") for source in cpu.sources)
    assert "torch_cuda" not in cpu.libraries  # a wheel of both loads under a torch for the CPU
    assert str(home) == cpp_extension.CUDA_HOME  # where nvcc's libraries lie, and not where a script that calls it does


@needs_source
def test_architectures_that_are_given_are_torchs_to_read(toolkit, set_up, monkeypatch):
    toolkit("13.0")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0;10.0+PTX")
    cuda = set_up()["ext_modules"][1]
    assert not [flag for flag in cuda.extra_compile_args["nvcc"] if "arch" in flag]


@needs_source
def test_an_nvcc_of_another_major_version_is_told_and_the_cpu_is_built(toolkit, set_up, monkeypatch, tmp_path, capsys):
    toolkit("12.8")
    given = set_up()
    assert [extension.name for extension in given["ext_modules"]] == ["captum_tracinwe.rows.kernels._native"]
    why = built_by(given, tmp_path / "lib", "nothing", monkeypatch)["why_not"]["_native_cuda"]
    assert why.startswith(
        f"nvcc is of CUDA 12.8 and torch {torch.__version__} of CUDA 13.0: expected the same major version"
    )
    assert f"Kernels are compiled for the CPU only: {why}." in capsys.readouterr().err


@needs_source
def test_no_nvcc_is_told(toolkit, set_up, monkeypatch, tmp_path):
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    why = built_by(set_up(), tmp_path / "lib", "nothing", monkeypatch)["why_not"]["_native_cuda"]
    assert why.startswith(
        "no nvcc was found (CUDA_HOME is not set, and nvcc is not on the PATH): expected the toolkit of CUDA 13.0"
    )


@needs_source
@pytest.mark.parametrize(("fails", "stays"), [("_native_cuda", "_native"), ("_native", "_native_cuda")])
def test_a_library_that_fails_costs_the_other_nothing(fails, stays, toolkit, set_up, monkeypatch, tmp_path, capsys):
    toolkit("13.0")
    kernels = tmp_path / "lib/captum_tracinwe/rows/kernels"
    kernels.mkdir(parents=True)
    (kernels / f"{fails}.abi3.so").write_text("of an earlier build")
    told = built_by(set_up(), tmp_path / "lib", fails, monkeypatch)
    assert [path.name.partition(".")[0] for path in kernels.glob("*.so")] == [stays]
    assert told["why_not"] == {fails: "nvcc returned non-zero exit status 1. (pip install -v shows all that was said)"}
    assert told["architectures"] == ["8.0", "10.0+PTX"]
    assert (
        "were not compiled (nvcc returned non-zero exit status 1.): plain torch is used there"
        in capsys.readouterr().err
    )


@needs_source
def test_a_failing_compiler_is_an_error_where_kernels_are_demanded(toolkit, set_up, monkeypatch, tmp_path):
    toolkit("13.0")
    monkeypatch.setenv("CAPTUM_TRACINWE_NATIVE", "1")
    with pytest.raises(RuntimeError, match="non-zero exit status"):
        built_by(set_up(), tmp_path / "lib", "_native_cuda", monkeypatch)


# ------------------------------------------------------------------------------------------------------- what is loaded


def test_a_library_for_cuda_is_left_alone_under_a_torch_for_the_cpu(monkeypatch, tmp_path):
    (tmp_path / "_native_cuda.abi3.so").write_text("no library")
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    monkeypatch.setattr(torch.version, "cuda", None)
    said = f"_native_cuda.abi3.so is not loaded: torch {torch.__version__} is no build for CUDA"
    assert library.load_native(library.CUDA) == (None, said)


def test_why_a_library_was_not_built_is_told_where_it_is_missed(monkeypatch, tmp_path):
    (tmp_path / "built.json").write_text(json.dumps({"why_not": {"_native_cuda": "no nvcc was found"}}))
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    assert library.load_native(library.CUDA)[1] == "the package was built without kernels for CUDA: no nvcc was found"
    assert library.load_native(library.CPU)[1] == "the package was built without compiled kernels"


# ----------------------------------------------------------------------------------------------------------------- info


def told_of(kernels: dict, cuda: dict) -> dict[str, str]:
    found = info.facts()
    lines: list[str] = []
    info.tell({**found, "kernels": {**found["kernels"], **kernels}, "cuda": {**found["cuda"], **cuda}}, lines.append)
    return {line[:17].strip(): line[18:] for line in lines}


GPU = {"available": True, "device": "NVIDIA H200", "version": "13.0", "architecture": "9.0"}
KERNELS = {
    "cuda_library": "/x/_native_cuda.abi3.so",
    "cuda": ["row_dot", "row_dot_terms"],
    "built_with_cuda": "13.0",
    "architectures": ["8.0", "9.0+PTX"],
}


def test_info_says_which_ops_have_kernels_for_cuda_and_which_run_in_plain_torch():
    told = told_of(KERNELS, GPU)
    assert told["for CUDA"] == (
        "row_dot, row_dot_terms (CUDA 13.0, architectures 8.0, 9.0+PTX); plain torch: posting_dot"
    )
    assert told["CUDA"] == "available: NVIDIA H200, architecture 9.0, CUDA 13.0"
    why = {"cuda_library": None, "cuda_why_not": "the package was built without kernels for CUDA", "cuda": []}
    assert told_of(why, GPU)["for CUDA"] == (
        "none: the package was built without kernels for CUDA; plain torch is used there: same results, slower"
    )
    assert "plain torch" not in told_of(why, {"version": None})["for CUDA"]


@pytest.mark.parametrize(
    ("device", "served"),
    [("7.5", False), ("8.0", True), ("8.6", True), ("9.0", True), ("10.0", True), ("12.1", True)],
)
def test_info_says_where_the_kernels_are_of_other_architectures(device, served):
    assert ("will fail there" in told_of(KERNELS, {**GPU, "architecture": device})["CUDA"]) is not served


def test_code_of_a_later_minor_version_or_of_another_major_one_does_not_run():
    told = told_of({**KERNELS, "architectures": ["8.6", "9.0"]}, {**GPU, "architecture": "8.0"})["CUDA"]
    assert told.endswith("expected them built for 8.0, with TORCH_CUDA_ARCH_LIST=8.0 or unset")
    assert "will fail" in told_of({**KERNELS, "architectures": ["9.0"]}, {**GPU, "architecture": "10.0"})["CUDA"]
    assert "will fail" not in told_of({**KERNELS, "architectures": ["Hopper"]}, GPU)["CUDA"]
