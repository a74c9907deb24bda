"""What a real browser makes of the page: the texts as they were written, and nothing else."""

import html.parser
import shutil
import subprocess

import pytest
import torch

from captum_tracinwe.visualization import word_influence_fragment, word_influence_html, write_html
from captum_tracinwe.words.influence import WordInfluence
from captum_tracinwe.words.texts import from_ids

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium")

SCRIPT = "<script>document.body.dataset.ran='yes'</script>"
WORDS = [
    *[
        SCRIPT,
        "<img/src=x/onerror=document.body.dataset.ran='yes'>",
        "&amp;",
        "&lt;b&gt;",
        "</style><style>*{}",
        "'\"",
    ],
    *[
        "مرحبا",
        "שלום",
        "\u202eoverride",
        "zero\u200bwidth",
        "e\u0301",
        "👩\u200d👩\u200d👧",
        "two\nlines",
        "tab\there",
    ],
    *["<!--", "-->", "</div></main></body>", "]]>", "\ufeffmark", "{{x}}", "a\r\nb"],
]


class Dump(html.parser.HTMLParser):
    def __init__(self, source):
        super().__init__()
        self.stack, self.texts, self.tags, self.body = [], [], [], {}
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "body":
            self.body = dict(attrs)
        is_text = dict(attrs).get("class") == "text"
        if is_text:
            self.texts.append("")
        if tag not in ("meta", "img", "br"):
            self.stack.append("TEXT" if is_text else tag)

    def handle_endtag(self, _):
        self.stack.pop()

    def handle_data(self, data):
        if "TEXT" in self.stack:
            self.texts[-1] += data


def dumped(path, profile):
    command = [
        *[BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"],
        *["--disable-background-networking", "--disable-component-update", "--disable-sync"],
        *[f"--user-data-dir={profile}", "--dump-dom", path.as_uri()],
    ]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    return Dump(done.stdout.decode())


def influences():
    texts = [
        from_ids(range(len(WORDS)), WORDS, label=SCRIPT, prediction="<i>x</i>"),
        from_ids([9, 0, 9, 3], WORDS),
    ]
    shares = torch.tensor([0.5, -1.0, 0.0], dtype=torch.float64)
    pair = WordInfluence(0, 1, -0.5, torch.tensor([0, 3, 9]), shares, test_text=texts[0], train_text=texts[1])
    return texts, [pair]


@pytest.mark.parametrize("whole", [True, False], ids=["page", "fragment"])
def test_a_browser_shows_every_text_as_written_and_runs_nothing(tmp_path, whole):
    texts, pairs = influences()
    page = word_influence_html(pairs, title=SCRIPT) if whole else word_influence_fragment(pairs)
    path = write_html(tmp_path / "page.html", page if whole else f"<!DOCTYPE html><meta charset=utf-8>{page}")
    found = dumped(path, tmp_path / "profile")
    # A mark of direction is named, in an element of its own, and not obeyed.
    assert found.texts == [text.text.replace("\u202e", "U+202E") for text in (texts[0], texts[1], texts[0])]
    assert found.body.get("data-ran") is None
    assert not {"script", "img", "link", "iframe"} & set(found.tags)
    assert found.tags.count("style") == 1


# What a notebook's style sheet says of tables in outputs, and a look at what comes of it.
NOTEBOOK = """<style>
:not(.jp-RenderedMarkdown).jp-RenderedHTMLCommon td,:not(.jp-RenderedMarkdown).jp-RenderedHTMLCommon th,
:not(.jp-RenderedMarkdown).jp-RenderedHTMLCommon tr{text-align:right}
.jp-RenderedHTMLCommon tbody tr:nth-child(odd),.jp-RenderedHTMLCommon tbody tr:nth-child(even){background:red}
</style><div class="jp-RenderedHTMLCommon">"""
LOOK = """<script>
const seen = (what, key) => [...new Set([...document.querySelectorAll(what)].map(e => getComputedStyle(e)[key]))].join();
Object.assign(document.body.dataset, {names: seen("tbody th", "textAlign"), numbers: seen("td.n", "textAlign"),
rows: seen("tbody tr", "backgroundColor")});
</script>"""


def test_a_notebook_does_not_align_and_stripe_our_tables(tmp_path):
    _, pairs = influences()
    page = f"<!DOCTYPE html><meta charset=utf-8>{NOTEBOOK}{word_influence_fragment(pairs)}</div>{LOOK}"
    found = dumped(write_html(tmp_path / "page.html", page), tmp_path / "profile")
    assert found.body["data-names"] == "left"
    assert found.body["data-numbers"] == "right"
    assert found.body["data-rows"] == "rgba(0, 0, 0, 0)"
