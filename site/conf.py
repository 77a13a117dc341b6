"""Settings of Sphinx for the pages that `build.py` writes."""

import os
import sys
import tomllib
from pathlib import Path

HERE = Path(os.environ["ATTNCOURSE_SITE"])  # Sphinx runs on a copy of this file, beside the pages
ROOT = HERE.parent
sys.path.insert(0, str(HERE))
import docstrings  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = PROJECT["name"]
author = "The attncourse authors"
copyright = author
version = release = PROJECT["version"]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.linkcode",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_extra"]
html_extra_path = ["_extra"]

nb_execution_mode = "off"  # what is stored is shown
nb_merge_streams = True
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_dmath_double_inline = True
myst_heading_anchors = 4
myst_heading_slug_func = "anchors.jupyter"
suppress_warnings = [
    "myst.header",  # a table of a record needs no section above it
    "ref.python",  # an attribute named bytes is taken for another bytes that an annotation means
]

default_role = "code"  # docstrings have single backticks
autodoc_preserve_defaults = True  # a path as it is written, not as it is here
autodoc_typehints = "none"  # the signatures have them
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = list(docstrings.OWN)
add_module_names = False

html_theme = "sphinx_book_theme"
html_title = "attncourse"
html_static_path = [str(HERE / "static"), "_static"]
html_css_files = ["course.css"]
html_js_files = ["player.js", "table.js"]
html_favicon = str(HERE / "static" / "favicon.svg")
html_context = {"default_mode": "auto"}
html_copy_source = False
html_show_sourcelink = False
mathjax_path = "mathjax/tex-chtml-full.js"
html_theme_options = {
    "home_page_in_toc": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navbar_persistent": [],
    "show_toc_level": 2,
    "max_navbar_depth": 2,  # there are no more; with 4 each page copies all headings of all others
}
if repository := PROJECT.get("urls", {}).get("Repository"):
    html_theme_options |= {"repository_url": repository, "use_repository_button": True}


def linkcode_resolve(domain, info):
    """Link what is documented to its file, which `pages.py` copies."""
    path = info["module"].replace(".", "/")
    path += "/__init__.py" if (ROOT / path).is_dir() else ".py"
    return f"../source/{path}.txt"


def setup(app):
    """Have docstrings, which are written to be read, as reStructuredText."""
    app.connect("autodoc-process-docstring", docstrings.as_rst, priority=0)  # before napoleon
