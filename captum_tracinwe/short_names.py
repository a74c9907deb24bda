"""Short names of modules: `captum_tracinwe.texts` is `captum_tracinwe.words.texts`, the same module under both.

Users wrote them before the modules moved into rooms, and they are shorter. A name that is not here is an error as ever.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import CodeType, ModuleType
from typing import Any

__all__ = ["HOMES", "module"]

PACKAGE = __name__.rpartition(".")[0]
#: Short name → where the module stands in the package.
HOMES = {
    "adapters": "checkpoints.adapters",
    "arguments": "batches.arguments",
    "association": "words.association",
    "cli": "app.cli",
    "collate": "batches.collate",
    "commands": "app.commands",
    "corpus": "app.corpus",
    "data": "app.data",
    "demo": "app.demo",
    "embedding": "gradients.embedding",
    "evaluation": "evidence.evaluation",
    "given_model": "app.given_model",
    "inputs": "batches.inputs",
    "lengths": "batches.lengths",
    "losses": "gradients.token_losses",
    "methods": "evidence.methods",
    "ops": "rows.ops",
    "postings": "rows.postings",
    "ranking": "rows.ranking",
    "rates": "checkpoints.rates",
    "report": "words.report",
    "retraining": "evidence.retraining",
    "run_states": "checkpoints.run_states",
    "synonyms": "words.synonyms",
    "testing": "app.testing",
    "texts": "words.texts",
    "trainer": "checkpoints.trainer",
    "training": "app.training",
}


def module(short: str) -> ModuleType:
    """The module of a short name, for ``from captum_tracinwe import texts``.

    Raises:
        AttributeError: there is no such name.
    """
    if short not in HOMES:
        raise AttributeError(f"module {PACKAGE!r} has no attribute {short!r}")
    return import_module(f"{PACKAGE}.{short}")


class _ShortNames(MetaPathFinder, Loader):
    """Finds the module of a short name, and what is within it (``captum_tracinwe.evaluation.plots``)."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        home = _home(fullname)
        return None if home is None else ModuleSpec(fullname, self, origin=home, is_package=self.is_package(fullname))

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        assert spec.origin is not None
        found = import_module(spec.origin)
        spec.loader_state = found.__spec__  # the import system is about to write the short name over it
        return found

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state

    # What `python -m`, runpy and debuggers ask a loader for: that of the home answers.

    def is_package(self, fullname: str) -> bool:
        """Whether the home is a folder."""
        return _spec_of_home(fullname).submodule_search_locations is not None

    def get_code(self, fullname: str) -> CodeType | None:
        """The code of the home."""
        code: CodeType | None = _loader_of_home(fullname).get_code(_home(fullname))
        return code

    def get_source(self, fullname: str) -> str | None:
        """The source of the home."""
        source: str | None = _loader_of_home(fullname).get_source(_home(fullname))
        return source


def _home(fullname: str) -> str | None:
    package, _, rest = fullname.partition(".")
    first, _, inner = rest.partition(".")
    if package != PACKAGE or first not in HOMES:
        return None
    return f"{PACKAGE}.{HOMES[first]}" + (f".{inner}" if inner else "")


def _spec_of_home(fullname: str) -> ModuleSpec:
    home = _home(fullname)
    found = None if home is None else find_spec(home)
    if found is None:
        raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
    return found


def _loader_of_home(fullname: str) -> Any:
    return _spec_of_home(fullname).loader


# First, before an editable install, whose finder answers for every module of the package; once, whatever is reloaded.
if not any(type(finder).__name__ == _ShortNames.__name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, _ShortNames())
