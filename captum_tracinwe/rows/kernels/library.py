"""The torch library `captum_tracinwe`: how an op is defined, and the compiled kernels, where they were built.

A reference serves every device; a compiled kernel, where one is loaded, is preferred by torch's dispatcher, so that nothing
in the package asks whether there is one.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = ["define", "load_native", "schemas"]

_library = torch.library.Library("captum_tracinwe", "DEF")  # type: ignore[no-untyped-call]
#: Name of each op → its schema.
schemas: dict[str, str] = {}


def define(name: str, schema: str, reference: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Make an op: its schema, the reference that runs where there is no kernel, and the shapes of its result."""
    schemas[name] = schema
    _library.define(name + schema)  # type: ignore[no-untyped-call]
    _library.impl(name, reference, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"captum_tracinwe::{name}", fake, lib=_library)


def load_native() -> tuple[Path | None, str | None]:
    """Load the compiled kernels if the package was built with them; ``(path, why not)``."""
    here = Path(__file__).parent
    suffixes = (sysconfig.get_config_var("EXT_SUFFIX") or ".so", ".abi3.so", ".so")
    found = [path for path in (here / f"_native{suffix}" for suffix in suffixes) if path.is_file()]
    if not found:
        return None, "the package was built without compiled kernels"
    try:
        torch.ops.load_library(str(found[0]))  # type: ignore[no-untyped-call]
    except OSError as error:
        return None, f"{found[0].name} does not load: {error}"
    return found[0], None
