"""What the code on a page prints, written below it: `python docs/outputs.py [PAGE ...]` (default: every page with such a block).

A ```python block runs, those of a page in one namespace. A ```text block right behind it is what it printed.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parent
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<shown>.*?)^```\n)?", flags=re.M | re.S)


def runs(page: Path) -> Iterator[tuple[re.Match[str], str]]:
    """(block, what it printed) for all ```python blocks of ``page``, from top to bottom, in the current folder."""
    names = {"__name__": "page"}
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(ast.parse(block["code"]), str(page), "exec"), names)
        yield block, printed.getvalue()


def alike(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed, up to the digits of numbers, which differ in the last ones between machines."""
    masked = [re.sub(r"[-+−]?\d+(\.\d+)?(e-?\d+)?", "0", " ".join(text.split())) for text in (shown, printed)]
    return masked[0] == masked[1]


def main(pages: list[str]) -> None:
    """Run the pages, and write what they print."""
    for page in [Path(name).resolve() for name in pages] or sorted(DOCS.glob("**/*.md")):
        text = page.read_text(encoding="utf-8")
        if not any(block["shown"] is not None for block in BLOCK.finditer(text)):
            continue
        before, made, last = os.getcwd(), "", 0
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            for block, printed in runs(page):
                start, end = block.span("shown")
                if block["shown"] is not None:
                    made, last = made + text[last:start] + printed, end
            os.chdir(before)
        page.write_text(made + text[last:], encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
