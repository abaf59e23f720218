"""Every relative link in the notebooks and in the pages at the top leads to a file."""

import csv
import json
import re
from urllib.parse import unquote

import pytest

from tests.house.repository import NOTEBOOKS, ROOT, cells, short, source

PAGES = sorted(ROOT.glob("*.md"))
LINK = re.compile(r"\[[^][]*\]\(([^()\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def prose(path):
    "The markdown of a page, or of a notebook's markdown cells, without its code."
    text = path.read_text()
    if path.suffix == ".ipynb":
        text = "\n\n".join(source(c) for c in cells(path) if c["cell_type"] == "markdown")
    return CODE.sub("``", text)


def relative_links(text):
    "What the links point to, without anchors; not what lies elsewhere (a scheme) or on the page."
    targets = [target.partition("#")[0] for target in LINK.findall(text)]
    return [unquote(t) for t in targets if t and not re.match(r"[a-z]+:", t)]


def broken_links(path):
    return [link for link in relative_links(prose(path)) if not (path.parent / link).exists()]


def test_links_are_found_where_they_are():
    text = "[a](b.md) [c `d`](../e/f.ipynb#g) [h](#i) [j](https://k.l/m.md) `[n](o.md)`"
    assert relative_links(CODE.sub("``", text)) == ["b.md", "../e/f.ipynb"]


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=short)
def test_relative_links_lead_to_a_file(path):
    assert broken_links(path) == []


def test_the_map_leads_to_every_package_and_every_single_module():
    targets = relative_links(prose(ROOT / "nbs" / "index.ipynb"))
    single = {nb.name for nb in (ROOT / "nbs").glob("[0-9]*.ipynb")}
    packages = {
        f"{index.parent.name}/index.ipynb" for index in (ROOT / "nbs").glob("*/index.ipynb")
    }
    assert len(single) + len(packages) > 15
    assert (single | packages) - set(targets) == set()


def test_the_errata_page_links_to_the_evidence_that_the_table_names():
    page = shown(ROOT / "nbs" / "results" / "errata.ipynb")
    with open(ROOT / "figures" / "table_errata.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 20
    computed = [row for row in rows if row["notebook"] != "reading"]
    assert len(rows) - len(computed) < 4
    links = ["[{notebook}](../{notebook}.ipynb) `{evidence}`".format(**row) for row in computed]
    assert [link for link in links if link not in page] == []


def test_each_departure_names_the_page_that_explains_it():
    text = "".join(prose(ROOT / "nbs" / "departures.ipynb"))
    lines = [line for line in text.splitlines() if line.startswith("- ")]
    assert len(lines) > 40
    assert [
        line for line in lines if not re.search(r"\(\[[\w/]+\]\([\w/]+\.ipynb\)\)$", line)
    ] == []


def shown(path):
    "What a notebook's cells printed as Markdown."
    outputs = [o for c in json.loads(path.read_text())["cells"] for o in c.get("outputs", [])]
    return "".join("".join(o.get("data", {}).get("text/markdown", "")) for o in outputs)
