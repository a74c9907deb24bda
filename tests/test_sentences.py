"""What a user reads: no sentence of more than 30 words, no page of the guide of over 150 lines, a README of at most 120."""

import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
pytestmark = pytest.mark.skipif(not (DOCS / "sentences.py").is_file(), reason="the checkout's docs/ are not here")


@pytest.fixture(scope="module")
def checker():
    sys.path.insert(0, str(DOCS))
    try:
        import sentences
    finally:
        sys.path.remove(str(DOCS))
    return sentences


def test_no_sentence_of_a_page_a_message_or_the_command_line_is_longer_than_thirty_words(checker):
    assert not checker.longer()


def test_everything_that_a_user_reads_is_looked_at(checker):
    pages, messages, literals = (list(of()) for of in (checker.of_pages, checker.of_messages, checker.of_literals))
    assert {"README.md", "docs/index.md", "docs/glossary.md", "docs/guide/errors.md"} <= {where for where, _ in pages}
    assert not any("changelog" in where for where, _ in pages)
    assert len(messages) > 1000
    assert any("cli.py" in where for where, _ in literals)
    assert any("report_page.py" in where for where, _ in literals)


def test_the_pages_are_short():
    lengths = {page.name: len(page.read_text().splitlines()) for page in (DOCS / "guide").glob("*.md")}
    assert {name: lines for name, lines in lengths.items() if lines > 150} == {}
    assert len((DOCS.parent / "README.md").read_text().splitlines()) <= 120


def test_a_long_sentence_is_found_wherever_it_stands(checker, tmp_path):
    long = " ".join(["word"] * 31)
    for page in (
        f"{long}.",
        f"- {long}",
        f"# {long}",
        f"| cell | {long} |",
        f"Short. {long}! Short.",
        f"[{long}](x.md)",
    ):
        found = [one for paragraph in checker.paragraphs(page) for one in checker.sentences(paragraph)]
        assert max(map(checker.words, found)) == 31, page


def test_code_formulas_and_comments_are_a_word_or_none(checker):
    long = " ".join(["word"] * 31)
    code = f"```python\n{long}\n```", f"<!-- {long} -->", f"$$\n{long}\n$$"
    for page in (*code, f"A `{long}`.", f"A ${long}$.", f"A {{func}}`~{long}`."):
        found = [one for paragraph in checker.paragraphs(page) for one in checker.sentences(paragraph)]
        assert max(map(checker.words, found), default=0) <= 2, page


def test_a_value_in_a_message_is_one_word_and_an_abbreviation_ends_no_sentence(checker):
    assert checker.words("`…` is a … with class weights") == 7
    assert checker.sentences("By Yeh et al. in 2022. It holds (always). Really?") == [
        "By Yeh et al· in 2022.",
        "It holds (always).",
        "Really?",
    ]


def test_literals_of_the_source_are_joined(checker):
    import ast

    source = '"""Docstring."""\nsay(f"one {two} " + name + "three", help="four" " five")'
    assert list(checker._literals(ast.parse(source))) == [(2, "one … …three"), (2, "four five")]
