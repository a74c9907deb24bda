"""What is compiled: one library of torch kernels. Everything else about the package stands in setup.cfg.

CAPTUM_TRACINWE_NATIVE=0 builds a pure wheel (the ops then run their reference in plain torch);
CAPTUM_TRACINWE_NATIVE=1 makes a failing compiler an error; unset, a failing compiler costs speed, not the install.
"""

import os
import sys
from pathlib import Path

from setuptools import setup

NATIVE = os.environ.get("CAPTUM_TRACINWE_NATIVE", "")
KERNELS = Path("captum_tracinwe", "rows", "kernels")
# torch 2.10's stable ABI: one binary serves that and every later torch.
DEFINES = ["-DTORCH_TARGET_VERSION=0x020a000000000000"]  # torch adds -DPy_LIMITED_API itself


def native():
    import torch
    from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension

    cuda = bool(torch.version.cuda and CUDA_HOME)
    sources = [str(p) for p in sorted(KERNELS.glob("*/cpu.cpp")) + (sorted(KERNELS.glob("*/cuda.cu")) if cuda else [])]
    cxx = ["-O3", "-g0", "-std=c++17", "-fvisibility=hidden", *DEFINES]  # -g, which Python adds, makes 0.5 MB 13 MB
    nvcc = ["-O3", "-std=c++17", "-DUSE_CUDA", *DEFINES]
    extension = (CUDAExtension if cuda else CppExtension)(
        "captum_tracinwe.rows.kernels._native",
        sources,
        include_dirs=[str((KERNELS / "csrc").resolve())],
        depends=[str(p) for p in KERNELS.rglob("*.h")],
        extra_compile_args={"cxx": cxx, "nvcc": nvcc} if cuda else cxx,
        py_limited_api=True,
        optional=NATIVE != "1",
    )

    class Build(BuildExtension):
        """torch's own ends the install where there is no compiler, or one that fails."""

        def build_extensions(self):
            try:
                super().build_extensions()
            except Exception as error:
                if NATIVE == "1":
                    raise
                print(
                    f"The kernels were not compiled ({error}): plain torch is used, same results, slower.",
                    file=sys.stderr,
                )

    return {"ext_modules": [extension], "cmdclass": {"build_ext": Build},
            "options": {"bdist_wheel": {"py_limited_api": "cp310"}}}  # fmt: skip


if NATIVE not in ("", "0", "1"):
    sys.exit(f"CAPTUM_TRACINWE_NATIVE={NATIVE!r}: expected 0 (pure Python), 1 (compile or fail), or nothing.")
setup(**({} if NATIVE == "0" else native()))
