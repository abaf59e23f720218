"""From records to a table of verdicts: stories with a known end, corrections, bad input."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from impsamp.errors import InvalidArgument, RecordError, UnknownName
from impsamp.reproduce.claims import judge, judge_statistics
from impsamp.reproduce.statistics import runs_needed, sign_flip_test
from impsamp.reproduce.verdicts import run_statistics, time_statistics
from tests.reproduce.made_records import ARMS, FAST, claim, curves, timings

GN_U = ("sgd/gn", "sgd/u")
HALF_U = ("sgd/half", "sgd/u")


def with_early_losses_of_adaptive_methods_times(factor, records):
    "RMSProp and Adam are `factor` times as high in the first sixth."
    early = records.optimizer.isin(["rmsprop", "adam"]) & (records.step <= 50)
    records.loc[early, "train_loss"] *= factor
    return records


def test_the_papers_story_would_be_reproduced(lahire):
    levels = ARMS | {
        "sgd/gn": 0.7,
        "sgd/half": 0.85,
        "momentum/gn": 0.7,
        "momentum/half": 0.85,
        "rmsprop/u": 1.5,
        "rmsprop/gn": 1.6,
        "adam/u": 1.5,
        "adam/gn": 1.5,
    }
    records = with_early_losses_of_adaptive_methods_times(0.2, curves(levels))
    table = judge(lahire, records, timings(scoring=1.2), **FAST)
    assert table.verdict.value_counts().to_dict() == {"reproduced": len(table)}
    own = table[table.id == "sgd-gn-u"].set_index("measure").loc["mean_log"]
    assert own.effect == pytest.approx(0.7, abs=0.02)
    assert own.low < own.effect < own.high
    assert own.chance == 1
    assert own.wins == 1


def test_the_opposite_story_is_contradicted(on_losses):
    levels = ARMS | {
        "sgd/gn": 1.4,
        "sgd/half": 1.2,
        "momentum/gn": 1.4,
        "momentum/half": 1.2,
        "rmsprop/gn": 0.5,
        "adam/gn": 0.5,
        "sgd/u": 1.1,
        "momentum/u": 1.1,
        "rmsprop/u": 1.0,
        "adam/u": 1.0,
    }
    records = with_early_losses_of_adaptive_methods_times(2, curves(levels))
    table = judge(on_losses, records, **FAST)
    assert table.verdict.value_counts().to_dict() == {"contradicted": len(table)}
    assert (table.chance < 0.01).all()


def test_holm_level_and_interval_level_match():
    claims = [claim(GN_U, id="a"), claim(HALF_U, id="b")]
    records = curves({"sgd/gn": 0.7, "sgd/half": 0.99, "sgd/u": 1.0}, noise=0.1)
    table = judge(claims, records, flips=9_999).set_index("id")
    assert table.level.to_dict() == {"a": 0.975, "b": 0.95}
    assert table.p_holm["a"] == pytest.approx(2 * table.p["a"])


def test_a_new_claim_does_not_move_the_numbers_of_another():
    records = curves({"sgd/gn": 0.9, "sgd/half": 0.95, "sgd/u": 1.0}, noise=0.1)
    one = claim(GN_U, id="a")
    two = claim(HALF_U, id="b")
    alone = judge([one], records, **FAST)
    both = judge([two, one], records, **FAST).set_index("id")
    assert both.p["a"] == alone.p[0]
    assert both.effect["a"] == alone.effect[0]


def test_settings_get_their_power_and_no_pvalue_and_are_not_counted():
    records = pd.concat(
        [
            curves({"sgd/gn": 0.8, "sgd/u": 1.0}),
            curves({"sgd/gn": 0.7, "sgd/u": 1.0}, setting="standard", seeds=8),
            curves({"sgd/gn": 1.1, "sgd/u": 1.0}, setting="raw", seeds=8, noise=0.5),
        ]
    )
    table = judge([claim(GN_U)], records, **FAST).set_index("setting")
    assert not [column for column in table if column.startswith("robust")]
    assert table.p.notna().sum() == 1
    assert table.agrees["anchor"]
    assert table.agrees["standard"]
    assert np.isnan(table.power["anchor"])
    assert table.power["standard"] > 0.99
    assert table.power["raw"] < 0.5
    assert table.runs_for_power["raw"] > 8


def censored_runs(budget=300.0):
    "Passes of two arms; in the setting `short` no run of either arm gets there."
    rows = []
    for setting, fast, slow in (("here", 5.0, 300.0), ("long", 50.0, 400.0), ("short", 1e9, 1e9)):
        for seed in range(12):
            for arm, passes in (("a", fast), ("b", slow)):
                at = min(passes, budget) * 1.01 ** (seed if passes < budget else 0)
                own = {"setting": setting, "arm": arm, "seed": seed, "evals_log": np.log(at)}
                rows.append({**own, "evals_log_censored": passes >= budget})
    return pd.DataFrame(rows)


def test_censored_cells_say_so_and_bounds_confirm():
    one = claim(("a", "b"), kind="same", region=[0.0, 0.1], measures=["evals_log"])
    table = judge_statistics([one], censored_runs(), anchor="here").set_index("setting")
    assert table.verdict["here"] == "reproduced"
    assert table.bound["here"] == "<="
    assert table.low["here"] == 0
    assert not table.agrees["long"]  # at most 1/6: it may be a tenth or not
    assert table.verdict["short"] == "censored"
    assert np.isnan(table.effect["short"])
    assert table.empty_pairs["short"] == 12


def test_a_censored_anchor_gets_no_pvalue_and_no_share_of_holm():
    runs = censored_runs()
    two = [
        claim(("a", "b"), id=name, kind="order", measures=[measure])
        for name, measure in (("short", "evals_log"), ("other", "other_log"))
    ]
    runs["other_log"] = runs.evals_log * 0 + np.where(runs.arm == "a", -0.2, 0.0)
    table = judge_statistics(two, runs, anchor="short").set_index(["id", "setting"])
    assert table.verdict["short", "short"] == "censored"
    assert np.isnan(table.p["short", "short"])
    assert table.verdict["other", "short"] == "reproduced"
    assert table.p_holm["other", "short"] == table.p["other", "short"]


def test_an_effect_that_is_the_floors_is_marked_and_gets_a_time():
    """Arm gn falls to 1e-12, u to 1e-5: below 1e-7 the floor makes the ratio.

    Both reach a tenth of log 2 on the way, gn in half of the steps."""
    records = curves({"sgd/gn": 1.0, "sgd/u": 1.0}, noise=0.01)
    rate = np.where(records.scheme == "gn", 0.12, 0.04)
    records["train_loss"] *= np.exp(-(rate - 0.01) * records.step)
    runs = run_statistics(records).merge(time_statistics(records))
    floors = {floor: run_statistics(records, floor=floor) for floor in (1e-6, 1e-7, 1e-8)}
    (row,) = judge_statistics([claim(GN_U)], runs, floors=floors, **FAST).itertuples()
    assert row.floor_moves
    assert row.floor_effects.count(" at ") == 3
    assert row.time_effect == pytest.approx(30 / 70, rel=0.1)  # recorded every ten steps
    assert row.time_low < row.time_effect < row.time_high
    shallow = curves({"sgd/gn": 0.8, "sgd/u": 1.0})
    runs = run_statistics(shallow)
    floors = {floor: run_statistics(shallow, floor=floor) for floor in (1e-6, 1e-8)}
    (row,) = judge_statistics([claim(GN_U)], runs, floors=floors, **FAST).itertuples()
    assert not row.floor_moves
    assert np.isnan(row.time_effect)


def test_failures_are_counted_and_the_survivors_shown():
    records = curves({"sgd/gn": 0.8, "sgd/u": 1.0}, seeds=20)
    records.loc[(records.scheme == "u") & (records.seed < 7), "train_loss"] = np.nan
    row = judge([claim(GN_U)], records, **FAST).iloc[0]
    assert (row.failed_first, row.failed_second) == (0, 7)
    assert row.mcnemar_p == pytest.approx(2 / 2**7)
    assert row.effect < 0.5
    assert row.effect_survivors == pytest.approx(0.8, abs=0.03)


def test_claims_without_arms_are_not_measured(lahire):
    table = judge(lahire, curves({"sgd/u": 1.0, "sgd/gn": 0.9}), **FAST)
    absent = table[table.id.isin(["adam-no-gain", "sgd-order"])]
    assert set(absent.verdict) == {"not measured"}


def test_two_seeds_give_no_verdict(on_losses):
    table = judge(on_losses, curves(ARMS, seeds=2), **FAST)
    assert set(table.verdict) == {"undecided"}


def test_short_runs_are_judged(lahire):
    records = curves(ARMS, seeds=3)
    table = judge(lahire, records[records.step <= 20], **FAST)
    assert table[table.id == "early-adaptive-sgd"].chance.isna().all()


def test_statistics_of_another_experiment_are_judged_by_the_same_rules():
    "Any column that is a logarithm will do; a ratio of 1/2 in every seed is a gain."
    rows = [
        {"setting": "here", "arm": arm, "seed": seed, "evals_log": np.log(level)}
        for arm, level in (("a", 0.5), ("b", 1.0))
        for seed in range(12)
    ]
    one = claim(("a", "b"), measures=["evals_log"])
    table = judge_statistics([one], pd.DataFrame(rows), anchor="here", predicted={"x": 0.4})
    (row,) = table.itertuples()
    assert row.verdict == "reproduced"
    assert row.effect == pytest.approx(0.5)
    assert (row.low, row.high) == pytest.approx((0.5, 0.5))
    assert row.p == 2 / 2**12
    assert row.predicted == 0.4


# --- bad input


def without_seeds(records):
    return records.drop(columns="seed")


def doubled(records):
    return pd.concat([records, records.head(1)])


def elsewhere(records):
    return records.assign(setting="other")


def unpaired(records):
    return records.assign(seed=records.seed + 100 * (records.scheme == "u"))


@pytest.mark.parametrize(
    "change, error, words",
    [
        (without_seeds, RecordError, "lack the column"),
        (doubled, RecordError, "twice"),
        (elsewhere, RecordError, "no setting 'anchor'"),
        (unpaired, RecordError, "no seed in common"),
    ],
)
def test_bad_records(change, error, words):
    records = change(curves({"sgd/gn": 0.9, "sgd/u": 1.0}))
    with pytest.raises(error, match=words):
        judge([claim(GN_U)], records, **FAST)


def test_bad_claims():
    records = curves({"sgd/gn": 0.9, "sgd/u": 1.0})
    with pytest.raises(UnknownName, match="measure"):
        judge([claim(GN_U, measures=["speed"])], records, **FAST)
    with pytest.raises(InvalidArgument, match="region"):
        judge([claim(GN_U, region=[2, 1])], records, **FAST)
    with pytest.raises(InvalidArgument, match="family"):
        judge([claim(GN_U, family="taste")], records, **FAST)
    runs = run_statistics(records)
    with pytest.raises(RecordError, match="two rows"):
        judge_statistics([claim(GN_U)], pd.concat([runs, runs]), **FAST)


# --- what the amendments of the protocol say


PROTOCOLS = {
    "protocol.md": "ff0ac54525e0a76b050cbbbe90807ed6f72b9bba3bbb97ebe7d0243bf83c21fd",
    "horvath_protocol.md": "df140b618b1f87381db41667fe07193962815c74abf6e3add0176997003f2d9d",
}
ROOT = Path(__file__).parents[3]
EXPERIMENTS = ROOT / "nbs" / "experiments"


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_keeps_the_text_that_the_runs_were_judged_by(name):
    "Amendments are added below it, and quote its hash."
    text = (EXPERIMENTS / name).read_text()
    first, amendments = text.split("\n## Amendments of 2026-11-26\n")
    assert hashlib.sha256(first.encode()).hexdigest() == PROTOCOLS[name]
    assert PROTOCOLS[name] in amendments


@pytest.mark.parametrize(
    "page, protocol",
    [
        ("claims.md", "protocol.md"),
        ("claims_time.md", "protocol.md"),
        ("horvath_claims.md", "horvath_protocol.md"),
        ("claims_segment.md", "segment_protocol.md"),
        ("claims_weights.md", "segment_protocol.md"),
    ],
)
def test_a_page_names_the_protocol_that_judged_it(page, protocol):
    digest = hashlib.sha256((EXPERIMENTS / protocol).read_bytes()).hexdigest()
    assert digest in (ROOT / "figures" / page).read_text()


@pytest.fixture(scope="module")
def mean_logs():
    "Mean log loss of the first 45 seeds of the anchor: seeds x arms."
    records = pd.read_csv(ROOT / "data" / "records" / "lahire_anchor.csv")
    return run_statistics(records).pivot(index="seed", columns="arm", values="mean_log")


@pytest.mark.parametrize(
    "optimizer, half, gn", [("sgd", 39, 34), ("momentum", 84, 87)], ids=["sgd", "momentum"]
)
def test_the_size_rule_asks_for_what_the_amendment_says(mean_logs, optimizer, half, gn):
    for scheme, want in (("half", half), ("gn", gn)):
        d = mean_logs[f"{optimizer}/{scheme}"] - mean_logs[f"{optimizer}/u"]
        assert runs_needed(d.to_numpy()) == want


@pytest.mark.parametrize("optimizer, share", [("sgd", 0.16), ("momentum", 0.05)])
def test_eight_seeds_seldom_find_the_anchors_effect(mean_logs, optimizer, share):
    d = (mean_logs[f"{optimizer}/gn"] - mean_logs[f"{optimizer}/u"]).to_numpy()
    g = np.random.default_rng(0)
    picks = [g.choice(d, 8, replace=False) for _ in range(600)]
    found = np.mean([sign_flip_test(pick) <= 0.05 for pick in picks])
    assert abs(found - share) < 4 * np.sqrt(share / 600)
