"""Tutorials: each runs from a clean kernel, says nothing on stderr, and holds what is checked of it; stored as it ran, small."""

import ast
import configparser
import functools
import gzip
import importlib.util
import itertools
import re
import sys
import tempfile
from pathlib import Path

import pytest
import tutorial_checks

from captum_tracinwe.app import tutorial_data

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
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


def test_there_are_seven_tutorials_and_each_has_checks():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{number:02}" for number in range(1, 8)]
    assert sorted(tutorial_checks.CHECKS) == [path.stem for path in NOTEBOOKS]


def test_at_least_four_are_on_real_data():
    sources = ["\n".join(cell.source for cell in code_of(nbformat.read(path, as_version=4))) for path in NOTEBOOKS]
    assert sum("tutorial_data." in source for source in sources) >= 4


@pytest.mark.tutorials
@each
def test_it_runs_from_a_clean_kernel_and_says_nothing_on_stderr(path, tmp_path):
    """What it asserts of its variables stands in tutorial_checks.py, and is run in its kernel after its last cell."""
    try:
        notebook = execute.execute(path, tmp_path)
    except nbclient.exceptions.CellExecutionError as error:
        if error.ename == "MissingDataError":
            pytest.skip(error.evalue)
        raise
    said = [output.text for cell in notebook.cells for output in execute.errors(cell)]
    assert not said


@each
def test_its_stored_outputs_are_of_one_clean_run(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in code_of(notebook)] == list(range(1, len(code_of(notebook)) + 1))
    outputs = [output for cell in code_of(notebook) for output in cell.outputs]
    assert outputs
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
def test_the_answer_stands_in_its_first_three_cells(path):
    first, second, third, *_ = nbformat.read(path, as_version=4).cells
    assert re.match(r"# .+\n\n", first.source)
    assert "**Data.**" in first.source
    assert "For your own data" in first.source
    assert (second.cell_type, third.cell_type) == ("code", "code")
    said = [output for output in third.outputs if output.output_type in ("stream", "display_data", "execute_result")]
    assert said


@each
def test_its_checks_stand_elsewhere(path):
    sources = [cell.source for cell in code_of(nbformat.read(path, as_version=4))]
    assert not [node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assert)]


@each
def test_no_sentence_of_it_is_long(path):
    """At most 30 words, as in all that a user reads; code, links and tables apart."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"```.*?```", "", cell.source, flags=re.S)
            text = re.sub(r"\]\([^)]*\)", "]", text)
            for sentence in re.split(r"(?<=[.!?:])\s+|\n\s*\n|\n- |\n#+ ", text):
                assert len(sentence.split()) <= 30, sentence


@each
def test_it_prints_no_text_whose_licence_does_not_let_it(path):
    """Of the texts read, only BANKING77's (CC BY 4.0) are shown; of the others no ten words in a row stand in the file."""
    shown = " ".join(path.read_text(encoding="utf-8").lower().split())
    for texts in licensed_otherwise():
        for text in texts:
            words = text.lower().split()
            runs = (" ".join(words[i : i + 10]) for i in range(max(0, len(words) - 9)))
            assert not any(run in shown for run in runs)


@functools.cache
def licensed_otherwise():
    """The texts that the tutorials read, a sample of each; none where the data are not here."""
    try:
        pairs = [f"{question} {answer}" for question, answer in tutorial_data.instructions(longest=16)]
        return pairs, tutorial_data.toxicity(500).texts, tutorial_data.ag_news_noisy(400)[0].texts
    except tutorial_data.MissingDataError as error:
        pytest.skip(str(error))


def test_missing_data_are_one_line_that_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(tutorial_data, "_places", lambda: iter([tmp_path]))
    for ask in (
        tutorial_data.banking77,
        tutorial_data.toxicity,
        tutorial_data.ag_news,
        tutorial_data.ag_news_noisy,
        tutorial_data.instructions,
    ):
        with pytest.raises(tutorial_data.MissingDataError, match="To get it: ") as told:
            ask()
        assert told.value._render_traceback_() == [str(told.value)]
        assert "\n" not in str(told.value)


def test_data_are_found_where_the_variable_says_as_they_are_or_compressed(tmp_path, monkeypatch):
    rows = "text,category\nhello,a\nbye,b\n"
    (tmp_path / "banking77").mkdir()
    with gzip.open(tmp_path / "banking77" / "train.csv.gz", "wt", encoding="utf-8") as file:
        file.write(rows)
    monkeypatch.setenv(tutorial_data.PLACE, str(tmp_path))
    assert tutorial_data.banking77().texts == ("hello", "bye")
    (tmp_path / "banking77" / "train.csv").write_text(rows.replace("hello", "plain"), encoding="utf-8")
    assert tutorial_data.banking77().texts[0] == "plain"


def test_from_captum_it_is_one_name():
    """One function is called with either class: nothing else can differ."""
    sources = [cell.source for cell in code_of(nbformat.read(FOLDER / "05_drop_in.ipynb", as_version=4))]
    answer = sources[1]
    assert "captum, ours = script(TracInCP), script(TracInWE)" in answer
    script = next(
        node for node in ast.parse(answer).body if isinstance(node, ast.FunctionDef) and node.name == "script"
    )
    assert [argument.arg for argument in script.args.args] == ["Method"]
    assert not {"TracInCP", "TracInWE"} & {node.id for node in ast.walk(script) if isinstance(node, ast.Name)}


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
    assert "accelerate" in needed
    assert "psutil" in installed  # captum_tracinwe.app.measuring
    assert needed <= installed | {"captum_tracinwe", "tokenizers"}  # tokenizers comes with transformers
    assert {"jupyterlab", "ipykernel", "nbconvert", "nbclient", "nbformat"} <= installed
    assert '".[tutorials]"' in (FOLDER.parent / "README.md").read_text(encoding="utf-8")


def test_each_names_the_next():
    for path, following in itertools.pairwise(NOTEBOOKS):
        last = nbformat.read(path, as_version=4).cells[-1].source
        assert f"Next: `{following.name}`" in last
