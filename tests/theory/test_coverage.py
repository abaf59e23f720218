"""The page on every item of both papers: each place, name, file and claim that it names exists."""

import csv
import importlib
import json
import re
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
STATUSES = {
    "proved",
    "corrected",
    "rebuilt",
    "built",
    "redrawn",
    "judged",
    "measured",
    "not built",
    "out of scope",
}


def rows():
    with open(ROOT / "figures" / "table_coverage.csv", newline="") as file:
        return list(csv.DictReader(file))


def places(row):
    "The notebook#place of a row, one by one."
    return [where for where in row["where"].split("; ") if where]


def place_exists(where):
    notebook, _, place = where.partition("#")
    cells = json.loads((ROOT / "nbs" / f"{notebook}.ipynb").read_text())["cells"]
    lines = {line.rstrip("\n") for cell in cells for line in cell["source"]}
    marks = {f"## {place}", f"### {place}", f"# evidence: {place}"}
    return not place or bool(marks & lines)


def listed(text):
    return [part.strip() for part in text.split(",") if part.strip()]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["place"][:40])
def test_what_a_row_names_exists(row):
    assert row["status"] in STATUSES
    assert row["paper"] in {"first", "second"}
    assert row["where"] or row["status"] in {"not built", "out of scope"}
    assert [where for where in places(row) if not place_exists(where)] == []
    for name in listed(row["code"]):
        module, _, attribute = f"impsamp.{name}".rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
    for part in filter(None, map(str.strip, row["shown"].split(";"))):
        assert part.startswith("claims ") or (ROOT / part).exists(), part


def test_the_check_can_fail():
    assert not place_exists("03_theory/04_minibatch#no such heading")


def test_every_claim_stands_in_one_row():
    named = []
    for row in rows():
        parts = [part.strip() for part in row["shown"].split(";")]
        named += [listed(p.removeprefix("claims ")) for p in parts if p.startswith("claims ")]
    flat = sorted(claim for part in named for claim in part)
    known = set()
    for paper in ("lahire", "beyond", "horvath"):
        text = (ROOT / "nbs" / "experiments" / f"claims_{paper}.toml").read_text()
        known |= {claim["id"] for claim in tomllib.loads(text)["claim"]}
    assert flat == sorted(known)


@pytest.mark.parametrize(
    ("paper", "needed"),
    [
        ("first", ["(1)", "(2)", "Figure 1", "Figure 3", "Table 1", "Algorithm 1", "appendix F"]),
        ("second", ["(1)", "(2)", "(3)", "(7)", "(8)", "(9)", "(10)", "(11), (12)", "Remark 1"]),
        ("second", ["Lemma 1", "Lemma 2", "Theorem 3", "Theorem 4", "Theorem 5", "Algorithm 4"]),
        ("second", ["Table 1", "Figure 1", "Figure 2", "Figure 3", "Definition 1", "appendix I"]),
    ],
)
def test_no_numbered_item_is_left_out(paper, needed):
    places = " | ".join(row["place"] for row in rows() if row["paper"] == paper)
    assert [item for item in needed if item not in places] == []


# --- page and notebooks, linked both ways ------------------------------------------------------

PAGE = "figures/table_coverage.md"
LINK = re.compile(r"\[[^][]*\]\(([^()\s]+)\)")


def notebooks_of(row):
    return {where.partition("#")[0] for where in places(row)}


def anchor(row):
    return "-".join(re.findall("[a-z0-9]+", f"{row['paper']} {row['place']}".lower()))


