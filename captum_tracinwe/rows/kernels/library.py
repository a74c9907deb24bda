"""The torch library `captum_tracinwe`: how an op is defined, and the compiled kernels, where they were built.

A reference serves every device; a compiled kernel, where one is loaded, is preferred by torch's dispatcher, so that nothing
in the package asks whether there is one.
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = ["CPU", "CUDA", "built", "define", "kernels_for", "load_native", "schemas"]

#: The library of kernels for the CPU, and that for CUDA.
CPU, CUDA = "_native", "_native_cuda"

_library = torch.library.Library("captum_tracinwe", "DEF")  # type: ignore[no-untyped-call]
#: Name of each op → its schema.
schemas: dict[str, str] = {}


def define(name: str, schema: str, reference: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Make an op: its schema, the reference that runs where there is no kernel, and the shapes of its result."""
    schemas[name] = schema
    _library.define(name + schema)  # type: ignore[no-untyped-call]
    _library.impl(name, reference, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"captum_tracinwe::{name}", fake, lib=_library)


def kernels_for(device: str) -> list[str]:
    """The ops that have a compiled kernel for a device, by the name of its dispatch key: "CPU" or "CUDA"."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return [name for name in schemas if has(f"captum_tracinwe::{name}", device)]


def built() -> dict[str, Any]:
    """What ``setup.py`` left beside the libraries: ``torch``, ``cuda``, ``architectures``, ``why_not``; empty in a pure wheel."""
    try:
        found = json.loads((Path(__file__).parent / "built.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def load_native(name: str = CPU) -> tuple[Path | None, str | None]:
    """Load a library of compiled kernels, if the package was built with it; ``(path, why not)``."""
    here = Path(__file__).parent
    suffixes = (sysconfig.get_config_var("EXT_SUFFIX") or ".so", ".abi3.so", ".so")
    found = [path for path in (here / f"{name}{suffix}" for suffix in suffixes) if path.is_file()]
    if not found:
        reason = built().get("why_not", {}).get(name)
        kind = "compiled kernels" if name == CPU else "kernels for CUDA"
        return None, f"the package was built without {kind}" + (f": {reason}" if reason else "")
    if name == CUDA and torch.version.cuda is None:  # it would not find torch's own libraries for CUDA
        return None, f"{found[0].name} is not loaded: torch {torch.__version__} is no build for CUDA"
    try:
        torch.ops.load_library(str(found[0]))  # type: ignore[no-untyped-call]
    except OSError as error:
        return None, f"{found[0].name} does not load: {error}"
    return found[0], None
