"""How the documentation is built: `python -m sphinx -W -n docs docs/_build/html`."""

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import figures  # noqa: E402
import mathml  # noqa: E402
import reference  # noqa: E402
import refusals  # noqa: E402
import site_pages  # noqa: E402

from captum_tracinwe import __version__  # noqa: E402

project = "captum_tracinwe"
author = "the captum_tracinwe authors"
copyright = author
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
# Captum's notebooks, and so ours, go from the title to #### headings; a class has one name where it is exported and one where
# it is defined.
suppress_warnings = ["myst.header", "ref.python"]
nb_execution_mode = "off"  # notebooks are executed by the tests and shown with the outputs they are stored with

html_theme = "furo"
html_math_renderer = "mathml"
html_title = f"captum_tracinwe {release}"
html_static_path = ["_static"]
html_css_files = ["extra.css"]
html_js_files = ["errors.js"]
copybutton_exclude = ".linenos, .gp, .go"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

myst_enable_extensions = ["dollarmath", "deflist", "substitution", "colon_fence"]
myst_heading_anchors = 3
myst_substitutions = figures.substitutions(HERE.parent / "benchmarks" / "results")
myst_substitutions |= refusals.substitutions(HERE.parent / "captum_tracinwe")

autodoc_default_options = {"members": True, "undoc-members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_admonition_for_examples = False

# Names of torch, Captum and transformers, and the words of argument types ("list of int, optional"), cannot be looked
# up without a network. References into this package are all checked.
nitpick_ignore_regex = [("py:class", r"(?!captum_tracinwe).*"), ("py:obj", r"(?!captum_tracinwe).*")]
nitpick_ignore_regex += [("py:(exc|meth|func|attr|data|mod)", r"(captum|torch|transformers|pandas|numpy)\..*")]
nitpick_ignore_regex += [("py:exc", r"[A-Z]\w*(Error|Warning)(, .*)?")]


def setup(app):
    """Pages that are made at build time, llms.txt, and the look-up of names written without their module."""
    notebooks = sorted((HERE.parent / "tutorials").glob("*.ipynb"))
    target = HERE / "tutorials"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for notebook in notebooks:
        shutil.copy(notebook, target)
    (target / "index.md").write_text(reference.tutorials_page(notebooks))
    (target / "gallery.txt").write_text(site_pages.gallery(notebooks, target / "pictures"), encoding="utf-8")
    (HERE / "api" / "inner.md").write_text(reference.inner_page(HERE / "api"))
    app.add_html_math_renderer("mathml", (mathml.inline, None), (mathml.block, None))
    app.connect("autodoc-skip-member", reference.skip_fields)
    app.connect("missing-reference", reference.by_last_name)
    app.connect("build-finished", reference.check_inventory)
    app.connect("build-finished", site_pages.write_llms_text)
