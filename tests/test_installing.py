"""What a message says of a missing library can be done: the extra is there, has the library, and is installed as README says."""

import ast
import configparser
import importlib
import re
import sys
from pathlib import Path

import pytest

import captum_tracinwe
from captum_tracinwe.installing import install

PACKAGE = Path(captum_tracinwe.__file__).parent
ROOT = Path(__file__).parents[1]
needs_source = pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="the checkout is not here")


def asked():
    """(file, package, extra) of each call of `install`; a package that is no literal is None."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "install":
                yield path.name, *(one.value if isinstance(one, ast.Constant) else None for one in node.args)


@needs_source
def test_a_message_names_an_extra_that_has_the_library():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    found = list(asked())
    assert len(found) >= 5
    for file, package, extra in found:
        assert package is None or package in extras[extra].split(), (file, package, extra)


@needs_source
def test_the_advice_installs_as_readme_does():
    said = install("scipy", "synonyms")
    command = re.search(r"pip install (--.*) -e", said)[1]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f'pip install {command} -e ".[test]"' in readme
    assert said.endswith('".[synonyms]"')


@needs_source
def test_no_message_or_page_installs_the_package_from_an_index():
    for folder, pattern in ((PACKAGE, "*.py"), (ROOT / "docs", "*.md"), (ROOT, "README.md")):
        for path in folder.rglob(pattern) if folder != ROOT else folder.glob(pattern):
            assert not re.search(r"captum[-_]tracinwe\[", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("name", ["build_with_ray", "search_with_ray"])
def test_without_ray_the_extra_is_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "ray", None)
    launch = importlib.import_module("captum_tracinwe.index.launch")
    with pytest.raises(
        ImportError, match=re.escape(f"{name} needs Ray, which is not installed. {install('ray', 'ray')}")
    ):
        getattr(launch, name)(lambda: None, "index", *([1] if name == "search_with_ray" else []))
