"""The errata table: every row names a cell that asserts, and the table is the notebook's."""

import ast
import csv
import json
import os
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]


HEADER = ("paper", "place", "kind", "printed", "right", "notebook", "evidence")


class Row(NamedTuple):
    "A row of the table; `evidence` is the label of a cell of `notebook`."

    paper: str
    place: str
    kind: str
    printed: str
    right: str
    notebook: str
    evidence: str


def code(notebook):
    "Sources of the code cells."
    cells = json.loads((ROOT / "nbs" / f"{notebook}.ipynb").read_text())["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def rows():
    (source,) = [s for s in code("results/errata") if s.startswith("ROWS = ")]
    written = ast.literal_eval(ast.parse(source).body[0].value)
    return [Row(*row) for row in written]


def test_the_columns_are_those_of_a_row():
    assert Row._fields == HEADER


@pytest.mark.parametrize("row", rows(), ids=lambda r: r.evidence)
def test_every_row_names_a_cell_that_asserts(row):
    assert row.paper in {"first", "second", "reconstruction"}
    assert row.kind in {"error", "gap", "wording", "limit"}
    assert all(map(str.strip, row))
    if row.notebook == "reading":  # rests on the printed text: nothing to compute
        return
    label = f"# evidence: {row.evidence}\n"
    (cell,) = [s for s in code(row.notebook) if s.startswith(label)]
    assert any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(cell)))


def test_committed_table_is_what_the_notebook_writes():
    with open(ROOT / "figures" / "table_errata.csv", newline="") as f:
        header, *committed = [tuple(r) for r in csv.reader(f)]
    assert header == HEADER
    assert committed == rows()
    text = (ROOT / "figures" / "table_errata.md").read_text()
    assert all(row.evidence in text for row in rows())


def test_at_least_the_slips_that_were_asked_for():
    asked_for = {
        "between-proof-step",
        "missing-N2",
        "adam-cross-term",
        "necessary-means-sufficient",
        "closer-is-not-faster",
        "v-t-not-constant",
        "scalar-against-elementwise",
        "equally-constituted",
        "cross-reference",
    }
    assert asked_for <= {row.evidence for row in rows()}


def test_mnist_holds_980_zeros_and_1135_ones():
    if not os.environ.get("IMPSAMP_DATA"):
        pytest.skip("IMPSAMP_DATA is not set: the full MNIST labels are not here")
    from impsamp.data import load_mnist

    labels = load_mnist().y_test
    assert (labels == 0).sum() == 980
    assert (labels == 1).sum() == 1135
