"""What the build makes of the whole site: pictures of the notebooks for the gallery, and llms.txt, the list of pages."""

import base64
import json
import re
from pathlib import Path

from docutils import nodes

GROUPS = {"tutorials": "Tutorials", "api": "Reference", "neighbours": "Neighbours"}  # by folder; the rest is the guide


def gallery(notebooks, folder):
    """Save each picture that a notebook is stored with into ``folder``; the Markdown of a gallery that leads to its notebook.

    Paths are those of a page beside the folder of the notebooks, docs/gallery.md.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for path in notebooks:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        first, title, figures = "", "", []
        for cell in notebook["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                headings = re.findall(r"^#+ (.+)$", source, flags=re.MULTILINE)
                if headings:
                    first, title = first or headings[0], headings[-1]
                continue
            for output in cell["outputs"]:
                picture = output.get("data", {}).get("image/png")
                if picture:
                    name = f"{path.stem}-{len(figures) + 1}.png"
                    (folder / name).write_bytes(base64.b64decode("".join(picture)))
                    figures.append(_figure(f"{folder.parent.name}/{folder.name}/{name}", path.stem, title))
        if figures:
            parts += [f"## {first}", "", "::::{container} gallery", *figures, "::::", ""]
    return "\n".join(parts)


def _figure(image, stem, caption):
    return "\n".join(
        [
            f":::{{figure}} {image}",
            f":target: tutorials/{stem}.html",
            f":alt: {caption}",
            "",
            caption,
            ":::",
        ]
    )


def llms_text(title, summary, entries):
    """The site for a language model: ``entries`` are (docname, title, first sentence); as llmstxt.org has it."""
    groups = {}
    for docname, name, sentence in entries:
        group = GROUPS.get(docname.partition("/")[0], "Guide") if "/" in docname else "Guide"
        groups.setdefault(group, []).append(f"- [{name}]({docname}.html)" + (f": {sentence}" if sentence else ""))
    lines = [f"# {title}", "", f"> {summary}", ""]
    for group in ("Guide", "Tutorials", "Reference", "Neighbours"):
        if group in groups:
            lines += [f"## {group}", "", *groups[group], ""]
    return "\n".join(lines)


def first_sentence(doctree):
    """Of a page's first paragraph, on one line."""
    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        if text:
            return re.split(r"(?<=[.?!:])\s", text, maxsplit=1)[0]
    return ""


def write_llms_text(app, exception):
    """After the build: ``llms.txt`` beside the pages, a line for each."""
    if exception is not None or app.builder.format != "html":
        return
    entries = [
        (docname, app.env.titles[docname].astext(), first_sentence(app.env.get_doctree(docname)))
        for docname in sorted(app.env.found_docs)
    ]
    root = app.config.root_doc
    summary = next(sentence for docname, _, sentence in entries if docname == root)
    text = llms_text(app.config.project, summary, [entry for entry in entries if entry[0] != root])
    (Path(app.outdir) / "llms.txt").write_text(text, encoding="utf-8")
