"""The errata table: every row names a cell that exists and asserts something, and the committed table is the one the notebook writes."""

import ast
import csv
import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def code(notebook):
    cells = json.loads((ROOT / "nbs" / f"{notebook}.ipynb").read_text())["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def rows():
    (source,) = [s for s in code("results/errata") if s.startswith("ROWS = ")]
    return ast.literal_eval(ast.parse(source).body[0].value)


@pytest.mark.parametrize("row", rows(), ids=lambda r: r[6])
def test_every_row_names_a_cell_that_asserts(row):
    paper, place, kind, printed, right, notebook, label = row
    assert (
        paper in {"first", "second", "reconstruction"}
        and kind in {"error", "gap", "wording", "limit"}
        and all(map(str.strip, row))
    )
    (cell,) = [s for s in code(notebook) if s.startswith(f"# evidence: {label}\n")]
    assert any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(cell)))


def test_committed_table_is_what_the_notebook_writes():
    with open(ROOT / "figures" / "table_errata.csv", newline="") as f:
        committed = [tuple(r) for r in csv.reader(f)]
    assert (
        committed[0] == ("paper", "place", "kind", "printed", "right", "notebook", "evidence")
        and committed[1:] == rows()
    )
    text = (ROOT / "figures" / "table_errata.md").read_text()
    assert all(label in text for *_, label in rows())


def test_at_least_the_slips_that_were_asked_for():
    assert {
        "between-proof-step",
        "missing-N2",
        "adam-cross-term",
        "necessary-means-sufficient",
        "closer-is-not-faster",
        "v-t-not-constant",
        "scalar-against-elementwise",
        "equally-constituted",
        "cross-reference",
    } <= {r[6] for r in rows()}


def test_mnist_holds_980_zeros_and_1135_ones():
    if not os.environ.get("IMPSAMP_DATA"):
        pytest.skip("IMPSAMP_DATA is not set: the full MNIST labels are not here")
    from impsamp.data import load_mnist

    labels = load_mnist().y_test
    assert (int((labels == 0).sum()), int((labels == 1).sum())) == (980, 1135)
