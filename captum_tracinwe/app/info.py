"""`captum-tracinwe info`: versions, compiled kernels, GPU."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch

from captum_tracinwe.app.installed import version_of
from captum_tracinwe.rows import ops
from captum_tracinwe.rows.kernels.library import built, kernels_for
from captum_tracinwe.words.legible import as_line

__all__ = ["facts", "tell"]


def facts() -> dict[str, Any]:
    """What is installed here, as data."""
    packages = {name: version_of(name) for name in ("captum-tracinwe", "torch", "captum", "transformers", "numpy")}
    made, cuda_library = built(), ops.NATIVE_CUDA_LIBRARY
    available = torch.cuda.is_available()
    return {
        "packages": {**packages, "torch": torch.__version__},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "kernels": {
            "library": None if ops.NATIVE_LIBRARY is None else str(ops.NATIVE_LIBRARY),
            "why_not": None if ops.NATIVE_LIBRARY is not None else str(ops.native_error),
            "cpu": kernels_for("CPU"),
            "cuda_library": None if cuda_library is None else str(cuda_library),
            "cuda_why_not": None if cuda_library is not None else str(ops.native_cuda_error),
            "cuda": kernels_for("CUDA"),
            "built_with": made.get("torch"),
            "built_with_cuda": made.get("cuda") if cuda_library is not None else None,
            "architectures": made.get("architectures", []) if cuda_library is not None else [],
        },
        "cuda": {
            "available": available,
            "device": torch.cuda.get_device_name() if available else None,
            "version": torch.version.cuda,
            "architecture": "{}.{}".format(*torch.cuda.get_device_capability()) if available else None,
        },
    }


def tell(found: dict[str, Any], say: Callable[[str], None]) -> None:
    """Say it."""
    kernels, cuda = found["kernels"], found["cuda"]
    for name, value in (
        *found["packages"].items(),
        ("Python", f"{found['python']} on {found['platform']}"),
        ("compiled kernels", _of_cpu(kernels)),
        ("  for CPU", ", ".join(kernels["cpu"]) or "none"),
        ("  for CUDA", _of_cuda(kernels, cuda)),
        ("CUDA", _device(kernels, cuda)),
    ):
        say(f"{name:<17} {as_line(value)}")


def _of_cpu(kernels: dict[str, Any]) -> str:
    if kernels["library"] is None:
        return f"not loaded ({kernels['why_not']}); plain torch is used: same results, slower"
    made = f", built with torch {kernels['built_with']}" if kernels["built_with"] else ""
    return f"loaded from {kernels['library']}{made}"


def _of_cuda(kernels: dict[str, Any], cuda: dict[str, Any]) -> str:
    if kernels["cuda_library"] is None:
        # With a torch for the CPU nothing is amiss.
        plain = "; plain torch is used there: same results, slower" if cuda["version"] else ""
        return f"none: {kernels['cuda_why_not']}{plain}"
    rest = [name for name in ops.OPS if name not in kernels["cuda"]]
    of = f"CUDA {kernels['built_with_cuda']}, architectures {', '.join(kernels['architectures']) or 'unknown'}"
    return f"{', '.join(kernels['cuda']) or 'none'} ({of})" + (f"; plain torch: {', '.join(rest)}" if rest else "")


def _device(kernels: dict[str, Any], cuda: dict[str, Any]) -> str:
    if not cuda["available"]:
        return "not available: " + ("no device or driver" if cuda["version"] else "this torch is a CPU build")
    said = f"available: {cuda['device']}, architecture {cuda['architecture']}, CUDA {cuda['version']}"
    if kernels["architectures"] and not _serves(kernels["architectures"], cuda["architecture"]):
        said += (
            f"; the kernels are of other architectures and will fail there: expected them built for {cuda['architecture']}, "
            f"with TORCH_CUDA_ARCH_LIST={cuda['architecture']} or unset"
        )
    return said


def _serves(architectures: list[str], device: str) -> bool:
    """Whether code for these runs on a device: that of its own major version and no later minor one, or by PTX any earlier."""
    major, minor = map(int, device.split("."))
    for name in architectures:
        number, _, kind = name.partition("+")
        parts = number.rstrip("abcdefghijklmnopqrstuvwxyz").split(".")
        if not all(part.isdecimal() for part in parts) or len(parts) != 2:
            return True  # a name such as Hopper: nobody here knows
        made = int(parts[0]), int(parts[1])
        if (made[0] == major and made[1] <= minor) or (kind == "PTX" and made <= (major, minor)):
            return True
    return False
