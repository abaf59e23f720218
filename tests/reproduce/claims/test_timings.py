"""Seconds: ratios of clocks, and curves stretched by hand."""

import math

import numpy as np
import pytest

from impsamp.errors import RecordError
from impsamp.reproduce.claims import (
    PHASES,
    claims_page,
    judge,
    time_matched,
    timing_statistics,
    timing_table,
)
from tests.reproduce.made_records import ARMS, FAST, curves, timings


def test_ratios_of_time(lahire):
    names = ("time-gn-twice-u", "time-half-gn", "time-optimizer-u")
    claims = [claim for claim in lahire if claim["id"] in names]
    records = curves(ARMS, seeds=3)
    slow = judge(claims, records, timings(scoring=1.51), **FAST).set_index(["id", "measure"])
    assert slow.effect["time-gn-twice-u", "log_total"] == pytest.approx(2, abs=0.03)
    assert slow.verdict["time-gn-twice-u", "log_total"] == "reproduced"
    assert slow.verdict["time-half-gn", "log_total"] == "reproduced"
    quick = judge(claims, records, timings(scoring=0.1), **FAST).set_index(["id", "measure"])
    assert quick.verdict["time-gn-twice-u", "log_total"] == "contradicted"


def test_the_page_on_time_counts_no_failures_of_clocks(lahire):
    table = judge(lahire, curves(ARMS, seeds=12), timings(scoring=1.2), **FAST)
    table = table[table.family == "time"]
    own = table.set_index("id")
    assert own.failed_first[["time-gn-twice-u", "time-half-gn"]].isna().all()
    assert (own.failed_first["time-axis-sgd"] == 0).all()
    assert own.effect_survivors.notna().all()
    assert "time-axis-sgd" in claims_page(table)


def test_stretched_curves_by_hand():
    records = curves({"sgd/gn": 1.0, "sgd/u": 1.0}, seeds=2, noise=0)
    seconds = timings(11, scoring=1.01)
    matched = time_matched(records, seconds).set_index(["arm", "seed", "step"]).train_loss
    arms = seconds.optimizer + "/" + seconds.scheme
    cost = (seconds.total - seconds.evaluation).groupby(arms).median()
    ratio = cost["sgd/gn"] / cost["sgd/u"]
    for step in (0, 50, 300):
        want = math.exp(-step / ratio / 100)
        assert matched["sgd/gn@time", 0, step] == pytest.approx(want, rel=1e-9)
    assert matched["sgd/u@time", 0, 300] == pytest.approx(math.exp(-3))


def test_arms_without_timings_are_left_out():
    seconds = timings(2)
    matched = time_matched(curves({"sgd/gn": 1.0, "sgd/shuffle": 1.0}, seeds=1), seconds)
    assert set(matched.arm) == {"sgd/gn@time"}
    nothing = time_matched(curves({"sgd/shuffle": 1.0}, seeds=1), seconds)
    assert list(nothing.columns) == ["setting", "arm", "seed", "step", "train_loss"]
    assert nothing.empty


def test_timing_table_adds_up():
    table = timing_table(timings())
    means = table.xs("mean", axis=1, level=1)
    assert np.allclose(means[list(PHASES[:-1])].sum(axis=1), table["total", "mean"])


def test_training_is_the_total_without_evaluation():
    row = timing_statistics(timings(1).assign(total=3.0, evaluation=1.0)).iloc[0]
    assert row.log_total == pytest.approx(math.log(3))
    assert row.log_training == pytest.approx(math.log(2))


@pytest.mark.parametrize("spoil", [{"total": np.nan}, {"total": 0.1}])
def test_bad_timings(spoil):
    with pytest.raises(RecordError, match="evaluation"):
        timing_statistics(timings().assign(**spoil))
