"""How Sphinx builds this documentation: ``sphinx-build -W docs docs/_build``."""

import inspect
from importlib.metadata import version as version_of

from sphinx.application import Sphinx

project = "fasthep-flow"
author = "The fasthep-flow developers"
project_copyright = author
release = version_of("fasthep-flow")
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "reference/faults-table.md", "reference/runtimes-table.md"]
suppress_warnings = ["config.cache"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Of a console block the commands are copied, and not what they print.
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
copybutton_here_doc_delimiter = "EOF"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"fasthep-flow {release}"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]


def skip_fields(_app: Sphinx, _what: str, _name: str, obj: object, *_: object) -> bool | None:
    """Leave out what the docstring of a class says better: the fields of its instances."""
    is_field = inspect.ismemberdescriptor(obj) or type(obj).__name__ == "_tuplegetter"
    return True if is_field else None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-skip-member", skip_fields)
