"""The page of verdicts: complete, and the same bytes from the same table."""

import re
from pathlib import Path

import pandas as pd
import pytest

from impsamp.reproduce.claims import claims_page, judge
from tests.reproduce.made_records import ARMS, FAST, claim, curves

GN_U = ("sgd/gn", "sgd/u")
MARK = '<a id="claim-x"></a>'
FIGURES = Path(__file__).parents[3] / "figures"
JUDGED = ["claims", "claims_time", "claims_segment", "claims_weights", "horvath_claims"]


def marks(page):
    "The claims whose rows, or sentences of what is not judged, can be linked to."
    return re.findall(r'<a id="claim-([\w-]+)">', page)


def test_each_sentence_leads_to_the_first_row_of_its_claim(lahire):
    table = judge(lahire, curves(ARMS), **FAST)
    page = claims_page(table, claims=lahire)
    assert len(marks(page)) == len(set(marks(page)))
    assert set(re.findall(r"\(#claim-([\w-]+)\)", page)) == set(table.id)
    statements = {one["id"] for one in lahire if one["kind"] == "statement"}
    assert set(marks(page)) == set(table.id) | statements


@pytest.mark.parametrize("name", JUDGED)
def test_the_committed_pages_links_to_claims_hold(name):
    page = (FIGURES / f"{name}.md").read_text()
    sentences = re.findall(r"^- (?:<a[^>]*></a>)?\*\*[A-Z]", page, re.M)
    assert len(set(marks(page))) == len(marks(page)) == len(sentences) > 0
    assert set(re.findall(r"\(#claim-([\w-]+)\)", page)) <= set(marks(page))


def test_the_page_of_all_items_leads_to_the_claims_rows():
    links = re.findall(
        r"\]\((\w+\.md)#claim-([\w-]+)\)", (FIGURES / "table_coverage.md").read_text()
    )
    assert len(links) > 40
    assert [(file, name) for file, name in links if name not in marks(read(file))] == []


def read(file):
    return (FIGURES / file).read_text()


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
    numbers = claims_page(table).split("## Numbers")[1]
    assert numbers.count("| undecided |") == len(table)


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
    (verdict,) = (line for line in lines if line.startswith(f"| {MARK}x | mean log | rep"))
    cells = [cell.strip() for cell in verdict.strip("|").split("|")]
    assert cells[3:6] == ["0.8 [0.8, 0.8]", "12", "0.00049"]
    assert cells[9] == "1"
    sentence = "Mean log: reproduced, ratio 0.8 [0.8, 0.8], 12 pairs. [`x`](#claim-x)."
    assert f"- **Reproduced**: t (s) {sentence}" in lines
    assert '- <a id="claim-s"></a>**Not judged**: t (s) No run could. `s`.' in lines
    assert "| x | mean log | 0 and 0 of 12 | 1 | 1 | 0.8 |" in lines
    (cell,) = (
        line for line in lines if line.startswith("| x | mean log | 0.8 [0.8, 0.8] *agrees*")
    )
    assert "2 [2, 2] (12 seeds; power 1.00, 2 seeds for 0.8)" in cell


def test_every_column_is_defined_above_its_table():
    records = pd.concat([curves(ARMS), curves(ARMS, setting="raw", seed=3)])
    lines = claims_page(judge([claim(GN_U)], records, **FAST)).splitlines()
    for k, line in enumerate(lines):
        if line.startswith("|") and not lines[k - 1].startswith("|") and "anchor" not in line:
            for column in line.strip("|").split("|"):
                assert any(text.startswith(f"- *{column.strip()}*: ") for text in lines[:k])


def test_a_page_leads_with_sentences_links_its_pictures_and_says_what_failed():
    one = claim(GN_U, text="gn is lower.", figure="fig2.png", measures=["mean_log", "log_area"])
    records = curves({"sgd/gn": 0.8, "sgd/u": 1.0}, seeds=20)
    records.loc[(records.scheme == "u") & (records.seed < 7), "train_loss"] = float("nan")
    page = claims_page(judge([one], records, **FAST), preface="See [p](p.md).")
    lines = page.splitlines()
    assert lines[2] == "See [p](p.md)."
    assert lines[4].startswith("- **Reproduced**: gn is lower. (s) Mean log: reproduced, ratio")
    assert lines[4].endswith("[`x`](#claim-x). [Figure](fig2.png).")
    assert lines[4].count("0 and 7 runs failed") == 2


def test_bounds_censored_cells_and_floors_have_words():
    base = {
        "id": "a",
        "text": "t.",
        "source": "s",
        "measure": "evals_log",
        "setting": "anchor",
        "paper": None,
        "p": 0.01,
        "p_holm": 0.01,
        "predicted": float("nan"),
        "detectable": float("nan"),
        "failed_first": float("nan"),
        "n": 12.0,
        "effect": 0.05,
        "low": 0.0,
        "high": 0.06,
        "wins": 1.0,
    }
    bound = {**base, "verdict": "reproduced", "bound": "<="}
    lost = {**base, "id": "b", "verdict": "censored", "empty_pairs": 12.0, "effect": float("nan")}
    times = {"time_effect": 0.5, "time_low": 0.4, "time_high": 0.6}
    floor = {"floor_moves": True, "floor_effects": "0.1 at 1e-06, 0.01 at 1e-08", **times}
    deep = {**base, "id": "c", "verdict": "reproduced", **floor}
    page = claims_page(pd.DataFrame([bound, lost, deep]))
    assert "ratio at most 0.05 [0, 0.06]" in page
    assert "censored (12 pairs empty)" in page
    assert (
        "the first is lower; the floor makes the size (0.1 at 1e-06, 0.01 at 1e-08); "
        "steps to a tenth of log 2: ratio 0.5 [0.4, 0.6]; pairs won 1"
    ) in page
