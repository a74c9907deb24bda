"""What the documentation promises: its examples run, its pages' code runs, every public name is in the reference."""

import ast
import doctest
import importlib
import pkgutil
import re
import shlex
from pathlib import Path

import pytest

import captum_tracinwe
from captum_tracinwe.short_names import HOMES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WITH_CODE = sorted(page for page in DOCS.glob("**/*.md") if "\n```python\n" in page.read_text())
needs_pages = pytest.mark.skipif(not (DOCS / "conf.py").is_file(), reason="the checkout's docs/ are not here")
MODULES = [
    module.name
    for module in pkgutil.walk_packages(captum_tracinwe.__path__, "captum_tracinwe.")
    if not module.name.endswith(("__main__", "._native", "._native_cuda"))
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert not failed


def test_no_example_is_skipped():
    skipping = [
        name for name in MODULES if "doctest: +" + "SKIP" in Path(importlib.import_module(name).__file__).read_text()
    ]
    assert not skipping


@needs_pages
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(DOCS)))
def test_the_code_on_a_page_runs_and_prints_what_the_page_shows(page, tmp_path, monkeypatch):
    """All ```python blocks of a page, from top to bottom in one namespace; what is not to run is a {code-block}."""
    monkeypatch.syspath_prepend(str(DOCS))
    import outputs

    monkeypatch.chdir(tmp_path)
    blocks = list(outputs.runs(page))
    assert blocks, "a page with code, of which none runs"
    for block, printed in blocks:
        shown = block["shown"]
        assert shown is None or outputs.alike(shown, printed), f"`python docs/outputs.py {page}`: printed {printed}"


@needs_pages
def test_pages_and_notebooks_use_the_short_name_of_a_module_that_has_one():
    """One form everywhere, that of the messages and of the reference: `captum_tracinwe.losses`, not its room."""
    shorts = {f"captum_tracinwe.{home}": f"captum_tracinwe.{short}" for short, home in HOMES.items()}
    pages = [ROOT / "README.md", *DOCS.glob("*.md"), *DOCS.glob("guide/*.md"), *(ROOT / "tutorials").glob("*.ipynb")]
    long = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        long += [(page.name, home) for home in shorts if re.search(rf"{re.escape(home)}\b(?!\.py)", text)]
        for module, names in re.findall(r"from (captum_tracinwe\.[\w.]+) import ([\w, ]+\w)", text):
            for name in names.split(", "):
                found = getattr(importlib.import_module(module), name, None)
                home = f"{module}.{name}" if f"{module}.{name}" in shorts else getattr(found, "__module__", None)
                if home in shorts and importlib.import_module(module).__name__ != home:
                    long.append((page.name, f"from {module} import {name}"))
    assert not long


@needs_pages
def test_a_link_has_words_also_where_a_page_is_read_unbuilt():
    """`[](page.md)` gets the page's title from the build alone; on GitHub nothing is seen of it."""
    pages = [ROOT / "README.md", *DOCS.glob("*.md"), *DOCS.glob("guide/*.md"), *DOCS.glob("api/**/*.md")]
    pages += DOCS.glob("neighbours/*.md")
    assert not [page.name for page in pages if re.search(r"(?<!!)\[\]\(", page.read_text(encoding="utf-8"))]


@needs_pages
def test_every_public_name_is_in_the_reference(monkeypatch):
    """On a page of docs/api, or on the one that is made of what no page names; the build looks for each in its inventory."""
    pytest.importorskip("docutils")
    monkeypatch.syspath_prepend(str(DOCS))
    import reference

    named = reference.documented(DOCS / "api")
    other = {f"{module}.{name}" for module, names in reference.other_modules(DOCS / "api") for name in names}
    assert {f"captum_tracinwe.{name}" for name in captum_tracinwe.__all__} - named <= {"captum_tracinwe.ops"}
    assert {f"captum_tracinwe.ops.{name}" for name in captum_tracinwe.ops.__all__} <= named
    assert not other & named
    assert len(other) > 50


@needs_pages
def test_links_between_the_files_of_the_repository_lead_somewhere():
    pages = [
        page
        for pattern in ("*.md", "benchmarks/*.md", "captum_tracinwe/**/*.md", "docs/**/*.md")
        for page in ROOT.glob(pattern)
    ]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text())]
    inside = [(page, link.partition("#")[0]) for page, link in links if not re.match(r"[a-z]+:|#", link)]
    assert len(inside) > 20
    assert not [(page.name, link) for page, link in inside if not (page.parent / link).exists()]


@needs_pages
def test_the_version_to_cite_is_that_of_the_package():
    assert f"version: {captum_tracinwe.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@needs_pages
def test_what_is_to_be_cited_has_the_fields_that_the_format_asks_for():
    """Citation File Format 1.2.0: these are required, and no other key is allowed in what is used of it here."""
    yaml = pytest.importorskip("yaml")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert cited["cff-version"] == "1.2.0"
    assert cited["type"] == "software"
    assert cited["license"] == "BSD-3-Clause"
    assert all(author.keys() & {"name", "family-names", "alias"} for author in cited["authors"])
    assert all({"authors", "title", "type"} <= reference.keys() for reference in cited["references"])


def blocks_of(kind):
    """(page, code) of README and docs: blocks of this kind, those that are run and those that are only shown."""
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("**/*.md"))]:
        for code in re.findall(rf"^```(?:{{code-block}} )?{kind}\n(.*?)^```$", page.read_text(), flags=re.M | re.S):
            yield page, code


@needs_pages
def test_code_that_is_only_shown_imports_what_there_is():
    """Blocks with a model or a library that the tests do not have are not run; they are Python, and their names exist."""
    seen = 0
    for page, code in blocks_of("python"):
        for node in ast.walk(ast.parse(re.sub(r"^:.*\n", "", code))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "captum_tracinwe":
                module = importlib.import_module(node.module)
                assert not [alias.name for alias in node.names if not hasattr(module, alias.name)], page
                seen += 1
    assert seen > 20


@needs_pages
def test_commands_on_pages_have_options_that_there_are():
    """Each `captum-tracinwe` command of a shell block is parsed, up to a pipe; a comment is left out."""
    from captum_tracinwe.app import cli

    parser, seen = cli._parser(), 0
    for page, code in blocks_of("bash"):
        for line in code.replace("\\\n", " ").splitlines():
            for command in re.findall(r"(?:^|&& *)captum-tracinwe +([^|&#>]+)", line):
                try:
                    parser.parse_args(shlex.split(command))
                except SystemExit as error:
                    raise AssertionError(f"{page.name}: captum-tracinwe {command}") from error
                seen += 1
    assert seen > 10
