"""Builds the CUDA kernels for emulated threads (`cuda_emulated/`) and runs generated cases on them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import captum_tracinwe.rows.kernels as kernels

HERE = Path(__file__).parent / "cuda_emulated"
KERNELS = Path(kernels.__file__).parent
OPS = ("row_dot", "posting_dot", "row_dot_terms")
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
# What each build looks for. Accesses are watched through the calls that -fsanitize=thread puts before them, which lead to the
# emulator instead of the thread sanitizer's library.
WATCH = ("-fsanitize=thread",)
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
OLD = ("-DCUDA_EMULATED_OLD",)  # as on devices before Ampere: no copies that run by themselves, no tensor cores


def compiler_works() -> bool:
    """GCC's built-ins and ucontext, so Linux; and the kernels' sources, which an installed package may be without."""
    return COMPILER is not None and sys.platform == "linux" and (KERNELS / "row_dot" / "cuda.cu").is_file()


def build(
    folder: Path,
    *flags: str,
    sources: Path = KERNELS,
    optimise: str = "-O1",
    ops: tuple[str, ...] = OPS,
    base: Path | None = None,
) -> Path:
    """The program that runs the cases, made of the kernels in ``sources``; of other ops than ``ops`` what lies in ``base``."""
    folder.mkdir(parents=True, exist_ok=True)
    include = [f"-I{path}" for path in (HERE / "cuda", HERE / "torch_alike", sources / "csrc")]
    common = [str(COMPILER), "-std=c++17", "-g1", *include, "-DUSE_CUDA", "-DCUDA_EMULATED"]
    allowed = ("unknown-pragmas", "unused-function", "cast-function-type")
    quiet = ["-w"] if base else ["-Wall", "-Wextra", "-Werror", *(f"-Wno-{name}" for name in allowed)]
    own = [flag for flag in flags if flag in SANITIZE]
    watched = ["-DEMULATED_WATCH"] if set(WATCH) <= set(flags) else []
    jobs = {
        **{op: [optimise, *quiet, *flags, "-x", "c++", str(sources / op / "cuda.cu")] for op in ops},
        "cases": ["-O1", *quiet, *own, str(HERE / "cases.cpp")],
        "runtime": ["-O3", *quiet, *watched, str(HERE / "runtime.cpp")],  # switches stacks: no sanitizer
    }
    names = [*OPS, "cases", "runtime"]
    if base is not None:
        jobs = {op: jobs[op] for op in ops}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: _compile([*common, "-c", *job[1], "-o", str(folder / f"{job[0]}.o")]), jobs.items()))
    program = folder / "cases_on_emulated_threads"
    objects = [str((folder if name in jobs else base or folder) / f"{name}.o") for name in names]
    _compile([str(COMPILER), *own, *objects, "-o", str(program)])
    return program


def _compile(command: list[str]) -> None:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{' '.join(command)}\n{run.stderr}"


def start(program: Path, first: int, cases: int, orders: int, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Runs ``cases`` of them from the seed ``first`` on, each in ``orders`` orders of the threads."""
    return subprocess.run(
        [str(program), str(first), str(cases), str(orders)],
        capture_output=True, text=True, check=False, timeout=timeout,
        env={**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1"},
    )  # fmt: skip


def run_all(program: Path, cases: int, orders: int) -> None:
    """In two processes, for two cores; fails with the words of the first that found something."""
    with ThreadPoolExecutor(2) as pool:
        half = cases // 2
        for run in pool.map(lambda first: start(program, first, half, orders), (0, half)):
            assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-6000:]
            assert run.stdout.startswith(f"{half} cases"), run.stdout
