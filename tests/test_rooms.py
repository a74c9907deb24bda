"""The rooms of the package: what `lint-imports` cannot see of circles, and short names of modules."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import captum_tracinwe
from captum_tracinwe import short_names

PACKAGE = Path(captum_tracinwe.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path):
    """Each module that a file imports from, at its top, for types or within a function, and what it takes of it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module or "", [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)


def is_module(name):
    place = PACKAGE.parent.joinpath(*name.split("."))
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_file_takes_nothing_from_the_folders_that_it_stands_in(path):
    """What a folder hands on comes from its files: one that takes it from there closes a circle."""
    own = module_of(path)
    for module, names in imports_of(path):
        if own != "captum_tracinwe.__main__" and own.startswith(f"{module}."):
            assert [name for name in names if not is_module(f"{module}.{name}")] == [], (own, module)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_the_package_itself_uses_no_short_name(path):
    for module, names in imports_of(path):
        for name in [module, *(f"{module}.{name}" for name in names)]:
            package, _, rest = name.partition(".")
            if package == "captum_tracinwe" and rest.partition(".")[0] in short_names.HOMES:
                assert is_module(".".join(name.split(".")[:2])), (module_of(path), name)


@pytest.mark.parametrize("short", sorted(short_names.HOMES))
def test_a_short_name_leads_to_the_very_module(short):
    found = importlib.import_module(f"captum_tracinwe.{short}")
    home = f"captum_tracinwe.{short_names.HOMES[short]}"
    assert found is importlib.import_module(home) is getattr(captum_tracinwe, short)
    assert found.__name__ == found.__spec__.name == home
    assert short in dir(captum_tracinwe)


def test_short_names_serve_what_is_within_them_and_nothing_else():
    from captum_tracinwe.evaluation import plots

    from captum_tracinwe.evidence.evaluation import plots as at_home

    assert plots is at_home
    with pytest.raises(ImportError, match=r"captum_tracinwe\.nonsense"):
        importlib.import_module("captum_tracinwe.nonsense")
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        captum_tracinwe.nonsense  # noqa: B018
    importlib.reload(short_names)
    assert sum(type(finder).__name__ == "_ShortNames" for finder in sys.meta_path) == 1


def test_a_module_runs_by_its_short_name():
    run = subprocess.run([sys.executable, "-m", "captum_tracinwe.corpus"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, ""), run.stderr
