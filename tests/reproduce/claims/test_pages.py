"""The page of verdicts: complete, and the same bytes from the same table."""

import pandas as pd

from impsamp.reproduce.claims import claims_page, judge
from tests.reproduce.made_records import ARMS, FAST, claim, curves

GN_U = ("sgd/gn", "sgd/u")


def test_row_order_of_records_does_not_matter():
    records = curves({"sgd/gn": 0.9, "sgd/u": 1.0}, noise=0.1)
    shuffled = records.sample(frac=1, random_state=1)
    page, again = (claims_page(judge([claim(GN_U)], r, **FAST)) for r in (records, shuffled))
    assert page == again


def test_page_names_everything_and_is_stable(lahire):
    records = pd.concat([curves(ARMS), curves(ARMS, setting="raw", seed=3)])
    predicted = {"sgd-gn-u": 0.987}
    page, again = (
        claims_page(judge(lahire, records, predicted=predicted, **FAST), claims=lahire)
        for _ in range(2)
    )
    assert page == again
    assert "0.987" in page
    assert "## Settings" in page
    assert "## Failures" in page
    for one in lahire:
        if one.get("family") != "time":
            assert f"`{one['id']}`" in page


def test_claims_without_arms_are_said_to_be_not_measured(lahire):
    table = judge(lahire, curves({"sgd/u": 1.0, "sgd/gn": 0.9}), **FAST)
    assert "not measured" in claims_page(table, claims=lahire)


def test_two_seeds_give_a_page_without_a_verdict(on_losses):
    table = judge(on_losses, curves(ARMS, seeds=2), **FAST)
    assert claims_page(table).count("undecided") == len(table)


def test_nothing_measured_still_gives_a_page():
    table = judge([claim(("a/b", "c/d"))], curves({"sgd/u": 1.0}), **FAST)
    assert table.verdict.tolist() == ["not measured"]
    assert "not measured" in claims_page(table)


def test_short_runs_are_on_the_page(lahire):
    records = curves(ARMS, seeds=3)
    table = judge(lahire, records[records.step <= 20], **FAST)
    assert "early-adaptive-sgd" in claims_page(table)


def test_cells_by_hand():
    "A gain of exactly a fifth in twelve seeds, and a second setting that disagrees."
    records = pd.concat(
        [
            curves({"sgd/gn": 0.8, "sgd/u": 1.0}, noise=0),
            curves({"sgd/gn": 2.0, "sgd/u": 1.0}, noise=0, setting="raw"),
        ]
    )
    statement = {**claim(id="s"), "kind": "statement", "reason": "no run could"}
    table = judge([claim(GN_U)], records)
    lines = claims_page(table, title="Try", claims=[statement]).splitlines()
    assert lines[0] == "# Try"
    (verdict,) = (line for line in lines if line.startswith("| x | mean log | reproduced"))
    cells = [cell.strip() for cell in verdict.strip("|").split("|")]
    assert cells[3:5] == ["0.8 [0.8, 0.8]", "0.00049"]
    assert cells[8:10] == ["1", "0 of 1"]
    assert "- `s`: t (s). Not judged: no run could" in lines
    assert "| x | mean log | 0 and 0 of 12 | 1 | 1 | 0.8 |" in lines
    assert "| x | mean log | 0.8 [0.8, 0.8] yes | 2 [2, 2] no |" in lines
