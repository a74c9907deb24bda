"""`captum-tracinwe info`: versions, compiled kernels, GPU."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch

from captum_tracinwe.app.installed import version_of
from captum_tracinwe.rows import ops
from captum_tracinwe.words.legible import as_line

__all__ = ["facts", "tell"]


def facts() -> dict[str, Any]:
    """What is installed here, as data."""
    packages = {name: version_of(name) for name in ("captum-tracinwe", "torch", "captum", "transformers", "numpy")}
    return {
        "packages": {**packages, "torch": torch.__version__},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "kernels": {
            "library": None if ops.NATIVE_LIBRARY is None else str(ops.NATIVE_LIBRARY),
            "why_not": None if ops.NATIVE_LIBRARY is not None else str(ops.native_error),
            "cpu": _compiled("CPU"),
            "cuda": _compiled("CUDA"),
        },
        "cuda": {
            "available": torch.cuda.is_available(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "version": torch.version.cuda,
        },
    }


def tell(found: dict[str, Any], say: Callable[[str], None]) -> None:
    """Say it."""
    kernels, cuda = found["kernels"], found["cuda"]
    loaded = f"loaded from {kernels['library']}"
    if kernels["library"] is None:
        loaded = f"not loaded ({kernels['why_not']}); plain torch is used: same results, slower"
    of_cuda = ", ".join(kernels["cuda"]) or "none"
    if kernels["library"] is not None and not kernels["cuda"]:
        of_cuda = "none: built without a CUDA toolkit; plain torch is used there"
    device = "not available: " + ("no device or driver" if cuda["version"] else "this torch is a CPU build")
    if cuda["available"]:
        device = f"available: {cuda['device']}, CUDA {cuda['version']}"
    for name, value in (
        *found["packages"].items(),
        ("Python", f"{found['python']} on {found['platform']}"),
        ("compiled kernels", loaded),
        ("  for CPU", ", ".join(kernels["cpu"]) or "none"),
        ("  for CUDA", of_cuda),
        ("CUDA", device),
    ):
        say(f"{name:<17} {as_line(value)}")


def _compiled(device: str) -> list[str]:
    return [
        name for name in ops.OPS if torch._C._dispatch_has_kernel_for_dispatch_key(f"captum_tracinwe::{name}", device)
    ]
