"""How Sphinx builds this documentation: ``sphinx-build -W docs docs/_build``."""

from importlib.metadata import version as version_of

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
exclude_patterns = ["_build"]
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
