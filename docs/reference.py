"""The reference kept whole: modules that no page names get a page, and after the build every public name is looked for."""

import importlib
import json
import pkgutil
import re
from pathlib import Path

from docutils import nodes

import captum_tracinwe

METHODS = (property, classmethod, staticmethod)


def public_names():
    """Module → its ``__all__``, for every module of the package that has one."""
    found = {"captum_tracinwe": captum_tracinwe.__all__}
    for module in pkgutil.walk_packages(captum_tracinwe.__path__, "captum_tracinwe."):
        if not module.name.endswith(("__main__", "._native", "._native_cuda")):
            found[module.name] = getattr(importlib.import_module(module.name), "__all__", [])
    return {name: list(names) for name, names in found.items() if names}


def documented(folder):
    """The objects that the pages of ``folder`` name, by identity where they have one."""
    text = "\n".join(page.read_text() for page in Path(folder).glob("**/*.md") if page.name != "inner.md")
    found = set()
    for kind, name in re.findall(r"(auto\w+):: (\S+)", text):
        if kind != "automodule":
            found.add(name)
            continue
        home = importlib.import_module(name).__name__  # a page may use the module's short name
        found |= {f"{name}.{member}" for member in public_names().get(home, ())}
    return found


def other_modules(folder):
    """(module, names) of what no page of ``folder`` names, neither where it is defined nor where it is exported."""
    shown = {id(_object(name)): name for name in documented(folder)}
    other = []
    for module, names in public_names().items():
        missing = [name for name in names if id(_object(f"{module}.{name}")) not in shown]
        if missing and module != "captum_tracinwe":
            shown |= {id(_object(f"{module}.{name}")): name for name in missing}
            other.append((module, missing))
    return other


def _object(name):
    module, _, last = name.rpartition(".")
    try:
        return importlib.import_module(name)
    except ImportError:
        return getattr(importlib.import_module(module), last)


def inner_page(folder):
    """The page of the modules that no other page names."""
    lines = [
        "# Inner rooms",
        "",
        "What the public names are made of, for those who build on the package or take it over. These names may change "
        "between minor versions.",
    ]
    for module, names in other_modules(folder):
        short = module.removeprefix("captum_tracinwe.")
        lines += [
            "",
            f"## {short}",
            "",
            "```{eval-rst}",
            f".. automodule:: {module}",
            *[
                f"   :exclude-members: {name}"
                for name in [", ".join(sorted({*public_names()[module]} - {*names}))]
                if name
            ],
            "```",
        ]
    return "\n".join(lines) + "\n"


def tutorials_page(notebooks):
    """The list of the notebooks, which are copied here from tutorials/."""
    if not notebooks:
        return "---\norphan: true\n---\n\n# Tutorials\n\nThere is no notebook in this checkout.\n"
    first = [json.loads(notebook.read_text())["cells"][0]["source"] for notebook in notebooks]
    titles = ["".join(source).strip().splitlines()[0].lstrip("# ") for source in first]
    entries = [f"{title} <{notebook.stem}>" for title, notebook in zip(titles, notebooks, strict=True)]
    intro = (
        "Each notebook has its answer in the first three cells. It runs in under two minutes on two cores, without a network. "
        "Five are on real data: a notebook says in one line how to get what is not there. Their pictures stand in the "
        "[gallery](../gallery.md)."
    )
    command = 'pip install --no-build-isolation -c constraints.txt -e ".[tutorials]" && jupyter lab tutorials'
    lines = ["# Tutorials", "", intro, "", "```bash", command, "```", ""]
    return "\n".join([*lines, "```{toctree}", ":maxdepth: 1", "", *entries, "```", ""])


def skip_fields(app, what, name, obj, skip, options):
    """Fields of a dataclass are described under its arguments."""
    return True if what == "class" and not callable(obj) and not isinstance(obj, METHODS) else skip


def by_last_name(app, env, node, contnode):
    """``:func:`find_embedding` `` without its module: found where one object alone has that last name."""
    if node.get("refdomain") != "py" or node.get("reftype") not in {"func", "meth", "class", "attr", "data", "obj"}:
        return None
    domain = env.get_domain("py")
    target = node["reftarget"].removeprefix("captum_tracinwe.")
    found = {
        (entry.docname, entry.node_id)
        for name, entry in domain.objects.items()
        if name.endswith(f".{target}") and name.startswith("captum_tracinwe")
    }
    if not found and _exists(node["reftarget"]):
        return contnode  # an inner name in a signature, such as a type variable
    if len(found) != 1:
        return None
    docname, anchor = found.pop()
    reference = nodes.reference("", "", contnode, internal=True)
    reference["refuri"] = f"{app.builder.get_relative_uri(node['refdoc'], docname)}#{anchor}"
    return reference


def check_inventory(app, exception):
    """After the build: every name of every ``__all__`` is in it, and every link within the site leads somewhere."""
    if exception is not None or app.builder.format != "html":
        return
    objects = {id(_object(name)) for name in app.env.get_domain("py").objects if _exists(name)}
    names = set(app.env.get_domain("py").objects)
    missing = [
        f"{module}.{name}"
        for module, public in public_names().items()
        for name in public
        if f"{module}.{name}" not in names and id(_object(f"{module}.{name}")) not in objects
    ]
    if missing:
        raise RuntimeError(f"public and not in the reference (a constant needs a `#:` comment): {', '.join(missing)}")
    check_links(Path(app.outdir))


def _exists(name):
    try:
        _object(name)
    except (ImportError, AttributeError, ValueError):
        return False
    return True


def check_links(folder):
    """RuntimeError unless every relative link of the built pages leads to a file, and its fragment to an id in it."""
    pages = {page: page.read_text() for page in folder.rglob("*.html")}
    ids = {page: set(re.findall(r'\bid="([^"]+)"', text)) for page, text in pages.items()}
    broken = []
    for page, text in pages.items():
        if (
            "_modules" in page.parts
        ):  # viewcode's way back to the page names the module of the source, not that of the page
            continue
        for link in re.findall(r'\b(?:href|src)="([^"]+)"', text):
            if re.match(r"[a-z]+:|//", link):
                continue
            path, _, fragment = link.partition("#")
            target = (page.parent / path.partition("?")[0]).resolve() if path else page
            if not target.exists() or (fragment and target in ids and fragment not in ids[target]):
                broken.append(f"{page.relative_to(folder)}: {link}")
    if broken:
        raise RuntimeError("links that lead nowhere: " + "; ".join(broken[:10]))
