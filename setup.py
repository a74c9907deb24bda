"""What is compiled: torch kernels, a library for the CPU and one for CUDA. Everything else about the package stands in setup.cfg.

CAPTUM_TRACINWE_NATIVE=0 builds a pure wheel (the ops then run their reference in plain torch);
CAPTUM_TRACINWE_NATIVE=1 makes a failing compiler an error; unset, a failing compiler costs speed, not the install.

Kernels for CUDA are built where torch is of CUDA and there is an nvcc of the same major version. TORCH_CUDA_ARCH_LIST chooses the
architectures; unset, they are those of the GPUs that are seen, and where none is, as in a container, those that torch itself was
built for. What was built, and why something was not, is left beside the libraries: pip shows nothing of it.
"""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from setuptools import setup

NATIVE = os.environ.get("CAPTUM_TRACINWE_NATIVE", "")
KERNELS = Path("captum_tracinwe", "rows", "kernels")
HOME = "captum_tracinwe.rows.kernels."
CPU, CUDA = "_native", "_native_cuda"
# torch 2.10's stable ABI: one binary serves that and every later torch.
DEFINES = ["-DTORCH_TARGET_VERSION=0x020a000000000000"]  # torch adds -DPy_LIMITED_API itself


def said_by(home, *arguments):
    """What the nvcc of a toolkit says; nothing where there is none, or it fails."""
    try:
        run = subprocess.run([Path(home, "bin", "nvcc"), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return run.stdout + run.stderr


def home_of(found):
    """Where the toolkit lies that torch found by its nvcc: that one may be a link, or a script, far from its libraries."""
    if not found or os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        return found
    top = re.search(r"^#\$ TOP=(.+)$", said_by(found, "--dryrun", "-E", "none.cu"), re.MULTILINE)
    return str(Path(top[1]).resolve()) if top and Path(top[1]).is_dir() else found


def toolkit(torch, home):
    """``(version of nvcc, why there can be no kernels for CUDA)``, one of which is None."""
    if torch.version.cuda is None:
        return None, f"torch {torch.__version__} is no build for CUDA"
    found = re.search(r"release (\d+)\.(\d+)", said_by(home, "--version") if home else "")
    if found is None:
        where = f"none runs in {home}/bin" if home else "CUDA_HOME is not set, and nvcc is not on the PATH"
        return None, f"no nvcc was found ({where}): expected the toolkit of CUDA {torch.version.cuda}"
    version = ".".join(found.groups())
    if found[1] != torch.version.cuda.split(".")[0]:
        return None, (
            f"nvcc is of CUDA {version} and torch {torch.__version__} of CUDA {torch.version.cuda}: expected the same major "
            f"version. CUDA_HOME says where a toolkit lies"
        )
    return version, None


def architectures(torch, home):
    """``(names, flags for nvcc)``: of the GPUs that are seen, else of torch; and code from which newer ones are made."""
    given = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if given and given != "native":
        return given.replace(";", " ").split(), []  # torch reads it
    known = {int(one) for one in re.findall(r"compute_(\d+)\b", said_by(home, "--list-gpu-arch"))}
    seen = [torch.cuda.get_device_capability(number) for number in range(torch.cuda.device_count())]
    wanted = {10 * major + minor for major, minor in seen}
    if not wanted or not wanted <= known:
        wanted |= {int(one) for one in re.findall(r"\d+", " ".join(torch.cuda.get_arch_list()))}
    chosen = sorted(wanted & known)
    if not chosen:
        raise RuntimeError(
            f"nvcc knows none of the architectures {sorted(wanted)} of torch {torch.__version__}; TORCH_CUDA_ARCH_LIST names "
            f"others"
        )
    flags = [f"-gencode=arch=compute_{one},code=sm_{one}" for one in chosen]
    names = [f"{one // 10}.{one % 10}" for one in chosen]
    return [*names[:-1], f"{names[-1]}+PTX"], [*flags, f"-gencode=arch=compute_{chosen[-1]},code=compute_{chosen[-1]}"]


def native():
    import torch
    from torch.utils import cpp_extension
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    home = cpp_extension.CUDA_HOME = home_of(cpp_extension.CUDA_HOME)
    cxx = ["-O3", "-g0", "-std=c++17", "-fvisibility=hidden", *DEFINES]  # -g, which Python adds, makes 0.5 MB 13 MB

    def extension(kind, name, source, arguments):
        return kind(
            HOME + name,
            [str(path) for path in sorted(KERNELS.glob(f"*/{source}"))],
            include_dirs=[str((KERNELS / "csrc").resolve())],
            depends=[str(path) for path in KERNELS.rglob("*.h")],
            extra_compile_args=arguments,
            py_limited_api=True,
        )

    built = {"torch": torch.__version__, "cuda": None, "architectures": [], "why_not": {}}
    extensions = [extension(CppExtension, CPU, "cpu.cpp", cxx)]
    nvcc, why_not = toolkit(torch, home)
    if why_not is None:
        try:
            built["architectures"], flags = architectures(torch, home)
        except RuntimeError as error:
            why_not = str(error)
    if why_not is None:
        built["cuda"] = nvcc
        # Hidden, as for the CPU: both libraries hold functions of the same names.
        flags = ["-O3", "-std=c++17", "-Xcompiler=-fvisibility=hidden", "-DUSE_CUDA", *DEFINES, *flags]
        extensions.append(extension(CUDAExtension, CUDA, "cuda.cu", {"cxx": [], "nvcc": flags}))
    else:
        built["why_not"][CUDA] = why_not

    class Build(BuildExtension):
        """Each library by itself: torch's own ends the install where there is no compiler, or one that fails."""

        def build_extensions(self):
            if why_not is not None and torch.version.cuda:
                print(f"Kernels are compiled for the CPU only: {why_not}.", file=sys.stderr)
            wanted, compiler, self.extensions = self.extensions, self.compiler, []
            done = []
            for one in wanted:
                # A copy, for torch puts its own functions into it, and not twice.
                self.extensions, self.compiler = [one], copy.copy(compiler)
                self.force = self.force or one.name == HOME + CUDA  # other architectures make no source newer
                try:
                    super().build_extensions()
                    done.append(one)
                except Exception as error:
                    if NATIVE == "1":
                        raise
                    name = one.name.removeprefix(HOME)
                    built["why_not"][name] = f"{as_line(error)} (pip install -v shows all that was said)"
                    print(
                        f"The kernels for {'CUDA' if name == CUDA else 'the CPU'} were not compiled ({as_line(error)}): plain "
                        f"torch is used there, same results, slower.",
                        file=sys.stderr,
                    )
            self.extensions, self.compiler = done, compiler

        def run(self):
            """Leave no library of an earlier build where this one made none, and what was built beside those it made."""
            super().run()
            made = {Path(self.get_ext_filename(one.name)).name for one in self.extensions}
            for folder in {Path(self.get_ext_fullpath(HOME + CPU)).parent, Path(self.build_lib, KERNELS)}:
                for library in folder.glob(f"{CPU}*.so"):
                    if library.name not in made:
                        library.unlink()
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "built.json").write_text(json.dumps(built, indent=1) + "\n", encoding="utf-8")

    return {"ext_modules": extensions, "cmdclass": {"build_ext": Build},
            "options": {"bdist_wheel": {"py_limited_api": "cp310"}}}  # fmt: skip


def as_line(error):
    """An error without the hundred arguments of the command that failed."""
    said = re.sub(r"Command '\['([^']+)'.*\]'", r"\1", " ".join(str(error).split()))
    return said if len(said) <= 400 else f"{said[:200]} ... {said[-200:]}"


if NATIVE not in ("", "0", "1"):
    sys.exit(f"CAPTUM_TRACINWE_NATIVE={NATIVE!r}: expected 0 (pure Python), 1 (compile or fail), or nothing.")
setup(**({} if NATIVE == "0" else native()))
