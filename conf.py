"""Settings of Sphinx: `sphinx-build -W -c . docs docs/_build` builds the documentation."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from evbus.version import version  # noqa: E402 - the path comes first

project = "evbus"
author = "The evbus authors"
copyright = "2026, the evbus authors"
release = version

extensions = ["sphinx.ext.autodoc", "sphinx.ext.doctest"]
exclude_patterns = ["_build"]
nitpicky = True
# Types of other projects: their documentation is not fetched while this one is built.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!evbus\b).*"),
]

autodoc_member_order = "bysource"
autodoc_typehints = "description"

html_theme = "furo"
html_title = f"evbus {release}"
html_copy_source = False
