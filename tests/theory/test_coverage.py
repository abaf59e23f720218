"""The page on every item of both papers: each place, name, file and claim that it names exists."""

import csv
import importlib
import json
import tomllib
from pathlib import Path

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
    assert not row["where"] or place_exists(row["where"])
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
