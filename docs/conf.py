"""How Sphinx reads the tree that docs/build.py has laid out."""

import re
import sys
from itertools import pairwise
from pathlib import Path

from docutils import nodes
from sphinx import addnodes

sys.path.insert(0, str(Path(__file__).parent))
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import impsamp  # noqa: E402

project = "impsamp"
author = "the impsamp authors"
copyright = author
release = version = impsamp.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["tests", "impsamp", "examples"]
templates_path = ["templates"]

nb_execution_mode = "off"
nb_merge_streams = True
nb_number_source_lines = False
myst_enable_extensions = ["dollarmath", "amsmath", "attrs_inline", "colon_fence"]
myst_dmath_double_inline = True
myst_heading_anchors = 4
suppress_warnings = ["mystnb.unknown_mime_type"]

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_use_type_comments = False
add_module_names = False
python_display_short_literal_types = True
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = "impsamp"
html_static_path = ["static"]
html_css_files = ["impsamp.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}


def setup(app):
    "Sphinx calls this."
    app.connect("config-inited", _mathjax)
    app.connect("autodoc-process-docstring", _markdown)
    app.connect("autodoc-skip-member", _skip)
    app.connect("doctree-read", _anchors)


def _anchors(app, doctree):
    "Rows that a page names by <a id=...> may be linked to as its headings are, by the page too."
    slugs = app.env.metadata[app.env.docname].setdefault("myst_slugs", {})
    raw = [node.astext() for node in doctree.findall(nodes.raw)]
    names = set(re.findall(r'<a id="([\w-]+)">', "\n".join(raw)))
    slugs |= {name: (0, name, name) for name in names}
    for link in list(doctree.findall(addnodes.pending_xref)):
        if link["reftype"] == "myst" and link["reftarget"] in names:
            to_row = dict(internal=True, refid=link["reftarget"])
            link.replace_self(nodes.reference("", "", *link.children, **to_row))


def _skip(app, what, name, obj, skip, options):
    "Fields of a named tuple say nothing that the class does not."
    return skip or str(getattr(obj, "__doc__", "")).startswith("Alias for field number")


def _mathjax(app, config):
    "SVG output carries its glyphs: no font file is asked for."
    config.mathjax_path = "mathjax/tex-svg-full.js"
    config.mathjax3_config = {"svg": {"fontCache": "global"}, "options": {"enableMenu": False}}


def _markdown(app, what, name, obj, options, lines):
    "Our docstrings are Markdown with $formulas$; autodoc expects reStructuredText."
    lines[:] = [_inline(line) for line in _apart(lines)]


def _apart(lines):
    "A blank line wherever the indentation changes: the block is a quotation then, in both."
    for before, line in pairwise(["", *lines]):
        if line.strip() and before.strip() and _indent(line) != _indent(before):
            yield ""
        yield line


def _indent(line):
    text = line.lstrip()
    marker = re.match(r"(?:[-*]|\d+\.) +", text)
    return len(line) - len(text) + (marker.end() if marker else 0)


def _inline(line):
    if line.lstrip().startswith((">>>", "...")):
        return line
    parts = re.split(r"(``[^`]+``|`[^`]+`|\$[^$]+\$)", line)
    made = [_role(part) for part in parts]
    for place in range(2, len(made), 2):  # "`Draw`s": a word may go on after a literal
        if made[place][:1].isalnum():
            made[place] = f"\\ {made[place]}"
    return "".join(made)


def _role(part):
    if part.startswith("``"):
        return part
    if part.startswith("`"):
        return f"``{part[1:-1]}``"
    if part.startswith("$") and len(part) > 2:
        return f":math:`{part[1:-1]}`"
    return re.sub(r"[|`]|(?<!^)[*]|_(?!\w)", r"\\\g<0>", part)