def prose(notebook):
    cells = json.loads((ROOT / "nbs" / f"{notebook}.ipynb").read_text())["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def headings(notebook):
    "The headings of a notebook as links name them: Jupyter's form."
    found = re.findall(r"^#+ +(.+?) *$", prose(notebook), re.M)
    return {heading.replace(" ", "-") for heading in found}


def table_lines():
    lines = (ROOT / PAGE).read_text().splitlines()
    return [line for line in lines if line.startswith('| <a id="')]


def items_line(notebook):
    "What a notebook says of the rows that name it, each a link to the row."
    up = "../" * (notebook.count("/") + 1)
    words = []
    for paper in ("first", "second"):
        own = [row for row in rows() if row["paper"] == paper]
        here = [row for row in own if notebook in notebooks_of(row)]
        links = [f"[{row['place']}]({up}{PAGE}#{anchor(row)})" for row in here]
        if links:
            words.append(f"{paper}, " + " · ".join(links))
    return f"Items of the papers: {'; '.join(words)}."


def named_notebooks():
    return sorted(set().union(*map(notebooks_of, rows())))


def test_rows_of_the_page_have_names_of_their_own():
    names = [anchor(row) for row in rows()]
    assert len(set(names)) == len(names) > 50
    found = re.findall(r'<a id="([^"]+)"></a>', (ROOT / PAGE).read_text())
    assert found == names


@pytest.mark.parametrize("row", rows(), ids=anchor)
def test_a_row_links_to_each_of_its_places_and_the_heading_is_there(row):
    (line,) = (line for line in table_lines() if f'"{anchor(row)}"' in line)
    linked = [link for link in LINK.findall(line) if ".ipynb" in link]
    assert len(linked) == len(places(row))
    for link, where in zip(linked, places(row)):
        notebook, _, place = where.partition("#")
        path, _, fragment = link.partition("#")
        assert path == f"../nbs/{notebook}.ipynb"
        assert bool(fragment) == bool(place)
        assert not fragment or unquote(fragment) in headings(notebook)


@pytest.mark.parametrize("notebook", named_notebooks())
def test_a_notebook_that_a_row_names_links_back(notebook):
    found = re.findall(r"^Items of the papers: .*$", prose(notebook), re.M)
    assert found == [items_line(notebook)]


def test_only_notebooks_that_rows_name_speak_of_items():
    everything = {p.relative_to(ROOT / "nbs") for p in (ROOT / "nbs").rglob("*.ipynb")}
    names = {path.with_suffix("").as_posix() for path in everything}
    speaking = {name for name in names if "Items of the papers:" in prose(name)}
    assert speaking <= set(named_notebooks())


# --- numbers of the papers' equations ----------------------------------------------------------

TAG = re.compile(r"\\tag\{(first|second), ([^}]+)\}")


def tags():
    "(notebook, paper, what the tag says) of every tagged formula of the theory."
    for path in sorted((ROOT / "nbs" / "03_theory").glob("*.ipynb")):
        notebook = f"03_theory/{path.stem}"
        yield from ((notebook, *found) for found in TAG.findall(prose(notebook)))


def words_of(tag):
    "What a row must name: '7' is (7), '§2.1' is section 2.1; 'corrected' speaks of the print."
    parts = re.split(", | and ", tag.removesuffix(", corrected"))
    return [f"({p})" if p.isdigit() else p.replace("§", "section ") for p in parts]


def names(place, word):
    "Whether a place of the page names the word; (4) to (6) name (5) too."
    low, high = re.findall(r"\((\d+)\) to \((\d+)\)", place)[0] if " to (" in place else (0, -1)
    inside = word[1:-1].isdigit() and int(low) <= int(word[1:-1]) <= int(high)
    return inside or word in re.sub(r"appendices", "appendix", place)


@pytest.mark.parametrize("tag", tags(), ids=" ".join)
def test_a_tag_is_a_place_of_a_row_that_names_the_notebook(tag):
    notebook, paper, said = tag
    here = [r for r in rows() if r["paper"] == paper and notebook in r["where"]]
    for word in words_of(said):
        assert any(names(row["place"], word) for row in here), word


def test_every_number_of_both_papers_is_a_tag():
    found = {(paper, said) for _, paper, said in tags()}
    numbers = [("first", str(k)) for k in (1, 2)]
    numbers += [("second", str(k)) for k in range(1, 13) if k != 3]  # (3) is a list, named in words
    assert [number for number in numbers if number not in found] == []
    assert "equation (3)" in prose("03_theory/04_minibatch")


def test_formulas_with_a_tag_are_of_one_line_and_displayed():
    for path in sorted((ROOT / "nbs" / "03_theory").glob("*.ipynb")):
        text = prose(f"03_theory/{path.stem}")
        blocks = re.findall(r"\$\$(.+?)\$\$", text, re.S)
        assert sum(r"\tag" in block for block in blocks) == text.count(r"\tag{")
        assert [b for b in blocks if r"\tag" in b and r"\\" in b] == []
