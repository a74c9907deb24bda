"""The page of errors lists every message that the package can utter: read off the source, held against what is raised."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import captum_tracinwe
from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import TinyCNN, toy_tracin
from captum_tracinwe.batches.collate import TokenizeTexts
from captum_tracinwe.gradients.diagnosis import reported

PACKAGE = Path(captum_tracinwe.__file__).parent
DOCS = Path(__file__).parents[1] / "docs"
pytestmark = pytest.mark.skipif(not (DOCS / "refusals.py").is_file(), reason="the checkout's docs/ are not here")


@pytest.fixture(scope="module")
def refusals():
    sys.path.insert(0, str(DOCS))
    try:
        import refusals
    finally:
        sys.path.remove(str(DOCS))
    return refusals


@pytest.fixture(scope="module")
def found(refusals):
    return refusals.Package(PACKAGE).said()


def test_every_raise_and_every_warning_of_the_package_has_its_words_on_the_page(refusals, found):
    """Where a message is put together in a way that the page cannot read, write it at the raise, or return it of a function."""
    said, without = found
    assert not without, f"raised or warned without words that the page could list: {', '.join(without)}"
    lines = "\n".join(refusals.lines(said).values())
    assert {one.text for one in said if one.text not in lines} == set()
    places = {(one.module, one.line) for one in said}
    raises = {
        (".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"), number): line
        for path in PACKAGE.rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.match(r"\s+(raise [A-Z]\w*\(|warnings\.warn\()", line)
    }
    assert len(raises) > 500
    assert not [
        place for place, line in raises.items() if place not in places and "error" not in line
    ]  # of another's words


def test_the_page_has_a_place_for_each_part_of_the_package(refusals):
    page = (DOCS / "guide" / "errors.md").read_text()
    for section in refusals.SECTIONS:
        assert f"{{{{ refusals_{section} }}}}" in page
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    listed = {name for names in refusals.SECTIONS.values() for name in names}
    assert listed <= parts
    assert "guide/errors" in (DOCS / "index.md").read_text()


def test_what_the_page_explains_is_said(found):
    page = (DOCS / "guide" / "errors.md").read_text()
    quoted = re.findall(r'\*\*"(.*?)"\*\*', page)
    assert len(quoted) > 8
    messages = [one.text for one in found[0]]
    assert not [words for words in quoted if not any(words in text for text in messages)]


def _raised(call):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call()
    return str(caught.value)


def test_what_is_raised_is_a_line_of_the_page(found):
    tracin, inputs = toy_tracin()
    ids, labels = inputs

    def fail():
        with reported(TinyCNN(), inputs):
            raise RuntimeError("CUDA out of memory")

    said = [
        _raised(call)
        for call in (
            lambda: tracin.influence(inputs, k=0),
            lambda: tracin.influence((ids, labels + 7)),
            lambda: tracin.influence((ids.float(), labels)),
            lambda: tracin.word_influence(inputs, [[99], [0]]),
            lambda: TracInWE(TinyCNN(), {"train": [{"a": 1}], "test": [{"a": 1}]}, "nowhere"),
            lambda: TracInWE(TinyCNN(), [(ids[0], labels[0])], "nowhere"),
            lambda: toy_tracin(table="both", loss_fn=None),
            lambda: toy_tracin(normalize="letters"),
            lambda: TokenizeTexts(None),
            fail,
        )
    ]
    forms = [".+?".join(map(re.escape, one.text.split("…"))) for one in found[0]]
    unlisted = [text for text in said if not any(re.fullmatch(form, text, re.DOTALL) for form in forms)]
    assert not unlisted


SOURCE = """
import warnings
from sample.words import EXPECTED, because, SAID

def check(value, other=None):
    if value is None:
        raise TypeError("`value` is None: " + EXPECTED)
    if value < 0:
        raise ValueError(f"`value` is {value}: {'too small' if other else 'too low'}. Take {abs(value)}.")
    cause = because("zero", value) or because("one", value)
    if cause is not None:
        raise ValueError(cause) from None
    if other:
        raise Odd("This is odd.")
    raise made(value)

def made(value):
    return OSError(28, f"No room for {value}.")

def told(value):
    try:
        check(value)
    except KeyError as error:
        raise ValueError(str(error)) from error
    except OSError as error:
        raise
    said, other = "This is slow.", value
    warnings.warn(said, stacklevel=2)
    raise RuntimeError(SAID.get(value, "unknown"))

class Odd(ValueError):
    def __init__(self, texts):
        assert texts, "Give me texts."
        raise ValueError(texts[0])
"""
WORDS = """
EXPECTED = "expected a number."
SAID = {1: "The first has failed.", 2: "The second has failed."}

def because(name, value):
    if value:
        return None
    what = f"The {name}"
    return f"{what} is {value!r}, and that is wrong."
"""


def test_messages_are_read_through_names_conditions_functions_and_tables(refusals, tmp_path):
    package = tmp_path / "sample"
    package.mkdir()
    (package / "code.py").write_text(SOURCE)
    (package / "words.py").write_text(WORDS)
    said, without = refusals.Package(package).said()
    assert {(one.kind, one.text) for one in said} == {
        ("TypeError", "`value` is None: expected a number."),
        ("ValueError", "`value` is …: too small. Take …."),
        ("ValueError", "`value` is …: too low. Take …."),
        ("ValueError", "The zero is …, and that is wrong."),
        ("ValueError", "The one is …, and that is wrong."),
        ("Odd", "This is odd."),
        ("OSError", "No room for …."),
        ("warning", "This is slow."),
        ("RuntimeError", "The first has failed."),
        ("RuntimeError", "The second has failed."),
        ("RuntimeError", "unknown"),
        ("AssertionError", "Give me texts."),
    }
    assert without == [f"code:{SOURCE.splitlines().index('        raise ValueError(texts[0])') + 1}"]


def test_a_line_shows_a_message_letter_by_letter(refusals):
    said = [refusals.Said("batches.batch", 1, "ValueError", "`a` is ``b`` and *c* {{ d }}")]
    assert "- ``` `a` is ``b`` and *c* {{ d }} ``` ValueError, batches.batch" in refusals.lines(said)["data"]


def test_the_script_of_the_page_is_whole():
    node = pytest.importorskip("shutil").which("node")
    if node is None:
        pytest.skip("there is no node")
    script = DOCS / "_static" / "errors.js"
    assert subprocess.run([node, "--check", script], check=False).returncode == 0
