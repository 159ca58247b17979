"""Builds the documentation: ``sphinx-build -W -b html docs docs/_build/html``.

The build needs no network. With ``FADE_INTERSPHINX=1`` names of other libraries link to their documentation.
"""

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]  # _generate and fade_study

import _generate  # noqa: E402 - found by the line above

import fade_study  # noqa: E402

project = "fade_study"
release = fade_study.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.intersphinx", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"fade_study {release}"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature would repeat what the docstring says about shapes
autodoc_class_signature = "mixed"

intersphinx_mapping = (
    {
        "numpy": ("https://numpy.org/doc/stable/", None),
        "optuna": ("https://optuna.readthedocs.io/en/stable/", None),
        "python": ("https://docs.python.org/3/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }
    if os.environ.get("FADE_INTERSPHINX") == "1"
    else {}
)


def no_types(app, what, name, obj, options, lines):
    """Napoleon takes what an attribute's first line says before a colon for a type. Ours say no types there."""
    for line in [line for line in lines if line.startswith(":type: ") and what in ("attribute", "data", "property")]:
        lines.remove(line)
        lines[0] = f"{line.removeprefix(':type: ')}: {lines[0]}"


def setup(app):
    """Complete the pages that are made from other files."""
    app.connect("source-read", _generate.complete)
    app.connect("autodoc-process-docstring", no_types, priority=600)  # after napoleon
