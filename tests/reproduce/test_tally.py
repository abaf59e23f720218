"""What became of a run, counted and told."""

import json

from impsamp.reproduce.tally import STATES, Job, Outcome, Report, summary

KEPT = {"a": "computed", "b": "kept from committed records, because 'b' cannot be had"}


def outcome(name, state, **more):
    return Outcome(
        Job("experiment", {"id": name, "notebook": "n", "outputs": []}, {}), state, **more
    )


def report():
    "One experiment in part, one kept as a whole, one failure, one that never began."
    return Report(
        "paper",
        [
            outcome("x", "partly", seconds=2.6, settings=KEPT, files=["data/records/x.csv"]),
            outcome("y", "kept", settings={"all": "kept from committed records, because no"}),
            outcome("z", "failed", seconds=61, why="z.ipynb failed: ValueError: no\n  the copy"),
            outcome("w", "not started"),
        ],
    )


def test_both_are_counted():
    assert (report().computed, report().kept) == (1, 2)
    assert report().files == ["data/records/x.csv"]
    assert [o.job.name for o in report().of("failed")] == ["z"]


def test_the_table_says_what_became_of_each():
    lines = str(report()).splitlines()
    assert lines == [
        "partly       x                           3 s",
        "             b: kept from committed records, because 'b' cannot be had",
        "kept         y                           0 s",
        "             all: kept from committed records, because no",
        "failed       z                          61 s",
        "             z.ipynb failed: ValueError: no",
        "not started  w                           0 s",
        "== 0 computed, 0 finished, 1 partly, 1 kept, 1 failed, 1 not started; "
        "settings of experiments: 1 computed, 2 kept from committed records",
    ]


def test_a_whole_run_keeps_nothing():
    whole = Report("paper", [outcome("x", "computed", settings={"all": "computed"})])
    assert str(whole).endswith("settings of experiments: 1 computed")


def test_the_summary_holds_the_same():
    read = json.loads(summary(report()))
    assert read["profile"] == "paper"
    assert [became["state"] for became in read["became"]] == [
        "partly",
        "kept",
        "failed",
        "not started",
    ]
    assert read["became"][0]["settings"] == KEPT
    assert {became["state"] for became in read["became"]} <= set(STATES)
