"""The site's pages that are made at build time: the gallery of the notebooks' pictures, and llms.txt."""

import base64
import json
import re
from pathlib import Path

import pytest

docutils_nodes = pytest.importorskip("docutils.nodes")
DOCS = Path(__file__).parents[1] / "docs"
if not (DOCS / "conf.py").is_file():
    pytest.skip("the checkout's docs/ are not here", allow_module_level=True)

PICTURE = b"\x89PNG of nothing"


@pytest.fixture
def site(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import site_pages

    return site_pages


def notebook(path, *cells):
    """Cells are Markdown as text, or code with a picture (True) or without (False)."""
    output = {"output_type": "display_data", "data": {"image/png": base64.b64encode(PICTURE).decode()}, "metadata": {}}
    path.write_text(
        json.dumps(
            {
                "cells": [
                    {"cell_type": "markdown", "source": [cell]}
                    if isinstance(cell, str)
                    else {"cell_type": "code", "source": ["x"], "outputs": [output] if cell else []}
                    for cell in cells
                ]
            }
        ),
        encoding="utf-8",
    )
    return path


def test_each_picture_of_a_notebook_leads_to_it_under_the_heading_before_it(site, tmp_path):
    path = notebook(tmp_path / "01_a.ipynb", "# Title\n\nText", False, "#### How many?", True, "text", True)
    without = notebook(tmp_path / "02_b.ipynb", "# Other", False)
    text = site.gallery([path, without], tmp_path / "tutorials" / "pictures")
    assert [one.name for one in sorted((tmp_path / "tutorials" / "pictures").iterdir())] == ["01_a-1.png", "01_a-2.png"]
    assert (tmp_path / "tutorials" / "pictures" / "01_a-1.png").read_bytes() == PICTURE
    assert text.count(":target: tutorials/01_a.html") == text.count("How many?") // 2 == 2
    assert "## Title" in text
    assert "Other" not in text


def test_llms_txt_has_a_line_for_each_page(site):
    entries = [
        ("score", "What the score means", "It says who helped."),
        ("api/x", "X", ""),
        ("tutorials/01_a", "A", "Ask."),
    ]
    text = site.llms_text("name", "What it is.", entries)
    assert text.startswith("# name\n\n> What it is.\n\n## Guide\n")
    assert re.findall(r"^- .*$", text, flags=re.M) == [
        "- [What the score means](score.html): It says who helped.",
        "- [A](tutorials/01_a.html): Ask.",
        "- [X](api/x.html)",
    ]


def test_a_page_is_known_by_the_first_sentence_of_its_text(site):
    page = docutils_nodes.section()
    page += docutils_nodes.title(text="Title")
    page += docutils_nodes.paragraph(text="A first\nsentence. A second.")
    assert site.first_sentence(page) == "A first sentence."
    assert site.first_sentence(docutils_nodes.section()) == ""
