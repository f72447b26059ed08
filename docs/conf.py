"""Sphinx configuration: pages, notebooks, and the API from docstrings. `make docs` has warnings as errors."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import docstrings  # noqa: E402
import generate  # noqa: E402

import tppsd  # noqa: E402

project = "tppsd"
author = "the tppsd authors"
release = version = tppsd.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_generated", "jupyter_execute"]  # what a build leaves is no source of the next
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 4
myst_links_external_new_tab = True

nb_execution_mode = "cache"  # a notebook runs again when its code has changed
nb_execution_cache_path = str(HERE / "_build" / ".jupyter_cache")
nb_execution_in_temp = True  # what a notebook writes goes with it
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

default_role = "code"  # `name` in a docstring
autodoc_typehints = "none"  # the docstrings say what the arguments are
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Fields", "Attributes")]  # those of a NamedTuple

html_theme = "furo"
html_title = f"tppsd {release}"
html_copy_source = False


def setup(app: object) -> None:
    """Write the generated pages, and let docstrings, which are plain text, pass as reStructuredText."""
    generate.write(HERE / "_generated")
    generate.write_tutorials(HERE / "tutorials")
    app.connect("source-read", generate.to_tutorials)  # type: ignore[attr-defined]
    app.connect("autodoc-process-docstring", docstrings.process, priority=100)  # type: ignore[attr-defined]
    app.connect("autodoc-skip-member", docstrings.skips)  # type: ignore[attr-defined]
