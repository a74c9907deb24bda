"""Tutorials: each runs from a clean kernel without an error or a word on stderr, and is stored as it ran, small."""

import ast
import configparser
import importlib.util
import itertools
import re
import sys
import tempfile
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

FOLDER = Path(__file__).parents[1] / "tutorials"
if not FOLDER.is_dir():
    pytest.skip("no tutorials beside these tests", allow_module_level=True)
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 300_000  # bytes
ABSOLUTE = re.compile(r"/(home|root|tmp|Users|usr|var|mnt|opt|work)/|[A-Z]:\\")

spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
execute = importlib.util.module_from_spec(spec)
spec.loader.exec_module(execute)

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_tutorials():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{number:02}" for number in range(1, len(NOTEBOOKS) + 1)]
    assert len(NOTEBOOKS) >= 6


@pytest.mark.tutorials
@each
def test_it_runs_from_a_clean_kernel_and_says_nothing_on_stderr(path, tmp_path):
    notebook = execute.execute(path, tmp_path)
    said = [output.text for cell in notebook.cells for output in execute.errors(cell)]
    assert not said


@each
def test_its_stored_outputs_are_of_one_clean_run(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in code_of(notebook)] == list(range(1, len(code_of(notebook)) + 1))
    outputs = [output for cell in code_of(notebook) for output in cell.outputs]
    assert any(output.output_type in ("display_data", "execute_result") for output in outputs)
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert not [output for output in outputs if "application/vnd.jupyter.widget-view+json" in output.get("data", {})]


@each
def test_it_is_small_and_names_no_place_of_one_machine(path):
    assert path.stat().st_size < LARGEST
    for cell in nbformat.read(path, as_version=4).cells:
        outputs = cell.get("outputs", [])
        data = [text for output in outputs for kind, text in output.get("data", {}).items() if kind != "image/png"]
        text = "\n".join([cell.source, *(output.get("text", "") for output in outputs), *data])
        assert not ABSOLUTE.search(text)
        assert tempfile.gettempdir() not in text


@each
def test_it_opens_as_captums_tutorials_do(path):
    first, second, third, *_ = nbformat.read(path, as_version=4).cells
    assert re.fullmatch(r"# .+", first.source)
    assert second.source.startswith("This tutorial demonstrates ")
    assert "**Data.**" in second.source
    assert "your own" in second.source
    assert third.cell_type == "code"


@each
def test_it_asserts_what_it_says(path):
    sources = [re.sub(r"^%.*$", "", cell.source, flags=re.M) for cell in code_of(nbformat.read(path, as_version=4))]
    asserts = [node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assert)]
    assert len(asserts) >= 5


def test_from_captum_it_is_one_import_and_one_name():
    cells = nbformat.read(FOLDER / "01_drop_in.ipynb", as_version=4).cells
    before, after = (
        next(cell.source for cell in cells if tag in cell.metadata.get("tags", [])) for tag in ("captum", "tracinwe")
    )
    assert before.count("TracInCP") == 2
    changed = before.replace("from captum.influence import TracInCP", "from captum_tracinwe import TracInWE")
    assert changed.replace("tracin = TracInCP(", "tracin = TracInWE(") == after


def imported(path):
    """The packages that a notebook's cells import, and those that transformers' Trainer needs besides."""
    source = "\n".join(cell.source for cell in code_of(nbformat.read(path, as_version=4)))
    tree = ast.parse(re.sub(r"^%.*$", "", source, flags=re.M))
    modules = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    modules += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {module.split(".")[0] for module in modules}
    return names | ({"accelerate"} if "Trainer(" in source else set())


def test_the_extra_holds_what_they_import():
    setup = configparser.ConfigParser()
    setup.read(FOLDER.parent / "setup.cfg")
    asked = setup["options"]["install_requires"] + setup["options.extras_require"]["tutorials"]
    installed = {re.split(r"[><=!,]", line)[0] for line in asked.split()}
    needed = set().union(*map(imported, NOTEBOOKS)) - set(sys.stdlib_module_names)
    assert {"accelerate", "psutil"} <= needed
    assert needed <= installed | {"captum_tracinwe", "tokenizers"}  # tokenizers comes with transformers
    assert {"jupyterlab", "ipykernel", "nbconvert", "nbclient", "nbformat"} <= installed
    assert '".[tutorials]"' in (FOLDER.parent / "README.md").read_text(encoding="utf-8")


def test_each_names_the_next():
    for path, following in itertools.pairwise(NOTEBOOKS):
        last = nbformat.read(path, as_version=4).cells[-1].source
        assert f"Next: `{following.name}`" in last
