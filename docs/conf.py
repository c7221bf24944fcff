"""Sphinx configuration: `make docs` builds the site into build/docs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

import mlc_ext

project = "mlc-ext"
author = "the mlc-ext contributors"
copyright = author
release = version = mlc_ext.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_parser",
    "sphinx_copybutton",
    "public_names",
    "program_help",
    "repository_links",
]

autodoc_mock_imports = ["torchvision", "mmcv", "mmdet", "mmengine"]  # not dependencies

html_theme = "furo"
html_title = f"mlc-ext {release}"
html_theme_options = {"navigation_with_keys": True}
html_show_sphinx = False
templates_path = []

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# a single backtick in a docstring is code; where it names something of the API, a link to it
default_role = "py:obj"
smartquotes = False  # values of settings are quoted as in code
add_module_names = False
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 88
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "undoc-members": True}
napoleon_use_rtype = False


def prepare_docstring(app, what, name, obj, options, lines: list[str]) -> None:
    """Before napoleon: a | is a norm or a count, not a substitution; an attribute's text may hold a colon."""
    for i, line in enumerate(lines):
        parts = line.replace("\\|", "|").split("``")  # at odd places literals, which need no escape
        lines[i] = "``".join(part if k % 2 else part.replace("|", "\\|") for k, part in enumerate(parts))
    if what == "attribute":
        lines.insert(0, "\\ ")  # napoleon takes what precedes a colon in the first line for a type


def setup(app) -> None:
    app.connect("autodoc-process-docstring", prepare_docstring, priority=400)
