"""A claim by one measure in one setting: the pair that is reported, failures, regions."""

import numpy as np
import pandas as pd
import pytest

from impsamp.errors import InvalidArgument, RecordError, UnknownName
from impsamp.reproduce.claims.cases import Rules, find_cases
from impsamp.reproduce.statistics import detection_power, runs_for_effect
from tests.reproduce.made_records import claim

ARMS = {"a": 0.5, "b": 0.8, "c": 1.0}


def table(levels=ARMS, seeds=4, **columns):
    "One row per arm and seed with mean_log = log level + seed / 100."
    rows = [
        {"setting": "anchor", "arm": arm, "seed": seed, "mean_log": np.log(level) + seed / 100}
        for arm, level in levels.items()
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows).assign(**columns)


def case(one, stats, settings=("anchor",), rules=None):
    (found,) = find_cases([one], stats, settings, rules or Rules())
    return found


@pytest.mark.parametrize(
    "kind, limiting, effect",
    [("order", ("b", "c"), 0.8), ("no_gain", ("a", "c"), 0.5), ("same", ("a", "c"), 0.5)],
)
def test_the_pair_least_in_the_claims_favour_is_reported(kind, limiting, effect):
    found = case(claim(("a", "c"), ("b", "c"), kind=kind), table())
    assert found.limiting.comparison.pair == limiting
    row = found.row(0.95)
    assert row["effect"] == pytest.approx(effect)
    assert row["effects"] == "a / c: 0.5; b / c: 0.8"
    assert row["n"] == 4


def test_seeds_are_matched_not_rows():
    "Both arms without seeds in common order: the differences are those of equal seeds."
    stats = table()
    shuffled = stats.sample(frac=1, random_state=0)
    found = case(claim(("a", "c")), shuffled)
    np.testing.assert_allclose(found.comparisons[0].d, np.log(0.5))


def test_failures_by_hand():
    "Of four seeds the first arm fails in one, the second in two others; one pair is left."
    stats = table({"a": 0.5, "c": 1.0})
    stats["outcome"] = ["ok", "stuck", "ok", "ok", "ok", "ok", "stuck", "diverged"]
    row = case(claim(("a", "c")), stats).row(0.95)
    assert (row["failed_first"], row["failed_second"]) == (1, 2)
    assert row["wins"] == 3 / 4
    assert row["mcnemar_p"] == 1.0
    assert row["effect_survivors"] == pytest.approx(0.5)


def censored(**arms):
    "The table of a and c over ten seeds; which seeds of an arm were censored."
    stats = table({"a": 0.5, "c": 1.0}, seeds=10)
    late = [seed in arms.get(arm, ()) for arm, seed in zip(stats.arm, stats.seed)]
    return stats.assign(mean_log_censored=late)


def test_a_pair_with_one_censored_run_is_a_bound_and_with_two_empty():
    found = case(claim(("a", "c")), censored(a=[0, 1], c=[1, 2, 3]))
    row = found.row(0.95)
    assert (row["n"], row["empty_pairs"]) == (9, 1)
    assert (row["bound"], row["censored_first"], row["censored_second"]) == ("?", 1, 2)
    assert not found.agrees(0.95)
    row = case(claim(("a", "c")), censored(c=range(10))).row(0.95)
    assert (row["bound"], row["n"], row["empty_pairs"]) == ("<=", 10, 0)
    assert (row["low"], row["high"]) == pytest.approx((0, 0.5))
    assert row["effects"] == "a / c: <=0.5"


@pytest.mark.parametrize("both, is_censored", [(2, False), (3, True), (10, True)])
def test_more_than_a_fifth_of_empty_pairs_is_no_case(both, is_censored):
    found = case(claim(("a", "c")), censored(a=range(both), c=range(both)))
    assert found.censored == is_censored
    row = found.row(0.95)
    assert ("effect" in row) != is_censored
    assert row["empty_pairs"] == both
    assert (found.power({("a", "c"): 0.1}) == {}) == is_censored


def test_what_is_censored_must_be_said_of_every_run():
    stats = censored(c=[1]).astype({"mean_log_censored": object})
    stats.loc[0, "mean_log_censored"] = None
    with pytest.raises(RecordError, match="True or False"):
        case(claim(("a", "c")), stats)


def test_power_is_that_of_the_own_spread_and_number():
    g = np.random.default_rng(0)
    stats = table({"a": 0.5, "c": 1.0}, seeds=8)
    stats["mean_log"] += g.normal(0, 0.1, 16)
    found = case(claim(("a", "c")), stats)
    d = found.comparisons[0].d
    said = found.power({("a", "c"): -0.05})
    assert said["power"] == pytest.approx(detection_power(d, 0.05))
    assert said["runs_for_power"] == runs_for_effect(d, 0.05)
    assert found.power({("x", "y"): -0.05}) == {}


def test_a_clock_has_no_failures():
    row = case(claim(("a", "c")), table()).row(0.95)
    assert "failed_first" not in row
    assert row["effect_survivors"] == pytest.approx(0.5)


def test_a_claim_may_bring_its_own_region_or_margin():
    own = case(claim(("a", "c"), region=[0.25, 2]), table()).comparisons[0].region
    assert own == pytest.approx((np.log(0.25), np.log(2)))
    wide = case(claim(("a", "c"), margin=0.1), table()).comparisons[0].region
    assert wide == pytest.approx((-np.log(1.1), np.log(1.1)))
    usual = case(claim(("a", "c")), table()).comparisons[0].region
    assert usual == pytest.approx((-np.log(1.05), np.log(1.05)))


def test_cases_are_claims_by_measures_by_settings_and_missing_arms_are_left_out():
    stats = pd.concat([table(), table({"a": 1.0}, setting="raw")]).assign(other=0.0)
    one = claim(("a", "c"), id="one", measures=["mean_log", "other"])
    two = claim(("a", "nobody"), id="two")
    found = find_cases([one, two], stats, ["anchor", "raw"], Rules())
    assert [(c.claim["id"], c.measure, c.setting) for c in found] == [
        ("one", "mean_log", "anchor"),
        ("one", "other", "anchor"),
    ]


@pytest.mark.parametrize(
    "one, change, error, words",
    [
        (claim(("a", "c"), measures=["speed"]), {}, UnknownName, "measure"),
        (claim(("a", "c"), region=[2, 1]), {}, InvalidArgument, "region"),
        (claim(("a", "c")), {"seed": 0}, RecordError, "two rows for one seed"),
        (claim(("a", "c")), {"seed": range(12)}, RecordError, "no seed in common"),
    ],
)
def test_what_is_refused(one, change, error, words):
    with pytest.raises(error, match=words):
        case(one, table().assign(**change))


def test_a_case_is_shown_in_one_line():
    found = case(claim(("a", "c"), ("b", "c")), table())
    assert repr(found) == "Case(x: a against c, b against c; mean_log, anchor)"
    assert "0.01" not in repr(found.pairs[0])
