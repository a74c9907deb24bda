"""No sentence that a user reads has more than 30 words: in README, pages, errors, warnings, the command line and its pages.

python docs/sentences.py            names each longer one, and fails if there is one
python docs/sentences.py --most 25  the same with another limit
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

import refusals  # noqa: E402

MOST = 30
PAGES = ("README.md", "docs/*.md", "docs/guide/*.md", "docs/neighbours/*.md")
LEFT_OUT = {"changelog.md", "contributing.md"}  # both include a file that is for developers
SPOKEN = (
    "app",
    "visualization",
)  # rooms whose literals a user reads: help, what commands say, texts and legends of pages
CODE = ("style.py", "_script.py", "corpus.py")  # styles and scripts of pages; the demo's texts
# Dots that end no sentence.
ABBREVIATIONS = re.compile(r"\b(et al|e\.g|i\.e|vs|cf|No|approx)\.(?=\s)")


def sentences(text: str) -> list[str]:
    """The sentences of a paragraph: each ends with a full stop, a question or an exclamation mark, or with the paragraph."""
    text = ABBREVIATIONS.sub(lambda found: found[0].replace(".", "·"), " ".join(text.split()))
    return [one for one in re.split(r"(?<=[.!?])[)*_”\"']*\s+(?=\S)", text) if one]


def words(sentence: str) -> int:
    """Its words; a placeholder, a formula and a piece of code are one each."""
    return sum(1 for one in sentence.split() if any(letter.isalnum() or letter == refusals.GAP for letter in one))


def paragraphs(page: str) -> Iterator[str]:
    """Of a page in Markdown: paragraphs, items of lists, headings, cells of tables; without code, formulas, targets of links."""
    page = re.sub(r"^(`{3,}|~{3,}).*?^\1\s*$", "\n\n", page, flags=re.M | re.S)
    page = re.sub(r"<!--.*?-->", "\n\n", page, flags=re.S)
    page = re.sub(r"^\$\$.*?\$\$", "\n\n", page, flags=re.M | re.S)
    page = re.sub(r"\{\{.*?\}\}", "CODE", page)
    page = re.sub(r"(\{[\w:-]+\})?(`+)(?!`).+?(?<!`)\2(?!`)", "CODE", page, flags=re.S)
    page = re.sub(r"\$[^$\n]+(\n[^$\n]+)?\$", "FORMULA", page)
    page = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", lambda found: found[1] or "LINK", page)
    page = re.sub(r"^(:::.*|\([\w-]+\)=|%.*|\[\^\w+\]:)$", "", page, flags=re.M)
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*+]|\d+\.)\s)|\n(?=#|\|)", page):
        plain = re.sub(r"^\s*(?:[-*+]|\d+\.|#+)\s", "", block)
        if plain.lstrip().startswith("|"):
            yield from re.split(r"\||<br>", plain)
        else:
            yield plain


def of_pages() -> Iterator[tuple[str, str]]:
    """(where, sentence) of README, the pages of docs/ and the guide."""
    for pattern in PAGES:
        for page in sorted(ROOT.glob(pattern)):
            if page.name not in LEFT_OUT:
                for paragraph in paragraphs(page.read_text(encoding="utf-8")):
                    yield from ((str(page.relative_to(ROOT)), one) for one in sentences(paragraph))


def of_messages() -> Iterator[tuple[str, str]]:
    """(where, sentence) of all errors and warnings, read off the source as the page of errors reads them."""
    said, _ = refusals.Package(ROOT / "captum_tracinwe").said()
    for one in said:
        yield from ((f"{one.module}:{one.line}", sentence) for sentence in sentences(one.text))


def of_literals() -> Iterator[tuple[str, str]]:
    """(where, sentence) of what the command line and the pages say: the string literals of their rooms that are no docstrings."""
    for room in SPOKEN:
        for path in sorted((ROOT / "captum_tracinwe" / room).rglob("*.py")):
            if path.name.endswith(CODE):
                continue
            for line, text in _literals(ast.parse(path.read_text(encoding="utf-8"))):
                for paragraph in re.split(r"\n\s*\n", re.sub(r"<[^<>]*>", " ", text)):
                    yield from ((f"{path.relative_to(ROOT)}:{line}", one) for one in sentences(paragraph))


def _literals(node: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, letters) of each string below a node, with a gap for each value that is put into it; docstrings are left out."""
    if isinstance(node, (ast.JoinedStr, ast.Constant, ast.BinOp)) and (text := _letters(node)) is not None:
        yield node.lineno, text
        return
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
            yield from _literals(child)


def _letters(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(one.value) if isinstance(one, ast.Constant) else refusals.GAP for one in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [_letters(side) for side in (node.left, node.right)]
        return None if sides == [None, None] else "".join(refusals.GAP if side is None else side for side in sides)
    return None


def longer(most: int = MOST) -> list[tuple[str, int, str]]:
    """(where, words, sentence) of each sentence of more than ``most`` words."""
    every = dict.fromkeys([*of_pages(), *of_messages(), *of_literals()])
    return [(where, words(one), one) for where, one in every if words(one) > most]


def main(argv: list[str] | None = None) -> None:
    """Name the sentences that are too long."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=MOST, help="words that a sentence may have")
    found = longer(parser.parse_args(argv).most)
    for where, count, one in found:
        print(f"{where}: {count} words: {one}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
