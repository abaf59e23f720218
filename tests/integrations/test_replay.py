"""The tutorial on prioritised replay in its short run: its cells need gymnasium."""

import json
import os

import pytest

from tests.house.repository import ROOT

pytest.importorskip("gymnasium", reason="gymnasium is missing: nbs/tutorials/05_replay.ipynb")

NOTEBOOK = ROOT / "nbs" / "tutorials" / "05_replay.ipynb"


def namespace_after(heading):
    "What the cells before the heading define."
    found = {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and f"## {heading}" in text:
            return found
        if cell["cell_type"] == "code":
            exec(text, found)
    raise AssertionError(f"no heading {heading!r}")


@pytest.fixture(scope="module")
def agent():
    os.environ.pop("IMPSAMP_TUTORIAL", None)
    return namespace_after("Ten lives of each")


def test_lives_of_a_seed_are_the_same_twice_and_differ_between_arms(agent):
    seen = {}
    for arm in agent["ARMS"]:
        seen[arm] = [agent["play"](arm, 0, steps=620, every=310) for _ in range(2)]
        assert seen[arm][0] == seen[arm][1]
    assert all(0 < points <= 500 for curves in seen.values() for points in curves[0])


def test_weights_make_the_mean_over_a_memory_that_fills(agent):
    "One draw of each of three slots in ten, by its chance: the coefficients are a third each."
    memory = agent["Memory"](by_error=True, size=10)
    for _ in range(3):
        memory.add(4 * [0.0], 0, 1.0, 4 * [0.0], False)
    memory.tree.update([0, 1, 2], [1.0, 2.0, 5.0])
    draw, rows = memory.draw(4000, 0)
    assert rows.shape == (4000, 11)
    assert set(draw.idx.tolist()) == {0, 1, 2}
    assert abs(float(draw.weight.sum()) - 1) < 0.1
    assert ((draw.weight * draw.prob * 3 * 4000 - 1).abs() < 1e-12).all()
